"""DMAE's tiled score against its equations, in value and gradient, and a table small enough to check by eye."""

from __future__ import annotations

import itertools

import pytest
import torch
from tvr_kernels import dmae
from tvr_kernels._testing import Shape, features, max_error, poisoned
from tvr_kernels.dmae import DmaeOptions, folded, reference

SHAPES = [
    Shape(1, 1, 1, 1, 8),
    Shape(3, 5, 7, 3, 20),
    Shape(63, 3, 1, 6, 33),
    Shape(17, 9, 12, 1, 63),
    Shape(70, 33, 16, 5, 48),  # more captions than a tile has
]
DTYPES = [torch.float32, torch.float64]
VALUE = {torch.float32: 1e-6, torch.float64: 1e-13}
GRAD = {torch.float32: 1e-4, torch.float64: 1e-11}
VARIANTS = list(itertools.product([True, False], repeat=4))  # words, neighbours, learned weights, mask padding


def make(shape, dtype, learned=False):
    """Return leaves (sentence, words, frames, word logits, frame logits) and the masks."""
    drawn = features(shape)
    generator = torch.Generator().manual_seed(3)
    important = torch.rand(drawn.word_mask.shape, generator=generator) < 0.3
    importance = drawn.word_mask.long() * (1 + important.long())
    logits = [torch.randn(*size, generator=generator) for size in ((shape.T, shape.L), (shape.V, shape.F))]
    leaves = [poisoned(x.to(dtype)).requires_grad_() for x in (drawn.text, drawn.words, drawn.frames, *logits)]
    return leaves if learned else [*leaves[:3], None, None], importance, drawn.frame_mask


def sides(leaves, importance, mask, options):
    sentence, words, frames, word_logits, frame_logits = leaves
    return (
        dmae.text_side(sentence, words, importance, options, word_logits),
        dmae.video_side(frames, mask, options, frame_logits),
    )


def gradients(value, leaves):
    probe = torch.cos(torch.arange(value.numel(), dtype=value.dtype)).view(value.shape)
    leaves = [x for x in leaves if x is not None]
    found = torch.autograd.grad((value * probe).sum(), leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def assert_same_gradients(got, expected, dtype):
    for a, b in zip(got, expected, strict=True):
        assert max_error(a, b) <= GRAD[dtype] * max(float(b.abs().max()), 1e-3)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "".join("wnlm"[i] if on else "-" for i, on in enumerate(v)))
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_folded_equals_reference_in_value_and_gradient(shape, dtype, variant):
    words, neighbours, learned, mask_padding = variant
    options = DmaeOptions(words, neighbours, mask_padding)
    leaves, importance, mask = make(shape, dtype, learned)
    text, video = sides(leaves, importance, mask, options)
    expected = reference.score(text, video, options)
    got = folded.score(text, video, options)
    assert got.dtype == dtype and max_error(got, expected) <= VALUE[dtype]
    with torch.no_grad():  # captions in order of length, cut at the longest of a tile
        assert max_error(folded.score(text, video, options), expected) <= VALUE[dtype]
    assert_same_gradients(gradients(got, leaves), gradients(expected, leaves), dtype)


def test_large_training_batches_recompute_with_the_same_gradients(monkeypatch):
    options = DmaeOptions(True, True)
    leaves, importance, mask = make(Shape(13, 11, 4, 3, 16), torch.float64, learned=True)
    direct = gradients(folded.score(*sides(leaves, importance, mask, options), options), leaves)
    monkeypatch.setattr("tvr_kernels._tiles.SAVED_BYTES", 1 << 12)
    recomputed = gradients(folded.score(*sides(leaves, importance, mask, options), options), leaves)
    assert_same_gradients(recomputed, direct, torch.float64)


@torch.no_grad()
def test_score_of_a_pair_does_not_depend_on_its_tile():
    options = DmaeOptions(True, True)
    leaves, importance, mask = make(Shape(90, 29, 5, 7, 40), torch.float32)
    text, video = sides(leaves, importance, mask, options)
    whole = folded.score(text, video, options)
    for rows, columns in ((slice(0, 1), slice(0, 1)), (slice(5, 75), slice(7, 8)), (slice(80, 90), slice(3, 29))):
        some_text = {k: x[rows] for k, x in text.items()}
        some_video = {k: x[columns] for k, x in video.items()}
        assert max_error(folded.score(some_text, some_video, options), whole[rows, columns]) <= 1e-6


