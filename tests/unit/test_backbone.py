"""The towers: text of any length, pixels of any kind, temporal shift, each against the plain way of computing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_clip
import torch
from torch import Tensor

from tvr_cli.backbones import load, registry
from tvr_cli.backbones.openclip import OpenClipBackbone, build
from tvr_cli.backbones.openclip.temporal_shift import shift_patches
from tvr_cli.errors import ConfigError

_SIGLIP = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
_TOWERS = {
    "CLIP": tiny_clip.config(),
    "causal CustomTextCLIP": tiny_clip.config(pool_type="argmax"),
    "MobileCLIP": tiny_clip.config(no_causal_mask=True),
    "SigLIP": tiny_clip.config(**_SIGLIP),
}


def _load(path: Path, cfg: dict[str, Any], **options: Any) -> OpenClipBackbone:
    return load(f"local:{tiny_clip.folder(path, cfg)}", offline=True, **options)  # type: ignore[return-value]


def _plain(backbone: OpenClipBackbone, pixels: Tensor) -> Tensor:
    """Normalise uint8 frames by the book and encode them."""
    mean, std = (
        torch.tensor(v, dtype=backbone.dtype).view(3, 1, 1) for v in (backbone.source.mean, backbone.source.std)
    )
    return backbone.encode_normalized((pixels.to(backbone.dtype) / 255 - mean) / std)


@pytest.mark.parametrize("tower", _TOWERS)
def test_pooled_text_equals_open_clip(tmp_path: Path, tower: str) -> None:
    backbone, ids = _load(tmp_path, _TOWERS[tower]), tiny_clip.ids(7, 16)
    with torch.no_grad():
        pooled, tokens = backbone.encode_text(ids)
        expected = backbone.model.encode_text(ids)
    assert tokens is not None and tokens.shape == (7, 16, 32)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tower", _TOWERS)
@pytest.mark.parametrize("length", [5, 11])
def test_a_shorter_context_gives_the_same_features(tmp_path: Path, tower: str, length: int) -> None:
    backbone, ids = _load(tmp_path, _TOWERS[tower]), tiny_clip.ids(7, length)
    padded = torch.nn.functional.pad(ids, (0, 16 - length))
    with torch.no_grad():
        pooled, tokens = backbone.encode_text(ids)
        full_pooled, full_tokens = backbone.encode_text(padded)
    assert tokens is not None and full_tokens is not None
    torch.testing.assert_close(pooled, full_pooled, rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens, full_tokens[:, :length], rtol=0, atol=1e-5)


def test_clips_tokens_are_its_projected_final_states(tmp_path: Path) -> None:
    backbone, ids = _load(tmp_path, _TOWERS["CLIP"]), tiny_clip.ids(3, 9)
    model: Any = backbone.model
    with torch.no_grad():
        x = model.token_embedding(ids) + model.positional_embedding[:9]
        mask = torch.full((9, 9), float("-inf")).triu(1)
        x = model.ln_final(model.transformer(x, attn_mask=mask)) @ model.text_projection
        pooled, tokens = backbone.encode_text(ids)
    torch.testing.assert_close(tokens, x)
    torch.testing.assert_close(pooled, torch.stack([x[i, ids[i].argmax()] for i in range(3)]))


def test_too_long_a_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 16 token slots, got 17"):
        _load(tmp_path, _TOWERS["CLIP"]).encode_text(tiny_clip.ids(1, 17))


@pytest.mark.parametrize("cfg", [tiny_clip.config(), tiny_clip.resnet_config()], ids=["ViT", "ResNet"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalising_in_the_first_convolution_equals_the_plain_way(
    tmp_path: Path, cfg: dict[str, Any], dtype: torch.dtype
) -> None:
    backbone = _load(tmp_path, cfg).to(dtype)
    pixels, real = tiny_clip.pixels(2, 3, backbone.image_size), torch.ones(2, 3, dtype=torch.bool)
    got, expected = backbone.encode_frames(pixels, real), _plain(backbone, pixels)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    (got**2).sum().backward()
    weight = backbone.model.visual.conv1.weight  # type: ignore[union-attr]
    folded = weight.grad.clone()
    backbone.zero_grad()
    (_plain(backbone, pixels) ** 2).sum().backward()
    torch.testing.assert_close(
        folded, weight.grad, rtol=10 * tolerance, atol=10 * tolerance * float(folded.abs().max())
    )


def test_bf16_pixels_are_no_worse_than_the_plain_way_in_bf16(tmp_path: Path) -> None:
    exact = _load(tmp_path, tiny_clip.config())
    pixels, real = tiny_clip.pixels(4, 3, 32), torch.ones(4, 3, dtype=torch.bool)
    low = load(f"local:{tmp_path}", offline=True, precision=torch.bfloat16)
    with torch.no_grad():
        truth = exact.encode_frames(pixels, real)
        error = (low.encode_frames(pixels, real).float() - truth).abs().mean()
        plain = (_plain(low, pixels).float() - truth).abs().mean()  # type: ignore[arg-type]
    assert error <= 2 * plain


@pytest.mark.parametrize(
    ("cfg", "shift"),
    [(tiny_clip.config(), False), (tiny_clip.resnet_config(), False), (tiny_clip.config(layers=12), True)],
    ids=["ViT", "ResNet", "temporal shift"],
)
def test_a_missing_frame_is_the_zero_normalised_image(tmp_path: Path, cfg: dict[str, Any], shift: bool) -> None:
    backbone = _load(tmp_path, cfg, temporal_shift=shift)
    real = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    pixels = tiny_clip.pixels(3, 3, backbone.image_size)  # missing slots hold noise: it must not matter
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.source.mean, backbone.source.std))
    images = ((pixels / 255 - mean) / std).masked_fill(~real[:, :, None, None, None], 0.0)
    with torch.no_grad():
        got, expected = backbone.encode_frames(pixels, real), backbone.encode_normalized(images)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


def test_a_missing_frame_leaves_the_convolution_exactly_zero(tmp_path: Path) -> None:
    conv = _load(tmp_path, tiny_clip.config()).model.visual.conv1  # type: ignore[union-attr]
    with conv.missing(torch.tensor([False, True])):
        out = conv(tiny_clip.pixels(1, 2, 32)[0])
    assert (out[1] == 0).all() and (out[0] != 0).any()


def test_gradients_of_missing_frames_arrive(tmp_path: Path) -> None:
    backbone = _load(tmp_path, tiny_clip.config())
    backbone.encode_frames(tiny_clip.pixels(2, 3, 32), torch.tensor([[True, False, False]] * 2))[:, 1:].sum().backward()
    grad = backbone.model.visual.positional_embedding.grad  # type: ignore[union-attr]
    assert grad is not None and grad.abs().sum() > 0


def test_frames_of_the_wrong_size_are_a_programming_error(tmp_path: Path) -> None:
    backbone = _load(tmp_path, tiny_clip.config())
    with pytest.raises(ValueError, match=r"expected frames \[V, F, 3, 32, 32\]"):
        backbone.encode_frames(tiny_clip.pixels(1, 1, 31), torch.ones(1, 1, dtype=torch.bool))


@pytest.mark.parametrize("tokens", [7, 17, 50])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_the_shift_moves_patches_as_the_spec_says(tokens: int, frames: int) -> None:
    x = torch.randn(3 * frames, tokens, 4, generator=torch.Generator().manual_seed(0))
    got = shift_patches(x, frames).view(3, frames, tokens, 4)
    clips = x.view(3, frames, tokens, 4)
    expected, step = clips.clone(), tokens // 7
    for i in range(1, tokens, step):
        for f in range(1, frames):
            expected[:, f, i] = clips[:, f - 1, i]
        expected[:, 0, i] = clips[:, 0, i]
    for i in range(4, tokens, step):
        for f in range(frames - 1):
            expected[:, f, i] = clips[:, f + 1, i]
        expected[:, frames - 1, i] = clips[:, frames - 1, i]
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_the_shift_mixes_frames_of_one_clip_only(tmp_path: Path) -> None:
    backbone = _load(tmp_path, tiny_clip.config(layers=12), temporal_shift=True)
    assert "temporal_shift" in backbone.provides and backbone.identity()["temporal_shift"] is True
    pixels, real = tiny_clip.pixels(2, 4, 32), torch.ones(2, 4, dtype=torch.bool)
    changed = pixels.clone()
    changed[0, 1] = 255 - changed[0, 1]
    with torch.no_grad():
        difference = (backbone.encode_frames(changed, real) - backbone.encode_frames(pixels, real)).abs().amax(-1)
    # Two shifted blocks reach two frames to each side, and never the other clip.
    assert (difference[0] > 1e-4).tolist() == [True, True, True, True]
    assert float(difference[1].max()) < 1e-5


@pytest.mark.parametrize("cfg", [tiny_clip.resnet_config(), tiny_clip.config(layers=11)], ids=["ResNet", "11 blocks"])
def test_the_shift_is_refused_where_there_is_nothing_to_shift(tmp_path: Path, cfg: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"temporal shift needs a ViT of at least 12 blocks.*--temporal-shift"):
        _load(tmp_path, cfg, temporal_shift=True)
    assert "temporal_shift" not in _load(tmp_path, cfg).provides


def test_a_frame_never_depends_on_its_batch_even_in_training(tmp_path: Path) -> None:
    backbone = _load(tmp_path, tiny_clip.resnet_config()).train()
    pixels, real = tiny_clip.pixels(3, 2, 64), torch.ones(3, 2, dtype=torch.bool)
    torch.testing.assert_close(
        backbone.encode_frames(pixels, real)[:1], backbone.encode_frames(pixels[:1], real[:1]), rtol=1e-4, atol=1e-4
    )


def test_the_text_tower_has_openais_names(tmp_path: Path) -> None:
    for tower in ("CLIP", "causal CustomTextCLIP"):
        names = set(_load(tmp_path / tower, _TOWERS[tower]).text_tower())
        assert {"positional_embedding", "token_embedding.weight", "text_projection", "ln_final.weight"} <= names
        assert "transformer.resblocks.1.attn.in_proj_weight" in names
        assert not any(name.startswith(("visual", "logit")) for name in names)


@pytest.mark.parametrize("cfg", [tiny_clip.config(layers=3), tiny_clip.resnet_config()], ids=["ViT", "ResNet"])
def test_sizes_are_inferred_from_openai_names(cfg: dict[str, Any]) -> None:
    state = tiny_clip.model(cfg).state_dict()
    backbone = OpenClipBackbone.from_state_dict({f"clip.{k}": v for k, v in state.items()}, name="x")
    assert (backbone.dim, backbone.context_length, backbone.image_size) == (32, 16, cfg["vision_cfg"]["image_size"])
    for name, value in backbone.model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    backbone = _load(tmp_path, tiny_clip.config(layers=12), temporal_shift=True)
    pixels, real = tiny_clip.pixels(2, 3, 32), torch.tensor([[True, True, False], [True, True, True]])
    grads = []
    for enable in (False, True):
        backbone.set_grad_checkpointing(enable)
        backbone.zero_grad()
        (backbone.encode_frames(pixels, real).sum() + backbone.encode_text(tiny_clip.ids(2, 8))[0].sum()).backward()
        grads.append({n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["mobileclip2-s0", "pe-core-b16", "RN50-quickgelu/openai", "coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k"],
)
def test_published_architectures_run_with_random_weights(name: str) -> None:
    source = registry.resolve(name).detail
    backbone = OpenClipBackbone(build(source.model), source, source.tokenizer(offline=True)).eval()
    pixels = tiny_clip.pixels(1, 2, source.image_size)
    with torch.no_grad():
        frames = backbone.encode_frames(pixels, torch.ones(1, 2, dtype=torch.bool))
        pooled, tokens = backbone.encode_text(backbone.tokenize(["a dog surfing"], 12)[0])
        full = backbone.tokenize(["a dog surfing"], backbone.context_length)[0]
        options = {"normalize": False}
        expected = backbone.model.encode_text(full, **options)  # type: ignore[operator]
        plain = _plain(backbone, pixels)
    torch.testing.assert_close(frames, plain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-4)
    assert frames.shape == (1, 2, source.dim) and pooled.shape == (1, source.dim)
    assert (tokens is not None) == ("tokens" in backbone.provides)
