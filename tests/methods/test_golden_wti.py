"""WTI against the outputs of DRL's code, every variant of a file, through the reference and the folded form.

The authors ran in float64 and float32; outputs of the former are stored as such, so float64 must agree to 1e-10.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from golden import Closeness, GoldenFile, RecordedDraws, cases, load
from tvr_kernels.wti import options as kernel_options

from tvr_cli.methods import wti
from tvr_cli.nn.temporal import frame_positions
from tvr_cli.types import Batch, Sizes, TextFeatures, VideoFeatures

FORMS = ("reference", "folded")
DECORRELATION = {0: "off", 1: "matched", 2: "matched", 3: "weighted"}
LOSS_PARTS = {"loss_t2v": "t2v", "loss_v2t": "v2t", "loss_nce": "contrastive", "loss_cdcr": "cdcr"}


def variants(golden: GoldenFile) -> list[str]:
    """Return the variants of which the file has scores (and, for the third architecture, parameters)."""
    return [name for name in golden.config["variants"] if f"{prefix(name)}eval.out.sim" in golden]


def prefix(variant: str) -> str:
    """The primary variant's names have none."""
    return "" if variant == "primary" else f"{variant}."


def found(needs: str = "") -> list:
    """Return pytest params (path, variant, dtype) of the variants that have a tensor of this ending."""
    out = []
    for name, path in cases("wti"):
        for label, dtype in (("fp32", torch.float32), ("fp64", torch.float64)):
            golden = load(path, dtype)
            out += [
                pytest.param(path, v, dtype, id=f"{name}-{v}-{label}")
                for v in variants(golden)
                if golden.has(f"{prefix(v)}{needs}")
            ]
    return out


def build(golden: GoldenFile, variant: str) -> tuple[wti.Method, bool]:
    """Return the method of a variant with its parameters, and whether the temporal transformer is in the file."""
    options = golden.config["variants"][variant]
    state = golden.under("param.")
    own = golden.under(f"param.arch{options['arch']}.")
    if own:
        state = {k: v for k, v in state.items() if "_weight_fc." not in k} | own
    layers = 1 + max((int(k.split(".")[2]) for k in state if k.startswith("transformerClip.")), default=-1)
    temporal = options["agg"] == "seqTransf" and layers > 0
    config = wti.Method.Config(
        interaction=options["interaction"],
        weight_layers=options["arch"] or 2,
        temporal="transformer" if temporal else "none",
        temporal_layers=layers or 4,
        decorrelation=DECORRELATION[options["cdcr"]],
        decorrelation_weight=golden.config["cdcr_lambda"],
        diagonal_weight=options["cdcr_alpha1"],
        off_diagonal_weight=options["cdcr_alpha2"],
    )
    frames, words = golden["train.in.video_feat"].shape[1], golden["train.in.text_feat"].shape[1]
    method = wti.Method(config, Sizes(golden.config["D"], frames, words))
    if temporal:
        method.frame_position_embeddings = frame_positions(*reversed(state["frame_position_embeddings.weight"].shape))
        for block in method.transformerClip.resblocks:
            block.attn.heads = golden.config["heads_temporal"]
    state["logit_scale"] = state.pop("clip.logit_scale")
    wanted = set(method.state_dict())
    method.load_state_dict({k: v for k, v in state.items() if k in wanted})
    return method.to(golden.dtype), temporal or options["agg"] == "None"


