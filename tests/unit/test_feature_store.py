"""The feature store on disk: what goes in comes out, damage is found, a crash leaves a whole store."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import tiny_frames
import torch

from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.stores.features import head as heads
from tvr_cli.stores.features import store as features
from tvr_cli.stores.features.head import Made
from tvr_cli.stores.features.store import FeatureStore, StoredCaption, clip_row_key, text_row_key
from tvr_cli.stores.features.writer import FeatureWriter
from tvr_cli.stores.frames.store import ClipRecord
from tvr_cli.types import TextFeatures, VideoFeatures, caption_key
from tvr_cli.workspace import Workspace

DIM, FRAMES, WORDS = 8, 3, 5
TEXTS = ("a dog", "a  dog surfing", "two cats")


def _identity(shape: str = "fixed", importance: str = "none") -> dict[str, Any]:
    return {
        "backbone": {"name": "tiny", "weights": "0" * 64, "preprocessing": {"size": 32}, "temporal_shift": False},
        "frames": {"kind": "uniform", "num_frames": FRAMES, "size": 32, "quality": 90},
        "shape": shape,
        "words": {"shape": shape, "length": WORDS},
        "importance": importance,
    }


def _records() -> list[ClipRecord]:
    return [tiny_frames.clip(name, n).clip.record for name, n in (("a.mp4", 3), ("b.mp4", 1), ("c.mp4", 2))]


def _video(seed: int = 0) -> VideoFeatures:
    g = torch.Generator().manual_seed(seed)
    n = torch.tensor([r.n_frames for r in _records()])
    key = torch.tensor([r.key for r in _records()])
    return VideoFeatures(key, torch.randn(3, FRAMES, DIM, generator=g), n, torch.rand(3, FRAMES, generator=g).double())


def _text(importance: bool = False) -> TextFeatures:
    g = torch.Generator().manual_seed(1)
    marks = torch.tensor([[1, 2, 1, 0, 0], [1, 2, 2, 2, 1], [1, 1, 2, 1, 0]], dtype=torch.uint8)
    return TextFeatures(
        torch.tensor([caption_key(t) for t in TEXTS]),
        torch.randn(3, DIM, generator=g),
        torch.randn(3, WORDS, DIM, generator=g),
        torch.tensor([3, 5, 4]),
        marks if importance else None,
    )


def _captions() -> list[StoredCaption]:
    splits = ("train", "test", "test")
    return [
        StoredCaption(f"c{i}", t, caption_key(t), splits[i], (i,), _records()[i].file_id, f"x.jsonl:{i}")  # type: ignore[arg-type]
        for i, t in enumerate(TEXTS)
    ]


def _write(
    root: Path, shape: str = "fixed", *, dtype: torch.dtype = torch.float32, importance: str = "none"
) -> FeatureWriter:
    identity = _identity(shape, importance)
    provides = {"frames", "pooled", "tokens"} | ({"importance"} if importance != "none" else set())
    made = Made.of(identity, backbone="tiny", dim=DIM, provides=provides, provenance={"dtype": "fp32"})
    writer = FeatureWriter(root / "features" / made.fingerprint, made)
    video, text = _video(), _text(importance != "none")
    for i, record in enumerate(_records()):  # one shard a clip
        writer.add_video([clip_row_key(record.key, record.n_frames)], video.rows(slice(i, i + 1)), dtype)
    writer.add_text([text_row_key(t) for t in TEXTS[:2]], text.rows(slice(0, 2)), dtype)
    writer.add_text([text_row_key(TEXTS[2])], text.rows(slice(2, 3)), dtype)
    writer.finish(_records(), _captions(), {"expected": {"test": 2}})
    return writer


@pytest.mark.parametrize("importance", ["none", "stopwords"])
def test_a_fixed_store_keeps_every_slot(tmp_path: Path, importance: str) -> None:
    store = FeatureStore.open(_write(tmp_path, importance=importance).root)
    for got, put in ((store.video(), _video()), (store.text(), _text(importance != "none"))):
        for field in vars(put):
            torch.testing.assert_close(getattr(got, field), getattr(put, field), rtol=0, atol=0)
    assert (store.sizes.dim, store.sizes.frames, store.sizes.words) == (DIM, FRAMES, WORDS)
    assert ("importance" in store.provides) == (importance != "none")


def test_a_ragged_store_keeps_real_slots_and_gives_zeros_for_the_rest(tmp_path: Path) -> None:
    store = FeatureStore.open(_write(tmp_path, "ragged").root)
    video, text = store.video(), store.text()
    real = torch.arange(FRAMES) < _video().n_frames[:, None]
    torch.testing.assert_close(video.frames, _video().frames * real[..., None], rtol=0, atol=0)
    torch.testing.assert_close(video.ts, _video().ts * real, rtol=0, atol=0)
    words = torch.arange(WORDS) < _text().n_tokens[:, None]
    assert text.tokens is not None and _text().tokens is not None
    torch.testing.assert_close(text.tokens, _text().tokens * words[..., None], rtol=0, atol=0)


@pytest.mark.parametrize("shape", ["fixed", "ragged"])
def test_rows_come_in_the_order_asked_for(tmp_path: Path, shape: str) -> None:
    store = FeatureStore.open(_write(tmp_path, shape).root)
    index = torch.tensor([2, 0, 2, 1])
    for take, every in ((store.video, store.video()), (store.text, store.text())):
        got = take(index)
        for field, value in vars(every).items():
            if value is not None:
                torch.testing.assert_close(getattr(got, field), value[index], rtol=0, atol=0)
        assert len(take(torch.tensor([], dtype=torch.int64))) == 0


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_stored_types_are_read_as_float32(tmp_path: Path, dtype: torch.dtype, error: float) -> None:
    store = FeatureStore.open(_write(tmp_path, dtype=dtype).root)
    assert store.video().frames.dtype == store.text().pooled.dtype == torch.float32
    torch.testing.assert_close(store.video().frames, _video().frames, rtol=error, atol=error)


def test_splits_are_caption_rows(tmp_path: Path) -> None:
    store = FeatureStore.open(_write(tmp_path).root, tmp_path)
    assert store.split("train").tolist() == [0]
    assert store.split("test").tolist() == [1, 2]
    assert store.split("val").tolist() == []
    assert list(store.captions) == _captions() and list(store.clips) == _records()
    assert store.provenance == {"dtype": "fp32", "expected": {"test": 2}}


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_shard_is_named_with_the_command_that_rebuilds_it(tmp_path: Path, damage: str) -> None:
    root = _write(tmp_path).root
    hurt = sorted(root.glob("video-*.safetensors"))[1]
    data = bytearray(hurt.read_bytes())
    if damage == "delete":
        hurt.unlink()
    else:
        data[-3] ^= 1
        hurt.write_bytes(data if damage == "flip" else data[:-9])
    store = FeatureStore.open(root, tmp_path)
    store.text()  # the other shards are fine
    with pytest.raises(DataError) as e:
        store.video()
    assert f"{hurt.name}' is damaged" in str(e.value)
    assert f"tvr precompute-features --repair {hurt.name} -o {tmp_path}" in str(e.value)
    assert e.value.exit_code == 3


def test_values_that_a_type_cannot_hold_are_refused(tmp_path: Path) -> None:
    writer = _write(tmp_path)
    big = _video()
    big.frames[0, 0, 0] = 1e6
    before = sorted(p.name for p in writer.root.iterdir())
    with pytest.raises(DataError, match=r"not finite numbers as float16.*--dtype fp32"):
        writer.add_video(["x", "y", "z"], big, torch.float16)
    assert sorted(p.name for p in writer.root.iterdir()) == before


def test_an_unfinished_store_is_not_opened_and_not_found(tmp_path: Path) -> None:
    root = _write(tmp_path).root
    head = heads.read_head(root)
    heads.write_head(root, dataclasses.replace(head, finished=None))
    assert Workspace(tmp_path).newest_features() is None
    with pytest.raises(DataError, match="begun but not finished; continue it with: tvr precompute-features"):
        FeatureStore.open(root)


def test_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    assert Workspace(tmp_path).newest_features() is None
    with pytest.raises(DataError, match="tvr precompute-features"):
        FeatureStore.open(tmp_path / "features" / "x")


def test_another_format_version_is_a_mismatch(tmp_path: Path) -> None:
    root = _write(tmp_path).root
    header = json.loads((root / "store.json").read_text())
    (root / "store.json").write_text(json.dumps({**header, "format": 99}))
    with pytest.raises(StoreMismatch, match="format: this tvr reads feature stores of format 2, found features 99"):
        FeatureStore.open(root)


def test_the_newest_finished_store_is_found_by_backbone(tmp_path: Path) -> None:
    first, second = _write(tmp_path, "fixed").root, _write(tmp_path, "ragged").root
    os.utime(first / "store.json", ns=(1, 1))
    found = Workspace(tmp_path).newest_features()
    assert found is not None and found.root == second
    assert Workspace(tmp_path).newest_features("tiny") is not None
    assert Workspace(tmp_path).newest_features("clip-vit-b32") is None


def test_the_store_asked_for_last_is_the_newest(tmp_path: Path) -> None:
    first, second = _write(tmp_path, "fixed"), _write(tmp_path, "ragged")
    for writer in (first, second):
        os.utime(writer.root / "store.json", ns=(1, 1))
    first.finish(_records(), _captions(), {"expected": {"test": 2}})
    found = Workspace(tmp_path).newest_features()
    assert found is not None and found.root == first.root


def test_an_identity_that_differs_names_field_and_command(tmp_path: Path) -> None:
    store = FeatureStore.open(_write(tmp_path).root, tmp_path)
    features.check_identity(store, _identity(), "tvr x")
    other = _identity()
    other["words"]["length"] = 64
    with pytest.raises(StoreMismatch, match=r"made with words\.length = 5, but 64 is wanted; run: tvr x"):
        features.check_identity(store, other, "tvr x")


def test_the_fingerprint_depends_on_the_identity_alone() -> None:
    identity = _identity()
    reordered = dict(reversed(identity.items()))
    assert features.fingerprint_of(identity) == features.fingerprint_of(reordered)
    changes = ({"shape": "ragged"}, {"importance": "stopwords"}, {"backbone": {"name": "tiny2"}})
    assert len({features.fingerprint_of({**identity, **c}) for c in (*changes, {})}) == 4


def test_forgotten_clips_and_captions_leave_no_file(tmp_path: Path) -> None:
    writer = _write(tmp_path)
    before, size = FeatureStore.open(writer.root).content_hash(), len(list(writer.root.glob("*.safetensors")))
    writer.finish(_records()[:2], [c for c in _captions() if c.clips != (2,)], {})
    store = FeatureStore.open(writer.root)
    assert [c.id for c in store.clips] == ["a.mp4", "b.mp4"]
    torch.testing.assert_close(store.video().frames, _video().frames[:2], rtol=0, atol=0)
    torch.testing.assert_close(store.text().pooled, _text().pooled[:2], rtol=0, atol=0)
    assert store.content_hash() != before
    assert len(list(writer.root.glob("*.safetensors"))) == size - 2
    assert len(list(writer.root.glob("clips-*.table"))) == len(list(writer.root.glob("shards-*.jsonl"))) == 1
    assert len(list(writer.root.glob("*.rows.json"))) == size - 2


def test_files_that_the_store_did_not_name_outlive_it(tmp_path: Path) -> None:
    writer = _write(tmp_path)
    mine = ("video-holiday.safetensors", "captions-draft.json", "thesis.tmp")
    for name in mine:
        (writer.root / name).write_bytes(b"mine")
    writer.finish(_records()[:1], [], {})
    assert {name: (writer.root / name).read_bytes() for name in mine} == dict.fromkeys(mine, b"mine")


def test_nothing_is_written_into_a_folder_of_something_else(tmp_path: Path) -> None:
    made = _write(tmp_path / "a").made
    other = tmp_path / "b"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(StoreMismatch, match=r"something else than a feature store: 'model.safetensors'"):
        FeatureWriter(other, made)
    assert [p.name for p in other.iterdir()] == ["model.safetensors"]


def test_finishing_twice_changes_nothing(tmp_path: Path) -> None:
    writer = _write(tmp_path)
    inodes = {p.name: (p.stat().st_ino, p.read_bytes()) for p in writer.root.iterdir()}
    assert writer.finish(_records(), _captions(), {"expected": {"test": 2}}) is False
    assert {p.name: (p.stat().st_ino, p.read_bytes()) for p in writer.root.iterdir()} == inodes


def test_a_torn_line_and_a_lost_file_are_taken_as_missing(tmp_path: Path) -> None:
    writer = _write(tmp_path)
    root = writer.root
    sorted(root.glob("text-*.safetensors"))[0].unlink()
    with open(next(root.glob("shards-*.jsonl")), "ab") as f:
        f.write(b'{"shard": "video-')
    again = FeatureWriter(root, writer.made)
    assert len(again.keys("video")) == 3
    assert len(again.keys("text")) < 3


def test_a_caption_whose_shard_does_not_count_any_more_says_how_to_complete(tmp_path: Path) -> None:
    writer = _write(tmp_path)
    name = next(writer.root.glob("text-*.safetensors")).name
    assert writer.drop(name) and not writer.drop(name)
    with pytest.raises(DataError, match=r"is incomplete .* tvr precompute-features"):
        FeatureStore.open(writer.root).text()
