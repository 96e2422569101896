"""Which implementation runs: the order of `auto`, names that must succeed or raise, and the report for `tvr doctor`."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import tvr_kernels
from tvr_kernels import _dispatch, _payoff
from tvr_kernels._checks import Shapes

CPU = [torch.zeros(1)]


def yes():
    return True, "can run"


def no():
    return False, "the moon is full"


def test_auto_prefers_compiled_then_folded_then_reference_on_a_cpu():
    every = {"reference": yes, "folded": yes, "compiled": yes, "triton": yes}

    assert _dispatch.choose("op", CPU, every)[0] == "compiled"
    assert _dispatch.choose("op", CPU, {**every, "compiled": no})[0] == "folded"
    assert _dispatch.choose("op", CPU, ["reference"])[0] == "reference"


def test_the_reason_says_why_the_faster_form_was_not_taken():
    name, reason = _dispatch.choose("op", CPU, {"reference": yes, "folded": yes, "compiled": no})

    assert (name, reason) == ("folded", "compiled: the moon is full")


def test_the_environment_names_one_and_the_argument_overrides_it(monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", "reference")

    assert _dispatch.choose("op", CPU, ["reference", "folded"]) == ("reference", "asked for by TVR_KERNELS")
    assert _dispatch.choose("op", CPU, ["reference", "folded"], "folded") == ("folded", "asked for by the caller")


def test_asking_by_name_raises_instead_of_swapping():
    with pytest.raises(_dispatch.KernelUnavailable, match="the moon is full"):
        _dispatch.choose("op", CPU, {"reference": yes, "triton": no}, "triton")
    with pytest.raises(tvr_kernels.KernelUnavailable, match="has only: reference"):
        _dispatch.choose("op", CPU, ["reference"], "compiled")
    with pytest.raises(ValueError, match="auto, reference, folded, compiled, triton"):
        _dispatch.choose("op", CPU, ["reference"], "fast")


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    real = _dispatch.importlib.util.find_spec
    monkeypatch.setattr(_dispatch.importlib.util, "find_spec", lambda name: None if name == "numba" else real(name))

    with pytest.raises(_dispatch.KernelUnavailable, match=r"numba is not installed \(pip install 'tvr-cli\[fast\]'\)"):
        _dispatch.load("text_pooling", "compiled")


def test_the_choice_is_logged_once(caplog):
    caplog.set_level("DEBUG", logger="tvr.kernels")
    _dispatch._said.clear()

    for _ in range(3):
        _dispatch.choose("some_op", CPU, ["reference"])

    assert [r.getMessage() for r in caplog.records] == ["some_op runs its reference form: CPU tensors"]


def test_only_a_faster_form_that_was_not_taken_is_news(caplog):
    caplog.set_level("INFO", logger="tvr.kernels")
    _dispatch._said.clear()

    _dispatch.choose("some_op", CPU, ["folded"])
    _dispatch.choose(
        "some_op", CPU, {"folded": _dispatch._always, "compiled": lambda: (False, _payoff.SMALL + "9 pairs")}
    )
    assert not caplog.records
    _dispatch.choose("some_op", CPU, {"folded": _dispatch._always, "compiled": lambda: (False, "no numba here")})

    assert [r.getMessage() for r in caplog.records] == ["some_op runs its folded form: compiled: no numba here"]


def test_the_report_has_a_row_for_every_op():
    rows = _dispatch.report()

    assert [op for op, _, _ in rows] == list(tvr_kernels.OPS)
    assert all(name in (*_dispatch.CHOICES, "none") and reason for _, name, reason in rows)


def test_importing_the_ops_imports_neither_triton_nor_numba():
    code = (
        "import sys, tvr_kernels.text_pooling, tvr_kernels.xpool; from tvr_kernels import _dispatch; "
        "_dispatch.report(); sys.exit(bool({'triton', 'numba'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_border_checks_name_the_op_the_tensor_and_the_sizes():
    shapes = Shapes("text_pooling")
    shapes.check("text", torch.zeros(2, 8), "T D")

    with pytest.raises(
        ValueError, match=r"text_pooling: frames must be \[V, F, D\] with D = 8 as in text, found shape \(3, 4, 7\)"
    ):
        shapes.check("frames", torch.zeros(3, 4, 7), "V F D")
    with pytest.raises(ValueError, match=r"must be \[V, F\], found shape"):
        shapes.mask("frame_mask", torch.ones(3, dtype=torch.bool), "V F")
    with pytest.raises(ValueError, match="must be bool"):
        shapes.mask("frame_mask", torch.ones(3, 4), "V F")
    with pytest.raises(ValueError, match="without a real element"):
        shapes.mask("word_mask", torch.tensor([[True], [False]]), "T L", nonempty_rows=True)
    with pytest.raises(ValueError, match=r"float64 on cpu, but text is torch\.float32"):
        shapes.check("other", torch.zeros(2, 8, dtype=torch.float64), "T D")
    with pytest.raises(ValueError, match="must be floating point"):
        Shapes("gare").check("text", torch.zeros(2, 8, dtype=torch.int64), "T D")


class _Broken:
    """A Triton without a C compiler, as far as `load` is concerned."""

    @staticmethod
    def score(text, video, weights):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")


def test_a_gpu_without_a_compiler_takes_the_folded_form_and_says_why_once(monkeypatch, caplog):
    tensors = {"text": torch.zeros(2, 4)}, {"frames": torch.zeros(3, 1, 4)}
    real = _dispatch.load
    monkeypatch.setattr(_dispatch, "_broken", {})
    monkeypatch.setattr(_dispatch, "load", lambda op, name: _Broken if name == "triton" else real(op, name))
    monkeypatch.setattr(_dispatch, "_installed", lambda name: (True, ""))
    monkeypatch.setattr(_dispatch, "select", _select_with_triton_first(_dispatch.select))
    monkeypatch.setattr("tvr_kernels.text_pooling.folded.score", lambda text, video, weights: "folded")

    for _ in range(2):
        assert _dispatch.run("score", "text_pooling", *tensors, None, None) == "folded"
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line.startswith("text_pooling: the triton form is left out: it failed here (RuntimeError: Failed to find C")

    with pytest.raises(_dispatch.KernelUnavailable, match="asks for 'triton', but it failed here"):
        _dispatch.run("score", "text_pooling", *tensors, None, "triton")


def _select_with_triton_first(select):
    """Return `select` as it answers for CUDA tensors."""

    def chosen(function, op, text, video, weights, implementation):
        if implementation is not None or (op, "triton") in _dispatch._broken:
            return select(function, op, text, video, weights, implementation)
        return "triton", "CUDA tensors"

    return chosen
