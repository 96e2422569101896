"""Features of an encoder of whole clips: what is made, kept and refused, and the method that answers with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import foreign_backbone
import pytest
import torch
from foreign_backbone import Clips, ClipsAndFrames
from synthetic import write_frames
from typer.testing import CliRunner

from tvr_cli.backbones import registry
from tvr_cli.cli import app
from tvr_cli.engine.features.encode import clip_features
from tvr_cli.engine.features.frame_batches import frame_batches
from tvr_cli.methods import base
from tvr_cli.types import Sizes
from tvr_cli.workspace import Workspace

CLIPS, BOTH, FRAMES = (f"foreign_backbone:{name}" for name in ("Clips", "ClipsAndFrames", "Backbone"))
VIDEOS = 12


def tvr(*words: str | Path | int, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of clips of one to four frames, encoded by an encoder that takes four."""
    out = tmp_path_factory.mktemp("whole") / "out"
    write_frames(out, videos=VIDEOS, num_frames=Clips.FRAMES)
    tvr("precompute-features", "--backbone", CLIPS, "--dtype", "fp32", "-o", out)
    return out


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def by_hand(backbone: base.Any, out: Path, wanted: int | None) -> torch.Tensor:
    """Return the vector of each clip, encoded alone: slot j of F shows the frame (j + 1/2) n / F, rounded down."""
    frames, vectors = Workspace.at(out).frames(), []
    for record in frames.records:
        (batch,) = frame_batches(frames, [record.id], view=backbone.about.view, slots=None, clips=1)
        n = record.n_frames
        slots = [int((j + 0.5) * n / (wanted or n)) for j in range(wanted or n)]
        pixels = batch.pixels[:, slots]
        with torch.no_grad():
            vectors.append(backbone.encode_video(pixels, torch.ones(1, len(slots), dtype=torch.bool)).pooled)
    return torch.cat(vectors)


def test_a_short_clip_is_repeated_in_time_and_never_filled_with_black(made: Path) -> None:
    store = Workspace.at(made).features_for(None)
    video = store.video()
    expected = by_hand(registry.load(CLIPS), made, Clips.FRAMES)
    assert sorted(set(video.n_frames.tolist())) == [1, 2, 3, 4] and video.frames.shape[1] == 0
    assert video.pooled is not None
    torch.testing.assert_close(video.pooled, expected, rtol=1e-6, atol=1e-6)
    assert store.provides == {"video.pooled", "pooled"} and set(store.norms) == {"video.pooled", "text.pooled"}


