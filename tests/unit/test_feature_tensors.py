"""Named tensors, norms, rows without frames, tables that are not parsed, and stores that grow and are joined."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny_features
import torch
from tiny_features import CLIP_DIM, DIM, FRAMES, PATCH_DIM, PATCHES, TEXTS

from tvr_cli.engine import scorers
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.stores.features.store import FeatureStore, clip_row_key, text_row_key
from tvr_cli.stores.features.writer import FeatureWriter
from tvr_cli.types import VideoFeatures


@pytest.mark.parametrize("shape", ["fixed", "ragged"])
def test_every_tensor_comes_back_with_its_own_dimension(tmp_path: Path, shape: str) -> None:
    store = tiny_features.write(tmp_path, shape)
    records = tiny_features.records()
    first, second = tiny_features.video(records[:3]), tiny_features.video(records[3:], seed=2)
    video, text = store.video(patches=True), store.text()
    assert video.pooled is not None and video.patches is not None and store.video().patches is None
    assert video.pooled.shape == (4, CLIP_DIM) and video.patches.shape == (4, FRAMES, PATCHES, PATCH_DIM)
    assert text.importance is not None and text.tokens is not None and text.tokens.shape[-1] == DIM
    assert first.pooled is not None and second.pooled is not None
    torch.testing.assert_close(video.pooled, torch.cat([first.pooled, second.pooled]), rtol=0, atol=0)
    for name in ("frames", "patches"):
        put = torch.cat([getattr(first, name), getattr(second, name)])
        real = video.mask() if shape == "ragged" else torch.ones(4, FRAMES, dtype=torch.bool)
        got = getattr(video, name)
        assert torch.equal(got[real], put[real]) and not got[~real].any()
    assert store.provides == {"frames", "video.pooled", "video.patches", "pooled", "tokens", "importance"}
    assert store.video(torch.tensor([2])).pooled is not None and store.sizes.dim == DIM
    assert len(store.video(torch.tensor([], dtype=torch.int64), patches=True)) == 0


@pytest.mark.parametrize("shape", ["fixed", "ragged"])
def test_mean_norms_are_of_real_vectors_alone(tmp_path: Path, shape: str) -> None:
    store = tiny_features.write(tmp_path, shape)
    video, text = store.video(patches=True), store.text()
    assert video.pooled is not None and video.patches is not None and text.tokens is not None
    words = torch.arange(tiny_features.WORDS) < text.n_tokens[:, None]
    expected = {
        "video.frames": video.frames[video.mask()], "video.pooled": video.pooled,
        "video.patches": video.patches[video.mask()], "text.pooled": text.pooled, "text.tokens": text.tokens[words],
    }  # fmt: skip
    means = {name: float(x.norm(dim=-1).mean()) for name, x in expected.items()}
    assert store.norms == {name: pytest.approx(mean, rel=1e-6) for name, mean in means.items()}


def one_vector(tmp_path: Path) -> FeatureStore:
    made = tiny_features.made(provides=frozenset({"video.pooled", "pooled"}))
    writer = FeatureWriter(tmp_path / "features" / made.fingerprint, made)
    records = tiny_features.records()
    tiny_features.add(writer, records)
    writer.add_text([text_row_key(t) for t in TEXTS], tiny_features.text(), torch.float32)
    tiny_features.finish(writer)
    return FeatureStore.open(writer.root)


def test_a_store_may_have_one_vector_a_clip_and_no_frames(tmp_path: Path) -> None:
    store = one_vector(tmp_path)
    video = store.video()
    assert video.pooled is not None and video.pooled.shape == (4, CLIP_DIM) and video.frames.shape == (4, 0, CLIP_DIM)
    assert video.mask().shape == (4, 0) and store.sizes.frames == 0 and store.sizes.dim == CLIP_DIM
    assert store.text().tokens is None and store.provides == {"video.pooled", "pooled"}
    assert len(store.video(torch.tensor([], dtype=torch.int64))) == 0


@pytest.mark.parametrize("method", ["mean", "text_guided"])
def test_a_method_that_needs_frames_refuses_a_store_without_them(tmp_path: Path, method: str) -> None:
    with pytest.raises(
        StoreMismatch, match=r"needs frames; .* has pooled, video.pooled. Take a backbone .* or a method"
    ):
        scorers.untrained(method, one_vector(tmp_path))


def test_a_clip_without_a_frame_is_legal_and_refused_where_frames_are_needed(tmp_path: Path) -> None:
    store = tiny_features.write(tmp_path)
    writer = FeatureWriter(store.root, tiny_features.made())
    bare = dataclasses.replace(tiny_features.records()[3], n_frames=0)
    none = dataclasses.replace(tiny_features.video([bare]), n_frames=torch.tensor([0]))
    writer.add_video([clip_row_key(bare.key, 0)], none, torch.float32)
    writer.finish([*tiny_features.records()[:3], bare], tiny_features.captions(), {})
    again = FeatureStore.open(store.root)
    assert again.video().n_frames.tolist() == [3, 1, 2, 0] and again.clips[3].n_frames == 0
    assert "frames" in store.provides and again.provides == store.provides - {"frames", "video.pooled", "video.patches"}
    with pytest.raises(
        StoreMismatch, match=r"mean needs frames; .*in which 1 of 4 clips have no frame, has importance"
    ):
        scorers.untrained("mean", again)


@pytest.mark.parametrize("lacking", ["pooled", "patches"])
def test_a_tensor_that_the_store_has_cannot_be_left_out(tmp_path: Path, lacking: str) -> None:
    writer = FeatureWriter(tiny_features.write(tmp_path).root, tiny_features.made())
    records = tiny_features.records()[:1]
    video = dataclasses.replace(tiny_features.video(records), **{lacking: None})
    with pytest.raises(ValueError, match=f"video.{lacking}, which this store has; found none"):
        writer.add_video(["x"], video, torch.float32)
    narrow = dataclasses.replace(tiny_features.video(records), frames=torch.zeros(1, FRAMES, DIM + 1))
    with pytest.raises(ValueError, match="expected vectors of 8 values for video"):
        writer.add_video(["x"], narrow, torch.float32)


def test_clips_and_captions_are_sequences_whose_columns_are_read_alone(tmp_path: Path) -> None:
    store = tiny_features.write(tmp_path)
    records, captions = tiny_features.records(), tiny_features.captions()
    clips = store.clips
    assert list(clips) == records and clips[1:3] == records[1:3] and clips[-1] == records[-1] and len(clips) == 4
    assert clips.take([3, 0, 3]) == [records[3], records[0], records[3]]
    assert clips.key.tolist() == [r.key for r in records] and clips.n_frames.tolist() == [3, 1, 2, 2]
    assert clips.files_of([0, 1, 2, 3]) == [r.file_id for r in records] and clips.file_ids == [
        "a.mp4",
        "b.mp4",
        "ü.mp4",
    ]
    assert clips.ids(torch.tensor([3, 1])) == [records[3].id, records[1].id]
    with pytest.raises(IndexError):
        clips[4]
    assert list(store.captions) == captions and store.captions.texts([2, 0]) == [TEXTS[2], TEXTS[0]]
    assert store.captions.clips_of([1, 0]) == [(1, 2), (0,)] and store.captions.key.tolist() == [
        c.key for c in captions
    ]
    assert [store.split(name).tolist() for name in ("train", "val", "test", "other")] == [[0], [], [1, 2], []]


def test_a_damaged_row_of_a_table_is_found_when_it_is_read_and_others_are_not_touched(tmp_path: Path) -> None:
    store = tiny_features.write(tmp_path)
    table = next(store.root.glob("clips-*.table"))
    data = bytearray(table.read_bytes())
    at = bytes(data).index(b"/videos/a.mp4")
    data[at] ^= 1
    table.write_bytes(data)
    hurt = FeatureStore.open(store.root, tmp_path)
    assert hurt.clips.key.tolist() == store.clips.key.tolist()  # another column
    with pytest.raises(DataError, match=rf"file.path.*rows 0 to .* tvr precompute-features --repair {store.root.name}"):
        hurt.clips[0]


def test_a_step_adds_a_line_and_keeps_what_is_there(tmp_path: Path) -> None:
    store = tiny_features.write(tmp_path)
    listed = next(store.root.glob("shards-*.jsonl"))
    before, inode = listed.read_bytes(), listed.stat().st_ino
    kept = {p.name: p.stat().st_ino for p in store.root.glob("*.safetensors")}
    new = [dataclasses.replace(r, id=f"z{r.id}", key=r.key + 1) for r in tiny_features.records()[:1]]
    writer = FeatureWriter(store.root, tiny_features.made())
    tiny_features.add(writer, new, seed=9)
    assert len(FeatureStore.open(store.root).clips) == 4  # what counts changes when the run ends
    writer.finish([*tiny_features.records(), *new], tiny_features.captions(), {})
    assert listed.read_bytes().startswith(before) and listed.stat().st_ino == inode
    assert {p.name: p.stat().st_ino for p in store.root.glob("*.safetensors")}.items() >= kept.items()
    again = FeatureStore.open(store.root)
    assert len(again.video()) == 5 and torch.equal(again.video().frames[:4], store.video().frames)


@pytest.mark.parametrize("step", range(4))
def test_a_writer_killed_anywhere_leaves_the_store_of_before_and_whole_shards(
    tmp_path: Path, monkeypatch: Any, step: int
) -> None:
    from tvr_cli import files

    store = tiny_features.write(tmp_path)
    whole = store.video().frames
    new = [dataclasses.replace(r, id=f"z{r.id}", key=r.key + 1) for r in tiny_features.records()[:1]]
    writer, write, left = FeatureWriter(store.root, tiny_features.made()), files.write_bytes, [step]

    def write_until(path: Path, data: bytes, **more: Any) -> str:
        if left[0] == 0:  # the shard, its rows, the head; the tables of the end
            path.with_name(f"{path.name}.4711.tmp").write_bytes(data[: len(data) // 2])
            raise KeyboardInterrupt
        left[0] -= 1
        return write(path, data, **more)

    monkeypatch.setattr(files, "write_bytes", write_until)
    with pytest.raises(KeyboardInterrupt):
        tiny_features.add(writer, new, seed=9)
        writer.finish([*tiny_features.records(), *new], tiny_features.captions(), {})
    monkeypatch.undo()
    now = FeatureStore.open(store.root)
    assert torch.equal(now.video().frames, whole) and list(now.clips) == list(store.clips)
    again = FeatureWriter(store.root, tiny_features.made())
    key = clip_row_key(new[0].key, new[0].n_frames)
    assert (key in again.keys("video")) == (step == 3)
    if step < 3:
        tiny_features.add(again, new, seed=9)
    again.finish([*tiny_features.records(), *new], tiny_features.captions(), {})
    assert len(FeatureStore.open(store.root).video()) == 5 and not list(store.root.glob("*.tmp"))


def test_video_features_keep_optional_tensors_through_selection() -> None:
    video = tiny_features.video(tiny_features.records())
    some: VideoFeatures = video.rows(torch.tensor([2, 0]))
    assert some.pooled is not None and video.pooled is not None and torch.equal(some.pooled, video.pooled[[2, 0]])
    assert dataclasses.replace(video, pooled=None).rows(slice(0, 1)).pooled is None
