"""A feature store in memory and a tiny method, for tests of the training engine."""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tvr_cli.methods import base
from tvr_cli.methods.base import masked_mean, setting, unit
from tvr_cli.nn.losses import info_nce
from tvr_cli.plans import FramePlan, WordPlan
from tvr_cli.stores.features.head import Made
from tvr_cli.stores.features.store import FeatureStore, StoredCaption, clip_row_key, text_row_key
from tvr_cli.stores.features.writer import FeatureWriter
from tvr_cli.stores.frames.store import ClipRecord, SourceFile, StoredClip, Timeline
from tvr_cli.stores.frames.writer import FrameWriter, NewClip
from tvr_cli.types import Batch, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures, caption_key, clip_key


@dataclass(frozen=True)
class SyntheticClip:
    id: str
    file_id: str
    key: int


@dataclass(frozen=True)
class SyntheticCaption:
    id: str
    text: str
    key: int
    split: str | None
    clips: tuple[int, ...]
    file_id: str
    source: str = ""


class Records(list):
    """What training asks of all clips or captions at once."""

    @property
    def key(self) -> Tensor:
        return torch.tensor([x.key for x in self])

    @property
    def file_ids(self) -> list[str]:
        return list(dict.fromkeys(x.file_id for x in self))

    @property
    def file(self) -> Tensor:
        number = {file_id: i for i, file_id in enumerate(self.file_ids)}
        return torch.tensor([number[x.file_id] for x in self])

    def ids(self, rows: Tensor) -> list[str]:
        return [self[i].id for i in rows.tolist()]

    def files_of(self, rows: Tensor) -> list[str]:
        return [self[i].file_id for i in rows.tolist()]

    def clips_of(self, rows: Tensor) -> list[tuple[int, ...]]:
        return [self[i].clips for i in rows.tolist()]


class SyntheticStore:
    """What training needs of a `FeatureStore`: clips whose captions point, with noise, in their own direction."""

    backbone_name = "synthetic"
    fingerprint = "synthetic0"
    word_importance = "none"
    provides = frozenset({"frames", "pooled", "tokens"})

    def __init__(
        self,
        videos: int = 40,
        captions_per_video: int = 2,
        *,
        dim: int = 16,
        frames: int = 3,
        words: int = 5,
        splits: tuple[str | None, ...] = ("train", "train", "train", "val"),
        seed: int = 0,
    ):
        g = torch.Generator().manual_seed(seed)
        self.sizes = Sizes(dim, frames, words)
        self.word_plan = WordPlan("fixed", words)
        self.identity, self.provenance = {"shape": "fixed"}, {}
        clips = (SyntheticClip(f"v{i}.mp4", f"v{i}.mp4", clip_key(str(i), None, None)) for i in range(videos))
        self.clips, self.captions = Records(clips), Records()
        for i in range(videos):
            for j in range(captions_per_video):
                text = f"caption {j} of video {i}"
                self.captions.append(
                    SyntheticCaption(
                        f"c{i}-{j}", text, caption_key(text), splits[i % len(splits)], (i,), self.clips[i].file_id
                    )
                )
        meaning = torch.randn(videos, dim, generator=g)
        mix = torch.linalg.qr(torch.randn(dim, dim, generator=g))[0]
        of = torch.tensor([c.clips[0] for c in self.captions], dtype=torch.int64)
        pooled = (meaning @ mix)[of] + 0.3 * torch.randn(len(of), dim, generator=g)
        tokens = pooled[:, None] + torch.randn(len(of), words, dim, generator=g)
        n_tokens = torch.randint(3, words + 1, (len(of),), generator=g)
        self._text = TextFeatures(torch.tensor([c.key for c in self.captions]), pooled, tokens, n_tokens)
        shown = meaning[:, None] + 0.5 * torch.randn(videos, frames, dim, generator=g)
        n_frames = torch.randint(1, frames + 1, (videos,), generator=g)
        ts = torch.arange(frames).float().expand(videos, -1)
        self._video = VideoFeatures(torch.tensor([c.key for c in self.clips]), shown, n_frames, ts)

    def text(self, index: Tensor | None = None) -> TextFeatures:
        return self._text if index is None else self._text.rows(index)

    def video(self, index: Tensor | None = None, *, patches: bool = False) -> VideoFeatures:
        return self._video if index is None else self._video.rows(index)

    def split(self, name: str) -> Tensor:
        return torch.tensor([i for i, c in enumerate(self.captions) if c.split == name], dtype=torch.int64)

    def content_hash(self) -> str:
        return "content0"

    def write(self, workspace: Path, backbone: str = "synthetic") -> FeatureStore:
        """Write everything as a real feature store of a workspace and open it."""
        identity = {
            "backbone": {"name": backbone, "weights": "0" * 64, "temporal_shift": False},
            "frames": {"kind": "uniform", "num_frames": self.sizes.frames, "size": 16, "quality": 90},
            "shape": "fixed",
            "words": {"shape": "fixed", "length": self.sizes.words},
            "importance": "none",
        }
        made = Made.of(
            identity, backbone=backbone, dim=self.sizes.dim, provides=self.provides, provenance={}, dtype="float32"
        )
        records = [
            ClipRecord(
                c.id, f"/videos/{c.id}", None, None, c.key, c.file_id, str(i), int(self._video.n_frames[i]), 3.0,
                (0.0, 3.0), 16, 16, "synthetic", False,
            )
            for i, c in enumerate(self.clips)
        ]  # fmt: skip
        order = sorted(range(len(records)), key=lambda i: records[i].id)  # a real store sorts its clips
        place = {old: new for new, old in enumerate(order)}
        captions = [
            StoredCaption(c.id, c.text, c.key, c.split, tuple(place[i] for i in c.clips), c.file_id)  # type: ignore[arg-type]
            for c in self.captions
        ]
        folder = workspace / "features" / made.fingerprint
        writer = FeatureWriter(folder, made)
        writer.add_video([clip_row_key(r.key, r.n_frames) for r in records], self._video, torch.float32)
        writer.add_text([text_row_key(c.text) for c in captions], self._text, torch.float32)
        writer.finish([records[i] for i in order], captions, {})
        return FeatureStore.open(folder)


