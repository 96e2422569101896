"""`tvr verify` without weights: green as it is, and each check red where what it checks is broken or a constant."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tvr_kernels import OPS, _dispatch

from tvr_cli import clip4clip, metrics
from tvr_cli.data.truth import formats
from tvr_cli.data.truth.question import FORMATS
from tvr_cli.engine.evaluation.moments import protocols, segments
from tvr_cli.methods import base
from tvr_cli.testing import method as contract
from tvr_cli.types import LossOutput
from tvr_cli.verify import miniatures, offline, vectors
from tvr_cli.verify.outcome import compared, status_of

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
METHODS = base.shipped()
FORMS = [(op, form) for op in OPS for form in _dispatch.implementations(op) if form == "folded"]


@pytest.mark.parametrize("name", METHODS)
def test_scores_of_a_method_are_those_of_others(name: str) -> None:
    found = offline.golden(name, CPU)
    assert found.status == "PASS", found


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_scores_a_constant_or_the_captions_moved_by_one_fails(name: str, monkeypatch: Any) -> None:
    real = offline._scores
    monkeypatch.setattr(offline, "_scores", lambda *given: torch.full_like(real(*given), 0.5))
    assert offline.golden(name, CPU).status == "FAIL"
    monkeypatch.setattr(offline, "_scores", lambda *given: real(*given).roll(1, 0))
    assert offline.golden(name, CPU).status == "FAIL"
    monkeypatch.setattr(offline, "_scores", lambda *given: real(*given)[:-1])
    assert "expected the shape" in offline.golden(name, CPU).detail


TRAINED = [name for name in METHODS if vectors.of(name).training is not None]


def test_most_methods_have_a_step_of_training() -> None:
    without = set(METHODS) - set(TRAINED) - vectors.BY_HAND.keys()
    assert without == {"glccl", "xclip"}
    for name in TRAINED:
        step = vectors.of(name).training
        assert step is not None and step.gradients and 0 < step.tolerance <= 1e-4
        assert (ROOT / step.line.split()[0]).is_file() and float(step.expected) != 0
        assert any(float(x[0]) > 0 for x in step.gradients.values()), "gradients of zero would prove nothing"


@pytest.mark.parametrize("name", TRAINED)
def test_loss_and_gradients_of_a_method_are_those_of_its_authors(name: str) -> None:
    found = offline.trained(name, CPU)
    assert found.status == "PASS", found


@pytest.mark.parametrize("name", TRAINED)
def test_a_method_that_returns_a_constant_loss_or_another_gradient_fails(name: str, monkeypatch: Any) -> None:
    method = base.load_class(name)
    real = method.loss
    with monkeypatch.context() as patch:
        patch.setattr(method, "loss", lambda self, batch, **_: LossOutput(torch.tensor(0.5), {}))
        assert offline.trained(name, CPU).status == "FAIL"
    right = vectors.of(name).training
    assert right is not None
    with monkeypatch.context() as patch:  # the right number, of which nothing can be learned
        patch.setattr(method, "loss", lambda self, batch, **_: LossOutput(right.expected, {}))
        found = offline.trained(name, CPU)
        assert found.status == "FAIL" and "values are off" in found.detail

    def scaled(self: Any, batch: Any, **how: Any) -> LossOutput:
        out = real(self, batch, **how)
        return LossOutput(out.total.detach() + 1.01 * (out.total - out.total.detach()), out.parts)

    monkeypatch.setattr(method, "loss", scaled)
    assert offline.trained(name, CPU).status == "FAIL", "gradients that are off by a hundredth"


def test_scores_are_held_in_full_float32_and_the_setting_is_given_back(monkeypatch: Any) -> None:
    real, seen = offline._scores, []

    def watched(*given: Any) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return real(*given)

    monkeypatch.setattr(offline, "_scores", watched)
    before = torch.backends.cudnn.allow_tf32
    offline.golden("clip4clip_seq", CPU)
    assert before and seen == [False] and torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("name", METHODS)
def test_every_vector_has_a_source_a_line_and_a_tolerance(name: str) -> None:
    vector = vectors.of(name)
    assert vector.source and vector.line and 0 < vector.tolerance <= 2e-5
    assert vector.expected.std() > 0, "a constant would prove nothing"
    if name not in vectors.BY_HAND:
        assert (ROOT / vector.line.split()[0]).is_file()
        assert vector.source == base.load_class(name).fidelity


@pytest.mark.parametrize("name", sorted(set(METHODS) - vectors.BY_HAND.keys()))
def test_a_shipped_vector_is_what_the_script_cuts_from_the_golden_file(name: str) -> None:
    spec = importlib.util.spec_from_file_location("make_verify_vectors", ROOT / "scripts" / "make_verify_vectors.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(script)
    finally:
        sys.path[:] = path
    assert script.packed(name) == (vectors.FOLDER / f"{name}.safetensors").read_bytes()
    for which in ("gare", "eaglenet"):
        shipped = (vectors.FOLDER / f"counting-{which}.safetensors").read_bytes()
        assert shipped == (ROOT / "tests" / "golden" / "metrics" / f"{which}.safetensors").read_bytes()


def test_captions_shifted_pass_and_a_method_that_pools_by_its_own_caption_fails(monkeypatch: Any) -> None:
    assert offline.shifted("text_guided").status == "PASS"
    real = contract.scores

    def by_own_caption(method: Any, text: Any, video: Any) -> torch.Tensor:
        """Each clip's column is scored by the caption that stands beside it."""
        found = real(method, text, video)
        return found if len(text) != len(video.key) else found + found.diagonal()

    monkeypatch.setattr(contract, "scores", by_own_caption)
    found = offline.shifted("text_guided")
    assert found.status == "FAIL" and found.cause is not None and "its own caption" in found.cause


