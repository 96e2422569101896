"""The op `eaglenet`: its noise is Philox, its folded form is its reference, and a score is its pair's own business."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tvr_kernels import eaglenet, gemm
from tvr_kernels.eaglenet import folded, noise, pooled, reference
from tvr_kernels.eaglenet.weights import EagleNetWeights, GraphLayer, Linear, Norm, Options, Pooling, Relation

# Known answers of Random123 (kat_vectors, philox4x32 with 10 rounds): counter, key, output.
KNOWN_ANSWERS = [
    ((0x00000000,) * 4, (0x00000000,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
VARIANTS = {
    "rgat": {},
    "rgat-positions-off": {"positions": False},
    "gat": {"gat": True},
    "two-pool-heads": {"pool_heads": 2},
    "gat-four-pool-heads-masked": {"gat": True, "pool_heads": 4, "mask_padding": True},
    "rgat-masked": {"mask_padding": True},
    "normal-noise": {"prior": "normal", "prior_std": 0.7},
}


def make_weights(
    dim: int = 16,
    frames: int = 5,
    *,
    gat: bool = False,
    positions: bool = True,
    dtype: torch.dtype = torch.float64,
    **options: object,
) -> EagleNetWeights:
    """Random parameters without any default value; 2 graph heads, 3 candidates unless told."""
    g = torch.Generator().manual_seed(0)
    options = {"heads": 2, "candidates": 3, **options}
    heads = int(options["heads"])  # type: ignore[call-overload]

    def draw(*shape: int, scale: float | None = None) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype) * (shape[-1] ** -0.5 if scale is None else scale)

    def layer(k: int) -> GraphLayer:
        relations = tuple(
            Relation(draw(heads * k, dim), draw(k, scale=1.0), draw(k, scale=1.0)) for _ in range(1 if gat else 3)
        )
        return GraphLayer(relations, None if gat else draw(k, dim))

    def linear() -> Linear:
        return Linear(draw(dim, dim), draw(dim))

    def norm() -> Norm:
        return Norm(1 + draw(dim), draw(dim))

    return EagleNetWeights(
        Linear(draw(dim, frames), draw(dim)),
        draw(frames, dim, scale=1.0) if positions else None,
        layer(dim // heads),
        layer(dim),
        Pooling(linear(), linear(), linear(), linear(), linear(), norm(), norm(), norm()),
        Options(**options),  # type: ignore[arg-type]
    )


def make_items(
    weights: EagleNetWeights, texts: int = 5, videos: int = 4
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    dim, frames = weights.radius.weight.shape
    g = torch.Generator().manual_seed(1)
    dtype = weights.radius.weight.dtype
    text = 2 * torch.randn(texts, dim, generator=g, dtype=torch.float64).to(dtype)
    video = 2 * torch.randn(videos, frames, dim, generator=g, dtype=torch.float64).to(dtype)
    text_key, video_key = (torch.randint(-(2**63), 2**63 - 1, (n,), generator=g) for n in (texts, videos))
    real = torch.arange(frames) < 1 + torch.arange(videos)[:, None] % frames
    return eaglenet.text_side(text, text_key, weights), eaglenet.video_side(video, real, video_key, weights)


# -------------------------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter, key, expected):
    words = noise.philox4x32(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert tuple(int(w) for w in words) == expected


def test_noise_is_the_lane_of_the_block_that_its_definition_names():
    text_key, video_key = -3 * 2**61 + 12345, 5 * 2**60 + 678  # negative and positive 64-bit keys
    candidates, dim, draw = 3, 10, 2
    sigma = noise.uniform(torch.tensor([text_key]), torch.tensor([video_key]), candidates, dim, draw=draw)
    for s in range(candidates):
        for d in range(dim):
            counter = (d // 4, s + candidates * draw, video_key & 0xFFFFFFFF, (video_key >> 32) & 0xFFFFFFFF)
            key = (text_key & 0xFFFFFFFF, (text_key >> 32) & 0xFFFFFFFF)
            assert float(sigma[0, s, d]) == (plain_philox(counter, key)[d % 4] >> 8) * 2.0**-24


def plain_philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox-4x32-10 in Python integers, from the paper."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k0, right % 2**32, (left >> 32) ^ d ^ k1, left % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return a, b, c, d


def test_noise_is_uniform_and_normal_and_independent_over_draws():
    keys = torch.arange(40)
    u = noise.uniform(keys, keys[:, None], 4, 64)
    assert u.min() >= 0 and u.max() < 1
    assert abs(float(u.mean()) - 0.5) < 2e-3 and abs(float(u.var()) - 1 / 12) < 1e-3
    n = noise.normal(keys, keys[:, None], 4, 63)
    assert n.shape == (40, 40, 4, 63)
    assert abs(float(n.mean())) < 5e-3 and abs(float(n.var()) - 1) < 1e-2
    other = noise.uniform(keys, keys[:, None], 4, 64, draw=1)
    correlation = ((u - 0.5) * (other - 0.5)).mean() * 12
    assert abs(float(correlation)) < 5e-3


# -------------------------------------------------------------------------------------------------------------- score


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_folded_scores_equal_the_reference(variant, dtype, tolerance):
    weights = make_weights(dtype=dtype, **VARIANTS[variant])
    text, video = make_items(weights)
    expected = eaglenet.score(text, video, weights, implementation="reference")
    got = eaglenet.score(text, video, weights, implementation="folded")
    assert got.dtype == dtype and got.shape == (5, 4)
    assert float((got - expected).abs().max()) < tolerance
    assert float(expected.std()) > 0.01  # a constant would pass everything


@pytest.mark.parametrize(
    ("texts", "videos", "dim", "frames", "candidates"), [(1, 1, 8, 1, 1), (3, 7, 12, 2, 20), (9, 2, 20, 7, 3)]
)
def test_folded_scores_equal_the_reference_at_odd_sizes(texts, videos, dim, frames, candidates):
    weights = make_weights(dim, frames, candidates=candidates)
    text, video = make_items(weights, texts, videos)
    expected = eaglenet.score(text, video, weights, implementation="reference")
    torch.testing.assert_close(
        eaglenet.score(text, video, weights, implementation="folded"), expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("implementation", ["reference", "folded"])
def test_a_score_does_not_depend_on_its_tile(implementation, monkeypatch):
    weights = make_weights()
    text, video = make_items(weights)
    whole = eaglenet.score(text, video, weights, implementation=implementation)
    monkeypatch.setattr(folded, "_BLOCK_BYTES", {"cpu": 1})  # one pair at a time
    alone = eaglenet.score(
        {k: x[3:4] for k, x in text.items()},
        {k: x[[2, 0]] for k, x in video.items()},
        weights,
        implementation=implementation,
    )
    torch.testing.assert_close(alone, whole[3:4, [2, 0]], rtol=0, atol=1e-13)


def test_another_draw_gives_other_scores_and_draw_zero_the_first_again():
    weights = make_weights()
    text, video = make_items(weights)
    first, second, again = (eaglenet.score(text, video, weights._replace(draw=n)) for n in (0, 1, 0))
    assert torch.equal(first, again) and not torch.allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("implementation", ["reference", "folded"])
def test_injected_noise_replaces_the_drawn_noise(implementation):
    weights = make_weights()
    text, video = make_items(weights)
    sigma = noise.uniform(text["key"][:, None], video["key"], 3, 16, dtype=torch.float64).permute(2, 0, 1, 3)
    expected = eaglenet.score(text, video, weights, implementation=implementation)
    got = eaglenet.score(text, video, weights._replace(sigma=sigma), implementation=implementation)
    assert torch.equal(got, expected)
    other = eaglenet.score(text, video, weights._replace(sigma=1 - sigma), implementation=implementation)
    assert not torch.allclose(other, expected, atol=1e-3)


@pytest.mark.parametrize("variant", ["rgat-masked", "gat-four-pool-heads-masked"])
@pytest.mark.parametrize("implementation", ["reference", "folded"])
def test_with_mask_padding_a_missing_frame_changes_nothing(variant, implementation):
    weights = make_weights(**VARIANTS[variant])
    text, video = make_items(weights)
    whole = eaglenet.score(text, video, weights, implementation=implementation)
    scrambled = torch.where(video["real"][..., None], video["frames"], 7 * video["frames"].roll(1, -1))
    other = eaglenet.video_side(scrambled, video["real"], video["key"], weights)
    torch.testing.assert_close(
        eaglenet.score(text, other, weights, implementation=implementation), whole, rtol=0, atol=1e-12
    )
    leaking = weights._replace(options=weights.options._replace(mask_padding=False))
    assert not torch.allclose(eaglenet.score(text, other, leaking), eaglenet.score(text, video, leaking), atol=1e-3)


def test_a_zero_frame_gives_a_finite_score_of_its_own():
    weights = make_weights()
    text, video = make_items(weights)
    frames = video["frames"].clone()
    frames[1, 2] = 0
    changed = eaglenet.score(text, eaglenet.video_side(frames, video["real"], video["key"], weights), weights)
    kept = eaglenet.score(text, video, weights)
    assert torch.isfinite(changed).all()
    assert torch.equal(changed[:, [0, 2, 3]], kept[:, [0, 2, 3]])  # other clips do not notice


def test_folded_attention_is_x_pools_softmax():
    weights = make_weights(pool_heads=2)
    _, video = make_items(weights, texts=4, videos=4)
    query = torch.randn(4, 1, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)  # clip i, query i
    expected = reference.pool_attention(query[:, 0], video["frames"], torch.ones_like(video["real"]), weights.pool, 2)
    got = pooled.attention(query, video, weights)[:, 0]
    torch.testing.assert_close(got, expected.mean(1), rtol=0, atol=1e-12)


def test_folding_needs_at_least_eight_times_fewer_operations(monkeypatch):
    monkeypatch.setattr(gemm, "_chosen", "mkl")  # the counter does not know oneDNN's operator
    weights = make_weights(512, 12, heads=4, candidates=20, dtype=torch.float32)
    text, video = make_items(weights, 2, 2)
    nodes = torch.randn(1, 12 + 21, 512)
    masks = reference.relation_masks(torch.ones(1, 12, dtype=torch.bool), 21, relational=True)
    # the authors compute the whole last layer, of which the reference keeps the logits that are read
    whole_layer = flops(lambda: reference.graph_layer(nodes, weights.last, masks, weights.options))
    read_part = flops(lambda: reference.frame_text_logits(nodes, 12, weights.last, weights.options))
    as_written = flops(lambda: eaglenet.score(text, video, weights, implementation="reference")) / 4
    keys_and_values = 2 * flops(lambda: nodes[0, :12] @ weights.pool.key.weight)  # once a clip there, once a pair here
    as_written += whole_layer - read_part - keys_and_values
    folded_form = flops(lambda: eaglenet.score(text, video, weights, implementation="folded")) / 4
    assert as_written == pytest.approx(302e6, rel=0.02)  # what a counter on the authors' code says
    assert as_written > 11 * folded_form


def flops(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_wrong_shapes_are_named():
    weights = make_weights()
    with pytest.raises(ValueError, match=r"frames must be \[V, F, D\] with F = 5"):
        eaglenet.video_side(
            torch.zeros(2, 6, 16).double(), torch.ones(2, 6, dtype=bool), torch.zeros(2).long(), weights
        )
