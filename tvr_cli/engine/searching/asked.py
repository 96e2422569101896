"""What a command names to score with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """What was named to score with; None = whatever is there.

    first: the backbone whose clip vectors find the candidates, where that is another (`two_stores.py`).
    """

    run: str | None = None
    method: str | None = None
    backbone: str | None = None
    first: str | None = None
