"""What `tvr extract-frames` once did without a word: what it skipped, forgot, left aside or guessed is said now."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import videos
from typer.testing import CliRunner
from videos import read_barcode

from tvr_cli import log
from tvr_cli.cli import app
from tvr_cli.engine.extraction import tree
from tvr_cli.stores.frames.store import FrameStore, decode_jpeg

pytestmark = pytest.mark.usefixtures("warm_readers")

SMALL = ["--size", "48", "--num-frames", "4", "--workers", "1"]


def run(*arguments: str | Path, code: int = 0, plan: bool = True) -> Any:
    result = CliRunner().invoke(app, ["extract-frames", *map(str, arguments), *(SMALL if plan else ())])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
    return result


def report(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json", code=code).stdout)
    return found


def ids(out: Path) -> list[str]:
    return [record.id for record in FrameStore.open(out / "frames").records]


def shown(store: FrameStore, clip: str) -> list[int]:
    return [read_barcode(decode_jpeg(jpeg)) for jpeg in next(store.read([clip])).jpegs]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos.make_video(tmp_path_factory.mktemp("clip") / "a.mp4", 10, size=(64, 48))


# ---------------------------------------------------------------------------------------------------------- forgetting


def test_a_disk_that_is_not_there_costs_nothing(clip: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out"
    (folder / "disk").mkdir(parents=True)
    for name in ("one.mp4", "two.mp4", "three.mp4"):
        shutil.copy(clip, folder / "disk" / name)
    run(folder, "-o", out)
    unmounted = (folder / "disk").rename(tmp_path / "elsewhere")
    videos.make_video(folder / "new.mp4", 8, size=(64, 48))
    found = run(folder, "-o", out)
    assert "3 videos are not where they were (disk/one.mp4, disk/three.mp4, disk/two.mp4)" in found.stderr
    assert "add --forget" in found.stderr and len(ids(out)) == 4
    unmounted.rename(folder / "disk")
    assert report(folder, "-o", out)["kept"] == 4
    shutil.rmtree(folder / "disk")
    again = report(folder, "-o", out)
    assert (again["forgotten"], len(again["unreachable"])) == (0, 3)
    gone = report(folder, "-o", out, "--forget")
    assert (gone["forgotten"], gone["unreachable"], ids(out)) == (3, [], ["new.mp4"])
    (folder / "new.mp4").unlink()
    run(folder, "-o", out, code=3)  # an empty folder, too, may be a disk that is not there
    assert ids(out) == ["new.mp4"]
    assert report(folder, "-o", out, "--forget")["forgotten"] == 1


def test_a_tenth_of_a_folder_is_forgotten_unasked(clip: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    for i in range(10):
        shutil.copy(clip, folder / f"{i}.mp4")
    run(folder, "-o", out)
    (folder / "4.mp4").unlink()
    assert report(folder, "-o", out)["forgotten"] == 1 and len(ids(out)) == 9
    for i in (5, 6):
        (folder / f"{i}.mp4").unlink()
    assert report(folder, "-o", out)["unreachable"] == ["5.mp4", "6.mp4"]


# ------------------------------------------------------------------------------------------------------ other endings


@pytest.mark.parametrize(
    ("name", "made_as", "codec"),
    [
        ("GX010001.LRV", "a.mp4", "libx264"),
        ("VID_00.insv", "a.mp4", "libx264"),
        ("holiday.mp4.part", "a.mp4", "libx264"),
        ("MOV001.MOD", "a.mpg", "mpeg2video"),
        ("ch01.dav", "a.ts", "libx264"),
        ("x.unknown", "a.mkv", "libx264"),
    ],
)
def test_a_video_is_found_by_what_it_holds(tmp_path: Path, name: str, made_as: str, codec: str) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    videos.make_video(tmp_path / made_as, 12, size=(64, 48), fps=25, codec=codec).rename(folder / name)
    assert report(folder, "-o", tmp_path / "out")["ok"] == 1 and ids(tmp_path / "out") == [name]


def test_a_film_of_a_small_player_is_found_by_what_it_holds(tmp_path: Path) -> None:
    videos.make_amv(tmp_path / "x.amv", 12)
    found = report(tmp_path, "-o", tmp_path / "out")
    assert (found["ok"], found["notes"]) == (1, [])  # AMV never says how long it is: nothing broke off
    assert shown(FrameStore.open(tmp_path / "out" / "frames"), "x.amv") == [1, 4, 7, 10]


def test_a_recording_of_a_camera_on_a_wall_is_found_by_what_it_holds(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    source = videos.make_video(tmp_path / "source.mp4", 20, fps=10, size=(64, 48))
    videos.make_dhav(folder / "ch01.dav", source)
    assert report(folder, "-o", tmp_path / "out")["ok"] == 1
    assert shown(FrameStore.open(tmp_path / "out" / "frames"), "ch01.dav") == [2, 7, 12, 17]


def test_a_ball_camera_is_found_and_both_its_lenses_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    videos.make_two_streams(tmp_path / "two.mp4").rename(folder / "GS010001.360")
    (note,) = report(folder, "-o", tmp_path / "out")["notes"]
    assert note == {"video": "GS010001.360", "note": "2 video tracks, one is read; --tracks all reads each"}


def test_a_folder_without_videos_is_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("text")
    walked, walk = list[Path](), tree.walk
    monkeypatch.setattr(tree, "walk", lambda folder, *, follow: walked.append(folder) or walk(folder, follow=follow))
    assert "found 1 other files" in run(tmp_path, "-o", tmp_path / "out", code=3).stderr
    assert walked == [tmp_path]


def test_what_is_skipped_is_counted_and_named_with_the_way_to_read_it(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(clip, folder / "a.mp4")
    videos.make_audio(tmp_path / "sound.mp4").rename(folder / "sound.snd")  # a container of videos, without one
    videos.make_video(tmp_path / "one.mkv", 1, size=(64, 48)).rename(folder / "one.still")  # a picture is no video
    (folder / "A001.r3d").write_bytes(b"\0\1RED2 of a kind that is not known here")
    (folder / "A002.R3D").write_bytes(b"\0\1RED2")
    found = run(folder, "-o", tmp_path / "out")
    assert ids(tmp_path / "out") == ["a.mp4"]
    assert "skipped 4 files that look like no video (2 .r3d, " in found.stderr
    assert "--include '*.r3d' reads such all the same" in found.stderr
    assert report(folder, "-o", tmp_path / "out2", "--include", "*.still")["ok"] == 1


def test_what_lies_beside_videos_is_worth_no_word(clip: Path, tmp_path: Path) -> None:
    """Captions and subtitles, lists, pictures and sounds: nobody takes them for videos."""
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(clip, folder / "a.mp4")
    for name in ("captions.jsonl", "events.jsonl", "world.json", "a.srt", "a.vtt", "a.ass", "a.nfo", "x.csv", "README"):
        (folder / name).write_text("text, größer\n", encoding="latin-1")
    (folder / "windows.txt").write_text("text", encoding="utf-16")
    for name in ("poster.JPG", "sound.mp3", "Thumbs.db"):
        (folder / name).write_bytes(b"\0\1\2")
    videos.make_audio(tmp_path / "sound.mp4").rename(folder / "song.m4a")
    found = run(folder, "-o", tmp_path / "out")
    assert ids(tmp_path / "out") == ["a.mp4"] and "skipped" not in found.stderr


# -------------------------------------------------------------------------------------------------------------- tracks


def test_the_second_track_is_noted_and_read_when_asked_for(tmp_path: Path) -> None:
    path, out = videos.make_two_streams(tmp_path / "two.mp4"), tmp_path / "out"
    first = report(path, "-o", out)
    assert first["notes"] == [{"video": "two.mp4", "note": "2 video tracks, one is read; --tracks all reads each"}]
    both = report(path, "-o", out, "--tracks", "all")
    assert (both["ok"], both["kept"], both["notes"]) == (1, 1, [])
    store = FrameStore.open(out / "frames")
    assert [r.id for r in store.records] == ["two.mp4", "two.mp4#track=0"]
    assert [shown(store, record.id) for record in store.records] == [[3, 11, 18, 26], [4095] * 4]
    assert len({r.key for r in store.records}) == 2  # or the features of one would be those of the other
    assert report(path, "-o", out, "--tracks", "all")["kept"] == 2
    assert report(path, "-o", out)["kept"] == 1 and len(ids(out)) == 2
    run(path, "-o", out, "--tracks", "some", code=2)


def test_a_cover_is_no_second_track(tmp_path: Path) -> None:
    path, out = videos.make_with_cover(tmp_path / "film.mp4"), tmp_path / "out"
    found = report(path, "-o", out, "--tracks", "all")
    assert (found["ok"], found["notes"]) == (1, []) and ids(out) == ["film.mp4"]
    assert report(path, "-o", tmp_path / "default")["notes"] == []


@pytest.mark.parametrize("named", ["all", "shard"])
def test_a_damaged_shard_of_a_track_is_read_from_that_track_again(tmp_path: Path, named: str) -> None:
    """With `#track=` in its id alone: the other track of the file shows something else."""
    path, out = videos.make_two_streams(tmp_path / "two.mp4"), tmp_path / "out"
    run(path, "-o", out, "--tracks", "all")
    store = FrameStore.open(out / "frames")
    before = {record.id: shown(store, record.id) for record in store.records}
    (shard,) = (out / "frames").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-7] + b"damaged")
    assert run("--repair", shard.name if named == "shard" else "all", "-o", out, plan=False).exit_code == 0
    store = FrameStore.open(out / "frames")
    assert {record.id: shown(store, record.id) for record in store.records} == before
    assert before == {"two.mp4": [3, 11, 18, 26], "two.mp4#track=0": [4095] * 4}
    assert CliRunner().invoke(app, ["doctor", str(out)]).exit_code == 0


# ------------------------------------------------------------------------------------------------------------- dry run


def test_a_dry_run_knows_how_long_files_are(tmp_path: Path) -> None:
    """One film among clips: 24 windows of it, which the clips that are read for the estimate say nothing of."""
    folder = tmp_path / "videos"
    folder.mkdir()
    videos.make_video(folder / "film.mp4", 600, fps=1, size=(64, 48))
    for i in range(6):
        videos.make_video(folder / f"a{i}.mkv", 15, fps=5, size=(64, 48))
    expected = report(folder, "-o", tmp_path / "out", "--dry-run")
    made = report(folder, "-o", tmp_path / "out")
    assert made["frames"] == 4 * (24 + 6)
    assert expected["frames"] == pytest.approx(made["frames"], rel=0.2)


# --------------------------------------------------------------------------------------------------------------- links


def test_links_give_real_names_each_file_once_and_nothing_from_outside(clip: Path, tmp_path: Path) -> None:
    folder, outside, out = tmp_path / "videos", tmp_path / "outside", tmp_path / "out"
    for place in (folder / "real", folder / ".store", outside):
        place.mkdir(parents=True)
    shutil.copy(clip, folder / "real" / "a.mp4")
    videos.make_video(folder / ".store" / "hidden.mp4", 8, size=(64, 48))
    videos.make_video(outside / "b.mp4", 9, size=(64, 48))
    (folder / "again").symlink_to(folder / "real", target_is_directory=True)
    (folder / "a_link.mp4").symlink_to(folder / "real" / "a.mp4")
    (folder / "kept.mp4").symlink_to(folder / ".store" / "hidden.mp4")
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    (folder / "elsewhere.mp4").symlink_to(outside / "b.mp4")
    found = run(folder, "-o", out)
    assert ids(out) == [".store/hidden.mp4", "real/a.mp4"]
    assert "2 links below" in found.stderr and "(elsewhere.mp4, up)" in found.stderr and "--follow" in found.stderr

    run(folder, "-o", tmp_path / "all", "--follow", "--exclude", "up/all/*", "--exclude", "up/out/*")
    paths = {record.id: record.path for record in FrameStore.open(tmp_path / "all" / "frames").records}
    assert str(outside / "b.mp4") in paths.values()
    assert sorted(Path(path).name for path in paths.values()) == ["a.mp4", "b.mp4", "hidden.mp4"]


def test_a_folder_of_links_says_how_they_are_read(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "a.mp4").symlink_to(clip)
    assert "1 link out of it, which --follow reads" in run(folder, "-o", tmp_path / "out", code=3).stderr
    assert report(folder, "-o", tmp_path / "out", "--follow")["ok"] == 1
    link = tmp_path / "named.mp4"
    link.symlink_to(clip)  # one that is named as an argument is meant
    run(link, "-o", tmp_path / "named")
    assert FrameStore.open(tmp_path / "named" / "frames").records[0].path == str(clip.resolve())


def test_a_walk_ends_where_links_go_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a" / "loop")
    (tmp_path / "a" / "dead").symlink_to(tmp_path / "a" / "nothing")
    found = tree.walk(tmp_path / "a", follow=True)
    assert [name for name, _ in found.files] == ["dead", "file", "loop"] and found.outside == ()


# ------------------------------------------------------------------------------------------------------- what is said


def test_the_bar_says_how_far_a_long_film_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that counts files stands still for as long as the one film takes."""
    said: list[tuple[int, str]] = []

    @contextlib.contextmanager
    def progress(what: str, *, total: int, unit: str) -> Iterator[log.Bar]:
        yield log.Bar(total, lambda n, note: said.append((n, note)))

    monkeypatch.setattr(log, "progress", progress)
    run(videos.make_video(tmp_path / "film.mp4", 400, fps=1, size=(64, 48)), "-o", tmp_path / "out")
    assert said[-1] == (1, "film.mp4")
    place = re.compile(r"film\.mp4: (looked through|decoded) \d:\d\d:\d\d of 0:06:40")
    assert said[:-1] and all(n == 0 and place.fullmatch(note) for n, note in said[:-1])


