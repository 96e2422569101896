"""T-MASS against its authors' outputs in fp32 and fp64: every trial, both rules, candidates, losses and gradients."""

from __future__ import annotations

import pytest
import torch
from golden import Closeness, GoldenFile, RecordedDraws, cases_with, load, params
from tvr_kernels.eaglenet import reference

from tvr_cli.methods import _tmass_trials, tmass
from tvr_cli.types import Batch, Sizes, TextFeatures, VideoFeatures

INERT = "pool_frames.cross_attn.k_proj.bias"  # zero gradient by analysis


def build(golden: GoldenFile, case: str) -> tmass.Method:
    """Make the method of a case with the file's parameters."""
    state = golden.under("param.")
    state["logit_scale"] = state.pop("clip.logit_scale")
    state = {k: v for k, v in state.items() if k not in tmass.Method.ignored_keys}
    theirs = golden.config["variants"][case]
    options = {
        "prior": {"uniform01": "uniform", "normal": "normal"}[theirs["prior"]],
        "trials": golden.config["trials"],
    }
    options |= {ours: theirs[ours] for ours in ("prior_std", "support_weight") if ours in theirs}
    dim, frames = state["stochastic.std_branch.linear_proj.weight"].shape
    method = tmass.Method(tmass.Method.Config(dropout=golden.config["dropout"], **options), Sizes(dim, frames, 0))
    method.to(golden.dtype).load_state_dict(state)
    return method


def leaves_of(golden: GoldenFile, case: str) -> dict[str, torch.Tensor]:
    """Return the inputs of a case; `train_normal` has those of `train`."""
    own = case if f"{case}.in.text_embeds" in golden else case.partition("_")[0]
    return {n: golden[f"{own}.in.{n}"].clone().requires_grad_() for n in ("text_embeds", "video_embeds")}


def features(leaves: dict[str, torch.Tensor]) -> tuple[TextFeatures, VideoFeatures]:
    pooled, frames = leaves["text_embeds"], leaves["video_embeds"]
    n_frames = torch.full((len(frames),), frames.shape[1])
    text = TextFeatures(torch.arange(len(pooled)), pooled, None, torch.ones(len(pooled), dtype=torch.long))
    return text, VideoFeatures(torch.arange(len(frames)), frames, n_frames, torch.zeros(frames.shape[:2]))


@torch.no_grad()
@pytest.mark.parametrize("block", [2**19, 1], ids=["whole", "pair-by-pair"])
@pytest.mark.parametrize(("path", "dtype"), params("tmass", needs="eval.out.sim"))
def test_golden_tmass_scores_by_both_rules(path, dtype, block, monkeypatch):
    monkeypatch.setattr(_tmass_trials, "BLOCK_NUMBERS", block)
    golden = load(path, dtype)
    close, method = Closeness("tmass", dtype, file=golden), build(golden, "eval")
    text, video = features(leaves_of(golden, "eval"))
    t, v = method.encode_text(text), method.encode_video(video)
    sigma = golden["eval.noise.sigma"].transpose(1, 2)  # [V, T, S, D]
    close.value("eval.out.sim", method.score_with(t, v, sigma), golden["eval.out.sim"])
    close.value("eval.out.sim_authors", method.score_for_own(t, v, t, sigma), golden["eval.out.sim_authors"])
    close.value("eval.out.sim_trials", method.trials(t, v, sigma), golden["eval.out.sim_trials"])
    pooled = method.pool_frames(text.pooled, video.frames)
    close.value("eval.out.pooled", pooled.transpose(0, 1), golden["eval.out.pooled"])


@pytest.mark.parametrize(("path", "case", "dtype"), params("tmass", cases_with(".out.loss_total")))
def test_golden_tmass_loss_and_gradients(path, case, dtype):
    golden = load(path, dtype)
    close, method, leaves = Closeness("tmass", dtype, file=golden), build(golden, case), leaves_of(golden, case)
    text, video = features(leaves)
    sigma = golden[f"{case}.noise.sigma"]
    if method.config.prior == "normal":
        sigma = sigma / method.config.prior_std
    keep = golden["train.noise.dropout_keep"].transpose(0, 1)
    draws, batch = RecordedDraws({"sigma": sigma, "pool_dropout_keep": keep}), Batch(text, video)
    drawn, support, candidate = method.cosines(batch, draws)
    loss = method.loss(batch, step=0, draws=draws)
    draws.assert_all_used()
    close.value(f"{case}.out.sim", drawn, golden[f"{case}.out.sim"])
    close.value(f"{case}.out.sim_support", support, golden[f"{case}.out.sim_support"])
    close.value(f"{case}.out.text_stochastic", candidate, golden[f"{case}.out.text_stochastic"])
    radius = reference.radius(text.pooled, video.frames, video.mask(), method.stochastic.tensors())
    close.value(f"{case}.out.log_var", radius, golden[f"{case}.out.log_var"])
    for name, got in (("total", loss.total), ("sim", loss.parts["sim"]), ("support", loss.parts["support"])):
        close.value(f"{case}.out.loss_{name}", got, golden[f"{case}.out.loss_{name}"])
    loss.total.backward()
    parameters = dict(method.named_parameters())
    for name, expected in golden.under(f"{case}.grad.").items():
        if name == INERT:
            close.zero(name, parameters[name].grad)
            continue
        got = leaves[name.removeprefix("in.")] if name.startswith("in.") else parameters[name.removeprefix("clip.")]
        rows = got.grad[: len(expected)] if expected.dim() else got.grad  # a compact file has a matrix's first rows
        close.grad(f"{case}.grad.{name}", rows, expected)
