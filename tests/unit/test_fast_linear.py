"""The CPU's faster GEMM under a tower: the same features to rounding, and torch's own layers where gradients flow."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_clip
import torch
from open_clip.transformer import QuickGELU
from torch import nn
from tvr_kernels import gemm

from tvr_cli.backbones import load
from tvr_cli.engine.features.fast_linear import use_fast_linear


@pytest.fixture
def onednn() -> Iterator[None]:
    before = gemm.setting()
    if gemm.use("onednn") != "onednn":
        pytest.skip("this torch has no oneDNN")
    yield
    gemm.use(before)


@pytest.mark.parametrize(
    ("cfg", "shift"),
    [
        (tiny_clip.config(layers=12), True),
        (tiny_clip.resnet_config(), False),
        (tiny_clip.config(no_causal_mask=True), False),
    ],
    ids=["ViT with temporal shift", "ResNet", "MobileCLIP"],
)
def test_features_agree_to_rounding(tmp_path: Path, onednn: None, cfg: dict[str, Any], shift: bool) -> None:
    backbone = load(f"local:{tiny_clip.folder(tmp_path, cfg)}", temporal_shift=shift)
    pixels, ids = tiny_clip.pixels(2, 3, backbone.image_size), tiny_clip.ids(4, 9)
    real = torch.tensor([[True, True, False], [True, True, True]])
    with torch.inference_mode():
        frames, (pooled, tokens) = backbone.encode_frames(pixels, real), backbone.encode_text(ids)
        assert use_fast_linear(backbone)
        fast_frames, (fast_pooled, fast_tokens) = backbone.encode_frames(pixels, real), backbone.encode_text(ids)
    for got, expected in ((fast_frames, frames), (fast_pooled, pooled), (fast_tokens, tokens)):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_the_attention_is_really_replaced(onednn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.full((5, 5), float("-inf")).triu(1)
    with torch.no_grad():
        expected = attention(x, x, x, need_weights=False, attn_mask=mask)[0]
        weights = attention(x, x, x)[1]
        assert use_fast_linear(attention)
        used: list[int] = []
        product = gemm.linear
        monkeypatch.setattr(gemm, "linear", lambda x, w, b: used.append(1) or product(x, w, b))
        torch.testing.assert_close(attention(x, x, x, need_weights=False, attn_mask=mask)[0], expected)
        assert len(used) == 2  # q, k, v in one, and the output
        torch.testing.assert_close(attention(x, x, x)[1], weights)  # weights asked for: torch's own way


def test_a_mask_of_each_item_and_head_is_kept_apart(onednn: None) -> None:
    attention = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    generator = torch.Generator().manual_seed(0)
    x, mask = torch.randn(3, 5, 32, generator=generator), torch.randn(3 * 4, 5, 5, generator=generator)
    with torch.no_grad():
        expected = attention(x, x, x, need_weights=False, attn_mask=mask)[0]
        assert use_fast_linear(attention)
        torch.testing.assert_close(attention(x, x, x, need_weights=False, attn_mask=mask)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [QuickGELU(), nn.GELU(), nn.GELU(approximate="tanh")], ids=["quick", "", "tanh"])
def test_an_mlps_activation_works_in_place_to_the_bit(activation: nn.Module, dtype: torch.dtype) -> None:
    activation = copy.deepcopy(activation)  # cases share it
    mlp = nn.Sequential(nn.Linear(8, 16), activation, nn.Linear(16, 8)).to(dtype)
    hidden = torch.randn(3, 100, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        expected = activation(hidden)
        use_fast_linear(mlp)
        got = activation(given := hidden.clone())
    assert torch.equal(got, expected) and got.data_ptr() == given.data_ptr()
    kept = hidden.clone()
    assert activation(kept).data_ptr() != kept.data_ptr()  # gradients may flow
    assert torch.equal(kept, hidden)


def test_an_activation_whose_input_is_anothers_too_is_left_alone() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.GELU())
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    use_fast_linear(model)
    with torch.no_grad():
        given = x.clone()
        assert model[1](given).data_ptr() != given.data_ptr() and torch.equal(given, x)


def test_gradients_take_torchs_own_way(onednn: None) -> None:
    layer = nn.Linear(8, 3)
    x = torch.randn(4, 8, requires_grad=True)
    use_fast_linear(layer)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(4, 8))


def test_nothing_changes_where_torchs_gemm_is_faster_or_in_other_types() -> None:
    before = gemm.setting()
    try:
        gemm.use("mkl")
        assert not use_fast_linear(nn.Linear(4, 4))
        gemm.use("onednn")
        assert not use_fast_linear(nn.Linear(4, 4).bfloat16())
    finally:
        gemm.use(before)
