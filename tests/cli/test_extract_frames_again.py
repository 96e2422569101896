"""`tvr extract-frames` on what is there already: second runs, changed files, parts, interruption, damage."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import videos
from extracting import SMALL, report, run, shown, three_clips
from processes import REST, WATCHDOG_S, line_of
from typer.testing import CliRunner

from tvr_cli import files
from tvr_cli.cli import app
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.stores.frames.writer import FrameWriter

pytestmark = pytest.mark.usefixtures("warm_readers")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_clips(tmp_path_factory.mktemp("made"))


@pytest.fixture
def clips(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "videos"))


def test_a_second_run_reads_only_what_is_new_changed_or_renamed(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(clips, "-o", out)
    assert report(clips, "-o", out)["kept"] == 3

    (clips / "b.webm").rename(clips / "renamed.webm")  # the same content under another name
    os.utime(clips / "a.mp4", (1, 1))  # touched
    videos.make_video(clips / "cats" / "a.mkv", 24)  # changed
    shutil.copy(clips / "a.mp4", clips / "copy.mp4")  # a copy
    videos.make_video(clips / "new.mp4", 10)
    found = report(clips, "-o", out)
    assert (found["ok"], found["kept"], found["renamed"], found["forgotten"]) == (2, 3, 1, 0)
    store = FrameStore.open(out / "frames")
    assert [r.id for r in store.records] == ["a.mp4", "cats/a.mkv", "copy.mp4", "new.mp4", "renamed.webm"]
    assert shown(store, "cats/a.mkv") == [3, 9, 15, 21]
    assert shown(store, "copy.mp4") == shown(store, "a.mp4") == [2, 7, 12, 17]
    assert shown(store, "renamed.webm") == [3, 11, 18, 26]
    assert store.records[-1].path == str(clips / "renamed.webm")

    for name in ("a.mp4", "new.mp4"):
        (clips / name).unlink()
    found = report(clips, "-o", out, "--forget")
    assert (found["ok"], found["kept"], found["forgotten"]) == (0, 3, 2)
    assert [r.id for r in FrameStore.open(out / "frames").records] == ["cats/a.mkv", "copy.mp4", "renamed.webm"]


def test_a_second_folder_with_the_same_names_keeps_both(clips: Path, tmp_path: Path) -> None:
    first, second, out = tmp_path / "cam1", tmp_path / "cam2", tmp_path / "out"
    for folder, frames in ((first, 20), (second, 10)):
        folder.mkdir()
        videos.make_video(folder / "GX01.mp4", frames)
        videos.make_video(folder / f"only_{folder.name}.mp4", 5)
    run(first, "-o", out)
    run(second, "-o", out)
    ids = ["GX01.mp4", "cam2/GX01.mp4", "cam2/only_cam2.mp4", "only_cam1.mp4"]
    store = FrameStore.open(out / "frames")
    assert [r.id for r in store.records] == ids
    assert shown(store, "GX01.mp4") == [2, 7, 12, 17] and shown(store, "cam2/GX01.mp4") == [1, 3, 6, 8]
    for again in (first, second):  # in any order, and for ever
        found = report(again, "-o", out)
        assert (found["ok"], found["kept"], found["forgotten"]) == (0, 2, 0)
    assert [r.id for r in FrameStore.open(out / "frames").records] == ids

    videos.make_video(first / "only_cam2.mp4", 7)  # of another source, but under another id there
    videos.make_video(second / "new.mp4", 8)
    run(first, "-o", out)
    run(second, "-o", out)
    assert {"only_cam2.mp4", "cam2/new.mp4"} <= {r.id for r in FrameStore.open(out / "frames").records}


def test_a_name_that_another_folder_had_first_is_prefixed_alone_and_stays(clips: Path, tmp_path: Path) -> None:
    first, second, out = tmp_path / "cam1", tmp_path / "cam2", tmp_path / "out"
    for folder, name in ((first, "a.mp4"), (second, "b.mp4")):
        folder.mkdir()
        videos.make_video(folder / name, 5)
        run(folder, "-o", out)
    videos.make_video(first / "b.mp4", 9)
    run(first, "-o", out)
    assert [r.id for r in FrameStore.open(out / "frames").records] == ["a.mp4", "b.mp4", "cam1/b.mp4"]
    (second / "b.mp4").unlink()
    run(second, "-o", out, code=3)  # a folder without videos
    videos.make_video(second / "c.mp4", 4)
    run(second, "-o", out, "--forget")
    assert report(first, "-o", out)["kept"] == 2
    assert [r.id for r in FrameStore.open(out / "frames").records] == ["a.mp4", "c.mp4", "cam1/b.mp4"]


def test_a_folder_that_moved_keeps_its_ids(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(clips, "-o", out)
    moved = clips.rename(tmp_path / "elsewhere")
    found = report(moved, "-o", out)
    assert (found["ok"], found["kept"]) == (0, 3)
    assert [r.id for r in FrameStore.open(out / "frames").records] == ["a.mp4", "b.webm", "cats/a.mkv"]


def test_a_file_replaced_by_one_of_its_size_and_time_is_noticed(clips: Path, tmp_path: Path) -> None:
    """`cp -p` of another recording: size and time are the old ones, the inode is not."""
    out, path = tmp_path / "out", clips / "a.mp4"
    run(clips, "-o", out)
    old = path.stat()
    other = bytearray(path.read_bytes())
    other[-1] ^= 1
    (clips / "other").write_bytes(other)
    os.utime(clips / "other", ns=(old.st_atime_ns, old.st_mtime_ns))
    (clips / "other").replace(path)
    assert path.stat().st_mtime_ns == old.st_mtime_ns and path.stat().st_size == old.st_size
    assert report(clips, "-o", out)["ok"] == 1


def test_a_changed_file_that_can_no_longer_be_read_leaves_the_store(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(clips, "-o", out)
    (clips / "a.mp4").write_bytes(b"overwritten by mistake")
    assert report(clips, "-o", out, code=5)["failed"] == 1
    assert [r.id for r in FrameStore.open(out / "frames").records] == ["b.webm", "cats/a.mkv"]


def test_failures_stay_until_they_are_retried_or_gone(clips: Path, tmp_path: Path) -> None:
    out, bad = tmp_path / "out", clips / "bad.mp4"
    bad.write_text("text, not a video")
    assert report(clips, "-o", out, code=5)["failed"] == 1
    again = report(clips, "-o", out, code=5)
    assert (again["ok"], again["kept"], again["failed"]) == (0, 3, 1)
    assert report(clips, "-o", out, "--allow-failures")["failed"] == 1
    assert report(clips, "-o", out, "--retry-failed", code=5)["failed"] == 1
    assert len((out / "frames" / "failures.jsonl").read_text().splitlines()) >= 1

    videos.make_video(bad, 10)  # mended: a changed file is tried without a flag
    assert report(clips, "-o", out)["ok"] == 1
    assert (out / "frames" / "failures.jsonl").read_text() == ""

    (clips / "worse.mp4").touch()
    assert report(clips, "-o", out, code=5)["failed"] == 1
    (clips / "worse.mp4").unlink()
    assert report(clips, "-o", out)["failed"] == 0


def test_another_plan_is_refused_unless_overwritten(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(clips, "-o", out)
    other = ["--size", "48", "--num-frames", "5", "--workers", "1"]
    error = run(clips, "-o", out, code=3, plan=other).stderr
    assert "num_frames = 4" in error and "num_frames = 5" in error and "--overwrite" in error
    run(clips, "-o", out, "--dry-run", code=3, plan=other)
    assert report(clips, "-o", out, "--overwrite", plan=other)["ok"] == 3
    assert FrameStore.open(out / "frames").plan.num_frames == 5


def test_shards_of_a_run_add_up_in_one_workspace(clips: Path, tmp_path: Path) -> None:
    for i in range(6):
        videos.make_video(clips / f"{i}.mp4", 8 + i)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(clips, "-o", whole)
    counts = [report(clips, "-o", parts, "--shard", f"{i}/3")["ok"] for i in (1, 2, 3)]
    assert sum(counts) == 9 and min(counts) >= 1
    first, second = FrameStore.open(whole / "frames"), FrameStore.open(parts / "frames")
    assert first.content_hash() == second.content_hash()
    assert "--overwrite with --shard" in run(clips, "-o", parts, "--shard", "1/3", "--overwrite", code=2).stderr


def test_a_second_run_of_the_same_part_stops_with_4(clips: Path, tmp_path: Path, monkeypatch: Any) -> None:
    lock = files.lock
    monkeypatch.setattr(files, "lock", lambda folder, *, wait_s=0.3: lock(folder, wait_s=wait_s))
    out = tmp_path / "out"
    with lock(out / "frames" / "locks" / "1-of-1"):
        error = run(clips, "-o", out, code=4).stderr
    assert "another tvr process is writing" in error and "-o" in error
    assert report(clips, "-o", out)["ok"] == 3


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_repair_rebuilds_only_the_damaged_shard(clips: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    for name in ("a.mp4", "b.webm"):
        run(clips / name, "-o", out)
    before = FrameStore.open(out / "frames").content_hash()
    hurt = next(c.shard for c in FrameWriter(out / "frames").clips() if c.record.id == "b.webm")
    path = out / "frames" / hurt
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if damage == "delete":
        path.unlink()

    found = json.loads(CliRunner().invoke(app, ["extract-frames", "--repair", hurt, "-o", str(out), "--json"]).stdout)
    assert (found["videos"], found["ok"], found["failed"]) == (1, 1, 0)
    store = FrameStore.open(out / "frames")
    assert shown(store, "b.webm") == [3, 11, 18, 26] and shown(store, "a.mp4") == [2, 7, 12, 17]
    assert store.content_hash() == before
    assert "--repair all checks every shard" in run("--repair", "nothing", "-o", out, code=3, plan=[]).stderr
    again = json.loads(CliRunner().invoke(app, ["extract-frames", "--repair", "all", "-o", str(out), "--json"]).stdout)
    assert again["videos"] == 0


def test_damaged_records_are_taken_out_and_read_again(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(clips / "a.mp4", "-o", out)
    run(clips, "-o", out)
    hurt = next(s.line for s in FrameWriter(out / "frames").shards if len(s.clips) == 2)
    path = out / "frames" / hurt.records
    path.write_bytes(path.read_bytes().replace(b"truncated", b"truncatex"))

    error = run(clips, "-o", out, code=3).stderr
    assert f"the records {str(path)!r} are damaged" in error
    named = re.search(r"tvr (extract-frames --repair \S+ -o \S+), then", error)
    assert named is not None and hurt.name in named[1]
    mended = CliRunner().invoke(app, shlex.split(named[1]))
    assert mended.exit_code == 0 and "it is taken out" in mended.stderr
    assert [r.id for r in FrameStore.open(out / "frames").records] == ["a.mp4"]
    found = report(clips, "-o", out)
    assert (found["ok"], found["kept"]) == (2, 1)


def test_a_plain_run_rebuilds_a_shard_that_is_cut_short(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(clips / "a.mp4", "-o", out)
    run(clips, "-o", out)
    shard = next(s.name for s in FrameWriter(out / "frames").shards if len(s.clips) == 2)
    path = out / "frames" / shard
    path.write_bytes(path.read_bytes()[:100])
    found = report(clips, "-o", out)
    assert (found["ok"], found["kept"]) == (2, 1)
    assert len(list(FrameStore.open(out / "frames").read(["a.mp4", "b.webm", "cats/a.mkv"]))) == 3


def start(clips: Path, out: Path, *flags: str, rest_after: int | None = None) -> subprocess.Popen[str]:
    """Start a run in a process of its own that writes a shard after each video; it says so after `rest_after` shards,
    and rests."""
    code = f"""
