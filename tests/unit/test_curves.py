"""A file's curve: its clips' scores and their frames' weights, or the frames of a film, on the scale of the scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from indexes import captions, make, method

from tvr_cli.engine.searching import curves
from tvr_cli.engine.searching.curves import Window
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.engine.searching.light_search import search as light_search
from tvr_cli.engine.searching.search import search
from tvr_cli.methods import _light
from tvr_cli.stores.index.arrays import ArrayIndex
from tvr_cli.stores.index.segment import IndexedClip


def window(score: float, ts: list[float], weights: list[float]) -> Window:
    return Window(IndexedClip("a", "a", "/a", ts[0], ts[-1], tuple(ts)), score, np.array(weights))


def test_a_frame_stands_as_high_as_its_clip_where_it_weighs_most():
    curve = curves.of_windows([window(0.8, [1.0, 2.0, 3.0], [0.25, 0.5, 0.0])], 0.2, 0.9)
    assert curve.ts == (1.0, 2.0, 3.0) and curve.values == pytest.approx((0.5, 0.8, 0.2))
    assert (curve.low, curve.high) == (0.2, 0.9)


def test_where_clips_overlap_the_higher_one_counts():
    first, second = window(0.4, [0.0, 2.0, 4.0], [1, 1, 1]), window(0.6, [3.0, 5.0], [1, 1])
    curve = curves.of_windows([second, first], 0.0, 1.0)
    assert curve.ts == (0.0, 2.0, 3.0, 4.0, 5.0) and curve.values == pytest.approx((0.4, 0.4, 0.6, 0.6, 0.6))


def test_scores_that_are_no_numbers_lie_at_the_bottom():
    curve = curves.of_windows([window(float("nan"), [0.0, 1.0], [float("nan"), 1.0])], 0.1, 0.5)
    assert curve.values == (0.1, 0.1)
    assert curves.of_windows([], 0.1, 0.5).ts == ()


def test_one_score_has_a_step_below_it():
    assert curves.reach(np.array([0.3, np.nan, 0.1, -np.inf])) == (0.1, 0.3)
    assert curves.reach(np.array([0.3, 0.3])) == (pytest.approx(-0.7), 0.3)
    assert curves.reach(np.array([np.nan])) == (0.0, 1.0)


def test_a_long_curve_keeps_its_peaks():
    values = np.zeros(100_000)
    values[77_777] = 1.0
    curve = curves.thinned(np.arange(100_000.0), values, 0.0, 0.5)
    assert len(curve.ts) == 480 and max(curve.values) == 1.0 == curve.high
    assert curve.ts[curve.values.index(1.0)] == 77_777.0 and list(curve.ts) == sorted(curve.ts)


@pytest.mark.parametrize("name", ["mean", "text_guided"])
def test_both_ways_of_searching_draw_the_same_and_it_is_all_of_the_file(name, tmp_path):
    model, options = method(name), SearchOptions(k=3, per_file=1, curves=True)
    index = make(tmp_path / "index", name=name)
    asked = captions([20])
    found = search(model, index, model.encode_text(asked), options)[0]
    light = light_search(_light.METHODS[name](), ArrayIndex.open(tmp_path / "index"), asked.pooled.numpy(), options)[0]
    every = torch.cat([model.score(model.encode_text(asked), video)[0] for _, video in index.blocks()])
    for a, b in zip(found, light, strict=True):
        assert a.curve is not None and b.curve is not None and a.video_id == b.video_id
        assert a.curve.ts == b.curve.ts and a.curve.values == pytest.approx(b.curve.values, abs=1e-5)
        assert (a.curve.low, a.curve.high) == pytest.approx((float(every.min()), float(every.max())), abs=1e-5)
        assert max(a.curve.values) == pytest.approx(a.score, abs=1e-6)  # its best clip at the frame that weighs most
    rows = [row for row, clip in index.listing() if clip.file_id == found[0].video_id]
    assert len(rows) == 4  # of which one is the hit
    seen = {round(t, 6) for row in rows for t in index.clip(row).ts}
    assert set(found[0].curve.ts) == seen  # type: ignore[union-attr]


def test_without_being_asked_for_there_is_no_curve(tmp_path):
    model = method()
    found = search(model, make(tmp_path / "index"), model.encode_text(captions([20])), SearchOptions(k=3))[0]
    assert all(hit.curve is None for hit in found)
