"""Schedules, parameter groups, BertAdam's arithmetic, and the seeded draws."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from tvr_cli.config import TrainConfig
from tvr_cli.engine.training.draws import SeededDraws
from tvr_cli.engine.training.optimisers import BertAdam, build, group_parameters, multiplier, set_rates
from tvr_cli.engine.training.seeds import derive
from tvr_cli.errors import ConfigError


def test_authors_schedule_starts_at_zero_and_drops_at_the_end_of_the_warm_up() -> None:
    assert multiplier("authors", 0, 100, 0.1) == 0.0
    assert multiplier("authors", 9, 100, 0.1) == pytest.approx(0.9)
    assert multiplier("authors", 10, 100, 0.1) == pytest.approx(0.5 * (1 + math.cos(0.1 * math.pi)))  # 0.9755
    assert multiplier("authors", 50, 100, 0.1) == pytest.approx(0.5)


def test_authors_schedule_rises_again_beyond_its_total() -> None:
    assert multiplier("authors", 150, 100, 0.1) > multiplier("authors", 110, 100, 0.1)


def test_cosine_is_continuous_rises_then_falls_and_never_reaches_zero_within_the_run() -> None:
    values = [multiplier("cosine", s, 1000, 0.1) for s in range(1000)]
    assert max(abs(a - b) for a, b in itertools.pairwise(values)) < 0.011
    assert values.index(max(values)) in (99, 100)
    assert min(values) > 0


def test_constant_stays_at_one_after_its_warm_up() -> None:
    assert [multiplier("constant", s, 10, 0.2) for s in range(10)] == pytest.approx([0.25, 0.75, *[1.0] * 8])


def test_cosine_without_warm_up_starts_near_one() -> None:
    assert multiplier("cosine", 0, 1000, 0.0) == pytest.approx(1.0, abs=1e-5)


def test_bertadam_first_update_is_a_signed_step_without_bias_correction() -> None:
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    p.grad = torch.tensor([0.3, -0.4])  # norm 0.5: not clipped
    BertAdam([p], lr=0.1, schedule=lambda step: 1.0, weight_decay=0.0).step()
    # m = 0.1 g, v = 0.02 g^2: m / (sqrt(v) + 1e-6) = 0.03 / 0.0424274 = 0.707090 and -0.04 / 0.0565695 = -0.707094
    torch.testing.assert_close(p.detach(), torch.tensor([1 - 0.0707090, -2 + 0.0707094]), rtol=0, atol=3e-7)


def test_bertadam_clips_each_tensor_on_its_own() -> None:
    small, large = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    small.grad, large.grad = torch.tensor([0.3, 0.4]), torch.tensor([30.0, 40.0])
    BertAdam([small, large], lr=0.1, schedule=lambda step: 1.0).step()
    assert small.grad.norm().item() == pytest.approx(0.5)
    assert large.grad.norm().item() == pytest.approx(1.0, abs=1e-5)


def test_bertadam_counts_only_the_updates_that_a_parameter_had() -> None:
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    seen: list[int] = []
    optimizer = BertAdam([p, q], lr=0.1, schedule=lambda step: seen.append(step) or 1.0)
    p.grad = torch.ones(1)
    optimizer.step()
    q.grad = torch.ones(1)
    optimizer.step()
    assert seen == [0, 1, 0]


def test_bertadam_keeps_fp16_moments_for_fp16_parameters() -> None:
    p = nn.Parameter(torch.ones(3, dtype=torch.float16))
    p.grad = torch.full((3,), 1e-4, dtype=torch.float16)
    optimizer = BertAdam([p], lr=1e-7, schedule=lambda step: 1.0)
    optimizer.step()
    assert optimizer.state[p]["v"].dtype == torch.float16
    assert optimizer.state[p]["v"].abs().max() == 0  # 0.02 * 1e-8 is below the smallest fp16


def named() -> list[tuple[str, nn.Parameter]]:
    shapes = {
        "clip.visual.conv1.weight": (2, 3, 4, 4),
        "clip.visual.ln_pre.weight": (4,),
        "transformerClip.resblocks.0.attn.in_proj_bias": (12,),
        "transformerClip.resblocks.0.ln_1.weight": (4,),
        "global_mat_weight": (4, 4),
        "logit_scale": (),
        "visual_logit_weight": (3, 3),
    }
    return [(name, nn.Parameter(torch.ones(shape))) for name, shape in shapes.items()]


def rates(train: TrainConfig, dead: frozenset[str] = frozenset()) -> dict[str, tuple[float, float]]:
    groups = group_parameters(named(), train, dead)
    return {name: (g.lr, g.weight_decay) for g in groups.trained for name, _ in g.parameters}


def test_names_that_begin_with_clip_take_the_backbones_rate_and_transformerclip_does_not() -> None:
    found = rates(TrainConfig(lr=1.0, backbone_lr=0.01, weight_decay=0.2))
    assert found["clip.visual.conv1.weight"] == (0.01, 0.2)
    assert found["transformerClip.resblocks.0.ln_1.weight"] == (1.0, 0.0)


def test_the_authors_rule_decays_everything_but_biases() -> None:
    found = rates(TrainConfig(lr=1.0, backbone_lr=0.01, weight_decay=0.2, decay="authors"))
    assert found["clip.visual.ln_pre.weight"] == (0.01, 0.2)
    assert found["logit_scale"] == (1.0, 0.2)
    assert found["transformerClip.resblocks.0.attn.in_proj_bias"] == (1.0, 0.0)


def test_the_logit_scale_is_clips_where_clip_is_tuned() -> None:
    assert rates(TrainConfig(lr=1.0, backbone_lr=0.01, tune="full"))["logit_scale"] == (0.01, 0.0)
    assert rates(TrainConfig(lr=1.0, backbone_lr=0.01))["logit_scale"] == (1.0, 0.0)


def test_the_logit_scale_has_a_rate_of_its_own() -> None:
    assert rates(TrainConfig(lr=1.0, logit_scale_lr=0.5, weight_decay=0.2))["logit_scale"] == (0.5, 0.0)


def test_frozen_and_dead_parameters_are_listed_and_not_trained() -> None:
    train = TrainConfig(freeze=("clip.*",))
    groups = group_parameters(named(), train, frozenset({"visual_logit_weight"}))
    assert [name for name, _ in groups.frozen] == ["clip.visual.conv1.weight", "clip.visual.ln_pre.weight"]
    assert [name for name, _ in groups.dead] == ["visual_logit_weight"]
    assert {r.group for r in groups.table()} == {"head", "logit scale", "frozen", "dead"}
    assert sum(r.parameters for r in groups.table()) == sum(p.numel() for _, p in named())


def test_a_freeze_pattern_that_matches_nothing_names_the_nearest_parameter() -> None:
    with pytest.raises(ConfigError, match=r"'global_mat_wait' matches no parameter; did you mean global_mat_weight\?"):
        group_parameters(named(), TrainConfig(freeze=("global_mat_wait",)))


def test_adamw_rates_follow_the_factor() -> None:
    train = TrainConfig(lr=1.0, backbone_lr=0.01)
    groups = group_parameters(named(), train)
    optimizer = build(groups, train, total=10)
    set_rates(optimizer, groups, 0.5)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == [0.005, 0.5]


def test_draws_depend_on_seed_step_and_name_only() -> None:
    first = SeededDraws(1, 2).uniform("sigma", (3, 4))
    other = SeededDraws(1, 2)
    other.normal("something else", (100,))
    assert torch.equal(first, other.uniform("sigma", (3, 4)))
    for different in (SeededDraws(2, 2), SeededDraws(1, 3)):
        assert not torch.equal(first, different.uniform("sigma", (3, 4)))
    assert not torch.equal(first, SeededDraws(1, 2).uniform("sigma2", (3, 4)))


def test_draws_do_not_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    SeededDraws(0, 0).normal("x", (5,))
    assert torch.equal(torch.rand(3), wanted)


def test_draws_have_the_distribution_they_name() -> None:
    draws = SeededDraws(0, 0)
    uniform, normal, keep = draws.uniform("u", (20000,)), draws.normal("n", (20000,)), draws.keep("k", (20000,), 0.3)
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.01
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.02
    assert keep.dtype == torch.bool and abs(keep.float().mean() - 0.7) < 0.015
    assert sorted(draws.permutation("p", 9).tolist()) == list(range(9))


def test_derived_seeds_fit_a_generator() -> None:
    assert all(0 <= derive(i, "x") < 2**63 for i in range(100))
    assert derive(1, "23") != derive(12, "3")
