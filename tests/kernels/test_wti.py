"""WTI, DMAE's word branch alone, against its equations, in value and gradient, and a table that a reader can check."""

from __future__ import annotations

import itertools

import pytest
import torch
from tvr_kernels import dmae, wti
from tvr_kernels._testing import Shape, features, max_error, poisoned

SHAPES = [Shape(1, 1, 1, 1, 8), Shape(3, 5, 7, 3, 20), Shape(70, 33, 12, 5, 48)]  # the last has several tiles
VALUE = {torch.float32: 1e-6, torch.float64: 1e-13}
GRAD = {torch.float32: 1e-4, torch.float64: 1e-11}
VARIANTS = list(itertools.product([True, False], repeat=2))  # learned weights, mask padding


def sides(shape, dtype, learned, mask_padding):
    """Return leaves (words, frames, logits of both) and the two sides of them."""
    drawn, g = features(shape), torch.Generator().manual_seed(3)
    leaves = [poisoned(x.to(dtype)).requires_grad_() for x in (drawn.words, drawn.frames)]
    if learned:
        sizes = ((shape.T, shape.L), (shape.V, shape.F))
        leaves += [torch.randn(*size, generator=g).to(dtype).requires_grad_() for size in sizes]
    of_words, of_frames = leaves[2:] if learned else (None, None)
    options = wti.options(mask_padding=mask_padding)
    text = wti.text_side(leaves[0], drawn.word_mask, options, of_words)
    return leaves, text, wti.video_side(leaves[1], drawn.frame_mask, options, of_frames), options


@pytest.mark.parametrize(("learned", "mask_padding"), VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_folded_equals_reference_in_value_and_gradient(shape, dtype, learned, mask_padding):
    leaves, text, video, options = sides(shape, dtype, learned, mask_padding)
    found = {name: wti.score(text, video, options, implementation=name) for name in ("reference", "folded")}
    assert found["folded"].dtype == dtype and max_error(found["folded"], found["reference"]) <= VALUE[dtype]
    with torch.no_grad():  # in tiles, captions in order of length
        tiled = wti.score(text, video, options, implementation="folded")
        assert max_error(tiled, found["reference"]) <= VALUE[dtype]
    probe = torch.cos(torch.arange(shape.T * shape.V, dtype=dtype)).view(shape.T, shape.V)
    gradients = {name: torch.autograd.grad((x * probe).sum(), leaves, retain_graph=True) for name, x in found.items()}
    for got, expected in zip(gradients["folded"], gradients["reference"], strict=True):
        assert max_error(got, expected) <= GRAD[dtype] * max(float(expected.abs().max()), 1e-3)


def test_two_branches_of_dmae_are_the_mean_of_its_sentence_and_of_wti():
    drawn = features(Shape(5, 4, 6, 3, 16))
    text, words, frames = (x.double() for x in (drawn.text, drawn.words, drawn.frames))
    both, alone = dmae.DmaeOptions(words=True, neighbours=False), dmae.DmaeOptions(words=False, neighbours=False)
    importance = drawn.word_mask.long()

    def of_dmae(options):
        text_side = dmae.text_side(text, words, importance, options)
        return dmae.score(text_side, dmae.video_side(frames, drawn.frame_mask, options), options)

    options = wti.options()
    mine = wti.score(
        wti.text_side(words, drawn.word_mask, options), wti.video_side(frames, drawn.frame_mask, options), options
    )
    assert max_error((of_dmae(alone) + mine) / 2, of_dmae(both)) < 1e-14


@pytest.mark.parametrize("form", ["reference", "folded"])
def test_score_that_a_reader_can_check(form):
    """Words (0, 1) and (1, 0) and a pad, of weights 1/4, 3/4; frames (1, 0), (0.8, 0.6) and none, of weights 1/2."""
    words = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]]], dtype=torch.float64)
    frames = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]], dtype=torch.float64)
    logits = torch.tensor([[1.0, 3.0, 7.0]], dtype=torch.float64).log()
    options = wti.options()
    text = wti.text_side(words, torch.tensor([[True, True, False]]), options, logits)
    video = wti.video_side(frames, torch.tensor([[True, True, False]]), options)
    got = wti.score(text, video, options, implementation=form)
    # Table: [0, 0.6, 0] and [1, 0.8, 0].
    expected = ((0.25 * 0.6 + 0.75 * 1.0) + (1.0 + 0.8) / 2) / 2
    assert abs(float(got) - expected) < 1e-12


@pytest.mark.parametrize("form", ["reference", "folded"])
@pytest.mark.parametrize(("mask_padding", "expected"), [(False, 0.0), (True, -1.0)])
def test_masked_words_and_frames_are_zeros_that_win_unless_they_are_kept_from_it(form, mask_padding, expected):
    """All real cosines are -1."""
    words = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    frames = torch.tensor([[[-1.0, 0.0], [-1.0, 0.0]]], dtype=torch.float64)
    mask, options = torch.tensor([[True, False]]), wti.options(mask_padding=mask_padding)
    text, video = wti.text_side(words, mask, options), wti.video_side(frames, mask, options)
    assert float(wti.score(text, video, options, implementation=form)) == expected


def test_caption_without_a_real_word_is_refused():
    with pytest.raises(ValueError, match="importance > 0 has a row without a real element"):
        wti.text_side(torch.ones(1, 2, 4), torch.zeros(1, 2, dtype=torch.bool), wti.options())
