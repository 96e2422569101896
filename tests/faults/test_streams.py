"""Standard streams that are closed, full or of another encoding, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TVR = f"{sys.executable} -c 'from tvr_cli.cli import main; main()'"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="a shell that closes streams")


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", "-c", command.replace("tvr", TVR, 1)],
        capture_output=True, timeout=600, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("to", [">&-", "> /dev/full"])
@pytest.mark.parametrize("command", ["datasets --json", "--help"])
def test_a_result_that_cannot_be_written_is_exit_4_and_a_sentence(command: str, to: str) -> None:
    if "full" in to and not os.path.exists("/dev/full"):
        pytest.skip("no full device")
    ended = shell(f"tvr {command} {to}")
    assert (ended.returncode, ended.stdout) == (4, b"")
    assert ended.stderr.startswith(b"error: cannot write the result to standard output: ")
    assert ended.stderr.count(b"\n") == 1


def test_without_a_place_for_messages_a_command_does_what_it_does() -> None:
    ended = shell("tvr datasets --json 2>&-")
    assert ended.returncode == 0 and b"msrvtt" in ended.stdout
    assert shell("tvr info nowhere 2>&-").returncode == 3


def test_a_closed_standard_input_is_named(tmp_path: Path) -> None:
    ended = shell(f"tvr query - -o {tmp_path} <&-")
    assert ended.returncode == 2 and b"standard input, which is closed" in ended.stderr


def test_the_next_file_does_not_become_a_closed_stream(tmp_path: Path) -> None:
    code = (
        "import os, sys; from tvr_cli.cli import streams; streams.set_up(); "
        "f = open(sys.argv[1], 'w'); os.write(f.fileno(), str(f.fileno()).encode())"
    )
    subprocess.run(["sh", "-c", f'{sys.executable} -c "{code}" {tmp_path / "a"} <&- >&- 2>&-'], check=True)
    assert int((tmp_path / "a").read_text()) > 2


def test_bytes_that_are_no_utf_8_on_standard_input_are_a_sentence(tmp_path: Path) -> None:
    ended = shell(rf"printf 'star\n\377\n' | tvr query - -o {tmp_path}", PYTHONIOENCODING="utf-8:strict")
    assert ended.returncode == 2 and rb"line 2: expected a sentence in UTF-8, found '\udcff'" in ended.stderr


def test_characters_that_an_encoding_lacks_are_escaped() -> None:
    code = "from tvr_cli.cli import streams, render; streams.set_up(); render.line('a \\u72ac b \\u00e9')"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert ended.stdout == b"a \\u72ac b \xe9\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    assert shell("tvr methods --json | true").stderr == b""
