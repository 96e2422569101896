"""What all results share: JSON and back, sentences where a file does not fit, and one way to fold seeds and draws."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from tvr_cli.engine.evaluation import compare
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.evaluation.evaluate_result import Claim, EvaluateReport, ScoresReport
from tvr_cli.errors import DataError
from tvr_cli.results.base import HIDDEN, INLINE, OPTIONAL, Result, key
from tvr_cli.results.metrics import Metrics, Rate, deviation, fold, mean, mean_and_deviation
from tvr_cli.workspace import Workspace


@dataclass(frozen=True)
class Head:
    name: str
    size_bytes: int = field(metadata=key("bytes"))


@dataclass(frozen=True)
class Spread:
    draws: int
    values: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Small(Result):
    schema = "test-small"
    head: Head = field(metadata=INLINE)
    dry_run: Literal[False] = field(default=False, init=False)
    spread: Spread | None = field(default=None, metadata=INLINE)
    folder: Path
    known: Mapping[int, str]
    pair: tuple[float, float] | None
    parts: tuple[Head | Spread, ...] = ()
    note: str | None = field(default=None, metadata=OPTIONAL)
    secret: int = field(default=0, metadata=HIDDEN)


@dataclass(frozen=True)
class Outer(Result):
    schema = "test-outer"
    version = 3
    inner: Small


SMALL = Small(
    head=Head("a", 5),
    folder=Path("out/runs"),
    known={7: "seven"},
    pair=(1.0, 2.5),
    parts=(Head("b", 6), Spread(2, [0.5])),
)


def sent(result: Result) -> Any:
    """What a reader of the printed line gets."""
    return json.loads(json.dumps(result.to_json()))


def test_json_has_the_schema_first_and_the_fields_in_their_order():
    assert list(SMALL.to_json().items()) == [
        ("schema", "tvr/test-small@1"),
        ("name", "a"),
        ("bytes", 5),
        ("dry_run", False),
        ("folder", "out/runs"),
        ("known", {7: "seven"}),
        ("pair", [1.0, 2.5]),
        ("parts", [{"name": "b", "bytes": 6}, {"draws": 2, "values": [0.5]}]),
    ]


def test_a_result_comes_back_from_its_json():
    whole = Small(head=Head("a", 5), spread=Spread(3, [1.0]), folder=Path("x"), known={}, pair=None, note="said")
    for result in (SMALL, whole):
        assert Small.from_json(sent(result), "a") == result
    assert Outer.from_json(sent(Outer(SMALL)), "a") == Outer(SMALL)
    assert sent(Outer(SMALL))["inner"]["schema"] == "tvr/test-small@1"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"schema": "tvr/test-small@2"}, "of the schema tvr/test-small@1, found the schema tvr/test-small@2"),
        ({"schema": None}, "found an object without a schema"),
        ({"bytes": "5"}, 'bytes: expected a whole number, found "5"'),
        ({"bytes": True}, "bytes: expected a whole number, found true"),
        ({"name": 5}, "name: expected text, found 5"),
        ({"dry_run": True}, "dry_run: expected false, found true"),
        ({"known": {"x": "seven"}}, 'known: expected whole numbers as keys, found "x"'),
        ({"known": {"7": None}}, "known.7: expected text, found null"),
        ({"pair": [1.0]}, "pair: expected a list of 2 or null, found one of 1"),
        ({"pair": "no"}, 'pair: expected a list or null, found "no"'),
        ({"pair": [1.0, "x"]}, 'pair.1: expected a number, found "x"'),
        ({"parts": [{"name": "b"}]}, "parts.0.bytes: expected a whole number, found none"),
        ({"folder": []}, "folder: expected a path, found a list"),
    ],
)
def test_what_does_not_fit_is_a_sentence_that_names_the_key(change, sentence):
    with pytest.raises(DataError) as refused:
        Small.from_json({**sent(SMALL), **change}, "'a.json'", "make it again")
    assert str(refused.value).startswith("'a.json': ") and sentence in str(refused.value)
    assert str(refused.value).endswith("; make it again")


def test_a_missing_key_is_named_and_an_unknown_one_ignored():
    data = sent(SMALL)
    assert Small.from_json({**data, "new": 1}, "a") == SMALL
    del data["folder"]
    with pytest.raises(DataError, match="a: folder: expected a path, found none"):
        Small.from_json(data, "a")


def test_a_result_inside_another_one_is_checked_for_its_schema():
    data = sent(Outer(SMALL))
    data["inner"]["schema"] = "tvr/other@1"
    with pytest.raises(DataError, match=r"inner\.schema: expected tvr/test-small@1"):
        Outer.from_json(data, "a")


@pytest.mark.parametrize("text", ["[1]", "null", '"tvr/evaluate@1"'])
def test_a_file_that_holds_no_object_is_a_sentence(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="expected a result of the schema tvr/evaluate@1, found"):
        EvaluateReport.from_file(tmp_path / "a.json")
    with pytest.raises(DataError, match="expected a result of the schema tvr/evaluate@1, found"):
        Claim.in_file(tmp_path / "a.json")


# ------------------------------------------------------------------------------------------------------------ folding


def test_a_fold_is_mean_and_sample_deviation_number_by_number():
    first = Metrics({"R@1": 40.0, "MnR": 2.0}, {"R@1": 1.0}, 300.0)
    second = Metrics({"R@1": 44.0, "MnR": 6.0}, {"R@1": 1.0}, 310.0)
    average, spread = mean_and_deviation([first, second])
    assert average == Metrics({"R@1": 42.0, "MnR": 4.0}, {"R@1": 1.0}, 305.0)
    assert spread.t2v["R@1"] == pytest.approx(statistics.stdev([40, 44])) and spread.v2t == {"R@1": 0.0}
    assert mean_and_deviation([first])[1].rsum is None  # one alone has no deviation


def test_a_rate_keeps_the_deviation_of_its_value_and_text_is_taken_from_the_first():
    folded = fold([{"of": "a", "rate": Rate(40.0, 30.0, 50.0)}, {"of": "b", "rate": Rate(44.0, 34.0, 54.0)}])
    assert folded == {"of": "a", "rate": Rate(42.0, 32.0, 52.0, deviation([40.0, 44.0]))}
    assert fold([Rate(40.0, 30.0, 50.0)]) == Rate(40.0, 30.0, 50.0)
    assert mean([1.0, 2.0]) == 1.5


# ------------------------------------------------------------------------------------------- results of other tools


def result_of(scores: np.ndarray, path: Path) -> ScoresReport:
    np.savez(path, scores=scores, video_of_caption=np.arange(len(scores)))
    return referee.judge_file(path, referee.JudgeOptions())[0]


def test_a_score_files_result_comes_back_from_its_json(tmp_path):
    scores = (np.random.default_rng(0).random((20, 20)) + np.eye(20)) / 2
    for options in (referee.JudgeOptions(post=("dsl",)), referee.JudgeOptions(counting="clip4clip")):
        result_of(scores, tmp_path / "s.npz")
        report, _ = referee.judge_file(tmp_path / "s.npz", options)
        assert ScoresReport.from_json(sent(report), "a") == report
    with pytest.raises(DataError, match="commit: expected"):  # the JSON of a run has more
        EvaluateReport.from_json(sent(report), "a")


def test_comparing_another_schema_is_a_sentence(tmp_path):
    (tmp_path / "a.json").write_text('{"schema": "tvr/train@1", "t2v": {"R@1": 50.0}}')
    with pytest.raises(DataError, match=r"a\.json': expected a result of the schema tvr/evaluate@1, found .*train@1"):
        compare.read_entry(tmp_path / "a.json", "test", Workspace(tmp_path))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"t2v": {"R@1": 50.0}}, "it has no v2t with R@1"),
        ({"t2v": {"R@5": 50.0}, "v2t": {"R@1": 50.0}}, "it has no t2v with R@1"),
        ({"t2v": {"R@1": "high"}, "v2t": {"R@1": 50.0}}, 't2v.R@1: expected a number, found "high"'),
        ({"t2v": 50.0}, "t2v: expected an object or null, found 50.0"),
    ],
)
def test_half_a_result_is_not_compared(data, sentence, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(DataError) as refused:
        compare.compare([compare.read_entry(tmp_path / "a.json", "test", Workspace(tmp_path))] * 2)
    assert sentence in str(refused.value)


def test_a_result_of_another_tool_needs_both_directions_and_no_more(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"t2v": {"R@1": 50.0}, "v2t": {"R@1": 40.0}, "captions": 10}))
    report = compare.compare([compare.read_entry(tmp_path / "a.json", "test", Workspace(tmp_path))] * 2)
    assert report.rows[0].rsum is None and report.rows[0].t2v == {"R@1": 50.0}
    assert "| 50.0 | 40.0 |" in "\n".join(compare.markdown(report))
