"""The shared temporal transformer against the authors' outputs, and what it does with masks and positions."""

from __future__ import annotations

import pytest
import torch
from golden import DTYPES, Closeness, cases, load

from tvr_cli.errors import ConfigError
from tvr_cli.nn import temporal

SHARED = [
    pytest.param(path, dtype, id=f"{name}-{label}") for name, path in cases("shared") for label, dtype in DTYPES.items()
]


def _random(width=128, layers=2):
    torch.manual_seed(0)
    return temporal.TemporalTransformer(width, layers).double(), temporal.frame_positions(width).double()


@pytest.mark.parametrize(("path", "dtype"), SHARED)
def test_golden_temporal_transformer(path, dtype):
    golden = load(path, dtype)
    blocks = golden.under("param.transformerClip.")
    table = golden["param.frame_position_embeddings.weight"]
    layers = 1 + max(int(name.split(".")[1]) for name in blocks)
    transformer = temporal.TemporalTransformer(table.shape[1], layers, golden.config["heads_temporal"]).to(dtype)
    transformer.load_state_dict(blocks)
    positions = temporal.frame_positions(table.shape[1], len(table)).to(dtype)
    positions.load_state_dict({"weight": table})
    for case in golden.config["cases"]:
        mask = golden[f"{case}.in.video_mask"].bool()
        z = temporal.contextualize_frames(golden[f"{case}.in.visual_output"], mask, transformer, positions)
        Closeness("glccl", dtype, file=golden).value(case, z, golden[f"{case}.out.frames_temporal"])


def test_missing_frames_change_nothing_but_their_own_output():
    transformer, positions = _random()
    frames = torch.randn(3, 5, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(5)[None] < torch.tensor([5, 3, 1])[:, None]
    other = torch.where(mask[..., None], frames, torch.ones(()).double())
    z = temporal.contextualize_frames(frames, mask, transformer, positions)
    changed = temporal.contextualize_frames(other, mask, transformer, positions)
    assert torch.equal(z[mask], changed[mask])
    assert z[~mask].norm() > 0


def test_more_frames_than_positions_is_a_sentence():
    transformer, positions = _random()
    with pytest.raises(ConfigError, match="77 frame positions, but the clips have 80"):
        temporal.contextualize_frames(
            torch.zeros(1, 80, 128), torch.ones(1, 80, dtype=torch.bool), transformer, positions
        )


def test_start_from_text_tower_copies_blocks_and_positions():
    transformer, positions = _random(layers=3)
    source, table = _random(layers=2)[0], torch.randn(32, 128)
    tower = {f"transformer.{name}": value * 2 for name, value in source.state_dict().items()}
    before = positions.weight[32:].clone()
    temporal.start_from_text_tower(transformer, positions, {**tower, "positional_embedding": table})
    assert torch.equal(positions.weight[:32], table.double()) and torch.equal(positions.weight[32:], before)
    for name, value in tower.items():
        assert torch.equal(transformer.state_dict()[name.removeprefix("transformer.")], value)


@pytest.mark.parametrize("tower", [{}, {"positional_embedding": torch.zeros(77, 64)}])
def test_a_tower_that_does_not_fit_leaves_the_random_start(tower):
    transformer, positions = _random()
    before = {**transformer.state_dict(), "E": positions.weight}
    before = {name: value.clone() for name, value in before.items()}
    temporal.start_from_text_tower(transformer, positions, tower)
    assert all(torch.equal(before[name], value) for name, value in transformer.state_dict().items())
    assert torch.equal(before["E"], positions.weight)
