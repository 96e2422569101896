"""TC-MGC against the outputs of the authors' code, through the reference and the folded form, in fp32 and fp64."""

from __future__ import annotations

import pytest
import torch
from golden import Closeness, GoldenFile, RecordedDraws, cases_with, load, params
from golden_inputs import check_end_to_end, closeness, features, inputs
from tvr_kernels.tcmgc import dropout, reference

from tvr_cli.methods import tcmgc
from tvr_cli.nn.temporal import frame_positions
from tvr_cli.types import Batch, Sizes

FORMS = ("reference", "folded")
LOSS_PARTS = {"loss_t2v": "t2v", "loss_v2t": "v2t", "loss_nce": "contrastive", "loss_sdr": "sdr"}
DEAD = "conditional_transformer.pool_frames.cross_attn."
# Their gradients pass the second softmax: at lambda = 100 they are as small as 1e-22.
ISA = (
    "attentive_word_logit_weight",
    "concat_frame_word_logit_weight",
    "attentive_word_mat_weight",
    "attentive_frame_word_mat_weight",
    "attentive_frame_word_mat_weight2",
    "attentive_word_mat_weight2",
)


def build(golden: GoldenFile, case: str) -> tcmgc.Method:
    """Make the method of a file, set up as `case` was; without a temporal transformer where the file has none."""
    state = golden.under("param.")
    state["logit_scale"] = state.pop("clip.logit_scale")
    state = {k: v for k, v in state.items() if not k.startswith("clip.") and not k.startswith(DEAD)}
    layers = {k.split(".")[2] for k in state if k.startswith("transformerClip.")}
    config = tcmgc.Method.Config(
        keep_rate=golden.config["keep_rate"],
        softmax_lambda=golden.config["softmax_lambda"][case],
        sdr_weight=golden.config["sdr_weight"],
        lva_heads=golden.config.get(f"{case}_lva_heads", golden.config["lva_heads"]),
        dropout=golden.config["dropout"].get(case, 0.0),
        temporal="transformer" if layers else "none",
        temporal_layers=len(layers),
    )
    method = tcmgc.Method(config, Sizes(len(state["global_mat_weight"]), 0, golden.config["L"]))
    if layers:
        rows, width = state["frame_position_embeddings.weight"].shape
        method.frame_position_embeddings = frame_positions(width, rows)
        for block in method.transformerClip.resblocks:
            block.attn.heads = golden.config["heads_temporal"]
    method.to(golden.dtype).load_state_dict(state)
    return method


def source(golden: GoldenFile, case: str) -> str:
    """Return the case whose inputs `case` shares: train for train_l10 and train_drop, eval for eval_h2."""
    return case if f"{case}.in.seq_features" in golden else case.partition("_")[0]


def masks(golden: GoldenFile, case: str) -> dict[str, torch.Tensor]:
    """Return the recorded dropout masks under the names that the loss draws them by, one pair a caption."""
    frame, video = (golden[f"{case}.noise.dropout_{name}"] for name in ("frame", "video"))
    by_caption = {f"dropout_frame.{i}": frame[:, i] for i in range(frame.shape[1])}
    return {**by_caption, **{f"dropout_video.{i}": video[:, i] for i in range(video.shape[1])}}


