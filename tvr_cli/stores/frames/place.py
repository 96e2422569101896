"""The little of a frame store that a query asks for: its format, and which content it says that it has.

The rest of the head (`head.py`) is plans and records, whose classes take a query longer to import than to answer with.
"""

from __future__ import annotations

from pathlib import Path

from tvr_cli import files
from tvr_cli.schema import Misfit
from tvr_cli.stores import listing

FORMAT_VERSION = 2


def content(folder: Path) -> str | None:
    """Return `FrameStore.content_hash` as a whole head of this format says it; None where it takes more to know it."""
    try:
        found = files.parse_json((folder / listing.HEAD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("kind") != "frames" or found.get("format") != FORMAT_VERSION:
        return None
    try:
        listing.require_sealed(found)
    except Misfit:
        return None
    sealed = found.get("sealed")
    said = sealed.get("content") if found.get("uses") == [] and isinstance(sealed, dict) else None
    return said if isinstance(said, str) else None
