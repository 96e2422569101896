"""Score files: the matrix of any tool, read and checked. numpy only, no torch.

A score file is safetensors or npz with `scores` [T, V] (larger = more similar) and `video_of_caption` [T] (the column
of each caption's video). It may have `bank` [Q, V] (training captions against the same videos, for QB-Norm), `scale`
(what a cosine of one is in the scores) and, in an npz, `caption_ids` [T] and `video_ids` [V]; safetensors hold no text,
so their ids lie beside them in `FILE.ids.json`, as `--save-scores` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli import metrics
from tvr_cli.engine.evaluation import ground
from tvr_cli.engine.evaluation.evaluate_result import Corpus, Identity
from tvr_cli.errors import DataError, reason
from tvr_cli.files import read_json, sha256_file
from tvr_cli.metrics import Ints, Scores


@dataclass(frozen=True)
class Ids:
    """Names of rows and columns of a score matrix; corpus: the data set that gave them, None where the file did."""

    captions: tuple[str, ...]
    videos: tuple[str, ...]
    corpus: Corpus | None = None


@dataclass(frozen=True)
class ScoreFile:
    """A score matrix as read: scores [T, V], video_of_caption [T], sha256 of the file.

    None where the file has none: bank [Q, V], scale, ids.
    """

    scores: Scores
    video_of_caption: Ints
    bank: Scores | None
    sha256: str
    scale: float | None = None
    ids: Ids | None = None

    @property
    def identity(self) -> Identity | None:
        """Return the hashes of the ids, None without ids."""
        return None if self.ids is None else ground.identity_of(self.ids.captions, self.ids.videos)


def read_scores(path: Path, ids: Ids | None = None) -> ScoreFile:
    """Read a score file. ids: of the data set it is about, in place of its own.

    Raises DataError that says which array is missing or malformed, or where an infinite score stands.
    """
    if not path.is_file():
        raise DataError(f"expected a score file (safetensors or npz) at {str(path)!r}, found none")
    arrays = read_arrays(path)
    for name in ("scores", "video_of_caption"):
        if name not in arrays:
            raise DataError(
                f"{str(path)!r} has no array {name!r} (it has {', '.join(sorted(arrays)) or 'none'}); expected "
                "`scores` [T, V] and `video_of_caption` [T]"
            )
    video = arrays["video_of_caption"]
    if video.ndim != 1 or not np.issubdtype(video.dtype, np.integer):
        raise DataError(f"{str(path)!r}: video_of_caption must be [T] whole numbers, found {video.dtype} {video.shape}")
    scores = arrays["scores"]
    if not np.issubdtype(scores.dtype, np.floating):
        raise DataError(f"{str(path)!r}: scores must be floating-point numbers, found {scores.dtype}")
    metrics.checked(scores, video)
    bank = arrays.get("bank")
    if bank is not None and (bank.ndim != 2 or bank.shape[1] != scores.shape[1]):
        raise DataError(f"{str(path)!r}: bank must be [Q, {scores.shape[1]}], found {bank.shape}")
    own = _ids_in(arrays, path) if ids is None else ids
    _check_lengths(own, scores, path)
    return ScoreFile(scores, video.astype(np.int64), bank, sha256_file(path), _scale_in(arrays, path), own)


def constant_columns(scores: Scores) -> list[int]:
    """Return the videos whose scores are all equal: what a missing video that was filled with zeros looks like."""
    return np.flatnonzero(scores.max(0) == scores.min(0)).tolist() if len(scores) > 1 else []


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors or npz file. Raises DataError where it is none; runs nothing of it."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        from safetensors.numpy import load

        return dict(load(path.read_bytes()))
    except Exception as e:
        # Two readers and their zip and header errors: whatever they raise, the file is not a score file.
        if str(e) in ("'BF16'", "'F8_E4M3'", "'F8_E5M2'"):
            raise DataError(f"{str(path)!r} holds numbers of type {e}, which NumPy lacks; save them as float32") from e
        what = "npz" if path.suffix == ".npz" else "safetensors"
        raise DataError(
            f"{str(path)!r} is not a readable {what} file ({reason(e)[:80]}); write one with "
            "np.savez('scores.npz', scores=…, video_of_caption=…)"
        ) from e


def _scale_in(arrays: dict[str, np.ndarray], path: Path) -> float | None:
    found = arrays.get("scale")
    if found is None:
        return None
    if found.size != 1 or found.dtype.kind not in "fiu" or not 0 < float(found.reshape(())) < np.inf:
        raise DataError(f"{str(path)!r}: scale must be one positive number, found {found.dtype} {found.shape}")
    return float(found.reshape(()))


def _ids_in(arrays: dict[str, np.ndarray], path: Path) -> Ids | None:
    names = [arrays.get(name) for name in ("caption_ids", "video_ids")]
    if any(found is not None for found in names):
        for name, found in zip(("caption_ids", "video_ids"), names, strict=True):
            if found is None or found.ndim != 1 or found.dtype.kind not in "US":
                what = "none" if found is None else f"{found.dtype} {found.shape}"
                raise DataError(f"{str(path)!r}: {name} must be a list of texts, and both lists be there; found {what}")
        captions, videos = (tuple(str(x) for x in found.astype(str)) for found in names if found is not None)
        return Ids(captions, videos)
    beside = path.with_suffix(".ids.json")
    if not beside.is_file():
        return None
    ids: Any = read_json(beside)
    try:
        captions, videos = (tuple(map(str, _list(ids[name]))) for name in ("captions", "videos"))
    except (KeyError, TypeError):
        raise DataError(
            f'{str(beside)!r}: expected {{"captions": [ids], "videos": [ids]}}, found something else; move it away, '
            "or write the scores again with --save-scores"
        ) from None
    return Ids(captions, videos)


def _list(found: Any) -> Sequence[Any]:
    if not isinstance(found, list):
        raise TypeError
    return found


def _check_lengths(ids: Ids | None, scores: Scores, path: Path) -> None:
    if ids is None:
        return
    for what, names, size in (("captions", ids.captions, len(scores)), ("videos", ids.videos, scores.shape[1])):
        if len(names) != size:
            whose = "its ids name" if ids.corpus is None else f"the data set {ids.corpus.name!r} has"
            raise DataError(f"{str(path)!r} has scores of {size} {what}, but {whose} {len(names)}")
