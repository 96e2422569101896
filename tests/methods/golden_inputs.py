"""What the golden files of GLCCL and TC-MGC share: their inputs, and the way from pixels and token ids to the loss."""

from __future__ import annotations

import torch
from golden import Closeness, GoldenFile, RecordedDraws

from tvr_cli.methods.base import Method
from tvr_cli.types import Batch, TextFeatures, VideoFeatures


def inputs(golden: GoldenFile, case: str) -> dict[str, torch.Tensor]:
    """Return sentence, words and frames as leaves; a file without CLIP frames starts behind the transformer."""
    frames = golden[
        f"{case}.in.visual_output" if f"{case}.in.visual_output" in golden else f"{case}.out.frames_temporal"
    ]
    found = {
        "sequence_output": golden[f"{case}.in.sequence_output"],
        "seq_features": golden[f"{case}.in.seq_features"],
        "visual_output": frames,
    }
    return {name: tensor.clone().requires_grad_() for name, tensor in found.items()}


def closeness(method: str, golden: GoldenFile, case: str) -> Closeness:
    """Return the comparison of a case of a file.

    The authors' train and eval cases ran in float64. A compact file has their frames only behind the temporal
    transformer, rounded to float32 when stored: what follows carries that rounding, whatever precision it ran in.
    """
    exact = f"{case}.in.visual_output" in golden
    return Closeness(method, golden.dtype, reference="fp64" if exact else "fp32", file=golden)


def features(golden: GoldenFile, case: str, leaves: dict[str, torch.Tensor]) -> tuple[TextFeatures, VideoFeatures]:
    words, frames = leaves["seq_features"], leaves["visual_output"]
    text = TextFeatures(
        key=torch.arange(len(words)),
        pooled=leaves["sequence_output"].flatten(0, 1),
        tokens=words,
        n_tokens=golden[f"{case}.in.attention_mask"].flatten(0, -2).sum(1),
    )
    n_frames = golden[f"{case}.in.video_mask"].flatten(0, -2).sum(1)
    return text, VideoFeatures(torch.arange(len(frames)), frames, n_frames, torch.zeros(frames.shape[:2]))


def check_end_to_end(golden: GoldenFile, method: Method, close: Closeness) -> None:
    """From token ids and pixels through CLIP to the loss and CLIP's gradients."""
    from tvr_cli.backbones.openclip import OpenClipBackbone  # slow to import, and compact files do without

    clip = {k: v for k, v in golden.under("param.").items() if k.startswith("clip.")}
    backbone = OpenClipBackbone.from_state_dict(clip, name="golden").to(golden.dtype)
    ids, pixels = golden["e2e.in.input_ids"].flatten(0, 1), golden["e2e.in.video"].flatten(3, 4).flatten(1, 2)
    pooled, tokens = backbone.encode_text(ids)
    frames = backbone.encode_normalized(pixels)
    close.value("e2e.out.sequence_output", pooled[:, None], golden["e2e.out.sequence_output"])
    close.value("e2e.out.seq_features", tokens, golden["e2e.out.seq_features"])
    close.value("e2e.out.visual_output", frames, golden["e2e.out.visual_output"])

    leaves = {"sequence_output": pooled[:, None], "seq_features": tokens, "visual_output": frames}
    text, video = features(golden, "e2e", leaves)
    loss = method.loss(Batch(text, video), step=0, draws=RecordedDraws())
    loss.total.backward()
    close.value("e2e.out.loss_total", loss.total, golden["e2e.out.loss_total"])
    towers = dict(backbone.model.named_parameters())
    for name, expected in golden.under("e2e.grad.clip.").items():
        got = method.logit_scale.grad if name == "logit_scale" else towers[name].grad
        close.grad(f"e2e.grad.clip.{name}", got, expected)
