"""A file may claim any length: what is done for it follows its frames, or a limit is stated."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvr_cli.errors import DecodeError
from tvr_cli.plans import FramePlan
from tvr_cli.stores.decoding.sample import Task, sample
from tvr_cli.stores.frames.windows import AUTO, MAX_WINDOWS, Segmenting, Span, choose_frames, cut

YEARS = 20 * 365 * 86400


@pytest.fixture(scope="module")
def two_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two frames that are twenty years apart."""
    path = tmp_path_factory.mktemp("years") / "years.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(2):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = i * YEARS * 1000, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_two_frames_twenty_years_apart_are_refused_with_the_reason(two_frames: Path) -> None:
    with pytest.raises(DecodeError, match=r"7,300 days.* windows of 30 s.*at most 100,000.*--segment none"):
        sample(Task(two_frames, FramePlan("uniform", num_frames=2), segmenting=AUTO))


def test_without_windows_they_are_two_frames_at_any_rate(two_frames: Path) -> None:
    for plan in (FramePlan("uniform", num_frames=2), FramePlan("fps", fps=30.0)):
        (clip,) = sample(Task(two_frames, plan)).clips
        assert clip.ts.tolist() == [0.0, YEARS]


def test_the_limit_is_a_number_of_windows_not_of_seconds() -> None:
    assert len(cut(MAX_WINDOWS * 25.0, AUTO)) == MAX_WINDOWS
    with pytest.raises(DecodeError):
        cut(MAX_WINDOWS * 25.0 + 30, AUTO)
    assert len(cut(float(YEARS), Segmenting(YEARS / 10, 0.0, YEARS / 10))) == 10


@given(
    gaps=st.lists(st.sampled_from([0.001, 0.02, 1 / 30, 0.04, 0.5, 1.0, 7.3, 60.0]), min_size=1, max_size=30),
    rate=st.sampled_from([0.1, 1.0, 3.0, 29.97, 30.0, 1000.0]),
    start=st.sampled_from([None, 0.0, 0.5, 1 / 3, 2.0, 11.7]),
    length=st.sampled_from([0.02, 1.0, 30.0, 200.0]),
)
def test_a_rate_keeps_the_frames_that_trying_every_instant_keeps(
    gaps: list[float], rate: float, start: float | None, length: float
) -> None:
    ts = np.cumsum([0.0, *gaps])
    end = float(ts[-1] + 0.04)
    span = Span(start, None if start is None else start + length)
    if (start or 0.0) < end:
        found = choose_frames(ts, end, span, FramePlan("fps", fps=rate))
        assert found.tolist() == every_instant(ts, end, span, rate)


def every_instant(ts: np.ndarray, end: float, span: Span, rate: float) -> list[int]:
    """What `choose_frames` says of a rate, word for word: one instant after the other."""
    rounding = 5e-4
    start_s, end_s = span.within(end)
    first, last = (int(x) for x in np.searchsorted(ts, [start_s - rounding, end_s - rounding]))
    first = 0 if span.start is None else first
    if first >= last:
        return [int(np.searchsorted(ts, start_s, side="right")) - 1]
    begin = start_s if span.start is not None else float(ts[0])
    instants = begin + np.arange(max(1, math.ceil((end_s - begin) * rate - 1e-9))) / rate
    on_screen = np.searchsorted(ts, instants + rounding, side="right") - 1
    return np.unique(np.clip(on_screen, first, last - 1)).tolist()
