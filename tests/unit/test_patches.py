"""Patches of frames: what a ViT yields of them, what a store keeps, and the method that reads them (TS2-Net)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_clip
import torch
from synthetic import write_backbone, write_frames
from typer.testing import CliRunner

from tvr_cli.backbones import registry
from tvr_cli.cli import app
from tvr_cli.config import Experiment
from tvr_cli.engine import scorers
from tvr_cli.engine.features.encode import clip_features
from tvr_cli.engine.features.precompute import precompute
from tvr_cli.engine.training.sources import CachedSource
from tvr_cli.errors import ConfigError, StoreMismatch
from tvr_cli.methods import base
from tvr_cli.plans import PrecomputeOptions
from tvr_cli.testing import method as contract
from tvr_cli.types import Sizes
from tvr_cli.workspace import Workspace

TRAINING = ("--set", "train.epochs=1", "--set", "train.batch_size=4", "--set", "method.ts2net.noise_rows=20")
pytestmark = pytest.mark.xdist_group("patches")  # one process encodes


def tvr(*words: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A workspace of frames, features of a tiny ViT with their patches, and a run of TS2-Net trained on them."""
    folder = tmp_path_factory.mktemp("patches")
    backbone = write_backbone(folder / "clip")
    write_frames(folder / "out", videos=12)
    tvr("train", "--method", "ts2net", "--backbone", backbone, "--run", "frozen", *TRAINING, "-o", folder / "out")
    return folder / "out", backbone


@torch.no_grad()
def test_patches_go_the_way_of_the_class_token(tmp_path: Path) -> None:
    backbone = registry.load(f"local:{tiny_clip.folder(tmp_path)}", offline=True)
    visual = backbone.model.visual  # type: ignore[union-attr]
    seen: list[torch.Tensor] = []
    handle = visual.ln_post.register_forward_hook(lambda module, given, out: seen.append(out))
    pixels, real = tiny_clip.pixels(2, 3, 32), torch.tensor([[True, True, True], [True, False, False]])
    frames, patches = backbone.encode_patches(pixels, real)
    handle.remove()
    assert frames.shape == (2, 3, 32) and patches.shape == (2, 3, 16, 32) and backbone.about.patches == 16
    assert torch.equal(frames, backbone.encode_frames(pixels, real))  # and the tower is as it was
    torch.testing.assert_close(patches.flatten(0, 1), seen[0][:, 1:] @ visual.proj)


@torch.no_grad()
@pytest.mark.parametrize("shape", ["fixed", "ragged"])
def test_patches_of_missing_frames_are_those_of_black_or_none(tmp_path: Path, shape: str) -> None:
    backbone = registry.load(f"local:{tiny_clip.folder(tmp_path)}", offline=True)
    pixels, real = tiny_clip.pixels(2, 3, 32), torch.tensor([[True, True, True], [True, False, False]])
    found = clip_features(backbone, pixels, real, shape, patches=True)
    alone = clip_features(backbone, pixels[1:, :1], real[1:, :1], shape, patches=True)
    assert found.patches is not None and alone.patches is not None and found.frames is not None
    torch.testing.assert_close(found.patches[1:, :1], alone.patches)
    assert torch.equal(found.patches[1, 1], found.patches[1, 2])
    assert bool(found.patches[1, 1].any()) == bool(found.frames[1, 1].any()) == (shape == "fixed")


@pytest.mark.parametrize(
    ("vision", "has"),
    [
        ({}, True),
        ({"pool_type": "avg"}, False),
        ({"final_ln_after_pool": True}, False),
        ({"attentional_pool": True}, False),
        ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}, False),
    ],
    ids=["ViT", "mean", "norm after pooling", "attention pooling", "ResNet"],
)
def test_only_a_vit_whose_class_token_alone_is_pooled_has_patches(tmp_path: Path, vision: dict, has: bool) -> None:
    config = tiny_clip.config()
    config["vision_cfg"] |= vision
    name = f"local:{tiny_clip.folder(tmp_path, config)}"
    about, loaded = registry.resolve(name), registry.load(name, offline=True)
    assert ("video.patches" in about.provides) is ("video.patches" in loaded.provides) is has
    assert bool(about.patches) is has


