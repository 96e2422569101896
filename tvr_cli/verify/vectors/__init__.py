"""The shipped vectors: parameters, inputs and scores of the authors' code for each trained method, and by hand for the
others. scripts/make_verify_vectors.py cuts the files from the golden files of the tests.

Beside the scores most have one step of training: the loss, and of each gradient the largest entry, the norm and the
first four. Not in them, and held by the test suite alone: the temporal transformers, TS2-Net's apart, the towers, and
the losses of GLCCL and X-CLIP, which need their temporal transformers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli.errors import DataError
from tvr_cli.files import parse_json
from tvr_cli.methods import base
from tvr_cli.methods.base import Method
from tvr_cli.types import Sizes, TextFeatures, VideoFeatures

FOLDER = Path(__file__).parent
REPOSITORY_OF = "tests/golden"  # where the whole files are, with losses and gradients


@dataclass(frozen=True)
class MaskedFeatures(VideoFeatures):
    """Clips whose real frames are no prefix (DMAE's last one always is). real: [V, F] bool."""

    real: Tensor | None = None

    def mask(self) -> Tensor:
        assert self.real is not None, "made so below"
        return self.real


@dataclass(frozen=True)
class Vector:
    """A method with given parameters, what it is given, and the scores [T, V] that others found.

    sigma: the noise of EagleNet and T-MASS, of a pair. noise: that of TS2-Net, of a clip. tolerance: of
    |found - expected| over max(1, |expected|). source, line: whose scores, and where they stand.
    """

    method: Method
    text: TextFeatures
    video: VideoFeatures
    expected: Tensor
    tolerance: float
    source: str
    line: str
    sigma: Tensor | None = None
    noise: Tensor | None = None
    training: Training | None = None


@dataclass(frozen=True)
class Recorded:
    """Draws that were recorded in a run of the authors' code: a name of the loss -> the tensor."""

    tensors: Mapping[str, Tensor]

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        return self.tensors[name].view(*shape)

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        return self.tensors[name].view(*shape)

    def keep(self, name: str, shape: Sequence[int], drop: float) -> Tensor:
        return self.tensors[name].view(*shape) != 0

    def permutation(self, name: str, n: int) -> Tensor:
        return self.tensors[name].view(n).long()


@dataclass(frozen=True)
class Training:
    """One step of training as others computed it.

    expected: the loss. gradients: by the name of a parameter, or of what the method is given (`text.pooled` …): [6],
    the largest entry, the norm and the first four. rows: how many of its first rows that is about, None of a scalar.
    tolerance: of an entry, as a share of the largest. line: where it stands.
    """

    method: Method
    text: TextFeatures
    video: VideoFeatures
    draws: Recorded
    expected: Tensor
    gradients: Mapping[str, Tensor]
    rows: Mapping[str, int | None]
    tolerance: float
    line: str


def of(name: str) -> Vector:
    """Return the vector of a shipped method. Raises DataError where none is shipped."""
    if name in BY_HAND:
        return _by_hand(name)
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise DataError(f"expected vectors of the method {name!r} at {str(path)!r}, found none; install tvr again")
    return _read(name, path)


def _read(name: str, path: Path) -> Vector:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        about: dict[str, Any] = parse_json((file.metadata() or {})["about"])
    method = _built(name, about, found)
    text, video = _given(found, "")
    line = f"{REPOSITORY_OF}/{about['case']}"
    said, training = about.get("loss"), None
    if said is not None:
        draws = Recorded(_under(found, "loss.draw."))
        training = Training(
            _built(name, said, found), *_given(found, "loss."), draws, found["loss.expected"],
            _under(found, "loss.grad."), said["rows"], said["gradient_tolerance"], f"{REPOSITORY_OF}/{said['case']}",
        )  # fmt: skip
    drawn = found.get("sigma"), found.get("noise")
    return Vector(method, text, video, found["expected"], about["tolerance"], about["source"], line, *drawn, training)


def _built(name: str, about: Mapping[str, Any], found: Mapping[str, Tensor]) -> Method:
    method = base.build(name, Sizes(**about["sizes"]), about["options"]).eval()
    method.load_state_dict(_under(found, "state."), strict=False)
    return method


def _given(found: Mapping[str, Tensor], prefix: str) -> tuple[TextFeatures, VideoFeatures]:
    """Return what a method is given, of the tensors whose names begin so."""
    pooled, real = found[f"{prefix}text.pooled"], found[f"{prefix}video.real"]
    importance = found.get(f"{prefix}text.importance")
    counted = (importance > 0).sum(1) if importance is not None else torch.ones(len(pooled), dtype=torch.long)
    words = found.get(f"{prefix}text.n_tokens", counted)
    text = TextFeatures(torch.arange(len(pooled)), pooled, found.get(f"{prefix}text.tokens"), words, importance)
    frames, times, key = found[f"{prefix}video.frames"], torch.zeros(real.shape), torch.arange(len(real))
    patches = found.get(f"{prefix}video.patches")
    return text, MaskedFeatures(key, frames, real.sum(1), times, patches=patches, real=real)


def _under(found: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in found.items() if name.startswith(prefix)}


# ------------------------------------------------------------------------------------------------------------- by hand

# Caption (1, 0) and (0, 1); clip 0 has the frames (2, 0) and (0, 1), clip 1 the frame (3, 4) and an empty slot.
_TEXT = [[1.0, 0.0], [0.0, 1.0]]
_FRAMES = [[[2.0, 0.0], [0.0, 1.0]], [[3.0, 4.0], [0.0, 0.0]]]
_HALF = math.sqrt(0.5)
# Query-scoring at temperature 0.1: frame weights 1 / (1 + e^-10) and the rest; the cosine of (w, 1 - w) with (1, 0).
_NEAR = 1 / (1 + math.exp(-10.0))
_SCORED = _NEAR / math.hypot(_NEAR, 1 - _NEAR)
# name -> options, scores, and the equation that gives them.
BY_HAND: dict[str, tuple[dict[str, Any], list[list[float]], str]] = {
    "mean": (
        {},
        [[_HALF, 0.6], [_HALF, 0.8]],
        "CLIP4Clip, arXiv 2104.08860, section 3.3: unit frames (1, 0), (0, 1) average to (1, 1) / 2; (3, 4) is 5 long",
    ),
    "text_guided": (
        {"temperature": 0.1, "normalize": True},
        [[_SCORED, 0.6], [_SCORED, 0.8]],
        "CLIP-Hitchhiker, arXiv 2205.08508, query-scoring: softmax of (1, 0) / 0.1, mean of unit frames by it, cosine",
    ),
    "one_vector": (
        {},
        [[1.0, 0.6], [0.0, 0.8]],
        "VideoPrism, arXiv 2402.13217, zero-shot retrieval: the cosines of (2, 0) and (3, 4)",
    ),
}


def _by_hand(name: str) -> Vector:
    options, scores, equation = BY_HAND[name]
    text = TextFeatures(torch.arange(2), torch.tensor(_TEXT), None, torch.ones(2, dtype=torch.long))
    frames, pooled = torch.tensor(_FRAMES), torch.tensor([[2.0, 0.0], [3.0, 4.0]])
    video = VideoFeatures(torch.arange(2), frames, torch.tensor([2, 1]), torch.zeros(2, 2), pooled=pooled)
    method = base.build(name, Sizes(dim=2, frames=2, words=1), options).eval()
    return Vector(method, text, video, torch.tensor(scores), 1e-6, "by hand", equation)
