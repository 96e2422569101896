"""The live source: what it yields equals the stored features, gradients reach the backbone, workers change nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_frames
import torch
from synthetic import write_backbone, write_frames

from tvr_cli.config import Experiment, TrainConfig
from tvr_cli.engine.features import require
from tvr_cli.engine.features.frame_loader import FrameLoader
from tvr_cli.engine.features.precompute import backbone_of, precompute
from tvr_cli.engine.training import precision
from tvr_cli.engine.training.live import LiveSource
from tvr_cli.engine.training.sampling import PairSampler
from tvr_cli.engine.training.train import TrainOptions, dry_run, experiment_of, train
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.plans import FramePlan, PrecomputeOptions, Wish
from tvr_cli.runs import RunDir
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.frames.picture import see
from tvr_cli.stores.frames.store import decode_jpeg
from tvr_cli.types import View
from tvr_cli.workspace import Workspace

METHOD = "tests.synthetic"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A workspace of frames and fp32 features of a tiny CLIP, and the backbone's name."""
    folder = tmp_path_factory.mktemp("live")
    backbone = write_backbone(folder / "clip")
    write_frames(folder / "out", videos=12)
    precompute(Workspace(folder / "out"), backbone, None, PrecomputeOptions(dtype="fp32", max_words=12, device="cpu"))
    return folder / "out", backbone


def source_of(world: tuple[Path, str], workers: int = 0, **train) -> tuple[LiveSource, FeatureStore]:
    store = Workspace(world[0]).newest_features(world[1])
    assert store is not None
    backbone = backbone_of(store, offline=True, device="cpu")
    return LiveSource(store, world[0] / "frames", backbone, TrainConfig(**train), CPU, workers=workers), store


