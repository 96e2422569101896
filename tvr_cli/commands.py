"""Command lines for messages, made from values: the one place that writes `tvr … -o …`.

A message that tells people what to type must be right to the letter: names with blanks are quoted, a workspace is named
where it is not the default one. `tests/test_commands.py` holds every call against the real commands and their flags.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

# What `-o` means where neither it nor TVR_WORKSPACE is given.
DEFAULT_WORKSPACE = Path("out")

# The videos of a reader of whom nothing is known, as README has them: a command line that can be typed.
VIDEOS = "videos/"
FEATURES = "features.tar"

_SENTENCE = re.compile(r"[\w.,:/+=#@%-]+( [\w.,:/+=#@%-]+)+", re.ASCII)

Folder = os.PathLike[str]
Value = str | int | float | bool | Folder | Iterable[str] | None


def tvr(verb: str, *words: str | Folder, workspace: Folder | None = None, **flags: Value) -> str:
    """Return a command line of tvr: `tvr("train", resume=True, workspace=out)` is `tvr train --resume -o out`.

    words: arguments, of which none stands for what the reader has to put there. flags: `max_words=32` becomes
    `--max-words 32`; True stands for the flag alone, None and False for its absence, several strings repeat it.
    workspace: its folder, None = the command takes none.
    """
    parts = ["tvr", verb, *(_word(word) for word in words)]
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            parts.append(flag)
        elif value is None or value is False:
            continue
        elif isinstance(value, str | int | float | os.PathLike):
            parts += [flag, _word(value)]
        else:
            parts += [part for each in value for part in (flag, _word(each))]
    return " ".join(parts) + workspace_flag(workspace)


def own_method(name: str) -> dict[str, str]:
    """Return the flag that a command on a run needs where its method is not built in: its files alone import none."""
    return {"method": name} if "." in name else {}


def workspace_flag(workspace: Folder | None) -> str:
    """Return what a command has to add to mean a workspace: ` -o FOLDER`, or nothing where it is the default."""
    default = Path(os.environ.get("TVR_WORKSPACE") or DEFAULT_WORKSPACE)
    return "" if workspace is None or Path(workspace) == default else f" -o {_word(workspace)}"


def _word(value: str | float | Folder) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    # What only holds blanks is quoted as people quote a sentence, in every shell; the rest as POSIX shells need it.
    return f'"{text}"' if _SENTENCE.fullmatch(text) else shlex.quote(text)
