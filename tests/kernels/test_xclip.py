"""X-CLIP's blocked score against its equations, in value and gradient, and a pair that a reader can check."""

from __future__ import annotations

import pytest
import torch
from tvr_kernels import xclip
from tvr_kernels._testing import Shape, features, max_error, poisoned
from tvr_kernels.xclip import folded
from tvr_kernels.xclip.bench import draw_weights

SHAPES = [Shape(1, 1, 1, 1, 8), Shape(3, 5, 7, 3, 20), Shape(70, 35, 12, 6, 33)]  # the last has several blocks
VALUE = {torch.float32: 2e-6, torch.float64: 1e-13}
GRAD = {torch.float32: 1e-4, torch.float64: 1e-11}


def sides(shape, dtype, masked):
    """Return leaves (sentence, words, video, frames, matrices) and the two sides and weights of them."""
    drawn = features(shape, unit=False, ragged=masked)
    whole = drawn.frames.sum(1)
    leaves = [poisoned(x.to(dtype)).requires_grad_() for x in (drawn.text, drawn.words, whole, drawn.frames)]
    matrices = [x.requires_grad_() for x in draw_weights(shape, dtype)[:-1]]
    weights = xclip.XClipWeights(*matrices)
    word_mask, frame_mask = (drawn.word_mask, drawn.frame_mask) if masked else (None, None)
    text = xclip.text_side(leaves[0], leaves[1], weights, word_mask)
    return [*leaves, *matrices], text, xclip.video_side(leaves[2], leaves[3], frame_mask), weights


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "all-slots"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_folded_equals_reference_in_value_and_gradient(shape, dtype, masked):
    leaves, text, video, weights = sides(shape, dtype, masked)
    found = {n: xclip.similarities(text, video, weights, implementation=n) for n in ("reference", "folded")}
    assert found["folded"].dtype == dtype and max_error(found["folded"], found["reference"]) <= VALUE[dtype]
    with torch.no_grad():  # in blocks
        blocked = xclip.score(text, video, weights, implementation="folded")
        assert max_error(blocked, found["reference"].mean(0)) <= VALUE[dtype]
        two = folded.of_the_sentence(text, video, weights)
        assert max_error(two, found["reference"][0] + found["reference"][2]) <= VALUE[dtype]
    probe = torch.cos(torch.arange(4 * shape.T * shape.V, dtype=dtype)).view(4, shape.T, shape.V)
    gradients = {n: torch.autograd.grad((x * probe).sum(), leaves, retain_graph=True) for n, x in found.items()}
    for got, expected in zip(gradients["folded"], gradients["reference"], strict=True):
        assert max_error(got, expected) <= GRAD[dtype] * max(float(expected.abs().max()), 1e-3)


@pytest.mark.slow  # compiles for some twenty seconds
@pytest.mark.parametrize("spread", [1.0, 30.0], ids=["plain", "wide"])
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "all-slots"])
def test_compiled_equals_reference(masked, spread):
    """`wide` maps spread M so far that one exponential for words and frames would vanish in some rows or columns."""
    pytest.importorskip("numba")
    shapes = (
        *SHAPES,
        Shape(35, 3, 12, 32, 64),
        Shape(2, 3, 5, 77, 16),
        Shape(2, 3, 40, 4, 16),
        Shape(3, 140, 5, 4, 16),
    )
    with torch.no_grad():
        for shape in shapes:
            drawn = features(shape, unit=False, ragged=masked)
            word_mask, frame_mask = (drawn.word_mask, drawn.frame_mask) if masked else (None, None)

            def case(dtype, shape=shape, drawn=drawn, masks=(word_mask, frame_mask)):
                weights = draw_weights(shape, dtype)
                weights = weights._replace(local_map=weights.local_map * spread)
                sentence, words, frames = (poisoned(x.to(dtype)) for x in (drawn.text, drawn.words, drawn.frames))
                text = xclip.text_side(sentence, words, weights, masks[0])
                return text, xclip.video_side(frames.sum(1), frames, masks[1]), weights

            exact = xclip.similarities(*case(torch.float64), implementation="reference")
            inputs = case(torch.float32)
            found = {n: xclip.similarities(*inputs, implementation=n) for n in ("folded", "compiled")}
            assert found["compiled"].shape == (4, shape.T, shape.V)
            allowed = max(2e-6 * spread, 2 * max_error(found["folded"], exact))
            assert max_error(found["compiled"], exact) <= allowed, shape
            assert max_error(xclip.score(*inputs, implementation="compiled"), exact.mean(0)) <= allowed, shape


def test_large_training_batches_recompute_with_the_same_gradients(monkeypatch):
    leaves, text, video, weights = sides(Shape(13, 11, 4, 3, 16), torch.float64, masked=True)

    def gradients():
        score = xclip.score(text, video, weights, implementation="folded")
        return torch.autograd.grad(score.square().sum(), leaves, retain_graph=True)

    direct = gradients()
    monkeypatch.setattr("tvr_kernels._blocks.SAVED_BYTES", 1 << 12)
    for got, expected in zip(gradients(), direct, strict=True):
        assert max_error(got, expected) <= 1e-11


@pytest.mark.parametrize("form", ["reference", "folded"])
def test_score_that_a_reader_can_check(form):
    """At a temperature near zero each attention picks its largest entry, here with matrices that are the identity."""
    sentence = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    words = torch.tensor([[[0.0, 2.0], [3.0, 0.0]]], dtype=torch.float64)
    frames = torch.tensor([[[5.0, 0.0], [0.8, 0.6]]], dtype=torch.float64)
    video = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    two = torch.eye(2, dtype=torch.float64)
    weights = xclip.XClipWeights(*8 * [two], isa_temperature=1e-4)
    text, clip = xclip.text_side(sentence, words, weights), xclip.video_side(video, frames)
    got = xclip.similarities(text, clip, weights, implementation=form).flatten().tolist()
    # VS 0.6; VW the larger of (0, 1); SF the larger of (0.6, 0.96); M = [[0, 0.6], [1, 0.8]], whose largest is 1.
    assert got == pytest.approx([0.6, 1.0, 0.96, 1.0], abs=1e-12)


def test_caption_without_a_real_word_is_refused():
    weights = draw_weights(Shape(1, 1, 2, 2, 4), torch.float32)
    with pytest.raises(ValueError, match="mask has a row without a real element"):
        xclip.text_side(torch.ones(1, 4), torch.ones(1, 2, 4), weights, torch.zeros(1, 2, dtype=torch.bool))
