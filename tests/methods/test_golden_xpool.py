"""X-Pool against its authors' outputs in fp32 and fp64: scores folded and not, pooled vectors, gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import Closeness, GoldenFile, RecordedDraws, cases_with, load, params

from tvr_cli import metrics
from tvr_cli.methods import xpool
from tvr_cli.types import Batch, Sizes, TextFeatures, VideoFeatures

INERT = "pool_frames.cross_attn.k_proj.bias"  # zero gradient by analysis
FORMS = ("reference", "folded")


def build(golden: GoldenFile, case: str, **options) -> xpool.Method:
    """Make the method of a case; `eval_h2` has the same parameters in two heads."""
    state = golden.under("param.")
    state["logit_scale"] = state.pop("clip.logit_scale")
    heads = 2 if case == "eval_h2" else golden.config["heads"]
    dim = len(state["pool_frames.layer_norm1.weight"])
    method = xpool.Method(xpool.Method.Config(heads=heads, **options), Sizes(dim, golden.config["F"], 0))
    method.to(golden.dtype).load_state_dict(state)
    return method


def leaves_of(golden: GoldenFile, case: str) -> dict[str, torch.Tensor]:
    """Return the inputs of a case; a variant without any (`eval_h2`, `train_nodrop`) has those of its namesake."""
    own = case if f"{case}.in.text_embeds" in golden else case.partition("_")[0]
    return {n: golden[f"{own}.in.{n}"].clone().requires_grad_() for n in ("text_embeds", "video_embeds")}


def features(leaves: dict[str, torch.Tensor]) -> tuple[TextFeatures, VideoFeatures]:
    pooled, frames = leaves["text_embeds"], leaves["video_embeds"]
    n_frames = torch.full((len(frames),), frames.shape[1])
    text = TextFeatures(torch.arange(len(pooled)), pooled, None, torch.ones(len(pooled), dtype=torch.long))
    return text, VideoFeatures(torch.arange(len(frames)), frames, n_frames, torch.zeros(frames.shape[:2]))


def scored(path: Path) -> list[str]:
    """The cases whose scores are those of an evaluation: without dropout."""
    trained = set(cases_with(".noise.dropout_keep")(path))
    return [case for case in cases_with(".out.sim")(path) if case not in trained]


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("path", "case", "dtype"), params("xpool", scored))
def test_golden_xpool_scores(path, case, dtype, form, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden = load(path, dtype)
    close, method = Closeness("xpool", dtype, file=golden), build(golden, case)
    text, video = features(leaves_of(golden, case))
    score = method.score(method.encode_text(text), method.encode_video(video))
    close.value(f"{case}.out.sim", score, golden[f"{case}.out.sim"])
    assert score.dtype == dtype
    if f"{case}.out.pooled" in golden:
        pooled = method.pool_frames(text.pooled, video.frames)
        close.value(f"{case}.out.pooled", pooled.transpose(0, 1), golden[f"{case}.out.pooled"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("path", "case", "dtype"), params("xpool", cases_with(".out.loss_total")))
def test_golden_xpool_loss_and_gradients(path, case, dtype, form, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden = load(path, dtype)
    close, keep = Closeness("xpool", dtype, file=golden), f"{case}.noise.dropout_keep"
    method = build(golden, case, dropout=golden.config["dropout"] if keep in golden else 0.0)
    leaves = leaves_of(golden, case)
    text, video = features(leaves)
    draws = RecordedDraws({"pool_dropout_keep": golden[keep].transpose(0, 1)} if keep in golden else {})
    batch = Batch(text, video)
    close.value(f"{case}.out.sim", method.cosines(batch, draws), golden[f"{case}.out.sim"])
    loss = method.loss(batch, step=0, draws=draws)
    draws.assert_all_used()
    close.value(f"{case}.out.loss_total", loss.total, golden[f"{case}.out.loss_total"])
    loss.total.backward()
    parameters = dict(method.named_parameters())
    for name, expected in golden.under(f"{case}.grad.").items():
        if name == INERT:
            close.zero(name, parameters[name].grad)
            continue
        got = leaves[name.removeprefix("in.")] if name.startswith("in.") else parameters[name.removeprefix("clip.")]
        rows = got.grad[: len(expected)] if expected.dim() else got.grad  # a compact file has a matrix's first rows
        close.grad(f"{case}.grad.{name}", rows, expected)


@pytest.mark.parametrize(("path", "dtype"), params("xpool", needs="eval_multi.out.metrics_t2v"))
def test_golden_xpool_metrics_of_several_captions_a_clip(path, dtype):
    """Without ties our referee counts as their metric functions do, in both directions."""
    golden = load(path, dtype)
    method = build(golden, "eval_multi")
    text, video = features(leaves_of(golden, "eval_multi"))
    with torch.no_grad():
        score = method.score(method.encode_text(text), method.encode_video(video)).double().numpy()
    owner = golden["eval_multi.in.video_of_text"].numpy()
    found = metrics.evaluate(score, owner)
    for direction in ("t2v", "v2t"):
        ours = [found[direction][name] for name in ("R@1", "R@5", "R@10", "MdR", "MnR")]
        assert ours == pytest.approx(golden[f"eval_multi.out.metrics_{direction}"].tolist()), direction
