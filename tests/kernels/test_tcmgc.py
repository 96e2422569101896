"""TC-MGC's folded similarities against the direct form: values, gradients, masks, heads, ranks, dropout."""

from __future__ import annotations

import math

import pytest
import torch
from tvr_kernels import _blocks, tcmgc
from tvr_kernels._testing import Shape, features, max_error, poisoned
from tvr_kernels.tcmgc import dropout, folded, ranks, reference

# D is even, for two heads.
SHAPES = [Shape(1, 1, 1, 1, 8), Shape(3, 5, 7, 3, 20), Shape(17, 9, 12, 6, 34), Shape(2, 33, 16, 5, 48)]
DTYPES = [torch.float32, torch.float64]
VALUE = {torch.float32: 5e-6, torch.float64: 1e-12}  # cosines
# Relative to the largest entry; in float32 the second softmax at lambda = 10 amplifies what the first one rounded.
GRAD = {torch.float32: 1e-3, torch.float64: 1e-9}
PARAMETERS = 17  # of TcmgcWeights, the rest are constants


def make_weights(shape: Shape, dtype: torch.dtype, kept: int, heads: int = 1) -> tcmgc.TcmgcWeights:
    generator = torch.Generator().manual_seed(1)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    D = shape.D
    norms = [part for _ in range(3) for part in (1 + 0.2 * draw(D), 0.1 * draw(D))]
    maps = [draw(D, D) / D**0.5, 0.1 * draw(D), torch.eye(D) + 0.1 * draw(D, D), torch.eye(D) + 0.1 * draw(D, D)]
    mixings = [torch.eye(n) + 0.2 * draw(n, n) for n in (kept, kept + 1, kept, kept, kept, kept, 4)]
    tensors = [x.to(dtype).requires_grad_() for x in (*norms, *maps, *mixings)]
    scale = torch.tensor(20.0, dtype=dtype)
    return tcmgc.TcmgcWeights(*tensors, scale=scale, sharpness=10.0, heads=heads)


def make(shape: Shape, dtype: torch.dtype):
    drawn = features(shape, unit=False, ragged=False)
    ragged = features(shape, unit=False)
    inputs = [poisoned(x.to(dtype)).requires_grad_() for x in (drawn.text, drawn.words, drawn.frames)]
    return inputs, ragged.word_mask, ragged.frame_mask


def sides(inputs, weights, word_mask=None, frame_mask=None):
    sentence, words, frames = inputs
    return tcmgc.text_side(sentence, words, weights, word_mask), tcmgc.video_side(frames, weights, frame_mask)


