"""What becomes of a picture: what is stored of it, what an encoder sees of that, and what open_clip would have seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tvr_cli.engine.features.frame_loader import seen
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.plans import FramePlan
from tvr_cli.stores.decoding.sample import encode_jpeg
from tvr_cli.stores.frames.picture import see, to_store
from tvr_cli.types import View

SHAPES = [(360, 640), (640, 360), (480, 640), (224, 224), (720, 1280), (97, 301), (50, 50), (48, 27), (1, 7)]
MODES = {"crop": "shortest", "squash": "squash"}  # open_clip's words


def noise(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def whole(size: int, **others: Any) -> FramePlan:
    return FramePlan(size=size, fit="whole", short_side=size, **others)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fit", MODES)
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_an_encoder_sees_what_open_clip_would_show_it(shape: tuple[int, int], fit: Any, resample: Any) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(
        PreprocessCfg(224, mean=(0, 0, 0), std=(1, 1, 1), interpolation=resample, resize_mode=MODES[fit]),
        is_train=False,
    )
    wanted = (transform(Image.fromarray(noise(shape))).permute(1, 2, 0) * 255).round().byte().numpy()
    np.testing.assert_array_equal(see(noise(shape), View(224, fit, resample)), wanted)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_cropped_or_squashed_store_holds_what_its_encoder_sees(shape: tuple[int, int]) -> None:
    for plan in (FramePlan(), FramePlan(fit="squash", filter="bilinear", size=96)):
        view = View(plan.size, plan.fit, plan.filter)  # type: ignore[arg-type]
        np.testing.assert_array_equal(to_store(noise(shape), plan), see(noise(shape), view))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_whole_picture_keeps_its_shape_and_is_never_enlarged(shape: tuple[int, int]) -> None:
    stored = to_store(noise(shape), whole(96))
    if min(shape) <= 96:
        np.testing.assert_array_equal(stored, noise(shape))
    else:
        assert min(stored.shape[:2]) == 96
        assert stored.shape[0] / stored.shape[1] == pytest.approx(shape[0] / shape[1], abs=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_whole_picture_that_is_cropped_later_is_the_one_that_is_cropped_at_once(shape: tuple[int, int]) -> None:
    later = see(to_store(noise(shape), whole(224)), View(224))
    np.testing.assert_array_equal(later, to_store(noise(shape), FramePlan()))


def test_frames_serve_who_sees_no_more_than_they_show() -> None:
    crop, squash, large = View(224), View(224, "squash", "bilinear"), View(384, "squash")
    assert [whole(384).serves(v) for v in (crop, squash, large)] == [True, True, True]
    assert [whole(224).serves(v) for v in (crop, squash, large)] == [True, True, False]
    assert [FramePlan().serves(v) for v in (crop, squash, large)] == [True, False, False]
    assert [FramePlan(fit="squash", size=384).serves(v) for v in (crop, squash, large)] == [False, True, True]


def test_a_stored_frame_of_another_shape_than_its_plan_says_is_refused() -> None:
    wide = encode_jpeg(noise((96, 128)), 90)
    assert seen(wide, whole(96), View(32, "squash")).shape == (32, 32, 3)
    with pytest.raises(DataError, match="expected square frames of at least 32 px, found 128 x 96"):
        seen(wide, FramePlan(size=96), View(32))
    with pytest.raises(DataError, match="square frames of at least 64 px, found 48 x 48"):
        seen(encode_jpeg(noise((48, 48)), 90), FramePlan(size=64), View(64))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (FramePlan(fit="stretch"), "fit = 'stretch'"),  # type: ignore[arg-type]
        (FramePlan(filter="lanczos"), "filter = 'lanczos'"),  # type: ignore[arg-type]
        (FramePlan(fit="whole"), "short_side = None"),
        (FramePlan(short_side=224), "short_side = 224"),
        (FramePlan(fit="whole", size=224, short_side=96), "short_side = 96"),
    ],
)
def test_a_plan_that_says_what_nobody_knows_is_refused(plan: FramePlan, said: str) -> None:
    assert plan.unsupported() == said
    with pytest.raises(ConfigError, match=f"frames with {said} cannot be made"):
        plan.check()
