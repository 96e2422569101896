"""Where moments of a film may begin and end."""

import numpy as np
import pytest

from tvr_cli.engine.searching import cells

AXES = np.eye(4, dtype=np.float32)


def film(shown, *, change=None, step=0.25, spans=None):
    """A track of frames that show the axes of these numbers, one every `step` seconds, every look kept."""
    ts = np.arange(len(shown)) * step
    changed = np.zeros(len(shown)) if change is None else np.array(change, float)
    found = cells.track(AXES[shown] * 3, ts, changed, spans or [(0.0, len(shown) * step)])
    assert found is not None
    return found


def spans_of(track, edge=0.3):
    found = cells.candidates(track, cells.distances(track) > edge)
    return [(float(track.ts[a]), float(track.until[b - 1])) for a, b in found]


def test_a_hard_edge_ends_every_moment():
    track = film([0, 0, 1, 1, 2, 2], change=[np.nan, 0, 9, 0, 9, 0])
    assert spans_of(track) == [(0, 0.375), (0.375, 0.875), (0.875, 1.5)]


def test_an_edge_lies_between_the_last_look_of_before_and_the_first_of_after():
    ts = np.array([0.0, 0.25, 1.0, 1.25])  # those at 0.5 and 0.75 s showed nothing new, and were left out
    assert cells.begun(ts, 4).tolist() == [0, 0.125, 0.875, 1.125]
    assert cells.begun(ts, None).tolist() == [0, 0.125, 0.625, 1.125]  # there were none
    slow = np.array([0.0, 0.2, 0.467])  # four a second of a file of 15: no look in between was missed
    assert cells.begun(slow, 4).tolist() == pytest.approx([0, 0.1, 0.342])


def test_events_of_any_phase_are_found_where_they_are_on_average():
    errors = []
    for phase in np.arange(24) / 96:
        ts = np.arange(16) / 4
        shown = ((ts >= 1 + phase) & (ts < 2 + phase)).astype(int)
        track = cells.track(AXES[shown], ts, np.append(np.nan, 9 * np.abs(np.diff(shown))), [(0.0, 4.0)], looks=4)
        start, end = spans_of(track)[1]
        errors += [start - 1 - phase, end - 2 - phase]
    assert np.abs(errors).max() <= 0.125 + 1e-9 and abs(np.mean(errors)) < 0.01


def test_a_frame_was_seen_between_its_edges_and_at_the_look_that_it_is_of():
    track = film([0, 0, 1, 1], spans=[(0.2, 0.7)])
    assert track.ts.tolist() == [0.2, 0.375, 0.625] and track.until.tolist() == [0.375, 0.625, 0.7]
    assert track.seen.tolist() == [0.25, 0.5, 0.7]  # the last look came when the span was over


def test_a_camera_that_moves_is_not_full_of_cuts_and_a_cut_in_it_is_one():
    moving = np.array([np.nan, *[10.0, 14, 9, 12, 15, 11, 8, 55, 13, 10, 16, 9, 12, 14, 10]])
    assert np.flatnonzero(cells.cuts(np.arange(16) / 4, moving)).tolist() == [8]


def test_a_camera_that_moves_has_no_cuts_where_frames_are_not_evenly_apart():
    ts = np.floor(np.arange(17) * 15 / 4) / 15  # four a second of a file of 15: 0.2 or 0.27 s apart
    moving = np.array([np.nan, *[20.0, 10] * 4, *[10.0, 20] * 4])
    moving[8] = 40  # twice what is usual around it
    assert not cells.cuts(ts, moving)[1:].any()
    moving[8] = 60
    assert np.flatnonzero(cells.cuts(ts, moving)).tolist() == [8]


def test_what_moves_just_before_a_cut_is_no_cut_of_its_own():
    ts, change = np.arange(9) / 4, np.array([np.nan, 1, 2, 4, 11, 104, 2, 1, 2])
    assert np.flatnonzero(cells.cuts(ts, change)).tolist() == [5]
    change[4] = 60
    assert np.flatnonzero(cells.cuts(ts, change)).tolist() == [4, 5]


def test_slides_that_follow_each_other_are_cuts():
    assert (
        cells.cuts(np.array([0.0, 1.0, 2.0, 2.25, 4.0]), np.array([np.nan, 30, 40, 35, 30])).tolist()[1:] == [True] * 4
    )


def test_moments_are_also_runs_over_soft_edges():
    track = film([0, 0, 0, 0, 1, 1, 1, 1], change=[np.nan, *[1.0] * 7])
    assert spans_of(track) == [(0, 0.875), (0, 2), (0.875, 2)]


