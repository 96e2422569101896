"""TS2-Net against its authors' outputs in fp32 and fp64: the choice of tokens, scores, loss and gradients.

Missing frames hold numbers, and the authors' mask meets other frames than it means: both are reproduced.
"""

from __future__ import annotations

import pytest
import torch
from golden import Closeness, GoldenFile, RecordedDraws, load, params

from tvr_cli.backbones.openclip.temporal_shift import shift_patches
from tvr_cli.methods import ts2net
from tvr_cli.types import Batch, Sizes, TextFeatures, VideoFeatures


def build(golden: GoldenFile) -> ts2net.Method:
    """Make the method with the file's parameters."""
    state = golden.under("param.")
    state["logit_scale"] = state.pop("clip.logit_scale")
    config = ts2net.Method.Config(
        kept_patches=golden.config["topk"],
        noise_rows=golden.config["num_samples"],
        noise_std=golden.config["sigma"],
        temporal_layers=golden.config["layers_temporal"],
    )
    dim = state["frame_position_embeddings.weight"].shape[1]
    method = ts2net.Method(config, Sizes(dim, golden.config["F"], 0))
    for block in method.transformerClip.resblocks:
        block.attn.heads = golden.config["heads_temporal"]
    method.to(golden.dtype).load_state_dict(state)
    return method


def leaves_of(golden: GoldenFile, case: str) -> dict[str, torch.Tensor]:
    names = ("sequence_output", "visual_tokens")
    return {name: golden[f"{case}.in.{name}"].clone().requires_grad_() for name in names}


def features(
    golden: GoldenFile, case: str, leaves: dict[str, torch.Tensor]
) -> tuple[TextFeatures, VideoFeatures, torch.Tensor]:
    """Return captions, clips and the recorded noise [V, F, n, P]."""
    pooled, mask = leaves["sequence_output"].flatten(0, 1), golden[f"{case}.in.video_mask"]
    tokens = leaves["visual_tokens"].unflatten(1, (mask.shape[1], -1))  # [V, F, N, D]
    text = TextFeatures(torch.arange(len(pooled)), pooled, None, torch.ones(len(pooled), dtype=torch.long))
    slots = torch.zeros(mask.shape)
    video = VideoFeatures(torch.arange(len(mask)), tokens[:, :, 0], mask.sum(1), slots, patches=tokens[:, :, 1:])
    return text, video, golden[f"{case}.noise.topk_n01"].unflatten(0, mask.shape)


@torch.no_grad()
@pytest.mark.parametrize("case", ["train", "eval"])
@pytest.mark.parametrize(("path", "dtype"), params("ts2net", needs="eval.out.sim"))
def test_golden_ts2net_selection_and_scores(path, dtype, case):
    golden = load(path, dtype)
    close, method = Closeness("ts2net", dtype, file=golden), build(golden)
    text, video, noise = features(golden, case, leaves_of(golden, case))
    tokens = torch.cat([video.frames[:, :, None], video.patches], dim=2)
    found = method.visual_token_selector.score_predictor(tokens)
    close.value(f"{case}.out.token_score", found.flatten(0, 1), golden[f"{case}.out.token_score"])
    kept = method.select(video, noise)
    if f"{case}.out.selected" in golden:
        close.value(f"{case}.out.selected", kept.flatten(1, 2), golden[f"{case}.out.selected"])
    scores = method.score(method.encode_text(text), method.encode_with(video, noise))
    for name in ("sim", "sim_semantic", "sim_global"):  # which are one, as the spec says
        close.value(f"{case}.out.{name}", scores, golden[f"{case}.out.{name}"])


@pytest.mark.parametrize(("path", "dtype"), params("ts2net", needs="train.out.loss_total"))
def test_golden_ts2net_loss_and_gradients(path, dtype):
    golden = load(path, dtype)
    close, method, leaves = Closeness("ts2net", dtype, file=golden), build(golden), leaves_of(golden, "train")
    text, video, noise = features(golden, "train", leaves)
    draws = RecordedDraws({"selection": noise})
    loss = method.loss(Batch(text, video), step=0, draws=draws)
    draws.assert_all_used()
    close.value("train.out.loss_total", loss.total, golden["train.out.loss_total"])
    for part in ("t2v", "v2t"):
        close.value(f"train.out.loss_{part}", loss.parts[part], golden[f"train.out.loss_{part}"])
    loss.total.backward()
    parameters = dict(method.named_parameters())
    for name, expected in golden.under("train.grad.").items():
        got = leaves[name.removeprefix("in.")] if name.startswith("in.") else parameters[name.removeprefix("clip.")]
        rows = got.grad[: len(expected)] if expected.dim() else got.grad  # the file has a table's first rows
        close.grad(f"train.grad.{name}", rows, expected)
    assert set(parameters) <= {name.removeprefix("clip.") for name in golden.under("train.grad.")}


@pytest.mark.parametrize(("path", "dtype"), params("ts2net", needs="shift50.in.x"))
def test_golden_ts2net_shift_is_the_backbones(path, dtype):
    golden = load(path, dtype)
    for tokens in (50, 17):
        x = golden[f"shift{tokens}.in.x"]
        assert torch.equal(shift_patches(x, golden.config["F"]), golden[f"shift{tokens}.out.y"]), tokens
