"""Whatever is shown, a name in it cannot break a line, steer the terminal or be read as a style."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from videos import make_video

from tvr_cli import log
from tvr_cli.cli import app, render
from tvr_cli.log import printable
from tvr_cli.results.base import Result

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Of what a terminal or rich obeys: escapes (C0 and C1), a new title, line breaks, direction, styles, emoji, bad bytes.
NASTY = (
    "\x1b[31m", "\x9b31m", "\x1b]0;title\x07", "\r", "\n", "\t", "\x7f", "\x85", "\u2028", "\u202e", "\u2066", "\u200d",
    "\ufeff", "\udcff", "[/b]", "[red]", ":dog:", "\\", "%s", "{}", "a", "犬", " ",
)  # fmt: skip
ANY = st.lists(st.sampled_from(NASTY) | st.characters(exclude_categories=()), max_size=8).map("".join)
# What a shell can give: no NUL, and half surrogates only for bytes that are no UTF-8.
TYPED = st.lists(st.sampled_from(NASTY) | st.characters(exclude_characters="\0"), min_size=1, max_size=8).map("".join)


def plain(text: str) -> bool:
    """Whether every line of a text is printable."""
    return all(row.isprintable() for row in text.split("\n"))


@given(ANY)
@SETTINGS
def test_what_is_printable_is_one_line_of_utf_8_and_left_alone(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable() and printable(shown) == shown
    assert shown.encode().decode() == shown
    assert (shown == name) == name.isprintable()


@given(ANY)
@SETTINGS
def test_log_records_and_warnings_are_lines(name: str) -> None:
    out = io.StringIO()
    log.set_up(debug=True)
    with contextlib.redirect_stderr(out):
        log.logger.info("%s", name)
        log.logger.error("error: " + name.replace("%", "%%"))
        log.warn_once(name)
        log.warn_once(name)
        log.finish()
    said = out.getvalue()
    assert plain(said) and said.count("\n") == 4
    assert said == f"{printable(name)}\nerror: {printable(name.replace('%', '%%'))}\n" + (
        f"warning: {printable(name)}\nwarning: (2 times) {printable(name)}\n"
    )


@given(ANY, ANY)
@SETTINGS
def test_lines_and_tables_hold_names_as_text(name: str, other: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out := io.StringIO())
        render.line(name)
        render.table(name, ("#", other), [[1, name], [2, other]], left=2)
    said = out.getvalue()
    assert plain(said) and said.startswith(printable(name) + "\n")
    rows = [row for row in said.splitlines()[1:] if row.strip()]
    assert [row.split() for row in rows[-2:]] == [["1", *printable(name).split()], ["2", *printable(other).split()]]


CELLS = st.text(st.sampled_from("ab é–[]:\\"), max_size=6) | ANY | st.floats() | st.none() | st.integers()


@given(st.none() | CELLS.map(str), st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=3), st.integers(0, 3))
@example("ab", [("a  b", " a", "b ")], 2)
@example("a title wider than its table", [("犬", "x" * 40, 1.25)], 1)
@example("a title that is much-wider than its table, because it is a sentence " * 2 + "x", [("a", "b", 1.25)], 1)
@example("aword" * 9 + " b", [("a", "b", 1.25)], 1)
@example(None, [("a", "b", "x" * 10_000)], 3)
@SETTINGS
def test_a_table_in_plain_letters_is_what_rich_prints(title: str | None, rows: list[tuple], left: int) -> None:
    said = []
    for plainly in (render.plain_table, lambda *_, **__: None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", out := io.StringIO())
            patch.setattr(render, "plain_table", plainly)
            render.table(title, ("#", "video", "where it is"), rows, left=left)
        said.append(out.getvalue())
    assert said[0] == said[1]


def test_a_table_of_hits_is_made_without_rich() -> None:
    code = (
        "import sys; from tvr_cli.cli import render; "
        "render.table('a dog', ('#', 'video', 'where', 'score'), [[1, 'videos/é.mp4', '0:00.0–0:02.0', '0.312']]);"
        "assert 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Named(Result):
    schema = "test-named"
    name: str
    held: Mapping[str, Any]


@given(ANY)
@SETTINGS
def test_json_stays_exact_and_cannot_steer_a_terminal(name: str) -> None:
    found = Named(name, {name: [name, {"path": name}]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out := io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
        render.result(found, True, lambda: None)
        out.flush()
        said = out.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert json.loads(said) == found.to_json() and plain(said) and said.count("\n") == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_said_after_stderr_was_replaced_goes_where_it_is_now() -> None:
    with contextlib.redirect_stderr(closed := io.StringIO()):
        log.set_up()
        log.logger.info("before")
        assert closed.getvalue() == "before\n"
    closed.close()
    with contextlib.redirect_stderr(out := io.StringIO()):
        log.logger.info("after")
    assert out.getvalue() == "after\n"


# What rich writes around a bar: the cursor off and on, a line cleared, one up.
RICH = re.compile(r"\x1b\[(?:\?25[lh]|2K|1A)|\r")


@given(ANY)
@SETTINGS
def test_bars_show_names_as_text(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", out := Terminal())
        patch.setenv("TERM", "xterm")
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "400")
        log.set_up()
        with log.progress(f"reading {name}", total=2, unit="videos") as bar:
            bar.advance(note=name)
            bar.advance(note=name)
    assert plain(RICH.sub("", out.getvalue()))
    last = RICH.sub("", out.getvalue()).rstrip().splitlines()[-1]
    assert f"reading {printable(name)}".rstrip() in last and last.endswith(printable(name).rstrip())


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout + result.stderr


USAGE = [
    lambda name: ["x" + name],
    lambda name: ["--x" + name],
    lambda name: ["info", "--x" + name],
    lambda name: ["info", "a", "x" + name],
    lambda name: ["query", "a", "-k", "x" + name],
    lambda name: ["evaluate", "--split", "x" + name],
    lambda name: ["methods", "x" + name],
    lambda name: ["info", "/nowhere/" + name],
    lambda name: ["compare", "/nowhere/" + name, "b"],
    lambda name: ["train", "--method", "mean", "--set", "train.x" + name + "=1"],
    lambda name: ["train", "--method", "mean", "--set", "train.lr=[" + name],
    lambda name: ["index", "-o", "/nowhere/" + name],
    lambda name: ["precompute-features", "-o", "/nowhere", "--backbone", "x" + name],
]


@pytest.mark.parametrize("usage", USAGE, ids=lambda usage: " ".join(usage("NAME")))
@given(name=TYPED)
@example(name="\x1b[31m[/b]")
@settings(SETTINGS, max_examples=15)
def test_errors_repeat_what_was_typed_without_obeying_it(usage: Any, name: str) -> None:
    code, said = run(*usage(name))
    assert code in (2, 3, 4) and plain(said), said


def test_a_traceback_is_printable_too(tmp_path: Path) -> None:
    program = "import sys; sys.argv = ['tvr', '--debug', 'info', sys.argv[1]]; from tvr_cli.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "x\x1b[31m")], capture_output=True, cwd=ROOT)
    said = done.stderr.decode()
    assert done.returncode == 1 and plain(said) and said.startswith("Traceback") and r"x\x1b[31m" in said


def test_a_video_whose_name_is_no_utf8_is_named_as_every_other_message_does(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/a\xff.mp4")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    told = CliRunner().invoke(app, ["extract-frames", str(folder), "-o", str(tmp_path / "out")])
    assert told.exit_code == 3 and f"ignored '{folder}/a\\udcff.mp4': its name is not valid UTF-8" in told.stderr


@pytest.mark.parametrize("terminal", [False, True])
def test_paths_are_exact_for_programs_and_printable_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    names = ["a b.mp4", "x\x1b[31m\n.mp4", "\udcff.mp4"]
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(out, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdout", out)
    render.exact(names, end="\0")
    out.flush()
    said = out.buffer.getvalue()  # type: ignore[attr-defined]
    if terminal:
        assert said == b"a b.mp4\nx\\x1b[31m\\n.mp4\n\\udcff.mp4\n"
    else:
        assert said == b"a b.mp4\0x\x1b[31m\n.mp4\0\xff.mp4\0"


def at_a_terminal(args: list[str], folder: Path) -> tuple[int, bytes]:
    """Run tvr with a terminal on stdout and stderr and return its exit code and all that it wrote."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    program = "from tvr_cli.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *args], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    said = b"".join(pieces(ours))
    return process.wait(), said


