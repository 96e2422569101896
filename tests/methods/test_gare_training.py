"""What GARE's golden vectors do not reach: batches that are too small, folded regularisers, options, initialisation."""

from __future__ import annotations

import pytest
import torch
from golden import RecordedDraws

from tvr_cli.engine.training.draws import SeededDraws
from tvr_cli.errors import DataError
from tvr_cli.methods import _gare_regularisers as regularisers
from tvr_cli.methods.gare import Method
from tvr_cli.types import Sizes


def make(**options):
    torch.manual_seed(0)
    method = Method(Method.Config(temporal="none", **options), Sizes(32, 6, 8)).double()
    with torch.no_grad():
        for parameter in method.psi.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def pairs(count=7, slots=6):
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(count, 32, generator=generator, dtype=torch.float64)
    frames = torch.randn(count, slots, 32, generator=generator, dtype=torch.float64)
    mask = torch.arange(slots) < torch.randint(1, slots + 1, (count, 1), generator=generator)
    return text.requires_grad_(), frames.requires_grad_(), mask


def test_one_pair_is_refused_with_a_sentence():
    text, frames, mask = pairs(1)
    with pytest.raises(DataError, match=r"needs at least 2 pairs in it, found 1; raise train\.batch_size"):
        make().objective(text, frames, mask, SeededDraws(0, 0))


@pytest.mark.parametrize("slots", [1, 6])
def test_without_dropout_the_folded_loss_is_the_explicit_one(slots):
    text, frames, mask = pairs(slots=slots)
    method = make(dropout=0.0, bottleneck_weight=0.02, direction_weight=0.8, norm_weight=1.3, norm_limit=50.0)
    folded = method.objective(text, frames, mask, RecordedDraws())  # draws nothing
    explicit = method.total(*method.explicit_pairs(text, frames, mask, None))
    leaves = [text, frames, *method.parameters()]
    for name, part in explicit.parts.items():
        torch.testing.assert_close(folded.parts[name], part, rtol=1e-9, atol=1e-9)
    if slots == 1:
        return  # one frame: no caption can change its increment, the deviation is zero and has no slope
    got = torch.autograd.grad(folded.total, leaves, allow_unused=True)
    expected = torch.autograd.grad(explicit.total, leaves, allow_unused=True)
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_one_frame_has_finite_gradients():
    text, frames, mask = pairs(slots=1)
    make(dropout=0.0).objective(text, frames, mask, RecordedDraws()).total.backward()
    assert text.grad.isfinite().all() and frames.grad.isfinite().all()


def test_diversity_in_blocks_of_captions_is_the_whole(monkeypatch):
    delta = torch.randn(7, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    whole = regularisers.direction(regularisers.explicit(delta), 2.0)
    (expected,) = torch.autograd.grad(whole.sum(), delta)
    monkeypatch.setattr(regularisers, "_BLOCK", 2 * 5 * (5 + 32))
    blocks = regularisers.direction(regularisers.explicit(delta), 2.0)
    (got,) = torch.autograd.grad(blocks.sum(), delta)
    torch.testing.assert_close(blocks, whole)
    torch.testing.assert_close(got, expected)


def test_diversity_of_two_opposite_increments():
    delta = torch.tensor([[[1.0, 0.0], [-3.0, 0.0]]], dtype=torch.float64)
    got = regularisers.direction(regularisers.explicit(delta.expand(2, 2, 2)), 2.0)
    expected = torch.tensor((2 * 1.0 + 2 * 2.718281828459045**-4) / 4 + 1e-8, dtype=torch.float64).log()
    torch.testing.assert_close(got, expected.expand(2))


def test_norm_term_is_cut_with_its_gradient():
    value = torch.tensor(-0.6, dtype=torch.float64, requires_grad=True)
    cut = regularisers.gated(value, 0.5)
    cut.backward()
    assert cut.item() == 0 and value.grad.item() == 0
    assert regularisers.gated(value, 0.7).item() == pytest.approx(-0.6)


def test_other_captions_of_a_video_are_no_negatives():
    text, frames, mask = pairs(4)
    method = make(dropout=0.0)
    scores, increments = method.explicit_pairs(text, frames, mask, None)
    same = torch.tensor([0, 0, 1, 2])
    alone = method.total(scores, increments, same[:, None] == same)
    papers = method.total(scores, increments)
    assert alone.parts["contrastive"] < papers.parts["contrastive"]
    assert torch.equal(alone.parts["direction"], papers.parts["direction"])


def test_every_linear_map_starts_from_the_same_normal_distribution():
    torch.manual_seed(0)
    method = Method(Method.Config(), Sizes(64, 4, 8))
    for name in ("psi.mean_proj", "psi.layers.0.linear1", "transformerClip.resblocks.0.mlp.c_fc"):
        module = method.get_submodule(name)
        assert abs(module.weight.std().item() - 0.02) < 1e-3 and module.bias.abs().max() == 0
    assert abs(method.frame_position_embeddings.weight.std().item() - 0.02) < 1e-3


@pytest.mark.parametrize(("options", "message"), [({"dropout": 1.0}, "dropout"), ({"temperature": 0.0}, "temperature")])
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Method.Config(**options)
