"""What every test of the command line holds the messages to: a command in one can be typed as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from served_library import client, library, place  # noqa: F401 (fixtures of every file here)
from typed_commands import cannot_be_typed

from tvr_cli import commands


@pytest.fixture(autouse=True)
def made_commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every command line that this test's messages were made of; at its end the real command line parses each."""
    made: list[str] = []
    tvr = commands.tvr

    def noting(verb: str, *words: Any, **flags: Any) -> str:
        line = tvr(verb, *words, **flags)
        made.append(line)
        return line

    monkeypatch.setattr(commands, "tvr", noting)
    yield made
    wrong = [f"{line}: {problem}" for line in dict.fromkeys(made) if (problem := cannot_be_typed(line))]
    assert not wrong, "\n".join(wrong)
