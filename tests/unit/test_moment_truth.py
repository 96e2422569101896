"""Reading truth about moments: which format a file has, what it says, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tvr_cli.data.truth import formats
from tvr_cli.data.truth.question import Moment
from tvr_cli.errors import ConfigError, DataError

WINDOW = {"qid": 1, "query": "a dog", "vid": "v", "duration": 20, "relevant_windows": [[1, 3]]}
PAIR = {"query_id": 1, "query": "he lies", "video_name": "a", "timestamp": [3, 7], "duration": 9, "relevance": 2}
DIDEMO = {"annotation_id": 1, "description": "d", "video": "v", "times": [[0, 0]], "num_segments": 6}
ACTIVITY = {"v_1": {"duration": 9, "timestamps": [[0, 5]], "sentences": ["a man runs"]}}


def lines(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_several_lines_of_a_query_are_several_moments_and_none_is_absent(tmp_path: Path) -> None:
    truth = formats.read(
        lines(
            tmp_path / "t.jsonl",
            [
                {"query": "a  red car", "video": "a", "start": 1, "end": 2},
                {"query": "a submarine", "video": "a"},
                {"query": "a red car", "video": "b", "start": 0, "end": 9.5, "duration": 9},
            ],
        )
    )
    car, submarine = truth.questions
    assert car.moments == (Moment("a", 1, 2), Moment("b", 0, 9)) and car.video is None  # cut at the end of b
    assert submarine.moments == () and truth.videos == ["a", "b"] and truth.durations == {"b": 9}


def test_queries_of_one_wording_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    records = [{"id": i, "query": "a dog", "video": "a", "start": i, "end": i + 1} for i in (1, 2)]
    assert [q.id for q in formats.read(lines(tmp_path / "t.jsonl", records)).questions] == ["1", "2"]


def test_captions_with_seconds_are_truth_and_belong_together_by_their_words(tmp_path: Path) -> None:
    records = [
        {"id": f"a#{i}", "caption": "a dog", "video": "a", "start": i, "end": i + 1, "split": "test"} for i in (1, 2)
    ]
    (question,) = formats.read(lines(tmp_path / "t.jsonl", records)).questions
    assert question.text == "a dog" and question.moments == (Moment("a", 1, 2), Moment("a", 2, 3))
    without = lines(tmp_path / "u.jsonl", [*records, {"caption": "a cat", "video": "a"}])
    with pytest.raises(DataError, match=r"u\.jsonl:3: expected a caption with start and end to judge by"):
        formats.read(without)


@pytest.mark.parametrize(
    ("name", "text", "format"),
    [
        ("a", '{"query": "x"}', "jsonl"),
        ("a", '{"caption": "x", "video": "a", "start": 0, "end": 1}', "jsonl"),
        ("a", json.dumps(WINDOW), "qvhighlights"),
        ("a", "AO8RW 0.0 6.9##a person is putting a book on a shelf.", "charades-sta"),
        ("a", json.dumps(ACTIVITY), "activitynet-captions"),
        ("a", json.dumps(ACTIVITY, indent=1), "activitynet-captions"),
        ("a", json.dumps([DIDEMO]), "didemo"),
        ("a", json.dumps([PAIR], indent=2), "tvr-ranking"),
        ("a", json.dumps(PAIR), "tvr-ranking"),
    ],
)
def test_the_format_is_seen(tmp_path: Path, name: str, text: str, format: str) -> None:
    (tmp_path / name).write_text(text)
    found = formats.read(tmp_path / name)
    assert found.format == format and len(found.questions) == 1
    assert formats.read(tmp_path / name, format) == found


def test_didemos_segments_are_inclusive_pieces_of_five_seconds(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(json.dumps([{**DIDEMO, "times": [[1, 2], [1, 2], [0, 5]]}]))
    (question,) = formats.read(tmp_path / "a").questions
    assert question.moments == (Moment("v", 5, 15), Moment("v", 0, 30))
    assert question.segments == ((1, 2), (1, 2), (0, 5))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"query": "x", "video": "a", "start": 5, "end": 2}], r"t.jsonl:1: expected start < end, found start 5 and"),
        ([{"query": "x", "video": "a", "start": 5, "end": 5}], "expected start < end"),
        ([{"query": "x", "video": "a", "start": -1, "end": 5}], "start: expected seconds"),
        ([{"query": "x", "video": "a", "start": "1", "end": 5}], "start: expected seconds"),
        ([{"query": "x", "video": "a", "start": 5}], "missing: end"),
        ([{"query": "x", "start": 5, "end": 6}], "missing: video"),
        ([{"query": " ", "video": "a"}], "query: expected text"),
        ([{"query": "x"}, {"query": "x", "video": "a", "start": 0, "end": 1}], r"t.jsonl:1: this line says that noth"),
        ([{"query": "x", "video": "a", "start": 0, "end": 1}] * 2, r"stands in .*t.jsonl:1 already"),
        ([{"query": "x", "video": "a", "start": 7, "end": 9, "duration": 6}], "inside of 'a', which ends at 6 s"),
        ([{"query": "x", "id": 1}, {"query": "y", "id": 1}], "has other words than in"),
        ([{**WINDOW, "relevant_windows": [[3, 1]]}], "expected start < end"),
        ([{**WINDOW, "relevant_windows": [[3]]}], r"expected \[start, end\]"),
        ([{**WINDOW, "relevant_windows": None}], "relevant_windows: expected a list"),
        ([{**WINDOW, "relevant_windows": [[21, 22]]}], "which ends at 20 s"),
        ([{**WINDOW, "duration": 0}], "duration: expected seconds above 0"),
        ([WINDOW, WINDOW], "the qid 1 is that of"),
        ([{**PAIR, "relevance": 5}], "relevance: expected a number from 0 to 4"),
        ([{**PAIR, "timestamp": [7, 3]}], "expected start < end"),
    ],
)
def test_wrong_truth_is_a_sentence(tmp_path: Path, records: Sequence[Mapping[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        formats.read(lines(tmp_path / "t.jsonl", records))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected truth"),
        ("hello", "looks like no known truth"),
        ("[]", "looks like no known truth"),
        ('{"a": 1}', "looks like no known truth"),
        ('{"query": "x"}\nhello', ":2: expected a JSON object"),
        ('{"query": "x"}\n[1]', r":2: expected a JSON object like .*, found \[1\]"),
        (json.dumps([{**DIDEMO, "times": [[3, 2]]}]), "expected 0 <= first <= last < 6"),
        (json.dumps([{**DIDEMO, "times": []}]), "expected one"),
        (json.dumps([DIDEMO, DIDEMO]), "the annotation_id 1 is that of"),
        (json.dumps({"v": {"duration": 9, "timestamps": [[0, 5]], "sentences": []}}), "expected a sentence for each"),
        ("AO8RW 0.0 6.9##a person\nAO8RW zero 1##x", ":2: expected a line like"),
    ],
)
def test_a_file_that_is_no_truth_is_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(DataError, match=message):
        formats.read(tmp_path / "t")


def test_an_unknown_format_and_a_file_that_is_not_there_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean charades-sta"):
        formats.read(tmp_path / "t", "charades")
    with pytest.raises(DataError, match="expected a file of truth at"):
        formats.read(tmp_path / "t")
