"""The shipped vectors: parameters, inputs and scores of the authors' code for each trained method, and by hand for the
others. scripts/make_verify_vectors.py cuts the files from the golden files of the tests.

Not in them, and held by the test suite alone: losses, gradients, the temporal transformers, the towers.
"""

from __future__ import annotations

import math
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

    sigma: the noise of EagleNet and T-MASS. tolerance: of |found - expected| over max(1, |expected|). source, line:
    whose scores, and where they stand.
    """

    method: Method
    text: TextFeatures
    video: VideoFeatures
    expected: Tensor
    tolerance: float
    source: str
    line: str
    sigma: Tensor | None = None


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
    method = base.build(name, Sizes(**about["sizes"]), about["options"]).eval()
    state = {key.removeprefix("state."): x for key, x in found.items() if key.startswith("state.")}
    method.load_state_dict(state, strict=False)
    captions, real = len(found["text.pooled"]), found["video.real"]
    importance = found.get("text.importance")
    counted = (importance > 0).sum(1) if importance is not None else torch.ones(captions, dtype=torch.long)
    text = TextFeatures(
        torch.arange(captions),
        found["text.pooled"],
        found.get("text.tokens"),
        found.get("text.n_tokens", counted),
        importance,
    )
    clips = MaskedFeatures(
        torch.arange(len(real)), found["video.frames"], real.sum(1), torch.zeros(real.shape), real=real
    )
    line = f"{REPOSITORY_OF}/{about['case']}"
    return Vector(method, text, clips, found["expected"], about["tolerance"], about["source"], line, found.get("sigma"))


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
