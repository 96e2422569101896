"""Tiny CLIP models as files: what a user would download, in a few hundred kilobytes and with random weights."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from safetensors.torch import save_file
from torch import Tensor, nn

from tvr_cli.backbones.openclip import build

MERGES = 300


def config(
    *, layers: int | list[int] = 2, width: int = 64, patch: int = 8, size: int = 32, context: int = 16, **text: Any
) -> dict[str, Any]:
    """Return a `model_cfg`. A list of layers makes a ModifiedResNet."""
    vision = {"layers": layers, "width": width, "patch_size": patch, "image_size": size, "head_width": 64}
    words = {"context_length": context, "vocab_size": 512 + MERGES + 2, "width": 64, "heads": 1, "layers": 2}
    out = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": vision, "text_cfg": {**words, **text}}
    return {**out, "custom_text": True} if text else out


def resnet_config() -> dict[str, Any]:
    return config(layers=[1, 1, 1, 1], width=8, size=64)


def model(cfg: dict[str, Any], seed: int = 0) -> nn.Module:
    """Build a model with random weights in which nothing is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = build(cfg)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if name != "logit_scale":
                spread = 0.3 if value.ndim == 1 else value[0].numel() ** -0.5
                value.add_(spread * torch.randn(value.shape, generator=generator))
        for name, buffer in made.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
    return made.eval()


def folder(
    path: Path, cfg: dict[str, Any] | None = None, seed: int = 0, *, pixels: dict[str, Any] | None = None
) -> Path:
    """Write what `local:PATH` reads: configuration, weights, BPE merges. pixels: more of its `preprocess_cfg`."""
    cfg = cfg or config()
    path.mkdir(parents=True, exist_ok=True)
    pixels = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], **(pixels or {})}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": pixels}))
    state = {k: v.contiguous() for k, v in model(cfg, seed).state_dict().items()}
    save_file(state, path / "open_clip_model.safetensors")
    merges = gzip.decompress(Path(default_bpe()).read_bytes()).decode().split("\n")[1 : MERGES + 1]
    (path / "bpe.txt.gz").write_bytes(gzip.compress(("#version: test\n" + "\n".join(merges)).encode(), mtime=0))
    return path


def tokenizer(path: Path, context: int = 16) -> SimpleTokenizer:
    return SimpleTokenizer(bpe_path=str(path / "bpe.txt.gz"), context_length=context)


def ids(n: int, length: int, *, vocab: int = 512 + MERGES + 2, seed: int = 0) -> Tensor:
    """Return n captions of different lengths as zero-padded token ids; the end token is the largest id."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.zeros(n, length, dtype=torch.int64)
    for i in range(n):
        words = 1 + (3 * i) % (length - 2)
        out[i, 0] = vocab - 2
        out[i, 1 : 1 + words] = torch.randint(1, vocab - 2, (words,), generator=generator)
        out[i, 1 + words] = vocab - 1
    return out


def pixels(clips: int, frames: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (clips, frames, 3, size, size), generator=generator, dtype=torch.uint8)
