"""Options that several commands share, declared once so that they look and mean the same everywhere."""

from __future__ import annotations

import os
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


def require_threads() -> None:
    """Refuse a TVR_THREADS that is no number, in a command that has no `--threads` to do it."""
    said = os.environ.get("TVR_THREADS")
    if said and not (said.isdecimal() and int(said) > 0):
        raise ConfigError(f"TVR_THREADS: expected 1 or more, found {said!r}")
