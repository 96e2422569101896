"""Cut the vectors that `tvr verify` ships from the committed golden files: parameters, inputs and scores of one case,
and of most methods one step of training: inputs, draws, the loss, and of each gradient its size and first entries.

    python scripts/make_verify_vectors.py

The numbers under `expected` are the authors' own (tests/golden, made by their code; its README says how); nothing is
computed here. A test holds each file equal to what this writes.
"""

# ruff: noqa: E402 - the tests are found on a path of their own
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "methods")]

import test_golden_clip4clip_seq as clip4clip_seq
import test_golden_dmae as dmae
import test_golden_eaglenet as eaglenet
import test_golden_gare as gare
import test_golden_glccl as glccl
import test_golden_tcmgc as tcmgc
import test_golden_tmass as tmass
import test_golden_ts2net as ts2net
import test_golden_wti as wti
import test_golden_xclip as xclip
import test_golden_xpool as xpool
from golden import COMMITTED, GoldenFile, load

from tvr_cli.methods.base import Method
from tvr_cli.methods.clip4clip_seq import TABLE
from tvr_cli.types import TextFeatures, VideoFeatures
from tvr_cli.verify.vectors import FOLDER, MaskedFeatures

FROM_FLOAT64 = 1e-5  # float32 of ours against float64 of theirs: a chain of a few hundred terms
GRADIENTS = 1e-4  # of the largest entry, as the tests have it (GRAD_TOLERANCE)
SHARP = 2e-5  # softmaxes at temperature 0.01 amplify rounding; an independent port reached 1.6e-5 and 2e-5


def tensors(method: Method, **others: Tensor) -> dict[str, Tensor]:
    """Return the tensors of a vector: the method's state under `state.`, the others as they are."""
    state = {f"state.{name}": x for name, x in method.state_dict().items()}
    return {name: x.detach().contiguous().clone() for name, x in {**state, **others}.items()}


def about(method: Method, case: str, tolerance: float) -> dict[str, Any]:
    """Return what a vector says of itself. fidelity names the commit of the authors' code that ran."""
    options = {name: getattr(method.config, name) for name in method.config.__dataclass_fields__}
    sizes = {name: getattr(method.sizes, name) for name in ("dim", "frames", "words")}
    return {"options": options, "sizes": sizes, "case": case, "tolerance": tolerance, "source": method.fidelity}


def features(text: TextFeatures, video: VideoFeatures) -> dict[str, Tensor]:
    """Return the tensors of what a method is given."""
    given = {"text.pooled": text.pooled, "video.frames": video.frames, "video.real": video.mask()}
    if video.patches is not None:
        given["video.patches"] = video.patches
    return given if text.tokens is None else {**given, "text.tokens": text.tokens, "text.n_tokens": text.n_tokens}


def of_gare() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden = read("gare", "head")
    method = gare.build(golden)
    found = tensors(
        method,
        **{"text.pooled": golden["head.cls"], "video.frames": golden["head.video_feat"]},
        **{"video.real": golden["head.video_mask"].bool(), "expected": golden["head.sim"]},
    )
    return found, about(method, "gare/head.safetensors head.sim", FROM_FLOAT64)


def of_pooling(name: str, golden: GoldenFile, method: Method) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """GLCCL and TC-MGC, from frames behind the temporal transformer, which the authors' code gave as well."""
    found = tensors(
        method,
        **{"text.pooled": golden["eval.in.sequence_output"].flatten(0, 1)},
        **{"text.tokens": golden["eval.in.seq_features"], "text.n_tokens": golden["eval.in.attention_mask"].sum(1)},
        **{"video.frames": golden["eval.out.frames_temporal"]},
        **{"video.real": golden["eval.in.video_mask"].bool(), "expected": golden["eval.out.sim"]},
    )
    return found, about(method, f"{name}/head.safetensors eval.out.sim", SHARP)


def of_glccl() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden = without_temporal(read("glccl", "head"))
    return of_pooling("glccl", golden, glccl.build(golden))


def of_tcmgc() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden = without_temporal(read("tcmgc", "head"))
    return of_pooling("tcmgc", golden, tcmgc.build(golden, "eval"))


def of_dmae() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden, variant = read("dmae", "head"), "att_wti_nfc_twm"
    options = dmae.variants(golden)[variant]
    inputs = dmae.read_inputs(golden, variant, options)
    method = dmae.build(golden, options, inputs)
    found = tensors(
        method,
        **{"text.pooled": inputs.sentence, "text.tokens": inputs.words, "text.importance": inputs.importance},
        **{"video.frames": inputs.frames, "video.real": inputs.mask, "expected": golden[f"{variant}.sim_eval"]},
    )
    return found, about(method, f"dmae/head.safetensors {variant}.sim_eval", FROM_FLOAT64)


