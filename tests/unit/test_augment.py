"""RandAugment: one transform for all frames of a clip, a pure function of the seed, operations by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tvr_cli.engine.features import augment
from tvr_cli.engine.features.augment import OPERATIONS, RandAugment


def frame(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_equal_frames_stay_equal_whatever_is_drawn() -> None:
    for seed in range(60):
        a, _, c = RandAugment()([frame(0), frame(1), frame(0)], seed)
        assert np.array_equal(pixels(a), pixels(c)) and a.size == (24, 24) and a.mode == "RGB"


def test_the_seed_decides_and_nothing_else() -> None:
    first = [pixels(RandAugment()([frame(0)], seed)[0]) for seed in range(20)]
    again = [pixels(RandAugment()([frame(0)], seed)[0]) for seed in range(20)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({a.tobytes() for a in first}) > 15


def test_half_of_the_layers_apply_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    applied = []
    monkeypatch.setattr(
        augment, "OPERATIONS", (lambda image, strength, sign: applied.append((strength, sign)) or image,)
    )
    for seed in range(1000):
        RandAugment()([frame(0)], seed)
    strengths = np.array([s for s, _ in applied])
    assert abs(len(applied) - 2000) < 130
    assert abs(strengths.mean() - 0.7) < 0.01 and abs(strengths.std() - 0.05) < 0.01
    assert abs(np.mean([sign for _, sign in applied])) < 0.1


def test_without_probability_nothing_changes() -> None:
    assert np.array_equal(pixels(RandAugment(probability=0.0)([frame(0)], 1)[0]), pixels(frame(0)))


@pytest.mark.parametrize(
    ("name", "strength", "sign", "before", "after"),
    [
        ("_invert", 0.7, 1, 30, 225),
        ("_posterize", 0.7, 1, 0b10111111, 0b10000000),  # 4 - int(2.8) = 2 bits stay
        ("_solarize", 0.7, 1, 80, 255 - 80),  # the threshold is 256 - 179 = 77
        ("_solarize", 0.7, 1, 70, 70),
        ("_solarize_add", 0.7, 1, 20, 97),  # 110 * 0.7 = 77
        ("_solarize_add", 0.7, 1, 140, 140),
    ],
)
def test_operations_on_single_values(name: str, strength: float, sign: int, before: int, after: int) -> None:
    image = Image.new("RGB", (4, 4), (before,) * 3)
    assert (pixels(getattr(augment, name)(image, strength, sign)) == after).all()


def test_shifts_move_by_their_share_of_the_side_and_fill_with_grey() -> None:
    image = Image.new("RGB", (20, 20), (0, 0, 0))
    moved = pixels(augment._translate_x(image, 1.0, 1.0))  # 0.45 * 20 = 9 columns come in from the right
    assert (moved[:, :11] == 0).all() and (moved[:, 11:] == 128).all()


def test_there_are_fifteen_operations_and_each_changes_a_frame() -> None:
    assert len(OPERATIONS) == 15
    dim = Image.fromarray((np.asarray(frame(3)) // 3 + 40).astype(np.uint8))
    changed = [not np.array_equal(pixels(op(dim, 0.7, 1.0)), pixels(dim)) for op in OPERATIONS]
    assert all(changed)
