"""Small feature stores with random features, written through the real writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_frames
import torch

from tvr_cli.stores.features.head import Made
from tvr_cli.stores.features.store import FeatureStore, StoredCaption, clip_row_key, text_row_key
from tvr_cli.stores.features.writer import FeatureWriter
from tvr_cli.stores.frames.store import ClipRecord
from tvr_cli.types import TextFeatures, VideoFeatures, caption_key

DIM, CLIP_DIM, PATCH_DIM, FRAMES, PATCHES, WORDS = 8, 6, 4, 3, 2, 5
TEXTS = ("a dog", "a  dog surfing", "zwei Kätzchen")
ALL = frozenset({"frames", "video.pooled", "video.patches", "pooled", "tokens", "importance"})


def identity(shape: str = "fixed", importance: str = "stopwords") -> dict[str, Any]:
    return {
        "backbone": {"name": "tiny", "weights": "0" * 64, "preprocessing": {"size": 32}, "temporal_shift": False},
        "frames": {"kind": "uniform", "num_frames": FRAMES, "size": 32, "quality": 90},
        "shape": shape,
        "words": {"shape": shape, "length": WORDS},
        "importance": importance,
    }


def made(shape: str = "fixed", provides: frozenset[str] = ALL) -> Made:
    dims = {"video.pooled": CLIP_DIM, "video.patches": PATCH_DIM}
    about = {"dtype": "fp32", "tvr": "test"}
    return Made.of(
        identity(shape), backbone="tiny", dim=DIM, provides=provides, provenance=about, dtype="float32", dims=dims
    )


def records() -> list[ClipRecord]:
    windows = [("a.mp4", 3, None), ("b.mp4", 1, (0.0, 4.0)), ("b.mp4", 2, (3.0, 7.5)), ("ü.mp4", 2, None)]
    return [tiny_frames.clip(name, n, window=window).clip.record for name, n, window in windows]


def video(held: list[ClipRecord], seed: int = 0, *, frames: int = FRAMES) -> VideoFeatures:
    g = torch.Generator().manual_seed(seed)
    n = len(held)
    return VideoFeatures(
        torch.tensor([r.key for r in held]),
        torch.randn(n, frames, DIM, generator=g),
        torch.tensor([min(r.n_frames, frames) for r in held]),
        torch.rand(n, frames, generator=g).double(),
        torch.randn(n, CLIP_DIM, generator=g),
        torch.randn(n, frames, PATCHES, PATCH_DIM, generator=g),
    )


def text(texts: tuple[str, ...] = TEXTS, seed: int = 1) -> TextFeatures:
    g = torch.Generator().manual_seed(seed)
    n = len(texts)
    return TextFeatures(
        torch.tensor([caption_key(t) for t in texts]),
        torch.randn(n, DIM, generator=g),
        torch.randn(n, WORDS, DIM, generator=g),
        torch.tensor([3, 5, 4][:n]),
        torch.randint(0, 3, (n, WORDS), generator=g).to(torch.uint8),
    )


def captions() -> list[StoredCaption]:
    rows = {"a dog": (0,), "a  dog surfing": (1, 2), "zwei Kätzchen": (3,)}
    files = ("a.mp4", "b.mp4", "ü.mp4")
    splits = ("train", "test", "test")
    return [
        StoredCaption(f"c{i}", t, caption_key(t), splits[i], rows[t], files[i], f"x.jsonl:{i}", *limits)  # type: ignore[arg-type]
        for i, (t, limits) in enumerate(zip(TEXTS, ((None, None), (0.5, None), (1.0, 2.0)), strict=True))
    ]


def finish(writer: FeatureWriter) -> None:
    stamp = {"stamp": [3, 2, 1, 0], "sha256": "0" * 64}
    writer.finish(records(), captions(), {"captions": "/x.jsonl", "read": {"/x.jsonl": stamp}, "expected": {"test": 2}})


def add(writer: FeatureWriter, held: list[ClipRecord], seed: int = 0) -> None:
    writer.add_video([clip_row_key(r.key, r.n_frames) for r in held], video(held, seed), torch.float32)


def write(workspace: Path, shape: str = "fixed") -> FeatureStore:
    """Write a store of every tensor: two shards of clips, one of captions."""
    writer = FeatureWriter(workspace / "features" / made(shape).fingerprint, made(shape))
    add(writer, records()[:3])
    add(writer, records()[3:], seed=2)
    writer.add_text([text_row_key(t) for t in TEXTS], text(), torch.float32)
    finish(writer)
    return FeatureStore.open(writer.root)
