"""Which frames a plan keeps, and how a file is cut: small cases with answers that a reader can check."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvr_cli.errors import ConfigError
from tvr_cli.plans import FramePlan
from tvr_cli.stores.frames.windows import AUTO, WHOLE, Segmenting, Span, choose_frames, clip_id, cut, parse_segment


def at(fps: float, n: int) -> np.ndarray:
    return np.arange(n) / fps


def uniform(n: int, frames: int, span: Span = WHOLE, fps: float = 10.0) -> list[int]:
    return choose_frames(at(fps, n), n / fps, span, FramePlan(num_frames=frames)).tolist()


def by_rate(ts: np.ndarray, end: float, rate: float, most: int | None = None, span: Span = WHOLE) -> list[int]:
    return choose_frames(ts, end, span, FramePlan(kind="fps", fps=rate, max_frames=most)).tolist()


def test_uniform_takes_the_middle_of_equal_parts() -> None:
    assert uniform(120, 12) == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95, 105, 115]
    assert uniform(100, 3) == [16, 50, 83]
    assert uniform(7, 1) == [3]


def test_uniform_never_repeats_a_frame() -> None:
    assert uniform(5, 12) == [0, 1, 2, 3, 4]
    assert uniform(1, 12) == [0]
    assert uniform(13, 12) == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]


def test_uniform_counts_within_the_span() -> None:
    assert uniform(100, 2, Span(2.0, 4.0)) == [25, 35]
    assert uniform(100, 2, Span(8.0, None)) == [85, 95]
    assert uniform(100, 100, Span(None, 0.5)) == [0, 1, 2, 3, 4]


def test_a_rate_takes_the_frame_on_screen() -> None:
    assert by_rate(at(30, 90), 3.0, 1.0) == [0, 30, 60]
    assert by_rate(at(29.97, 90), 90 / 29.97, 1.0) == [0, 29, 59, 89]  # 1.0 s lies between frames 29 and 30
    assert by_rate(at(25, 50), 2.0, 2.0) == [0, 12, 25, 37]
    # variable rate: frames at 0, 0.1, 0.2, 3.0; at 1 s and 2 s the third one is still on screen
    assert by_rate(np.array([0.0, 0.1, 0.2, 3.0]), 4.0, 1.0) == [0, 2, 3]


def test_a_rate_above_the_frame_rate_takes_each_frame_once() -> None:
    assert by_rate(at(5, 10), 2.0, 30.0) == list(range(10))


def test_times_rounded_to_milliseconds_are_met() -> None:
    ts = np.round(np.arange(72) / 24, 3) + 0.0004
    assert by_rate(ts - ts[0], 3.0, 2.0) == [0, 12, 24, 36, 48, 60]


def test_too_many_frames_are_thinned_from_first_to_last() -> None:
    assert by_rate(at(10, 100), 10.0, 1.0, most=4) == [0, 30, 60, 90]
    assert by_rate(at(10, 100), 10.0, 1.0, most=10) == list(range(0, 100, 10))
    assert by_rate(at(10, 100), 10.0, 1.0, most=1) == [0]


def test_a_rate_counts_from_the_start_of_the_span() -> None:
    assert by_rate(at(10, 100), 10.0, 1.0, span=Span(2.5, 5.5)) == [25, 35, 45]
    late = at(10, 100) + 0.25  # the video begins at 0.25 s
    assert by_rate(late, 10.25, 1.0) == list(range(0, 100, 10))


def test_a_span_between_two_frames_has_the_one_on_screen() -> None:
    slides = np.array([0.0, 60.0, 120.0])
    assert choose_frames(slides, 180.0, Span(70.0, 100.0), FramePlan()).tolist() == [1]
    assert choose_frames(slides, 180.0, Span(200.0, 230.0), FramePlan()).tolist() == []


def test_auto_cuts_only_long_files() -> None:
    assert cut(45.0, AUTO) == [WHOLE]
    assert cut(46.0, AUTO) == [Span(0, 30), Span(25, 46)]
    assert cut(55.3, AUTO) == [Span(0, 30), Span(25, 55.3)]  # 0.3 s more are joined to the last window
    assert cut(61.0, AUTO) == [Span(0, 30), Span(25, 55), Span(50, 61)]
    assert len(cut(2400.0, AUTO)) == 96 and cut(2400.0, AUTO)[-1] == Span(2375, 2400)
    assert cut(1e4, None) == [WHOLE]


@settings(max_examples=60)
@given(st.floats(0.1, 600), st.floats(4, 100), st.floats(0, 0.9))
def test_windows_cover_the_file_and_overlap_as_asked(duration: float, length: float, share: float) -> None:
    spans = cut(duration, Segmenting(length, length * share, length))
    if spans == [WHOLE]:
        return
    assert spans[0].start == 0 and spans[-1].end == pytest.approx(duration, abs=1e-3)
    for a, b in itertools.pairwise(spans):
        assert a.end is not None and b.start is not None and b.end is not None
        assert a.end - b.start == pytest.approx(length * share, abs=5e-3) and b.end > a.end


@settings(max_examples=60)
@given(st.integers(1, 400), st.integers(1, 40), st.floats(0.5, 60))
def test_chosen_frames_are_ascending_inside_and_at_most_as_many(n: int, frames: int, fps: float) -> None:
    chosen = uniform(n, frames, fps=fps)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(n, frames) and 0 <= chosen[0] <= chosen[-1] < n
    rated = by_rate(at(fps, n), n / fps, 2.0, most=frames)
    assert rated == sorted(set(rated)) and 1 <= len(rated) <= min(n, frames)


def test_clip_ids_are_media_fragments() -> None:
    assert clip_id("a/b.mp4", WHOLE) == "a/b.mp4"
    assert clip_id("a.mp4", Span(30.0, 60.0)) == "a.mp4#t=30,60"
    assert clip_id("a.mp4", Span(25.0, 47.52)) == "a.mp4#t=25,47.52"
    assert clip_id("a.mp4", Span(12.5)) == "a.mp4#t=12.5"


@pytest.mark.parametrize("text", ["30", "30/", "x/5", "0/0", "5/5", "5/9", "-3/1", ""])
def test_a_bad_segment_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--segment"):
        parse_segment(text)


def test_segments_are_read() -> None:
    assert parse_segment("auto") == AUTO and parse_segment("none") is None
    assert parse_segment("10/2.5") == Segmenting(10.0, 2.5, 10.0)
