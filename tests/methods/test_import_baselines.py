"""Checkpoints in the layout of the baselines' authors, CLIP included, become runs that give the golden scores."""

from __future__ import annotations

import pytest
import test_golden_ts2net as ts2net
import tiny_clip
import torch
from golden import Closeness, load, params
from test_golden_clip4clip_seq import OF_ANOTHER, PREFIX
from test_import_checkpoint import imported, text_of, video_of

from tvr_cli.engine.whole import importer
from tvr_cli.errors import ConfigError
from tvr_cli.types import Sizes


def clip_of_openai() -> dict[str, torch.Tensor]:
    """A tiny CLIP under the names that CLIP4Clip saves, its logit scale aside."""
    state = tiny_clip.model(tiny_clip.config()).state_dict()
    return {f"clip.{k}": v for k, v in state.items() if k not in ("logit_scale", "attn_mask")}


@torch.no_grad()
@pytest.mark.parametrize("head", ["transformer", "lstm"])
@pytest.mark.parametrize(("path", "dtype"), [p for p in params("clip4clip_seq") if "fp32" in p.id])
def test_clip4clip_gives_golden_scores(path, dtype, head, tmp_path):
    golden = load(path, dtype)
    state = {k: v for k, v in golden.under("param.").items() if not k.startswith(OF_ANOTHER[head])}
    frames = golden["eval.in.visual_output"]
    sizes = Sizes(frames.shape[-1], frames.shape[1], 8)
    method, report, _ = imported(tmp_path, "clip4clip_seq", {**state, **clip_of_openai()}, sizes)
    text = method.encode_text(text_of(golden["eval.in.sequence_output"].flatten(0, 1)))
    scores = method.score(text, method.encode_video(video_of(frames, golden["eval.in.video_mask"])))
    name = f"{PREFIX[head]}eval.out.sim"
    Closeness("clip4clip_seq", dtype, file=golden).value(name, scores, golden[name])
    assert report.options["head"] == head and report.backbone.startswith("local:") and not report.dropped


def test_meanp_is_another_method_and_says_which(tmp_path):
    with pytest.raises(ConfigError, match="is the method mean here"):
        imported(tmp_path, "clip4clip_seq", clip_of_openai(), Sizes(32, 6, 8))


def clip_of_hugging_face() -> dict[str, torch.Tensor]:
    """A tiny CLIP under the names that X-Pool and T-MASS save, its logit scale aside; by hand, the other way round."""
    state = tiny_clip.model(tiny_clip.config()).state_dict()
    whole = {
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    }
    made = {theirs: state[ours] for ours, theirs in whole.items()}
    made |= {"text_projection.weight": state["text_projection"].T, "visual_projection.weight": state["visual.proj"].T}
    norms = {"ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm"}
    norms["visual.ln_post"] = "vision_model.post_layernorm"
    for ours, theirs in (("transformer", "text_model"), ("visual.transformer", "vision_model")):
        made[f"{theirs}.embeddings.position_ids"] = torch.arange(4)[None]
        for n in range(2):
            block, layer = f"{ours}.resblocks.{n}", f"{theirs}.encoder.layers.{n}"
            norms |= {f"{block}.attn.out_proj": f"{layer}.self_attn.out_proj", f"{block}.mlp.c_fc": f"{layer}.mlp.fc1"}
            norms |= {f"{block}.ln_{i}": f"{layer}.layer_norm{i}" for i in (1, 2)}
            norms[f"{block}.mlp.c_proj"] = f"{layer}.mlp.fc2"
            for kind in ("weight", "bias"):
                parts = state[f"{block}.attn.in_proj_{kind}"].chunk(3)
                made |= {f"{layer}.self_attn.{p}_proj.{kind}": x for p, x in zip("qkv", parts, strict=True)}
    made |= {
        f"{theirs}.{kind}": state[f"{ours}.{kind}"] for ours, theirs in norms.items() for kind in ("weight", "bias")
    }
    return {f"clip.{name}": value for name, value in made.items()}


@torch.no_grad()
@pytest.mark.parametrize(("path", "dtype"), [p for p in params("xpool") if "fp32" in p.id])
def test_xpool_gives_golden_scores(path, dtype, tmp_path):
    golden = load(path, dtype)
    text, frames = golden["eval.in.text_embeds"], golden["eval.in.video_embeds"]
    state = {**golden.under("param."), **clip_of_hugging_face()}
    method, report, run = imported(tmp_path, "xpool", state, Sizes(text.shape[1], frames.shape[1], 8))
    video = method.encode_video(video_of(frames, torch.ones(frames.shape[:2])))
    scores = method.score(method.encode_text(text_of(text)), video)
    Closeness("xpool", dtype, file=golden).value("eval.out.sim", scores, golden["eval.out.sim"])
    saved = importer.read_state(run.path / "backbone" / "open_clip_model.safetensors")
    expected = tiny_clip.model(tiny_clip.config()).state_dict()
    assert all(torch.equal(saved[k], v) for k, v in expected.items() if k not in ("logit_scale", "attn_mask"))
    assert torch.equal(saved["logit_scale"], golden["param.clip.logit_scale"]) and not report.dropped


@torch.no_grad()
@pytest.mark.parametrize(("path", "dtype"), [p for p in params("tmass") if "fp32" in p.id])
def test_tmass_gives_golden_scores(path, dtype, tmp_path):
    golden = load(path, dtype)
    text, frames = golden["eval.in.text_embeds"], golden["eval.in.video_embeds"]
    state = {**golden.under("param."), **clip_of_hugging_face()}
    trials = (f"method.tmass.trials={golden.config['trials']}",)
    method, report, _ = imported(tmp_path, "tmass", state, Sizes(text.shape[1], frames.shape[1], 8), trials)
    video = method.encode_video(video_of(frames, torch.ones(frames.shape[:2])))
    sigma = golden["eval.noise.sigma"].transpose(1, 2)
    scores = method.score_with(method.encode_text(text_of(text)), video, sigma)
    Closeness("tmass", dtype, file=golden).value("eval.out.sim", scores, golden["eval.out.sim"])
    assert report.dropped == ("stochastic.std_branch.learnable_scalar",) and report.sizes.frames == frames.shape[1]


@torch.no_grad()
@pytest.mark.parametrize(("path", "dtype"), [p for p in params("ts2net") if "fp32" in p.id])
def test_ts2net_gives_golden_scores(path, dtype, tmp_path):
    golden = load(path, dtype)
    text, video, noise = ts2net.features(golden, "eval", ts2net.leaves_of(golden, "eval"))
    state = {**golden.under("param."), **clip_of_openai()}
    state = {
        k.replace("resblocks.1.attn.", "resblocks.1.attn.net.") if "visual" in k else k: v for k, v in state.items()
    }
    state["text_token_selector.score_predictor.in_conv.1.weight"] = torch.zeros(2, 2)
    chosen = tuple(
        f"method.ts2net.{ours}={golden.config[theirs]}"
        for ours, theirs in (("kept_patches", "topk"), ("noise_rows", "num_samples"), ("noise_std", "sigma"))
    )
    sizes = Sizes(text.pooled.shape[1], video.frames.shape[1], 8)
    method, report, run = imported(tmp_path, "ts2net", state, sizes, chosen)
    scores = method.score(method.encode_text(text), method.encode_with(video, noise))
    Closeness("ts2net", dtype, file=golden).value("eval.out.sim", scores, golden["eval.out.sim"])
    assert report.options["temporal_layers"] == golden.config["layers_temporal"]
    assert [name for name in report.dropped if "text_token_selector" in name]
    assert run.config()["backbone"]["temporal_shift"] is True