def test_neighbour_of_a_frame_is_its_closest_other_frame():
    angle = torch.tensor([0.0, 10.0, 90.0, 260.0]).deg2rad()
    frames = torch.stack([angle.cos(), angle.sin()], -1)[None].double()
    closeness, neighbour = dmae.neighbours(frames)
    # 260 degrees has no frame within 90 degrees: its best is itself, which counts as 0.
    expected = torch.tensor([[0.98480775, 0.98480775, 0.17364818, 0.0]], dtype=torch.float64)
    assert max_error(closeness, expected) < 1e-7
    assert neighbour[0, :3].tolist() == [1, 0, 1]


@pytest.mark.parametrize("form", ["reference", "folded"])
def test_score_that_a_reader_can_check(form):
    """Two words (0, 1), (1, 0) and a pad; frames (1, 0), (0.8, 0.6) and a pad; the sentence is (0.6, 0.8)."""
    sentence = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    words = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]]], dtype=torch.float64)
    frames = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]], dtype=torch.float64)
    importance, mask = torch.tensor([[1, 2, 0]]), torch.tensor([[True, True, False]])
    options = DmaeOptions(words=True, neighbours=True)
    got = dmae.score(
        *sides([sentence, words, frames, None, None], importance, mask, options), options, implementation=form
    )
    # Table: sentence [0.6, 0.96, 0]; words [0, 0.6, 0] and [1, 0.8, 0]. r = [0.8, 0.8, 0], n = [1, 0, .].
    sentence_rows = 0.96 + 0.5 * 0.8 * 0.6
    word_rows = (1 * (0.6 + 0.5 * 0.8 * 0.0) + 2 * (1.0 + 0.5 * 0.8 * 0.8)) / 3
    sentence_frames, word_frames = (0.6 + 0.96) / 2, (1.0 + 0.8) / 2
    expected = ((sentence_rows + sentence_frames) / 2 + (word_rows + word_frames) / 2) / 2
    assert abs(float(got) - expected) < 1e-12


@pytest.mark.parametrize("form", ["reference", "folded"])
def test_masked_words_and_frames_are_zeros_that_can_win(form):
    """All real cosines are negative: the padded frame wins each word's maximum, the pad each frame's."""
    sentence = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    words = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    frames = torch.tensor([[[-1.0, 0.0], [-1.0, 0.0]]], dtype=torch.float64)
    importance, mask = torch.tensor([[1, 0]]), torch.tensor([[True, False]])
    options = DmaeOptions(words=True, neighbours=True)
    got = dmae.score(
        *sides([sentence, words, frames, None, None], importance, mask, options), options, implementation=form
    )
    sentence_branch = (0.0 + -1.0) / 2  # the sentence has no pad, so its frame side is the cosine itself
    assert abs(float(got) - (sentence_branch + 0.0) / 2) < 1e-12


@pytest.mark.parametrize("form", ["reference", "folded"])
def test_masked_padding_never_wins(form):
    """As above: with `mask_padding` every maximum is a real cosine, -1."""
    sentence = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    words = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    frames = torch.tensor([[[-1.0, 0.0], [-1.0, 0.0]]], dtype=torch.float64)
    importance, mask = torch.tensor([[1, 0]]), torch.tensor([[True, False]])
    options = DmaeOptions(words=True, neighbours=True, mask_padding=True)
    got = dmae.score(
        *sides([sentence, words, frames, None, None], importance, mask, options), options, implementation=form
    )
    assert abs(float(got) + 1.0) < 1e-12


def test_caption_without_a_real_word_is_refused():
    with pytest.raises(ValueError, match="importance > 0 has a row without a real element"):
        dmae.text_side(
            torch.ones(1, 4), torch.ones(1, 2, 4), torch.zeros(1, 2, dtype=torch.long), DmaeOptions(True, True)
        )
