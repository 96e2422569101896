"""Joining parts: what is the same as one store, what is refused before anything is written, what a stop leaves."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_features
import tiny_frames
import torch

from tvr_cli import files
from tvr_cli.engine.extraction.part_list import DonePart, done_parts, note_done
from tvr_cli.engine.whole.merge import MergeReport, merge
from tvr_cli.errors import ConfigError, DataError, StoreMismatch
from tvr_cli.stores.features.store import FeatureStore, text_row_key
from tvr_cli.stores.features.writer import FeatureWriter
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.stores.frames.writer import FrameWriter, NewClip
from tvr_cli.stores.spill import Spill
from tvr_cli.workspace import Workspace

PLAN = dataclasses.replace(tiny_frames.PLAN, num_frames=3)


def clips() -> list[NewClip]:
    """The clips of `tiny_features.records`: two files, and one of two windows."""
    windows = [("a.mp4", 3, None), ("b.mp4", 1, (0.0, 4.0)), ("b.mp4", 2, (3.0, 7.5)), ("ü.mp4", 2, None)]
    return [tiny_frames.clip(name, n, window=window) for name, n, window in windows]


def part(folder: Path, some: Sequence[NewClip], *, number: int | None = None, seed: int = 0, of: int = 2) -> Path:
    """Write a part: frames, the features of its clips, and the note that it is done."""
    writer = tiny_frames.write(folder, list(some), plan=PLAN)
    writer.set_header(captions_beside="/videos/captions.jsonl", roots={"/videos": ""})
    writer.seal()
    records = [c.clip.record for c in some]
    features = FeatureWriter(folder / "features" / tiny_features.made().fingerprint, tiny_features.made())
    tiny_features.add(features, records, seed=seed)
    features.finish(records, [], {})
    if number is not None:
        note_done(Workspace(folder), [DonePart(part=number, of=of, list=None, videos=len(some), failed=0)])
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts, and as `whole` what one process would have made."""
    folder = tmp_path_factory.mktemp("parts")
    part(folder / "1", clips()[:3], number=1)
    part(folder / "2", clips()[3:], number=2, seed=2)
    tiny_frames.write(folder / "whole", clips(), plan=PLAN).seal()
    tiny_features.write(folder / "whole")
    return folder


@pytest.fixture
def parts(written: Path, tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(written / name, tmp_path / name)) for name in ("1", "2")]


@pytest.fixture
def whole(written: Path) -> Workspace:
    return Workspace(written / "whole")


@pytest.fixture
def out(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "out")


def finished(workspace: Workspace) -> FeatureStore:
    """Encode the captions, as `precompute-features` does where parts are merged."""
    made = tiny_features.made()
    writer = FeatureWriter(workspace.feature_folder(made.fingerprint), made)
    writer.add_text([text_row_key(t) for t in tiny_features.TEXTS], tiny_features.text(), torch.float32)
    tiny_features.finish(writer)
    return FeatureStore.open(writer.root)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def inodes_of(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_ino for p in folder.rglob("*.safetensors")}


def same_frames(one: FrameStore, other: FrameStore) -> None:
    assert one.records == other.records
    assert one.content_hash() == other.content_hash()
    assert (one.video_count(), one.counts) == (other.video_count(), other.counts)
    ids = [r.id for r in one.records]
    for a, b in zip(one.read(ids), other.read(ids), strict=True):
        assert a.jpegs == b.jpegs and a.ts.tolist() == b.ts.tolist() and a.until.tolist() == b.until.tolist()


def test_parts_that_are_merged_are_one_store_row_by_row(parts: list[Path], out: Workspace, whole: Workspace) -> None:
    found = merge(parts, out)
    assert found.frames is not None and (found.parts, found.missing) == (2, [])
    assert (found.frames.clips, found.frames.videos, found.frames.new, found.frames.doubled) == (4, 3, 2, 0)
    same_frames(out.frames(), whole.frames())
    store, wanted = finished(out), whole.features(tiny_features.made().fingerprint)
    assert list(store.clips) == list(wanted.clips) and store.content_hash() == wanted.content_hash()
    for name, value in dataclasses.asdict(wanted.video(patches=True)).items():
        assert torch.equal(value, getattr(store.video(patches=True), name)), name
    for name, value in dataclasses.asdict(wanted.text()).items():
        assert torch.equal(value, getattr(store.text(), name)), name
    assert store.norms == pytest.approx(wanted.norms)


def test_a_merge_links_and_changes_no_part(parts: list[Path], out: Workspace) -> None:
    before = [bytes_of(p) for p in parts]
    merge(parts, out)
    assert [bytes_of(p) for p in parts] == before
    held = {name: number for p in parts for name, number in inodes_of(p).items()}
    assert inodes_of(out.root) == held


