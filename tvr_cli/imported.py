"""What stands for a plan of frames where features were computed by somebody else, and nothing of their frames is here.

Apart from `plans.py`, which a query that reads the head of its features need not import.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KIND = "imported"  # of frames, in an identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What stands for a frame plan in features that somebody else computed: whose they are, and how many were taken.

    source: in words, or the hash of the files. revision: of the source, None where it was not said. fps: frames of the
    file a second, None = spread evenly over the video. num_frames: as in `FramePlan` of the kind uniform, over the
    frames that a file has; None = all of them.
    """

    source: str
    revision: str | None = None
    fps: float | None = None
    num_frames: int | None = None

    def identity(self) -> dict[str, Any]:
        """Return what stands in an identity where that of the frames would be; what is None is left out."""
        said = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"kind": KIND, **{name: value for name, value in said.items() if value is not None}}

    @classmethod
    def from_identity(cls, identity: Mapping[str, Any]) -> Imported | None:
        """Return the plan that the identity of frames describes, None where they were extracted."""
        if identity.get("kind") != KIND:
            return None
        return cls(**{f.name: identity.get(f.name) for f in dataclasses.fields(cls)})  # type: ignore[arg-type]
