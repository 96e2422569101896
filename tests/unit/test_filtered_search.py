"""A search of some files only: the others are left out before anything is ranked, however narrow a shortlist is."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import indexes
import numpy as np
import pytest
import torch

from tvr_cli.engine.searching import light_search
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.engine.searching.search import search
from tvr_cli.methods import _light
from tvr_cli.results.found import Hit
from tvr_cli.stores.index.arrays import ArrayIndex
from tvr_cli.stores.index.store import Index, IndexBlock, write_index

CLIPS, FILES, RARE = 400, 100, frozenset({"37.mp4", "61.mp4"})
NARROW = [
    pytest.param({"first": "coarse", "clips": CLIPS, "shortlist": 6, "prefilter": 0}, id="coarse"),
    pytest.param({"first": "rough", "clips": CLIPS, "shortlist": 6, "prefilter": 0}, id="rough"),
    pytest.param({"first": "coarse", "clips": CLIPS, "shortlist": 6, "prefilter": 12}, id="coarse, then rough"),
]


def answers(name: str, folder: Path, options: SearchOptions) -> list[list[list[Hit]]]:
    """Those of a session, and of numpy where it knows the method."""
    model, text = indexes.method(name), indexes.captions([3, 11])
    found = [search(model, Index.open(folder), model.encode_text(text), options)]
    if name in _light.METHODS:
        pooled = text.pooled.numpy()
        found.append(light_search.search(_light.METHODS[name](), ArrayIndex.open(folder), pooled, options))
    return found


def wanted(name: str, folder: Path, only: frozenset[str], k: int) -> list[list[tuple[str, float]]]:
    """What scoring every clip and looking at some files alone gives."""
    model = indexes.method(name)
    every = SearchOptions(k=CLIPS, exhaustive=True, per_file=1)
    whole = search(model, Index.open(folder), model.encode_text(indexes.captions([3, 11])), every)
    return [[(hit.video_id, hit.start) for hit in hits if hit.video_id in only][:k] for hits in whole]


@pytest.mark.parametrize("way", NARROW)
@pytest.mark.parametrize("name", ["mean", "text_guided", "gare"])
def test_a_rare_file_of_a_large_library_still_has_all_its_answers(name, way, tmp_path):
    indexes.make(tmp_path / "index", CLIPS, FILES, name=name, measured={"way": way})
    options = SearchOptions(k=2, per_file=1, only=RARE)
    for found in answers(name, tmp_path / "index", options):
        assert [{hit.video_id for hit in hits} for hits in found] == [RARE, RARE]
        assert [[(h.video_id, h.start) for h in hits] for hits in found] == wanted(name, tmp_path / "index", RARE, 2)


@pytest.mark.parametrize("way", NARROW)
@pytest.mark.parametrize("name", ["mean", "gare"])
def test_many_files_go_through_the_stages_alone(name, way, tmp_path):
    indexes.make(tmp_path / "index", CLIPS, FILES, name=name, measured={"way": way})
    half = frozenset(f"{i}.mp4" for i in range(0, FILES, 2))
    for found in answers(name, tmp_path / "index", SearchOptions(k=6, per_file=1, only=half)):
        assert all(len({hit.video_id for hit in hits}) == 6 and {h.video_id for h in hits} <= half for hits in found)


def test_what_was_deleted_or_is_not_there_is_no_answer(tmp_path):
    made = indexes.make(tmp_path / "index", 40, 10)
    gone = [clip.id for _, clip in made.listing() if clip.file_id == "3.mp4"]
    grown = made.delete(gone).append(indexes.blocks(indexes.method(), 20, first=40, files=20), identity={}, asked={})
    assert not len(grown.rows(frozenset({"x.mp4"}))) and len(grown.rows(frozenset({"5.mp4"}))) == 5
    for only, files in [({"3.mp4"}, {"3.mp4"}), ({"5.mp4", "3.mp4"}, {"5.mp4", "3.mp4"}), ({"x.mp4"}, set())]:
        rows = grown.rows(frozenset(only)).tolist()
        assert {grown.clip(row).file_id for row in rows} == files and not set(gone) & {grown.clip(r).id for r in rows}
        assert np.array_equal(ArrayIndex.open(tmp_path / "index").rows(frozenset(only)), torch.tensor(rows))
    for found in answers("mean", tmp_path / "index", SearchOptions(only=frozenset({"x.mp4"}))):
        assert found == [[], []]


@pytest.mark.parametrize("name", ["text_guided", "gare"])
def test_a_clip_that_scores_as_no_number_takes_no_confidence_from_others(name, tmp_path):
    line = np.linspace(-2, 2, 101).tolist()
    lines = {"moments": 400, "sentences": 496, "strange": 100, "best": line, "apart": line, "why": None}
    made = indexes.make(tmp_path / "index", CLIPS, FILES, name=name, measured={"confidence": lines})
    first = tmp_path / "none" / "index"
    model = indexes.method(name)
    empty = replace(indexes.videos(1), frames=torch.full((1, indexes.FRAMES, indexes.DIM), float("nan")))
    encoded = model.encode_video(empty)
    block = IndexBlock([indexes.indexed(0, FILES)], encoded, model.coarse(encoded), empty.ts, empty.n_frames)
    rest = indexes.blocks(model, CLIPS - 1, first=1, files=FILES)
    write_index(first, {"method": name}, itertools.chain([block], rest), measured={"confidence": lines})
    assert len(made) == len(Index.open(first))
    for folder in (tmp_path / "index", first):
        for found in answers(name, folder, SearchOptions(k=2, per_file=1, only=RARE)):
            assert all(hit.confidence is not None and hit.confidence > 0.3 for hits in found for hit in hits)
