"""What a command names to score with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """What was named to score with; None = whatever is there."""

    run: str | None = None
    method: str | None = None
    backbone: str | None = None
