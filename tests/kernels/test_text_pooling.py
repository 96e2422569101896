"""Text-guided pooling: the folded form equals the equation in value and gradient, whatever the tile."""

from __future__ import annotations

import math

import pytest
import torch
from tvr_kernels import _tiles, text_pooling
from tvr_kernels._testing import ODD_SHAPES, Shape, features, max_error, poisoned

WEIGHTS = text_pooling.TextPoolingWeights(temperature=0.05)
SMALL = Shape(5, 4, 3, 1, 6)


def sides(shape: Shape, dtype=torch.float64, *, unit=True, masked=True):
    x = features(shape, unit=unit)
    mask = x.frame_mask if masked else None
    return text_pooling.text_side(x.text.to(dtype)), text_pooling.video_side(x.frames.to(dtype), mask)


def test_two_frames_pool_by_their_softmax():
    text = text_pooling.text_side(torch.tensor([[1.0, 0.0]]))
    video = text_pooling.video_side(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))

    # the logits are 1 and 0, so the pooled vector is (e, 1) up to scale and its cosine with (1, 0) is e / |(e, 1)|
    expected = torch.tensor([[math.e / math.hypot(math.e, 1.0)]])
    for implementation in ("reference", "folded"):
        got = text_pooling.score(text, video, text_pooling.TextPoolingWeights(1.0), implementation=implementation)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
@pytest.mark.parametrize("unit", [True, False], ids=["unit", "clip-length"])
def test_folded_equals_reference(shape, unit):
    weights = text_pooling.TextPoolingWeights(0.05 if unit else 5.0)
    text, video = sides(shape, unit=unit)
    expected = text_pooling.score(text, video, weights, implementation="reference")

    assert max_error(text_pooling.score(text, video, weights, implementation="folded"), expected) < 1e-13
    text, video = sides(shape, torch.float32, unit=unit)
    got = text_pooling.score(text, video, weights, implementation="folded")
    assert got.dtype == torch.float32 and max_error(got, expected) < 2e-6


def test_gradients_equal_those_of_the_reference():
    grads = []
    for implementation in ("reference", "folded"):
        x = features(Shape(7, 5, 4, 1, 10))
        text, frames = x.text.double().requires_grad_(), x.frames.double().requires_grad_()
        video = text_pooling.video_side(frames, x.frame_mask)
        scores = text_pooling.score(text_pooling.text_side(text), video, WEIGHTS, implementation=implementation)
        (scores * torch.arange(35.0).view(7, 5)).sum().backward()
        grads.append((text.grad, frames.grad))

    assert max_error(grads[0][0], grads[1][0]) < 1e-11 and max_error(grads[0][1], grads[1][1]) < 1e-11


def test_recomputed_blocks_give_the_gradients_of_the_whole(monkeypatch):
    def run():
        x = features(Shape(6, 7, 3, 1, 8))
        text, frames = x.text.double().requires_grad_(), x.frames.double().requires_grad_()
        video = text_pooling.video_side(frames, x.frame_mask)
        scores = text_pooling.score(text_pooling.text_side(text), video, WEIGHTS, implementation="folded")
        scores.square().sum().backward()
        return scores, text.grad, frames.grad

    whole = run()
    monkeypatch.setattr(_tiles, "SAVED_BYTES", 2000)  # one clip a block
    blocks = run()

    assert "Recompute" in type(blocks[0].grad_fn).__name__ and "Recompute" not in type(whole[0].grad_fn).__name__
    assert all(max_error(a, b) < 1e-13 for a, b in zip(whole, blocks, strict=True))


def test_recompute_passes_gradcheck(monkeypatch):
    monkeypatch.setattr(_tiles, "SAVED_BYTES", 1)
    x = features(SMALL, ragged=False)

    def score(text, frames):
        video = text_pooling.video_side(frames)
        return text_pooling.score(text_pooling.text_side(text), video, WEIGHTS, implementation="folded")

    inputs = (x.text.double().requires_grad_(), x.frames.double().requires_grad_())
    assert torch.autograd.gradcheck(score, inputs)


def test_missing_frames_do_not_change_scores_whatever_they_hold():
    x = features(SMALL, ragged=False)
    padded = torch.cat([x.frames, torch.full((4, 2, 6), float("nan"))], 1)
    mask = torch.tensor([True] * 3 + [False] * 2).expand(4, 5)
    text = text_pooling.text_side(x.text)

    for implementation in ("reference", "folded"):
        bare = text_pooling.score(text, text_pooling.video_side(x.frames), WEIGHTS, implementation=implementation)
        got = text_pooling.score(text, text_pooling.video_side(padded, mask), WEIGHTS, implementation=implementation)
        torch.testing.assert_close(got, bare)


def test_tiles_do_not_change_scores_beyond_rounding(monkeypatch):
    text, video = sides(Shape(19, 23, 5, 1, 16), torch.float32)
    text, video = ({k: poisoned(v) if v.is_floating_point() else v for k, v in d.items()} for d in (text, video))
    whole = text_pooling.score(text, video, WEIGHTS, implementation="folded")
    monkeypatch.setattr(_tiles, "CACHE_BYTES", 1)
    monkeypatch.setattr(_tiles, "TEXTS", 4)

    assert max_error(text_pooling.score(text, video, WEIGHTS, implementation="folded"), whole) < 1e-6


def test_wrong_inputs_are_refused():
    x = features(SMALL)
    with pytest.raises(ValueError, match="without a real element"):
        text_pooling.video_side(x.frames, torch.zeros(4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="D = 6 as in text"):
        text_pooling.score(text_pooling.text_side(x.text), text_pooling.video_side(torch.ones(4, 3, 5)), WEIGHTS)
