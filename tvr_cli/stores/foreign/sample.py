"""Features of one video as somebody else's file has them."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tvr_cli.errors import DataError, reason


@dataclass(frozen=True)
class Sample:
    """Features of a video. features: [F, D] of frames in the order of time, or [D] of all of it; float16 or float32.

    video: what the file calls it. file: where it was read, name: its name in there. duration: seconds, None where the
    file does not say. written: seconds since 1970 when the sample was written, None where the file does not say.
    """

    video: str
    features: np.ndarray
    file: Path
    name: str
    duration: float | None = None
    written: float | None = None

    @property
    def frames(self) -> np.ndarray:
        """Return the features as [F, D], one row where they are of the whole video."""
        return self.features if self.features.ndim == 2 else self.features[None]

    @cached_property
    def sha256(self) -> str:
        """The hash of the array: its type, its shape and its values, wherever it was read."""
        x = self.features.astype(self.features.dtype.newbyteorder("<"), copy=False)
        head = f"{x.dtype.str}{list(x.shape)}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(x).tobytes()).hexdigest()


def from_npy(data: bytes, file: Path, name: str) -> np.ndarray:
    """Read the bytes of an npy file. Raises DataError for what is none, or would run something."""
    try:
        found: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as e:
        raise DataError(f"{file}: {name} cannot be read: {reason(e)[:80]}") from e
    return found


def checked(found: np.ndarray, file: Path, name: str) -> np.ndarray:
    """Return features as float16 or float32. Raises DataError for what is no matrix, or vector, of finite numbers."""
    if found.ndim not in (1, 2) or found.dtype.kind != "f" or 0 in found.shape:
        raise DataError(
            f"{file}: {name}: expected features [F, D], or one vector [D], as numbers, found {found.dtype} "
            f"{list(found.shape)}"
        )
    if not np.isfinite(found).all():
        raise DataError(f"{file}: {name} has a value that is not finite")
    half = found.dtype.itemsize == 2
    return found.astype(np.float16 if half else np.float32)
