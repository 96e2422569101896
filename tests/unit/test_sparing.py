"""The plan of a folder of one's own: a frame a second, and more of them where pictures change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tvr_cli.errors import ConfigError
from tvr_cli.plans import AskedFrames, FramePlan
from tvr_cli.stores.decoding.alike import Thinning, largest_cuts
from tvr_cli.stores.frames.windows import WHOLE, timeline_frames
from tvr_cli.types import View

LOOKS = 4  # a second


def picture(*cells: int, grey: int = 100) -> np.ndarray:
    """A picture in which some of the 256 cells are white."""
    found = np.full((32, 32, 3), grey, np.uint8)
    for cell in cells:
        row, column = 2 * (cell // 16), 2 * (cell % 16)
        found[row : row + 2, column : column + 2] = 255
    return found


def kept(pictures: list[np.ndarray], thin: Thinning | None = None, first: int = 0) -> list[float]:
    """The seconds of the looks that are kept."""
    thin = thin or Thinning(5.0, 1.0, float(LOOKS))
    return [i / LOOKS for i, p in enumerate(pictures, start=first) if thin.take(p, i / LOOKS)[0]]


def test_nothing_that_says_which_frames_gives_a_frame_a_second_and_four_where_pictures_change() -> None:
    plan = AskedFrames().plan()
    assert (plan.kind, plan.fps, plan.detail, plan.alike, plan.slots) == ("timeline", 1.0, 4.0, 5.0, 12)
    assert FramePlan.from_identity(plan.identity()) == plan
    assert AskedFrames(detail=8.0).plan().detail == 8.0
    coarse = AskedFrames(detail=0.0).plan()
    assert (coarse.fps, coarse.detail) == (1.0, None) and "detail" not in coarse.identity()
    assert AskedFrames(fps=4.0).plan().detail is None
    assert AskedFrames(fps=0.5, detail=2.0).plan().detail == 2.0


@pytest.mark.parametrize(
    "there", [FramePlan(num_frames=8), FramePlan("fps", fps=1.0, max_frames=12), AskedFrames().plan()]
)
def test_frames_that_are_there_go_on_with_their_plan(there: FramePlan) -> None:
    assert AskedFrames().plan(None, there) == there


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ({"num_frames": 8}, "or --num-frames"),
        ({"fps": 4.0, "max_frames": 8}, "or --max-frames"),
        ({"view": View(224), "takes": 8}, "or --for .names a backbone that takes 8 frames a clip"),
        ({"fps": 4.0, "keep_all": True}, "or --keep-all .keeps every frame"),
    ],
)
def test_more_frames_where_pictures_change_are_frames_by_time(flags, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        AskedFrames(detail=4.0, **flags).plan()


@pytest.mark.parametrize("detail", [0.5, 2.0, -1.0, float("nan"), float("inf")])
def test_a_rate_of_details_is_above_the_other_one(detail: float) -> None:
    with pytest.raises(ConfigError, match=r"--detail: expected a rate above that of --fps \(2 frames a second"):
        AskedFrames(fps=2.0, detail=detail).plan().check()


def test_a_file_is_looked_at_at_the_rate_of_details() -> None:
    ts = np.arange(100) / 25
    (found,) = timeline_frames(ts, 4.0, [WHOLE], AskedFrames().plan())
    assert ts[found] == pytest.approx([i / 4 for i in range(16)], abs=0.041)


def test_what_happens_in_a_still_picture_is_kept_at_the_rate_of_details() -> None:
    still, event = [picture()] * 22, [picture(i, i + 1) for i in range(4)]
    assert kept([*still, *event, *still]) == [0, 5.5, 5.75, 6, 6.25, 6.5]


def test_where_all_moves_all_the_time_there_is_about_a_frame_a_second() -> None:
    moving = [picture(i % 256, grey=100 + 20 * (i % 2)) for i in range(LOOKS * 60)]
    found = kept(moving)
    assert 60 < len(found) < 90
    assert max(np.diff(found)) <= 1.0 and np.diff(found)[:7].tolist() == [0.25] * 7


def test_a_cut_is_kept_at_once_whatever_was_spent() -> None:
    shots = [picture(cell, grey=grey) for grey in (60, 120, 180, 90) * 4 for cell in range(10)]
    found = kept(shots)
    assert {i * 10 / LOOKS for i in range(16)} <= set(found) and len(found) < 90


def test_short_shots_cost_a_frame_and_long_ones_one_every_second_after_two() -> None:
    spent = [picture(i) for i in range(LOOKS * 10)]  # something new in every look: nothing is left to spend
    shots = [picture(i % 100 + 100, grey=40 + 50 * (i // 14 % 4)) for i in range(14 * 8)]  # of 3.5 seconds
    found = [at for at in kept([*spent, *shots]) if at >= 10 + 14]  # four shots later
    of_shots = [at % 3.5 for at in (np.array(found) - 10).tolist()]
    assert sorted(set(of_shots)) == [0, 2, 3] and len(found) == 3 * 4


def test_what_is_paid_for_does_not_put_off_the_end_of_a_thing() -> None:
    dull = [picture(cell % 200) for cell in range(LOOKS * 30)]
    bare = Thinning(5.0, 1.0, float(LOOKS))
    before = kept(dull, bare)  # all is spent, and one more is saved in eight seconds
    still, thing = [dull[-1]] * (8 * LOOKS + 1), [picture(201 + i) for i in range(LOOKS)]
    rest = kept([*still, *thing, *[dull[-1]] * 8], bare, first=len(dull))
    comes = (len(dull) + len(still)) / LOOKS
    assert before[-1] < 30 and rest == [30.0, comes, comes + 0.25, comes + 1]


def test_a_resumed_reading_keeps_what_one_that_was_not_stopped_does() -> None:
    looks = [picture(i % 7, i % 5 + 20, grey=60 if i % 50 < 20 else 150) for i in range(200)]
    whole, seen = Thinning(5.0, 1.0, float(LOOKS)), list[tuple[float, float, bool]]()
    for i, look in enumerate(looks):
        keeps, change = whole.take(look, i / LOOKS)
        seen.append((i / LOOKS, change, keeps))
    for stopped in (1, 3, 37, 111):
        rest = Thinning(5.0, 1.0, float(LOOKS))
        rest.go_on(seen[:stopped])
        last = max(i for i in range(stopped) if seen[i][2])
        for i in sorted({last, stopped - 1}):
            rest.see_again(looks[i], seen[i][2])
        assert kept(looks[stopped:], rest, first=stopped) == [at for at, _, keeps in seen[stopped:] if keeps]


def test_a_cut_between_two_kept_frames_is_told_by_the_second() -> None:
    at = [i / LOOKS for i in range(12)]
    change = [float("nan"), 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0]
    keeps = [i in (0, 3, 6, 9) for i in range(12)]
    assert np.nan_to_num(largest_cuts(at, change, keeps), nan=-1).tolist() == [-1, 0, 40, 0]
    shaking = [float("nan"), *[20.0] * 11]  # a camera that moves changes all of a picture all the time
    assert np.nan_to_num(largest_cuts(at, shaking, keeps), nan=-1).tolist() == [-1, 0, 0, 0]


def test_a_video_of_one_frame_and_one_that_is_twice_there_are_read(tmp_path: Path) -> None:
    import videos

    from tvr_cli.stores.decoding.sample import Task, sample

    videos.make_video(tmp_path / "one.mp4", 1)
    found = sample(Task(tmp_path / "one.mp4", AskedFrames().plan())).timeline
    assert found is not None and len(found.jpegs) == 1 and np.isnan(found.change[0])