def of_eaglenet() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden = read("eaglenet", "compact")
    method = eaglenet.build(golden, "A")
    text, video = eaglenet.features(golden, "A/eval", stored=True)
    sigma = golden["A/eval/noise/sigma"].unflatten(1, (len(text), len(video)))
    found = tensors(
        method,
        **{"text.pooled": text.pooled, "video.frames": video.frames, "sigma": sigma},
        **{"video.real": video.mask(), "expected": golden["A/eval/sim"]},
    )
    found = {name: x for name, x in found.items() if not name.startswith("state.ebm.")}  # of training alone
    return found, about(method, "eaglenet/compact.safetensors A/eval/sim", FROM_FLOAT64)


def of_clip4clip_seq() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The LSTM, a third of the transformer's size; the table of positions, which it does not read, is left out."""
    golden = read("clip4clip_seq", "head")
    method = clip4clip_seq.build(golden, "lstm")
    given = features(*clip4clip_seq.features(golden, "eval", clip4clip_seq.leaves_of(golden, "eval")))
    found = tensors(method, **given, expected=golden["seqLSTM.eval.out.sim"])
    del found[f"state.{TABLE}"]
    return found, about(method, "clip4clip_seq/head.safetensors seqLSTM.eval.out.sim", FROM_FLOAT64)


def of_xpool() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden = read("xpool", "head")
    method = xpool.build(golden, "eval")
    given = features(*xpool.features(xpool.leaves_of(golden, "eval")))
    found = tensors(method, **given, expected=golden["eval.out.sim"])
    return found, about(method, "xpool/head.safetensors eval.out.sim", FROM_FLOAT64)


def of_tmass() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden = read("tmass", "head")
    method = tmass.build(golden, "eval")
    given = features(*tmass.features(tmass.leaves_of(golden, "eval")))
    sigma = golden["eval.noise.sigma"].transpose(1, 2)  # [V, T, S, D]
    found = tensors(method, **given, sigma=sigma, expected=golden["eval.out.sim"])
    return found, about(method, "tmass/head.safetensors eval.out.sim", FROM_FLOAT64)


def of_wti() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """From frames behind the temporal transformer, which the authors' code gave as well."""
    golden = read("wti", "head")
    method, whole = wti.build(golden, "primary")
    text, video, _ = wti.inputs(golden, "eval", whole)
    found = tensors(method, **features(text, video), expected=golden["eval.out.sim"])
    return found, about(method, "wti/head.safetensors eval.out.sim", FROM_FLOAT64)


def of_xclip() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The authors' meanP, which has no temporal transformer: the file gives only directions behind that one."""
    golden, case = read("xclip", "head"), "meanP.eval"
    method, _ = xclip.build(golden, case)
    text, video, _ = xclip.inputs(golden, case)
    found = tensors(method, **features(text, video), expected=golden[f"{case}.out.sim"])
    return found, about(method, f"xclip/head.safetensors {case}.out.sim", FROM_FLOAT64)


def of_ts2net() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """With its temporal transformer: the file has nothing behind it. The noise is that of the choice of patches."""
    golden = read("ts2net", "head")
    method = ts2net.build(golden)
    text, video, noise = ts2net.features(golden, "eval", ts2net.leaves_of(golden, "eval"))
    found = tensors(method, **features(text, video), noise=noise, expected=golden["eval.out.sim"])
    return found, about(method, "ts2net/head.safetensors eval.out.sim", FROM_FLOAT64)


# ------------------------------------------------------------------------------------------------ losses and gradients