class Method(base.Method):
    """Cosine of a mapped caption with the mean frame; with dropout, so that draws matter."""

    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        drop: float = setting(0.1)

    summary = "a linear map; for tests"

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        self.map = nn.Linear(sizes.dim, sizes.dim)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_text(self, text: TextFeatures) -> Encoding:
        return Encoding(text.key, {"text": unit(self.map(text.pooled))})

    def encode_video(self, video: VideoFeatures) -> Encoding:
        return Encoding(video.key, {"video": unit(masked_mean(video.frames, video.mask()))})

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        return text["text"] @ video["video"].T

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        keep = draws.keep("drop", batch.text.pooled.shape, self.config.drop)
        text = dataclasses.replace(batch.text, pooled=batch.text.pooled * keep)
        logits = self.logit_scale.exp() * self.score(self.encode_text(text), self.encode_video(batch.video))
        nce = info_nce(logits, batch.positives())
        return LossOutput(nce.total, {"nce": nce.total})


def tiny_clip(
    dim: int = 64, *, image: int = 16, patch: int = 8, vocabulary: int = 64, context: int = 16, seed: int = 0
):
    """Return a CLIP ViT of two small towers with random weights: ids end with 63, the start is 62, 0 pads."""
    from tvr_cli.backbones.openclip import OpenClipBackbone

    return OpenClipBackbone.from_state_dict(
        tiny_clip_state(dim, image, patch, vocabulary, context, seed), name="tiny-clip"
    )


