"""X-CLIP against the outputs of the authors' code, through the reference and the folded form, in fp32 and fp64.

Their float64 outputs are stored as such, so float64 must agree to 1e-10.
"""

from __future__ import annotations

import pytest
import torch
from golden import Closeness, GoldenFile, RecordedDraws, cases_with, load, params
from torch import Tensor

from tvr_cli.methods import xclip
from tvr_cli.nn.temporal import frame_positions
from tvr_cli.types import Batch, Sizes, TextFeatures, VideoFeatures

FORMS = ("reference", "folded")


class BehindTransformer(xclip.Method):
    """The method of a compact file: the directions of its frames behind the temporal transformer are given."""

    directions: Tensor

    def contextualize(self, frames: Tensor, mask: Tensor) -> Tensor:
        return self.directions


def build(golden: GoldenFile, case: str) -> tuple[xclip.Method, bool]:
    """Return the method of a case with its parameters, and whether it starts at CLIP's frames."""
    state = golden.under("param.")
    state["logit_scale"] = state.pop("clip.logit_scale")
    if case.startswith("meanP"):
        state = {k: v for k, v in state.items() if not k.startswith(("transformerClip.", "frame_position_embeddings."))}
    layers = {k.split(".")[2] for k in state if k.startswith("transformerClip.")}
    whole = bool(layers) or case.startswith("meanP")
    config = xclip.Method.Config(
        isa_temperature=golden.config["isa_temp"],
        temporal="transformer" if layers else "none",
        temporal_layers=len(layers),
    )
    sizes = Sizes(*(len(state[k]) for k in ("global_mat_weight", "frame_logit_weight", "word_logit_weight")))
    method = (xclip.Method if whole else BehindTransformer)(config, sizes)
    if layers:
        rows, width = state["frame_position_embeddings.weight"].shape
        method.frame_position_embeddings = frame_positions(width, rows)
        for block in method.transformerClip.resblocks:
            block.attn.heads = golden.config["heads_temporal"]
    if not whole:
        method.directions = golden[f"{case}.out.frames_unit"]
    method.to(golden.dtype).load_state_dict(state)
    return method, whole


def inputs(golden: GoldenFile, case: str) -> tuple[TextFeatures, VideoFeatures, dict[str, Tensor]]:
    """Return features of a case and their leaves; `meanP.eval` has the inputs of `eval`."""
    stage = case.removeprefix("meanP.")
    names = ("sequence_output", "seq_features", "visual_output")
    leaves = {name: golden[f"{stage}.in.{name}"].clone().requires_grad_() for name in names}
    words, frames = leaves["seq_features"], leaves["visual_output"]
    n_words = golden[f"{stage}.in.attention_mask"].sum(1)
    text = TextFeatures(torch.arange(len(words)), leaves["sequence_output"].flatten(0, 1), words, n_words)
    n_frames = golden[f"{stage}.in.video_mask"].sum(1)
    return text, VideoFeatures(torch.arange(len(frames)), frames, n_frames, torch.zeros(frames.shape[:2])), leaves


@torch.no_grad()
@pytest.mark.parametrize(("path", "case", "form", "dtype"), params("xclip", cases_with(".out.sim"), FORMS))
def test_golden_xclip_scores(path, case, form, dtype, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden = load(path, dtype)
    close = Closeness("xclip", dtype, file=golden)
    method, _ = build(golden, case)
    text, video, _ = inputs(golden, case)
    z = method.contextualize(video.frames, video.mask())
    close.value(f"{case}.out.frames_unit", z / z.norm(dim=-1, keepdim=True), golden[f"{case}.out.frames_unit"])
    encoded = method.encode_text(text), method.encode_video(video)
    scaled, score = method.similarities(*encoded), method.score(*encoded)
    for name, got in zip(("sim_vs", "sim_vw", "sim_sf", "sim_fw"), scaled, strict=True):
        close.value(f"{case}.out.{name}", got, golden[f"{case}.out.{name}"])
    close.value(f"{case}.out.sim", score, golden[f"{case}.out.sim"])
    assert score.dtype == dtype


@pytest.mark.parametrize(("path", "case", "form", "dtype"), params("xclip", cases_with(".out.loss_total"), FORMS))
def test_golden_xclip_loss_and_gradients(path, case, form, dtype, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden = load(path, dtype)
    close = Closeness("xclip", dtype, file=golden)
    method, _ = build(golden, case)
    text, video, leaves = inputs(golden, case)
    loss = method.loss(Batch(text, video), step=0, draws=RecordedDraws())
    loss.total.backward()
    for name, got in (("loss_total", loss.total), ("loss_t2v", loss.parts["t2v"]), ("loss_v2t", loss.parts["v2t"])):
        close.value(f"{case}.out.{name}", got, golden[f"{case}.out.{name}"])

    parameters = dict(method.named_parameters())
    expected = golden.under(f"{case}.grad.")
    assert {k for k in expected if k.endswith("mat_weight") or "_logit_weight" in k or k.endswith("weight2")}
    for name, ref in expected.items():
        got = leaves[name[3:]].grad if name.startswith("in.") else parameters[name.removeprefix("clip.")].grad
        close.grad(f"{case}.grad.{name}", got[: len(ref)] if ref.dim() else got, ref)  # positions: the first F rows
    if "frame_position_embeddings.weight" in parameters:
        unused = parameters["frame_position_embeddings.weight"].grad[leaves["visual_output"].shape[1] :]
        close.zero("frame_position_embeddings.weight beyond F", unused)
