"""Reading features of others, whatever they wrote them in: what `import-features` and `verify features` share.

FILE.tar                a tar of clip-video-encode (`stores/foreign/clip_video_encode.py`)
FILE.npy                one video, called as the file
FILE.npz .pt .pth .safetensors    one array: one video, called as the file; several: a video each, by their names
FOLDER                  all of these in it, in the order of their names; a video's name has the folders below it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from tvr_cli.backbones.tensor_files import read_tensors
from tvr_cli.errors import DataError, reason
from tvr_cli.stores.foreign import clip_video_encode
from tvr_cli.stores.foreign.sample import Sample, checked, from_npy

_ARRAYS = (".npy", ".npz", ".pt", ".pth", ".safetensors")


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Return the files with features that some paths mean, folders opened. Raises DataError where there is none."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"expected features at {str(path)!r}, found none")
        inside = sorted(p for p in path.rglob("*") if p.is_file() and _is_known(p)) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{str(path)!r} holds no features: expected {', '.join((*_ARRAYS, '.tar'))}")
        found += inside
    return list(dict.fromkeys(found))


def each(paths: Sequence[Path]) -> Iterator[Sample]:
    """Yield the features of every video once, in the order of the files; the same array again is passed over.

    Raises DataError for a file that is none of features, for two different arrays of one video, and for arrays of
    another length or kind (frames, one vector) than the first has.
    """
    known: dict[str, str] = {}
    first: Sample | None = None
    for sample in _all(paths):
        if (before := known.get(sample.video)) is not None:
            if before != sample.sha256:
                raise DataError(f"{sample.file}: the video {sample.video!r} has two samples, and their features differ")
            continue
        known[sample.video] = sample.sha256
        first = first or sample
        if sample.features.shape[-1] != first.features.shape[-1]:
            raise DataError(
                f"{sample.file}: the features of {sample.video!r} have {sample.features.shape[-1]} numbers, those "
                f"before {first.features.shape[-1]}; the files are of two encoders"
            )
        if sample.features.ndim != first.features.ndim:
            raise DataError(
                f"{sample.file}: {sample.video!r} has {_kind(sample)}, and {first.video!r} {_kind(first)}; give files "
                "of one kind"
            )
        yield sample


def read(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return the features of frames of every video, float32 [F, D], by its name. Raises as `each` does."""
    found: dict[str, np.ndarray] = {}
    for sample in each(paths):
        if sample.features.ndim != 2:
            raise DataError(f"{sample.file}: {sample.name}: expected features [F, D] of frames, found one vector")
        found.setdefault(sample.video, sample.features.astype(np.float32))
    return found


def _all(paths: Sequence[Path]) -> Iterator[Sample]:
    count = 0
    for path in paths:
        for file in files_of([path]):
            for sample in _samples(file, path if path.is_dir() else file.parent):
                count += 1
                yield sample
    if not count:
        raise DataError(f"expected samples KEY.npy in {', '.join(map(str, paths)) or 'no file'}, found none")


def _is_known(path: Path) -> bool:
    return path.name.endswith((*_ARRAYS, *clip_video_encode.ENDINGS)) and not path.name.startswith(".")


def _samples(file: Path, root: Path) -> Iterator[Sample]:
    if file.suffix not in _ARRAYS:
        yield from clip_video_encode.samples(file)
        return
    name = PurePosixPath(file.relative_to(root).with_suffix("")).as_posix()
    if file.suffix == ".npy":
        yield Sample(name, checked(from_npy(_bytes(file), file, file.name), file, file.name), file, file.name)
        return
    found = _npz(file) if file.suffix == ".npz" else _tensors(file)
    for key, array in found.items():
        yield Sample(name if len(found) == 1 else key, checked(array, file, key), file, key)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise DataError(f"{str(file)!r} cannot be read: {reason(e)}") from e


def _npz(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as found:
            return {key: found[key] for key in found.files}
    except Exception as e:  # zipfile and numpy raise what they like about half a file
        raise DataError(f"{str(file)!r} is no npz file of numbers, or half of one: {reason(e)[:80]}") from e


def _tensors(file: Path) -> dict[str, np.ndarray]:
    found = read_tensors(file)
    if isinstance(found, torch.Tensor):
        found = {"tensor": found}
    if not isinstance(found, Mapping) or not all(isinstance(x, torch.Tensor) for x in found.values()):
        raise DataError(f"{str(file)!r}: expected a tensor, or tensors by the names of their videos")
    # numpy has no bfloat16
    return {str(key): (x.float() if x.dtype == torch.bfloat16 else x).numpy() for key, x in found.items()}


def _kind(sample: Sample) -> str:
    return "features of frames [F, D]" if sample.features.ndim == 2 else "one vector [D]"
