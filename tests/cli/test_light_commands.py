"""Commands are imported when they are asked for, and plain values of their flags are taken without pydantic."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from tvr_cli.cli import app, lazy, values


@pytest.mark.parametrize("words", [["query", "a dog", "-k", "3", "-o", "there"], ["methods"], ["--help"]])
def test_a_plain_command_needs_no_pydantic_and_no_rich(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from tvr_cli.cli import app;"
        f"CliRunner().invoke(app, {words!r});"
        "found = {'pydantic', 'rich'} & set(sys.modules); assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["methods"], ["--help"]])
def test_what_reads_no_configuration_needs_no_yaml(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from tvr_cli.cli import app;"
        f"CliRunner().invoke(app, {words!r});"
        "found = {'yaml', 'tvr_cli.config', 'tvr_cli.stores.index.head'} & set(sys.modules); assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_command_imports_no_other_command() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from tvr_cli.cli import app;"
        "CliRunner().invoke(app, ['query', '--help']);"
        "assert 'tvr_cli.cli.train' not in sys.modules and 'tvr_cli.cli.query' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_there_is_a_file_for_every_command_and_help_shows_all() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    commands = lazy.Commands()
    assert len(commands) == len(set(commands)) and all(f"\n  {name} " in shown for name in commands)
    with pytest.raises(KeyError):
        commands["values"]


def _shows(
    words: Annotated[list[str], typer.Argument()],
    k: Annotated[int, typer.Option("-k", min=1, max=20)] = 10,
    many: Annotated[int | None, typer.Option("--many", envvar="MANY")] = None,
    name: Annotated[str | None, typer.Option("--name")] = None,
    names: Annotated[list[str] | None, typer.Option("--names")] = None,
    way: Annotated[Literal["a", "b"], typer.Option("--way")] = "a",
    place: Annotated[Path, typer.Option("--place", parser=lambda text: Path("under", text))] = Path("."),
    number: Annotated[int, typer.Option("--number", parser=int)] = 1,
    share: Annotated[float, typer.Option("--share")] = 0.5,
    yes: Annotated[bool, typer.Option("--yes")] = False,
) -> None:
    print(f"{words=} {k=} {many=} {name=} {names=} {way=} {place=} {number=} {share=} {yes=}")


@pytest.mark.parametrize(
    "typed",
    [
        "", "a", "a b -k 20", "a -k 0", "a -k 21", "a -k x", "a -k 1_0", "a -k ٣", "a -k -3", "a -k +3", "a --many 5",
        "a --name n", "a --names x --names y", "a --way b", "a --way c", "a --place here", "a --number 7",
        "a --number seven", "a --share .25 --yes", "a --nothing", "--help",
    ],
)  # fmt: skip
@pytest.mark.parametrize("environment", [{}, {"MANY": "4"}, {"MANY": "many"}])
def test_values_are_those_that_typer_makes_of_them(typed: str, environment: dict[str, str]) -> None:
    said = []
    for plainly in (False, True):
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command()(_shows)
        command = typer.main.get_command(alone)
        if plainly:
            values.take_plainly(command, _shows)
            values.leave_out(command.params)
        said.append(_called(command, typed.split(), environment))
    assert said[0] == said[1]


def _called(command, words: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Return the exit code and all that a command of Typer's says, called in this process."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        patch.delenv("MANY", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            command(words, prog_name="shows")
        except SystemExit as e:
            return int(e.code or 0), out.getvalue()
    return 0, out.getvalue()


def test_the_help_lists_all_commands_and_makes_the_flags_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "_command", lambda name: pytest.fail(f"made the flags of {name}"))
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0 and all(f"\n  {name} " in result.stdout for name in lazy.NAMES)
