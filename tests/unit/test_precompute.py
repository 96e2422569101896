"""Precomputing features: equal to the backbone's own answers, only what is new, refused before any work."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clip
import tiny_frames
import torch

from tvr_cli import log
from tvr_cli.backbones import load, registry
from tvr_cli.engine.features import precompute as engine
from tvr_cli.engine.features import repair as repairing
from tvr_cli.engine.features import suiting
from tvr_cli.engine.features.choose import choose_backbone
from tvr_cli.engine.features.frame_batches import ahead
from tvr_cli.engine.features.precompute import backbone_of, encode_captions
from tvr_cli.engine.features.repair import refresh
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem, StoreMismatch
from tvr_cli.plans import FramePlan, PrecomputeOptions, WordPlan
from tvr_cli.stores.features import head as heads
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.frames.picture import see
from tvr_cli.stores.frames.store import FrameStore, decode_jpeg
from tvr_cli.types import Caption, Clip, Manifest, View
from tvr_cli.workspace import Workspace


def precompute(folder: Path, *args: Any) -> engine.PrecomputeReport:
    return engine.precompute(Workspace.at(folder), *args)


def repair(folder: Path, *args: Any) -> engine.PrecomputeReport:
    return repairing.repair(Workspace.at(folder), *args)


EXACT = PrecomputeOptions(dtype="fp32", device="cpu", max_words=9)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log._everybody, "repeats", Counter())  # what is said once is said in every test
    logging.getLogger("tvr").propagate = True


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local:{tiny_clip.folder(tmp_path_factory.mktemp('weights') / 'tiny')}"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    tiny_frames.simple(tmp_path / "out", {"a.mp4": 4, "b.mp4": 2, "c.mp4": 1})
    return tmp_path / "out"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Record which clips and captions were run through the backbone."""
    seen: dict[str, list[str]] = {"clips": [], "texts": []}
    batch, captions = engine.encode_batch, engine.encode_captions

    def clips(backbone: Any, frames: Any, shape: str, **more: Any) -> Any:
        seen["clips"] += [r.id for r in frames.records]
        return batch(backbone, frames, shape, **more)

    def texts(backbone: Any, said: Any, *rest: Any, **more: Any) -> Any:
        seen["texts"] += list(said)
        return captions(backbone, said, *rest, **more)

    monkeypatch.setattr(engine, "encode_batch", clips)
    monkeypatch.setattr(engine, "encode_captions", texts)
    return seen


