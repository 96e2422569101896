"""GLCCL's folded similarities against the direct form: values, gradients, masks, blocks, and exact small cases."""

from __future__ import annotations

import math

import pytest
import torch
from tvr_kernels import _blocks, glccl
from tvr_kernels._testing import Shape, features, max_error, poisoned
from tvr_kernels.glccl import folded, reference

SHAPES = [Shape(1, 1, 1, 1, 8), Shape(3, 5, 7, 3, 20), Shape(17, 9, 12, 6, 33), Shape(2, 33, 16, 5, 48)]
DTYPES = [torch.float32, torch.float64]
VALUE = {torch.float32: 2e-6, torch.float64: 1e-13}  # cosines
# Relative to the largest entry: at temperature 0.01 a rounding of a cosine moves a weight a hundredfold.
GRAD = {torch.float32: 5e-4, torch.float64: 1e-10}


def make_weights(shape: Shape, dtype: torch.dtype) -> glccl.GlcclWeights:
    generator = torch.Generator().manual_seed(1)

    def near_identity(size: int) -> torch.Tensor:
        return (torch.eye(size) + 0.1 * torch.randn(size, size, generator=generator)).to(dtype).requires_grad_()

    sizes = [shape.D, shape.D, *[shape.L] * 6]
    return glccl.GlcclWeights(*[near_identity(size) for size in sizes])


def make(shape: Shape, dtype: torch.dtype) -> tuple[list[torch.Tensor], glccl.GlcclWeights, torch.Tensor, torch.Tensor]:
    drawn = features(shape, unit=False, ragged=False)
    ragged = features(shape, unit=False)
    inputs = [poisoned(x.to(dtype)).requires_grad_() for x in (drawn.text, drawn.words, drawn.frames)]
    return inputs, make_weights(shape, dtype), ragged.word_mask, ragged.frame_mask


def sides(inputs, weights, word_mask=None, frame_mask=None):
    sentence, words, frames = inputs
    return glccl.text_side(sentence, words, weights, word_mask), glccl.video_side(frames, weights, frame_mask)


def gradients(value: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    probe = torch.cos(torch.arange(value.numel(), dtype=value.dtype)).view(value.shape)
    found = torch.autograd.grad((value * probe).sum(), leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def assert_same_gradients(got, expected, dtype):
    for a, b in zip(got, expected, strict=True):
        assert max_error(a, b) <= GRAD[dtype] * max(float(b.abs().max()), 1e-2)


@pytest.mark.parametrize("masked", [False, True], ids=["all-slots", "real-slots"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_video_sentence_similarity_alone_is_the_first_of_four(shape, masked):
    inputs, weights, *masks = make(shape, torch.float64)
    text, video = sides(inputs, weights, *(masks if masked else ()))
    alone = folded.video_sentence(text, video, weights)
    assert max_error(alone, reference.similarities(text, video, weights)[0]) <= VALUE[torch.float64]


@pytest.mark.parametrize("masked", [False, True], ids=["all-slots", "real-slots"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_folded_equals_reference_in_value_and_gradient(shape, dtype, masked):
    inputs, weights, *masks = make(shape, dtype)
    text, video = sides(inputs, weights, *(masks if masked else ()))
    expected, got = reference.similarities(text, video, weights), folded.similarities(text, video, weights)
    assert got.shape == (4, shape.T, shape.V) and got.dtype == dtype
    assert max_error(got, expected) <= VALUE[dtype]
    leaves = [*inputs, *weights[:8]]
    assert_same_gradients(gradients(got, leaves), gradients(expected, leaves), dtype)


def test_masked_slots_change_nothing():
    shape = Shape(5, 4, 6, 7, 16)
    inputs, weights, word_mask, frame_mask = make(shape, torch.float64)
    assert not word_mask.all() and not frame_mask.all()
    changed = [
        inputs[0],
        torch.where(word_mask[..., None], inputs[1], 3.0),
        torch.where(frame_mask[..., None], inputs[2], 0),
    ]
    for form in (reference, folded):
        expected = form.score(*sides(inputs, weights, word_mask, frame_mask), weights)
        assert max_error(form.score(*sides(changed, weights, word_mask, frame_mask), weights), expected) < 1e-12


def test_blocks_that_are_recomputed_have_the_gradients_of_one_call(monkeypatch):
    inputs, weights, *_ = make(Shape(11, 7, 5, 4, 16), torch.float64)
    leaves = [*inputs, *weights[:8]]
    text, video = sides(inputs, weights)
    whole = folded.similarities(text, video, weights)
    expected = gradients(whole, leaves)
    monkeypatch.setattr(_blocks, "SAVED_BYTES", 1)
    blocks = folded.similarities(text, video, weights)
    assert max_error(blocks, whole) < 1e-13
    assert_same_gradients(gradients(blocks, leaves), expected, torch.float64)
    with torch.no_grad():
        assert max_error(folded.similarities(text, video, weights), whole) < 1e-13


def test_one_frame_and_one_word_leave_plain_cosines():
    """With one frame every pooled vector is that frame; with one word every attention has one choice."""
    sentence, word, frame = torch.tensor([[2.0, 0.0]]), torch.tensor([[[0.0, 3.0]]]), torch.tensor([[[3.0, 4.0]]])
    eye, one = torch.eye(2), torch.eye(1)
    weights = glccl.GlcclWeights(eye, eye, one, one, one, one, one, one)
    for form in (reference, folded):
        similarities = form.similarities(*sides([sentence, word, frame], weights), weights)
        expected = torch.tensor([0.6, 0.8, 0.6, 0.8]).view(4, 1, 1)  # sentence along x, word along y
        assert max_error(similarities, expected) < 1e-6


def test_isa_of_two_values():
    """isa(m; A) = p' A m with p = softmax(m / temperature)."""
    m, mixing = torch.tensor([0.0, math.log(3.0)]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    weight = [0.25 * 1.0 + 0.75 * 3.0, 0.25 * 2.0 + 0.75 * 4.0]  # p' A
    assert abs(reference.isa(m, mixing, 1.0).item() - weight[1] * math.log(3.0)) < 1e-6


def test_wrong_shapes_are_named():
    inputs, weights, *_ = make(Shape(3, 5, 7, 3, 20), torch.float32)
    with pytest.raises(ValueError, match="sentence must be"):
        glccl.text_side(inputs[0][:2], inputs[1], weights)
    with pytest.raises(ValueError, match="without a real element"):
        glccl.video_side(inputs[2], weights, torch.zeros(5, 7, dtype=torch.bool))
