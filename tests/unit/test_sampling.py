"""The order of samples is a pure function of (seed, epoch), and every kind of draw is fair."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tvr_cli.engine.training.sampling import PairSampler, hold_out

# Three videos: clip 0 with captions 10 11 12, clip 1 with caption 13, a file cut into clips 2 3 4 with caption 14.
CAPTIONS = [10, 11, 12, 13, 14]
POSITIVES = [(0,), (0,), (0,), (1,), (2, 3, 4)]


def sampler(**options) -> PairSampler:
    return PairSampler(CAPTIONS, POSITIVES, **({"batch_size": 2} | options))


def test_one_caption_of_each_video_is_drawn_an_epoch() -> None:
    for epoch in range(20):
        pairs = sampler().epoch(epoch)
        assert len(pairs) == 3
        assert sorted(min(c, 2) for c in pairs[:, 1]) == [0, 1, 2]


def test_every_caption_is_drawn_when_all_are_asked_for() -> None:
    pairs = sampler(per_video="all").epoch(3)
    assert sorted(pairs[:, 0]) == CAPTIONS


def test_a_caption_always_comes_with_one_of_its_clips() -> None:
    for caption, clip in sampler(per_video="all").epoch(0):
        assert clip in POSITIVES[CAPTIONS.index(caption)]


def test_captions_windows_and_places_are_drawn_evenly() -> None:
    epochs = [sampler().epoch(e) for e in range(3000)]
    captions = Counter(int(c) for e in epochs for c in e[:, 0] if c < 13)
    windows = Counter(int(c) for e in epochs for c in e[:, 1] if c >= 2)
    first = Counter(int(min(e[0, 1], 2)) for e in epochs)
    for counts in (captions, windows, first):
        assert all(900 < n < 1100 for n in counts.values()), counts


def test_the_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    a, b = sampler(seed=1, per_video="all"), sampler(seed=1, per_video="all")
    b.epoch(0)
    assert np.array_equal(a.epoch(5), b.epoch(5))
    assert any(not np.array_equal(a.epoch(e), a.epoch(e + 1)) for e in range(5))
    assert any(not np.array_equal(a.epoch(e), sampler(seed=2, per_video="all").epoch(e)) for e in range(5))


def test_the_order_is_the_same_in_every_version() -> None:
    # Pinned: a run of an older version must resume to the same samples.
    pairs = PairSampler(range(6), [(i,) for i in range(6)], batch_size=6, seed=0).epoch(0)
    assert pairs[:, 0].tolist() == [2, 3, 0, 1, 5, 4]


def test_batches_are_cut_in_order_and_the_rest_is_left_out() -> None:
    s = sampler(per_video="all")
    assert s.steps == 2
    assert np.array_equal(np.concatenate(s.batches(0)), s.epoch(0)[:4])


def test_a_single_small_batch_is_kept() -> None:
    s = sampler(batch_size=100)
    assert s.steps == 1 and len(s.batches(0)[0]) == 3


def test_no_captions_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="at least one caption"):
        PairSampler([], [], batch_size=2)


def test_held_out_videos_do_not_depend_on_order_and_leave_some_to_train() -> None:
    videos = [f"v{i}" for i in range(100)]
    held = hold_out(videos)
    assert held == hold_out(videos[::-1] + videos) and len(held) == 10
    assert len(hold_out(["a", "b"])) == 1 and hold_out(["a", "a"]) == frozenset()
    assert len(hold_out(videos, most=3)) == 3