def test_a_failure_is_a_line_after_what_was_done(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(clip, folder / "a.mp4")
    (folder / "empty.mp4").touch()
    found = run(folder, "-o", tmp_path / "out", code=5)
    said = found.stderr.splitlines()
    assert not any(line.startswith("error:") for line in said)
    assert said[-3] == "2 videos: 1 ok, 0 kept, 1 failed (failures.jsonl)" and said[-2].startswith("next: tvr query")
    assert said[-1].startswith("failed: 1 of 2 videos, see ") and "--retry-failed tries again" in said[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query", "x", "--json", "--paths"], "--json and --paths are two forms of one answer"),
        (["query", "x", "--exhaustive", "--shortlist", "5"], "--exhaustive scores every clip"),
        (["doctor", ""], "expected what to check, found an empty name"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and message in result.stderr


def test_a_query_refuses_threads_that_are_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVR_THREADS", "abc")
    result = CliRunner().invoke(app, ["query", "x", "-o", str(tmp_path)])
    assert result.exit_code == 2 and "TVR_THREADS: expected 1 or more, found 'abc'" in result.stderr


def test_training_without_captions_says_so_before_anything_is_computed(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")
    out = tmp_path / "out"
    run(clip, "-o", out)
    result = CliRunner().invoke(app, ["train", "--method", "glccl", "-o", str(out)])
    assert result.exit_code == 3 and "expected captions to train on, found none" in result.stderr
    assert not (out / "features").exists() and "computing" not in result.stderr


# ------------------------------------------------------------------------------------- commands that can be followed


def follow(command: str, *flags: str) -> Any:
    """Run a command line that a message gave."""
    words = shlex.split(command)
    assert words[0] == "tvr"
    result = CliRunner().invoke(app, [*words[1:], *flags])
    assert result.exit_code == 0, (command, result.stderr, result.exception)
    return result


def test_a_shard_whose_records_are_damaged_is_read_again_by_the_commands_that_are_said(
    clip: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "my videos", tmp_path / "out"
    folder.mkdir()
    shutil.copy(clip, folder / "a.mp4")
    run(folder, "-o", out, plan=False)
    (records,) = (out / "frames").glob("*.records.json*")
    records.write_bytes(records.read_bytes()[:-20])
    told = CliRunner().invoke(app, ["precompute-features", "--backbone", "demo-tiny", "-o", str(out)])
    found = re.search(r"taken? .* out with: (tvr .*?), then read again what was in it with: (tvr .*)", told.stderr)
    assert told.exit_code == 3 and found is not None, told.stderr
    said = follow(found[1]).stderr
    assert f"Read its videos again with: {found[2]}" in said and str(folder) in found[2]
    follow(found[2])
    assert ids(out) == ["a.mp4"]


def test_frames_for_another_backbone_are_made_by_the_command_that_is_said(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(clip, "-o", out)
    told = CliRunner().invoke(app, ["precompute-features", "--backbone", "clip-vit-b32", "-o", str(out), "--dry-run"])
    found = re.search(r"a workspace of their own: (tvr .*)", told.stderr)
    assert told.exit_code == 3 and found is not None, told.stderr
    follow(found[1], "--workers", "1")
    assert ids(tmp_path / "out-clip-vit-b32") == ["a.mp4"]


def test_a_query_refuses_a_backbone_of_the_environment_that_means_nothing(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an index says which backbone answers, with torch and without it."""
    out = tmp_path / "out"
    run(clip, "-o", out, plan=False)
    query = ["query", "a dog", "--index", str(out)]
    assert CliRunner().invoke(app, [*query, "--backbone", "demo-tiny"]).exit_code == 0
    for name, code in (("nonsense", 2), ("demo-tiny", 0), ("clip-vit-b32", 0), ("nonsense", 2)):
        monkeypatch.setenv("TVR_BACKBONE", name)
        result = CliRunner().invoke(app, query)
        assert result.exit_code == code, (name, result.stderr, result.exception)
        assert ("TVR_BACKBONE: unknown backbone 'nonsense'" in result.stderr) == (code == 2)


def test_doctor_checks_all_features_and_says_where_runs_are_checked(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(clip, "-o", out, plan=False)
    made = CliRunner().invoke(app, ["precompute-features", "--backbone", "demo-tiny", "-o", str(out)])
    assert made.exit_code == 0, made.stderr
    (out / "runs").mkdir()
    (store,) = (out / "features").iterdir()
    checked = CliRunner().invoke(app, ["doctor", str(out / "features"), "--json"])
    assert checked.exit_code == 0 and [c["name"] for c in json.loads(checked.stdout)["checks"]] == [store.name]
    refused = CliRunner().invoke(app, ["doctor", str(out / "runs")])
    assert refused.exit_code == 3 and refused.stderr.endswith(f"run: tvr doctor {shlex.quote(str(out))}\n")
