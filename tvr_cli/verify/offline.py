"""`tvr verify`: what needs neither weights nor the network. Minutes at most, and continuous integration runs it.

Each check must be able to fail, also where what it checks returns a constant (tests/verify holds that).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tvr_kernels import OPS, KernelUnavailable, _dispatch
from tvr_kernels._testing import Shape

from tvr_cli import clip4clip, metrics
from tvr_cli.data.truth import formats
from tvr_cli.engine.device import pick_device
from tvr_cli.engine.evaluation.moments import judge as moments
from tvr_cli.methods import base
from tvr_cli.testing import method as contract
from tvr_cli.testing.report import BrokenContract
from tvr_cli.types import Batch, Encoding, VideoFeatures
from tvr_cli.verify import miniatures, vectors
from tvr_cli.verify.miniatures import Miniature
from tvr_cli.verify.outcome import Outcome, VerifyReport, compared, report

# Odd sizes, and heads of 16 dimensions, which is the least that a fused kernel takes.
_SHAPE = Shape(T=17, V=9, F=12, L=6, D=64)
_GRADIENT_FLOOR = 1e-3  # a gradient smaller than this is compared as if it were as large
_FLOOR = 1e-5  # of a kernel's error; else twice that of the reference in the same precision


def verify(device: str = "auto", who: str | None = None) -> VerifyReport:
    """Run every check that needs nothing but this machine. Raises EnvironmentProblem for a device that is not there."""
    where = pick_device(device)
    names = base.shipped()
    outcomes = [
        *(golden(name, where) for name in names),
        *(trained(name, where) for name in names if vectors.of(name).training is not None),
        *(shifted(name) for name in names),
        *counting(),
        fair_judge(),
        *(judged_moments(one) for one in miniatures.ALL),
        *(kernel(op, form, where) for op in OPS for form in _dispatch.implementations(op) if form != "reference"),
    ]
    protocol = {"what": "methods, judges and kernels against vectors that are shipped", "methods": ", ".join(names)}
    return report([], outcomes, protocol=protocol, hashes={}, device=where, who=who)


def golden(name: str, device: torch.device) -> Outcome:
    """Hold a method's scores against those of its authors' code, or against scores by hand."""
    vector = vectors.of(name)
    # cuDNN's LSTM would round to TF32, which is the precision of a device and no question of the method.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        method = vector.method.to(device)
        text = method.encode_text(vector.text.to(str(device)))
        video = _encoded(method, vector.video.to(str(device)), vector.noise)
        found = _scores(method, text, video, vector.sigma)
    allowed = vector.tolerance * vector.expected.abs().clamp_min(1.0)
    return compared(f"scores of {name}", found, vector.expected, allowed, f"{vector.source}, {vector.line}")


def trained(name: str, device: torch.device) -> Outcome:
    """Hold the loss of a method and its gradients against those of its authors' code, for one step of training."""
    step = vectors.of(name).training
    assert step is not None, "the caller asked for a method that has one"
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        loss, gradients = _step(step, device)
    found, expected, allowed = [loss], [step.expected.double()], [_FLOOR * step.expected.abs().clamp_min(1.0).double()]
    for key, reference in step.gradients.items():
        largest, norm = reference[0].double(), reference[1].double()
        got = gradients[key] if (rows := step.rows[key]) is None else gradients[key][:rows]
        flat = got.double().cpu().flatten()
        first = reference[2 : 2 + min(4, len(flat))].double()
        found += [flat.abs().max(), flat.norm(), *flat[:4]]
        expected += [largest, norm, *first]
        limit = step.tolerance * largest.clamp_min(_GRADIENT_FLOOR)
        allowed += [limit, step.tolerance * norm.clamp_min(_GRADIENT_FLOOR), *[limit] * len(first)]
    source = f"{vectors.of(name).source}, {step.line}"
    what = f"loss and {len(step.gradients)} gradients of {name}"
    return compared(what, torch.stack(found), torch.stack(expected), torch.stack(allowed), source)


