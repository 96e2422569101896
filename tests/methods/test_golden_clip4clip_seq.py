"""CLIP4Clip against the outputs of the authors' code, in fp32 and fp64: seqTransf, seqLSTM, and meanP, which is `mean`.

The authors' code ran in float64 and in float32, and missing frames hold numbers on purpose.
"""

from __future__ import annotations

import pytest
import torch
from golden import Closeness, GoldenFile, RecordedDraws, load, params

from tvr_cli.methods import clip4clip_seq, mean
from tvr_cli.methods.base import Method
from tvr_cli.nn.losses import info_nce
from tvr_cli.types import Batch, Sizes, TextFeatures, VideoFeatures

HEADS = ("transformer", "lstm", "mean")
PREFIX = {"transformer": "", "lstm": "seqLSTM.", "mean": "meanP."}
OF_ANOTHER = {"transformer": "lstm_visual.", "lstm": "transformerClip."}


def build(golden: GoldenFile, head: str) -> Method:
    """Make the method of a head with the parameters that the file has for it."""
    state = golden.under("param.")
    sizes = Sizes(state[clip4clip_seq.TABLE].shape[1], 0, 0)
    if head == "mean":
        return mean.Method(mean.Method.Config(), sizes)
    state["logit_scale"] = state.pop("clip.logit_scale")
    state = {k: v for k, v in state.items() if not k.startswith(OF_ANOTHER[head])}
    config = clip4clip_seq.Method.Config(head=head, temporal_layers=golden.config["layers_temporal"])
    method = clip4clip_seq.Method(config, sizes)
    if head == "transformer":
        for block in method.transformerClip.resblocks:
            block.attn.heads = golden.config["heads_temporal"]
    method.to(golden.dtype).load_state_dict(state)
    return method


def leaves_of(golden: GoldenFile, case: str) -> dict[str, torch.Tensor]:
    names = ("sequence_output", "visual_output")
    return {name: golden[f"{case}.in.{name}"].clone().requires_grad_() for name in names}


def features(golden: GoldenFile, case: str, leaves: dict[str, torch.Tensor]) -> tuple[TextFeatures, VideoFeatures]:
    pooled, frames = leaves["sequence_output"].flatten(0, 1), leaves["visual_output"]
    n_frames = golden[f"{case}.in.video_mask"].sum(1)
    text = TextFeatures(torch.arange(len(pooled)), pooled, None, torch.ones(len(pooled), dtype=torch.long))
    return text, VideoFeatures(torch.arange(len(frames)), frames, n_frames, torch.zeros(frames.shape[:2]))


def scaled(golden: GoldenFile, method: Method, scores: torch.Tensor) -> torch.Tensor:
    """`mean` leaves the authors' factor out, which no rank depends on."""
    return scores if hasattr(method, "logit_scale") else golden["param.clip.logit_scale"].exp() * scores


@torch.no_grad()
@pytest.mark.parametrize("case", ["train", "eval"])
@pytest.mark.parametrize(("path", "head", "dtype"), params("clip4clip_seq", HEADS))
def test_golden_clip4clip_scores(path, head, dtype, case):
    golden = load(path, dtype)
    close = Closeness("clip4clip_seq", dtype, file=golden)
    method = build(golden, head)
    text, video = features(golden, case, leaves_of(golden, case))
    t, v = method.encode_text(text), method.encode_video(video)
    name = f"{PREFIX[head]}{case}.out."
    close.value(f"{name}sim", scaled(golden, method, method.score(t, v)), golden[f"{name}sim"])
    if f"{name}frames_unit" in golden:
        real = video.mask()
        expected = golden[f"{name}frames_unit"]
        authors = golden[f"{name.replace('.out.', '.fp32.')}frames_unit"][real]
        close.value(f"{name}frames_unit", v["frames"][real], expected[real], authors=authors)


@pytest.mark.parametrize(("path", "head", "dtype"), params("clip4clip_seq", HEADS))
def test_golden_clip4clip_loss_and_gradients(path, head, dtype):
    golden = load(path, dtype)
    close = Closeness("clip4clip_seq", dtype, file=golden)
    method, leaves, case = build(golden, head), leaves_of(golden, "train"), f"{PREFIX[head]}train"
    text, video = features(golden, "train", leaves)
    if head == "mean":
        found = info_nce(scaled(golden, method, method.score(method.encode_text(text), method.encode_video(video))))
        total, parts = found.total, {"t2v": found.t2v, "v2t": found.v2t}
    else:
        out = method.loss(Batch(text, video), step=0, draws=RecordedDraws())
        total, parts = out.total, out.parts
    total.backward()
    close.value(f"{case}.out.loss_total", total, golden[f"{case}.out.loss_total"])
    for part in ("t2v", "v2t"):
        close.value(f"{case}.out.loss_{part}", parts[part], golden[f"{case}.out.loss_{part}"])
    parameters = dict(method.named_parameters())
    for name, expected in golden.under(f"{case}.grad.").items():
        got = leaves[name.removeprefix("in.")] if name.startswith("in.") else parameters.get(name.removeprefix("clip."))
        if got is not None:  # `mean` has no scale to train
            rows = got.grad[: len(expected)] if expected.dim() else got.grad  # a compact file has a matrix's first rows
            close.grad(f"{case}.grad.{name}", rows, expected)
    live = {name for name in parameters if name not in method.dead()}
    assert live <= {name.removeprefix("clip.") for name in golden.under(f"{case}.grad.")}