def training(
    method: Method,
    text: TextFeatures,
    video: VideoFeatures,
    expected: Tensor,
    gradients: dict[str, Tensor],
    case: str,
    draws: dict[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and words of a training step. gradients: the authors', by parameter or by `text.pooled` …

    Of a gradient its largest entry, its norm and its first four entries are kept. A compact file has the first rows of
    a large one: how many is said.
    """
    found = {f"loss.{name}": x for name, x in features(text, video).items()}
    if text.importance is not None:
        found["loss.text.importance"] = text.importance
    found |= {f"loss.draw.{name}": x for name, x in (draws or {}).items()} | {"loss.expected": expected}
    found |= {f"loss.grad.{name}": digest(x) for name, x in gradients.items()}
    found |= {f"state.{name}": x for name, x in method.state_dict().items()}
    rows = {name: len(x) if x.dim() else None for name, x in gradients.items()}
    options = {name: getattr(method.config, name) for name in method.config.__dataclass_fields__}
    sizes = {name: getattr(method.sizes, name) for name in ("dim", "frames", "words")}
    kept = {name: x.detach().contiguous().clone() for name, x in found.items()}
    return kept, {"options": options, "sizes": sizes, "case": case, "rows": rows, "gradient_tolerance": GRADIENTS}


def digest(gradient: Tensor) -> Tensor:
    """Return [6]: largest entry, norm, and the first four entries (fewer of a smaller one are followed by zeros)."""
    flat = gradient.detach().double().flatten()
    first = torch.nn.functional.pad(flat[:4], (0, 4 - len(flat[:4])))
    return torch.cat([flat.abs().max()[None], flat.norm()[None], first]).float()


def named(
    golden: GoldenFile, prefix: str, inputs: dict[str, str], method: Method, inert: str = ""
) -> dict[str, Tensor]:
    """Return the gradients below a prefix by our names. inputs: theirs of an input -> ours; others are left out."""
    found, own = {}, dict(method.named_parameters())
    for name, x in golden.under(prefix).items():
        if name in inputs:
            found[inputs[name]] = x
        elif (ours := name.removeprefix("clip.")) in own and name != inert:
            found[ours] = x
    return found


def loss_of_gare() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden, case = read("gare", "head"), "train"
    method = gare.build(golden, **gare.case_options(golden, case))
    text = gare.text_features(golden["feat.cls"])
    video = gare.video_features(golden["feat.video_feat"], golden["in.video_mask"])
    found = named(golden, f"{case}.grad.", {}, method, gare.INERT)
    found |= {
        "text.pooled": golden[f"{case}.grad_in.cls"],
        "video.frames": golden[f"{case}.grad_in.video_feat"],
    }
    draws = gare.recorded(golden, case).recorded
    return training(method, text, video, golden[f"{case}.total"], found, f"gare/head.safetensors {case}.total", draws)


def loss_of_tcmgc() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """From frames behind the temporal transformer: gradients of what stands before it are not compared."""
    golden = without_temporal(read("tcmgc", "head"))
    method = tcmgc.build(golden, "train")
    leaves = {
        "sequence_output": golden["train.in.sequence_output"],
        "seq_features": golden["train.in.seq_features"],
        "visual_output": golden["train.out.frames_temporal"],
    }
    text, video = tcmgc.features(golden, "train", leaves)
    names = {"in.sequence_output": "text.pooled", "in.seq_features": "text.tokens"}
    found = named(golden, "train.grad.", names, method)
    return training(
        method, text, video, golden["train.out.loss_total"], found, "tcmgc/head.safetensors train.out.loss_total"
    )


def loss_of_dmae() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden, variant = read("dmae", "head"), "att_wti_nfc_twm"
    options = dmae.variants(golden)[variant]
    inputs = dmae.read_inputs(golden, variant, options)
    method = dmae.build(golden, options, inputs, reference_bugs=dmae.has_bugs(options, len(inputs.sentence)))
    count = len(inputs.sentence)
    text = TextFeatures(
        torch.arange(count), inputs.sentence, inputs.words, (inputs.importance > 0).sum(1), inputs.importance
    )
    slots = torch.zeros(inputs.frames.shape[:2])
    video = MaskedFeatures(torch.arange(count), inputs.frames, inputs.mask.sum(1), slots, real=inputs.mask)
    names = {"in.text_feat": "text.pooled", "in.word_feat": "text.tokens", "in.video_feat": "video.frames"}
    found = named(golden, f"{variant}.grad.", names, method)
    return training(
        method, text, video, golden[f"{variant}.loss_total"], found, f"dmae/head.safetensors {variant}.loss_total"
    )


def loss_of_eaglenet() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden, stage = read("eaglenet", "compact"), "A/train0"
    method = eaglenet.build(golden, "A")
    batch, draws = eaglenet.replay(golden, method, "A", 0)
    found = named(golden, f"{stage}/grad/", {}, method, eaglenet.INERT)
    expected = golden[f"{stage}/loss/total"]
    case = f"eaglenet/compact.safetensors {stage}/loss/total"
    return training(method, batch.text, batch.video, expected, found, case, draws.recorded)


def loss_of_clip4clip_seq() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden = read("clip4clip_seq", "head")
    method, leaves = clip4clip_seq.build(golden, "lstm"), clip4clip_seq.leaves_of(golden, "train")
    text, video = clip4clip_seq.features(golden, "train", leaves)
    names = {"in.sequence_output": "text.pooled", "in.visual_output": "video.frames"}
    found = named(golden, "seqLSTM.train.grad.", names, method)
    expected = golden["seqLSTM.train.out.loss_total"]
    kept, said = training(
        method, text, video, expected, found, "clip4clip_seq/head.safetensors seqLSTM.train.out.loss_total"
    )
    return {name: x for name, x in kept.items() if name != f"state.{TABLE}"}, said


def loss_of_xpool() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden = read("xpool", "head")
    method = xpool.build(golden, "train", dropout=golden.config["dropout"])
    text, video = xpool.features(xpool.leaves_of(golden, "train"))
    names = {"in.text_embeds": "text.pooled", "in.video_embeds": "video.frames"}
    found = named(golden, "train.grad.", names, method, xpool.INERT)
    draws = {"pool_dropout_keep": golden["train.noise.dropout_keep"].transpose(0, 1)}
    expected = golden["train.out.loss_total"]
    return training(method, text, video, expected, found, "xpool/head.safetensors train.out.loss_total", draws)


def loss_of_tmass() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden = read("tmass", "head")
    method = tmass.build(golden, "train")
    text, video = tmass.features(tmass.leaves_of(golden, "train"))
    sigma = golden["train.noise.sigma"]
    sigma = sigma / method.config.prior_std if method.config.prior == "normal" else sigma
    draws = {"sigma": sigma, "pool_dropout_keep": golden["train.noise.dropout_keep"].transpose(0, 1)}
    names = {"in.text_embeds": "text.pooled", "in.video_embeds": "video.frames"}
    found = named(golden, "train.grad.", names, method, tmass.INERT)
    expected = golden["train.out.loss_total"]
    return training(method, text, video, expected, found, "tmass/head.safetensors train.out.loss_total", draws)


def loss_of_ts2net() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One tensor of theirs holds the frames and their patches."""
    golden = read("ts2net", "head")
    method = ts2net.build(golden)
    text, video, noise = ts2net.features(golden, "train", ts2net.leaves_of(golden, "train"))
    found = named(golden, "train.grad.", {"in.sequence_output": "text.pooled"}, method)
    tokens = golden["train.grad.in.visual_tokens"].unflatten(1, (noise.shape[1], -1))
    found |= {"video.frames": tokens[:, :, 0], "video.patches": tokens[:, :, 1:]}
    expected = golden["train.out.loss_total"]
    case = "ts2net/head.safetensors train.out.loss_total"
    return training(method, text, video, expected, found, case, {"selection": noise})


def loss_of_wti() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """From frames behind the temporal transformer, as the scores; words and sentence are one tensor of theirs."""
    golden = read("wti", "head")
    method, whole = wti.build(golden, "primary")
    text, video, _ = wti.inputs(golden, "train", whole)
    found = named(golden, "train.grad.", {}, method)
    expected = golden["train.out.loss_total"]
    return training(method, text, video, expected, found, "wti/head.safetensors train.out.loss_total")


# GLCCL's file has no frames behind its temporal transformer in training, X-CLIP's loss takes frames on both sides of
# it, and a transformer would be a megabyte.
LOSSES = {
    "gare": loss_of_gare,
    "tcmgc": loss_of_tcmgc,
    "dmae": loss_of_dmae,
    "eaglenet": loss_of_eaglenet,
    "clip4clip_seq": loss_of_clip4clip_seq,
    "xpool": loss_of_xpool,
    "tmass": loss_of_tmass,
    "ts2net": loss_of_ts2net,
    "wti": loss_of_wti,
}

MAKERS = {
    "gare": of_gare,
    "glccl": of_glccl,
    "tcmgc": of_tcmgc,
    "dmae": of_dmae,
    "eaglenet": of_eaglenet,
    "clip4clip_seq": of_clip4clip_seq,
    "xpool": of_xpool,
    "tmass": of_tmass,
    "ts2net": of_ts2net,
    "wti": of_wti,
    "xclip": of_xclip,
}


def read(method: str, name: str) -> GoldenFile:
    return load(COMMITTED / method / f"{name}.safetensors", torch.float32)


def without_temporal(golden: GoldenFile) -> GoldenFile:
    kept = {k: v for k, v in golden.tensors.items() if "transformerClip" not in k and "frame_position" not in k}
    return GoldenFile(golden.path, golden.dtype, kept, golden.config)


def packed(name: str) -> bytes:
    """Return the bytes of a method's vector."""
    found, said = MAKERS[name]()
    if name in LOSSES:
        more, said["loss"] = LOSSES[name]()
        both = found.keys() & more.keys()
        differing = [key for key in both if not torch.equal(found[key], more[key])]
        assert not differing, f"the parameters of scores and loss differ: {differing}"
        found |= more
    return save(found, metadata={"about": json.dumps(said, sort_keys=True)})


if __name__ == "__main__":
    for method in MAKERS:
        (FOLDER / f"{method}.safetensors").write_bytes(packed(method))
    for name in ("gare", "eaglenet"):  # matrices and the old counting's numbers, by the authors' code
        (FOLDER / f"counting-{name}.safetensors").write_bytes(
            (COMMITTED / "metrics" / f"{name}.safetensors").read_bytes()
        )
