"""`tvr watch` on real files: what comes, moves and goes is followed, nothing is made twice, and searches go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_frames
import videos
from processes import WATCHDOG_S
from typer.testing import CliRunner

from tvr_cli import files
from tvr_cli.cli import app
from tvr_cli.data.demo_world.corpus import WorldOptions, make
from tvr_cli.engine.extraction.difference import Seen, compare_videos
from tvr_cli.engine.extraction.discover import Selection
from tvr_cli.engine.extraction.extract import ExtractOptions, extract
from tvr_cli.plans import FramePlan
from tvr_cli.watching.passes import Passes
from tvr_cli.watching.status import searchable
from tvr_cli.watching.watcher import Halt, Watcher
from tvr_cli.workspace import Workspace

pytestmark = pytest.mark.usefixtures("warm_readers")

SENTENCE = "a red circle moves to the left"


def tvr(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
    return result


def caught_up(place: Path, *words: object, code: int = 0) -> list[dict[str, Any]]:
    """Catch up and return the events and, last, the status."""
    out = place / "out"
    said = tvr("watch", place / "videos", "-o", out, "--once", "--settle", 0, "--json", *words, code=code).stdout
    return [json.loads(line) for line in said.splitlines()]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Eight toy videos that were caught up with, and what was said. The place is a link: to whatever a test has."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "made").mkdir()
    place = folder / "place"
    place.symlink_to(folder / "made")
    make(place / "world", WorldOptions(train=2, val=2, test=4, captions=1))
    (place / "videos").mkdir()
    for video in (place / "world").glob("*/*.mp4"):
        shutil.copy(video, place / "videos" / f"{video.parent.name}-{video.name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TVR_BACKBONE", "demo-tiny")
        said = caught_up(place, "--for", "demo-tiny")
    return place, said


@pytest.fixture
def place(first: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same place, with a copy of all that is there."""
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")
    place, made = first[0], first[0].resolve()
    shutil.copytree(made, tmp_path / "copy", copy_function=shutil.copy2)
    for there in (tmp_path / "copy", made):
        place.unlink()
        place.symlink_to(there)
        if there != made:
            yield place


