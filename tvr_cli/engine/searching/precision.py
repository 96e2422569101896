"""Whether an index may keep a method's tensors in half precision: measured on sentences, before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tvr_cli.methods.base import Method
from tvr_cli.stores.index.writer import DoesNotFit, halved, kept_as
from tvr_cli.stores.index.writer import IndexBlock as Block
from tvr_cli.types import Encoding

BEST = 10
CLOSE = 1e-4  # scores that are nearer to each other may change places
HALF_FROM = 1_000  # clips: below, half the bytes save nothing that counts, and scores stay exact


@dataclass(frozen=True)
class Precision:
    """How tensors of float32 are kept, and why. same: sentences, out of `sentences`, with the same ten best files.

    of: what the sentences are. clips: those that were scored in both precisions. largest_error: of a score, None where
    nothing was measured.
    """

    stored: str
    reason: str
    sentences: int = 0
    of: str = "none"
    clips: int = 0
    same: int = 0
    largest_error: float | None = None


def full(reason: str) -> Precision:
    """Return that tensors are kept as the method made them, where nothing could be measured."""
    return Precision("float32", reason)


@torch.no_grad()
def measure(method: Method, texts: Encoding, of: str, sample: Block) -> Precision:
    """Score sentences against a sample of the clips in both precisions and compare the ten best files of each.

    Half precision is taken when all are the same but for files whose scores lie closer than `CLOSE` to the tenth.
    texts, sample: encodings, on the method's device. of: what the sentences are, for people.
    """
    try:
        half = halved(sample.encoding, kept_as(sample, "float16"))
    except DoesNotFit as e:
        return full(str(e))
    files = _numbers([clip.file_id for clip in sample.clips])
    exact, near = (_by_file(method.score(texts, video).cpu(), files) for video in (sample.encoding, half))
    error = float((exact - near).abs().max()) if exact.numel() else 0.0
    same = sum(same_best(a, b) for a, b in zip(exact, near, strict=True))
    stored = "float16" if same == len(exact) else "float32"
    reason = f"the ten best files of {same} of {len(exact)} sentences are those of full precision"
    return Precision(stored, reason, len(exact), of, len(sample.clips), same, error)


def same_best(exact: Tensor, near: Tensor) -> bool:
    """Whether the ten best of two lists of scores [files] are the same, except among scores closer than `CLOSE`."""
    k = min(BEST, len(exact))
    best = exact.topk(k)
    moved = set(best.indices.tolist()) ^ set(near.topk(k).indices.tolist())
    return all(abs(float(exact[file] - best.values[-1])) < CLOSE for file in moved)


def _numbers(names: Sequence[str]) -> Tensor:
    known: dict[str, int] = {}
    return torch.tensor([known.setdefault(name, len(known)) for name in names], dtype=torch.int64)


def _by_file(scores: Tensor, files: Tensor) -> Tensor:
    """[T, V] scores of clips to [T, files]: that of the best clip of each file."""
    best = torch.full((len(scores), int(files.max()) + 1), -torch.inf, dtype=scores.dtype)
    return best.scatter_reduce(1, files.expand(len(scores), -1), scores, "amax")