def test_captions_shifted_fail_where_every_score_is_the_same(monkeypatch: Any) -> None:
    real = contract.scores
    monkeypatch.setattr(contract, "scores", lambda *given: torch.ones_like(real(*given)))
    found = offline.shifted("mean")
    assert found.status == "FAIL" and "one value for all" in found.detail


def test_the_old_counting_is_that_of_its_authors_and_another_one_fails(monkeypatch: Any) -> None:
    assert {found.status for found in offline.counting()} == {"PASS"}
    same = dict.fromkeys(("R@1", "R@5", "R@10", "R@50", "MdR", "MnR"), 50.0)
    monkeypatch.setattr(clip4clip, "square", lambda scores: (same, None))
    monkeypatch.setattr(clip4clip, "evaluate", lambda *_: {"t2v": same, "v2t": same})
    assert {found.status for found in offline.counting()} == {"FAIL"}


def test_the_referee_counts_as_a_person_does_and_a_constant_one_fails(monkeypatch: Any) -> None:
    assert offline.fair_judge().status == "PASS"
    same = dict.fromkeys(("R@1", "MnR", "MdR", "MRR"), 1.0)
    monkeypatch.setattr(metrics, "summary", lambda ranks: same)
    assert offline.fair_judge().status == "FAIL"


@pytest.mark.parametrize("of", miniatures.ALL, ids=lambda of: of.folder)
def test_moments_are_counted_as_by_hand_and_a_constant_or_answers_moved_by_one_fail(
    of: miniatures.Miniature, monkeypatch: Any
) -> None:
    assert offline.judged_moments(of).status == "PASS"
    real = protocols.overlaps
    with monkeypatch.context() as patch:
        patch.setattr(protocols.Counted, "value", 50.0)
        assert offline.judged_moments(of).status == "FAIL"
    with monkeypatch.context() as patch:
        patch.setattr(protocols.Counted, "value", math.nan)  # a number that no query has
        assert offline.judged_moments(of).status == "FAIL"
    if of.folder not in ("didemo", "tvr-ranking"):  # which count by overlaps of their own
        monkeypatch.setattr(protocols, "overlaps", lambda found, true: real(found, true)[::-1])
        assert offline.judged_moments(of).status == "FAIL"


def test_a_query_blind_prior_of_moments_that_is_off_fails(monkeypatch: Any) -> None:
    (of,) = (one for one in miniatures.ALL if one.priors)
    monkeypatch.setattr(segments, "by_frequency", lambda annotations: segments.ALL)
    found = offline.judged_moments(of)
    assert found.status == "FAIL" and found.detail.startswith("1 of 6"), found


def test_every_protocol_of_moments_has_a_miniature_that_names_its_source() -> None:
    assert {formats.read(of.truth_file).format for of in miniatures.ALL} == set(FORMATS)
    assert all(of.source in str(offline.judged_moments(of).source) for of in miniatures.ALL)


def test_the_example_is_that_of_the_page() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    for i, row in enumerate(offline._EXAMPLE):
        assert f"| {i} | {i // 2} | " + " | ".join(f"{x:.2f}" for x in row) + " |" in page


@pytest.mark.parametrize(("op", "form"), FORMS)
def test_a_kernel_equals_its_equation_and_a_constant_one_fails(op: str, form: str, monkeypatch: Any) -> None:
    assert offline.kernel(op, form, CPU).status == "PASS"
    module = _dispatch.load(op, form)
    monkeypatch.setattr(module, "score", lambda text, video, weights: torch.full((17, 9), 0.3))
    assert offline.kernel(op, form, CPU).status == "FAIL"


def test_a_kernel_that_cannot_run_here_is_left_out_and_not_passed() -> None:
    found = offline.kernel("gare", "triton", CPU)
    assert found.status == "LEFT OUT" and "CUDA" in found.detail


def test_nothing_checked_is_never_a_pass() -> None:
    left = offline.kernel("gare", "triton", CPU)
    assert status_of([]) == "LEFT OUT" and status_of([left]) == "LEFT OUT"
    good = compared("a", torch.ones(1), torch.ones(1), torch.ones(1), "b")
    bad = compared("a", torch.full((1,), torch.nan), torch.ones(1), torch.ones(1), "b")
    assert status_of([good, left]) == "PASS" and status_of([good, bad]) == "FAIL"
