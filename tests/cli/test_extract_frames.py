"""`tvr extract-frames` as people use it: what it reads and writes, bad files, flags and manifests that cannot be."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_clip
import videos
from extracting import report, run, shown, three_clips

from tvr_cli import files
from tvr_cli.engine.extraction.extract import ExtractOptions, extract
from tvr_cli.plans import FramePlan
from tvr_cli.stores.frames.store import FrameStore, decode_jpeg
from tvr_cli.stores.frames.writer import FrameWriter
from tvr_cli.types import Clip, Manifest
from tvr_cli.workspace import Workspace

pytestmark = pytest.mark.usefixtures("warm_readers")

SHARED = Path(__file__).resolve().parents[3] / "shared" / "videos"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_clips(tmp_path_factory.mktemp("made"))


@pytest.fixture
def clips(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "videos"))


# ------------------------------------------------------------------------------------------------------------ first run


def test_a_folder_becomes_a_store(clips: Path, tmp_path: Path) -> None:
    (clips / "captions.jsonl").write_text('{"video": "a.mp4", "caption": "bars"}\n')
    (clips / "notes.txt").write_text("not a video")
    (clips / ".hidden.mp4").write_text("not looked at")
    out = tmp_path / "out"
    result = run(clips, "-o", out)
    assert "3 videos: 3 ok, 0 kept, 0 failed\n" in result.stderr
    assert f'next: tvr query "a dog surfing" --index {out}' in result.stderr
    assert result.stdout.startswith("3 clips, 12 frames, ")

    store = FrameStore.open(out / "frames")
    assert [r.id for r in store.records] == ["a.mp4", "b.webm", "cats/a.mkv"]
    assert shown(store, "a.mp4") == [2, 7, 12, 17]
    assert shown(store, "cats/a.mkv") == [5, 15, 25, 35]
    assert store.captions_beside == clips / "captions.jsonl"
    record = store.records[0]
    assert (record.path, record.width, record.height) == (str(clips / "a.mp4"), 160, 120)
    assert record.source_sha256 == files.sha256_file(clips / "a.mp4")
    assert record.span == (0.0, pytest.approx(20 / 30, abs=0.01)) and record.start is None
    assert decode_jpeg(next(store.read(["a.mp4"])).jpegs[0]).shape == (48, 64, 3)  # all of it


def test_frames_are_kept_as_a_backbone_or_a_flag_wants_them(clips: Path, tmp_path: Path) -> None:
    plan = ["--num-frames", "1", "--workers", "1"]
    weights = tiny_clip.folder(tmp_path / "w", tiny_clip.config(size=240), pixels={"resize_mode": "squash"})
    wanted = {
        "whole": ([], (120, 160), {"fit": "whole", "size": 224, "short_side": 224}),
        "for": (["--for", f"local:{weights}"], (120, 160), {"fit": "whole", "size": 240, "short_side": 240}),
        "own": (["--for", f"local:{weights}", "--fit", "squash"], (240, 240), {"fit": "squash", "size": 240}),
        "crop": (["--fit", "crop", "--size", "96"], (96, 96), {"size": 96}),
    }
    for name, (flags, shape, said) in wanted.items():
        run(clips, "-o", tmp_path / name, *flags, plan=plan)
        store = FrameStore.open(tmp_path / name / "frames")
        assert decode_jpeg(next(store.read(["a.mp4"])).jpegs[0]).shape == (*shape, 3)
        assert {key: value for key, value in store.identity.items() if key in ("fit", "size", "short_side")} == said
    refused = run(clips, "-o", tmp_path / "x", "--for", "clip-vit-b23", code=2, plan=plan)
    assert "did you mean clip-vit-b32?" in refused.stderr and not (tmp_path / "x").exists()
    refused = run(clips, "-o", tmp_path / "x", "--fit", "stretch", code=2, plan=plan)
    assert "--fit: unknown 'stretch'; there are crop, squash, whole" in refused.stderr


def test_frames_that_were_cropped_go_on_being_cropped(clips: Path, tmp_path: Path) -> None:
    """What 0.1.0 made is added to by the command that made it."""
    out, plan = tmp_path / "out", ["--num-frames", "1", "--workers", "1"]
    writer = FrameWriter.open(out / "frames", FramePlan(num_frames=1).identity(), {"tvr": "0.1.0"})
    writer.seal()
    assert report(clips, "-o", out, plan=plan)["ok"] == 3
    assert decode_jpeg(next(FrameStore.open(out / "frames").read(["a.mp4"])).jpegs[0]).shape == (224, 224, 3)
    refused = run(clips, "-o", out, "--fit", "whole", code=3, plan=plan)
    assert "asks for" in refused.stderr and "-o FOLDER" in refused.stderr
    assert report(clips, "-o", out, "--overwrite", plan=plan)["ok"] == 3
    assert FrameStore.open(out / "frames").identity["fit"] == "whole"


def test_an_estimate_counts_the_bytes_of_what_would_be_stored(clips: Path, tmp_path: Path) -> None:
    for fit in ("crop", "whole"):
        flags = ["--fit", fit, "--size", "48", "--num-frames", "4", "--workers", "1"]
        expected = report(clips, "-o", tmp_path / fit, "--dry-run", plan=flags)
        made = report(clips, "-o", tmp_path / fit, plan=flags)
        read = FrameStore.open(tmp_path / fit / "frames").read(["a.mp4", "b.webm", "cats/a.mkv"])
        assert 0 < expected["bytes"] == sum(len(data) for clip in read for data in clip.jpegs) < made["bytes"]


def test_captions_written_after_the_extraction_are_found(clips: Path, tmp_path: Path) -> None:
    run(clips, "-o", tmp_path / "out")
    assert FrameStore.open(tmp_path / "out" / "frames").captions_beside is None
    (clips / "captions.jsonl").write_text('{"video": "a.mp4", "caption": "bars"}\n')
    assert FrameStore.open(tmp_path / "out" / "frames").captions_beside == clips / "captions.jsonl"


def test_json_has_the_published_keys(clips: Path, tmp_path: Path) -> None:
    (clips / "empty.mp4").touch()
    found = report(clips, "-o", tmp_path / "out", code=5)
    assert found["schema"] == "tvr/extract-frames@1"
    assert {k: found[k] for k in ("videos", "ok", "kept", "failed", "frames")} == {
        "videos": 4, "ok": 3, "kept": 0, "failed": 1, "frames": 12,
    }  # fmt: skip
    assert found["failures"] == [{"video": "empty.mp4", "reason": "the file is empty (0 bytes)"}]
    assert isinstance(found["seconds"], float)


def test_a_dry_run_counts_and_writes_nothing(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = report(clips, "-o", out, "--dry-run")
    assert (found["videos"], found["todo"], found["kept"], found["dry_run"]) == (3, 3, 0, True)
    assert found["frames"] == 12 and 3000 < found["bytes"] < 100_000 and found["seconds"] > 0
    assert found["first"] == ["a.mp4", "b.webm", "cats/a.mkv"]
    assert not out.exists()
    run(clips, "-o", out)
    before = sorted(p.name for p in (out / "frames").rglob("*"))
    assert "3 videos: 0 to read, 3 kept" in run(clips, "-o", out, "--dry-run").stdout
    assert sorted(p.name for p in (out / "frames").rglob("*")) == before


def test_long_files_are_cut_into_windows(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "long.mp4", 120, fps=2)
    out = tmp_path / "out"
    run(path, "-o", out)
    store = FrameStore.open(out / "frames")
    assert [r.id for r in store.records] == ["long.mp4#t=0,30", "long.mp4#t=25,55", "long.mp4#t=50,60"]
    assert {r.file_id for r in store.records} == {"long.mp4"} and len({r.key for r in store.records}) == 3
    assert shown(store, "long.mp4#t=25,55") == [57, 72, 87, 102]
    assert next(store.read(["long.mp4#t=25,55"])).ts.tolist() == pytest.approx([28.5, 36.0, 43.5, 51.0])
    # another way to cut reads the file again and replaces its clips
    assert report(path, "-o", out, "--segment", "none")["ok"] == 1
    assert [r.id for r in FrameStore.open(out / "frames").records] == ["long.mp4"]
    assert report(path, "-o", out, "--segment", "none")["kept"] == 1


def test_the_papers_plan_takes_frames_at_a_rate(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(clips, "-o", out, plan=["--size", "48", "--fps", "10", "--max-frames", "5"])
    store = FrameStore.open(out / "frames")
    assert shown(store, "a.mp4") == [0, 3, 6, 9, 18] or shown(store, "a.mp4") == [0, 3, 9, 12, 18]
    assert store.plan.kind == "fps" and store.plan.slots == 5


def test_globs_choose_files(clips: Path, tmp_path: Path) -> None:
    shutil.copy(clips / "a.mp4", clips / "odd.xyz")
    ids = []
    for i, flags in enumerate((["--include", "*.mp4"], ["--exclude", "cats/*"], ["--include", "*.xyz"])):
        run(clips, "-o", tmp_path / str(i), *flags)
        ids.append([r.id for r in FrameStore.open(tmp_path / str(i) / "frames").records])
    assert ids == [["a.mp4"], ["a.mp4", "b.webm", "odd.xyz"], ["odd.xyz"]]


def test_a_manifest_names_ids_and_spans(clips: Path, tmp_path: Path) -> None:
    lines = [
        {"path": "cats/a.mkv", "id": "early", "start": 0, "end": 0.5},
        {"path": "cats/a.mkv", "start": 0.5},
        {"path": "b.webm"},
        {"path": "gone.mp4"},
    ]
    manifest = clips / "list.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = report(manifest, "-o", tmp_path / "out", code=5)
    assert found["failures"] == [{"video": "gone.mp4", "reason": "there is no file at its path"}]
    store = FrameStore.open(tmp_path / "out" / "frames")
    assert [r.id for r in store.records] == ["b.webm", "cats/a.mkv#t=0.5", "early"]
    assert shown(store, "early") == [1, 5, 9, 13]
    assert shown(store, "cats/a.mkv#t=0.5")[0] >= 15
    assert store.records[1].file_id == "cats/a.mkv"
    # a line that is gone from the manifest is forgotten
    manifest.write_text(json.dumps(lines[2]) + "\n")
    assert report(manifest, "-o", tmp_path / "out")["kept"] == 1
    assert [r.id for r in FrameStore.open(tmp_path / "out" / "frames").records] == ["b.webm"]


def test_links_in_circles_end(clips: Path, tmp_path: Path) -> None:
    (clips / "cats" / "up").symlink_to(clips, target_is_directory=True)
    assert report(clips, "-o", tmp_path / "out")["videos"] == 3


def test_a_file_without_extension_is_known_by_its_first_bytes(clips: Path, tmp_path: Path) -> None:
    (clips / "a.mp4").rename(clips / "id@with.dots_and_no extension@")
    os.rename(clips / "b.webm", clips / "bare")
    (clips / "other").write_bytes(b"\0\1\2")
    found = run(clips, "-o", tmp_path / "out")
    assert "3 videos: 3 ok" in found.stderr and "skipped 1 file that look" in found.stderr


# ------------------------------------------------------------------------------------------------------------ bad files


def test_each_kind_of_bad_file_is_recorded_and_the_rest_is_read(clips: Path, tmp_path: Path) -> None:
    (clips / "empty.mp4").touch()
    (clips / "text.avi").write_text("text")
    videos.make_audio(clips / "sound.mp4")
    whole = videos.make_video(tmp_path / "whole.mp4", 60, muxer={"movflags": "+faststart"})
    videos.truncate(whole, clips / "half.mp4", 0.5)
    found = report(clips, "-o", tmp_path / "out", "--refuse-truncated", code=5)
    reasons = {f["video"]: f["reason"] for f in found["failures"]}
    assert sorted(reasons) == ["empty.mp4", "half.mp4", "sound.mp4", "text.avi"] and found["ok"] == 3
    assert reasons["half.mp4"].startswith("truncated") and reasons["sound.mp4"].startswith("only audio")
    assert len(FrameStore.open(tmp_path / "out" / "frames")) == 3
    kept = report(clips, "-o", tmp_path / "out", "--retry-failed", code=5)
    assert kept["ok"] == 1 and [note["video"] for note in kept["notes"]] == ["half.mp4"]
    record = next(r for r in FrameStore.open(tmp_path / "out" / "frames").records if r.id == "half.mp4")
    assert record.truncated


# ------------------------------------------------------------------------------------------------------------- refusals


def test_a_missing_path_and_a_folder_without_videos_exit_3(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "notes.txt").touch()
    out = tmp_path / "out"
    assert "did you mean videos?" in run(tmp_path / "vidoes", "-o", out, code=3).stderr
    error = run(tmp_path / "videos", "-o", out, code=3).stderr
    assert "no video in" in error and ".mp4" in error and "found 1 other files" in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "list.jsonl:2: not a JSON object"),
        ('{"video": "a.mp4", "caption": "x"}', 'list.jsonl:2: expected {"path"'),
        ('{"path": "a.mp4", "start": "one"}', "list.jsonl:2: expected start in seconds, found 'one'"),
        ('{"path": "a.mp4", "start": 5, "end": 2}', "list.jsonl:2: expected 0 <= start < end"),
        ('{"path": "b.webm", "id": "a.mp4"}', "two videos would have the id 'a.mp4'"),
    ],
)
def test_a_bad_manifest_line_is_named_before_any_work(clips: Path, tmp_path: Path, line: str, message: str) -> None:
    (clips / "list.jsonl").write_text('{"path": "a.mp4"}\n' + line + "\n")
    assert message in run(clips / "list.jsonl", "-o", tmp_path / "out", code=3).stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("line", [r'{"path": "a\u0000.mp4"}', r'{"path": "a\ud800.mp4"}', "[" * 100_000])
def test_a_manifest_line_that_no_file_can_have_is_no_bug(tmp_path: Path, line: str) -> None:
    (tmp_path / "m.jsonl").write_text(line + "\n")
    assert "m.jsonl:1: no" in run(tmp_path / "m.jsonl", "-o", tmp_path / "out", code=3).stderr


def test_two_folders_with_the_same_name_inside_are_both_kept(clips: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    videos.make_video(other / "a.mp4", 5)
    run(clips, other, "-o", tmp_path / "out")
    store = FrameStore.open(tmp_path / "out" / "frames")
    assert [r.id for r in store.records] == ["a.mp4", "b.webm", "cats/a.mkv", "other/a.mp4"]
    assert shown(store, "a.mp4") == [2, 7, 12, 17] and shown(store, "other/a.mp4") == [0, 1, 3, 4]
    assert {r.id: r.file_id for r in store.records}["other/a.mp4"] == "other/a.mp4"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fps", "1", "--num-frames", "3"], "--num-frames and --fps"),
        (["--max-frames", "3"], "--max-frames goes with --fps"),
        (["--fps", "0"], "--fps: expected a rate above 0"),
        (["--segment", "30"], "--segment: expected auto, none or LENGTH/OVERLAP"),
        (["--decoder", "decrod"], "unknown decoder 'decrod'"),
        (["--shard", "3/2"], "--shard: expected i/n with 1 <= i <= n"),
        (["--size", "5000"], "--size: expected 16 to 2048"),
        ([], None),
    ],
)
def test_flags_that_do_not_fit_exit_2(clips: Path, tmp_path: Path, flags: list[str], message: str | None) -> None:
    if message is None:
        assert "name the videos" in run("-o", tmp_path / "out", code=2, plan=[]).stderr
        return
    assert message in run(clips, "-o", tmp_path / "out", *flags, code=2, plan=[]).stderr
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------- memory, pipes, full disks


def test_a_frame_beyond_the_memory_of_all_readers_is_a_failure_with_the_flag_that_helps(
    clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = report(clips, "-o", out, "--memory-budget", "100KB", code=5)
    assert found["failed"] == 3
    assert "0.0001 GB that all readers may take together; a larger --memory-budget" in found["failures"][0]["reason"]
    assert report(clips, "-o", out, "--memory-budget", "1GB", "--retry-failed")["ok"] == 3


def test_the_manifest_of_a_data_set_is_extracted(clips: Path, tmp_path: Path) -> None:
    found = (Clip("video0", clips / "a.mp4"), Clip("video1", clips / "cats" / "a.mkv", 0.0, 1.0))
    manifest = Manifest("msrvtt", clips, found, ())
    plan = FramePlan(num_frames=4, size=48)
    result = extract(manifest, Workspace(tmp_path / "out"), plan, ExtractOptions(workers=1))
    assert (result.videos, result.ok, result.failed) == (2, 2, 0)
    store = FrameStore.open(tmp_path / "out" / "frames")
    assert [(r.id, r.file_id, r.start, r.end) for r in store.records] == [
        ("video0", "video0", None, None),
        ("video1", "video1", 0.0, 1.0),
    ]
    assert shown(store, "video1") == [3, 11, 18, 26]
    assert extract(manifest, Workspace(tmp_path / "out"), plan, ExtractOptions(workers=1)).kept == 2


def test_a_pipe_named_like_a_video_is_left_alone(clips: Path, tmp_path: Path) -> None:
    os.mkfifo(clips / "pipe.mp4")
    assert report(clips, "-o", tmp_path / "out")["videos"] == 3


def test_a_full_disk_exits_4_and_keeps_what_is_whole(clips: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    run(clips / "a.mp4", "-o", out)
    write = files.write_bytes

    def full(path: Path, data: bytes) -> str:
        if path.suffix == ".safetensors":
            with files.disk_errors(path):
                raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(files, "write_bytes", full)
    assert "no space left" in run(clips, "-o", out, code=4).stderr
    monkeypatch.undo()
    assert report(clips, "-o", out)["ok"] == 2


@pytest.mark.skipif(not SHARED.exists(), reason="the shared clips are not here")
@pytest.mark.slow
def test_every_readable_shared_clip_is_read(tmp_path: Path) -> None:
    found = report(SHARED, "-o", tmp_path / "out", code=5, plan=[])
    assert (found["videos"], found["ok"], found["failed"]) == (28, 27, 1)
    assert found["failures"][0]["video"] == "decord_corrupted.mp4"
    expected = {e["file"] for e in json.loads((SHARED / "manifest.json").read_text()) if not e["decode_error"]}
    assert {r.file_id for r in FrameStore.open(tmp_path / "out" / "frames").records} == expected
