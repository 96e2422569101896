"""Annotation files of data sets about moments as captions with times: how they are known, read and resolved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_frames

from tvr_cli.data import jsonl, timed
from tvr_cli.data.columns import CaptionsFile
from tvr_cli.engine.features.corpus import count_captions, read_corpus
from tvr_cli.errors import DataError
from tvr_cli.stores.frames.store import FrameStore

CHARADES = "AO8RW 0.0 6.9##a person is putting a book on a shelf.\nAO8RW 8.0 4.0##backwards\n3MSZA 24.3 30.4##a light\n"
ACTIVITYNET = {
    "v_one": {"duration": 20.0, "timestamps": [[0.5, 4], [3, 25.0]], "sentences": [" A man stands. ", "He runs."]}
}
DIDEMO = [
    {
        "annotation_id": 7,
        "video": "a@b.avi",
        "description": "a dog",
        "num_segments": 6,
        "times": [[1, 2], [0, 0], [0, 0]],
    }
]
QVHIGHLIGHTS = {
    "qid": 5,
    "query": "a cat",
    "vid": "x_0.0_150.0",
    "duration": 150,
    "relevant_windows": [[2, 8], [20, 24]],
}


def written(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(path: Path) -> list[tuple[str, str, float | None, float | None, str | None]]:
    return [(c.video, c.text, c.start, c.end, c.split) for c in jsonl.read_captions(path)]


def test_every_sentence_has_the_seconds_of_its_annotation(tmp_path):
    assert read(written(tmp_path, "charades_sta_train.txt", CHARADES)) == [
        ("AO8RW", "a person is putting a book on a shelf.", 0.0, 6.9, "train"),
        ("3MSZA", "a light", 24.3, 30.4, "train"),
    ]
    assert read(written(tmp_path, "val_1.json", ACTIVITYNET)) == [
        ("v_one", "A man stands.", 0.5, 4.0, "val"), ("v_one", "He runs.", 3.0, 20.0, "val"),
    ]  # fmt: skip
    assert read(written(tmp_path, "test_data.json", DIDEMO)) == [("a@b.avi", "a dog", 0.0, 5.0, "test")]
    assert read(written(tmp_path, "highlight_train_release.jsonl", QVHIGHLIGHTS)) == [
        ("x_0.0_150.0", "a cat", 2.0, 8.0, "train"), ("x_0.0_150.0", "a cat", 20.0, 24.0, "train"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "split"),
    [("train.json", "train"), ("charades_sta_test.txt", "test"), ("val_2.json", "val"), ("constrained.json", None)],
)
def test_a_file_is_of_the_split_that_its_name_says(name, split):
    assert timed.split_of(Path(name)) == split


def test_captions_of_ones_own_are_read_as_before(tmp_path):
    own = written(tmp_path, "captions.jsonl", {"video": "a.mp4", "caption": "a dog", "start": 1, "end": 2})
    assert timed.format_of(own) is None and read(own) == [("a.mp4", "a dog", 1.0, 2.0, None)]
    assert timed.format_of(written(tmp_path, "a.txt", "a dog\n")) is None
    assert timed.format_of(written(tmp_path, "b.json", [{"video": "a", "caption": "the times"}])) is None
    assert timed.format_of(written(tmp_path, "c.json", '{"timestamps": 1')) is None
    assert timed.format_of(tmp_path / "none.json") is None
    named = CaptionsFile(written(tmp_path, "train_data.json", DIDEMO), {"caption": "description"})
    assert [(c.text, c.start) for c in jsonl.read_captions(named)] == [("a dog", None)]


def test_what_is_wrong_names_file_and_place(tmp_path):
    with pytest.raises(DataError, match=r"train\.txt:2: expected a line like"):
        read(written(tmp_path, "train.txt", CHARADES.splitlines()[0] + "\nAO8RW 1##a\n"))
    with pytest.raises(DataError, match="a sentence for each time"):
        read(written(tmp_path, "train.json", {"v_a": {"duration": 3, "timestamps": [[0, 1]], "sentences": []}}))


def test_files_may_be_spelled_otherwise_and_others_are_set_aside(tmp_path):
    tiny_frames.simple(tmp_path, {"one.mp4": 2, "a@b.mp4": 2})
    frames = FrameStore.open(tmp_path / "frames")
    both = {**ACTIVITYNET, "v_gone": {"duration": 9, "timestamps": [[0, 1]], "sentences": ["Gone."]}}
    path = written(tmp_path, "train.json", both)
    corpus, census = read_corpus(path, frames, None), count_captions(path, frames, None)
    assert {c.file_id for c in corpus.captions} == {"one.mp4"} and [c.video for c in corpus.aside] == ["v_gone"]
    assert (census.total, census.aside) == (len(corpus.captions), 1)
    didemo = read_corpus(written(tmp_path, "train_data.json", DIDEMO), frames, None)
    assert [c.file_id for c in didemo.captions] == ["a@b.mp4"]
