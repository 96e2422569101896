"""Windows that a method has ranked, on films by time: each gives its best moment and the peaks of the curve in it."""

import numpy as np
import pytest
import torch

from tvr_cli.engine.searching import cells
from tvr_cli.engine.searching.hits import Moment, SearchOptions
from tvr_cli.engine.searching.moments import Finder
from tvr_cli.stores.index.store import IndexBlock, IndexedClip, write_index
from tvr_cli.stores.index.timeline import FilmBlock
from tvr_cli.types import Encoding

AXES = np.eye(8, dtype=np.float32)
LENGTH = 16
EVENTS = [(2, 4), (6, 9), (11, 13)]  # seconds of the film in which the first axis is seen; cuts all around


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    ts = np.arange(LENGTH * 2) / 2
    shown = np.full(len(ts), 1)
    for start, end in EVENTS:
        shown[2 * start : 2 * end] = 0
    shown[2 * 14 :] = 3
    hard = np.append(True, np.diff(shown) != 0)
    track = cells.Track(AXES[shown] + 0.02, ts, ts + 0.5, hard, ts)
    track = cells.Track(track.unit / np.linalg.norm(track.unit, axis=1, keepdims=True), ts, ts + 0.5, hard, ts)
    found = cells.candidates(track, np.zeros(len(ts), bool))
    length = np.concatenate([part for _, part in cells.means(track, found)])
    null = np.zeros(len(found))
    film = FilmBlock("a", "/a", track.unit, ts, ts + 0.5, ts, found, length, null, null)
    clips, one = [IndexedClip("a", "a", "/a", 0.0, float(LENGTH))], torch.ones(1, dtype=torch.int64)
    block = IndexBlock(clips, Encoding(torch.arange(1), {"none": torch.zeros(1, 1)}), one[:, None], one[:, None], one)
    index = write_index(tmp_path_factory.mktemp("films") / "index", {}, [block], films=[film])
    return Finder(index.films)


def inside(finder, start, end, *, k=10):
    query = AXES[:1]
    (peaks,) = finder.peaks(query, SearchOptions(k=k))
    found = finder.inside(IndexedClip("w", "a", "/a", float(start), float(end)), query[0], peaks)
    return [(moment.start, moment.end) for moment in found]


def test_a_window_with_several_events_has_several_moments(finder):
    found = inside(finder, 0, LENGTH)
    assert set(found[:3]) == set(EVENTS)
    assert not any(Moment(*a, 0).overlaps(Moment(*b, 0)) for a in found for b in found if a is not b)


def test_a_moment_that_windows_cut_in_two_is_one_in_each_that_has_half_of_it(finder):
    assert inside(finder, 4, 7.5)[0] == (6, 9) and inside(finder, 7.5, 10)[0] == (6, 9)
    assert (6, 9) not in inside(finder, 4, 7)


def test_a_window_without_a_peak_gives_its_best_moment(finder, monkeypatch):
    monkeypatch.setattr("tvr_cli.engine.searching.moments._PEAKS", 1)
    assert inside(finder, 13, LENGTH, k=1) in ([(13, 14)], [(14, 16)])
    assert inside(finder, 14.2, 15.8, k=1) == []


def test_an_event_is_a_moment_once_in_windows_that_share_it(finder):
    assert inside(finder, 0, 10).count((6, 9)) == inside(finder, 5, LENGTH).count((6, 9)) == 1
