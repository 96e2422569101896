"""EagleNet beyond the golden vectors: recomputed blocks, the direct form's gradients, energies, sampler, encodings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden import RecordedDraws
from torch import Tensor
from tvr_kernels.eaglenet import reference

from tvr_cli.engine.training.draws import SeededDraws
from tvr_cli.methods import _eaglenet_energy, base
from tvr_cli.methods._eaglenet_energy import EnergyMatching
from tvr_cli.methods._eaglenet_training import Dropout, score_pairs, sigmoid_loss
from tvr_cli.methods.eaglenet import Method
from tvr_cli.types import Batch, Sizes, TextFeatures, VideoFeatures

DIM, FRAMES, PAIRS = 16, 5, 6
SMALL = {"candidates": 3, "graph_heads": 2, "langevin_steps": 2, "replay_rows": 7}


def make_method(**options: object) -> Method:
    torch.manual_seed(0)
    method = base.build("eaglenet", Sizes(DIM, FRAMES, 1), {**SMALL, **options})
    for parameter in method.parameters():  # identity and zero starts would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    assert isinstance(method, Method)
    return method.double()


def make_batch(n: int = PAIRS, video_id: Tensor | None = None) -> Batch:
    g = torch.Generator().manual_seed(1)
    text = 2 * torch.randn(n, DIM, generator=g, dtype=torch.float64)
    frames = 2 * torch.randn(n, FRAMES, DIM, generator=g, dtype=torch.float64)
    counts = 1 + torch.arange(n) % FRAMES
    return Batch(
        TextFeatures(torch.arange(n) + 10, text, None, torch.ones(n, dtype=torch.long)),
        VideoFeatures(torch.arange(n) - 10, frames, counts, torch.zeros(n, FRAMES)),
        video_id,
    )


def gradients(method: Method, value: Tensor) -> dict[str, Tensor]:
    named = {k: p for k, p in method.named_parameters() if not k.startswith("ebm.")}
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {k: g for k, g in zip(named, found, strict=True) if g is not None}


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("options", [{}, {"graph": "gat", "pool_heads": 2}, {"mask_padding": True}], ids=str)
def test_recomputed_blocks_give_the_scores_and_gradients_of_the_direct_form(options):
    method, batch, draws = make_method(**options), make_batch(), SeededDraws(3, 4)
    text, frames, real = batch.text.pooled, batch.video.frames, batch.video.mask()
    weights, dropout = method.weights(), Dropout(0.5, 0.3)
    expected = direct_scores(method, batch, draws, dropout)
    towards = torch.randn(PAIRS, PAIRS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    reference_gradients = gradients(method, (expected * towards).sum())
    for saved_bytes in (2**30, 1):  # at once; one caption a block, recomputed
        got = score_pairs(
            text, frames, real, weights, method.pool_frames, dropout, draws, saved_bytes=saved_bytes
        ).scores
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        ours = gradients(method, (got * towards).sum())
        assert ours.keys() == reference_gradients.keys()
        for name, gradient in ours.items():
            torch.testing.assert_close(gradient, reference_gradients[name], rtol=0, atol=1e-11, msg=name)


def direct_scores(method: Method, batch: Batch, draws: SeededDraws, dropout: Dropout) -> Tensor:
    """Every pair by the equations, with the draws of `score_pairs`."""
    nodes, options = FRAMES + 1 + SMALL["candidates"], method.weights().options
    rows = []
    for a in range(PAIRS):
        keep = draws.keep(f"gnn_dropout_keep.0.{a}", (PAIRS, nodes, DIM), dropout.nodes).double() / (1 - dropout.nodes)
        linear = draws.keep(f"pool_dropout_keep.{a}", (PAIRS, DIM), dropout.linear).double() / (1 - dropout.linear)
        sigma = draws.uniform(f"sigma.{a}", (options.candidates, PAIRS, DIM)).double().transpose(0, 1)
        rows.append(
            reference.details(
                {"text": batch.text.pooled},
                {"frames": batch.video.frames, "real": batch.video.mask()},
                method.weights(),
                torch.full((PAIRS,), a),
                torch.arange(PAIRS),
                sigma=sigma,
                node_keep=keep,
                linear_keep=linear,
            ).score
        )
    return torch.stack(rows)


@pytest.mark.parametrize("options", [{}, {"energy": "mlp", "graph": "gat"}, {"energy_support_weight": 0.0}], ids=str)
def test_every_living_parameter_gets_a_gradient(options):
    method = make_method(**options)
    method.loss(make_batch(), step=0, draws=SeededDraws(0, 0)).total.backward()
    without = {k for k, p in method.named_parameters() if p.grad is None or not p.grad.any()}
    assert without <= method.dead()


def test_other_captions_of_a_video_are_neither_pulled_nor_pushed():
    scores = torch.tensor([[0.9, 0.8], [0.7, 0.6]], dtype=torch.float64)
    scale, bias = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    diagonal_only = sigmoid_loss(scores, scale, bias, torch.ones(2, 2, dtype=torch.bool))
    expected = -(F.logsigmoid(scores[0, 0]) + F.logsigmoid(scores[1, 1])) / 2
    torch.testing.assert_close(diagonal_only, expected)
    assert sigmoid_loss(scores, scale, bias, None) > diagonal_only


def test_the_sigmoid_loss_is_finite_where_the_authors_is_not():
    scores = torch.tensor([[-0.9, 0.99], [0.99, 0.9]], requires_grad=True)
    loss = sigmoid_loss(scores, torch.tensor([4.77]), torch.tensor([-12.93]), None)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(scores.grad).all()


def test_a_batch_of_one_pair_has_a_finite_loss():
    out = make_method().loss(make_batch(1), step=0, draws=SeededDraws(0, 0))
    assert torch.isfinite(out.total).all()


# ------------------------------------------------------------------------------------------------------------- energy


def energy(kind: str, pool: str = "mean", **changes: object) -> EnergyMatching:
    torch.manual_seed(0)
    settings = {
        "steps": 3,
        "step_size": 1.0,
        "noise": 0.005,
        "regularizer": 1.0,
        "buffer_rows": 7,
        "replay_start": "uniform",
    }
    return EnergyMatching(DIM, FRAMES, kind=kind, pool=pool, **{**settings, **changes}).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", ["mean", "max", "min"])
@pytest.mark.parametrize("kind", ["mlp", "bilinear", "cosine"])
@pytest.mark.parametrize("masked", [False, True])
def test_pairwise_energies_are_those_of_single_pairs(kind, pool, masked, monkeypatch):
    monkeypatch.setattr(_eaglenet_energy, "_HIDDEN_BYTES", 1)  # one caption at a time, recomputed
    model, batch = energy(kind, pool), make_batch()
    text, frames, real = batch.text.pooled, batch.video.frames, batch.video.mask() if masked else None
    table = model.pairwise(text, frames, real)
    for i in range(PAIRS):
        row = model.paired(text[i].expand(PAIRS, DIM), frames, real)
        torch.testing.assert_close(table[i], row, rtol=0, atol=1e-12)
    one = frames[0, : int(real[0].sum())] if masked else frames[0]
    if kind == "bilinear":
        expected = -torch.stack([model.energy_net(F.normalize(text[1], dim=0)) @ F.normalize(v, dim=0) for v in one])
    elif kind == "mlp":
        expected = torch.stack([model.energy_net(torch.cat([v, text[1]]))[0] for v in one])
    else:
        expected = -F.cosine_similarity(one, text[1][None])
    expected = {"mean": expected.mean(), "max": expected.max(), "min": expected.min()}[pool]
    torch.testing.assert_close(table[1, 0], expected, rtol=0, atol=1e-12)


def test_the_sampler_walks_down_and_remembers():
    model = energy("bilinear", steps=20, noise=0.0, step_size=0.05)
    assert not model.sampling
    draws = SeededDraws(0, 0)
    starts = [x.clone() for x in model._starts(PAIRS, draws, "x")]
    assert all(-1 <= float(x.min()) < 0 < float(x.max()) < 1 for x in starts)
    frames, text = model.sample(PAIRS, draws, "x")
    assert not frames.requires_grad and model.sampling
    assert (model.paired(text, frames) < model.paired(starts[1], starts[0])).all()
    assert torch.equal(model.replay_buffer_vid[:PAIRS], frames) and torch.equal(model.replay_buffer_txt[:PAIRS], text)
    restored = energy("bilinear")
    restored.load_state_dict(model.state_dict())
    assert restored.sampling  # a resumed run goes on from the buffer


def test_later_chains_continue_from_the_buffer_and_one_starts_in_the_unit_cube():
    model = energy("mlp", steps=0)
    model.sampling.fill_(True)
    n, kept = 6, 5
    order = torch.tensor([4, 0, 6, 1, 2, 3, 5])
    fresh = torch.rand(n - kept, DIM, generator=torch.Generator().manual_seed(0))
    before = model.replay_buffer_txt.clone()
    recorded = {
        "x/perm": order,
        "x/fresh_txt_u01": fresh,
        "x/fresh_vid_u01": torch.zeros(n - kept, FRAMES, DIM),
        "x/langevin_txt_n01": torch.zeros(0, n, DIM),
        "x/langevin_vid_n01": torch.zeros(0, n, FRAMES, DIM),
    }
    _, text = model.sample(n, RecordedDraws(recorded), "x")
    assert torch.equal(text, torch.cat([before[order[:kept]], fresh.double()]))


def test_zero_replay_rows_explode_only_where_asked_for():
    for start, explodes in (("zeros", True), ("uniform", False)):
        model = energy("bilinear", replay_start=start, buffer_rows=50)
        for call in range(3):
            frames, _ = model.sample(PAIRS, SeededDraws(0, call), "x")
        assert bool(frames.abs().max() > 1e6) == explodes


# ---------------------------------------------------------------------------------------------------------- encodings


def test_noise_draws_change_scores_and_come_back():
    method, batch = make_method(), make_batch()
    text, video = method.encode_text(batch.text), method.encode_video(batch.video)
    first = method.score(text, video)
    method.noise_draw = 1
    second = method.score(text, video)
    method.noise_draw = 0
    assert torch.equal(method.score(text, video), first) and not torch.allclose(first, second, atol=1e-4)


def test_explanations_are_the_attention_on_real_frames_of_the_enriched_caption():
    method, batch = make_method(pool_heads=2), make_batch()
    text, video = method.encode_text(batch.text), method.encode_video(batch.video)
    shown = method.explain(text, video)
    a, b = torch.cartesian_prod(torch.arange(PAIRS), torch.arange(PAIRS)).unbind(1)
    enriched = reference.details(
        {**text.tensors, "key": text.key}, {**video.tensors, "key": video.key}, method.weights(), a, b
    ).enriched
    attention = method.pool_frames.attention(enriched.view(PAIRS, PAIRS, DIM), batch.video.frames).mean(2)
    expected = attention * batch.video.mask()
    torch.testing.assert_close(shown, expected / expected.sum(-1, keepdim=True), rtol=0, atol=1e-12)


def test_half_precision_features_are_scored_in_float32():
    method, batch = make_method().float(), make_batch()
    text, video = batch.text.map(_half), batch.video.map(_half)
    assert method.score(method.encode_text(text), method.encode_video(video)).dtype == torch.float32


def _half(x: Tensor) -> Tensor:
    return x.half() if x.is_floating_point() else x
