"""Score every golden case in fp32 through the Triton kernels; run by `test_golden_triton.py` in a process of its own.


One JSON line a case: {"method", "case", "compared"}; a case that the kernel refuses carries its reason instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import test_golden_dmae as dmae
import test_golden_eaglenet as eaglenet
import test_golden_gare as gare
import test_golden_glccl as glccl
import test_golden_tcmgc as tcmgc
import test_golden_wti as wti
import test_golden_xclip as xclip
import torch
from golden import cases, cases_with, load
from golden_inputs import closeness, features, inputs
from tvr_kernels._dispatch import KernelUnavailable

FP32 = torch.float32


def gare_cases(path) -> Iterator[tuple[str, Callable[[], None]]]:
    golden = load(path, FP32)

    def check() -> None:
        method = gare.build(golden)
        text = method.encode_text(gare.text_features(golden["feat.cls"]))
        video = method.encode_video(gare.video_features(golden["feat.video_feat"], golden["in.video_mask"]))
        gare.closeness(FP32).value("eval_sq.sim", method.score(text, video), golden["eval_sq.sim"])

    yield "eval_sq", check


def glccl_cases(path) -> Iterator[tuple[str, Callable[[], None]]]:
    golden = load(path, FP32)
    for case in cases_with(".out.sim")(path):

        def check(case: str = case) -> None:
            method, text, video = glccl.encoded(golden, case)
            expected = golden[f"{case}.out.sim"]
            closeness("glccl", golden, case).value(case, method.score(text, video), expected)

        yield case, check


def tcmgc_cases(path) -> Iterator[tuple[str, Callable[[], None]]]:
    golden = load(path, FP32)
    for case in cases_with(".out.sim")(path):
        if f"{case}.noise.dropout_video" in golden:
            continue  # dropout acts on every pair and feature: there is no kernel for it, in training only

        def check(case: str = case) -> None:
            method, shared = tcmgc.build(golden, case), tcmgc.source(golden, case)
            text, video = features(golden, shared, inputs(golden, shared))
            scores = method.score(method.encode_text(text), method.encode_video(video))
            closeness("tcmgc", golden, shared).value(case, scores, golden[f"{case}.out.sim"])

        yield case, check


def dmae_cases(path) -> Iterator[tuple[str, Callable[[], None]]]:
    golden = load(path, FP32)
    for variant, options in dmae.variants(golden).items():

        def check(variant: str = variant, options: dict = options) -> None:
            read = dmae.read_inputs(golden, variant, options)
            scores = dmae.encoded_scores(dmae.build(golden, options, read), read)
            dmae.Closeness("dmae", FP32).value(variant, scores, golden[f"{variant}.sim_eval"])

        yield variant, check


def eaglenet_cases(path) -> Iterator[tuple[str, Callable[[], None]]]:
    golden = load(path, FP32)
    for case in cases_with("/eval/sim")(path):

        def check(case: str = case) -> None:
            stage, method = f"{case}/eval", eaglenet.build(golden, case)
            text, video = eaglenet.features(golden, stage)
            sigma = golden[f"{stage}/noise/sigma"].unflatten(1, (len(text), len(video)))
            scores = method.score_with(method.encode_text(text), method.encode_video(video), sigma, "triton")
            eaglenet.closeness(FP32).value(stage, scores, golden[f"{stage}/sim"])

        yield case, check


def wti_cases(path) -> Iterator[tuple[str, Callable[[], None]]]:
    golden = load(path, FP32)
    for variant in wti.variants(golden):
        if golden.config["variants"][variant]["interaction"] == "dp":
            continue  # a product of two matrices, not an op

        def check(variant: str = variant) -> None:
            method, whole = wti.build(golden, variant)
            text, video, _ = wti.inputs(golden, "eval", whole)
            name = f"{wti.prefix(variant)}eval.out.sim"
            scores = method.score(method.encode_text(text), method.encode_video(video))
            wti.Closeness("wti", FP32, file=golden).value(name, scores, golden[name])

        yield variant, check


def xclip_cases(path) -> Iterator[tuple[str, Callable[[], None]]]:
    golden = load(path, FP32)
    for case in cases_with(".out.sim")(path):

        def check(case: str = case) -> None:
            method, _ = xclip.build(golden, case)
            text, video, _ = xclip.inputs(golden, case)
            scores = method.score(method.encode_text(text), method.encode_video(video))
            xclip.Closeness("xclip", FP32, file=golden).value(case, scores, golden[f"{case}.out.sim"])

        yield case, check


METHODS = {
    "eaglenet": eaglenet_cases,
    "gare": gare_cases,
    "glccl": glccl_cases,
    "tcmgc": tcmgc_cases,
    "dmae": dmae_cases,
    "wti": wti_cases,
    "xclip": xclip_cases,
}


@torch.no_grad()
def main() -> None:
    for name, of_file in METHODS.items():
        for label, path in cases(name):
            for case, check in of_file(path):
                row = {"method": name, "case": f"{label}-{case}"}
                try:
                    check()
                    row["compared"] = True
                except KernelUnavailable as e:
                    row["refused"] = str(e)
                print(json.dumps(row))


if __name__ == "__main__":
    main()