def test_where_there_are_no_links_files_are_copied(
    parts: list[Path], out: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(files.os, "link", refuse)
    merge(parts, out)
    assert len(list(out.frames().read([r.id for r in out.frames().records]))) == 4
    held = {number for p in parts for number in inodes_of(p).values()}
    assert held.isdisjoint(inodes_of(out.root).values())


def test_merged_again_nothing_is_written(parts: list[Path], out: Workspace) -> None:
    first = merge(parts, out)
    before = {p: p.stat().st_mtime_ns for p in out.root.rglob("*.json*")}
    again = merge(parts, out)
    assert again.frames is not None and first.frames is not None
    assert again.frames == dataclasses.replace(first.frames, new=0)
    assert [f.new for f in again.features] == [0]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_late_part_is_added_to_what_was_merged(parts: list[Path], out: Workspace, tmp_path: Path) -> None:
    early = merge(parts[:1], out)
    assert [(m.part, m.fix) for m in early.missing] == [("2/2", "tvr extract-frames videos/ --shard 2/2 -o parts/2")]
    late = merge(parts[1:], out)
    assert late.missing == [] and late.frames is not None and late.frames.clips == 4
    assert [(d.part, d.of) for d in done_parts(out)] == [(1, 2), (2, 2)]
    assert bytes_of(out.frames_folder) != {} and len(FrameWriter(out.frames_folder).clips()) == 4


def test_a_dry_run_counts_and_writes_nothing(parts: list[Path], out: Workspace) -> None:
    found = merge(parts, out, dry_run=True)
    assert found.dry_run and not out.root.exists()
    done = merge(parts, out)
    assert found.frames == done.frames and found.features == done.features


def test_what_several_parts_have_is_taken_once(
    parts: list[Path], out: Workspace, whole: Workspace, tmp_path: Path
) -> None:
    half = part(tmp_path / "half", [clips()[3], clips()[1], clips()[2]], seed=5)
    found = merge([*parts, half], out)
    assert found.frames is not None and (found.frames.clips, found.frames.doubled) == (4, 3)
    same_frames(out.frames(), whole.frames())
    assert not [p for p in out.frames_folder.iterdir() if "tmp" in p.name]


def test_a_part_that_shares_one_video_keeps_its_others(parts: list[Path], out: Workspace, tmp_path: Path) -> None:
    more = part(tmp_path / "more", [clips()[3], tiny_frames.clip("new.mp4", 2)])
    found = merge([*parts, more], out)
    assert found.frames is not None and (found.frames.clips, found.frames.doubled) == (5, 1)
    assert [r.id for r in out.frames().records][-2:] == ["new.mp4", "ü.mp4"]
    assert len(list(out.frames().read(["new.mp4", "ü.mp4"]))) == 2


def test_a_part_named_twice_is_taken_once(parts: list[Path], out: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    found = merge([*parts, parts[0].parent / "." / "1"], out)
    assert found.parts == 2 and "named twice" in caplog.text


def test_failures_are_joined_but_for_videos_that_another_part_read(parts: list[Path], out: Workspace) -> None:
    for name, video in (("1", "ü.mp4"), ("1", "bad.mp4"), ("2", "worse.mp4")):
        tiny_frames.fail(FrameWriter(parts[0].parent / name / "frames"), video)
    found = merge(parts, out)
    assert found.frames is not None and found.frames.failed == 2
    assert [f["video"] for f in out.frames().failures()] == ["bad.mp4", "worse.mp4"]


def unlike(change: str, folder: Path) -> Path:
    """Write a part that cannot be merged with the others."""
    if change == "plan":
        tiny_frames.write(folder, [tiny_frames.clip("c.mp4", 2, size=48)], plan=dataclasses.replace(PLAN, size=48))
    elif change == "content":
        tiny_frames.write(folder, [tiny_frames.clip("ü.mp4", 2, content="another film")], plan=PLAN)
    elif change == "cut":
        tiny_frames.write(folder, [tiny_frames.clip("b.mp4", 2, window=(0.0, 9.0))], plan=PLAN)
    elif change == "backbone":
        tiny_frames.write(folder, [tiny_frames.clip("c.mp4", 2)], plan=PLAN)
        identity = {**tiny_features.identity(), "backbone": {"name": "huge", "temporal_shift": False}}
        made = dataclasses.replace(tiny_features.made(), identity=identity)
        FeatureWriter(folder / "features" / made.fingerprint, made).finish([], [], {})
    else:
        tiny_frames.write(folder, [tiny_frames.clip("c.mp4", 2)], plan=PLAN)
        made = tiny_features.made(provides=frozenset({"frames", "pooled"}))
        FeatureWriter(folder / "features" / made.fingerprint, made).finish([], [], {})
    return folder


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("plan", StoreMismatch, "cannot be merged: size is 32 in the first and 48 in the second"),
        ("content", DataError, "have different clips of 'ü.mp4'"),
        ("cut", DataError, "have different clips of 'b.mp4'"),
        ("backbone", StoreMismatch, "cannot be merged: backbone.name is 'tiny' in the first and 'huge' in the second"),
        ("tensors", StoreMismatch, "cannot be merged: video.pooled.dim is 6 in the first and None"),
    ],
)
def test_parts_that_differ_are_refused_and_nothing_is_written(
    parts: list[Path], out: Workspace, tmp_path: Path, change: str, error: type[DataError], message: str
) -> None:
    with pytest.raises(error, match=message):
        merge([*parts, unlike(change, tmp_path / "other")], out)
    assert not out.root.exists()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("pattern", "hurt", "message"),
    [
        ("frames/*.safetensors", cut_short, "is incomplete: expected .* bytes.*--repair"),
        ("frames/*.safetensors", Path.unlink, "there is no such file.*--repair"),
        ("frames/*.records.json", flip, "records .* are damaged"),
        ("frames/shards-*.jsonl", flip, "is damaged"),
        ("frames/store.json", flip, "is damaged|not readable as JSON"),
        ("frames/store.json", Path.unlink, "holds frames and no store.json"),
        ("features/*/*.safetensors", cut_short, "is incomplete: .*--repair"),
        ("features/*/*.rows.json", flip, "is incomplete: .*differs from its checksum"),
        ("features/*/store.json", flip, "is damaged|not readable as JSON"),
    ],
)
def test_a_torn_part_is_named_and_nothing_is_written(
    parts: list[Path], out: Workspace, pattern: str, hurt: Callable[[Path], None], message: str
) -> None:
    hurt(next(parts[1].glob(pattern)))
    with pytest.raises(DataError, match=message):
        merge(parts, out)
    assert not out.root.exists()