@pytest.mark.parametrize(("path", "case", "form", "dtype"), params("tcmgc", cases_with(".out.sim"), FORMS))
def test_golden_tcmgc_scores(path, case, form, dtype, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden = load(path, dtype)
    close = closeness("tcmgc", golden, source(golden, case))
    method = build(golden, case)
    with torch.no_grad():
        text_features, video_features = features(golden, source(golden, case), inputs(golden, source(golden, case)))
        text, video = method.encode_text(text_features), method.encode_video(video_features)
        if f"{case}.noise.dropout_video" in golden:
            scaled = method.similarities_with_dropout(text, video, RecordedDraws(masks(golden, case)))
            score = tcmgc.kernel.fuse(scaled, method.logit_weight)
        else:
            scaled, score = method.similarities(text, video), method.score(text, video)
        z = method.contextualize(video_features.frames, video_features.mask())
    if f"{case}.out.frames_temporal" in golden:
        close.value(f"{case}.out.frames_temporal", z, golden[f"{case}.out.frames_temporal"])
    for name, got in zip(("sim_vs", "sim_vw", "sim_sf", "sim_fw"), scaled, strict=True):
        close.value(f"{case}.out.{name}", got, golden[f"{case}.out.{name}"])
    close.value(f"{case}.out.sim", score, golden[f"{case}.out.sim"])
    assert score.dtype == dtype


@pytest.mark.parametrize(("path", "case", "dtype"), params("tcmgc", cases_with(".out.lva_video_raw")))
def test_golden_tcmgc_conditioned_vectors(path, case, dtype):
    golden = load(path, dtype)
    close = closeness("tcmgc", golden, source(golden, case))
    method, shared = build(golden, case), source(golden, case)
    with torch.no_grad():
        text, video = features(golden, shared, inputs(golden, shared))
        text, video, weights = method.encode_text(text), method.encode_video(video), method.weights()
        multiplier = None
        if f"{case}.noise.dropout_video" in golden:
            frame, clip = (golden[f"{case}.noise.dropout_{name}"].to(dtype) for name in ("frame", "video"))
            kept = torch.cat([frame.permute(1, 2, 0, 3), clip.transpose(0, 1)[:, None]], 1) != 0  # [T, L + 1, V, D]
            multiplier = kept.to(dtype) / (1 - method.config.dropout)
            frames, rate = dropout.project(video.tensors, weights, method.config.dropout), method.config.dropout
            by_caption = [
                dropout.condition(query, video.tensors, weights, mask.transpose(0, 1), frames, rate)
                for query, mask in zip(text["query"], kept, strict=True)
            ]
            fast = torch.stack(by_caption).transpose(1, 2)
        y = reference.condition(text["query"], reference.frames_of(video, weights.heads), weights, None, multiplier)
    for vectors in (y,) if multiplier is None else (y, fast):
        close.value("lva_video_raw", vectors[:, -1], golden[f"{case}.out.lva_video_raw"])
        if f"{case}.out.lva_frame_raw" in golden:
            close.value("lva_frame_raw", vectors[:, :-1], golden[f"{case}.out.lva_frame_raw"])


@pytest.mark.parametrize(("path", "case", "form", "dtype"), params("tcmgc", cases_with(".out.loss_nce"), FORMS))
def test_golden_tcmgc_loss_and_gradients(path, case, form, dtype, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden = load(path, dtype)
    close = closeness("tcmgc", golden, source(golden, case))
    method, leaves = build(golden, case), inputs(golden, source(golden, case))
    text, video = features(golden, source(golden, case), leaves)
    draws = RecordedDraws(masks(golden, case) if method.config.dropout else None)
    loss = method.loss(Batch(text, video), step=0, draws=draws)
    loss.total.backward()
    draws.assert_all_used()

    close.value("loss_total", loss.total, golden[f"{case}.out.loss_total"])
    for name, part in LOSS_PARTS.items():
        close.value(name, loss.parts[part], golden[f"{case}.out.{name}"])
    parameters = dict(method.named_parameters())
    for name, expected in golden.under(f"{case}.grad.").items():
        if name.startswith("in."):
            got = leaves[name.removeprefix("in.")].grad
        else:
            got = parameters[name.removeprefix("clip.")].grad
        if name in ISA and method.config.softmax_lambda >= 100:
            if dtype == torch.float64:
                close.relative_grad(name, got, expected)
        else:
            close.grad(name, got, expected)


@pytest.mark.parametrize(("path", "dtype"), params("tcmgc", needs="e2e.in.video"))
def test_golden_tcmgc_end_to_end(path, dtype):
    golden = load(path, dtype)
    check_end_to_end(golden, build(golden, "e2e"), Closeness("tcmgc", dtype, reference="fp32", file=golden))
