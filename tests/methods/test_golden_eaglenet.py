"""EagleNet against the authors' outputs: scores, energies, samples, losses, gradients of the head and of CLIP.

The authors' code ran in float64. Where a file holds the CLIP weights, features are computed from ids and pixels; a
compact file (made by scripts/compact_golden_eaglenet.py) holds the features themselves.
"""

from __future__ import annotations

from fnmatch import fnmatch
from functools import cache
from typing import Any

import pytest
import torch
from golden import Closeness, GoldenFile, RecordedDraws, cases_with, load, params
from tvr_kernels.eaglenet import reference
from tvr_kernels.eaglenet.folded import enrich, fold_weights

from tvr_cli.backbones.openclip import OpenClipBackbone
from tvr_cli.methods.eaglenet import Method
from tvr_cli.nn.losses import negatives
from tvr_cli.types import Batch, Sizes, TextFeatures, VideoFeatures

INERT = "pool_frames.cross_attn.k_proj.bias"  # zero gradient by analysis
# the authors' names of options whose values are the same
SAME = {
    "candidates": "stochasic_trials",
    "prior_std": "stochastic_prior_std",
    "graph": "gnn_type",
    "graph_heads": "gnn_nheads",
    "graph_slope": "gnn_leaky_slope",
    "graph_dropout": "gnn_dropout",
    "pool_heads": "pooling_head",
    "pool_dropout": "pooling_dropout",
    "support_weight": "support_loss_weight",
    "energy_weight": "eam_loss_weight",
    "energy_support_weight": "eam_support_loss_weight",
    "energy_regularizer": "mcmc_coef_reg",
    "langevin_steps": "mcmc_steps",
    "langevin_step_size": "mcmc_step_size",
    "langevin_noise": "mcmc_noise",
    "replay_rows": "max_buffer_vol",
}


def build(golden: GoldenFile, case: str) -> Method:
    """Return the method with a case's options and parameters; buffers as before its first training step."""
    theirs = golden.config[case]
    assert theirs["gnn_num_layers"] == 2 and not theirs["gnn_v2"]
    options: dict[str, Any] = {ours: theirs[name] for ours, name in SAME.items()}
    options["prior"] = {"uniform01": "uniform", "normal": "normal"}[theirs["stochastic_prior"]]
    options["energy_pool"] = {"avg": "mean", "max": "max", "min": "min"}[theirs["energy_pooling"]]
    options["energy"] = {"mlp": "mlp", "bilinear": "bilinear", "cossim": "cosine"}[theirs["energy_fn"]]
    options["loss"] = {"sig": "sigmoid", "clip": "softmax"}[theirs["loss_fn"]]
    options["frame_positions"] = bool(theirs["framepe"])
    state = {
        k: v for k, v in golden.under(f"{case}/param/").items() if not any(fnmatch(k, p) for p in Method.ignored_keys)
    }
    state |= {f"ebm.{k}": v for k, v in golden.under(f"{case}/buf0/").items()}
    dim, frames = state["stochastic.std_branch.linear_proj.weight"].shape
    method = Method(Method.Config(**options), Sizes(dim, frames, 1))
    if options["loss"] == "softmax":
        state["logit_scale"] = golden["clip_param/logit_scale"]
    missing, unexpected = method.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) == {"ebm.sampling"}
    return method.to(golden.dtype)


@cache
def towers(path: Any, dtype: torch.dtype) -> OpenClipBackbone:
    golden = load(path, dtype)
    state = golden.under("clip_param/")
    return OpenClipBackbone.from_state_dict(state, name="golden", temporal_shift=True).to(dtype)


def features(golden: GoldenFile, stage: str, *, stored: bool = False) -> tuple[TextFeatures, VideoFeatures]:
    """Return the inputs of a stage (`A/eval`, `B/train0`): through CLIP where the file has it, unless `stored`."""
    if golden.has("clip_param/visual.") and not stored:
        clip = towers(golden.path, golden.dtype)
        pooled = clip.encode_text(golden["in/input_ids"].long())[0]
        frames = clip.encode_normalized(golden["in/pixels"])
    else:
        pooled, frames = golden[f"{stage}/text_feat"], golden[f"{stage}/video_feat"]
    pooled, frames = pooled[: len(golden[f"{stage}/text_feat"])], frames[: len(golden[f"{stage}/video_feat"])]
    texts, videos = len(pooled), len(frames)
    return (
        TextFeatures(torch.arange(texts), pooled, None, torch.ones(texts, dtype=torch.long)),
        VideoFeatures(
            torch.arange(videos), frames, torch.full((videos,), frames.shape[1]), torch.zeros(frames.shape[:2])
        ),
    )


