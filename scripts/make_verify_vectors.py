"""Cut the vectors that `tvr verify` ships from the committed golden files: parameters, inputs and scores of one case.

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
import test_golden_wti as wti
import test_golden_xclip as xclip
import test_golden_xpool as xpool
from golden import COMMITTED, GoldenFile, load

from tvr_cli.methods.base import Method
from tvr_cli.methods.clip4clip_seq import TABLE
from tvr_cli.types import TextFeatures, VideoFeatures
from tvr_cli.verify.vectors import FOLDER

FROM_FLOAT64 = 1e-5  # float32 of ours against float64 of theirs: a chain of a few hundred terms
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


MAKERS = {
    "gare": of_gare,
    "glccl": of_glccl,
    "tcmgc": of_tcmgc,
    "dmae": of_dmae,
    "eaglenet": of_eaglenet,
    "clip4clip_seq": of_clip4clip_seq,
    "xpool": of_xpool,
    "tmass": of_tmass,
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
    return save(found, metadata={"about": json.dumps(said, sort_keys=True)})


if __name__ == "__main__":
    for method in MAKERS:
        (FOLDER / f"{method}.safetensors").write_bytes(packed(method))
    for name in ("gare", "eaglenet"):  # matrices and the old counting's numbers, by the authors' code
        (FOLDER / f"counting-{name}.safetensors").write_bytes(
            (COMMITTED / "metrics" / f"{name}.safetensors").read_bytes()
        )
