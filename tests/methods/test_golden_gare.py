"""GARE against the authors' outputs: scores, increments, every loss term, gradients through the head and through CLIP.

The authors' code ran in float32. Compact files hold the head only: features behind the temporal transformer.
"""

from __future__ import annotations

from fnmatch import fnmatch

import pytest
import torch
from golden import Closeness, RecordedDraws, load, params, require_grad
from tvr_kernels.gare import folded, reference
from tvr_kernels.gare.increments import increments as make_increments

from tvr_cli.backbones.openclip import OpenClipBackbone
from tvr_cli.methods import _gare_regularisers as regularisers
from tvr_cli.methods.gare import Method
from tvr_cli.nn.temporal import frame_positions
from tvr_cli.types import Sizes, TextFeatures, VideoFeatures

CASES = ["train", "train_strong", "train_gate", "train_nodrop"]
INERT = "psi.layers.0.cross_attn.k_proj.bias"  # zero gradient by analysis


def build(golden, *, temporal=False, **options):
    """Return the method with the file's parameters; without `temporal` its frames are contextual already."""
    state = {k: v for k, v in golden.under("param.").items() if not k.startswith("clip.")}
    if "param.clip.logit_scale" in golden:
        state["logit_scale"] = golden["param.clip.logit_scale"]
    state = {k: v for k, v in state.items() if not any(fnmatch(k, p) for p in Method.ignored_keys)}
    layers = 1 + max((int(k.split(".")[2]) for k in state if k.startswith("transformerClip.")), default=0)
    if not temporal:
        state = {k: v for k, v in state.items() if k.startswith("psi.") or k == "logit_scale"}
    size = golden["param.psi.mean_proj.weight"].shape[0]
    kind = "transformer" if temporal else "none"
    config = Method.Config(temporal=kind, temporal_layers=layers, **options)
    method = Method(config, Sizes(size, 1, 1))
    if temporal:
        rows = len(state["frame_position_embeddings.weight"])
        method.frame_position_embeddings = frame_positions(size, rows)
    method.load_state_dict(state)
    return method.to(golden.dtype)


def case_options(golden, case):
    hp = {k: float(v) for k, v in golden.under(f"{case}.hp.").items()}
    return {
        "temperature": hp["temp"],
        "dropout": hp["p_drop"],
        "bottleneck_weight": hp["beta"],
        "direction_weight": hp["lambda_dir"],
        "direction_sharpness": hp["alpha"],
        "norm_weight": hp["lambda_epsilon"],
        "norm_limit": hp["lambda_lower"],
    }


def text_features(pooled):
    count = len(pooled)
    return TextFeatures(torch.arange(count), pooled, None, torch.ones(count, dtype=torch.long))


def video_features(frames, mask):
    """Our masks are prefixes, and so are the file's."""
    counts = mask.sum(1)
    assert torch.equal(mask.bool(), torch.arange(mask.shape[1]) < counts[:, None])
    return VideoFeatures(torch.arange(len(frames)), frames, counts, torch.zeros(frames.shape[:2]))


def recorded(golden, case):
    keep = f"{case}.dropout_keep"
    return RecordedDraws({"increment": golden[keep]} if keep in golden else {})


def closeness(dtype):
    return Closeness("gare", dtype, reference="fp32")


@torch.no_grad()
@pytest.mark.parametrize(("path", "dtype"), params("gare", needs="param.transformerClip."))
def test_golden_temporal_features(path, dtype):
    golden = load(path, dtype)
    method = build(golden, temporal=True)
    got = method.contextualize(golden["feat.frames_raw"], golden["in.video_mask"].bool())
    closeness(dtype).value("feat.video_feat", got, golden["feat.video_feat"])


