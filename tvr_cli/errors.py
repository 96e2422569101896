"""The exceptions that a user can cause, and the exit code of each.

    TvrError                    exit code
    ├── ConfigError             2   bad preset, file, --set or flag
    ├── DataError               3   missing, incomplete, unreadable or mismatched input
    │   ├── DecodeError             one video; collected, the run goes on
    │   ├── StoreMismatch           made by another backbone, plan or format version
    │   ├── Unreadable              a file of a store that is there and that this user may not read
    │   └── MethodNotNamed          a file names a method of another package, the command does not
    ├── EnvironmentProblem      4   missing dependency, device, codec, weights, kernel, a full disk, a lock
    ├── PartialFailure          5   finished, but some items failed; they are listed in failures.jsonl
    └── Interrupted             130 stopped by the user; the state is saved

A message says what was expected, what was found and what to do, in one or two sentences. Layers below `cli` raise; the
one boundary in `tvr_cli.cli` turns a `TvrError` into a line on stderr. Anything else is a bug and exits with 1.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import ClassVar


class TvrError(Exception):
    """Base of everything that a user can cause and mend. example: lines to show below the message, to be copied."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "", *, example: Iterable[str] = ()):
        super().__init__(message)
        self.example = tuple(example)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.args), *self.example])


class ConfigError(TvrError):
    """A preset, a configuration file, `--set` or a flag asks for something that does not exist."""

    exit_code = 2


class DataError(TvrError):
    """Input is missing, incomplete, unreadable or does not fit together."""

    exit_code = 3


class DecodeError(DataError):
    """One video cannot be decoded; the per-video loop records it and goes on."""


class StoreMismatch(DataError):
    """A store was made by another backbone, plan or format version than the one asked for."""


class Unreadable(DataError):
    """A file of a store is there and may not be read. That says nothing of what is in it, so nothing replaces it."""


class MethodNotNamed(DataError):
    """A file of a workspace names a method that is not built in, and loading it would run a module of any package.

    method: its dotted name, which the command has to name itself. run: the run that uses it, where it is one.
    """

    def __init__(self, where: str, method: str):
        super().__init__(
            f"{where} names the method {method!r}, which is not one of tvr's own, and loading it runs that module; "
            "if you trust it, name it yourself"
        )
        self.method = method
        self.run: str | None = None


class EnvironmentProblem(TvrError):
    """The machine lacks something: a package, a device, weights, disk space, a free lock."""

    exit_code = 4


class PartialFailure(TvrError):
    """The work finished, but some items failed and are listed in `failures.jsonl`."""

    exit_code = 5


class Interrupted(TvrError):
    """The user stopped the work; what was done is saved."""

    exit_code = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest known word, whatever its case, or an empty string."""
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.5)
    return f"; did you mean {folded[near[0]]}?" if near else ""


def reason(e: BaseException) -> str:
    """Return the first line of what a library said, to stand in a message of ours; its kind where it advises to trust.

    We never pass such advice on.
    """
    said = str(e).strip()
    return type(e).__name__ if not said or advises_to_trust(e) else said.splitlines()[0]


def advises_to_trust(e: BaseException) -> bool:
    """Whether a library's message tells how to switch a safeguard off, like `weights_only=False`."""
    return re.search(r"weights_only|add_safe_globals|allow_pickle|trust_remote_code", str(e)) is not None
