"""`tvr moments`: judging a file of predictions, and what the search of a workspace answers."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from synthetic import SyntheticStore
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.engine.features import precompute
from tvr_cli.engine.searching import query
from tvr_cli.engine.searching.asked import Asked
from tvr_cli.engine.searching.hits import Answering, HeadWish, Moment, SearchOptions
from tvr_cli.results.found import Hit
from tvr_cli.types import TextFeatures
from tvr_cli.workspace import Workspace

SENTENCE, OTHER = "caption 0 of video 7", "caption 0 of video 3"


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of 12 videos, whose captions are encoded by looking them up in the store."""
    store = SyntheticStore(videos=12, splits=("test",)).write(tmp_path / "out")
    known = {caption.text: row for row, caption in enumerate(store.captions)}

    def encode(model: object, sentences: list[str], *plan: object) -> TextFeatures:
        # What the index is compared with is in no store: any caption's features will do.
        rows = [known.get(sentence, zlib.crc32(sentence.encode()) % len(known)) for sentence in sentences]
        return store.text(torch.tensor(rows))

    monkeypatch.setattr(precompute, "encode_captions", encode)
    short = SimpleNamespace(count_tokens=lambda sentences: torch.ones(len(sentences)))
    monkeypatch.setattr(precompute, "backbone_of", lambda *args, **options: short)
    return tmp_path / "out"


def tvr(*words: object) -> Result:
    return CliRunner().invoke(app, ["moments", *map(str, words)])