@torch.no_grad()
@pytest.mark.parametrize("form", ["reference", "folded"])
@pytest.mark.parametrize(("path", "dtype"), params("gare", needs="head.sim"))
def test_golden_head_scores(path, dtype, form, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden, close = load(path, dtype), closeness(dtype)
    method = build(golden)
    text = method.encode_text(text_features(golden["head.cls"]))
    video = method.encode_video(video_features(golden["head.video_feat"], golden["head.video_mask"]))
    close.value("head.sim", method.score(text, video), golden["head.sim"])
    tiles = [
        torch.cat(
            [method.score(text.rows(slice(i, i + 16)), video.rows(slice(j, j + 16))) for j in range(0, len(video), 16)],
            1,
        )
        for i in range(0, len(text), 16)
    ]
    close.value("head.sim_tiled16", torch.cat(tiles), golden["head.sim_tiled16"])


@torch.no_grad()
@pytest.mark.parametrize("form", ["reference", "folded"])
@pytest.mark.parametrize(("path", "dtype"), params("gare", needs="eval_rect.sim"))
def test_golden_eval_scores(path, dtype, form, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden, close = load(path, dtype), closeness(dtype)
    method = build(golden)
    text = method.encode_text(text_features(golden["feat.cls"]))
    video = method.encode_video(video_features(golden["feat.video_feat"], golden["in.video_mask"]))
    columns = golden["eval_rect.sim"].shape[1]
    close.value("eval_sq.sim", method.score(text, video), golden["eval_sq.sim"])
    close.value("eval_rect.sim", method.score(text, video.rows(slice(0, columns))), golden["eval_rect.sim"])


@torch.no_grad()
@pytest.mark.parametrize(("path", "dtype"), params("gare", needs="eval_rect.delta"))
def test_golden_increments(path, dtype):
    golden, close = load(path, dtype), closeness(dtype)
    method = build(golden)
    weights = method.weights()
    t, columns = golden["feat.cls"], golden["eval_rect.delta"].shape[1]
    frames, mask = golden["feat.video_feat"][:columns], golden["in.video_mask"][:columns].bool()
    text = method.encode_text(text_features(t)).tensors
    video = method.encode_video(video_features(frames, mask)).tensors
    everything = torch.ones_like(mask)
    from_rows = torch.einsum("vkt,vkd->tvd", folded.coefficients(text, video), folded.increment_rows(video, weights))
    for delta in (
        reference.increment(t, frames, everything, weights),
        make_increments(t, frames, everything, weights),
        from_rows,
    ):
        close.value("eval_rect.delta", delta, golden["eval_rect.delta"])
        close.value("eval_rect.t_new", t[:, None] + delta, golden["eval_rect.t_new"])
    close.value("eval_rect.attn", folded.attention(text, video).permute(2, 0, 1), golden["eval_rect.attn"])
    pooled = reference.pool(t, frames, mask, method.config.temperature)
    close.value("eval_rect.v_pool", pooled, golden["eval_rect.v_pool"])


@pytest.mark.parametrize(("path", "case", "dtype"), params("gare", CASES, needs="train.total"))
def test_golden_loss_and_gradients_of_the_head(path, case, dtype):
    golden, close = load(path, dtype), closeness(dtype)
    if f"{case}.total" not in golden:
        pytest.skip("not in this compact file")
    method = build(golden, **case_options(golden, case))
    text, frames = require_grad(golden["feat.cls"], golden["feat.video_feat"])
    draws = recorded(golden, case)
    out = method.objective(text, frames, golden["in.video_mask"].bool(), draws)
    draws.assert_all_used()
    config = method.config
    weighted = {
        "vib_w": config.bottleneck_weight * out.parts["bottleneck"],
        "dir_w": config.direction_weight * out.parts["direction"],
        "norm_w": config.norm_weight * out.parts["norm"],
    }
    values = {
        "loss_con": out.parts["contrastive"],
        "loss_t2v": out.parts["t2v"],
        "loss_v2t": out.parts["v2t"],
        "kl": out.parts["bottleneck"],
        "dir": out.parts["direction"],
        "norm_ungated": out.parts["norm_ungated"],
        "norm_gated": out.parts["norm"],
        **weighted,
        "reg": sum(weighted.values()),
        "total": out.total,
    }
    for name, got in values.items():
        close.value(f"{case}.{name}", got, golden[f"{case}.{name}"])
    out.total.backward()
    close.grad(f"{case}.grad_in.cls", text.grad, golden[f"{case}.grad_in.cls"])
    close.grad(f"{case}.grad_in.video_feat", frames.grad, golden[f"{case}.grad_in.video_feat"])
    assert_parameter_gradients(close, case, golden, dict(method.named_parameters()), only=("psi.", "clip.logit_scale"))


@pytest.mark.parametrize(("path", "case", "dtype"), params("gare", CASES, needs="train.total"))
def test_golden_increments_in_training(path, case, dtype):
    golden, close = load(path, dtype), closeness(dtype)
    if f"{case}.total" not in golden:
        pytest.skip("not in this compact file")
    method = build(golden, **case_options(golden, case))
    text, frames, mask = golden["feat.cls"], golden["feat.video_feat"], golden["in.video_mask"].bool()
    keep = golden[f"{case}.dropout_keep"].bool() if f"{case}.dropout_keep" in golden else None
    everything = torch.ones_like(mask)
    delta = make_increments(text, frames, everything, method.weights(), keep, method.config.dropout)
    delta.retain_grad()
    scores = method.score_moved(text, delta, frames, mask)
    held = regularisers.explicit(delta)
    out = method.total(scores, held)
    close.value(f"{case}.delta", delta, golden[f"{case}.delta"])
    close.value(f"{case}.sim", scores, golden[f"{case}.sim"])
    close.value(f"{case}.kl_per_video", regularisers.bottleneck(held), golden[f"{case}.kl_per_video"])
    close.value(f"{case}.total", out.total, golden[f"{case}.total"])
    pooled = reference.pool(text, frames, mask, method.config.temperature)
    close.value(f"{case}.v_pool", pooled, golden[f"{case}.v_pool"])
    out.total.backward()
    close.grad(f"{case}.grad_in.delta", delta.grad, golden[f"{case}.grad_in.delta"])


@pytest.mark.parametrize(("path", "case", "dtype"), params("gare", CASES, needs="param.clip.visual."))
def test_golden_gradients_end_to_end(path, case, dtype):
    golden, close = load(path, dtype), closeness(dtype)
    method = build(golden, temporal=True, **case_options(golden, case))
    clip = {k: v for k, v in golden.tensors.items() if k.startswith("param.clip.")}
    clip = {k.removeprefix("param."): v for k, v in clip.items()}
    backbone = OpenClipBackbone.from_state_dict(clip, name="golden").to(dtype)
    pooled, _ = backbone.encode_text(golden["in.text_ids"])
    mask = golden["in.video_mask"].bool()
    frames = method.contextualize(backbone.encode_normalized(golden["in.video"]), mask)
    out = method.objective(pooled, frames, mask, recorded(golden, case))
    close.value(f"{case}.total", out.total, golden[f"{case}.total"])
    out.total.backward()
    parameters = dict(method.named_parameters())
    inside = {f"clip.{k.removeprefix('model.')}": p for k, p in backbone.named_parameters()}
    assert_parameter_gradients(close, case, golden, {**inside, **parameters})


def assert_parameter_gradients(close, case, golden, parameters, only=("",)):
    expected = {k: v for k, v in golden.under(f"{case}.grad.").items() if k.startswith(only)}
    for name, ref in expected.items():
        got = parameters["logit_scale" if name == "clip.logit_scale" else name].grad
        if name == INERT:
            close.zero(f"{case}.grad.{name}", got)
        else:
            close.grad(f"{case}.grad.{name}", got, ref)