def recorded(golden: GoldenFile, case: str, stage: str, texts: int) -> RecordedDraws:
    """Return a training step's draws; pair noise comes one caption at a time, and without the prior's deviation."""
    noise = golden.under(f"{stage}/noise/")
    sigma = noise.pop("sigma").unflatten(1, (texts, -1))  # [S, A, B, D]
    if golden.config[case]["stochastic_prior"] == "normal":
        sigma = sigma / golden.config[case]["stochastic_prior_std"]
    nodes = noise.pop("gnn_dropout_keep.0").unflatten(0, (texts, -1))  # [A, B, N, D]
    linear = noise.pop("pool_dropout_keep").transpose(0, 1)  # [A, B, D]
    for a in range(texts):
        noise |= {f"sigma.{a}": sigma[:, a], f"gnn_dropout_keep.0.{a}": nodes[a], f"pool_dropout_keep.{a}": linear[a]}
    return RecordedDraws(noise)


def closeness(dtype: torch.dtype) -> Closeness:
    return Closeness("eaglenet", dtype)


# --------------------------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
@pytest.mark.parametrize("form", ["reference", "folded"])
@pytest.mark.parametrize(("path", "case", "dtype"), params("eaglenet", cases_with("/eval/sim")))
def test_golden_scores(path, case, dtype, form):
    golden, close, stage = load(path, dtype), closeness(dtype), f"{case}/eval"
    method = build(golden, case)
    text, video = features(golden, stage)
    sigma = golden[f"{stage}/noise/sigma"].unflatten(1, (len(text), len(video)))
    scores = method.score_with(method.encode_text(text), method.encode_video(video), sigma, form)
    close.value(f"{stage}/sim", scores, golden[f"{stage}/sim"])


@torch.no_grad()
@pytest.mark.parametrize(("path", "case", "dtype"), params("eaglenet", cases_with("/eval/eij_frame_text")))
def test_golden_steps_to_the_score(path, case, dtype):
    golden, close, stage = load(path, dtype), closeness(dtype), f"{case}/eval"
    method = build(golden, case)
    text, video = features(golden, stage, stored=dtype == torch.float32)
    texts, videos = len(text), len(video)
    sigma = golden[f"{stage}/noise/sigma"]  # [S, A * B, D]
    weights = method.weights()
    sides = method.encode_text(text).tensors, method.encode_video(video).tensors

    pairs = torch.cartesian_prod(torch.arange(texts), torch.arange(videos))
    direct = reference.details(*sides, weights, pairs[:, 0], pairs[:, 1], sigma=sigma.transpose(0, 1))
    clip_major = sigma.unflatten(1, (texts, videos)).permute(2, 1, 0, 3).clone()
    folded = enrich(*sides, weights, fold_weights(weights), clip_major)
    for enriched, frame_text in (
        (direct.enriched.unflatten(0, (texts, videos)), direct.frame_text),
        (folded.text.transpose(0, 1), folded.frame_text.transpose(0, 1).flatten(0, 1)),
    ):
        expected = golden[f"{stage}/eij_frame_text"]
        # a logit near zero is the difference of terms as large as the largest one, whose rounding in float32 remains
        scale = expected.abs().max().clamp_min(1.0) if dtype == torch.float32 else 1.0
        close.value(f"{stage}/eij_frame_text", frame_text / scale, expected / scale)
        close.value(f"{stage}/text_gen", enriched, golden[f"{stage}/text_gen"])
        pooled = method.pool_frames(enriched, video.frames)
        close.value(f"{stage}/pooled", pooled.transpose(0, 1), golden[f"{stage}/pooled"])
    close.value(f"{stage}/log_var", direct.log_radius.unflatten(0, (texts, videos)), golden[f"{stage}/log_var"])


# ----------------------------------------------------------------------------------------------------------- training


