"""The socket of a server: commands that it answers with what they would say, and those that it leaves to them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served_library import HERE
from small_library import SENTENCE
from typer.testing import CliRunner

from tvr_cli import errors, log
from tvr_cli.cli import app
from tvr_cli.engine.searching import resident
from tvr_cli.results.found import QueryReport
from tvr_cli.server import door
from tvr_cli.server.library import Library
from tvr_cli.version import __version__
from tvr_cli.workspace import Workspace

ASKED: dict[str, Any] = {"sentences": [SENTENCE], "k": 2, "min_confidence": None}


@pytest.fixture
def opened(library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = door.Door(library)
    note = library.workspace.server_note
    with made.open():
        note.write_text(json.dumps({"tvr": __version__, "pid": os.getpid(), "url": HERE, "socket": str(made.path)}))
        yield made.path
    note.unlink(missing_ok=True)


def test_a_query_is_answered_by_the_server_with_the_same(opened, place, library):
    assert opened.stat().st_mode & 0o777 == 0o600
    asked = {"k": 2, "min_confidence": None}
    library.answer([SENTENCE], asked)  # a first question is answered without torch, whose last digit may differ
    found = resident.ask(library.workspace, "search", ASKED)
    assert found is not None and found.to_json() == library.answer([SENTENCE], asked).to_json()
    result = CliRunner().invoke(app, ["query", SENTENCE, "--verbose", "--all", "-o", str(place / "out"), "--json"])
    assert result.exit_code == 0 and "answered by the server of this workspace" in result.stderr
    QueryReport.from_json(json.loads(result.stdout), "the answer")


@pytest.mark.parametrize("words", [["explain", SENTENCE, "test/00000.mp4"], ["similar", "test/00000.mp4"]])
def test_other_commands_that_ask_are_answered_by_the_server_with_the_same(opened, place, monkeypatch, words):
    served = CliRunner().invoke(app, ["--debug", *words, "-o", str(place / "out"), "--json"])
    assert served.exit_code == 0 and "answered by the server of this workspace" in served.stderr
    monkeypatch.setenv("TVR_NO_SERVER", "1")
    alone = CliRunner().invoke(app, [*words, "-o", str(place / "out"), "--json"])
    assert alone.exit_code == 0 and json.loads(served.stdout) == json.loads(alone.stdout)
    refused = CliRunner().invoke(app, [*words[:-1], "nowhere.mp4", "-o", str(place / "out")])
    assert refused.exit_code == 3 and "found 'nowhere.mp4'" in refused.stderr


@pytest.mark.parametrize(
    "words", [["query", SENTENCE, "--all"], ["explain", SENTENCE, "test/00000.mp4"], ["similar", "test/00000.mp4"]]
)
def test_who_is_answered_by_the_server_imports_nothing_that_searches(opened, place, words):
    command = ["tvr", "--debug", *words, "-o", str(place / "out"), "--json"]
    code = (
        "import sys\nfrom tvr_cli.cli import main\n"
        f"sys.argv = {command!r}\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    searching = {name for name in imported if name.startswith("tvr_cli.engine.searching.")}

    assert "answered by the server of this workspace" in done.stderr
    assert searching == {"tvr_cli.engine.searching.resident"}
    assert not imported & {"numpy", "torch", "PIL", "yaml", "rich", "pydantic", "tvr_cli.plans", "tvr_cli.config"}


def test_a_file_is_the_one_that_its_name_means_where_it_was_typed(opened, library, place, monkeypatch):
    def similar(moment: str) -> Any:
        return resident.ask(library.workspace, "similar", {"moment": moment, "k": 1})

    monkeypatch.chdir(place / "videos" / "test")
    assert similar("00001.mp4@0-1").video_id == "test/00001.mp4"
    assert similar("../val/00000.mp4").video_id == "val/00000.mp4"
    there = os.getcwd()
    monkeypatch.setattr(resident, "_here", lambda: str(place))  # who asks stands elsewhere than the server
    assert similar("videos/val/00000.mp4").video_id == "val/00000.mp4"
    assert similar(f"{there}/00001.mp4").video_id == similar("test/00001.mp4").video_id == "test/00001.mp4"
    assert similar("../val/00000.mp4") is None  # a file of the library as seen from the server alone


def test_what_is_said_once_is_said_to_each_who_asks(opened, library, client, caplog):
    line = "answers have no confidence: it takes 30 moments or windows to tell, and the index has 8"
    for _ in range(2):
        caplog.clear()
        with log.told() as said:  # as in a process of its own
            assert resident.ask(library.workspace, "search", ASKED) is not None
        assert said == [line]
        answer = client.get("/api/search", params={"q": SENTENCE})
        assert json.loads(answer.headers["tvr-said"]) == [line]
    assert "tvr-said" not in client.get("/api/library").headers


def test_what_the_server_refuses_is_refused_with_its_words(opened, place):
    result = CliRunner().invoke(app, ["query", " ", "-o", str(place / "out")])
    assert result.exit_code == 2 and "expected a sentence to look for" in result.stderr
    with pytest.raises(errors.ConfigError, match="expected a sentence"):
        resident.ask(Workspace(place / "out"), "search", {"sentences": [""]})


@pytest.mark.parametrize(
    "asked",
    [
        {**ASKED, "method": "mean"},  # it answers with another
        {**ASKED, "image": ["a.png"]},  # a path as seen from here
        {**ASKED, "shoe_size": 44},  # it knows nothing of
        {**ASKED, "inside": ["holiday/"]},  # a folder as seen from here
        {**ASKED, "inside": "holiday/*.mp4"},
    ],
)
def test_what_the_server_does_not_answer_with_is_answered_here(opened, library, asked):
    assert resident.ask(library.workspace, "search", asked) is None


@pytest.mark.parametrize("flag, value", [("device", "cpu:0"), ("method", "mean"), ("offline", True)])
def test_what_was_named_otherwise_than_for_the_server_is_said(flag, value, opened, library, caplog):
    with caplog.at_level("DEBUG", logger="tvr"):
        assert resident.ask(library.workspace, "search", {**ASKED, flag: value}) is None
    assert f"not asked of a server: it was started with another --{flag} than was named" in caplog.text


def test_files_by_name_and_by_whole_paths_are_asked_of_the_server(opened, library, place):
    for inside in ("*.mp4", f"{place}/videos/"):
        found = resident.ask(library.workspace, "search", {**ASKED, "inside": [inside]})
        assert found is not None and len(found.results[0].hits) == 2


def test_a_backbone_that_the_variable_names_here_alone_is_asked_here(opened, library, monkeypatch):
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")  # the server was started before
    assert resident.ask(library.workspace, "search", ASKED) is None
    monkeypatch.delenv("TVR_BACKBONE")
    assert resident.ask(library.workspace, "search", ASKED) is not None


def test_other_versions_other_workspaces_and_the_variable_are_answered_here(opened, library, monkeypatch, tmp_path):
    other = Workspace(tmp_path / "other")
    other.root.mkdir()
    other.server_note.write_text(library.workspace.server_note.read_text())
    assert resident.ask(other, "search", ASKED) is None
    with monkeypatch.context() as changed:
        changed.setattr(resident, "__version__", "0.0.1")
        assert resident.ask(library.workspace, "search", ASKED) is None
    with monkeypatch.context() as changed:
        changed.setenv("TVR_NO_SERVER", "1")
        assert resident.ask(library.workspace, "search", ASKED) is None
    assert resident.ask(library.workspace, "search", ASKED) is not None


@pytest.mark.parametrize(
    "note", ["", "[]", '{"pid": 1}', '{"pid": "1", "socket": "/x", "url": "u"}', "\xff", "{" * 9999]
)
def test_a_note_that_says_nothing_is_no_server(note, tmp_path):
    workspace = Workspace(tmp_path)
    workspace.server_note.write_text(note, encoding="latin-1")
    assert resident.ask(workspace, "search", ASKED) is None and resident.running(workspace) is None


def test_a_stale_or_foreign_socket_is_ignored(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    plain = tmp_path / "plain"
    plain.write_text("no socket")
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(dead))
    for path in (plain, dead, tmp_path / "none"):
        note = {"tvr": __version__, "pid": os.getpid(), "url": HERE, "socket": str(path)}
        workspace.server_note.write_text(json.dumps(note))
        assert resident.ask(workspace, "search", ASKED) is None
    live = tmp_path / "live.sock"
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(live))
        line.listen()
        workspace.server_note.write_text(json.dumps({**note, "socket": str(live)}))
        monkeypatch.setattr(resident, "peer", lambda line: os.getuid() + 1)
        assert resident.ask(workspace, "search", ASKED) is None  # another user listens


@pytest.mark.parametrize("says", [b"", b"something else\n"])
def test_a_server_that_sleeps_or_speaks_otherwise_is_not_waited_for(tmp_path, monkeypatch, says):
    monkeypatch.setattr(resident, "_HEARD_S", 0.2)
    workspace = Workspace(tmp_path)
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(tmp_path / "live.sock"))
        line.listen()
        note = {"tvr": __version__, "pid": os.getpid(), "url": HERE, "socket": str(tmp_path / "live.sock")}
        workspace.server_note.write_text(json.dumps(note))

        def answer() -> None:
            with line.accept()[0] as asking:
                asking.sendall(says)
                asking.recv(1 << 16)
                time.sleep(0.5)

        other = threading.Thread(target=answer)
        other.start()
        assert resident.ask(workspace, "search", ASKED) is None
        other.join()


def test_whoever_connects_and_says_nothing_keeps_nobody_waiting(opened, library):
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as half:
        silent.connect(str(opened))
        half.connect(str(opened))
        half.sendall(b'{"tvr": ')
        assert resident.ask(library.workspace, "search", ASKED) is not None
