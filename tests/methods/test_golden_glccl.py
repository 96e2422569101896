"""GLCCL against the outputs of the authors' code, through the reference and the folded form, in fp32 and fp64."""

from __future__ import annotations

import pytest
import torch
from golden import Closeness, GoldenFile, RecordedDraws, cases_with, load, params
from golden_inputs import check_end_to_end, closeness, features, inputs
from tvr_kernels.glccl import reference

from tvr_cli.methods import glccl
from tvr_cli.nn.temporal import frame_positions
from tvr_cli.types import Batch, Encoding, Sizes

FORMS = ("reference", "folded")
LOSS_PARTS = {
    "loss_t2v": "t2v",
    "loss_v2t": "v2t",
    "loss_nce": "contrastive",
    "loss_csc": "csc",
    "csc_pos": "csc_positive",
    "csc_neg": "csc_negative",
}


def build(golden: GoldenFile) -> glccl.Method:
    """Make the method of a file with its parameters; without a temporal transformer where the file has none."""
    state = golden.under("param.")
    state["logit_scale"] = state.pop("clip.logit_scale")
    state = {k: v for k, v in state.items() if not k.startswith("clip.") and k not in glccl.Method.ignored_keys}
    layers = {k.split(".")[2] for k in state if k.startswith("transformerClip.")}
    config = glccl.Method.Config(
        csc_weight=golden.config["csc_weight"],
        pooling_temperature=golden.config["glim_temp"],
        isa_temperature=golden.config["isa_temp"],
        temporal="transformer" if layers else "none",
        temporal_layers=len(layers),
    )
    method = glccl.Method(config, Sizes(len(state["global_mat_weight"]), 0, len(state["word_logit_weight"])))
    if layers:
        rows, width = state["frame_position_embeddings.weight"].shape
        method.frame_position_embeddings = frame_positions(width, rows)
        for block in method.transformerClip.resblocks:
            block.attn.heads = golden.config["heads_temporal"]
    method.to(golden.dtype).load_state_dict(state)
    return method


def encoded(golden: GoldenFile, case: str) -> tuple[glccl.Method, Encoding, Encoding]:
    method = build(golden)
    text, video = features(golden, case, inputs(golden, case))
    return method, method.encode_text(text), method.encode_video(video)


@pytest.mark.parametrize(("path", "case", "form", "dtype"), params("glccl", cases_with(".out.sim"), FORMS))
def test_golden_glccl_scores(path, case, form, dtype, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden = load(path, dtype)
    close = closeness("glccl", golden, case)
    with torch.no_grad():
        method, text, video = encoded(golden, case)
        scaled, score = method.similarities(text, video), method.score(text, video)
    z = video["columns"][:, : golden[f"{case}.in.video_mask"].shape[1]]
    close.value(f"{case}.out.frames_temporal", z, golden[f"{case}.out.frames_temporal"])
    for name, got in zip(("sim_vs", "sim_vw", "sim_sf", "sim_fw"), scaled, strict=True):
        close.value(f"{case}.out.{name}", got, golden[f"{case}.out.{name}"])
    close.value(f"{case}.out.sim", score, golden[f"{case}.out.sim"])
    assert score.dtype == dtype


@pytest.mark.parametrize(("path", "case", "dtype"), params("glccl", cases_with(".out.glim_video_raw")))
def test_golden_glccl_pooled_vectors(path, case, dtype):
    golden = load(path, dtype)
    close = closeness("glccl", golden, case)
    with torch.no_grad():
        method, text, video = encoded(golden, case)
        query = text["query"] * text["norm"][..., None]
        frames = video["columns"][:, : golden[f"{case}.in.video_mask"].shape[1]]
        pooled = reference.pool(query, frames, method.config.pooling_temperature)  # [T, L + 1, V, D]
    close.value("glim_video_raw", pooled[:, -1], golden[f"{case}.out.glim_video_raw"])
    close.value("glim_frame_raw", pooled[:, :-1].transpose(1, 2), golden[f"{case}.out.glim_frame_raw"])


@pytest.mark.parametrize(("path", "case", "form", "dtype"), params("glccl", cases_with(".out.loss_nce"), FORMS))
def test_golden_glccl_loss_and_gradients(path, case, form, dtype, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden = load(path, dtype)
    close = closeness("glccl", golden, case)
    method, leaves = build(golden), inputs(golden, case)
    text, video = features(golden, case, leaves)
    loss = method.loss(Batch(text, video), step=0, draws=RecordedDraws())
    loss.total.backward()

    close.value("loss_total", loss.total, golden[f"{case}.out.loss_total"])
    for name, part in LOSS_PARTS.items():
        close.value(name, loss.parts[part], golden[f"{case}.out.{name}"])
    with torch.no_grad():
        scaled = method.similarities(method.encode_text(text), method.encode_video(video))
    close.value("csc_var", scaled.var(0), golden[f"{case}.out.csc_var"])

    parameters = dict(method.named_parameters())
    for name, expected in golden.under(f"{case}.grad.").items():
        if name.startswith("in."):
            got = leaves[name.removeprefix("in.")].grad
        else:
            got = parameters[name.removeprefix("clip.")].grad
        close.grad(name, got[: len(expected)] if expected.dim() else got, expected)  # positions: the first F rows
    if "frame_position_embeddings.weight" in parameters:
        unused = parameters["frame_position_embeddings.weight"].grad[leaves["visual_output"].shape[1] :]
        close.zero("frame_position_embeddings.weight beyond F", unused)


@pytest.mark.parametrize(("path", "dtype"), params("glccl", needs="e2e.in.video"))
def test_golden_glccl_end_to_end(path, dtype):
    golden = load(path, dtype)
    check_end_to_end(golden, build(golden), Closeness("glccl", dtype, reference="fp32", file=golden))