def replay(
    golden: GoldenFile, method: Method, case: str, step: int, *, stored: bool = False
) -> tuple[Batch, RecordedDraws]:
    """Return the inputs of a step, its sampler's buffers where the steps before it leave them."""
    if step:
        batch, draws = replay(golden, method, case, step - 1)
        method.loss(batch, step=step - 1, draws=draws)
    stage = f"{case}/train{step}"
    text, video = features(golden, stage, stored=stored)
    return Batch(text, video), recorded(golden, case, stage, len(text))


def step_of(stage: str) -> tuple[str, int]:
    """`B/train1` -> B, 1."""
    case, _, step = stage.partition("/train")
    return case, int(step)


@pytest.mark.parametrize(("path", "stage", "dtype"), params("eaglenet", cases_with("/loss/total")))
def test_golden_loss_and_gradients(path, stage, dtype):
    golden, close = load(path, dtype), closeness(dtype)
    case, step = step_of(stage)
    method = build(golden, case)
    batch, draws = replay(golden, method, case, step)
    out = method.loss(batch, step=step, draws=draws)
    draws.assert_all_used()
    close.value(f"{stage}/loss/total", out.total, golden[f"{stage}/loss/total"])
    for part, got in out.parts.items():
        close.value(f"{stage}/loss/{part}", got.reshape(()), golden[f"{stage}/loss/{part}"])
    for buffer, expected in golden.under(f"{stage}/buf_after/").items():
        close.value(f"{stage}/buf_after/{buffer}", getattr(method.ebm, buffer), expected)

    clip = towers(golden.path, dtype) if golden.has("clip_param/visual.") else None
    if clip is not None:
        clip.zero_grad()
    out.total.backward()
    gradients = golden.under(f"{stage}/grad/")
    ours = dict(method.named_parameters())
    if clip is not None:
        assert set(ours) - set(gradients) <= {"logit_scale"}, "every live parameter of the head has a recorded gradient"
    for key, expected in gradients.items():
        if key == INERT:
            close.zero(f"{stage}/grad/{key}", ours[key].grad)
        elif key in ours:
            close.grad(f"{stage}/grad/{key}", ours[key].grad, expected)
        elif clip is not None:
            theirs = key.removeprefix("clip.").replace(".attn.net.", ".attn.")
            close.grad(f"{stage}/grad/{key}", dict(clip.model.named_parameters())[theirs].grad, expected)


@pytest.mark.parametrize(("path", "stage", "dtype"), params("eaglenet", cases_with("/ebm0/sample_txt")))
def test_golden_steps_to_the_loss(path, stage, dtype):
    golden, close = load(path, dtype), closeness(dtype)
    case, step = step_of(stage)
    method = build(golden, case)
    batch, draws = replay(golden, method, case, step, stored=dtype == torch.float32)
    text, frames, real = batch.text.pooled, batch.video.frames, batch.video.mask()
    pairs = method.pairs(text, frames, real, draws)
    support, matching = method.support(text, frames, real, pairs)
    scale = method.logit_scale.exp() if method.config.loss == "softmax" else 1.0
    close.value(f"{stage}/sim", scale * pairs.scores, golden[f"{stage}/sim"])
    close.value(f"{stage}/sim_support", scale * support, golden[f"{stage}/sim_support"])
    close.value(f"{stage}/text_gen", pairs.enriched, golden[f"{stage}/text_gen"])
    close.value(f"{stage}/pooled", pairs.pooled.transpose(0, 1), golden[f"{stage}/pooled"])

    apart = negatives(batch.positives())
    for name, texts in (("ebm0", text), ("ebm1", matching)):
        if not golden.has(f"{stage}/{name}/"):
            continue
        match = method.match_energy(texts, frames, real, apart, draws, name)
        for half, got in (("batch", match.batch), ("langevin", match.sampled)):
            close.value(f"{stage}/{name}/{half}/energy_pos", got.positive, golden[f"{stage}/{name}/{half}/energy_pos"])
            close.value(f"{stage}/{name}/{half}/energy_neg", got.negative, golden[f"{stage}/{name}/{half}/energy_neg"])
            close.value(f"{stage}/{name}/{half}/loss", got.loss, golden[f"{stage}/{name}/{half}/loss"])
        close.value(f"{stage}/{name}/sample_vid", match.frames, golden[f"{stage}/{name}/sample_vid"])
        close.value(f"{stage}/{name}/sample_txt", match.text, golden[f"{stage}/{name}/sample_txt"])
