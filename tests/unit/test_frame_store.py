"""The frame store: what is written comes back, damage is found, every step leaves a whole store."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.plans import FramePlan
from tvr_cli.stores.frames import head
from tvr_cli.stores.frames import store as frames
from tvr_cli.stores.frames.records import About
from tvr_cli.stores.frames.store import ClipRecord, FrameStore, SourceFile, StoredClip, Timeline, decode_jpeg
from tvr_cli.stores.frames.writer import Failure, FrameWriter, NewClip
from tvr_cli.types import clip_key

PLAN = FramePlan(num_frames=4, size=32)


def jpeg(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (shade, shade, shade)).save(out, "JPEG", quality=90)
    return out.getvalue()


def new_clip(name: str, shades: list[int], start: float | None = None, end: float | None = None) -> NewClip:
    clip_id = name if start is None else f"{name}#t={start:g},{end:g}"
    span = (start or 0.0, end or 10.0)
    sha = f"sha-of-{name}"
    record = ClipRecord(
        clip_id, f"/videos/{name}", start, end, clip_key(sha, start, end), name, sha, len(shades), span[1] - span[0],
        span, 320, 240, "pyav", False,
    )  # fmt: skip
    clip = StoredClip(record, SourceFile(name, ("/videos",), (1000, 17, 18, 19), 10.0), "", 0)
    return NewClip(clip, Timeline([jpeg(s) for s in shades], np.arange(len(shades), dtype=np.float64) + span[0]))


def writer(root: Path, plan: FramePlan = PLAN, **options: bool) -> FrameWriter:
    return FrameWriter.open(root, plan.identity(), {"tvr": "test"}, **options)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.add([new_clip("b.mp4", [10, 20, 30]), new_clip("a.mp4", [200])])
    w.add([new_clip("c.mp4", [90, 80], 5.0, 10.0)])

    store = FrameStore.open(tmp_path)
    assert [r.id for r in store.records] == ["a.mp4", "b.mp4", "c.mp4#t=5,10"]
    assert store.plan == PLAN
    got = list(store.read(["c.mp4#t=5,10", "a.mp4", "b.mp4"]))
    assert [len(g.jpegs) for g in got] == [2, 1, 3]
    np.testing.assert_array_equal(got[0].ts, [5.0, 6.0])
    shades = [int(decode_jpeg(data).mean().round()) for g in got for data in g.jpegs]
    assert shades == [90, 80, 200, 10, 20, 30]
    assert got[0].record.file_id == "c.mp4" and got[0].record.span == (5.0, 10.0)


def test_frames_are_rgb_uint8(tmp_path: Path) -> None:
    frame = decode_jpeg(jpeg(7))
    assert frame.shape == (32, 32, 3) and frame.dtype == np.uint8


def test_reading_an_unknown_id_names_it(tmp_path: Path) -> None:
    writer(tmp_path).add([new_clip("a.mp4", [1])])
    with pytest.raises(DataError, match=r"no clip 'x.mp4'; it holds 1 clips"):
        list(FrameStore.open(tmp_path).read(["x.mp4"]))


def test_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tvr extract-frames"):
        FrameStore.open(tmp_path / "frames")


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_shard_is_named_with_the_command_that_rebuilds_it(tmp_path: Path, damage: str) -> None:
    w = writer(tmp_path)
    whole, hurt = w.add([new_clip("a.mp4", [1, 2])]), w.add([new_clip("b.mp4", [3, 4])])
    assert whole and hurt
    path = tmp_path / hurt.name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) // 2] if damage == "truncate" else data)
    if damage == "delete":
        path.unlink()

    store = FrameStore.open(tmp_path, tmp_path / "w")
    assert len(list(store.read(["a.mp4"]))) == 1
    with pytest.raises(DataError, match=rf"{hurt.name}.*is damaged.*extract-frames --repair {hurt.name} -o"):
        list(store.read(["b.mp4"]))


def test_another_plan_is_refused_with_the_field_and_the_fix(tmp_path: Path) -> None:
    writer(tmp_path)
    with pytest.raises(StoreMismatch, match=r"num_frames = 4, .* num_frames = 8; .* -o .*--overwrite would first"):
        writer(tmp_path, FramePlan(num_frames=8, size=32))


def test_overwrite_empties_the_store(tmp_path: Path) -> None:
    writer(tmp_path).add([new_clip("a.mp4", [1])])
    writer(tmp_path, FramePlan(kind="fps", fps=1.0, max_frames=3), overwrite=True)
    store = FrameStore.open(tmp_path)
    assert len(store) == 0 and store.plan.fps == 1.0 and not list(tmp_path.glob("*.safetensors"))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(StoreMismatch, match="something else than a frame store"):
            writer(tmp_path, overwrite=overwrite)
    assert (tmp_path / "weights.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["holiday.jpg", "manifest.jsonl", ".hidden"])
def test_nothing_is_written_into_a_folder_of_something_else(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(StoreMismatch, match=f"something else than a frame store: '{name}'"):
            writer(tmp_path, overwrite=overwrite)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {name: b"precious"}


@pytest.mark.parametrize("other", [{"kind": "frames", "format": 99}, {"kind": "features", "format": 1}, {"theme": 1}])
def test_overwriting_leaves_what_another_program_or_version_wrote(tmp_path: Path, other: dict) -> None:
    (tmp_path / "store.json").write_text(json.dumps(other))
    (tmp_path / f"{'ab' * 10}.safetensors").write_bytes(b"precious")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(StoreMismatch, match="it is left as it is"):
        writer(tmp_path, overwrite=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_files_that_the_store_did_not_name_outlive_it(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.add([new_clip("a.mp4", [1])])
    mine = ("model.safetensors", "draft.tmp", "notes.txt")
    for name in mine:
        (tmp_path / name).write_bytes(b"mine")
    writer(tmp_path).drop_shards([w.shards[0].name])
    writer(tmp_path, FramePlan(num_frames=8, size=32), overwrite=True)
    assert {name: (tmp_path / name).read_bytes() for name in mine} == dict.fromkeys(mine, b"mine")


def test_a_store_that_was_killed_while_it_began_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "locks" / "1-of-1").mkdir(parents=True)
    (tmp_path / "store.json.4711.tmp").write_text('{"kind": "fra')
    writer(tmp_path).add([new_clip("a.mp4", [1])])
    assert len(FrameStore.open(tmp_path)) == 1


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    writer(tmp_path)
    header = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps({**header, "format": 99}))
    with pytest.raises(StoreMismatch, match="format 2, found frames 99"):
        FrameStore.open(tmp_path)


def test_identity_holds_only_what_decides_the_pixels() -> None:
    a = FramePlan(kind="fps", fps=1.0, max_frames=12, num_frames=12)
    assert a.identity() == dataclasses.replace(a, num_frames=99).identity()
    assert FramePlan.from_identity(a.identity()) == a
    assert FramePlan(size=64).identity() != FramePlan(size=65).identity()


def test_adding_a_video_again_replaces_its_clips_and_drops_the_empty_shard(tmp_path: Path) -> None:
    w = writer(tmp_path)
    old = w.add([new_clip("a.mp4", [1], 0.0, 5.0), new_clip("a.mp4", [2], 5.0, 10.0)])
    w.add([new_clip("a.mp4", [3, 4])])
    store = FrameStore.open(tmp_path)
    assert [r.id for r in store.records] == ["a.mp4"]
    assert old and not (tmp_path / old.name).exists()


def test_forgetting_most_of_a_shard_compacts_it(tmp_path: Path) -> None:
    w = writer(tmp_path)
    before = w.add([new_clip(f"{i}.mp4", [i * 10, i * 10 + 5]) for i in range(5)])
    assert before
    assert w.change(lambda c: c if c.record.id == "3.mp4" else None) == 4
    store = FrameStore.open(tmp_path)
    assert [r.id for r in store.records] == ["3.mp4"]
    assert [int(decode_jpeg(x).mean().round()) for x in next(store.read(["3.mp4"])).jpegs] == [30, 35]
    assert not (tmp_path / before.name).exists()
    assert [p.name for p in tmp_path.glob("*.safetensors")] == [w.shards[0].name]


def test_until_when_a_frame_stands_outlives_packing(tmp_path: Path) -> None:
    ts = np.array([0.0, 1.0, 4.0])
    timelines = [Timeline([jpeg(1)] * 3, ts, ts + 0.5), Timeline([jpeg(2)] * 3, ts)]
    data = frames.pack_shard(timelines)
    name = f"{hashlib.sha256(data).hexdigest()[:20]}.safetensors"
    (tmp_path / name).write_bytes(data)
    line, _ = frames.line_of(About(name, hashlib.sha256(data).hexdigest(), len(data), 2, PLAN.identity()), [])
    first, second = frames.read_rows(tmp_path, line, [0, 1])
    assert first.until is not None and first.until.tolist() == [0.5, 1.5, 4.5] and second.until is None
    assert second.ts.tolist() == ts.tolist() and second.jpegs == [jpeg(2)] * 3


def test_two_writers_in_turn_lose_nothing(tmp_path: Path) -> None:
    first, second = writer(tmp_path), writer(tmp_path)
    first.add([new_clip("a.mp4", [1])])
    second.add([new_clip("b.mp4", [2])])
    first.add([new_clip("c.mp4", [3])])
    second.change(lambda c: None if c.record.id == "a.mp4" else c)
    assert [r.id for r in FrameStore.open(tmp_path).records] == ["b.mp4", "c.mp4"]


def test_a_crash_between_shard_and_line_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.add([new_clip("a.mp4", [1])])
    (tmp_path / f"{'01' * 10}.safetensors").write_bytes(b"written, but its line never was")
    with open(tmp_path / "shards-1.jsonl", "ab") as f:
        f.write(b'{"shard": "torn')
    again = writer(tmp_path)
    assert [c.record.id for c in again.clips()] == ["a.mp4"]
    assert not (tmp_path / f"{'01' * 10}.safetensors").exists()
    again.add([new_clip("b.mp4", [2])])
    assert [r.id for r in FrameStore.open(tmp_path).records] == ["a.mp4", "b.mp4"]


def test_a_crash_between_list_and_head_leaves_the_store_as_it_was(tmp_path: Path, monkeypatch: Any) -> None:
    w = writer(tmp_path)
    w.add([new_clip("a.mp4", [1])])
    before = (tmp_path / "store.json").read_bytes()

    def stop(folder: Path, head: Any) -> None:
        raise KeyboardInterrupt

    for step in (
        lambda: writer(tmp_path).add([new_clip("b.mp4", [2])]),  # a line is appended
        lambda: writer(tmp_path).add([new_clip("a.mp4", [3])]),  # the list is written again
        lambda: writer(tmp_path).change(lambda c: None),
    ):
        monkeypatch.setattr(head, "write_head", stop)
        with pytest.raises(KeyboardInterrupt):
            step()
        monkeypatch.undo()
        assert (tmp_path / "store.json").read_bytes() == before
        (whole,) = FrameStore.open(tmp_path).read(["a.mp4"])
        assert int(decode_jpeg(whole.jpegs[0]).mean().round()) == 1
    writer(tmp_path).add([new_clip("b.mp4", [2])])
    assert [r.id for r in FrameStore.open(tmp_path).records] == ["a.mp4", "b.mp4"]
    assert len(list(tmp_path.glob("*.safetensors"))) == len(list(tmp_path.glob("*.records.json"))) == 2


def test_opening_a_store_reads_no_records(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.add([new_clip("a.mp4", [1, 2]), new_clip("b.mp4", [3], 0.0, 5.0)])
    w.seal()
    content = FrameStore.open(tmp_path).content_hash()
    for path in tmp_path.glob("*.records.json"):
        path.rename(path.with_suffix(".gone"))
    store = FrameStore.open(tmp_path)
    assert (len(store), store.counts.frames, store.video_count(), store.content_hash()) == (2, 3, 2, content)
    with pytest.raises(DataError, match=r"records.*cannot be read .*--repair"):
        print(store.records)


def test_a_writer_reads_of_another_ones_steps_only_what_is_new(tmp_path: Path, monkeypatch: Any) -> None:
    first, second = writer(tmp_path), writer(tmp_path)
    for i in range(3):
        first.add([new_clip(f"{i}.mp4", [i])])
    second.add([new_clip("x.mp4", [9])])
    read, seen = frames.read_records, []
    monkeypatch.setattr(frames, "read_records", lambda *args: seen.append(args[1].name) or read(*args))
    first.add([new_clip("3.mp4", [3])])
    assert len(seen) == 1  # the shard of the second one
    second.change(lambda c: None if c.record.id == "0.mp4" else c)
    seen.clear()
    first.add([new_clip("4.mp4", [4])])
    assert not seen  # the list was written again; what is left in it is known
    assert [r.id for r in FrameStore.open(tmp_path).records] == ["1.mp4", "2.mp4", "3.mp4", "4.mp4", "x.mp4"]


def test_a_reader_goes_on_when_a_writer_takes_away_what_its_head_covers(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.add([new_clip("a.mp4", [10])])
    store = FrameStore.open(tmp_path)
    w.add([new_clip("a.mp4", [20, 30])])  # the old shard and its records are gone
    (seen,) = store.read(["a.mp4"])
    assert [int(decode_jpeg(data).mean().round()) for data in seen.jpegs] == [20, 30]


def test_an_overwritten_store_can_be_stopped_anywhere(tmp_path: Path, monkeypatch: Any) -> None:
    writer(tmp_path).add([new_clip("a.mp4", [1])])
    unlink, left = Path.unlink, [0]

    def unlink_until(path: Path, missing_ok: bool = False) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(path, missing_ok=missing_ok)

    for step in range(1, 12):
        left[0] = step
        monkeypatch.setattr(Path, "unlink", unlink_until)
        with contextlib.suppress(KeyboardInterrupt):
            writer(tmp_path, overwrite=True)
        monkeypatch.undo()
        w = writer(tmp_path)
        assert {c.record.id for c in w.clips()} <= {"a.mp4"}
        w.add([new_clip("a.mp4", [1])])


def test_content_hash_follows_records_and_not_the_layout(tmp_path: Path) -> None:
    together, apart = writer(tmp_path / "1"), writer(tmp_path / "2")
    together.add([new_clip("a.mp4", [1]), new_clip("b.mp4", [2])])
    apart.add([new_clip("b.mp4", [2])])
    apart.add([new_clip("a.mp4", [1])])
    first, second = FrameStore.open(tmp_path / "1"), FrameStore.open(tmp_path / "2")
    assert first.content_hash() == second.content_hash()
    apart.add([new_clip("a.mp4", [1, 1])])
    assert FrameStore.open(tmp_path / "2").content_hash() != second.content_hash()


def test_the_last_failure_of_a_video_counts_until_it_is_cleared(tmp_path: Path) -> None:
    w = writer(tmp_path)
    for reason in ("timeout", "no video stream"):
        w.add_failure(Failure("a.mp4", "/videos/a.mp4", "/videos", reason, "permanent", 0, 0))
    w.add_failure(Failure("b.mp4", "/videos/b.mp4", "/videos", "zero bytes", "permanent", 0, 0))
    assert w.failures()["a.mp4"].reason == "no video stream"
    w.clear_failures(["a.mp4"])
    assert list(w.failures()) == ["b.mp4"]
    assert [f["video"] for f in FrameStore.open(tmp_path).failures()] == ["b.mp4"]
