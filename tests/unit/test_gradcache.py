"""Chunked encoding gives the loss and the gradients of the whole batch."""

from __future__ import annotations

import pytest
import torch
from synthetic import Method, tiny_clip
from torch import Tensor

from tvr_cli.engine.training import gradcache
from tvr_cli.engine.training.draws import SeededDraws
from tvr_cli.methods import base
from tvr_cli.types import Batch, LossOutput, Sizes, TextFeatures, VideoFeatures

B, F, L = 7, 2, 6


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    ids = torch.zeros(B, L, dtype=torch.int64)
    for i in range(B):
        n = 3 + i % 3
        ids[i, 0], ids[i, n - 1] = 62, 63
        ids[i, 1 : n - 1] = torch.randint(1, 60, (n - 2,), generator=g)
    pixels = torch.randint(0, 256, (B, F, 3, 16, 16), generator=g, dtype=torch.uint8)
    real = torch.arange(F) < torch.randint(1, F + 1, (B, 1), generator=g)
    return ids, pixels, real


class Statistics(Method):
    """A loss with terms across the batch, as GARE's deviation over texts and EagleNet's energies are."""

    def loss(self, batch: Batch, *, step: int, draws: SeededDraws) -> LossOutput:
        plain = super().loss(batch, step=step, draws=draws)
        assert batch.text.tokens is not None
        # The start token sees nothing else: it is equal in all captions, its deviation has no gradient.
        spread = batch.text.tokens[:, 1:].std(0).mean() + batch.video.frames.var(0).log().mean()
        return LossOutput(plain.total + spread, {**plain.parts, "spread": spread})


PUBLISHED = {"gare": {}, "eaglenet": {"candidates": 3, "langevin_steps": 2, "replay_rows": 8}}


def gradients(chunk: int | None, name: str | None = None) -> tuple[float, dict[str, Tensor]]:
    backbone = tiny_clip(dim=64).double()
    torch.manual_seed(0)
    sizes = Sizes(64, F, L)
    method = base.build(name, sizes, PUBLISHED[name]) if name else Statistics(Method.Config(drop=0.3), sizes)
    method = method.double()
    ids, pixels, real = inputs()
    key, n = torch.arange(B), (ids > 0).sum(1)

    def encode(rows: slice) -> tuple[TextFeatures, VideoFeatures]:
        pooled, tokens = backbone.encode_text(ids[rows])
        frames = backbone.encode_frames(pixels[rows], real[rows])
        ts = torch.zeros(len(frames), F, dtype=torch.float64)
        return TextFeatures(key[rows], pooled, tokens, n[rows]), VideoFeatures(key[rows], frames, real[rows].sum(1), ts)

    def loss(features) -> LossOutput:
        return method.loss(Batch(*features), step=3, draws=SeededDraws(0, 3))

    if chunk is None:
        output = loss(encode(slice(0, B)))
        output.total.backward()
    else:
        output = gradcache.backward(encode, loss, B, chunk)
    named = [*method.named_parameters(), *backbone.named_parameters()]
    return output.total.item(), {name: p.grad for name, p in named if p.grad is not None}


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunks_give_the_loss_and_gradients_of_the_whole_batch(chunk: int) -> None:
    wanted_loss, wanted = gradients(None)
    loss, got = gradients(chunk)
    assert loss == pytest.approx(wanted_loss, rel=1e-12)
    assert got.keys() == wanted.keys()
    assert {"model.visual.conv1.weight", "model.token_embedding.weight", "map.weight"} <= got.keys()
    for name, gradient in wanted.items():
        scale = gradient.abs().max().clamp_min(1e-9)
        assert (got[name] - gradient).abs().max() < 1e-9 * scale, name


@pytest.mark.parametrize("name", PUBLISHED)
def test_terms_across_the_batch_of_published_methods_are_exact(name: str) -> None:
    """GARE's statistics over texts, EagleNet's in-batch energies and its sampler, which must run once a step."""
    wanted_loss, wanted = gradients(None, name)
    loss, got = gradients(3, name)
    assert loss == pytest.approx(wanted_loss, rel=1e-12)
    assert got.keys() == wanted.keys()
    for key, gradient in wanted.items():
        assert (got[key] - gradient).abs().max() < 1e-8 * gradient.abs().max().clamp_min(1e-6), key


def test_features_without_a_graph_need_no_second_pass() -> None:
    calls = []
    method = Method(Method.Config(), Sizes(8, F, L))

    def encode(rows: slice) -> tuple[TextFeatures, VideoFeatures]:
        calls.append(rows)
        n = rows.stop - rows.start
        g = torch.Generator().manual_seed(rows.start)
        key, ones = torch.arange(n), torch.ones(n, dtype=torch.int64)
        frames = torch.randn(n, F, 8, generator=g)
        return (
            TextFeatures(key, torch.randn(n, 8, generator=g), None, ones),
            VideoFeatures(key, frames, ones, torch.zeros(n, F)),
        )

    gradcache.backward(encode, lambda f: method.loss(Batch(*f), step=0, draws=SeededDraws(0, 0)), 4, 2)
    assert method.map.weight.grad is not None and len(calls) == 4
