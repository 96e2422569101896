"""X-Pool: the folded form equals the block's equations in value and in every gradient."""

from __future__ import annotations

import pytest
import torch
from tvr_kernels import _tiles, xpool
from tvr_kernels._testing import ODD_SHAPES, Shape, features, max_error, random_weights


def sides(shape: Shape, dtype=torch.float64, *, unit=False):
    x = features(shape, unit=unit)
    weights = random_weights(xpool.XPoolWeights, shape.D, dtype=dtype)
    return (
        xpool.text_side(x.text.to(dtype), weights),
        xpool.video_side(x.frames.to(dtype), weights, x.frame_mask),
        weights,
    )


def torch_block(weights: xpool.XPoolWeights, text: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """The same block from torch's own modules, pair by pair."""
    D = text.shape[-1]
    attention = torch.nn.MultiheadAttention(D, 1, dtype=text.dtype)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([weights.query_weight, weights.key_weight, weights.value_weight]))
        attention.in_proj_bias.copy_(torch.cat([weights.query_bias, weights.key_bias, weights.value_bias]))
        attention.out_proj.weight.copy_(weights.out_weight)
        attention.out_proj.bias.copy_(weights.out_bias)

    def norm(x, n):
        return torch.nn.functional.layer_norm(
            x, (D,), getattr(weights, f"norm{n}_weight"), getattr(weights, f"norm{n}_bias")
        )

    rows = []
    for z in frames:
        n = norm(attention(norm(text, 1), norm(z, 1), norm(z, 1), need_weights=False)[0], 2)
        y = norm(n + n @ weights.linear_weight.T + weights.linear_bias, 3)
        rows.append(torch.cosine_similarity(text, y, dim=-1))
    return torch.stack(rows, 1)


def test_reference_is_the_block_of_torch_modules():
    x = features(Shape(4, 3, 5, 1, 12), unit=False, ragged=False)
    text, frames = x.text.double(), x.frames.double()
    weights = random_weights(xpool.XPoolWeights, 12, dtype=torch.float64)

    got = xpool.score(
        xpool.text_side(text, weights), xpool.video_side(frames, weights), weights, implementation="reference"
    )

    assert max_error(got, torch_block(weights, text, frames)) < 1e-12


@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
@pytest.mark.parametrize("unit", [True, False], ids=["unit", "clip-length"])
def test_folded_equals_reference(shape, unit):
    text, video, weights = sides(shape, unit=unit)
    expected = xpool.score(text, video, weights, implementation="reference")

    assert max_error(xpool.score(text, video, weights, implementation="folded"), expected) < 1e-11
    text, video, weights = sides(shape, torch.float32, unit=unit)
    got = xpool.score(text, video, weights, implementation="folded")
    assert got.dtype == torch.float32 and max_error(got, expected) < 5e-6


@pytest.mark.parametrize("saved_bytes", [2**28, 5000], ids=["whole", "recomputed"])
def test_every_gradient_equals_that_of_the_reference(saved_bytes, monkeypatch):
    monkeypatch.setattr(_tiles, "SAVED_BYTES", saved_bytes)
    found = []
    for implementation in ("reference", "folded"):
        x = features(Shape(6, 5, 4, 1, 9), unit=False)
        text, frames = x.text.double().requires_grad_(), x.frames.double().requires_grad_()
        weights = random_weights(xpool.XPoolWeights, 9, dtype=torch.float64)
        parameters = [p.requires_grad_() for p in weights if isinstance(p, torch.Tensor)]
        sides = xpool.text_side(text, weights), xpool.video_side(frames, weights, x.frame_mask)
        (xpool.score(*sides, weights, implementation=implementation) * torch.arange(30.0).view(6, 5)).sum().backward()
        # missing frames reach the reference's sums with weight zero, so they have a gradient of zero, not None
        found.append([p.grad if p.grad is not None else torch.zeros_like(p) for p in (text, frames, *parameters)])

    assert all(max_error(a, b) < 1e-9 for a, b in zip(*found, strict=True))
    assert float(found[1][0].abs().max()) > 1e-3


def test_missing_frames_do_not_change_scores():
    shape = Shape(5, 4, 3, 1, 6)
    x = features(shape, ragged=False)
    weights = random_weights(xpool.XPoolWeights, 6)
    padded = torch.cat([x.frames, 7 * torch.ones(4, 2, 6)], 1)
    mask = torch.tensor([True] * 3 + [False] * 2).expand(4, 5)
    text = xpool.text_side(x.text, weights)

    for implementation in ("reference", "folded"):
        bare = xpool.score(text, xpool.video_side(x.frames, weights), weights, implementation=implementation)
        got = xpool.score(text, xpool.video_side(padded, weights, mask), weights, implementation=implementation)
        torch.testing.assert_close(got, bare, atol=2e-6, rtol=0)


def test_tiles_do_not_change_scores_beyond_rounding(monkeypatch):
    text, video, weights = sides(Shape(19, 23, 5, 1, 16), torch.float32)
    whole = xpool.score(text, video, weights, implementation="folded")
    monkeypatch.setattr(_tiles, "CACHE_BYTES", 1)
    monkeypatch.setattr(_tiles, "TEXTS", 4)

    assert max_error(xpool.score(text, video, weights, implementation="folded"), whole) < 1e-6


def test_weights_of_another_size_are_named():
    weights = random_weights(xpool.XPoolWeights, 6)

    with pytest.raises(ValueError, match=r"norm1_weight must be \[D\] with D = 8 as in frames"):
        xpool.video_side(torch.ones(2, 3, 8), weights)


@pytest.mark.parametrize("shape", ODD_SHAPES[:3])
def test_the_pooled_vector_is_the_one_that_the_score_compares(shape):
    text, video, weights = sides(shape)
    y = xpool.pooled(text, video, weights)
    assert y.shape == (len(video["key"]), len(text["query"]), text["query"].shape[-1])
    cosine = torch.einsum("td,vtd->tv", text["unit"], torch.nn.functional.normalize(y, dim=-1))
    assert max_error(cosine, xpool.score(text, video, weights, implementation="reference")) < 1e-12