def gradients(value: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    probe = torch.cos(torch.arange(value.numel(), dtype=value.dtype)).view(value.shape)
    found = torch.autograd.grad((value * probe).sum(), leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def assert_same_gradients(got, expected, dtype):
    for a, b in zip(got, expected, strict=True):
        assert max_error(a, b) <= GRAD[dtype] * max(float(b.abs().max()), 1e-2)


@pytest.mark.parametrize("heads", [1, 2], ids=["one-head", "two-heads"])
@pytest.mark.parametrize("masked", [False, True], ids=["all-slots", "real-slots"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_video_sentence_similarity_alone_is_the_first_of_four(shape, masked, heads):
    inputs, *masks = make(shape, torch.float64)
    weights = make_weights(shape, torch.float64, kept=1, heads=heads)
    text, video = sides(inputs, weights, *(masks if masked else ()))
    alone = folded.video_sentence(text, video, weights)
    assert max_error(alone, reference.similarities(text, video, weights)[0]) <= VALUE[torch.float64]


@pytest.mark.parametrize("heads", [1, 2], ids=["one-head", "two-heads"])
@pytest.mark.parametrize("masked", [False, True], ids=["all-slots", "real-slots"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_folded_equals_reference_in_value_and_gradient(shape, dtype, masked, heads):
    inputs, *masks = make(shape, dtype)
    weights = make_weights(shape, dtype, kept=min(3, shape.L), heads=heads)
    text, video = sides(inputs, weights, *(masks if masked else ()))
    expected, got = reference.similarities(text, video, weights), folded.similarities(text, video, weights)
    assert got.shape == (4, shape.T, shape.V) and got.dtype == dtype
    assert max_error(got, expected) <= VALUE[dtype]
    leaves = [*inputs, *weights[:PARAMETERS]]
    assert_same_gradients(gradients(got, leaves), gradients(expected, leaves), dtype)
    score = gradients(folded.score(text, video, weights), leaves)
    assert_same_gradients(score, gradients(reference.score(text, video, weights), leaves), dtype)


def test_masked_slots_change_nothing():
    shape = Shape(5, 4, 6, 7, 16)
    inputs, word_mask, frame_mask = make(shape, torch.float64)
    assert not word_mask.all() and not frame_mask.all() and int(word_mask.sum(1).min()) < 3
    weights = make_weights(shape, torch.float64, kept=3)
    changed = [
        inputs[0],
        torch.where(word_mask[..., None], inputs[1], 3.0),
        torch.where(frame_mask[..., None], inputs[2], 0),
    ]
    for form in (reference, folded):
        expected = form.score(*sides(inputs, weights, word_mask, frame_mask), weights)
        assert expected.isfinite().all()
        assert max_error(form.score(*sides(changed, weights, word_mask, frame_mask), weights), expected) < 1e-11


def test_blocks_that_are_recomputed_have_the_gradients_of_one_call(monkeypatch):
    shape = Shape(11, 7, 5, 4, 16)
    inputs, *_ = make(shape, torch.float64)
    weights = make_weights(shape, torch.float64, kept=2)
    leaves = [*inputs, *weights[:PARAMETERS]]
    text, video = sides(inputs, weights)
    whole = folded.score(text, video, weights)
    expected = gradients(whole, leaves)
    monkeypatch.setattr(_blocks, "SAVED_BYTES", 1)
    blocks = folded.score(text, video, weights)
    assert max_error(blocks, whole) < 1e-12
    assert_same_gradients(gradients(blocks, leaves), expected, torch.float64)


@pytest.mark.parametrize("blocks", [False, True], ids=["one-call", "recomputed-blocks"])
@pytest.mark.parametrize("masked", [False, True], ids=["all-slots", "real-slots"])
@pytest.mark.parametrize("heads", [1, 2], ids=["one-head", "two-heads"])
def test_dropout_equals_the_direct_form(heads, masked, blocks, monkeypatch):
    shape, rate = Shape(6, 5, 4, 5, 16), 0.3
    inputs, *masks = make(shape, torch.float64)
    weights = make_weights(shape, torch.float64, kept=2, heads=heads)
    text, video = sides(inputs, weights, *(masks if masked else ()))
    kept = torch.rand(shape.T, shape.L + 1, shape.V, shape.D, generator=torch.Generator().manual_seed(3)) >= rate
    y = reference.condition(
        text["query"], reference.frames_of(video, heads), weights, video.get("mask"), kept.double() / (1 - rate)
    )
    expected = reference.compare(y, text, weights)
    if blocks:
        monkeypatch.setattr(dropout, "SAVED_BYTES", 1)
    got = dropout.similarities(text, video, weights, lambda row: kept[row].transpose(0, 1), rate)
    assert max_error(got, expected) < 1e-12
    leaves = [*inputs, *weights[:PARAMETERS]]
    assert_same_gradients(gradients(got, leaves), gradients(expected, leaves), torch.float64)


@pytest.mark.parametrize(("size", "kept"), [(1, 1), (2, 1), (5, 3), (32, 3), (33, 6), (7, 7)])
def test_a_tournament_finds_the_largest_values_with_duplicates(size, kept):
    generator = torch.Generator().manual_seed(size)
    x = torch.randint(0, 9, (4, size, 3), generator=generator).float()  # ties everywhere
    expected = x.sort(1, descending=True).values[:, :kept]
    assert torch.equal(ranks.descending(x, kept, 1), expected)


def test_a_rank_gives_its_gradient_to_the_slots_that_hold_it():
    x = torch.tensor([[3.0, 5.0, 4.0, 1.0], [2.0, 7.0, 7.0, 0.0]], requires_grad=True)
    (ranks.descending(x, 2, 1) * torch.tensor([[1.0, 10.0], [1.0, 10.0]])).sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 10.0, 0.0], [0.0, 5.5, 5.5, 0.0]]


def test_best_and_rest_by_hand():
    e = torch.tensor([0.0, math.log(3.0), 5.0, 7.0])
    rest = 0.25 * 0.0 + 0.75 * math.log(3.0)
    assert max_error(ranks.best_and_rest(e, 2), torch.tensor([7.0, 5.0, rest])) < 1e-6
    assert ranks.best_and_rest(e, 4)[4] == 0  # nothing is left over
    real = torch.tensor([False, False, True, False])
    assert ranks.best_and_rest(e, 1, real).tolist() == [5.0, 0.0]


def test_isa_by_hand():
    """One softmax, the matrix, the same softmax again."""
    c, mixing = torch.tensor([math.log(3.0), 0.0]), torch.tensor([[0.0, math.log(2.0)], [0.0, math.log(2.0)]])
    alpha = [1 / 3, 2 / 3]  # softmax(0, ln 2), whatever the first softmax says
    assert abs(ranks.isa(c, mixing, 1.0).item() - alpha[0] * math.log(3.0)) < 1e-6


def test_fusion_leans_to_the_largest():
    x = torch.tensor([0.0, 0.0, 0.0, math.log(5.0)]).view(4, 1, 1)
    assert abs(tcmgc.fuse(x, torch.eye(4)).item() - 5 / 8 * math.log(5.0)) < 1e-6
