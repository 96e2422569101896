"""A method that holds the contract, and ones that break one clause each, as a newcomer might."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from tvr_cli.methods import base
from tvr_cli.methods.base import full_precision, mean_direction, setting, unit
from tvr_cli.nn.losses import info_nce
from tvr_cli.types import Encoding, LossOutput


class Whole(base.Method):
    """Captions through one matrix, then the cosine with the mean frame."""

    summary = "one matrix on the caption's side"

    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        temperature: float = setting(0.01, symbol="tau", source="ours")
        mask_padding: bool = setting(True, source="ours")

    def __init__(self, config, sizes):
        super().__init__(config, sizes)
        self.turn = nn.Linear(sizes.dim, sizes.dim, bias=False)

    def encode_text(self, text):
        return Encoding(text.key, {"text": unit(self.turn(full_precision(text.pooled)))})

    def encode_video(self, video):
        frames = full_precision(video.frames)
        return Encoding(video.key, {"mean": mean_direction(frames, video.mask()), "mask": video.mask()})

    def score(self, text, video):
        return text["text"] @ video["mean"].T

    def coarse(self, e):
        return e["text"] if "text" in e.tensors else e["mean"]

    def explain(self, text, video):
        mask = video["mask"].to(text["text"].dtype)
        return (mask / mask.sum(-1, keepdim=True)).expand(len(text), -1, -1)

    def loss(self, batch, *, step, draws):
        logits = self.score(self.encode_text(batch.text), self.encode_video(batch.video)) / self.config.temperature
        loss = info_nce(logits, batch.positives())
        return LossOutput(loss.total, {"contrastive": loss.total})

    def cost_per_pair(self):
        return f"{self.sizes.dim} MAC"


class Turned(Whole):
    def score(self, text, video):
        return super().score(text, video).T


class Uneven(Whole):
    def explain(self, text, video):
        return 2 * super().explain(text, video)


class Blind(Whole):
    def explain(self, text, video):
        weight = torch.ones_like(super().explain(text, video))
        return weight / weight.shape[-1]


class Halved(Whole):
    def score(self, text, video):
        return super().score(text, video).half()


class KeepsHalf(Whole):
    def encode_text(self, text):
        return super().encode_text(text).map(lambda x: x.half() if x.is_floating_point() else x)

    def score(self, text, video):
        return text["text"].half() @ video["mean"].half().T


class LooksAtNeighbours(Whole):
    def score(self, text, video):
        scores = super().score(text, video)
        return scores - scores.mean()


class Noisy(Whole):
    def score(self, text, video):
        scores = super().score(text, video)
        return scores + 0.1 * torch.rand(1, dtype=scores.dtype) * 1e-12  # below the tolerance of tiles


class PoolsWithOwnCaption(Whole):
    """What only type-checks with as many captions as clips: clip j is turned by caption j, whoever asks."""

    def score(self, text, video):
        if len(text) != len(video) or len(text) == 1:
            return super().score(text, video)
        return text["text"] @ unit(video["mean"] + 0.3 * text["text"]).T


class CountsRows(Whole):
    def score(self, text, video):
        scores = super().score(text, video)
        return scores + torch.arange(len(scores), dtype=scores.dtype)[:, None]


class ReadsMore(Whole):
    rough_needs = ("mask",)

    def rough(self, text, video):
        return text["text"] @ video["mean"].T


class Misspelt(ReadsMore):
    rough_needs = ("maen",)


class RoughLooksAtNeighbours(Whole):
    rough_needs = ("mean",)

    def rough(self, text, video):
        rough = text["text"] @ video["mean"].to(text["text"].dtype).T
        return rough - rough.mean()


class Forgetful(Whole):
    def __init__(self, config, sizes):
        super().__init__(config, sizes)
        self.offset = torch.randn(1).item()  # neither a parameter nor a buffer

    def score(self, text, video):
        return super().score(text, video) + self.offset


class CountsPads(Whole):
    def encode_video(self, video):
        frames = full_precision(video.frames)
        return Encoding(video.key, {"mean": unit(frames.mean(1)), "mask": video.mask()})


class Idle(Whole):
    def __init__(self, config, sizes):
        super().__init__(config, sizes)
        self.unused = nn.Linear(2, 2)


class NotDead(Whole):
    def dead(self):
        return frozenset({"turn.weight"})


class DeadTypo(Whole):
    def dead(self):
        return frozenset({"trun.weight"})


class Infinite(Whole):
    def loss(self, batch, *, step, draws):
        out = super().loss(batch, step=step, draws=draws)
        return LossOutput(out.total + (out.total.detach() - out.total).sqrt(), out.parts)


class OwnDice(Whole):
    def loss(self, batch, *, step, draws):
        out = super().loss(batch, step=step, draws=draws)
        return LossOutput(out.total * torch.rand(()), out.parts)


class ManyNumbers(Whole):
    def loss(self, batch, *, step, draws):
        out = super().loss(batch, step=step, draws=draws)
        return LossOutput(out.total.expand(3), out.parts)


class NoParts(Whole):
    def loss(self, batch, *, step, draws):
        return LossOutput(super().loss(batch, step=step, draws=draws).total, {})


class Uphill(Whole):
    def loss(self, batch, *, step, draws):
        out = super().loss(batch, step=step, draws=draws)
        return LossOutput(-out.total, out.parts)


class LosesOptions(Whole):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        temperature: float = setting(0.01, source="ours")
        shape: dict = dataclasses.field(default_factory=lambda: {"a": 1}, metadata={"source": "ours"})

        def __eq__(self, other):
            return self is other


class Nameless(Whole):
    summary = ""


class Unsourced(Whole):
    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        temperature: float = 0.01


class WantsSound(Whole):
    needs = frozenset({"frames", "sound"})


class Priceless(Whole):
    def cost_per_pair(self):
        return ""


class Raises(Whole):
    def score(self, text, video):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