def tiny_clip_state(dim: int, image: int, patch: int, vocabulary: int, context: int, seed: int) -> dict[str, Tensor]:
    """Return random CLIP weights of width 64 under OpenAI's names; layer norms at (1, 0), the rest N(0, 0.1)."""
    g, width = torch.Generator().manual_seed(seed), 64

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g) * (0.1 if len(shape) > 1 else 0.02)

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}

    def block(name: str) -> dict[str, Tensor]:
        return {
            **norm(f"{name}.ln_1"), **norm(f"{name}.ln_2"),
            f"{name}.attn.in_proj_weight": normal(3 * width, width), f"{name}.attn.in_proj_bias": normal(3 * width),
            f"{name}.attn.out_proj.weight": normal(width, width), f"{name}.attn.out_proj.bias": normal(width),
            f"{name}.mlp.c_fc.weight": normal(4 * width, width), f"{name}.mlp.c_fc.bias": normal(4 * width),
            f"{name}.mlp.c_proj.weight": normal(width, 4 * width), f"{name}.mlp.c_proj.bias": normal(width),
        }  # fmt: skip

    return {
        "visual.conv1.weight": normal(width, 3, patch, patch),
        "visual.class_embedding": normal(width),
        "visual.positional_embedding": normal((image // patch) ** 2 + 1, width),
        **norm("visual.ln_pre"), **block("visual.transformer.resblocks.0"), **norm("visual.ln_post"),
        "visual.proj": normal(width, dim),
        "token_embedding.weight": normal(vocabulary, width),
        "positional_embedding": normal(context, width),
        **block("transformer.resblocks.0"), **block("transformer.resblocks.1"), **norm("ln_final"),
        "text_projection": normal(width, dim),
        "logit_scale": torch.tensor(2.0),
    }  # fmt: skip


SHADES = ("black", "grey", "white", "red", "green", "blue", "yellow", "orange")
_RGB = {
    "black": (10, 10, 10), "grey": (128, 128, 128), "white": (245, 245, 245), "red": (220, 20, 20),
    "green": (20, 200, 20), "blue": (20, 20, 220), "yellow": (230, 230, 20), "orange": (240, 140, 10),
}  # fmt: skip


def write_frames(
    workspace: Path,
    videos: int = 16,
    *,
    num_frames: int = 3,
    size: int = 16,
    captions: bool = True,
    fit: Literal["crop", "whole"] = "crop",
) -> Path:
    """Write a frame store of plain coloured clips, some shorter than the plan, and captions.jsonl beside them."""
    sources = workspace.parent / f"{workspace.name}-videos"
    sources.mkdir(parents=True, exist_ok=True)
    short_side = size if fit == "whole" else None
    plan, clips, lines = FramePlan(num_frames=num_frames, size=size, fit=fit, short_side=short_side), [], []
    for i in range(videos):
        first, then = SHADES[i % 8], SHADES[(i // 8 + i + 1) % 8]
        n = 1 + i % num_frames
        colours = [_RGB[first]] * ((n + 1) // 2) + [_RGB[then]] * (n // 2)
        name, sha = f"v{i:02d}.mp4", f"sha{i}"
        record = ClipRecord(
            name, str(sources / name), None, None, clip_key(sha, None, None), name, sha, n, 3.0, (0.0, 3.0), size, size,
            "synthetic", False,
        )  # fmt: skip
        stored = StoredClip(record, SourceFile(name, (str(sources),), (1000, 17, 18, 19), 3.0), "", 0)
        clips.append(NewClip(stored, Timeline([_jpeg(c, size) for c in colours], np.arange(n, dtype=np.float64))))
        split = "val" if i % 4 == 3 else "train"
        lines.append(json.dumps({"video": name, "caption": f"a {first} square, then a {then} box {i}", "split": split}))
        lines.append(json.dumps({"video": name, "caption": f"{first} and {then} number {i}", "split": split}))
    writer = FrameWriter.open(workspace / "frames", plan.identity(), {"tvr": "test"})
    writer.add(clips)
    if captions:
        (sources / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        writer.set_header(captions_beside=str(sources / "captions.jsonl"))
    return sources / "captions.jsonl"


def write_backbone(folder: Path, *, dim: int = 64, seed: int = 0) -> str:
    """Write a tiny CLIP ViT with the tokenizer of `demo-tiny` and return its name for `--backbone`."""
    from safetensors.torch import save_file

    from tvr_cli import backbones

    shipped = Path(backbones.__file__).parent / "demo_tiny"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bpe.txt.gz").write_bytes((shipped / "bpe.txt.gz").read_bytes())
    vocabulary = json.loads((shipped / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]["vocab_size"]
    state = tiny_clip_state(dim, 16, 8, vocabulary, 16, seed)
    model = {
        "embed_dim": dim, "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1},
        "text_cfg": {"context_length": 16, "vocab_size": vocabulary, "width": 64, "heads": 1, "layers": 2},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    save_file(state, folder / "open_clip_model.safetensors")
    return f"local:{folder}"


def _jpeg(colour: tuple[int, int, int], size: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(out, "JPEG", quality=90)
    return out.getvalue()
