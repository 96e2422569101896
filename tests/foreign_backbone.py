"""A backbone of somebody else's, no open_clip model: two linear layers, which can be trained, saved and loaded."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tvr_cli.backbones import base
from tvr_cli.errors import EnvironmentProblem

VOCABULARY, CONTEXT, SIZE = 500, 16, 16


class Backbone(base.Backbone):
    """Mean colours of the quarters of a frame, and a bag of hashed words, each through a linear layer."""

    library = "torch"

    @classmethod
    def describe(cls, name: str) -> base.Description:
        folder = base.saved_folder(name)
        settings: Mapping[str, Any] = {"dim": 64, "seed": 0}
        if folder is not None:
            settings = json.loads((folder / "settings.json").read_text())
        return base.Description(
            name=name,
            kind=cls,
            dim=settings["dim"],
            image_size=SIZE,
            context_length=CONTEXT,
            provides=frozenset({"frames", "pooled", "tokens"}),
            source="made of a seed" if folder is None else str(folder),
            weights=Path(__file__) if folder is None else folder / "weights.safetensors",
            detail=settings,
        )

    def __init__(self, about: base.Description):
        super().__init__(about)
        self.see = nn.Linear(12, about.dim)
        self.read = nn.Embedding(VOCABULARY, about.dim)
        self.scale = nn.Parameter(torch.tensor(3.0))

    @classmethod
    def load(cls, about: base.Description, *, offline: bool) -> Backbone:
        with torch.random.fork_rng():
            torch.manual_seed(about.detail["seed"])
            made = cls(about)
        if base.saved_folder(about.name) is not None:
            if about.weights is None or not about.weights.is_file():
                raise EnvironmentProblem(f"no weights of {about.name!r}")
            made.load_state_dict(load_file(about.weights))
        return made

    def save(self, folder: Path) -> None:
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "weights.safetensors")
        (folder / "settings.json").write_text(json.dumps(dict(self.about.detail)))

    def cost(self, words: int) -> tuple[int, int]:
        ids = torch.zeros(1, words, dtype=torch.int64, device=self.device)
        return 2 * 12 * self.dim, max(1, base.count_flops(lambda: self.encode_text(ids))) + words

    def tokenize(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        rows = [self._ids(text)[:length] for text in texts]
        ids = torch.zeros(len(rows), length, dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return ids, torch.tensor([len(row) for row in rows])

    def count_tokens(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([len(self._ids(text)) for text in texts])

    def word_pieces(self, text: str) -> list[tuple[str, int]]:
        return [(word, 1) for word in text.lower().split()]

    @property
    def first_word_token(self) -> int:
        return 1

    @property
    def logit_scale(self) -> Tensor:
        return self.scale

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        tokens = 3 * self.read(ids)  # [T, L, D]
        return (tokens * (ids > 0)[..., None]).sum(1), tokens

    def encode_frames(self, pixels: Tensor, real: Tensor) -> Tensor:
        self.check_frames(pixels)
        centred = (pixels.to(self.dtype) - 128).masked_fill(~real[:, :, None, None, None], 0.0) / 64
        quarters = F.adaptive_avg_pool2d(centred.flatten(0, 1), 2)  # [V * F, 3, 2, 2]
        return 5 * self.see(quarters.flatten(1)).unflatten(0, real.shape)

    def _ids(self, text: str) -> list[int]:
        return [1, *(2 + zlib.crc32(word.encode()) % (VOCABULARY - 2) for word in text.lower().split())]


class Unsaved(Backbone):
    """The same without a way to keep it."""

    save = base.Backbone.save


class Turned(Backbone):
    """The same in a space that is turned, and ten times as large."""

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        pooled, tokens = super().encode_text(ids)
        return self._turned(pooled), None if tokens is None else self._turned(tokens)

    def encode_frames(self, pixels: Tensor, real: Tensor) -> Tensor:
        return self._turned(super().encode_frames(pixels, real))

    def _turned(self, x: Tensor) -> Tensor:
        random = torch.randn(self.dim, self.dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return 10 * (x.double() @ torch.linalg.qr(random).Q).to(x.dtype)


class Clips(Backbone):
    """An encoder of whole clips of four frames: what comes later in a clip weighs more, and no frame has a vector."""

    FRAMES = 4

    @classmethod
    def describe(cls, name: str) -> base.Description:
        about = super().describe(name)
        provides = frozenset({"video.pooled", "pooled"})
        return base.Description(**{**vars(about), "provides": provides, "frames": cls.FRAMES})

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        return super().encode_text(ids)[0], None

    def encode_frames(self, pixels: Tensor, real: Tensor) -> Tensor:
        raise NotImplementedError

    def encode_video(self, pixels: Tensor, real: Tensor, times: Tensor | None = None) -> base.VideoOut:
        return base.VideoOut(None, self._pooled(super().encode_frames(pixels, real)))

    def _pooled(self, frames: Tensor) -> Tensor:
        """[V, F, D] to [V, D]: the weights are 1 to F."""
        weights = torch.arange(1, frames.shape[1] + 1, dtype=frames.dtype, device=frames.device)
        return (weights[:, None] * frames).sum(1) / weights.sum()


class ClipsAndFrames(Clips):
    """The same with a vector of each frame, which knows of its neighbours; of clips of any length."""

    @classmethod
    def describe(cls, name: str) -> base.Description:
        about = super().describe(name)
        return base.Description(**{**vars(about), "provides": about.provides | {"frames"}, "frames": None})

    def encode_video(self, pixels: Tensor, real: Tensor, times: Tensor | None = None) -> base.VideoOut:
        frames = Backbone.encode_frames(self, pixels, real)
        pooled = self._pooled(frames)
        return base.VideoOut(frames + pooled[:, None], pooled)


class NotABackbone:
    """A class of another kind."""
