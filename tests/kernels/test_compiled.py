"""The compiled CPU tier: the folded formulas in one pass, chosen where it pays, absent without numba."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import tvr_kernels
from triton_cases import sides
from tvr_kernels import _dispatch, _payoff, text_pooling, trials
from tvr_kernels._testing import ODD_SHAPES, Shape, max_error, poisoned

pytest.importorskip("numba")

# Several blocks of 64 captions, the last one not full.
SHAPES = (*ODD_SHAPES, Shape(150, 4, 12, 1, 24))
COMPILED = [op for op in tvr_kernels.OPS if "compiled" in _dispatch.implementations(op)]
# One of them in the default suite: they are slow to compile.
OPS = [pytest.param(op, marks=() if op == "text_pooling" else pytest.mark.slow) for op in COMPILED]


@pytest.mark.parametrize("op", OPS)
def test_compiled_equals_the_reference(op):
    package = importlib.import_module(f"tvr_kernels.{op}")
    for shape in SHAPES:
        exact = package.score(*sides(op, shape, torch.float64), implementation="reference")
        text, video, weights = sides(op, shape)
        text, video = ({k: poisoned(v) if v.is_floating_point() else v for k, v in d.items()} for d in (text, video))
        got = package.score(text, video, weights, implementation="compiled")

        assert got.dtype == torch.float32 and got.shape == (shape.T, shape.V)
        assert max_error(got, exact) < 2e-6, shape


def test_exp_is_exact_to_a_unit_in_the_last_place_and_ends_in_zero():
    import numpy as np
    from tvr_kernels.compiled import LANES, exp_below_max

    x = np.linspace(-90.0, 0.0, 40 * LANES, dtype=np.float32).reshape(40, LANES)
    x[0] = 0.0  # the maximum of every lane
    e = np.empty_like(x)
    work = np.empty(LANES, np.float32), np.empty(LANES, np.int32)
    exp_below_max(x, np.ones(40, bool), np.float32(1.0), e, *work)

    exact = np.exp(x.astype(np.float64))
    above = x > -87.0
    assert np.all(np.abs(e[above] / exact[above] - 1) < 2.4e-7)
    assert np.all(e[~above] < 2e-38)


@pytest.fixture
def memory(monkeypatch):
    """A memory of trials that begins empty, and a process that has measured nothing."""
    kept = {}

    class Memory:
        recall = staticmethod(lambda kind, name: kept.get(name))
        keep = staticmethod(lambda kind, name, value: kept.update({name: value}))

    monkeypatch.setattr(trials, "_memory", Memory)
    monkeypatch.setattr(_payoff, "_found", {})
    monkeypatch.setattr(_dispatch, "_broken", {})
    monkeypatch.setattr(_payoff, "_compiled_anew", lambda module: False)
    return kept


def race_won_by(name, seconds, sure=True):
    return lambda ways, default, **_: trials.Finding(name if sure else default, seconds, sure)


FEW = Shape(8, 8, 2, 1, 4)


def chosen(pairs=0, case=None):
    with _dispatch.job(pairs):
        return _dispatch.select("score", "text_pooling", *(case or sides("text_pooling", FEW)), None)[0]


def test_a_job_takes_it_from_the_measured_number_of_pairs_on(memory, monkeypatch):
    races = []
    won = race_won_by("compiled", {"folded": 64 * 9e-7, "compiled": 64 * 4e-7})
    monkeypatch.setattr(trials, "race", lambda *a, **k: races.append(a[1]) or won(*a, **k))

    assert chosen(10**6) == "folded" and "folded" not in races  # too small to measure in
    assert chosen(10**12) == "compiled"
    (found,) = next(iter(memory.values()))["cases"].values()
    assert found["from_pairs"] == pytest.approx(2 * found["load_s"] / 5e-7, abs=1)
    assert chosen(found["from_pairs"] - 1) == "folded" and chosen(found["from_pairs"]) == "compiled"
    _payoff._found.clear()  # another process
    assert chosen(found["from_pairs"] - 1) == "folded" and chosen(found["from_pairs"]) == "compiled"
    assert races.count("folded") == 1  # the GEMM has a race of its own


def test_where_it_gains_nothing_it_is_never_taken_and_the_report_says_so(memory, monkeypatch):
    monkeypatch.setattr(trials, "race", race_won_by("folded", {"folded": 1.0, "compiled": 1.0}))

    assert chosen(10**12) == "folded" and chosen(10**15) == "folded"
    assert ("text_pooling", "folded", "CPU; compiled pays never (2x4)") in _dispatch.report()


def test_an_unsure_trial_is_not_kept(memory, monkeypatch):
    monkeypatch.setattr(trials, "race", race_won_by("compiled", {"folded": 1.0, "compiled": 0.5}, sure=False))

    assert chosen(10**12) == "folded" and not memory


def test_what_numba_compiled_first_is_measured_again(memory, monkeypatch):
    won = race_won_by("compiled", {"folded": 64 * 9e-7, "compiled": 64 * 4e-7})
    races = []
    monkeypatch.setattr(trials, "race", lambda *a, **k: races.append(a[1]) or won(*a, **k))
    monkeypatch.setattr(_payoff, "_compiled_anew", lambda module: True)
    for _ in range(2):
        _payoff._found.clear()
        chosen(10**12)

    assert races.count("folded") == 2  # the GEMM has a race of its own


@pytest.mark.parametrize("damage", [{"cases": 3}, {"cases": {"text_pooling 2x4": {"from_pairs": "few"}}}, {}])
def test_a_kept_trial_that_does_not_read_counts_as_none(memory, damage):
    trials.keep(_payoff._what(), damage)

    assert chosen(10**6) == "folded"
    assert _payoff.said("text_pooling").startswith("compiled: it pays from a number")


def test_a_broken_compiler_is_said_in_one_line_and_the_folded_form_gives_its_numbers(memory, monkeypatch, caplog):
    from tvr_kernels.text_pooling import compiled

    text, video, weights = sides("text_pooling", FEW)
    expected = text_pooling.score(text, video, weights, implementation="folded")
    trials.keep(_payoff._what(), {"cases": {"text_pooling 2x4": {"from_pairs": 0, "load_s": 1.0, "final": True}}})
    calls = []

    def broken(*_):
        calls.append(1)
        raise RuntimeError("cannot cache function '_epilogue':\nno locator available")

    monkeypatch.setattr(compiled, "score", broken)
    for _ in range(2):
        assert torch.equal(text_pooling.score(text, video, weights), expected)

    assert len(calls) == 1  # not tried again
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line == (
        "text_pooling: the compiled form is left out: it failed here (RuntimeError: cannot cache function '_epilogue':)"
    )
    with pytest.raises(_dispatch.KernelUnavailable, match=r"asks for 'compiled', but it failed here \(RuntimeError"):
        text_pooling.score(text, video, weights, implementation="compiled")


_CODE = """
import logging, sys, torch
from triton_cases import sides
from tvr_kernels import _payoff, text_pooling
from tvr_kernels._testing import Shape
logging.basicConfig(stream=sys.stdout, level="WARNING", format="%(message)s")
case = sides("text_pooling", Shape(70, 9, 3, 1, 8))
_payoff._found[_payoff._case("text_pooling", case[1])] = 0
torch.testing.assert_close(text_pooling.score(*case), text_pooling.score(*case, implementation="folded"))
"""


@pytest.mark.slow
def test_a_damaged_cache_of_numba_is_named_and_the_folded_form_runs(tmp_path):
    paths = os.pathsep.join([*(p for p in sys.path if p), str(Path(__file__).parent)])
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths}

    def run():
        return subprocess.run([sys.executable, "-c", _CODE], env=env, check=True, capture_output=True, text=True).stdout

    assert run() == ""
    damaged = list(tmp_path.rglob("*.nbc"))
    for file in damaged:
        file.write_bytes(file.read_bytes()[:100])
    said = run()

    assert damaged and said.startswith("text_pooling: the compiled form is left out: it failed here (")
    assert said.endswith(f"numba's cache is damaged, delete the *.nbi and *.nbc files below {tmp_path}\n")


def test_a_numba_that_cannot_be_imported_is_left_out_too(memory, monkeypatch):
    def broken(op, name):
        raise ImportError("Numba needs NumPy 2.2 or less")

    monkeypatch.setattr(_dispatch, "load", broken)

    assert chosen(10**12) == "folded"
    with pytest.raises(_dispatch.KernelUnavailable, match=r"Numba needs NumPy 2\.2 or less"):
        _dispatch.select("score", "text_pooling", *sides("text_pooling", FEW), "compiled")


def test_memory_that_is_not_there_is_no_broken_compiler(memory, monkeypatch):
    from tvr_kernels.text_pooling import folded

    monkeypatch.setattr(folded, "score", lambda *_: (_ for _ in ()).throw(MemoryError))

    with pytest.raises(MemoryError):
        text_pooling.score(*sides("text_pooling", FEW))


def test_clips_beyond_its_limit_are_refused_by_name_and_folded_by_auto(memory):
    case = sides("text_pooling", Shape(2, 2, 200, 1, 4))

    assert chosen(10**12, case) == "folded"
    with pytest.raises(_dispatch.KernelUnavailable, match="a clip has 200 frame slots, it takes at most 128"):
        text_pooling.score(*case, implementation="compiled")
    torch.testing.assert_close(text_pooling.score(*case), text_pooling.score(*case, implementation="reference"))


def test_gradients_and_fp64_are_left_to_the_folded_form():
    text, video, weights = sides("text_pooling", Shape(256, 256, 2, 1, 4))
    text["text"].requires_grad_()

    assert _dispatch.select("score", "text_pooling", text, video, weights, None)[0] == "folded"
    with pytest.raises(_dispatch.KernelUnavailable, match="no backward pass"):
        text_pooling.score(text, video, weights, implementation="compiled")
    exact = sides("text_pooling", Shape(256, 256, 2, 1, 4), torch.float64)
    assert _dispatch.select("score", "text_pooling", *exact, None)[0] == "folded"
