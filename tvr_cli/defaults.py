"""What answers where nobody named a method, what counts as found, and who named the backbone.

A query reads this and no configuration.
"""

from __future__ import annotations

import os

DEFAULT_METHOD = "text_guided"  # answers queries where nothing was trained
DEFAULT_OF_CLIPS = "one_vector"  # ... on features that have no frames, but one vector a clip

FOUND = 0.95  # confidence of a hit: of twenty sentences about what is not there one gets an answer with it


def named_backbone(flag: str | None) -> str | None:
    """Return the backbone that a person named: by a flag or an argument, else by TVR_BACKBONE; None = nobody did."""
    return flag or os.environ.get("TVR_BACKBONE") or None