def pieces(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            piece = os.read(terminal, 65_536)
        except OSError:  # the other side is closed
            piece = b""
        if not piece:
            os.close(terminal)
            return
        yield piece


def test_videos_of_any_name_are_extracted_at_a_terminal(tmp_path: Path) -> None:
    for name in ("a[/b].mp4", "x\x1b]0;title\x1b\\\x1b[31m.mp4", "\u202egpj.mp4", ":dog:[red].mp4"):
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(tmp_path / "v" / name, frames=12)
    (tmp_path / "v" / "broken\x1b[35m\n.mp4").write_bytes(b"no video")
    code, said = at_a_terminal(["extract-frames", "v", "-o", "o", "--workers", "1"], tmp_path)
    text = RICH.sub("", said.decode())
    assert code == 5 and plain(text), text
    assert r"failed: broken\x1b[35m\n.mp4" in text and "4 ok, 0 kept, 1 failed" in text


def test_nothing_is_printed_beside_the_one_function() -> None:
    found = set()
    for path in sorted((ROOT / "tvr_cli").rglob("*.py")):
        where = path.relative_to(ROOT / "tvr_cli").as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in ("print", "typer.echo", "typer.secho") or re.search(r"std(out|err)(\.buffer)?\.write$", name):
                found.add(f"{where}: {ast.unparse(node)}")
    assert found == {
        "cli/render.py: print(printable(text))",
        "cli/render.py: print(''.join((c if c.isprintable() else json.dumps(c)[1:-1] for c in text)))",
        "cli/render.py: sys.stdout.buffer.write(raw)",  # for a program
        "log.py: sys.stderr.write(printable(f'{question} [{listed}] '))",  # a question has no end of line
        "log.py: sys.stderr.write('\\n')",
        "server/transcode.py: sys.stderr.write(f'{e}\\n')",  # for the server, which reads it
    }