import sys
from tvr_cli.engine.extraction import extract
extract._SHARD_CLIPS = 1
add, written = extract.FrameWriter.add, []
def add_and_rest(*args):
    add(*args)
    written.append(1)
    if len(written) == {rest_after}:
        print("resting", flush=True)
        {REST}
extract.FrameWriter.add = add_and_rest
from tvr_cli.cli import main
sys.argv[0] = "tvr"
main()
"""
    command = [sys.executable, "-c", code, "extract-frames", str(clips), "-o", str(out), *SMALL, *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture
def many(made: Path, tmp_path: Path) -> Path:
    """Twenty-four different clips."""
    folder = tmp_path / "many"
    folder.mkdir()
    data = (made / "a.mp4").read_bytes()
    for i in range(24):
        (folder / f"{i:02d}.mp4").write_bytes(data + bytes([i]))
    return folder


def test_ctrl_c_saves_and_says_how_to_go_on(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(many, out, rest_after=2)
    assert line_of(process) == "resting"
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers as well
    _, error = process.communicate(timeout=WATCHDOG_S)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "are saved" in error and f"continue with: tvr extract-frames {many}" in error
    saved = len(FrameStore.open(out / "frames"))
    assert 2 <= saved < 24
    found = report(many, "-o", out)
    assert (found["kept"], found["ok"]) == (saved, 24 - saved)


def test_a_killed_run_is_continued_from_whole_shards(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(many, out, rest_after=2)
    assert line_of(process) == "resting"
    process.kill()
    process.communicate(timeout=WATCHDOG_S)
    saved = len(FrameStore.open(out / "frames"))
    assert 2 <= saved < 24
    found = report(many, "-o", out)
    assert (found["kept"], found["ok"], found["failed"]) == (saved, 24 - saved, 0)
    assert len(list(FrameStore.open(out / "frames").read([f"{i:02d}.mp4" for i in range(24)]))) == 24


def test_parts_may_run_at_the_same_time_in_one_workspace(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    processes = [start(many, out, "--shard", f"{i}/2") for i in (1, 2)]
    assert [p.wait(timeout=WATCHDOG_S) for p in processes] == [0, 0], [p.stderr.read() for p in processes if p.stderr]
    store = FrameStore.open(out / "frames")
    assert [r.id for r in store.records] == [f"{i:02d}.mp4" for i in range(24)]
    assert len(list(store.read([r.id for r in store.records]))) == 24
    assert report(many, "-o", out)["kept"] == 24


def test_copies_in_one_run_do_not_disturb_each_other(made: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "copies", tmp_path / "out"
    folder.mkdir()
    for name in ("1.mp4", "2.mp4"):
        shutil.copy(made / "a.mp4", folder / name)
        run(folder / name, "-o", out)
    (folder / "1.mp4").unlink()
    assert report(folder, "-o", out, "--forget")["forgotten"] == 1
    assert shown(FrameStore.open(out / "frames"), "2.mp4") == [2, 7, 12, 17]
