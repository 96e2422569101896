"""Whether a command line that tvr prints can be typed as it stands: the real one parses it, and runs nothing."""

from __future__ import annotations

import re
import shlex
from typing import Any

import typer

from tvr_cli.cli import app

PLACEHOLDER = re.compile(r"[A-Z]{3,}(:[A-Z]+)*/?")  # VIDEOS, NAME:ROOT: words that the reader would have to replace
REAL: Any = typer.main.get_command(app)


def cannot_be_typed(line: str) -> str:
    """Say why a command line is none that can be followed, "" where it is one."""
    words = shlex.split(line)[1:]
    if placeholders := [word for word in words if PLACEHOLDER.fullmatch(word)]:
        return f"a placeholder, {placeholders[0]}"
    if words[0] not in REAL.commands:
        return "no such command"
    try:
        REAL.commands[words[0]].make_context(words[0], words[1:], parent=typer.Context(REAL))
    except typer.BadParameter.__mro__[1] as e:  # UsageError of whatever click typer brings
        return str(e.format_message())  # type: ignore[attr-defined]
    return ""
