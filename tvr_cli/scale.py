"""What features are multiplied with (`stores/features/scale.py` says by what, and why)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Factors of the features of captions and of frames, for methods whose temperatures count on CLIP's length."""

    text: float = 1.0
    frames: float = 1.0