def test_a_part_that_is_not_there_is_named_and_the_others_are_merged(
    parts: list[Path], out: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    found = merge([*parts, tmp_path / "9", tmp_path / "empty"], out)
    assert [(m.part, m.reason) for m in found.missing] == [
        (str(tmp_path / "9"), "there is no such folder"),
        (str(tmp_path / "empty"), "it holds no frames and no features"),
    ]
    assert found.frames is not None and found.frames.clips == 4
    with pytest.raises(DataError, match="none of the 1 parts is there"):
        merge([tmp_path / "9"], out)
    with pytest.raises(ConfigError, match="is where the parts go"):
        merge([out.root], out)


def test_a_part_without_the_features_of_the_others_is_named(parts: list[Path], out: Workspace, tmp_path: Path) -> None:
    tiny_frames.write(tmp_path / "plain", [tiny_frames.clip("c.mp4", 2)], plan=PLAN)
    found = merge([*parts, tmp_path / "plain"], out)
    fix = f"tvr precompute-features --backbone tiny -o {tmp_path / 'plain'}"
    assert [(m.part, m.fix) for m in found.missing] == [(str(tmp_path / "plain"), fix)]
    assert len(out.frames()) == 5


class _Stop(BaseException):
    """A process that ends where it stands."""


def test_a_merge_that_is_killed_anywhere_goes_on(
    parts: list[Path], whole: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = merge(parts, Workspace(tmp_path / "merged"))
    steps, real = {"left": 10_000}, {name: getattr(files, name) for name in ("link", "write_bytes")}

    def step(name: str) -> Callable[..., Any]:
        def stepping(*given: Any, **named: Any) -> Any:
            steps["left"] -= 1
            if steps["left"] < 0:
                raise _Stop
            return real[name](*given, **named)

        return stepping

    for name in real:
        monkeypatch.setattr(files, name, step(name))
    stops = 0
    for stops in range(100):
        out = Workspace(tmp_path / f"out-{stops}")
        steps["left"] = stops
        try:
            merge(parts, out)
            break
        except _Stop:
            pass
        if out.has_frames:  # what a stop leaves is a store: empty, as before, or all of it
            assert len(FrameWriter(out.frames_folder).clips()) in (0, 4)
        steps["left"] = 10_000
        found = merge(parts, out)
        assert _counts(found) == _counts(expected)
        same_frames(out.frames(), whole.frames())
        if stops % 5 == 0:
            assert finished(out).content_hash() == whole.features(tiny_features.made().fingerprint).content_hash()
    assert stops > 15


def _counts(report: MergeReport) -> tuple[Any, ...]:
    assert report.frames is not None
    return report.frames.clips, report.frames.videos, report.frames.shards, [f.shards for f in report.features]


def test_a_spill_gives_back_every_row_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tvr_cli.stores.spill._RUN", 50)
    rows = [(f"clip-{i // 2}", i % 7, None, i / 3, "ü\udc80") for i in range(1003)]
    mixed = random.Random(0).sample(rows, len(rows))
    with Spill(tmp_path) as spill:
        assert list(spill.ascending()) == []
        for row in mixed:
            spill.add(row)
        assert list(spill.ascending()) == sorted(rows) == list(spill.ascending())
    assert list(tmp_path.iterdir()) == []


def test_the_report_says_what_it_means(parts: list[Path], out: Workspace) -> None:
    said = json.loads(json.dumps(merge(parts, out).to_json()))
    assert (said["schema"], said["parts"], said["missing"]) == ("tvr/merge@1", 2, [])
    assert said["features"][0]["store"] == str(out.feature_folder(tiny_features.made().fingerprint))
    assert said["frames"]["bytes"] == sum(p.stat().st_size for p in out.frames_folder.glob("*.safetensors"))
