"""Counting captions, as `--dry-run` does, gives what reading them gives, and holds none of them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_frames

from tvr_cli.engine.features.corpus import count_captions, of_imported, read_corpus
from tvr_cli.errors import DataError
from tvr_cli.stores.features.rows import text_row_key
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.types import Manifest


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    folder = tmp_path_factory.mktemp("frames")
    tiny_frames.simple(folder, {"a.mp4": 2, "b.mp4": 2})
    return FrameStore.open(folder / "frames")


def file_of(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that were held at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_counting_a_captions_file_holds_a_fraction_of_it(frames: FrameStore, tmp_path: Path) -> None:
    said = "a dog runs along the beach, and the wind is strong today " * 4
    path = file_of(tmp_path, *({"video": "a.mp4", "caption": f"{said}{i}", "id": f"id-{i}"} for i in range(8000)))
    size = path.stat().st_size
    count_captions(path, frames, None)  # what is imported or compiled once is not held for a caption
    assert peak(lambda: count_captions(path, frames, None)) < 0.4 * size  # of which ids and keys are an eighth
    assert peak(lambda: read_corpus(path, frames, None)) > size


def test_counting_gives_what_reading_gives(frames: FrameStore, tmp_path: Path) -> None:
    lines = [
        {"video": "a.mp4", "caption": "a dog"},
        {"video": "a.mp4", "caption": "a  dog "},  # the same text
        {"video": "b", "caption": "a cat", "split": "test"},
        {"video": "b", "caption": "a bird", "split": "test"},
    ]
    path = file_of(tmp_path, *lines)
    census, corpus = count_captions(path, frames, None), read_corpus(path, frames, None)
    assert (census.total, census.aside, len(census.texts)) == (len(corpus.captions), len(corpus.aside), 3) == (4, 0, 3)
    there = {text_row_key("a cat"), text_row_key("something else")}
    assert (census.unlike(set()), census.unlike(there)) == (3, 2)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"video": "c.mp4", "caption": "of no video"}],
        [{"video": "a.mp4", "caption": "one", "id": "x"}, {"video": "b.mp4", "caption": "two", "id": "x"}],
        [{"video": "a.mp4", "caption": " "}, {"video": "a.mp4", "caption": ""}],
        [{"video": "a.mp4", "caption": "one", "split": "train"}, {"video": "a.mp4", "caption": "two", "split": "val"}],
        [{"video": "a.mp4", "caption": "late", "start": 900}],
        [{"video": "a.mp4"}],
    ],
    ids=["empty", "unknown", "twice", "wordless", "splits", "late", "incomplete"],
)
def test_counting_refuses_what_reading_refuses(frames: FrameStore, tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    path = file_of(tmp_path, *lines)
    with pytest.raises(DataError) as read:
        read_corpus(path, frames, None)
    with pytest.raises(DataError) as counted:
        count_captions(path, frames, None)
    assert str(counted.value) == str(read.value)


def test_a_data_set_without_captions_is_called_that(frames: FrameStore, tmp_path: Path) -> None:
    empty = Manifest("mine", tmp_path, (), ())
    for read in (lambda: read_corpus(empty, frames, None), lambda: count_captions(empty, frames, None),
                 lambda: of_imported(empty, frames.records)):  # fmt: skip
        with pytest.raises(DataError, match=r"the data set 'mine' in .* holds no captions"):
            read()
