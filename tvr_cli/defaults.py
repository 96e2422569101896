"""What answers where nobody named a method, what counts as found, and who named the backbone.

A query reads this and no configuration.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

DEFAULT_METHOD = "text_guided"  # answers queries where nothing was trained
DEFAULT_OF_CLIPS = "one_vector"  # ... on features that have no frames, but one vector a clip

FOUND = 0.95  # confidence of a hit: of twenty sentences about what is not there one gets an answer with it


def named_backbone(flag: str | None) -> str | None:
    """Return the backbone that a person named: by a flag or an argument, else by TVR_BACKBONE; None = nobody did."""
    return flag or os.environ.get("TVR_BACKBONE") or None


def is_one_of(backbone: str, names: Iterable[str | None]) -> bool:
    """Whether a backbone is one of those named, wherever the paths of their folders and files are said from.

    `local:` and `hf:` before the same folder are one backbone: stores have the word of the library that read it.
    """
    return _in_full(backbone) in {_in_full(name) for name in names if name is not None}


def _in_full(name: str) -> str:
    """Return a name of a backbone with its path, if it has one, in full."""
    scheme, colon, path = name.partition(":")
    if colon and (scheme == "local" or (scheme == "hf" and path.startswith(("/", ".", "~")))):
        return f"local:{Path(path).expanduser().resolve()}"
    kind, at, file = name.partition("@")
    return f"{kind}@{Path(file).expanduser().resolve()}" if at and Path(file).expanduser().exists() else name
