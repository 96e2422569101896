"""The benchmark: fair baselines that compute the same scores, the JSON's keys, the CSV's columns."""

from __future__ import annotations

import csv
import importlib
import json

import pytest
import torch
from tvr_kernels import OPS, _dispatch, _floor, _measure, bench, gemm
from tvr_kernels._testing import Shape, max_error

TINY = Shape(5, 4, 3, 5, 16)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(bench, "TARGET", TINY)
    monkeypatch.setattr(bench, "SMALL", TINY)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("op", OPS)
def test_naive_forms_compute_the_scores_of_the_reference(op):
    case = importlib.import_module(f"tvr_kernels.{op}.bench").case(TINY, "cpu")
    with torch.no_grad():
        text, video, weights = case.sides(torch.float64)
        exact = _dispatch.load(op, "reference").score(text, video, weights)

        assert next(iter(case.naive)) == "naive"
        for naive in case.naive.values():
            assert max_error(naive(slice(0, 5)), exact) < 2e-5
            assert max_error(naive(slice(2, 4)), exact[2:4]) < 2e-5


DEAR = ("eaglenet", "gare", "text_pooling", "xpool")  # their naive forms make a tensor of every pair


@pytest.mark.parametrize("op", [pytest.param(op, marks=[pytest.mark.slow] if op in DEAR else []) for op in OPS])
def test_every_op_gives_rows_of_naive_and_folded(op):
    table = bench.measure(op, quick=True, rounds=2, device="cpu")

    assert {"naive", "folded"} <= {row["impl"] for row in table}
    assert all(row["max_abs_err"] < 1e-5 for row in table if row["impl"] != "naive")
    assert next(row for row in table if row["impl"] == "naive")["ratio_to_naive"] == 1.0


def test_json_has_exactly_the_documented_keys(capsys):
    assert bench.main(["--quick", "--op", "text_pooling", "--rounds", "2", "--json"]) == 0

    rows = json.loads(capsys.readouterr().out)
    assert isinstance(rows, list)
    keys = {"op", "impl", "device", "dtype", "shape", "ms", "ratio_to_naive", "peak_extra_mb", "max_abs_err"}
    keys |= {"floor_ms", "of_floor"}
    assert all(set(row) == keys for row in rows)
    assert all(row["op"] == "text_pooling" and row["device"] == "cpu" and row["ms"] > 0 for row in rows)


def test_csv_rows_are_appended_under_one_header(tmp_path, capsys):
    file = tmp_path / "results.csv"
    for _ in range(2):
        bench.main(["--quick", "--op", "text_pooling", "--rounds", "2", "--csv", str(file)])

    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    header = (
        "op,impl,device,dtype,shape,ms,ms_20,ms_80,ratio_to_naive,floor_ms,of_floor,peak_extra_mb,max_abs_err,commit"
    )
    assert file.read_text().splitlines()[0] == header
    assert len({row["impl"] for row in rows}) * 2 == len(rows)
    assert all(float(row["ms_20"]) <= float(row["ms"]) <= float(row["ms_80"]) for row in rows)
    assert "text_pooling" in capsys.readouterr().out


def test_a_slice_is_scaled_to_all_captions_and_says_so():
    case = _measure.Case("text_pooling", Shape(10, 4, 3, 1, 8), *_case_parts(), texts=2)
    naive = next(c for c in _measure.scoring(case, "cpu") if c.impl == "naive")

    assert naive.scale == 5.0 and naive.note == "scaled from slices of 2 captions"
    first, second = naive.run(0), naive.run(1)
    assert isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
    assert first.shape == (2, 4) and not torch.equal(first, second)


def test_the_floor_repeats_the_products_of_whole_matrices_and_nothing_else():
    a, b, small = torch.ones(6, 4), torch.ones(4, 5), torch.ones(3, 2, 2)

    def run() -> None:
        _sum = gemm.matmul(a, b).exp().sum() + torch.bmm(small, small).sum() + gemm.matmul(b.T, a.T).sum()

    again = _floor.products_alone(run)
    with _floor._Recorder() as repeated:
        again()
    shapes = [[x.shape for x in arguments if isinstance(x, _floor._Layout)] for _, arguments in repeated.calls]

    products = {((6, 4), (4, 5)), ((5, 4), (4, 6))}  # or with oneDNN's second operand transposed
    assert len(shapes) == 2
    assert {tuple(s) for s in shapes} in (products, {((6, 4), (5, 4)), ((5, 4), (6, 4))})


def test_forms_have_a_floor_and_naive_forms_have_none():
    table = {row["impl"]: row for row in bench.measure("dmae", quick=True, rounds=2, device="cpu")}

    assert table["folded"]["floor_ms"] > 0 and table["folded"]["of_floor"] > 0
    assert table["naive"]["floor_ms"] == table["naive"]["of_floor"] == ""


def test_peak_memory_sees_a_temporary():
    def run() -> None:
        torch.ones(50_000_000 // 4).sum()

    assert 45e6 < _measure.peak_extra_bytes(run, "cpu") < 80e6


def test_one_round_is_refused():
    with pytest.raises(SystemExit):
        bench.main(["--rounds", "1"])


def test_the_gemm_can_be_fixed_from_the_command_line(capsys):
    before = gemm._chosen
    bench.main(["--quick", "--op", "text_pooling", "--rounds", "2", "--gemm", "mkl", "--json"])

    assert gemm.setting() == "mkl" and "mkl" in capsys.readouterr().err
    gemm._chosen = before


def _case_parts():
    case = importlib.import_module("tvr_kernels.text_pooling.bench").case(Shape(10, 4, 3, 1, 8), "cpu")
    return case.sides, case.naive