def made(out: Path) -> dict[str, bytes]:
    """The shards of frames and features, by name."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for part in ("frames", "features")
        for path in (out / part).rglob("*")
        if path.suffix == ".safetensors"
    }


def searched(out: Path) -> set[str]:
    found = json.loads(tvr("query", SENTENCE, "--all", "-k", 50, "-o", out, "--json").stdout)
    return {hit["video_id"] for hit in found["results"][0]["hits"]}


def test_catching_up_makes_all_that_a_query_needs_and_says_so_in_lines(first: tuple[Path, Any]) -> None:
    place, said = first
    assert [line["schema"] for line in said] == ["tvr/watch-event@1"] * 3 + ["tvr/watch@1"]
    assert [line.get("did") for line in said] == ["started", "finished", "ended", None]
    assert said[1]["done"]["read"] == 8 and said[1]["done"]["clips"] == 8 and said[-1]["state"] == "ended"
    assert (place / "out" / "index" / "current").is_file()


def test_what_moved_or_is_there_twice_is_not_read_again_and_what_went_is_forgotten(place: Path) -> None:
    videos_of, out = place / "videos", place / "out"
    before = made(out)
    assert before
    (videos_of / "sub").mkdir()
    (videos_of / "test-00000.mp4").rename(videos_of / "sub" / "called-otherwise.mp4")
    shutil.copy(videos_of / "test-00001.mp4", videos_of / "copy.mp4")
    (videos_of / "broken.mp4").write_bytes(b"no video")
    said = caught_up(place, code=5)
    done = said[1]["done"]
    assert (done["read"], done["renamed"], done["clips"]) == (0, 1, 9)
    assert [failure["what"] for failure in said[-1]["failures"]] == ["broken.mp4"] and said[-1]["failed"] == 1
    assert made(out) == before  # no frame was read, and no feature computed
    assert {"sub/called-otherwise.mp4", "copy.mp4"} <= searched(out) and "test-00000.mp4" not in searched(out)


def test_a_watcher_forgets_what_it_saw_go_and_leaves_what_is_moving(place: Path) -> None:
    """However much that is, where the next run of `tvr extract-frames` would think of a disk that is not there."""
    root, workspace = place / "videos", Workspace(place / "out")
    kept, lost = root / "train-00000.mp4", root / "train-00001.mp4"
    kept.unlink()
    lost.unlink()
    growing = Path(shutil.copy(root / "val-00000.mp4", root / "growing.mp4"))
    plan = FramePlan.from_identity(workspace.frames().identity)
    seen = Seen(leave=frozenset({kept, growing}), gone=frozenset({lost}))
    found = extract([root], workspace, plan, ExtractOptions(workers=1, seen=seen))
    assert (found.ok, found.forgotten, found.renamed, list(found.unreachable)) == (0, 1, 0, [])
    there = {record.file_id for record in workspace.frames().records}
    assert "train-00000.mp4" in there and "train-00001.mp4" not in there and "growing.mp4" not in there


@pytest.mark.parametrize("step", ["extracting frames", "encoding frames"])
def test_what_a_pass_did_before_it_was_stopped_is_counted_by_the_next(place: Path, step: str) -> None:
    root, passes = place / "videos", Passes(Workspace(place / "out"))
    (root / "val-00001.mp4").rename(root / "elsewhere.mp4")
    (root / "test-00002.mp4").unlink()
    videos.make_video(root / "new.mp4", 30)

    def pause(what: str, done: int, of: int | None) -> None:
        if what == step:
            raise Halt

    with pytest.raises(KeyboardInterrupt):
        passes.run([root], Seen(gone=frozenset({root / "test-00002.mp4"})), pause)
    found = passes.run([root], Seen(), lambda what, done, of: None)
    assert (found.read, found.renamed, found.forgotten, found.clips) == (1, 1, 1, 8)
    found = passes.run([root], Seen(), lambda what, done, of: None)
    assert (found.read, found.renamed, found.forgotten) == (0, 0, 0)


def test_the_first_word_of_a_watcher_says_how_much_can_be_searched_already(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "run", lambda watcher, once: watcher.board.now)
    assert (caught_up(place)[-1]["state"], caught_up(place)[-1]["clips"]) == ("starting", 8)
    assert searchable(Workspace(tmp_path)) is None


def test_an_empty_folder_is_watched_until_something_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")
    (tmp_path / "videos").mkdir()
    said = caught_up(tmp_path)
    assert said[1]["text"].startswith("nothing new; no video yet") and said[-1]["clips"] is None


def test_what_may_not_be_looked_at_is_not_forgotten_even_when_all_that_is_gone_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = [tiny_frames.clip(f"{i}.mp4", 1).clip for i in range(10)]

    def refuse(path: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    selection = Selection([], ("/videos",), None)
    monkeypatch.setattr(os, "stat", refuse)
    work = compare_videos([], selection, stored, {}, retry_failed=False, complete=False, forget=True)
    monkeypatch.undo()
    assert work.forgotten == 0 and work.updates == {}


def test_while_it_is_watched_a_search_answers_from_what_is_there(place: Path) -> None:
    """Frames that came a moment ago are the watcher's work: a query does not wait for it, nor do it twice."""
    out = place / "out"
    shutil.copy(place / "videos" / "val-00000.mp4", place / "videos" / "later.mp4")
    videos.make_video(place / "videos" / "new.mp4", 30)
    before = searched(out)
    workspace = Workspace(out)
    with files.lock(workspace.watch_folder):
        plan = FramePlan.from_identity(workspace.frames().identity)
        extract([place / "videos"], workspace, plan, ExtractOptions(workers=1))
        features = made(out)
        assert searched(out) == before
        assert made(out) == features
    assert searched(out) == before | {"later.mp4", "new.mp4"}


def test_before_there_is_an_index_a_search_says_that_it_is_being_made(place: Path) -> None:
    out = place / "out"
    shutil.rmtree(out / "index")
    with files.lock(Workspace(out).watch_folder):
        said = tvr("query", SENTENCE, "-o", out, code=4).stderr
    assert "is watched, and its first videos are still being taken in" in said and "tvr watch --status" in said
    assert not (out / "index").exists()


def test_captions_that_name_a_video_which_has_gone_do_not_stop_it(place: Path) -> None:
    root, out = place / "videos", place / "out"
    lines = [{"video": path.name, "caption": f"film {path.stem}"} for path in sorted(root.glob("*.mp4"))]
    (root / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tvr("precompute-features", "-o", out)
    (root / "test-00003.mp4").unlink()
    said = caught_up(place, "--forget")
    assert said[-1]["clips"] == 7 and said[-1]["problems"] == []
    assert "test-00003.mp4" not in searched(out)
    assert len(Workspace(out).newest_features().captions) == 7  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------------------- the command


def test_what_cannot_be_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    assert "give one of them" in tvr("watch", "-o", out, "--once", "--stop", code=2).stderr
    assert "name a folder" in tvr("watch", "-o", out, code=3).stderr
    assert "there is no such file or folder" in tvr("watch", tmp_path / "none", "-o", out, "--once", code=3).stderr
    for flag in ("--status", "--stop", "--pause", "--continue"):
        assert tvr("watch", "-o", out, flag).stdout == f"no watcher of {out} runs\n"
    monkeypatch.setitem(sys.modules, "watchdog.observers", None)
    assert "tvr-cli[watch]" in tvr("watch", tmp_path, "-o", out, code=4).stderr
    assert not out.exists()


def test_a_dry_run_says_what_would_be_read_and_writes_nothing(place: Path) -> None:
    shutil.copy(place / "videos" / "val-00000.mp4", place / "videos" / "again.mp4")
    videos.make_video(place / "videos" / "new.mp4", 30)
    before = sorted((place / "out").rglob("*"))
    root = place / "videos"
    said = json.loads(tvr("watch", root, "-o", place / "out", "--settle", 3600, "--dry-run", "--json").stdout)
    assert (said["videos"], said["todo"]) == (10, 1)  # also of those that a watcher would still let settle
    assert sorted((place / "out").rglob("*")) == before


def until(check: Callable[[], bool]) -> None:
    """Wait for something that surely comes."""
    ends = time.monotonic() + WATCHDOG_S
    while not check():
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.2)