def test_live_features_equal_the_stored_ones(world: tuple[Path, str]) -> None:
    source, store = source_of(world)
    for live, stored in ((source.text(), store.text()), (source.video(), store.video())):
        for field in dataclasses.fields(stored):
            a, b = getattr(live, field.name), getattr(stored, field.name)
            if b is None:
                assert a is None
            else:
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, check_dtype=True, msg=field.name)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_with_the_features_of_their_pairs(world: tuple[Path, str], workers: int) -> None:
    source, store = source_of(world, workers)
    rows = store.split("train").tolist()
    sampler = PairSampler(rows, [store.captions[i].clips for i in rows], batch_size=3, seed=1)
    plan = [(step, pairs) for step, pairs in enumerate(sampler.batches(0) + sampler.batches(1))]
    seen = list(source.stream(plan))
    source.close()
    assert [i.step for i in seen] == [step for step, _ in plan]
    for inputs, (_, pairs) in zip(seen, plan, strict=True):
        text, video = source.encode(inputs, slice(0, len(inputs)))
        index = torch.from_numpy(pairs)
        torch.testing.assert_close(text.pooled, store.text(index[:, 0]).pooled, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(video.frames, store.video(index[:, 1]).frames, rtol=1e-4, atol=1e-5)
        assert torch.equal(video.n_frames, store.video(index[:, 1]).n_frames)


def test_gradients_reach_both_towers(world: tuple[Path, str]) -> None:
    source, _ = source_of(world)
    (inputs,) = source.stream([(0, np.array([[0, 0], [2, 1]]))])
    text, video = source.encode(inputs, slice(0, 2))
    (text.pooled.sum() + video.frames.sum()).backward()
    gradients = {name: p.grad for name, p in source._backbone.named_parameters()}
    for name in ("model.visual.conv1.weight", "model.token_embedding.weight", "model.text_projection"):
        gradient = gradients[name]
        assert gradient is not None and gradient.abs().max() > 0


def test_augmented_frames_depend_on_seed_and_step_alone(world: tuple[Path, str]) -> None:
    pairs = np.array([[0, 2], [2, 2], [4, 2]])

    def pixels(workers: int, seed: int, step: int) -> torch.Tensor:
        source, _ = source_of(world, workers, augment="randaugment", seed=seed)
        (inputs,) = source.stream([(step, pairs)])
        source.close()
        return inputs.raw.pixels

    first = pixels(0, 0, 0)
    assert torch.equal(first, pixels(2, 0, 0))
    assert not torch.equal(first, pixels(0, 0, 1)) and not torch.equal(first, pixels(0, 1, 0))
    assert not torch.equal(first[0], first[1])


def test_validation_sees_frames_without_augmentation(world: tuple[Path, str]) -> None:
    source, store = source_of(world, augment="randaugment")
    torch.testing.assert_close(source.video().frames, store.video().frames, rtol=1e-4, atol=1e-5)


def test_captions_longer_than_the_plan_are_cut_and_counted(
    world: tuple[Path, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    source, store = source_of(world)
    texts = ["a red square " * 9, *(c.text for c in store.captions[1:])]
    monkeypatch.setattr(type(store.captions), "texts", lambda self, rows: [texts[i] for i in rows])
    (inputs,) = source.stream([(0, np.array([[0, 0], [2, 1]]))])
    assert inputs.raw.ids.shape == (2, 12) and inputs.raw.n_tokens[0] == 12
    monkeypatch.setattr(logging.getLogger("tvr"), "propagate", True)
    source.close()
    assert "1 training caption longer than 12 tokens was cut" in caplog.text


def test_frames_smaller_than_the_backbones_input_are_refused(world: tuple[Path, str]) -> None:
    loader = FrameLoader(world[0] / "frames", slots=3, view=View(32))
    with pytest.raises(DataError, match="at least 32 px, found 16 x 16"):
        loader.load(["v00.mp4"])


@pytest.mark.parametrize("workers", [0, 1])
def test_whole_pictures_of_several_shapes_fill_one_batch(tmp_path: Path, workers: int) -> None:
    plan, view = FramePlan(num_frames=2, size=20, fit="whole", short_side=20), View(16, "squash", "bilinear")
    clips = [tiny_frames.clip(f"{w}x{h}.mp4", 2, size=(w, h)) for w, h in ((36, 20), (20, 44), (9, 12))]
    tiny_frames.write(tmp_path, clips, plan=plan)
    with FrameLoader(tmp_path / "frames", slots=3, view=view, workers=workers) as loader:
        pixels = loader.load([clip.clip.record.id for clip in clips])
    assert pixels.frames.shape == (3, 3, 16, 16, 3) and pixels.n_frames.tolist() == [2, 2, 2]
    for clip, frames in zip(clips, pixels.frames, strict=True):
        for data, frame in zip(clip.timeline.jpegs, frames, strict=False):
            np.testing.assert_array_equal(frame, see(decode_jpeg(data), view))


def test_a_worker_passes_on_what_went_wrong(world: tuple[Path, str]) -> None:
    with (
        FrameLoader(world[0] / "frames", slots=3, view=View(16), workers=1) as loader,
        pytest.raises(DataError, match="v99"),
    ):
        loader.load(["v99.mp4"])


FLAGS = {
    "train.tune": "full", "train.batch_size": 4, "train.epochs": 2, "train.lr": 1e-3, "train.backbone_lr": 1e-3,
    "train.weight_decay": 0.0,
}  # fmt: skip
OPTIONS = TrainOptions(device="cpu", threads=1, workers=0, offline=True)


def run(world: tuple[Path, str], folder: Path, options: TrainOptions = OPTIONS, **changes):
    import shutil

    if not folder.exists():
        shutil.copytree(world[0], folder, ignore=shutil.ignore_patterns("runs"))
    flags = {} if options.resume else {**FLAGS, "backbone.name": world[1], **changes}
    resolved, options = experiment_of(Workspace(folder), options, method=METHOD, flags=flags)
    return train(resolved, Workspace(folder), options)


def test_full_tuning_moves_the_backbone_and_leaves_a_run_that_scores(world: tuple[Path, str], tmp_path: Path) -> None:
    from tvr_cli.engine import scorers
    from tvr_cli.engine.evaluation.evaluate import EvaluateOptions, evaluate
    from tvr_cli.engine.evaluation.gallery import gallery_of
    from tvr_cli.engine.training.selection import select

    result = run(world, tmp_path / "out")
    found = RunDir.open(tmp_path / "out" / "runs" / "synthetic")
    store = scorers.store_for(Workspace(tmp_path / "out"), found, None)
    assert result.store == store.fingerprint != found.env()["store"]
    assert store.backbone_name == f"local:{(found.path / 'backbone').resolve()}"
    before = Workspace(world[0]).newest_features(world[1])
    assert before is not None and not torch.allclose(before.text().pooled, store.text().pooled, atol=1e-2)

    scorer = scorers.trained(found, store, METHOD)
    scored = evaluate(scorer, store, Workspace(tmp_path / "out"), EvaluateOptions(split="val", device="cpu"))
    first = select(store, TrainConfig()).validation
    assert len(first) == len(gallery_of(store, "val").videos)
    # The validation of the run used one caption a video and fp32 features; the store holds fp16.
    assert scored.subject.videos == 3 and result.best.metrics.t2v.keys() <= scored.judged.t2v.keys()


def test_annotations_that_move_while_a_full_run_trains_are_not_read_again(
    world: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of `--tune full` read them once more: hours of training, then exit 3, or features without captions."""
    from tvr_cli.engine.training.loop import Loop

    (tmp_path / "captions.jsonl").write_bytes((world[0].parent / "out-videos" / "captions.jsonl").read_bytes())
    original = Loop.run

    def moved(self: Loop):
        (tmp_path / "captions.jsonl").unlink()
        return original(self)

    monkeypatch.setattr(Loop, "run", moved)
    named = dataclasses.replace(OPTIONS, captions=tmp_path / "captions.jsonl")
    run(world, tmp_path / "out", named)
    workspace = Workspace(tmp_path / "out")
    tuned, given = workspace.newest_features(), next(workspace.given_features())
    assert tuned is not None and tuned.backbone_name != given.backbone_name
    assert [c.text for c in tuned.captions] == [c.text for c in given.captions] != []
    assert tuned.corpus == given.corpus


def test_features_that_training_brings_up_to_date_keep_their_number_format(
    world: tuple[Path, str], tmp_path: Path
) -> None:
    """They came back in fp16 whatever the store held, beside the rows that it had."""
    import shutil

    shutil.copytree(world[0], tmp_path / "out", ignore=shutil.ignore_patterns("runs"))
    workspace = Workspace(tmp_path / "out")
    captions = tmp_path / "captions.jsonl"
    captions.write_text(
        "".join(
            json.dumps({"video": f"v{i:02d}.mp4", "caption": f"square number {i}", "split": "train"}) + "\n"
            for i in range(8)
        )
    )
    before = workspace.newest_features(world[1])
    assert before is not None and before.provenance["dtype"] == "fp32"
    wish = Wish.from_experiment(Experiment(method=METHOD, options={}), frozenset())
    after = require.require(workspace, wish, captions=captions, device="cpu", offline=True)
    assert after.fingerprint == before.fingerprint and len(after.captions) == 8
    tensors = [after._reader.tensors(name)["pooled"] for name, _ in after.captions.places(torch.arange(8))]
    assert {t.dtype for t in tensors} == {torch.float32}


def test_a_killed_full_run_resumes_to_the_same_bytes(world: tuple[Path, str], tmp_path: Path) -> None:
    from tvr_cli.engine.training.loop import Loop

    run(world, tmp_path / "whole")
    original = Loop.train_step

    def step(self, inputs):
        if inputs.step == 3:
            raise RuntimeError("killed")
        return original(self, inputs)

    Loop.train_step = step  # type: ignore[method-assign]
    try:
        with pytest.raises(RuntimeError, match="killed"):
            run(world, tmp_path / "killed")
    finally:
        Loop.train_step = original  # type: ignore[method-assign]
    run(world, tmp_path / "killed", dataclasses.replace(OPTIONS, resume=True))
    ours, theirs = (tmp_path / n / "runs" / "synthetic" / "checkpoints" for n in ("killed", "whole"))
    assert {p.name: p.read_bytes() for p in ours.iterdir()} == {p.name: p.read_bytes() for p in theirs.iterdir()}


@pytest.mark.parametrize("memory", [{"train.grad_cache": 3}, {"train.grad_checkpointing": True}])
def test_saving_memory_changes_nothing_but_rounding(world: tuple[Path, str], tmp_path: Path, memory: dict) -> None:
    from safetensors.torch import load_file

    run(world, tmp_path / "plain", **{"train.epochs": 1})
    run(world, tmp_path / "saved", **{"train.epochs": 1}, **memory)
    weights = [
        load_file(tmp_path / n / "runs" / "synthetic" / "checkpoints" / "best.safetensors") for n in ("plain", "saved")
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_frozen_layers_stay_and_the_table_says_so(world: tuple[Path, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    freeze = ("clip.visual.conv1.weight", "clip.token_embedding.weight")
    flags = {**FLAGS, "backbone.name": world[1], "train.freeze": list(freeze)}
    resolved, options = experiment_of(Workspace(world[0]), OPTIONS, method=METHOD, flags=flags)
    groups = {g.group: g.names for g in dry_run(resolved, Workspace(world[0]), options).groups}
    assert set(groups["frozen"]) == set(freeze) and "clip.text_projection" in groups["backbone"]
    assert groups["dead"] == ["clip.logit_scale"]

    run(world, tmp_path / "out", **{"train.freeze": list(freeze)})
    tuned = load_file(tmp_path / "out" / "runs" / "synthetic" / "backbone" / "open_clip_model.safetensors")
    start = load_file(Path(world[1].removeprefix("local:")) / "open_clip_model.safetensors")
    assert all(torch.equal(tuned[n.removeprefix("clip.")], start[n.removeprefix("clip.")]) for n in freeze)
    assert not torch.equal(tuned["visual.proj"], start["visual.proj"])


def test_bf16_without_a_gpu_is_refused(world: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="bf16 needs a CUDA device, this run uses cpu"):
        run(world, tmp_path / "out", **{"train.precision": "bf16"})


def test_half_towers_without_a_gpu_name_the_way_out(world: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"train\.clip_precision=fp32 --set train\.backbone_lr=1e-6"):
        run(world, tmp_path / "out", **{"train.clip_precision": "fp16"})


def test_half_towers_hold_fp16_weights_and_finite_gradients(world: tuple[Path, str]) -> None:
    source, store = source_of(world)
    wanted = store.video().frames
    backbone = source._backbone
    precision.to_half_towers(backbone)
    names = {name: p.dtype for name, p in backbone.named_parameters()}
    assert names["model.visual.conv1.weight"] == names["model.text_projection"] == torch.float16
    assert names["model.visual.ln_pre.weight"] == names["model.token_embedding.weight"] == torch.float32
    (inputs,) = source.stream([(0, np.array([[0, 0], [2, 1]]))])
    text, video = source.encode(inputs, slice(0, 2))
    assert video.frames.dtype == text.pooled.dtype == torch.float32
    torch.testing.assert_close(video.frames, wanted[:2], rtol=0.02, atol=0.02)
    (text.pooled.sum() + video.frames.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters() if p.grad is not None)


def test_full_tuning_without_frames_says_so(world: tuple[Path, str], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(world[0] / "features", tmp_path / "out" / "features")
    with pytest.raises(DataError, match="--tune full runs the backbone on frames"):
        run(world, tmp_path / "out")


def test_temporal_shift_on_a_resnet_or_a_small_vit_is_refused(world: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="temporal shift needs a ViT"):
        run(world, tmp_path / "out", **{"backbone.temporal_shift": True})