def test_a_store_has_patches_only_where_they_are_asked_for(world: tuple[Path, str]) -> None:
    workspace = Workspace.at(world[0])
    plain = precompute(workspace, world[1], None, PrecomputeOptions(max_words=12, device="cpu")).store
    kept = precompute(workspace, world[1], None, PrecomputeOptions(max_words=12, device="cpu", patches=True)).store
    assert "patches" not in plain.identity and "video.patches" not in plain.tensors
    assert kept.identity["patches"] is True and "video.patches" in kept.provides
    assert plain.fingerprint != kept.fingerprint
    assert torch.equal(plain.video().frames, kept.video().frames) and kept.video().patches is None
    found = kept.video(patches=True).patches
    assert found is not None and found.shape[1:] == (3, 4, 64) and bool(found.any())
    with pytest.raises(StoreMismatch, match=r"needs video\.patches.*--patches"):
        scorers.build(Experiment(method="ts2net", options={}), plain)


def test_a_dry_run_counts_patches(world: tuple[Path, str]) -> None:
    words = ("precompute-features", "--backbone", world[1], "--max-words", "10", "--dry-run", "--json", "-o", world[0])
    plain, kept = json.loads(tvr(*words)), json.loads(tvr(*words, "--patches"))
    assert kept["sizes"]["frames"] == 5 * plain["sizes"]["frames"] > 0  # four patches each
    assert plain["fingerprint"] != kept["fingerprint"]


def test_a_backbone_without_patches_is_refused_before_it_is_loaded(world: tuple[Path, str], tmp_path: Path) -> None:
    resnet = tiny_clip.folder(tmp_path / "resnet", tiny_clip.config(layers=[1, 1, 1, 1], width=8, size=16))
    refused = "has no patches of frames to keep.*take one that provides video.patches"
    with pytest.raises(ConfigError, match=refused):
        precompute(Workspace.at(world[0]), f"local:{resnet}", None, PrecomputeOptions(patches=True, device="cpu"))
    said = tvr("train", "--method", "ts2net", "--backbone", f"local:{resnet}", "-o", world[0], code=3)
    assert "ts2net needs video.patches" in said


def test_a_run_on_patches_is_judged_indexed_and_asked(world: tuple[Path, str]) -> None:
    out = world[0]
    drawn = json.loads(tvr("evaluate", "frozen", "--split", "train", "--noise-seeds", "2", "-o", out, "--json"))
    assert drawn["method"] == "ts2net" and drawn["draws"] == 2
    tvr("index", "--run", "frozen", "-o", out)
    answer = json.loads(tvr("query", "a red clip", "--run", "frozen", "--all", "-o", out, "--json"))
    assert len(answer["results"][0]["hits"]) > 1


def test_a_tuned_tower_is_given_gradients_through_its_patches(world: tuple[Path, str]) -> None:
    said = json.loads(
        tvr(
            "train", "--method", "ts2net", "--tune", "full", "--run", "tuned", *TRAINING, "-o", world[0], "--json",
            "--set", "train.backbone_lr=0.001", "--set", "train.clip_precision=fp32",
        )
    )  # fmt: skip
    assert said["run"] == "tuned"


def test_what_is_cached_has_patches_where_a_method_reads_them(world: tuple[Path, str]) -> None:
    store = next(s for s in Workspace.at(world[0]).all_features() if "video.patches" in s.provides)
    whole = CachedSource(store, torch.device("cpu"), patches=True)
    little = CachedSource(store, torch.device("cpu"), patches=True, keep_bytes=0)
    row = torch.tensor([3])
    assert torch.equal(whole.video(row).patches, little.video(row).patches)
    assert CachedSource(store, torch.device("cpu")).video(row).patches is None


def test_the_noise_of_a_clip_is_its_own() -> None:
    method = base.build("ts2net", Sizes(64, 5, 20)).double().eval()
    video = contract.video_features(10)
    with torch.no_grad():
        whole = method.encode_video(video)
        one = method.encode_video(video.rows(torch.tensor([9])))
        method.noise_draw = 1  # type: ignore[assignment]
        other = method.encode_video(video)
    torch.testing.assert_close(one["frames"][0], whole["frames"][9], rtol=0, atol=1e-12)
    assert float((other["frames"] - whole["frames"]).abs().max()) > 1e-6


def test_too_many_frames_for_the_positions_are_refused_with_the_most() -> None:
    with pytest.raises(ConfigError, match="at most 19 frames, found 20"):
        base.build("ts2net", Sizes(64, 20, 20))
