"""Options that several commands share, declared once so that they look and mean the same everywhere."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Annotated

import typer

from tvr_cli import commands
from tvr_cli.errors import ConfigError
from tvr_cli.workspace import Workspace as Folder

DEFAULT_WORKSPACE = Folder(commands.DEFAULT_WORKSPACE)
OWN_METHOD = "the run's own method, where it is not built in."

Workspace = Annotated[
    Folder,
    typer.Option(
        "--workspace", "-o", parser=Folder.at, metavar="<path>", envvar="TVR_WORKSPACE",
        help="Folder that holds frames, features, runs, index.",
    ),
]  # fmt: skip
Searched = Annotated[
    Folder,
    typer.Option(
        "--index", "-o", parser=Folder.searched, metavar="<path>", envvar="TVR_WORKSPACE",
        help="Workspace (or its index folder) to search.",
    ),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of a table.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, how many and how much; write nothing.")
]
NoHead = Annotated[bool, typer.Option("--no-head", help="Rank moments without the moment head that fits.")]
Offline = Annotated[bool, typer.Option("--offline", envvar="TVR_OFFLINE", help="Never touch the network.")]
Device = Annotated[str, typer.Option("--device", help="auto (cuda, then mps, then cpu), or a device by name.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, envvar="TVR_THREADS", help="Threads for arithmetic; default: idle cores, at most 4."
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option("--backbone", help="Preset (tvr backbones), ARCH/TAG, local:PATH or dotted name. Also TVR_BACKBONE."),
]
MemoryBudget = Annotated[str, typer.Option("--memory-budget", help="Memory for scores, like 512MB or 2GB.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one value of the configuration; repeatable."),
]


def seconds(flag: str) -> Callable[[str], float]:
    """Return what reads the seconds behind a flag. Raises ConfigError for what are none."""
    return _number(flag, "seconds, 0 or more, such as 2.5", lambda value: 0 <= value < math.inf)


def share(flag: str) -> Callable[[str], float]:
    """Return what reads a number from 0 to 1 behind a flag. Raises ConfigError for what is none."""
    return _number(flag, "a number from 0 to 1, such as 0.9", lambda value: 0 <= value <= 1)


def number(flag: str) -> Callable[[str], float]:
    """Return what reads any number behind a flag. Raises ConfigError for what is none."""
    return _number(flag, "a number such as 0.2", lambda value: not math.isnan(value))


def _number(flag: str, expected: str, fits: Callable[[float], bool]) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not fits(value):
            raise ConfigError(f"{flag}: expected {expected}, found {text!r}")
        return value

    return read


def require_threads() -> None:
    """Refuse a TVR_THREADS that is no number, in a command that has no `--threads` to do it."""
    said = os.environ.get("TVR_THREADS")
    if said and not (said.isdecimal() and int(said) > 0):
        raise ConfigError(f"TVR_THREADS: expected 1 or more, found {said!r}")
