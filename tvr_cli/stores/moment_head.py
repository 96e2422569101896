"""A head that ranks moments, as its run keeps it: runs/<name>/head.safetensors. numpy alone.

What it was trained for stands in the file: the backbone, how many tokens of a sentence are read, and the rate of the
frames. It fits every store of the same, whatever films that has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli import commands, files, schema
from tvr_cli.errors import DataError, StoreMismatch

FORMAT = "tvr/moment-head@1"
PARTS = 4  # of a moment that it looks at: the mean of its frames, and the frames in the middle of its thirds
_FIX = f"put a copy of it back, or train it again with: {commands.tvr('train', moments=True)}"


@dataclass(frozen=True)
class MadeFor:
    """What a head goes with. identity: the backbone's. words: token slots of a sentence. fps: the finest rate of the
    frames by time: where pictures change, moments are seen at it.
    """

    backbone: str
    identity: Mapping[str, Any]
    words: int
    fps: float

    @staticmethod
    def of(backbone: str, identity: Mapping[str, Any]) -> MadeFor | None:
        """Return what heads for features go with; None where their frames have no rate. identity: of the features."""
        frames = identity["frames"]
        fps = frames.get("detail") or frames.get("fps")
        if fps is None:
            return None
        return MadeFor(backbone, identity["backbone"], int(identity["words"]["length"]), float(fps))

    def unlike(self, other: MadeFor) -> str:
        """Say in what it differs from what features are, in words; empty where a head of the one fits the other."""
        if self.identity != other.identity:
            same = self.backbone == other.backbone
            return (
                f"it was trained on {'other weights of ' * same}{self.backbone}, these features are of {other.backbone}"
            )
        if self.words != other.words:
            return f"it reads {self.words} tokens of a sentence, these features {other.words}"
        if self.fps != other.fps:
            return f"it was trained on {self.fps:g} frames a second, these features have {other.fps:g}"
        return ""


@dataclass(frozen=True, eq=False)
class MomentHead:
    """A head. weights: [4, D, D] float32, from the parts of a moment to what is said of it. mean: [D] of what is said.

    moments, videos: what it was trained on. store: fingerprint of the features. sha256: of its numbers.
    """

    weights: np.ndarray
    mean: np.ndarray
    made_for: MadeFor
    moments: int
    videos: int
    seed: int
    store: str

    @property
    def sha256(self) -> str:
        return _sha256(self.weights, self.mean)

    def asked(self, sentences: np.ndarray) -> np.ndarray:
        """Return what sentences, unit vectors [T, D], are compared with what is read by: less the mean of all, unit
        vectors [T, D].
        """
        less = sentences - self.mean
        return np.asarray(less / np.maximum(np.linalg.norm(less, axis=1, keepdims=True), 1e-12))

    def save(self, path: Path) -> None:
        """Write it in one step. Raises EnvironmentProblem where that is not possible."""
        from safetensors.numpy import save

        about = {
            "format": FORMAT,
            **vars(self.made_for),
            "moments": self.moments,
            "videos": self.videos,
            "seed": self.seed,
            "store": self.store,
            "sha256": self.sha256,
        }
        tensors = {"weights": np.ascontiguousarray(self.weights), "mean": np.ascontiguousarray(self.mean)}
        files.write_bytes(path, save(tensors, {"tvr": json.dumps(about, sort_keys=True)}))

    @staticmethod
    def open(path: Path) -> MomentHead:
        """Read a head. Raises DataError where it is not there or damaged, StoreMismatch for another format."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        about = read_about(path)
        try:
            tensors = load(path.read_bytes())
            weights, mean = tensors["weights"], tensors["mean"]
        except (SafetensorError, ValueError, KeyError, OSError) as e:
            raise DataError(f"the moment head {str(path)!r} is damaged ({e}); {_FIX}") from e
        whole = weights.shape == (PARTS, len(mean), len(mean)) and weights.dtype == mean.dtype == np.float32
        if not whole or _sha256(weights, mean) != about["sha256"]:
            raise DataError(f"the moment head {str(path)!r} is damaged: its numbers are not what was written; {_FIX}")
        return MomentHead(
            weights, mean, _made_for(about), about["moments"], about["videos"], about["seed"], about["store"]
        )


def made_for(path: Path) -> MadeFor:
    """Return what a head goes with, without its numbers. Raises as `MomentHead.open`."""
    return _made_for(read_about(path))


def read_about(path: Path) -> dict[str, Any]:
    """Return what stands beside the numbers of a head. Raises as `MomentHead.open`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as f:
            about = files.parse_json((f.metadata() or {}).get("tvr", "{}"))
    except FileNotFoundError:
        raise DataError(f"expected a moment head at {str(path)!r}, found none") from None
    except (SafetensorError, ValueError) as e:
        raise DataError(f"the moment head {str(path)!r} is damaged ({e}); {_FIX}") from e
    if isinstance(about, dict) and about.get("format", FORMAT) != FORMAT:
        raise StoreMismatch(
            f"the moment head {str(path)!r} has format {about['format']!r}, this version reads {FORMAT!r}; {_FIX}"
        )
    schema.check(about, _ABOUT, f"the moment head {str(path)!r}", _FIX)
    return dict(about)


def _made_for(about: Mapping[str, Any]) -> MadeFor:
    return MadeFor(about["backbone"], about["identity"], about["words"], float(about["fps"]))


def _sha256(weights: np.ndarray, mean: np.ndarray) -> str:
    return hashlib.sha256(weights.tobytes() + mean.tobytes()).hexdigest()


_ABOUT = schema.record({
    "format": schema.text, "backbone": schema.text, "identity": schema.mapping, "words": schema.positive,
    "fps": schema.number, "moments": schema.positive, "videos": schema.positive, "seed": schema.count,
    "store": schema.text, "sha256": schema.sha256,
})  # fmt: skip
