"""The commands by name, each imported when it is asked for: `tvr query` need not wait for nineteen others."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import typer
from typer.core import TyperCommand

from tvr_cli.cli import values

NAMES = (
    "demo",
    "extract-frames",
    "precompute-features",
    "merge",
    "train",
    "rerun",
    "plot",
    "evaluate",
    "compare",
    "reproduce",
    "optimise",
    "sweep",
    "mteb",
    "table",
    "import-checkpoint",
    "import-features",
    "audit",
    "moments",
    "verify",
    "index",
    "query",
    "explain",
    "similar",
    "transcribe",
    "serve",
    "watch",
    "mcp",
    "methods",
    "backbones",
    "datasets",
    "info",
    "doctor",
    "migrate",
)


class Commands(Mapping[str, Any]):
    """What a group of Typer's holds as its commands, in the order of its help."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in NAMES:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = _command(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


class _Command(TyperCommand):
    """A command that takes plain values as they are. function: whose flags it has."""

    function: Callable[..., None]
    _is_plain = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not self._is_plain:  # once: who parses many lines with one command would wrap its flags each time
            self._is_plain = True
            values.take_plainly(self, self.function)
            values.leave_out(self.get_params(ctx))
        return super().parse_args(ctx, args)


def about(name: str) -> str:
    """Return what a command does, whole, where Typer would cut it at 45 letters; no flag is made for that."""
    return " ".join((_function(name).__doc__ or "").split("\n\n")[0].split())


def _function(name: str) -> Callable[..., None]:
    """Return the function that has a command's name, in the file that has its name."""
    module = name.replace("-", "_")
    found: Callable[..., None] = getattr(importlib.import_module(f"tvr_cli.cli.{module}"), module)
    return found


def _command(name: str) -> Any:
    function = _function(name)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=_Command, short_help=about(name))(function)
    command: Any = typer.main.get_command(alone)
    command.function = function
    return command