def lines(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def measured(result: Result) -> dict[str, float]:
    assert result.exit_code == 0, result.stderr
    return {one["name"]: one["value"] for one in json.loads(result.stdout)["measures"]}


def first_hits(out: Path, *sentences: str) -> list[Any]:
    session = query.session(Workspace(out), Asked(method="mean"))
    return [hits[0] for hits in session.answer(sentences, SearchOptions(k=3))]


def test_a_workspace_is_asked_and_the_names_of_truth_may_be_stems(out: Path, tmp_path: Path) -> None:
    hit, other = first_hits(out, SENTENCE, OTHER)
    quarter = other.start + (other.end - other.start) / 4
    truth = [
        {"query": SENTENCE, "video": Path(hit.video_id).stem, "start": hit.start, "end": hit.end},
        {"query": OTHER, "video": other.video_id, "start": other.start, "end": quarter},
    ]
    result = tvr("--truth", lines(tmp_path / "t.jsonl", truth), "-o", out, "--method", "mean", "--json")
    found = measured(result)
    assert found["R1@0.5"] == 50 and found["edge"] == 0 and found["mIoU@1"] == pytest.approx(62.5)
    report = json.loads(result.stdout)
    assert report["answers"] == {"path": str(out), "of": "index", "answered": 2} and not report["notes"]
    assert set(report["measures"][0]["priors"]) == {"centred", "fixed", "grid"}


def test_where_one_video_is_asked_its_moments_alone_are_the_answer(out: Path, tmp_path: Path) -> None:
    session = query.session(Workspace(out), Asked(method="mean"))
    (hits,) = session.answer([SENTENCE], SearchOptions(k=12, exhaustive=True))
    last = hits[-1]
    window = {"duration": last.end, "relevant_windows": [[last.start, last.end]]}
    asked = {"qid": 1, "query": SENTENCE, "vid": last.video_id, **window}
    found = tvr("--truth", lines(tmp_path / "t.jsonl", [asked]), "-o", out, "--method", "mean", "--json")
    assert measured(found)["R1@0.7"] == 100 and hits[0].video_id != last.video_id


@pytest.mark.parametrize("one_video", [True, False])
def test_a_video_answers_with_all_its_moments_as_a_query_does(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_video: bool
) -> None:
    """The second of a file is right; another file has as many that are better."""
    (hit,) = first_hits(out, SENTENCE)
    other = next(clip for clip in Workspace(out).newest_features().clips if clip.file_id != hit.video_id)  # type: ignore[union-attr]

    def answer(sentences: Sequence[str], options: SearchOptions) -> list[list[Hit]]:
        found = Answering(options)
        for start in (0.0, 0.2, 0.4):
            for name in (other.file_id, hit.video_id):
                found.take(1 - start, name, name, Moment(start, start + 0.1, start))
        return [found.hits() for _ in sentences]

    monkeypatch.setattr(query, "session", lambda *args, **options: SimpleNamespace(answer=answer))
    window = {"duration": 1.0, "relevant_windows": [[0.2, 0.3]]}
    truth = {"qid": 1, "query": SENTENCE, "vid": hit.video_id, **window}
    if not one_video:
        truth = {"query": SENTENCE, "video": hit.video_id, "start": 0.2, "end": 0.3}
    found = measured(tvr("--truth", lines(tmp_path / "t.jsonl", [truth]), "-o", out, "--json"))
    assert (found["mAP@0.5"] if one_video else found["mR@5"]) > 0


def test_what_is_not_sure_is_no_answer_as_in_a_query(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hit,) = first_hits(out, SENTENCE)
    sure = {SENTENCE: 0.97, "a submarine": 0.6}

    def answer(sentences: Sequence[str], options: SearchOptions) -> list[list[Hit]]:
        assert options.head == HeadWish(use=False)
        return [[dataclasses.replace(hit, confidence=sure[sentence], score=0.5)] for sentence in sentences]

    monkeypatch.setattr(query, "session", lambda *args, **options: SimpleNamespace(answer=answer))
    moment = {"video": hit.video_id, "start": hit.start, "end": hit.end}
    truth = lines(tmp_path / "t.jsonl", [{"query": SENTENCE, **moment}, {"query": "a submarine"}])
    found = measured(tvr("--truth", truth, "-o", out, "--no-head", "--json"))
    assert (found["refused"], found["answered"], found["Rej-F1"], found["AUROC"]) == (100, 100, 100, 100)
    for flags, refused, answered in ((("--all",), 0, 100), (("--min-confidence", 0.98), 100, 0)):
        found = measured(tvr("--truth", truth, "-o", out, "--no-head", *flags, "--json"))
        assert (found["refused"], found["answered"], found["AUROC"]) == (refused, answered, 100)
    assert tvr("--truth", truth, "-o", out, "--all", "--min-confidence", 0.5).exit_code == 2


def test_a_table_says_whose_counting_each_number_is(out: Path, tmp_path: Path) -> None:
    (hit,) = first_hits(out, SENTENCE)
    moment = {"video": hit.video_id, "start": hit.start, "end": hit.end}
    truth = lines(tmp_path / "t.jsonl", [{"query": SENTENCE, **moment}, {"query": "a submarine"}])
    predictions = lines(tmp_path / "p.jsonl", [{"query": SENTENCE, "moments": [moment]}])
    result = tvr("--truth", truth, "--predictions", predictions)
    assert result.exit_code == 0, result.stderr
    shown = result.stdout.splitlines()
    assert shown[0] == "jsonl: 2 queries, 1 of them absent; 1 moment of 1 video"
    assert shown[1] == f"answered by {predictions}: 1 of 2 with a moment"
    heading = next(line for line in shown if "counted as" in line)
    assert heading.split()[-4:] == ["centred", "fixed", "grid", "nothing"]
    (edge,) = [line for line in shown if line.startswith("edge ")]
    assert edge.split()[1:4] == ["tvr", "0.00", "s"]
    assert any(line.startswith("note: 1 of 2 queries have no prediction") for line in shown)


@pytest.mark.parametrize(
    ("truth", "message", "code"),
    [
        ({"query": SENTENCE, "video": "nowhere.mp4", "start": 0, "end": 1}, "'nowhere.mp4' is not among the 12", 3),
        ({"query": SENTENCE, "video": "v0007.mp4", "start": 3, "end": 1}, "expected start < end", 3),
        ({"query": SENTENCE, "video": "v0007.mp4", "start": 9000, "end": 9001}, "expected a time inside of", 3),
    ],
)
def test_wrong_truth_is_a_sentence_before_anything_is_asked(
    out: Path, tmp_path: Path, truth: Mapping[str, Any], message: str, code: int
) -> None:
    names = [clip.file_id for clip in Workspace(out).features(next((out / "features").iterdir()).name).clips]
    named = {**truth, "video": names[7]} if truth["video"].startswith("v") else truth
    result = tvr("--truth", lines(tmp_path / "t.jsonl", [named]), "-o", out)
    assert result.exit_code == code and message in result.stderr
    assert not (out / "index").exists()


def test_wrong_flags_are_sentences(tmp_path: Path) -> None:
    truth = lines(tmp_path / "t.jsonl", [{"query": "a dog", "video": "a", "start": 0, "end": 1}])
    result = tvr("--truth", truth, "--predictions", truth, "--method", "mean")
    assert result.exit_code == 2 and "--predictions judges a file; leave out" in result.stderr
    result = tvr("--truth", truth, "--format", "didemoo")
    assert result.exit_code == 2 and "did you mean didemo" in result.stderr
    result = tvr("--truth", truth, "-o", tmp_path / "nothing")
    assert result.exit_code == 3 and "start with: tvr extract-frames videos/" in result.stderr
    other = lines(tmp_path / "o.jsonl", [{"qid": 1, "query": "x", "vid": "v", "duration": 9, "relevant_windows": []}])
    right = lines(tmp_path / "p.jsonl", [{"query": "a dog", "moments": []}])
    result = tvr("--truth", truth, "--predictions", right, "--train", other)
    assert result.exit_code == 3 and "to be jsonl" in result.stderr
