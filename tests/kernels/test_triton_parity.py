"""Triton kernels against the reference in fp64, at odd sizes with padding, between NaNs in memory.

Without a GPU the kernels run in Triton's interpreter. Either way they run in a fresh process (`triton_cases.py`),
because Triton decides at import whether it interprets.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from triton_cases import shapes
from tvr_kernels import OPS

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
    pytest.mark.xdist_group("triton"),  # one process interprets the kernels
]
HERE = Path(__file__).parent


@functools.cache  # two tests look at one run of an op
def run(interpret: bool, *arguments: str) -> list[dict]:
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path, environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", str(HERE / "triton_cases.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def interpreted():
    return run(True, *OPS)


@pytest.mark.parametrize("op", OPS)
def test_interpreted_kernels_equal_the_reference(interpreted, op):
    rows = [row for row in interpreted if row["op"] == op and row["check"] == "score"]

    assert len(rows) == len(shapes(op))
    assert all(row["error"] <= max(2 * row["folded_error"], 5e-7) for row in rows), rows


@pytest.mark.parametrize("op", ["text_pooling", "xpool", "gare"])
def test_gradients_through_the_kernel_are_those_of_the_folded_form(interpreted, op):
    rows = [row for row in interpreted if row["op"] == op and row["check"] == "gradient"]

    assert len(rows) == 1 and rows[0]["error"] < 1e-6 and rows[0]["largest"] > 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_kernels_on_a_gpu_equal_the_reference(op):
    rows = run(False, op)

    assert all(row["error"] <= max(2 * row["folded_error"], 1e-5) for row in rows if row["check"] == "score"), rows


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_bf16_kernels_err_at_most_twice_as_much_as_plain_bf16(op):
    rows = [row for row in run(False, op) if row["check"] == "bfloat16"]

    assert rows and all(row["error"] <= 2 * row["plain_error"] for row in rows), rows