def _step(step: vectors.Training, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and its gradients; zeros where nothing depends on what is asked for."""
    method = step.method.to(device).train()
    text, video = step.text.to(str(device)), step.video.to(str(device))
    given = {"text.pooled": text.pooled, "text.tokens": text.tokens, "video.frames": video.frames}
    given["video.patches"] = video.patches
    leaves = {name: x.clone().requires_grad_() for name, x in given.items() if x is not None}
    text = replace(text, pooled=leaves["text.pooled"], tokens=leaves.get("text.tokens"))
    video = replace(video, frames=leaves["video.frames"], patches=leaves.get("video.patches"))
    draws = vectors.Recorded({name: x.to(device) for name, x in step.draws.tensors.items()})
    loss = method.loss(Batch(text, video), step=0, draws=draws).total
    wanted = {**dict(method.named_parameters()), **leaves}
    asked = [wanted[name] for name in step.gradients]
    if not loss.requires_grad:
        return loss.detach().double().cpu(), {name: torch.zeros_like(wanted[name]) for name in step.gradients}
    found = torch.autograd.grad(loss, asked, allow_unused=True)
    each = zip(step.gradients, asked, found, strict=True)
    return loss.detach().double().cpu(), {n: torch.zeros_like(x) if g is None else g for n, x, g in each}


def shifted(name: str) -> Outcome:
    """Permute, remove and regroup the captions: the score of a pair must not change."""
    what = f"captions shifted, {name}"
    try:
        contract.a_pair_keeps_its_score_whatever_captions_are_asked(name)
    except BrokenContract as e:
        cause = "a clip that is pooled with its own caption in place of the query, or scores that look at the batch"
        return Outcome(name=what, status="FAIL", detail=str(e), cause=cause, source=_SHIFT)
    return Outcome(name=what, status="PASS", detail="the score of each pair stays as it is", source=_SHIFT)


_SHIFT = "a property, no number: docs/evaluation.md, conditioning on the wrong caption"


def counting() -> list[Outcome]:
    """Hold the counting of older code against the numbers that this code gives on two matrices and a grouped one."""
    gare, eagle = _matrices("counting-gare"), _matrices("counting-eaglenet")
    numbers = ("R@1", "R@5", "R@10", "MdR", "MnR")
    found = []
    for side in ("t2v", "v2t"):
        got = _squared(gare["metrics.sim"], side)
        with_fifty = (*numbers[:3], "R@50", *numbers[3:])
        found.append(_counted(f"GARE's matrix, {side}", "gare", got, with_fifty, gare[f"metrics.{side}"], 1e-9))
        got = _squared(eagle["metrics/square"], side)
        found.append(_counted(f"EagleNet's matrix, {side}", "eaglenet", got, numbers, eagle[f"metrics/square_{side}"]))
    counts = eagle["metrics/multi_counts"]
    grouped: Any = clip4clip.evaluate(eagle["metrics/multi_sim"], np.repeat(np.arange(len(counts)), counts))
    for side in ("t2v", "v2t"):
        expected = eagle[f"metrics/multi_{side}"]  # in float32
        found.append(_counted(f"EagleNet's groups, {side}", "eaglenet", grouped[side], numbers, expected, 1e-4))
    return found


def fair_judge() -> Outcome:
    """Hold the referee against the example of docs/evaluation.md, which a person can compute by eye."""
    scores = np.array(_EXAMPLE)
    video = np.repeat(np.arange(4), 2)
    forward, backward = metrics.text_to_video(scores, video), metrics.video_to_text(scores, video)
    t2v, v2t = metrics.summary(forward), metrics.summary(backward)
    found = torch.tensor([t2v["R@1"], t2v["MnR"], t2v["MdR"], t2v["MRR"], v2t["R@1"], v2t["MnR"]], dtype=torch.float64)
    expected = torch.tensor([68.75, 1.4375, 1.0, 6.583333333 / 8, 75.0, 1.25], dtype=torch.float64)
    source = "by hand: docs/evaluation.md, the example, captions 0 to 7"
    return compared("the referee's counting", found, expected, torch.full_like(expected, 1e-6), source)


# Rows are captions, two a video; caption 3 ties with a wrong video.
_EXAMPLE = [
    [0.90, 0.30, 0.20, 0.10], [0.40, 0.60, 0.20, 0.10], [0.20, 0.80, 0.30, 0.45], [0.50, 0.50, 0.40, 0.48],
    [0.10, 0.20, 0.70, 0.30], [0.60, 0.40, 0.30, 0.20], [0.10, 0.15, 0.18, 0.25], [0.30, 0.20, 0.10, 0.44],
]  # fmt: skip


def judged_moments(of: Miniature) -> Outcome:
    """Hold the judge of moments, from files on, against numbers that were worked out by hand."""
    report = moments.judge_file(formats.read(of.truth_file), of.answers_file)
    values = {one.name: one.value for one in report.measures}
    blind = {(prior, one.name): value for one in report.measures for prior, value in one.priors.items()}
    keys = [(prior, name) for prior, numbers in of.priors.items() for name in numbers]
    found = [*(values.get(name) for name in of.expected), *(blind.get(key) for key in keys)]
    expected = [*of.expected.values(), *(of.priors[prior][name] for prior, name in keys)]
    got = torch.tensor([math.nan if value is None else value for value in found], dtype=torch.float64)
    want = torch.tensor(expected, dtype=torch.float64)
    source = f"by hand, by the rule of {of.source}: {of.how}"
    return compared(f"moments counted, {of.folder}", got, want, torch.full_like(want, 1e-9), source)


def kernel(op: str, form: str, device: torch.device) -> Outcome:
    """Hold one form of an op against its equation in float64 (`reference.py`), on a device, at odd sizes."""
    name = f"kernel {op}, {form}"
    case = importlib.import_module(f"tvr_kernels.{op}.bench").case(_SHAPE, str(device))
    score = importlib.import_module(f"tvr_kernels.{op}").score
    text, video, weights = case.sides(torch.float32)
    fits, why = _dispatch.supports("score", op, form, text, video, weights)
    if not fits:
        return Outcome(name=name, status="LEFT OUT", detail=f"it cannot run here: {why}")
    exact = score(*case.sides(torch.float64), implementation="reference")
    plain = score(text, video, weights, implementation="reference")
    try:
        found = score(text, video, weights, implementation=form)
    except KernelUnavailable as e:
        return Outcome(name=name, status="LEFT OUT", detail=f"it cannot run here: {e}")
    allowed = max(_FLOOR, 2 * float((plain.double() - exact).abs().max()))
    source = f"the equation, tvr_kernels/{op}/reference.py in float64, itself held by the scores above"
    return compared(name, found, exact, torch.full_like(exact, allowed), source)


# ------------------------------------------------------------------------------------------------------------ private


def _scores(method: base.Method, text: Encoding, video: Encoding, sigma: Tensor | None) -> Tensor:
    if sigma is None:
        return method.score(text, video)
    scored: Tensor = method.score_with(text, video, sigma.to(text["text"].device))  # type: ignore[operator]
    return scored


def _encoded(method: base.Method, video: VideoFeatures, noise: Tensor | None) -> Encoding:
    if noise is None:
        return method.encode_video(video)
    encoded: Encoding = method.encode_with(video, noise.to(video.frames.device))  # type: ignore[operator]
    return encoded


def _squared(matrix: np.ndarray, side: str) -> dict[str, float]:
    return clip4clip.square(np.ascontiguousarray(matrix if side == "t2v" else matrix.T))[0]


def _counted(
    name: str, whose: str, found: dict[str, float], keys: Sequence[str], expected: np.ndarray, allowed: float = 1e-6
) -> Outcome:
    """Compare the numbers under `keys` with the first ones of a committed output."""
    got = torch.tensor([found[key] for key in keys], dtype=torch.float64)
    want = torch.from_numpy(expected[: len(keys)].astype(np.float64))
    source = f"{base.load_class(whose).fidelity}, tests/golden/metrics/{whose}.safetensors"
    return compared(f"clip4clip counting, {name}", got, want, torch.full_like(want, allowed), source)


def _matrices(name: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    return dict(load((vectors.FOLDER / f"{name}.safetensors").read_bytes()))
