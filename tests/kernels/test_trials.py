"""Trials: believed when they agree, else the default; kept for one machine and no other."""

from __future__ import annotations

import pytest
from tvr_kernels import gemm, trials


@pytest.fixture
def kept(monkeypatch):
    """What trials keep, by name."""
    found = {}

    class Memory:
        recall = staticmethod(lambda kind, name: found.get(name))
        keep = staticmethod(lambda kind, name, value: found.update({name: value}))

    monkeypatch.setattr(trials, "_memory", Memory)
    return found


def raced(monkeypatch, rounds, default="usual"):
    """Run a race whose rounds take these seconds of (usual, other)."""
    told = iter(rounds)
    monkeypatch.setattr(trials, "_round", lambda *_: dict(zip(("usual", "other"), next(told), strict=True)))
    return trials.race({"usual": lambda: None, "other": lambda: None}, default)


def test_three_rounds_that_agree_are_believed(monkeypatch):
    found = raced(monkeypatch, [(2.0, 1.0)] * 3)

    assert found == trials.Finding("other", {"usual": 2.0, "other": 1.0}, sure=True)


def test_one_wrong_round_on_a_loaded_machine_decides_nothing(monkeypatch):
    assert raced(monkeypatch, [(9.0, 1.0), (1.0, 2.0), (1.0, 2.0), (1.0, 2.0)]).faster == "usual"


def test_rounds_that_never_agree_leave_the_default_and_say_that_they_are_not_sure(monkeypatch):
    found = raced(monkeypatch, [(1.0, 2.0), (2.0, 1.0)] * 5)

    assert (found.faster, found.sure) == ("usual", False)


def test_what_is_hardly_faster_does_not_beat_the_default(monkeypatch):
    assert raced(monkeypatch, [(1.02, 1.0)] * 3) == trials.Finding("usual", {"usual": 1.02, "other": 1.0}, sure=True)


def test_the_faster_of_two_real_ways_wins():
    found = trials.race({"slow": lambda: sum(range(20_000)), "fast": lambda: None}, "slow", round_s=0.0)

    assert found.faster == "fast" and found.sure


def test_what_was_found_is_recalled_on_this_machine_only(kept, monkeypatch, caplog):
    caplog.set_level("INFO", logger="tvr.kernels")
    trials.keep("gemm", {"faster": "onednn"})
    assert trials.recalled("gemm")["faster"] == "onednn"
    assert trials.recalled("precision bf16") is None

    here = next(iter(kept))
    monkeypatch.setattr(trials, "processor", lambda: "a processor of next year")
    assert trials.recalled("gemm") is None  # has its own name
    kept[trials._name("gemm")] = kept[here]  # a file that was copied under it
    assert trials.recalled("gemm") is None
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("what is kept about gemm is of another machine (") and line.endswith("measured anew")


@pytest.mark.parametrize("damaged", [None, 7, [], "onednn"])
def test_a_damaged_memory_is_none(kept, damaged):
    kept[trials._name("gemm")] = damaged

    assert trials.recalled("gemm") is None


@pytest.fixture
def _fresh_gemm(monkeypatch):
    monkeypatch.setattr(gemm, "_chosen", None)


def test_the_gemm_of_a_machine_is_measured_once_and_kept_where_it_is_sure(kept, monkeypatch, _fresh_gemm):
    if not gemm.has_onednn():
        pytest.skip("this torch has no oneDNN")
    found = trials.Finding("onednn", {"mkl": 2.0, "onednn": 1.0}, sure=True)
    races = []
    monkeypatch.setattr(trials, "race", lambda ways, default: races.append(default) or found)
    assert gemm.setting() == "onednn"
    gemm._chosen = None  # another process
    assert gemm.setting() == "onednn" and races == ["mkl"]

    kept.clear()
    monkeypatch.setattr(trials, "race", lambda ways, default: trials.Finding(default, {}, sure=False))
    gemm._chosen = None
    assert gemm.setting() == "mkl" and not kept


def test_a_kept_gemm_of_no_name_is_measured_again(kept, monkeypatch, _fresh_gemm):
    if not gemm.has_onednn():
        pytest.skip("this torch has no oneDNN")
    trials.keep("gemm", {"faster": "openblas"})
    monkeypatch.setattr(trials, "race", lambda ways, default: trials.Finding("mkl", {}, sure=True))

    assert gemm.setting() == "mkl" and trials.recalled("gemm")["faster"] == "mkl"