def status(out: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(tvr("watch", "--status", "-o", out, "--json").stdout)
    return found


@pytest.mark.slow
def test_a_watcher_in_the_background_follows_what_happens(place: Path) -> None:
    """The whole of it: its own process, the system's events, growth, moves, a pause, and its end."""
    pytest.importorskip("watchdog")
    root, out = place / "videos", place / "out"
    started = subprocess.run(
        [sys.executable, "-m", "tvr_cli", "watch", str(root), "-o", str(out), "--background", "--settle", "1",
         "--workers", "1", "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    said = json.loads(started.stdout)
    try:
        assert said["how"] in ("events of the system", "") and said["processors"] == 1
        assert "is watched already" in tvr("watch", root, "-o", out, "--once", code=4).stderr
        until(lambda: status(out)["passes"] >= 1)
        assert status(out)["how"] == "events of the system"

        data = (root / "val-00001.mp4").read_bytes()
        new = videos.make_video(place / "elsewhere.mp4", 40).read_bytes()
        with open(root / "grows.mp4", "wb") as film:  # in three parts, each a moment after the other
            for part in (new[:1000], new[1000:3000], new[3000:]):
                film.write(part)
                film.flush()
                time.sleep(0.6)
        (root / "val-00001.mp4").rename(root / "elsewhere.mp4")
        (root / "test-00002.mp4").unlink()
        until(lambda: status(out)["read"] == 1 and status(out)["forgotten"] == 1)
        now = status(out)
        assert now["renamed"] == 1 and now["failed"] == 0 and now["clips"] == 8
        until(lambda: status(out)["state"] == "waiting")
        assert {"grows.mp4", "elsewhere.mp4"} <= searched(out) and "test-00002.mp4" not in searched(out)

        tvr("watch", "--pause", "-o", out)
        until(lambda: status(out)["state"] == "paused")
        (root / "while-paused.mp4").write_bytes(data[:-1] + b"x")
        tvr("watch", "--continue", "-o", out)
        until(lambda: status(out)["failed"] + status(out)["read"] >= 2)
        if hasattr(os, "sched_getaffinity"):
            assert len(os.sched_getaffinity(said["pid"])) == 1
    finally:
        ended = json.loads(tvr("watch", "--stop", "-o", out, "--json").stdout)
    assert ended["state"] == "ended" and status(out)["state"] == "none"
    assert not list(out.rglob("*.tmp"))
    lines = [json.loads(line) for line in (out / "watch" / "log").read_text().splitlines() if line.startswith("{")]
    assert [line["did"] for line in lines if line["did"] != "finished"] == ["started", "paused", "continued", "ended"]


@pytest.mark.slow
def test_a_server_that_watches_finds_what_comes_and_ends_its_watcher(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    root, out = place / "videos", place / "out"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def run(*words: object) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "tvr_cli", *map(str, words), "-o", str(out), "--json"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def told(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            return json.load(answer)

    run("serve", "--background", "--port", port, "--watch", root, "--watch-workers", 1)
    try:
        until(lambda: told("/api/watch")["passes"] == 1)
        watcher = told("/api/watch")["pid"]
        videos.make_video(root / "new.mp4", 40)
        until(lambda: told("/api/watch")["read"] == 1)
        until(lambda: told("/api/watch")["clips"] == 9)
        found = told(f"/api/search?q={SENTENCE.replace(' ', '+')}&k=50&everything=true")["results"][0]["hits"]
        assert "new.mp4" in {hit["video_id"] for hit in found}
    finally:
        assert run("serve", "--stop")["did"] == "stopped"
    until(lambda: status(out)["state"] == "none")
    with pytest.raises(ProcessLookupError):
        os.kill(watcher, 0)


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_a_pass_loses_nothing(place: Path) -> None:
    root, out = place / "videos", place / "out"
    for i in range(12):
        videos.make_video(root / f"new-{i:02}.mp4", 40 + i)
    command = [sys.executable, "-m", "tvr_cli", "watch", str(root), "-o", str(out), "--poll", "1", "--settle", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: process.poll() is not None or status(out)["state"] == "working")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=WATCHDOG_S)
    assert process.returncode == 0 and "ended; what was done is saved" in said
    assert caught_up(place)[-1]["clips"] == 20 and not list(out.rglob("*.tmp"))
