"""Searching in numpy gives the answers of searching in torch: same clips, same order, same seconds, scores to 1e-5."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import indexes
import numpy as np
import pytest
import torch

from tvr_cli.engine import scorers
from tvr_cli.engine.searching import light_search
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.engine.searching.search import search
from tvr_cli.errors import DataError
from tvr_cli.methods import _light, base
from tvr_cli.stores.index.arrays import ArrayIndex
from tvr_cli.stores.index.store import Index, IndexBlock, IndexedClip, write_index
from tvr_cli.types import Sizes, TextFeatures

METHODS = tuple(_light.METHODS)
SENTENCES = [0, 3, 11, 17]


def both(name: str, folder: Path, text: TextFeatures, options: SearchOptions, dim: int = indexes.DIM) -> Any:
    """The answers of both ways, ordinary first."""
    method = indexes.method(name, dim)
    ordinary = search(method, Index.open(folder), method.encode_text(text), options)
    return ordinary, light_search.search(_light.METHODS[name](), ArrayIndex.open(folder), text.pooled.numpy(), options)


def require_same(ordinary: Any, light: Any) -> None:
    assert len(ordinary) == len(light)
    for a, b in zip(ordinary, light, strict=True):
        assert [dataclasses.replace(h, score=0.0) for h in a] == [dataclasses.replace(h, score=0.0) for h in b]
        assert [h.score for h in b] == pytest.approx([h.score for h in a], abs=1e-5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("clips", "files", "options"),
    [
        pytest.param(1, 1, SearchOptions(), id="one clip"),
        pytest.param(40, 40, SearchOptions(k=100), id="k beyond the library"),
        pytest.param(40, 3, SearchOptions(k=5), id="windows of few files"),
        pytest.param(40, 1, SearchOptions(k=5), id="windows of one file"),
        pytest.param(300, 60, SearchOptions(shortlist=20), id="a shortlist"),
        pytest.param(300, 7, SearchOptions(k=7, shortlist=10), id="a shortlist of crowded files"),
        pytest.param(300, 60, SearchOptions(exhaustive=True), id="every clip"),
        pytest.param(1100, 400, SearchOptions(k=20, exhaustive=True), id="several blocks"),
        pytest.param(40, 40, SearchOptions(min_score=0.2), id="a least score"),
        pytest.param(40, 40, SearchOptions(min_score=2.0), id="nothing above the least score"),
    ],
)
def test_both_ways_answer_the_same(name: str, clips: int, files: int, options: SearchOptions, tmp_path: Path) -> None:
    indexes.make(tmp_path / "index", clips, files, name=name)
    require_same(*both(name, tmp_path / "index", indexes.captions(SENTENCES), options))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("options", [SearchOptions(k=50, exhaustive=True), SearchOptions(k=4, shortlist=8)])
def test_deleted_clips_and_several_segments(name: str, options: SearchOptions, tmp_path: Path) -> None:
    made = indexes.make(tmp_path / "index", 40, 10, name=name)
    made = made.append(indexes.blocks(indexes.method(name), 30, first=40, files=13), identity={}, asked={})
    gone = [clip.id for row, clip in made.listing() if row % 7 == 3]
    made.delete(gone).append(indexes.blocks(indexes.method(name), 5, first=70, files=5), identity={}, asked={})
    ordinary, light = both(name, tmp_path / "index", indexes.captions(SENTENCES), options)
    assert ordinary[0]
    require_same(ordinary, light)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("options", [SearchOptions(exhaustive=True), SearchOptions(shortlist=12)])
def test_an_index_in_half_precision(name: str, options: SearchOptions, tmp_path: Path) -> None:
    indexes.make(tmp_path / "index", 60, 60, name=name, dim=256, stored="float16")
    parts = Index.open(tmp_path / "index").head.segments[0].parts
    assert any(part.dtype == "float16" and part.name.startswith("t.") for part in parts)
    require_same(*both(name, tmp_path / "index", indexes.captions(SENTENCES, 256), options, 256))


@pytest.mark.parametrize("name", METHODS)
def test_identical_clips_have_one_score(name: str, tmp_path: Path) -> None:
    """In which order they stand is a matter of rounding, in either way."""

    def alike() -> Iterator[IndexBlock]:
        method = indexes.method(name, 64)
        video = indexes.videos(1, 5, 64).rows(torch.zeros(37, dtype=torch.int64))
        encoded = method.encode_video(video)
        clips = [IndexedClip(f"{i * 7 % 37:02d}", f"{i * 7 % 37:02d}", f"/{i}", 0.0, 5.0) for i in range(37)]
        yield IndexBlock(clips, encoded, method.coarse(encoded), video.ts, video.n_frames)

    write_index(tmp_path / "index", {}, alike())
    ordinary, light = both(name, tmp_path / "index", indexes.captions([5, 6], 64), SearchOptions(k=37))
    for a, b in zip(ordinary, light, strict=True):
        assert {h.video_id for h in a} == {h.video_id for h in b} and len(b) == 37
        assert {(h.start, h.end) for h in a} == {(h.start, h.end) for h in b}
        assert [h.score for h in b] == pytest.approx([a[0].score] * 37, abs=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_many_sentences_are_answered_as_each_alone(name: str, tmp_path: Path) -> None:
    indexes.make(tmp_path / "index", 40, 40, name=name)
    index, method = ArrayIndex.open(tmp_path / "index"), _light.METHODS[name]()
    pooled = indexes.captions(list(range(200))).pooled.numpy()
    together = light_search.search(method, index, pooled, SearchOptions(k=3))
    require_same([light_search.search(method, index, one[None], SearchOptions(k=3))[0] for one in pooled], together)


def test_an_empty_index_answers_nothing(tmp_path: Path) -> None:
    write_index(tmp_path / "index", {}, [])
    index = ArrayIndex.open(tmp_path / "index")
    assert light_search.search(_light.Mean(), index, np.ones((2, 16), np.float32), SearchOptions()) == [[], []]


@pytest.mark.parametrize("name", METHODS)
def test_a_sentence_without_length_says_nothing_on_stderr(name: str, tmp_path: Path, recwarn: Any) -> None:
    indexes.make(tmp_path / "index", 12, 12, name=name)
    index = ArrayIndex.open(tmp_path / "index")
    (hits,) = light_search.search(
        _light.METHODS[name](), index, np.zeros((1, 16), np.float32), SearchOptions(min_score=0.0)
    )
    assert hits == [] and not recwarn.list


@pytest.mark.parametrize("name", METHODS)
def test_a_damaged_hit_is_refused(name: str, tmp_path: Path) -> None:
    made = indexes.make(tmp_path / "index", 12, 12, name=name)
    part = next(p for p in made.head.segments[0].parts if p.name == "t.frames")
    path = made.generation / part.file
    data = bytearray(path.read_bytes())
    data[1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"the index is damaged: .*t\.frames.* differs from its checksum"):
        both_light(name, tmp_path / "index")


def both_light(name: str, folder: Path) -> Any:
    text = indexes.captions([0]).pooled.numpy()
    return light_search.search(_light.METHODS[name](), ArrayIndex.open(folder), text, SearchOptions(k=12))


@pytest.mark.parametrize("name", METHODS)
def test_the_options_are_those_of_the_method(name: str) -> None:
    cls = base.load_class(name)
    fields = {f.name: f.default for f in dataclasses.fields(cls.Config)}
    assert dataclasses.asdict(_light.METHODS[name]()) == fields
    resolved = scorers.resolve_method(name).experiment
    assert dict(resolved.options) == fields
    assert (
        resolved.options_hash()
        == scorers.Scorer(base.build(name, Sizes(4, 2, 8)), name, resolved, None, None).identity()["options"]
    )


@pytest.mark.parametrize("temperature", [0.5, 20.0])
def test_the_temperature_counts(temperature: float) -> None:
    method = base.build("text_guided", Sizes(16, 5, 8), {"temperature": temperature})
    text, video = indexes.captions([1, 2]), method.encode_video(indexes.videos(9))
    expected = method.score(method.encode_text(text), video).numpy()
    arrays = {key: value.numpy() for key, value in video.tensors.items()}
    found = _light.TextGuided(temperature=temperature).score(text.pooled.numpy(), arrays)
    np.testing.assert_allclose(found, expected, atol=1e-5)