def test_a_soft_edge_lies_where_the_distance_is_largest():
    distances = cells.distances(film([0, 0, 0, 0, 1, 1, 1, 1]))
    assert np.flatnonzero(distances).tolist() == [4] and distances[4] == pytest.approx(1)


def test_the_length_of_features_and_a_rotation_of_them_change_nothing():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0].astype(np.float32)
    shown, ts = AXES[[0, 0, 1, 1, 1, 2, 2, 2]] + 0.1, np.arange(8) / 4
    change = np.full(8, np.nan)
    plain, other = (cells.track(f, ts, change, [(0.0, 2.0)]) for f in (shown, 10 * shown @ rotation))
    assert cells.distances(plain) == pytest.approx(cells.distances(other), abs=1e-6)


def test_what_flickers_begins_and_ends_somewhere():
    shown = [0] * 4 + [1, 0, 1] + [0] * 4  # a quarter of a second each: half of it is what was seen before
    mixed = AXES.copy()
    mixed[1, 0] = 0.3  # a thing on the picture that it blinks in
    track = cells.track(mixed[shown], np.arange(11) / 4, np.zeros(11), [(0.0, 11 / 4)])
    assert (0.875, 1.625) in spans_of(track)


def test_what_is_shorter_than_half_a_second_is_no_moment_but_a_shot_is():
    soft = film([0] * 4 + [1] + [0] * 4)
    assert np.flatnonzero(cells.distances(soft) > 0.9).tolist() == [4, 5]
    assert (0.875, 1.125) not in spans_of(soft) and (0, 1.125) in spans_of(soft)
    shot = film([0] * 4 + [1] + [0] * 4, change=[np.nan, 0, 0, 0, 9, 9, 0, 0, 0])
    assert spans_of(shot) == [(0, 0.875), (0.875, 1.125), (1.125, 2.25)]


def test_no_run_is_longer_than_eight_seconds_or_twelve_cells():
    shown = [i % 2 for i in range(40) for _ in range(2)]  # a soft edge every half second
    found = spans_of(film(shown), edge=0.05)
    assert max(end - start for start, end in found) <= 6.125  # twelve cells of half a second; the last ends the film
    slow = spans_of(film(shown, step=1.0), edge=0.05)
    assert max(end - start for start, end in slow) <= 8.0


def test_a_cell_without_an_edge_is_cut_and_a_picture_that_stands_is_not():
    cut = spans_of(film([0] * 80))  # 20 seconds
    assert [end - start for start, end in cut] == pytest.approx([6.75, 6.5, 6.75], abs=0.3) and cut[-1][1] == 20
    standing = cells.track(AXES[[0]], np.zeros(1), np.full(1, np.nan), [(0.0, 60.0)])
    assert spans_of(standing) == [(0, 60)]


def test_what_lies_between_two_spans_of_a_file_is_in_no_moment():
    found = spans_of(film([0] * 16, spans=[(0.0, 1.0), (3.0, 4.0)]))
    assert found == [(0, 1), (3, 4)]


def test_frames_weigh_as_long_as_they_stand():
    track = cells.track(AXES[[0, 1]], np.array([0.0, 3.125]), np.full(2, np.nan), [(0.0, 4.0)], looks=4)
    ((unit, length),) = cells.means(track, np.array([[0, 2]]))
    assert unit[0] == pytest.approx([3 / 10**0.5, 1 / 10**0.5, 0, 0]) and length[0] == pytest.approx(10**0.5 / 4)


def test_a_long_film_is_worked_through_in_parts(monkeypatch):
    shown = np.random.default_rng(0).integers(0, 4, 100).tolist()
    whole = cells.distances(film(shown))
    runs = cells.candidates(film(shown), whole > 0.1)
    ((unit, length),) = cells.means(film(shown), runs)
    monkeypatch.setattr(cells, "_ROWS", 7)
    assert cells.distances(film(shown)) == pytest.approx(whole)
    parts = list(cells.means(film(shown), runs))
    assert len(parts) > 1 and np.concatenate([u for u, _ in parts]) == pytest.approx(unit)
    assert np.concatenate([n for _, n in parts]) == pytest.approx(length)


def test_frames_of_no_length_are_no_number():
    track = cells.track(np.zeros((3, 4), np.float32), np.arange(3.0), np.full(3, np.nan), [(0.0, 3.0)])
    assert cells.distances(track).tolist() == [0, 0, 0]
    ((_, length),) = cells.means(track, np.array([[0, 3]]))
    assert length.tolist() == [0]
