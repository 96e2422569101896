"""Text in a page: whatever a name, a sentence or a subtitle holds is shown, and never run.

Everything that is not written here comes in through `text`, `quoted` or `link`.
"""

from __future__ import annotations

import html
import os
import unicodedata
import urllib.parse
from pathlib import Path

# Controls, surrogates, what has no meaning yet or a private one, ends of lines. Joiners and blanks stay: scripts and
# signs are written with them.
_ESCAPED = frozenset(("Cc", "Cs", "Cn", "Co", "Zl", "Zp"))
# They turn the text around them, also beyond the element that they are in: embeddings, overrides, isolates, marks.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def shown(text: str) -> str:
    """Return a text on one line, with what would not be seen, or turn others, as Python writes it: `\\n`, `\\u202e`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in _ESCAPED or c in _TURNING else c for c in text)


def quoted(text: str) -> str:
    """Return a text for an attribute between double quotes, or between tags."""
    return html.escape(shown(text), quote=True)


def text(text: str) -> str:
    """Return a text as an element of its own, whose direction is its own, whatever stands around it."""
    return f"<bdi>{quoted(text)}</bdi>"


def link(video: str, page: Path, start: float, end: float) -> str:
    """Return the address of a moment of a video, as seen from the folder of the page, percent-encoded to the byte.

    start, end: seconds, as a media fragment.
    """
    target = os.path.abspath(video)
    try:
        seen = os.path.relpath(target, os.path.dirname(os.path.abspath(page)))
    except ValueError:  # another drive
        return f"{Path(target).as_uri()}#t={_fragment(start, end)}"
    parts = (urllib.parse.quote(os.fsencode(part), safe="") for part in seen.split(os.sep))
    return f"{'/'.join(parts)}#t={_fragment(start, end)}"


def _fragment(start: float, end: float) -> str:
    begins = _seconds(max(0.0, start))
    return f"{begins},{_seconds(end)}" if end > start else begins


def _seconds(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
