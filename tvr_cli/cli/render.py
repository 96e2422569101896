"""Printing: results to stdout, as a table for people or one JSON object for machines. The only module that prints.

What people read goes through `log.printable`. What programs read is exact: JSON escapes by itself, paths and CSV are
written as they are, unless stdout is a terminal.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tvr_cli import commands
from tvr_cli.cli.plain_table import plain_table
from tvr_cli.log import clock, printable
from tvr_cli.results.base import Result

if TYPE_CHECKING:
    from tvr_cli.engine.searching.measure import Recall
    from tvr_cli.engine.searching.way import Way

_GAP = 3  # blanks between two columns
_ENDLESS = 10_000


def result(found: Result, as_json: bool, human: Callable[[], None]) -> None:
    """Print a result as JSON (floats unrounded, NaN as null), or call `human` to print it for people."""
    if as_json:
        text = json.dumps(_clean(found.to_json()), ensure_ascii=False, allow_nan=False)
        # JSON may hold what it need not escape, and a terminal obeys it: written as \uXXXX it is the same JSON.
        print("".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text))
    else:
        human()


def at_once(found: Result) -> None:
    """Print one of many results as a line of JSON, for a program that reads each as it comes."""
    result(found, True, lambda: None)
    sys.stdout.flush()


def line(text: str = "") -> None:
    """Print one line of results."""
    print(printable(text))


def exact(items: Sequence[str], *, end: str = "\n") -> None:
    """Write items for another program, each ended by `end`: to the byte, where stdout is no terminal.

    On a terminal each is a line of its own that cannot steer it.
    """
    if sys.stdout.isatty():
        for item in items:
            line(item)
        return
    data = "".join(item + end for item in items)
    try:
        raw = data.encode("utf-8", "surrogateescape")  # a name that is no UTF-8 becomes its bytes again
    except UnicodeEncodeError:
        raw = data.encode("utf-8", "backslashreplace")  # no file has such a name
    sys.stdout.flush()
    sys.stdout.buffer.write(raw)
    sys.stdout.buffer.flush()


def table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1) -> None:
    """Print a table; the first `left` columns are text, the others are right-aligned numbers."""
    title = None if title is None else printable(title)
    names = [printable(name) for name in columns]
    cells = [[cell(value) for value in row] for row in rows]
    # What rich takes for a terminal is what it is told to take for one, too.
    terminal = sys.stdout.isatty() or any(name in os.environ for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))
    if not terminal and (lines := plain_table(title, names, cells, left=left)) is not None:
        for text in lines:
            line(text)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, show_edge=False)
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:  # a pipe has no width: a row is a line there
        console = Console(highlight=False, markup=False, emoji=False, width=_ENDLESS)
    # In a narrow terminal whole words go down a line, unless they do not fit side by side.
    longest = [max((len(word) for row in cells for word in row[i].split()), default=0) for i in range(len(columns))]
    fits = sum(longest) + _GAP * len(columns) <= console.width
    for i, name in enumerate(names):
        justify: Literal["left", "right"] = "left" if i < left else "right"
        shown.add_column(name, justify=justify, overflow="fold", min_width=longest[i] if fits else None)
    for row in cells:
        shown.add_row(*row)
    console.print(shown)


def search_way(way: Way, clips: int) -> str:
    """Say how an index is searched."""
    if way.first == "every" or way.shortlist >= clips:
        return "a search scores every clip"
    how = {"rough": "a rough score of every clip", "coarse": "coarse vectors"}[way.first]
    more = f" and a rough score of {way.prefilter:,}" if way.prefilter > way.shortlist else ""
    return f"a search scores {way.shortlist:,} of {clips:,} clips, found by {how}{more}"


def recall(found: Recall) -> str:
    """Say what a search finds of what scoring every clip would find, and what mends it where that is little."""
    if not found.sentences:
        return f"recall@10 1.000: {found.of}"
    others = ", ".join(f"@{k} {share:.3f}" for k, share in found.at.items() if k != "10")
    said = f"recall@10 {found.best:.3f} ({others}; {found.sentences} {found.of}, {count(found.clips, 'clip')} scored)"
    if found.mends is None:
        return said
    more = commands.tvr("query", "a dog surfing", shortlist=found.mends)
    return f"{said}; that is little: {more} finds 0.99 of them, --exhaustive all"


def cell(value: Any) -> str:
    """Format one value: floats to one decimal, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.1f}"
    return printable(str(value))


def count(n: int, one: str, many: str | None = None) -> str:
    """Format a number of things: 1 clip, 2 clips, 0 queries."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def p_value(p: float) -> str:
    """Format the p of a test: 0.47, 0.018, 3.1e-07; what a float cannot hold is below its smallest."""
    if p == 0.0:
        return "below 1e-300"
    return f"{p:.2g}" if p >= 0.001 else f"{p:.1e}"


def size(n: float) -> str:
    """Format bytes in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def shortest(path: str) -> str:
    """Return a path as it is seen from here, where that is shorter."""
    try:
        return min(path, os.path.relpath(path), key=len)
    except (OSError, ValueError):  # here is gone, or another drive
        return path


def seconds(s: float) -> str:
    """Format a position in a video to a tenth of a second: 0:07.5, 12:34.0, 1:02:03.1."""
    return clock(s)


def duration(s: float) -> str:
    """Format a length of time: 3.2 s, 4 min 5 s, 2 h 3 min."""
    if s < 60:
        return f"{s:.1f} s"
    if s < 3600:
        return f"{int(s // 60)} min {int(s % 60)} s"
    return f"{int(s // 3600)} h {int(s % 3600 // 60)} min"


def _clean(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    return value