def inputs(golden: GoldenFile, stage: str, whole: bool) -> tuple[TextFeatures, VideoFeatures, dict[str, torch.Tensor]]:
    """Return features and their leaves. whole: from CLIP's frames, else from those behind the temporal transformer."""
    frames = golden[f"{stage}.in.video_feat" if whole else f"{stage}.out.frames_temporal"]
    leaves = {"text_feat": golden[f"{stage}.in.text_feat"], "video_feat": frames}
    leaves = {name: x.clone().requires_grad_() for name, x in leaves.items()}
    words, n_words = leaves["text_feat"], golden[f"{stage}.in.text_mask"].sum(1)
    end = words[torch.arange(len(words)), n_words - 1]
    text = TextFeatures(torch.arange(len(words)), end, words, n_words)
    n_frames = golden[f"{stage}.in.video_mask"].sum(1)
    return text, VideoFeatures(torch.arange(len(frames)), leaves["video_feat"], n_frames, n_frames * 0.0), leaves


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("path", "variant", "dtype"), found())
def test_golden_wti_scores(path, variant, dtype, form, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden = load(path, dtype)
    method, whole = build(golden, variant)
    close = Closeness("wti", dtype, file=golden)
    for stage, scale in (("train", method.logit_scale.exp()), ("eval", 1.0)):
        text, video, _ = inputs(golden, stage, whole)
        got = scale * method.score(method.encode_text(text), method.encode_video(video))
        close.value(f"{prefix(variant)}{stage}.out.sim", got, golden[f"{prefix(variant)}{stage}.out.sim"])
        assert got.dtype == dtype
    if method.config.temporal == "transformer":
        for stage in ("train", "eval"):
            _, video, _ = inputs(golden, stage, whole)
            z = method.contextualize(video.frames, video.mask())
            close.value(f"{stage}.out.frames_temporal", z, golden[f"{stage}.out.frames_temporal"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("path", "variant", "dtype"), found())
def test_golden_wti_loss_and_gradients(path, variant, dtype, form, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden = load(path, dtype)
    method, whole = build(golden, variant)
    text, video, leaves = inputs(golden, "train", whole)
    loss = method.loss(Batch(text, video), step=0, draws=RecordedDraws())
    loss.total.backward()

    close, of = Closeness("wti", dtype, file=golden), f"{prefix(variant)}train."
    close.value(f"{of}out.loss_total", loss.total, golden[f"{of}out.loss_total"])
    for name, part in LOSS_PARTS.items():
        assert (part in loss.parts) == (f"{of}out.{name}" in golden)
        if part in loss.parts:
            close.value(f"{of}out.{name}", loss.parts[part], golden[f"{of}out.{name}"])

    parameters = dict(method.named_parameters())
    for name, expected in golden.under(f"{of}grad.").items():
        if name == "in.video_feat" and not whole:
            continue  # the file's is in front of the temporal transformer
        got = leaves[name[3:]].grad if name.startswith("in.") else parameters[name.removeprefix("clip.")].grad
        if name in method.dead():
            close.zero(f"{of}grad.{name}", got)
        else:
            close.grad(f"{of}grad.{name}", got[: len(expected)] if expected.dim() else got, expected)


@torch.no_grad()
@pytest.mark.parametrize(("path", "variant", "dtype"), [p for p in found() if p.values[1] == "primary"])
def test_golden_wti_pads_win_where_all_cosines_are_negative(path, variant, dtype):
    """Q2: the file's evaluation has such words in every caption, so that keeping pads from winning changes scores."""
    golden = load(path, dtype)
    method, whole = build(golden, variant)
    text, video, _ = inputs(golden, "eval", whole)
    method.config = dataclasses.replace(method.config, mask_padding=True)
    assert method._options == kernel_options(mask_padding=True)
    got = method.score(method.encode_text(text), method.encode_video(video))
    assert (got - golden["eval.out.sim"]).abs().max() > 1e-3


def test_golden_wti_files_name_their_options():
    """What `build` reads of a file's metadata is there, so that no variant runs with a default by mistake."""
    for _, path in cases("wti"):
        golden = load(path, torch.float32)
        assert {"variants", "cdcr_lambda", "heads_temporal", "D"} <= set(golden.config), path
        keys = {"interaction", "agg", "arch", "cdcr", "cdcr_alpha1", "cdcr_alpha2"}
        assert all(keys <= set(v) for v in golden.config["variants"].values()), json.dumps(golden.config["variants"])