@pytest.mark.parametrize("shape", ["fixed", "ragged"])
def test_an_encoder_of_clips_of_any_length_sees_the_frames_that_there_are(shape: str) -> None:
    backbone = registry.load(BOTH)
    pixels = torch.randint(0, 256, (3, 4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    real = torch.arange(4) < torch.tensor([2, 4, 2])[:, None]
    with torch.no_grad():
        together = clip_features(backbone, pixels, real, shape)
        assert together.frames is not None and together.pooled is not None
        for i, n in enumerate((2, 4, 2)):
            alone = backbone.encode_video(pixels[i : i + 1, :n], torch.ones(1, n, dtype=torch.bool))
            assert alone.frames is not None and alone.pooled is not None
            torch.testing.assert_close(together.pooled[i], alone.pooled[0])
            torch.testing.assert_close(together.frames[i, :n], alone.frames[0])
            assert not together.frames[i, n:].any()


def test_frames_of_a_repeated_clip_are_those_of_the_slots_where_they_stand_first() -> None:
    class Takes(ClipsAndFrames):
        @classmethod
        def describe(cls, name: str) -> Any:
            return foreign_backbone.base.Description(**{**vars(super().describe(name)), "frames": 5})

    backbone = Takes.load(Takes.describe("x"), offline=True)
    pixels = torch.randint(0, 256, (1, 5, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        found = clip_features(backbone, pixels, torch.arange(5)[None] < 2, "fixed")
        full = backbone.encode_video(pixels[:, [0, 0, 1, 1, 1]], torch.ones(1, 5, dtype=torch.bool))
        assert found.frames is not None and full.frames is not None
        torch.testing.assert_close(found.frames[0, :2], full.frames[0, [0, 2]])
        with pytest.raises(ValueError, match="expected clips of 5 frames at most, found 6"):
            clip_features(backbone, pixels[:, [0, 1, 2, 3, 4, 4]], torch.ones(1, 6, dtype=torch.bool), "fixed")


def test_one_vector_is_the_cosine_of_the_definition(made: Path) -> None:
    store = Workspace.at(made).features_for(None)
    method = base.build("one_vector", store.sizes)
    text, video = store.text(), store.video()
    t, v = method.encode_text(text), method.encode_video(video)
    assert video.pooled is not None
    for i, j in ((0, 0), (3, 5), (7, 11)):
        s, x = text.pooled[i].double(), video.pooled[j].double()
        assert float(method.score(t, v)[i, j]) == pytest.approx(float(s @ x / (s.norm() * x.norm())), abs=1e-6)
    assert method.explain(t, v).shape == (len(text), VIDEOS, 1) and bool((method.explain(t, v) == 1).all())


def test_where_there_are_frames_all_of_them_weigh_the_same() -> None:
    from tvr_cli.testing import method as contract

    method, video = base.build("one_vector", contract.SIZES), contract.video_features(4)
    weight = method.explain(method.encode_text(contract.text_features(2)), method.encode_video(video))
    torch.testing.assert_close(weight[0], video.mask() / video.n_frames[:, None].double())


def test_a_clip_of_frames_that_are_too_few_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_frames(out, videos=4, num_frames=3)
    for dry in ([], ["--dry-run"]):
        said = tvr("precompute-features", "--backbone", CLIPS, "-o", out, *dry, code=3)
        assert "have up to 3 frames, but the backbone foreign_backbone:Clips takes 4 a clip" in said
        assert said.endswith(f" --for {CLIPS} -o {out}-foreign_backbone-Clips\n")
    assert not (out / "features").exists()


def test_frames_for_an_encoder_of_clips_are_as_many_as_it_takes(tmp_path: Path) -> None:
    video = ("extract-frames", "--for", CLIPS, "-o", tmp_path / "out", tmp_path)
    wrong = tvr(*video, "--num-frames", 12, code=2)
    assert "takes 4 frames a clip, and --num-frames asks for 12; leave out --num-frames, or --for" in wrong
    assert "add --max-frames 4, or leave out --fps" in tvr(*video, "--fps", 1, code=2)
    from tvr_cli.engine.extraction import extract
    from tvr_cli.plans import AskedFrames

    for asked, kind in ((AskedFrames(), "uniform"), (AskedFrames(fps=1, max_frames=4), "fps")):
        plan = extract.frame_plan(Workspace.at(tmp_path / "out"), asked, extract.ExtractOptions(), backbone=CLIPS)
        assert (plan.kind, plan.slots) == (kind, 4)


def test_a_workspace_of_one_vector_a_clip_is_searched_evaluated_and_described(workspace: Path) -> None:
    named = ("--backbone", CLIPS)
    found = json.loads(tvr("query", "a red square", *named, "--json", "--index", workspace))
    (hit, *_) = found["results"][0]["hits"]
    assert (hit["start"], hit["end"]) == (0.0, 3.0)  # the whole clip: a vector of it points at no part
    store = Workspace.at(workspace).features_for(None)
    judged = json.loads(tvr("evaluate", "--method", "one_vector", "--split", "val", "--json", "-o", workspace))
    assert judged["t2v"]["R@1"] >= 0
    shown = json.loads(tvr("info", workspace, "--json"))
    parts = {part["kind"]: part for part in shown["parts"]}
    assert parts["features"]["provides"] == ["pooled", "video.pooled"] and parts["index"]["method"] == "one_vector"
    tvr("doctor", workspace)
    before = Workspace.at(workspace).features_for(None).content_hash()
    assert json.loads(tvr("index", *named, "--json", "-o", workspace))["built"] is False
    assert before == store.content_hash()


def test_the_method_of_such_features_is_said_once(workspace: Path) -> None:
    done = CliRunner().invoke(app, ["query", "red", "--backbone", CLIPS, "--index", str(workspace)])
    assert done.exit_code == 0
    assert done.stderr.count(f"the features of {CLIPS} have one vector a clip and no frames: one_vector answers") == 1


@pytest.mark.parametrize("method", ["mean", "text_guided", "glccl", "gare"])
def test_methods_that_need_frames_refuse_and_name_the_one_that_does_not(workspace: Path, method: str) -> None:
    verb = ("train", "--backbone", CLIPS) if method in ("glccl", "gare") else ("index",)
    said = tvr(verb[0], "--method", method, *verb[1:], "-o", workspace, code=3)
    assert f"{method} needs frames" in said and "or a method that needs no more: one_vector" in said
    assert "Take a backbone that provides them (tvr backbones lists what each does)" in said


def test_one_vector_refuses_features_of_frames_by_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_frames(out, videos=4)
    tvr("precompute-features", "--backbone", FRAMES, "-o", out)
    said = tvr("evaluate", "--method", "one_vector", "-o", out, code=3)
    assert "one_vector needs video.pooled; the feature store of foreign_backbone:Backbone has frames, pooled" in said


def test_a_second_run_encodes_nothing_and_a_damaged_shard_is_made_again(workspace: Path) -> None:
    again = json.loads(tvr("precompute-features", "--backbone", CLIPS, "--json", "-o", workspace))
    assert again["clips"] == {"total": VIDEOS, "encoded": 0, "kept": VIDEOS}
    store = Workspace.at(workspace).features_for(None)
    before = store.video().pooled
    (shard,) = store.root.glob("video-*.safetensors")
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    looked = CliRunner().invoke(app, ["doctor", str(workspace)])
    assert looked.exit_code == 3 and shard.name in looked.stdout
    tvr("precompute-features", "--repair", shard.name, "--backbone", CLIPS, "-o", workspace)
    after = Workspace.at(workspace).features_for(None).video().pooled
    assert before is not None and after is not None and torch.equal(before, after)
    (store.root / "store.json").unlink()
    tvr("precompute-features", "--repair", store.fingerprint, "--backbone", CLIPS, "-o", workspace)
    mended = Workspace.at(workspace).features_for(None).video().pooled
    assert mended is not None and torch.equal(mended, before)


def test_a_preview_counts_vectors_of_clips_and_no_frames(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_frames(out, videos=5, num_frames=4)
    plan = json.loads(tvr("precompute-features", "--backbone", CLIPS, "--dry-run", "--json", "-o", out))
    assert (plan["sizes"]["frames"], plan["sizes"]["clips"]) == (0, 5)
    text = tvr("precompute-features", "--backbone", CLIPS, "--dry-run", "-o", out)
    assert "(0 frames + 5 clips + " in text
    assert plan["bytes"] == (5 + plan["sizes"]["tokens"]) * 64 * 2


def test_an_encoder_of_clips_that_has_frames_too_serves_both_kinds_of_method(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_frames(out, videos=8, num_frames=4)
    tvr("precompute-features", "--backbone", BOTH, "--dtype", "fp32", "-o", out)
    store = Workspace.at(out).features_for(None)
    assert store.sizes == Sizes(64, 4, 16) and {"frames", "video.pooled"} <= store.provides
    pooled = store.video().pooled
    assert pooled is not None
    torch.testing.assert_close(pooled, by_hand(registry.load(BOTH), out, None), rtol=1e-6, atol=1e-6)
    for method in ("one_vector", "mean", "text_guided"):
        tvr("evaluate", "--method", method, "--split", "val", "-o", out)
    summary = tvr("train", "--method", "gare", "--tune", "full", "--epochs", 1, "--batch-size", 4, "--backbone", BOTH,
                  "--workers", 0, "-o", out)  # fmt: skip
    assert "gare" in summary
