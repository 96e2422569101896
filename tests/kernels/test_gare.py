"""GARE's folded score and increments against its equations, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch
from tvr_kernels import gare
from tvr_kernels._testing import Shape, features, max_error, poisoned
from tvr_kernels.gare import folded, increments, reference

SHAPES = [
    Shape(1, 1, 1, 1, 8),
    Shape(3, 5, 7, 1, 20),
    Shape(63, 3, 1, 1, 33),  # one frame: the caption cannot change the increment
    Shape(17, 9, 12, 1, 63),
    Shape(2, 33, 16, 1, 48),
]
DTYPES = [torch.float32, torch.float64]
VALUE = {torch.float32: 2e-6, torch.float64: 1e-12}
# Relative to the largest entry of a gradient: sums over all pairs of terms that nearly cancel.
GRAD = {torch.float32: 2e-4, torch.float64: 1e-10}


def make_weights(size, dtype, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(name):
        if name.startswith("norm"):
            return float(name.endswith("weight")) + 0.2 * torch.randn(size, generator=generator)
        if name.endswith("weight"):
            return torch.randn(size, size, generator=generator) / size**0.5
        return 0.1 * torch.randn(size, generator=generator)

    tensors = [draw(name).to(dtype).requires_grad_() for name in gare.GareWeights._fields[:-1]]
    return gare.GareWeights(*tensors, temperature=3.0)


def make(shape, dtype, *, hide_padding=False):
    drawn = features(shape, unit=False)
    text = poisoned(drawn.text.to(dtype)).requires_grad_()
    frames = poisoned(drawn.frames.to(dtype)).requires_grad_()
    attend = drawn.frame_mask if hide_padding else torch.ones_like(drawn.frame_mask)
    return text, frames, drawn.frame_mask, attend, make_weights(shape.D, dtype)


def sides(text, frames, mask, attend, weights):
    return gare.text_side(text, weights), gare.video_side(frames, mask, weights, attend=attend)


def gradients(value, inputs):
    probe = torch.cos(torch.arange(value.numel(), dtype=value.dtype)).view(value.shape)
    found = torch.autograd.grad((value * probe).sum(), inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def assert_same_gradients(got, expected, names, dtype):
    for name, a, b in zip(names, got, expected, strict=True):
        # The key bias is inert, and one frame leaves the attention nothing to choose: compare with a floor.
        assert max_error(a, b) <= GRAD[dtype] * max(float(b.abs().max()), 1e-2), name


NAMES = ["text", "frames", *gare.GareWeights._fields[:-1]]


@pytest.mark.parametrize("hide_padding", [False, True], ids=["all-slots", "real-frames"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_folded_equals_reference_in_value_and_gradient(shape, dtype, hide_padding):
    inputs = make(shape, dtype, hide_padding=hide_padding)
    text, video = sides(*inputs)
    expected = reference.score(text, video, inputs[-1])
    got = folded.score(text, video, inputs[-1])
    assert got.shape == (shape.T, shape.V) and got.dtype == dtype
    assert max_error(got, expected) <= VALUE[dtype]
    leaves = [inputs[0], inputs[1], *inputs[-1][:-1]]
    assert_same_gradients(gradients(got, leaves), gradients(expected, leaves), NAMES, dtype)


@pytest.mark.parametrize("dropped", [False, True], ids=["no-dropout", "dropout"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_increments_equal_reference_in_value_and_gradient(shape, dtype, dropped):
    text, frames, _, attend, weights = make(shape, dtype)
    generator = torch.Generator().manual_seed(7)
    keep = torch.rand(shape.T, shape.V, shape.D, generator=generator) >= 0.3 if dropped else None
    expected = reference.increment(text, frames, attend, weights, keep, 0.3)
    got = increments.increments(text, frames, attend, weights, keep, 0.3)
    assert max_error(got, expected) <= 10 * VALUE[dtype]  # vectors of length sqrt(D), not cosines
    leaves = [text, frames, *weights[:-1]]
    assert_same_gradients(gradients(got, leaves), gradients(expected, leaves), NAMES, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp64"])
def test_increment_is_a_combination_of_rows_of_the_clip(dtype):
    inputs = make(Shape(5, 4, 6, 1, 24), dtype)
    text, video = sides(*inputs)
    rows = folded.increment_rows(video, inputs[-1])
    got = torch.einsum("vkt,vkd->tvd", folded.coefficients(text, video), rows)
    assert max_error(got, reference.increment(inputs[0], inputs[1], inputs[3], inputs[-1])) <= 10 * VALUE[dtype]


@torch.no_grad()
def test_score_of_a_pair_does_not_depend_on_its_tile():
    inputs = make(Shape(37, 29, 5, 1, 40), torch.float32)
    text, video = sides(*inputs)
    whole = folded.score(text, video, inputs[-1])
    for rows, columns in ((slice(0, 1), slice(0, 1)), (slice(5, 36), slice(7, 8)), (slice(30, 37), slice(3, 29))):
        tile = folded.score(
            {k: x[rows] for k, x in text.items()}, {k: x[columns] for k, x in video.items()}, inputs[-1]
        )
        assert max_error(tile, whole[rows, columns]) <= 1e-6


def test_large_training_batches_recompute_with_the_same_gradients(monkeypatch):
    inputs = make(Shape(13, 11, 4, 1, 16), torch.float64)
    leaves = [inputs[0], inputs[1], *inputs[-1][:-1]]
    text, video = sides(*inputs)
    direct = gradients(folded.score(text, video, inputs[-1]), leaves)
    monkeypatch.setattr("tvr_kernels._tiles.SAVED_BYTES", 1 << 12)
    text, video = sides(*inputs)
    assert_same_gradients(gradients(folded.score(text, video, inputs[-1]), leaves), direct, NAMES, torch.float64)


@pytest.mark.parametrize("dropped", [False, True], ids=["no-dropout", "dropout"])
def test_large_batches_recompute_their_increments(dropped, monkeypatch):
    text, frames, _, attend, weights = make(Shape(7, 11, 4, 1, 16), torch.float64)
    leaves = [text, frames, *weights[:-1]]
    keep = torch.rand(7, 11, 16, generator=torch.Generator().manual_seed(7)) >= 0.3 if dropped else None
    whole = increments.increments(text, frames, attend, weights, keep, 0.3)
    monkeypatch.setattr(increments, "SAVED_BYTES", 7 * 11 * 16 * 25 - 1)  # one number too many: blocks of one clip
    blocks = increments.increments(text, frames, attend, weights, keep, 0.3)
    assert max_error(blocks, whole) <= 1e-12
    assert_same_gradients(gradients(blocks, leaves), gradients(whole, leaves), NAMES, torch.float64)


@torch.no_grad()
def test_missing_frames_count_in_the_increment_unless_hidden():
    text, frames, mask, everything, weights = make(Shape(4, 8, 6, 1, 16), torch.float64)
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(2), dtype=frames.dtype)
    other = torch.where(mask[..., None], frames, noise)
    assert not mask.all()

    def scores(frames, attend):
        return gare.score(*sides(text, frames, mask, attend, weights), weights, implementation="folded")

    assert max_error(scores(other, mask), scores(frames, mask)) <= 1e-12
    assert max_error(scores(other, everything), scores(frames, everything)) > 1e-4


def test_bad_shapes_are_named():
    weights = make_weights(8, torch.float32)
    with pytest.raises(ValueError, match=r"gare: mask must be \[V, F\]"):
        gare.video_side(torch.zeros(2, 3, 8), torch.ones(2, 4, dtype=torch.bool), weights)
    with pytest.raises(ValueError, match="row without a real element"):
        gare.video_side(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.bool), weights)
