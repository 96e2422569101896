"""A table in plain letters, as rich prints it where there is no terminal, without importing rich.

What rich knows better is left to it: widths of letters from other scripts, a title with a word that is wider than
the table.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

_GAP = "   "  # between two columns
_LINE = "─"
_WIDEST = 10_000  # rich folds what is wider
_NARROW = 0x300  # below it every letter takes one place
_NARROW_TOO = frozenset("–—…±×·")


def plain_table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int
) -> list[str] | None:
    """Return the lines of a table, None where rich has to make them. The first `left` columns are left-aligned.

    All text is printable.
    """
    texts = [*columns, *(text for row in rows for text in row), title or ""]
    if not rows or not all(ord(c) < _NARROW or c in _NARROW_TOO for text in texts for c in text):
        return None
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    whole = sum(widths) + len(_GAP) * (len(widths) - 1)
    words = (title or "").split()
    if whole > _WIDEST or (title or "") != " ".join(words) or max(map(len, words), default=0) > whole:
        return None

    def line(texts: Sequence[str]) -> str:
        aligned = (
            text.ljust(width) if i < left else text.rstrip().rjust(width)
            for i, (text, width) in enumerate(zip(texts, widths, strict=True))
        )
        return _GAP.join(aligned)

    head = [row.ljust(whole) for row in textwrap.wrap(title or "", whole, break_on_hyphens=False)]
    return [*head, line(columns), _LINE * whole, *(line(row) for row in rows)]
