"""Factors that bring features to the length of CLIP's: whom they are for, and that everything agrees on them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_features
import torch
from synthetic import write_frames
from torch import Tensor
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.engine import scorers
from tvr_cli.methods import base
from tvr_cli.scale import Scale
from tvr_cli.stores.features.scale import CLIP_NORM, scale_of
from tvr_cli.stores.features.store import FeatureStore, text_row_key
from tvr_cli.stores.features.writer import FeatureWriter
from tvr_cli.workspace import Workspace

FOREIGN = "foreign_backbone:Backbone"
HEADS = ("text_guided", "glccl", "gare")
# Without a temporal transformer, which would need 64 values a feature.
OPTIONS: Mapping[str, dict[str, Any]] = {"glccl": {"temporal": "none"}, "gare": {"temporal": "none"}, "text_guided": {}}


@pytest.mark.parametrize(
    "name",
    [
        "ViT-B-32-quickgelu/openai",
        "RN50-quickgelu/openai",
        "ViT-L-14-quickgelu",
        "custom-ViT-8-32-d32-quickgelu",
        "demo-tiny",
    ],
)
def test_features_of_clip_stay_as_they_are(name: str) -> None:
    assert scale_of(name, {"text.pooled": 3.0, "video.frames": 40.0}, {"text_norm": 2.0}) == Scale()


@pytest.mark.parametrize(
    "name",
    ["ViT-B-16-SigLIP2/webli", "PE-Core-B-16/meta", "ViT-B-32/laion2b_s34b_b79k", "ViT-L-14-quickgelu/dfn2b", "x"],
)
def test_features_of_others_get_the_length_of_clips(name: str) -> None:
    found = scale_of(name, {"text.pooled": 1.0, "video.frames": 40.0}, {})
    assert found == Scale(text=CLIP_NORM, frames=0.25)
    assert scale_of(name, {"video.frames": 3.21}, {"text_norm": 7.0}) == Scale(text=1.4, frames=3.1)
    assert scale_of(name, {}, {}) == Scale()


def written(tmp_path: Path, factor: float, turn: Tensor) -> FeatureStore:
    """A store of an encoder that is not CLIP, its features longer by a factor and turned."""
    made = tiny_features.made(provides=frozenset({"frames", "pooled", "tokens"}))
    writer = FeatureWriter(tmp_path / made.fingerprint, made)
    held, text = tiny_features.records(), tiny_features.text()
    video = tiny_features.video(held)
    frames = factor * video.frames @ turn
    keys = [tiny_features.clip_row_key(r.key, r.n_frames) for r in held]
    writer.add_video(keys, dataclasses.replace(video, frames=frames), torch.float32)
    assert text.tokens is not None
    text = dataclasses.replace(text, pooled=factor * text.pooled @ turn, tokens=factor * text.tokens @ turn)
    writer.add_text([text_row_key(t) for t in tiny_features.TEXTS], text, torch.float32)
    tiny_features.finish(writer)
    return FeatureStore.open(writer.root)


@pytest.mark.parametrize("name", HEADS)
def test_the_length_of_features_does_not_change_a_score(tmp_path: Path, name: str) -> None:
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3)))[0]
    if name == "gare":  # its layers are not those of a turned space
        turn = torch.eye(8)
    found = []
    for number, (factor, how) in enumerate(((1.0, torch.eye(8)), (10.0, turn), (0.1, turn))):
        store = written(tmp_path / str(number), factor, how)
        torch.manual_seed(0)
        experiment = scorers.resolve_method(name).experiment
        method = scorers.build(dataclasses.replace(experiment, options=dict(experiment.options) | OPTIONS[name]), store)
        assert method.scale == store.scale != Scale()
        text, video = method.encode_text(store.text()), method.encode_video(store.video())
        found.append((method.score(text, video).detach(), method.explain(text, video).detach()))
    for scores, weights in found[1:]:
        torch.testing.assert_close(scores, found[0][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weights, found[0][1], rtol=1e-3, atol=1e-5)


def test_without_the_factor_short_features_pool_like_a_mean(tmp_path: Path) -> None:
    store = written(tmp_path, 0.1, torch.eye(8))
    text, video = store.text(), store.video()
    flat, sharp = (base.build("text_guided", store.sizes) for _ in range(2))
    sharp.scale = store.scale
    spread = [m.explain(m.encode_text(text), m.encode_video(video))[:, 0].std(1).mean() for m in (flat, sharp)]
    assert spread[0] < 0.01 < 0.1 < spread[1]


def tvr(*words: str | Path | int) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_train_evaluate_index_query_and_info_agree(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_frames(out, videos=12)
    tvr("precompute-features", "--backbone", FOREIGN, "--dtype", "fp32", "-o", out)
    store = Workspace.at(out).features_for(None)
    scale = store.scale
    assert scale.text != 1.0 and scale.frames != 1.0
    assert store.provenance["text_norm"] == pytest.approx(CLIP_NORM / scale.text, rel=0.06)
    part = next(p for p in json.loads(tvr("info", out, "--json"))["parts"] if p["kind"] == "features")
    assert part["scale"] == dataclasses.asdict(scale)
    assert f"scale          text {scale.text:.3f}, frames {scale.frames:.3f}" in tvr("info", store.root)

    found = json.loads(tvr("query", "a red square", "--backbone", FOREIGN, "--json", "--index", out))
    identity = json.loads(tvr("info", out / "index", "--json"))["identity"]
    assert identity["scale"] == dataclasses.asdict(scale)
    scorer = scorers.untrained("text_guided", store)
    from tvr_cli.backbones import registry
    from tvr_cli.engine.features.encode import encode_captions

    sentence = encode_captions(registry.load(FOREIGN), ["a red square"], store.word_plan, "none")
    scores = scorer.method.score(scorer.method.encode_text(sentence), scorer.method.encode_video(store.video()))[0]
    best = scores.sort(descending=True)
    assert [hit["score"] for hit in found["results"][0]["hits"]] == pytest.approx(best.values[:10].tolist(), abs=1e-4)

    tvr("train", "--method", "gare", "--backbone", FOREIGN, "--epochs", 1, "--batch-size", 4, "-o", out)
    run = Workspace.at(out).find_run("gare")
    assert run.env()["scale"] == dataclasses.asdict(scale)
    assert scorers.trained(run, store).method.scale == scale
    run.env_path.write_text(json.dumps({k: v for k, v in run.env().items() if k != "scale"}))
    assert scorers.trained(run, store).method.scale == Scale()  # a run from before there were factors


def test_a_run_and_an_index_of_clip_say_nothing_of_factors() -> None:
    assert scorers.scale_said(Scale()) == {} and scorers.scale_of_run({}) == Scale()
    assert [name for name in base.shipped() if base.load_class(name).counts_on_length] == [
        "gare",
        "glccl",
        "text_guided",
    ]
