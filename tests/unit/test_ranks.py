"""Ranks train as one process does: the loss, every gradient, the state after three steps, and the validation."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import rank_cases
from rank_cases import Case, as_ranks, run_case

from tvr_cli.engine.training.launch import launch

UNEVEN = {2: (7, 5), 3: (0, 8, 4), 4: (5, 0, 4, 3)}
ALL = [Case(name, tune) for tune in ("head", "full") for name in rank_cases.methods(tune)]


def require_equal(found: dict[str, Any], wanted: dict[str, Any], what: object, tolerance: float = 1e-10) -> None:
    for kind in ("gradients", "state"):
        assert found[kind].keys() == wanted[kind].keys() != set(), what
        for name, value in wanted[kind].items():
            got, want = np.asarray(found[kind][name], dtype=np.float64), np.asarray(value, dtype=np.float64)
            error = np.abs(got - want).max(initial=0.0)
            assert error <= tolerance * max(1.0, np.abs(want).max(initial=0.0)), (what, kind, name, error)
    np.testing.assert_allclose(found["reports"], wanted["reports"], rtol=tolerance, atol=tolerance, err_msg=str(what))
    np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-5, atol=1e-5, err_msg=str(what))
    assert found["metrics"] == wanted["metrics"], what


def test_two_ranks_train_as_one_process_does() -> None:
    cases = [Case("glccl", "full", (7, 5)), Case("glccl", "full", accumulate=2, grad_cache=2), Case("glccl", "head")]
    for case, found in zip(cases, launch(2, partial(as_ranks, cases)), strict=True):
        require_equal(found, run_case(case.alone()), case)


@pytest.fixture(scope="module")
def alone() -> dict[Case, dict[str, Any]]:
    return {case: run_case(case) for case in ALL}


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_method_trains_so_frozen_and_full(alone: dict[Case, dict[str, Any]], world: int) -> None:
    even = [Case(c.method, c.tune) for c in ALL]
    uneven = [Case(c.method, c.tune, UNEVEN[world]) for c in ALL] if world > 1 else []
    for case, found in zip([*even, *uneven], launch(world, partial(as_ranks, [*even, *uneven])), strict=True):
        require_equal(found, alone[case.alone()], case)