def _captions(path: Path, *records: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def _three(workspace: Path) -> Path:
    return _captions(
        workspace.parent / "captions.jsonl",
        {"video": "a", "caption": "a dog surfing on a wave", "split": "train"},
        {"video": "b", "caption": "two cats", "split": "val"},
        {"video": "b.mp4", "caption": "a dog surfing on a wave", "split": "val"},
        {"video": "c", "caption": "rain", "split": "test"},
    )


@pytest.mark.parametrize("shape", ["fixed", "ragged"])
def test_features_are_the_backbones_own(workspace: Path, weights: str, shape: Any) -> None:
    options = PrecomputeOptions(**{**vars(EXACT), "shape": shape, "batch": 5})
    store = precompute(workspace, weights, _three(workspace), options).store
    assert store is not None
    backbone = load(weights)
    video, text = store.video(), store.text()
    for row, clip in enumerate(FrameStore.open(workspace / "frames").read([c.id for c in store.clips])):
        frames = torch.stack([torch.from_numpy(decode_jpeg(j)).permute(2, 0, 1) for j in clip.jpegs])[None]
        n = frames.shape[1]
        with torch.no_grad():
            expected = backbone.encode_frames(frames, torch.ones(1, n, dtype=torch.bool))[0]
            missing = backbone.encode_normalized(torch.zeros(1, 1, 3, 32, 32))[0, 0]
        torch.testing.assert_close(video.frames[row, :n], expected, rtol=1e-4, atol=1e-4)
        padding = missing.expand(4 - n, -1) if shape == "fixed" else torch.zeros(4 - n, 32)
        torch.testing.assert_close(video.frames[row, n:], padding, rtol=1e-4, atol=1e-4)
        assert video.ts[row, :n].tolist() == clip.ts.tolist()
        assert int(video.key[row]) == clip.record.key and int(video.n_frames[row]) == n
    with torch.no_grad():
        ids, n_tokens = backbone.tokenize([c.text for c in store.captions], 9)
        pooled, tokens = backbone.encode_text(ids)
    assert tokens is not None and text.tokens is not None
    real = torch.arange(9) < n_tokens[:, None]
    torch.testing.assert_close(text.pooled, pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(text.tokens[real], tokens[real], rtol=1e-4, atol=1e-4)
    if shape == "fixed":
        torch.testing.assert_close(text.tokens, tokens, rtol=1e-4, atol=1e-4)
    else:
        assert (text.tokens[~real] == 0).all()
    assert text.n_tokens.tolist() == n_tokens.tolist()


def test_bf16_arithmetic_stays_close_and_in_the_same_store(workspace: Path, weights: str) -> None:
    exact = precompute(workspace, weights, _three(workspace), EXACT).store
    assert exact is not None
    frames = exact.video().frames
    for shard in exact.root.glob("*.safetensors"):
        shard.unlink()
    low = precompute(
        Workspace(workspace), weights, None, PrecomputeOptions(**{**vars(EXACT), "precision": "bf16"})
    ).store
    assert low is not None and low.fingerprint == exact.fingerprint
    error = (low.video().frames - frames).norm() / frames.norm()
    assert 1e-5 < error < 0.03


def test_a_query_gets_what_the_store_holds(workspace: Path, weights: str) -> None:
    for words in ("fixed", "ragged"):
        options = PrecomputeOptions(**{**vars(EXACT), "words": words, "word_importance": "stopwords"})
        store = precompute(workspace, weights, _three(workspace), options).store
        assert store is not None
        model = backbone_of(store, device="cpu")
        got = encode_captions(model, [c.text for c in store.captions], store.word_plan, store.word_importance, batch=2)
        for field, value in vars(store.text()).items():
            torch.testing.assert_close(getattr(got, field), value, rtol=1e-4, atol=1e-4, msg=field)
    assert len(encode_captions(model, [], WordPlan("fixed", 9), "none")) == 0


def test_temporal_shift_encodes_whole_clips(workspace: Path, tmp_path: Path) -> None:
    weights = f"local:{tiny_clip.folder(tmp_path / 'deep', tiny_clip.config(layers=12))}"
    plain = precompute(workspace, weights, None, EXACT).store
    shifted = precompute(
        Workspace(workspace), weights, None, PrecomputeOptions(**{**vars(EXACT), "temporal_shift": True})
    ).store
    assert plain is not None and shifted is not None and plain.fingerprint != shifted.fingerprint
    assert not torch.allclose(plain.video().frames, shifted.video().frames, atol=1e-3)
    again = backbone_of(shifted, device="cpu")
    clip = next(iter(FrameStore.open(workspace / "frames").read(["a.mp4"])))
    frames = torch.stack([torch.from_numpy(decode_jpeg(j)).permute(2, 0, 1) for j in clip.jpegs])[None]
    with torch.no_grad():
        expected = again.encode_frames(frames, torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(shifted.video(torch.tensor([0])).frames, expected, rtol=1e-4, atol=1e-4)


def test_only_what_is_new_is_encoded(workspace: Path, weights: str, encoded: dict[str, list[str]]) -> None:
    captions = _three(workspace)
    first = precompute(workspace, weights, captions, EXACT).store
    assert encoded["clips"] == ["a.mp4", "b.mp4", "c.mp4"]
    assert encoded["texts"] == ["a dog surfing on a wave", "two cats", "rain"]  # once, though two videos share one
    encoded["clips"].clear()
    encoded["texts"].clear()

    assert precompute(workspace, weights, captions, EXACT).clips.encoded == 0
    assert encoded == {"clips": [], "texts": []}

    writer = tiny_frames.simple(workspace, {"d.mp4": 3})
    writer.change(lambda c: None if c.record.id == "b.mp4" else c)
    _captions(captions, {"video": "d", "caption": "snow"}, {"video": "a", "caption": "rain"})
    report = precompute(workspace, weights, captions, EXACT)
    assert encoded == {"clips": ["d.mp4"], "texts": ["snow"]}
    assert [c.id for c in report.store.clips] == ["a.mp4", "c.mp4", "d.mp4"]
    assert [c.text for c in report.store.captions] == ["snow", "rain"]
    assert report.store.fingerprint == first.fingerprint
    assert report.store.content_hash() != first.content_hash()


def test_a_renamed_video_costs_nothing_and_a_changed_one_is_made_again(
    workspace: Path, weights: str, encoded: dict[str, list[str]]
) -> None:
    precompute(workspace, weights, None, EXACT)
    encoded["clips"].clear()
    writer = tiny_frames.write(workspace, [tiny_frames.clip("new/name.mp4", 4, content="a.mp4")])
    writer.change(lambda c: None if c.record.id == "a.mp4" else c)
    tiny_frames.write(workspace, [tiny_frames.clip("c.mp4", 3, content="another film")])
    store = precompute(workspace, weights, None, EXACT).store
    assert store is not None
    assert encoded["clips"] == ["c.mp4"]
    assert [(c.id, c.n_frames) for c in store.clips] == [("b.mp4", 2), ("c.mp4", 3), ("new/name.mp4", 4)]
    assert store.video().n_frames.tolist() == [2, 3, 4]


def test_a_stopped_run_is_taken_over_by_shards(
    workspace: Path, weights: str, encoded: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_SHARD_CLIPS", 1)
    whole = engine.encode_captions

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "encode_captions", interrupt)
    with pytest.raises(KeyboardInterrupt):
        precompute(workspace, weights, _three(workspace), EXACT)
    assert Workspace(workspace).newest_features() is None
    assert encoded["clips"] == ["a.mp4", "b.mp4", "c.mp4"]
    encoded["clips"].clear()
    monkeypatch.setattr(engine, "encode_captions", whole)
    store = precompute(workspace, weights, _three(workspace), EXACT).store
    assert encoded["clips"] == [] and len(store.video()) == 3


def test_repair_makes_one_shard_again(
    workspace: Path, weights: str, encoded: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_SHARD_CLIPS", 1)
    options = PrecomputeOptions(**{**vars(EXACT), "shape": "ragged", "word_importance": "stopwords", "dtype": "bf16"})
    store = precompute(workspace, weights, _three(workspace), options).store
    before, (hurt, *_) = store.video(), sorted(store.root.glob("video-*.safetensors"))
    hurt.write_bytes(b"x" * hurt.stat().st_size)
    with pytest.raises(DataError, match=f"--repair {hurt.name}"):
        FeatureStore.open(store.root).video()
    encoded["clips"].clear()
    report = repair(workspace, hurt.name, PrecomputeOptions(device="cpu"))
    assert len(encoded["clips"]) == 1
    assert report.store.root == store.root
    torch.testing.assert_close(report.store.video().frames, before.frames, rtol=1e-2, atol=1e-2)
    with pytest.raises(DataError, match=r"no feature store .* has a shard or fingerprint 'x\.safetensors'"):
        repair(workspace, "x.safetensors", PrecomputeOptions(device="cpu"))


def test_refreshing_keeps_a_stores_own_plans(workspace: Path, weights: str, encoded: dict[str, list[str]]) -> None:
    options = PrecomputeOptions(**{**vars(EXACT), "shape": "ragged", "max_words": 7})
    store = precompute(workspace, weights, None, options).store
    assert store is not None
    tiny_frames.simple(workspace, {"d.mp4": 3})
    encoded["clips"].clear()
    again = refresh(Workspace(workspace), store, PrecomputeOptions(device="cpu")).store
    assert again is not None and again.root == store.root and len(again.clips) == 4
    assert encoded["clips"] == ["d.mp4"]


def test_a_lost_shard_is_noticed_by_the_next_run(
    workspace: Path, weights: str, encoded: dict[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    store = precompute(workspace, weights, _three(workspace), EXACT).store
    assert store is not None
    next(store.root.glob("text-*.safetensors")).unlink()
    encoded["clips"].clear()
    store = precompute(workspace, weights, None, EXACT).store
    assert store is not None and len(store.text()) == 4 and encoded["clips"] == []
    assert "its rows are made again" in caplog.text


@pytest.mark.parametrize("bad", ['{"video": "nowhere", "caption": "x"}', "{", '{"video": "a"}'])
def test_bad_captions_are_refused_before_the_backbone_is_looked_for(workspace: Path, bad: str) -> None:
    file = workspace.parent / "bad.jsonl"
    file.write_text('{"video": "a", "caption": "x"}\n' + bad + "\n")
    with pytest.raises(DataError, match=rf"^{file}:2: "):
        precompute(workspace, "no-such-backbone", file, EXACT)
    assert not (workspace / "features").exists()


def test_captions_of_failed_videos_are_set_aside_and_counted(
    workspace: Path, weights: str, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_frames.fail(tiny_frames.simple(workspace, {}), "broken.mp4")
    file = _captions(
        workspace.parent / "c.jsonl",
        {"video": "a", "caption": "x", "split": "test"},
        {"video": "broken", "caption": "y", "split": "test"},
    )
    report = precompute(workspace, weights, file, EXACT)
    assert (report.captions.total, report.captions.set_aside) == (1, 1)
    assert report.store.provenance["missing"] == {"test": ["broken.mp4"]}
    assert "1 captions of 1 videos without frames were set aside" in caplog.text


def test_a_cut_film_has_all_its_windows_as_positives(tmp_path: Path, weights: str) -> None:
    windows = [tiny_frames.clip("film.mp4", 4, window=(s, s + 30.0)) for s in (0.0, 25.0)]
    tiny_frames.write(tmp_path, [*windows, tiny_frames.clip("x.mp4", 1)])
    file = _captions(
        tmp_path / "c.jsonl", {"video": "film", "caption": "all"}, {"video": "film", "caption": "end", "start": 40}
    )
    store = precompute(tmp_path, weights, file, EXACT).store
    assert store is not None
    assert [(c.clips, c.file_id, c.start) for c in store.captions] == [
        ((0, 1), "film.mp4", None),
        ((1,), "film.mp4", 40.0),
    ]


def test_a_data_set_brings_its_notes_and_expectations(workspace: Path, weights: str) -> None:
    manifest = Manifest(
        name="tiny",
        root=workspace,
        clips=(Clip("a", Path("a.mp4")),),
        captions=(Caption("1", "a", "x", "test"), Caption("2", "gone", "y", "test"), Caption("3", "later", "z", "val")),
        expected={"test": 2},
        missing=("gone",),
        notes=("a note",),
    )
    store = precompute(workspace, weights, manifest, EXACT).store
    assert store is not None
    told = {k: store.provenance[k] for k in ("name", "expected", "missing", "notes", "data")}
    assert told == {
        "name": "tiny",
        "expected": {"test": 2},
        "missing": {"test": ["gone"], "val": ["later"]},
        "notes": ["a note"],
        "data": f"tiny:{workspace}",
    }
    nothing = Manifest("tiny", workspace, (), (Caption("1", "elsewhere", "x", "test"),))
    with pytest.raises(DataError, match="none of the 1 captions is about one of the 3 extracted clips"):
        precompute(workspace, weights, nothing, EXACT)


def test_captions_are_found_beside_the_videos_and_remembered(
    workspace: Path, weights: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert precompute(workspace, weights, None, EXACT).captions.total == 0  # a workspace for queries only
    beside = _captions(workspace.parent / "videos" / "captions.jsonl", {"video": "a", "caption": "x"})
    tiny_frames.simple(workspace, {}).set_header(captions_beside=str(beside))
    assert precompute(workspace, weights, None, EXACT).captions.total == 1
    assert precompute(workspace, weights, _three(workspace), EXACT).captions.total == 4
    assert precompute(workspace, weights, None, EXACT).captions.total == 4
    with caplog.at_level(logging.INFO):
        (workspace.parent / "captions.jsonl").unlink()
        assert precompute(workspace, weights, None, EXACT).captions.total == 1
    assert "are gone" in caplog.text and str(beside) in caplog.text


def test_the_backbone_is_chosen_by_flag_environment_store_default(
    workspace: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_backbone(None, Workspace(workspace)) == "clip-vit-b32"
    precompute(workspace, weights, None, EXACT)
    assert choose_backbone(None, Workspace(workspace)) == weights
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")
    assert choose_backbone(None, Workspace(workspace)) == "demo-tiny"
    assert choose_backbone("clip-vit-b16", Workspace(workspace)) == "clip-vit-b16"


def test_changed_weights_are_refused_where_a_store_is_used(workspace: Path, tmp_path: Path) -> None:
    folder = tiny_clip.folder(tmp_path / "mine")
    store = precompute(workspace, f"local:{folder}", None, EXACT).store
    assert store is not None
    tiny_clip.folder(folder, seed=1)
    with pytest.raises(StoreMismatch, match=r"made with backbone\.weights = .*run: tvr precompute-features --backbone"):
        backbone_of(store, device="cpu")
    again = precompute(workspace, f"local:{folder}", None, EXACT).store
    assert again is not None and again.fingerprint != store.fingerprint


def test_larger_frames_are_shrunk_and_smaller_ones_refused(tmp_path: Path, weights: str) -> None:
    tiny_frames.simple(tmp_path / "large", {"a.mp4": 2}, plan=FramePlan(num_frames=2, size=48))
    store = precompute(tmp_path / "large", weights, None, EXACT).store
    assert store is not None and len(store.video()) == 1
    tiny_frames.simple(tmp_path / "small", {"a.mp4": 2}, plan=FramePlan(num_frames=2, size=24))
    said = r"are 24 px, but .* takes 32 px; name one that takes 24 px or less .*: tvr extract-frames videos/ --for "
    with pytest.raises(DataError, match=said):
        precompute(tmp_path / "small", weights, None, EXACT)


WHOLE = FramePlan(num_frames=2, size=32, fit="whole", short_side=32)


def squash_weights(folder: Path) -> str:
    """Return a backbone that was trained on squashed pictures, bilinear."""
    return f"local:{tiny_clip.folder(folder, pixels={'resize_mode': 'squash', 'interpolation': 'bilinear'})}"


def test_frames_that_were_cropped_are_refused_for_an_encoder_of_whole_pictures(tmp_path: Path) -> None:
    tiny_frames.simple(tmp_path / "old", {"a.mp4": 2}, plan=FramePlan(num_frames=2, size=48))
    name = squash_weights(tmp_path / "w")
    for verb in (precompute, lambda folder, *others: engine.dry_run(Workspace.at(folder), *others)):
        with pytest.raises(DataError) as e:
            verb(tmp_path / "old", name, None, EXACT)
        said = f"of their own: tvr extract-frames videos/ --for {name} --num-frames 2 -o {tmp_path / 'old-local-'}"
        assert said in str(e.value)
        assert "are cropped to their centre, but the backbone local:" in str(e.value)
    assert not (tmp_path / "old" / "features").exists()


def test_frames_that_were_squashed_are_refused_for_an_encoder_of_the_centre(tmp_path: Path, weights: str) -> None:
    tiny_frames.simple(tmp_path, {"a.mp4": 2}, plan=FramePlan(num_frames=2, size=48, fit="squash"))
    with pytest.raises(DataError, match=r"are squashed to a square, .* trained on pictures that are cropped to their"):
        precompute(tmp_path, weights, None, EXACT)


def test_whole_frames_are_seen_by_each_encoder_in_its_own_way(tmp_path: Path, weights: str) -> None:
    wide, tall = (tiny_frames.clip(n, 2, size=s) for n, s in (("w.mp4", (57, 32)), ("t.mp4", (20, 44))))
    tiny_frames.write(tmp_path, [wide, tall], plan=WHOLE)
    for name, view in ((weights, View(32)), (squash_weights(tmp_path / "w"), View(32, "squash", "bilinear"))):
        store = precompute(tmp_path, name, None, EXACT).store
        model = load(name)
        assert model.about.view == view
        for clip, found in ((tall, store.video().frames[0]), (wide, store.video().frames[1])):
            pictures = [
                torch.from_numpy(see(decode_jpeg(j), view).copy()).permute(2, 0, 1) for j in clip.timeline.jpegs
            ]
            with torch.no_grad():
                wanted = model.encode_frames(torch.stack(pictures)[None], torch.ones(1, 2, dtype=torch.bool))[0]
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert len({path.name for path in (tmp_path / "features").iterdir()}) == 2


def test_an_identity_says_only_what_0_1_0_did_not_do(tmp_path: Path, weights: str) -> None:
    """Fingerprints of 0.1.0 are hashes of these: size, mean and std, and nothing of captions."""
    usual = load(weights).identity()
    assert set(usual["preprocessing"]) == {"size", "mean", "std"} and "text" not in usual
    squashed = load(squash_weights(tmp_path / "w")).identity()
    assert squashed["preprocessing"] == {**usual["preprocessing"], "fit": "squash", "filter": "bilinear"}
    assert (
        registry.resolve(squash_weights(tmp_path / "w")).kind.identify(
            registry.resolve(squash_weights(tmp_path / "w")), temporal_shift=False
        )
        == squashed
    )


def test_an_unbounded_plan_is_ragged_only(tmp_path: Path, weights: str) -> None:
    tiny_frames.simple(tmp_path, {"a.mp4": 6, "b.mp4": 2}, plan=FramePlan("fps", fps=1.0, size=32))
    with pytest.raises(ConfigError, match=r"--shape fixed needs a largest number .* --fps 1 --max-frames 12"):
        precompute(tmp_path, weights, None, EXACT)
    store = precompute(
        Workspace(tmp_path), weights, None, PrecomputeOptions(**{**vars(EXACT), "shape": "ragged"})
    ).store
    assert store is not None and store.sizes.frames == 6
    assert store.video().n_frames.tolist() == [6, 2]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"max_words": 17}, ConfigError, "--max-words: expected 3 to 16"),
        ({"max_words": 2}, ConfigError, "--max-words: expected 3 to 16"),
        ({"temporal_shift": True, "shape": "ragged"}, ConfigError, "needs --shape fixed"),
        ({"temporal_shift": True}, ConfigError, "needs a ViT of at least 12 blocks"),
        ({"word_importance": "stopword"}, ConfigError, "did you mean stopwords?"),
        ({"word_importance": "spacy"}, EnvironmentProblem, "pip install 'tvr-cli[spacy]'"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_impossible_plans_are_refused(
    workspace: Path, weights: str, change: dict[str, Any], error: type[Exception], said: str, dry_run: bool
) -> None:
    if change.get("word_importance") == "spacy" and importlib.util.find_spec("spacy"):
        pytest.skip("spacy is installed")
    with pytest.raises(error) as e:
        (engine.dry_run if dry_run else precompute)(
            Workspace(workspace), weights, None, PrecomputeOptions(**{**vars(EXACT), **change})
        )
    assert said in str(e.value)
    assert not (workspace / "features").exists()


def test_truncated_captions_are_counted_and_said(
    workspace: Path, weights: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = PrecomputeOptions(**{**vars(EXACT), "max_words": 4})
    report = precompute(workspace, weights, _three(workspace), options)
    assert report.captions.truncated == 2
    assert "2 captions longer than 4 tokens were truncated" in caplog.text
    assert int(report.store.text().n_tokens.max()) == 4


def test_a_dry_run_writes_nothing_and_multiplies_right(workspace: Path, weights: str) -> None:
    options = PrecomputeOptions(**{**vars(EXACT), "dtype": "fp16"})
    report = engine.dry_run(Workspace(workspace), weights, _three(workspace), options)
    assert not (workspace / "features").exists()
    assert report.sizes == engine.PlannedSizes(frames=12, clips=0, tokens=30, dim=32, bytes_a_value=2)
    assert report.size_bytes == (3 * 4 + 3 * (9 + 1)) * 32 * 2
    assert report.seconds > 0 and report.clips.encoded == 3 and report.captions.encoded == 3
    real = precompute(Workspace(workspace), weights, _three(workspace), options)
    assert report.fingerprint == real.store.fingerprint
    assert engine.dry_run(Workspace(workspace), weights, None, options).clips.encoded == 0


def test_a_dry_run_needs_no_weights(workspace: Path) -> None:
    with pytest.raises(DataError, match="takes 224 px"):
        engine.dry_run(Workspace(workspace), "clip-vit-b32", None, PrecomputeOptions())
    tiny_frames.FrameWriter.open(workspace / "frames", FramePlan(num_frames=4, size=224).identity(), {}, overwrite=True)
    tiny_frames.simple(workspace, {"a.mp4": 3}, plan=FramePlan(num_frames=4, size=224))
    report = engine.dry_run(Workspace(workspace), "clip-vit-b32", None, PrecomputeOptions(device="cpu"))
    assert report.backbone == "clip-vit-b32" and report.seconds > 0
    assert report.size_bytes == 4 * 512 * 2


def test_the_cost_of_a_tower_is_that_of_its_arithmetic() -> None:
    frame, caption = registry.skeleton(registry.resolve("clip-vit-b32")).cost(32)
    # ViT-B/32 with 50 tokens: 12 blocks of (12 w^2 + 2 L w) MAC a token, and the patch embedding.
    blocks = 12 * 50 * (12 * 768**2 + 2 * 50 * 768)
    assert frame == pytest.approx(2 * (blocks + 49 * 3072 * 768 + 768 * 512), rel=0.01)
    text = 12 * 32 * (12 * 512**2 + 2 * 32 * 512) + 32 * 512 * 512
    assert caption == pytest.approx(2 * text, rel=0.01)


def test_demo_tiny_warns_of_real_videos_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "toy" / "test").mkdir(parents=True)
    (tmp_path / "toy" / "events.jsonl").write_text("")
    toy = tiny_frames.clip("x", 1).clip.record
    suiting._warn_of_real_videos("demo-tiny", [_moved(toy, tmp_path / "toy" / "test" / "0.mp4")])
    assert not caplog.text
    suiting._warn_of_real_videos("demo-tiny", [_moved(toy, tmp_path / "holiday" / "0.mp4")])
    assert "demo-tiny knows only the toy world" in caplog.text


def _moved(record: Any, path: Path) -> Any:
    return dataclasses.replace(record, path=str(path))


def test_no_frames_say_how_to_extract_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tvr extract-frames"):
        precompute(tmp_path, "clip-vit-b32", None, EXACT)
    tiny_frames.simple(tmp_path, {})
    with pytest.raises(DataError, match="holds no clip; run: tvr extract-frames"):
        precompute(tmp_path, "clip-vit-b32", None, EXACT)


def test_shrinking_is_antialiased_and_exact_at_its_own_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(see(image, View(64)), image)
    small = see(np.kron(image[:16, :16], np.ones((4, 4, 1), np.uint8)), View(16))
    assert np.abs(small.astype(int) - image[:16, :16]).mean() < 30
    checker = np.indices((64, 64)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    assert np.ptp(see(checker.astype(np.uint8), View(16))) < 10  # not antialiased: all black or white


def test_reading_ahead_keeps_order_and_passes_errors_on() -> None:
    assert list(ahead(range(7), lambda i: i * i, depth=3)) == [i * i for i in range(7)]

    def fail(i: int) -> int:
        if i == 2:
            raise DataError("two")
        return i

    def taken() -> Iterator[int]:
        yield from ahead(range(5), fail)

    with pytest.raises(DataError, match="two"):
        list(taken())


def test_provenance_does_not_change_the_fingerprint(workspace: Path, weights: str) -> None:
    first = precompute(workspace, weights, None, EXACT).store
    other = precompute(workspace, weights, None, PrecomputeOptions(**{**vars(EXACT), "dtype": "bf16"})).store
    assert first is not None and other is not None and first.fingerprint == other.fingerprint
    assert os.listdir(workspace / "features") == [first.fingerprint]


def test_a_repair_by_another_backbone_is_refused(workspace: Path, weights: str) -> None:
    """--backbone was ignored: what the store was made by was taken without a word."""
    made = precompute(workspace, weights, None, EXACT)
    for name in (made.fingerprint, next(line.name for line in heads.read(made.folder)[1])):
        with pytest.raises(ConfigError, match=r"by the backbone that made them.*--backbone names demo-tiny"):
            repairing.repair(Workspace(workspace), name, EXACT, named="demo-tiny")
    assert repairing.repair(Workspace(workspace), made.fingerprint, EXACT, named=weights).clips.encoded == 0


def test_tvr_backbone_is_read_in_one_place() -> None:
    package = Path(engine.__file__).parents[2]
    reads = [p.name for p in package.rglob("*.py") if re.search(r"environ[^\n]*TVR_BACKBONE", p.read_text())]
    assert reads == ["defaults.py"]
