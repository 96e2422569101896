"""Train the backbones that tvr ships for its toy world from nothing, on one CPU thread.

    python scripts/train_demo_backbone.py --work /tmp/demo-tiny                # continues where it was stopped
    python scripts/train_demo_backbone.py --work /tmp/demo-tiny --install      # and copy the result into the package
    python scripts/train_demo_backbone.py --make demo-tiny-siglip --seed 2 --work /tmp/demo-tiny-siglip --install
    python scripts/train_demo_backbone.py --make demo-tiny-vit --bf16 0 --pool 3000 --refresh 1000 --work /tmp/vit

`demo-tiny` is made as CLIP is: a causal text tower read at its end token, softmax over the pairs of a batch, CLIP's
pixel statistics. `demo-tiny-siglip` is what SigLIP is beside that: a text tower that looks both ways and is read in its
last slot, a sigmoid for each pair with a learned bias, statistics of one half, squashed pictures, and features of other
lengths. `demo-tiny-vit` is demo-tiny's text tower with a ViT of twelve blocks that learned demo-tiny's features of
single frames, for methods that read patches or move them between frames in the last blocks; it does not ship.

The stages, each with a checkpoint:

  bpe     cut a small vocabulary out of CLIP's byte-pair merges: the first 400, and all that the toy captions and a list
          of everyday words need
  text    warm up the text tower alone on what a caption says (shape, colour and action of the first and the second
          event). Without it contrastive training leaves "moves left" and "moves right" in one place
  vision  warm up the image tower alone on single frames (shape, colour, texture, place, size, turn)
  joint   contrastive on mean-pooled frames, and on text-guided frames among distractors, where twins that differ only
          in order or motion are not counted as wrong, because no mean of frames can tell them apart; contrastive on an
          ordered head, which can; single frames against the names of things; the attribute losses of both warm-ups;
          and frame features of even length. All heads are thrown away afterwards
  settle  the same at CLIP's logit scale of 100, so that cosines spread as little as CLIP's: only then does GLIM's
          temperature of 5 weigh the frames of both events instead of the best single frame
  taught  of a kind that has a teacher, in place of the four before: single frames, drawn to the teacher's features
  export  fold the mean lengths of features (10 for demo-tiny, CLIP's magnitude) into the last linear layers and write
          fp16 weights as a folder that open_clip loads: open_clip_config.json, open_clip_model.safetensors, bpe.txt.gz

It uses the generator's ground truth, draws its own scenes (no file of the demo corpus is read) and never shows the
shape-colour pairs of the test split. The result knows the toy world and nothing else.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gzip
import json
import math
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from demo_scenes import IMAGE, Pool, clip_batch, said
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer, default_bpe, get_pairs
from safetensors.torch import save_file
from torch import Tensor, nn

from tvr_cli.backbones import registry
from tvr_cli.data.demo_world import grammar
from tvr_cli.data.demo_world.grammar import COLOURS

CONTEXT, WIDTH, NORM = 32, 128, 10.0
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
FIRST_MERGES = 400
EVERYDAY = (
    "small big large tiny on in at the top bottom left right middle center side and of is are there corner with video "
    "shows object shape moving moves starts ends while background near one two three a man woman person people dog cat "
    "car bird child hand face red green blue black white yellow walking running playing talking cooking eating singing "
    "dancing driving water food game music street house room kitchen road tree sky light about from to by for up down "
    "over under into out off then after before first last again slowly quickly around behind between something someone "
    "other his her their"
)

# Of the sigmoid: pairs count as matches from a cosine of one half on, as sure as the softmax of `demo-tiny` became.
FIRST_SCALE, FIRST_BIAS = 20.0, -10.0

STAGES = ("bpe", "text", "vision", "joint", "settle", "export", "taught")


@dataclasses.dataclass(frozen=True)
class Kind:
    """What one of the backbones is. frame_norm, caption_norm: mean lengths of its features.

    sigmoid: each pair by itself, and SigLIP's text tower, else softmax over the pairs of a batch and CLIP's.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: str  # open_clip's word for how a picture becomes a square
    frame_norm: float
    caption_norm: float
    sigmoid: bool
    vision: dict[str, Any]  # open_clip's words for the image tower
    teacher: str | None = None  # of the same text tower; such a kind does not ship


RESNET = {"layers": [1, 1, 1, 1], "width": 12, "head_width": 64, "patch_size": None}
VIT = {"layers": 12, "width": 96, "head_width": 32, "patch_size": 16}
KINDS = {
    "demo-tiny": Kind(CLIP_MEAN, CLIP_STD, "shortest", NORM, NORM, sigmoid=False, vision=RESNET),
    "demo-tiny-siglip": Kind(HALF, HALF, "squash", 4.0, 2.0, sigmoid=True, vision=RESNET),
    "demo-tiny-vit": Kind(CLIP_MEAN, CLIP_STD, "shortest", NORM, NORM, sigmoid=False, vision=VIT, teacher="demo-tiny"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Length of each stage in optimizer steps, batch sizes and learning rates. bf16: arithmetic of the image tower."""

    make: str = "demo-tiny"
    seed: int = 1
    bf16: int = 1
    text_steps: int = 300
    vision_steps: int = 800
    joint_steps: int = 700
    settle_steps: int = 250
    taught_steps: int = 600
    captions: int = 96  # a step of `text`
    frames: int = 96  # a step of `vision` and `taught`
    clips: int = 48  # a step of `joint`, of two scenes and four frames each
    text_rate: float = 1.5e-3
    vision_rate: float = 2e-3
    joint_rate: float = 1.2e-3
    settle_rate: float = 8e-4
    taught_rate: float = 1e-3
    weight_decay: float = 0.02
    pool: int = 6000  # scenes drawn at a time
    refresh: int = 400  # steps before new scenes are drawn


def model_config(vocabulary: int, kind: Kind) -> dict:
    """Return the `model_cfg` of open_clip."""
    siglip = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"} if kind.sigmoid else {}
    custom = {"custom_text": True, "init_logit_bias": FIRST_BIAS} if kind.sigmoid else {}
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": IMAGE, **kind.vision},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary,
            "width": WIDTH,
            "heads": 4,
            "layers": 4,
            **siglip,
        },
        **custom,
    }


# ---------------------------------------------------------------------------------------------------------- vocabulary


def cut_vocabulary(path: Path) -> None:
    """Write the merges that the toy captions and everyday words need, in CLIP's order, as bpe.txt.gz."""
    full = SimpleTokenizer()
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as f:
        merges = f.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    phrases = [*grammar.SENTENCES, *grammar.TEXTURES, "with stripes dots a an"]
    for words in (grammar.SHAPE_WORDS, grammar.COLOUR_WORDS, grammar.ACTION_WORDS):
        phrases += [phrase for choices in words.values() for phrase in choices]
    needed: set[tuple[str, str]] = set()
    for word in {w.strip("{},") for w in " ".join(phrases).split()} | set(EVERYDAY.split()):
        needed |= merges_of(full, word)
    kept = [m for rank, m in enumerate(merges) if rank < FIRST_MERGES or tuple(m.split()) in needed]
    text = "\n".join(["#version: cut of CLIP's merges for demo-tiny", *kept])
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def merges_of(tokenizer: SimpleTokenizer, word: str) -> set[tuple[str, str]]:
    """Return every merge that joins the letters of `word`."""
    symbols = [tokenizer.byte_encoder[b] for b in word.encode()]
    symbols[-1] += "</w>"
    used = set()
    while len(symbols) > 1:
        best = min(get_pairs(tuple(symbols)), key=lambda pair: tokenizer.bpe_ranks.get(pair, float("inf")))
        if best not in tokenizer.bpe_ranks:
            break
        used.add(best)
        i = 0
        while i < len(symbols) - 1:
            if (symbols[i], symbols[i + 1]) == best:
                symbols[i : i + 2] = ["".join(best)]
            i += 1
    return used


# --------------------------------------------------------------------------------------------------------------- model


class OrderedHead(nn.Module):
    """Four frames in order -> one vector: their mean, corrected by what the order says."""

    def __init__(self, width: int, frames: int = 4):
        super().__init__()
        self.norm = nn.LayerNorm(frames * width)
        self.mlp = nn.Sequential(nn.Linear(frames * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1) + self.mlp(self.norm(x.flatten(1)))


class Learner(nn.Module):
    """The backbone and the heads that only training uses."""

    def __init__(self, vocabulary: int, kind: Kind, bf16: bool):
        super().__init__()
        self.kind, self.bf16 = kind, bf16
        config = copy.deepcopy(model_config(vocabulary, kind))
        custom = config.pop("custom_text", False)
        self.clip = CustomTextCLIP(**config) if custom else CLIP(**config)
        if kind.sigmoid:
            nn.init.constant_(self.clip.logit_scale, math.log(FIRST_SCALE))
        self.clip.visual.to(memory_format=torch.channels_last)
        self.frame_head = nn.Linear(WIDTH, 8 + 8 + 3 + 2 + 3)
        self.says_head = nn.Linear(WIDTH, 6 * 8)
        self.ordered = OrderedHead(WIDTH)

    def sentences(self, ids: Tensor) -> Tensor:
        """[N, L] int64 -> [N, D]: `encode_text`. Of a causal tower for L slots only: pads change nothing."""
        if self.kind.sigmoid:
            return self.clip.encode_text(F.pad(ids, (0, CONTEXT - ids.shape[1])))
        clip, length = self.clip, ids.shape[1]
        x = clip.token_embedding(ids) + clip.positional_embedding[:length]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        return x[torch.arange(len(x)), ids.argmax(1)] @ clip.text_projection

    def images(self, pixels: Tensor) -> Tensor:
        """[N, S, S, 3] uint8 -> [N, D]."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return self.clip.encode_image(self.normalised(pixels)).float()

    def normalised(self, pixels: Tensor) -> Tensor:
        """[N, S, S, 3] uint8 -> [N, 3, S, S]."""
        mean, std = (torch.tensor(of).view(1, 3, 1, 1) for of in (self.kind.mean, self.kind.std))
        return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def frame_loss(output: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Attributes of the thing in one frame. output: [N, 24], labels: [N, 7]."""
    what, place = labels[:, :4].long(), labels[:, 4:]
    seen = what[:, 3] == 1
    parts = output.split((8, 8, 3, 2, 3), dim=1)
    shape, colour, texture = (F.cross_entropy(parts[i][seen], what[seen, i]) for i in range(3))
    loss = shape + colour + 0.5 * texture + 0.5 * F.cross_entropy(parts[3], what[:, 3])
    loss = loss + F.smooth_l1_loss(parts[4][seen], place[seen])
    hits = {name: accuracy(parts[i][seen], what[seen, i]) for i, name in enumerate(("shape", "colour", "texture"))}
    return loss, {**hits, "place": (parts[4][seen] - place[seen]).abs().mean().item()}


def says_loss(output: Tensor, says: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Attributes of the two events that a sentence names. output: [N, 48], says: [N, 6]."""
    parts = output.split(8, dim=1)
    losses = [F.cross_entropy(p, says[:, i]) for i, p in enumerate(parts)]
    total = 2 * (losses[0] + losses[1]) + sum(losses[2:])
    names = ("action", "shape", "colour")
    return total / 8, {n: (accuracy(parts[2 * i], says[:, 2 * i]) + accuracy(parts[2 * i + 1], says[:, 2 * i + 1])) / 2
                       for i, n in enumerate(names)}  # fmt: skip


def accuracy(scores: Tensor, target: Tensor) -> float:
    return (scores.argmax(1) == target).float().mean().item()


def contrast(scores: Tensor, bias: Tensor | None) -> tuple[Tensor, float]:
    """Loss of [N, N] scores with the pairs on the diagonal, and R@1: symmetric InfoNCE, or sigmoids with a bias."""
    target = torch.arange(len(scores))
    if bias is not None:
        return each_pair(scores, target, bias), accuracy(scores, target)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2, accuracy(scores, target)


def each_pair(scores: Tensor, target: Tensor, bias: Tensor) -> Tensor:
    """Sigmoid loss of [M, N] scores, row i matching column target[i] alone (SigLIP, arXiv 2303.15343, algorithm 1)."""
    sign = 2.0 * F.one_hot(target, scores.shape[1]) - 1
    return F.softplus(-sign * (scores + bias)).sum(1).mean()


# -------------------------------------------------------------------------------------------------------------- stages


# One optimizer step of a stage: (random numbers, step) -> (loss, what to log).
StepOf = Callable[[Random, int], tuple[Tensor, dict[str, float]]]


def schedule(step: int, steps: int) -> float:
    """Return the factor on the learning rate: 40 steps of warm-up, then a cosine down to 3 %."""
    return min(1, (step + 1) / 40) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))


class Run:
    """One training run in a folder: its model, its place in the stages, its log."""

    def __init__(self, work: Path, settings: Settings, save_every: int = 200):
        self.work, self.settings, self.save_every = work, settings, save_every
        self.tokenizer = SimpleTokenizer(bpe_path=str(work / "bpe.txt.gz"), context_length=CONTEXT)
        torch.manual_seed(settings.seed)
        self.kind = KINDS[settings.make]
        self.model = Learner(self.tokenizer.vocab_size, self.kind, bool(settings.bf16))
        self._pool: tuple[int, Pool] | None = None

    def tokens(self, captions: list[str]) -> Tensor:
        ids = self.tokenizer(captions)
        return ids[:, : int((ids != 0).sum(1).max())]

    def pool(self, stage: str, step: int) -> Pool:
        """Return the scenes of this step; new ones every `refresh` steps."""
        part = step // self.settings.refresh
        number = 1000 * (self.settings.seed * 10 + STAGES.index(stage)) + part
        if self._pool is None or self._pool[0] != number:
            self._pool = number, Pool(number, self.settings.pool)
        return self._pool[1]

    def train(self, stage: str, steps: int, rate: float, parameters: list[nn.Parameter], step_of: StepOf) -> None:
        """Run one stage, from its checkpoint if there is one."""
        done, partial = self.work / f"{stage}.pt", self.work / f"{stage}.partial.pt"
        if done.exists():
            self.model.load_state_dict(torch.load(done, weights_only=True))
            return
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=self.settings.weight_decay, betas=(0.9, 0.98))
        start = 0
        if partial.exists():
            state = torch.load(partial, weights_only=True)
            self.model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            start = state["step"]
        self.model.train()
        began = time.time(), time.process_time()
        seen: dict[str, list[float]] = defaultdict(list)
        for step in range(start, steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(step, steps)
            loss, metrics = step_of(Random(f"{self.settings.seed}/{stage}/{step}"), step)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            for name, value in {"loss": loss.item(), **metrics}.items():
                seen[name].append(value)
            if (step + 1) % 50 == 0 or step + 1 == steps:
                self._log(stage, step + 1, seen, began)
                seen.clear()
            if (step + 1) % self.save_every == 0:
                state = {"model": self.model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
                torch.save(state, partial)
        torch.save(self.model.state_dict(), done)
        partial.unlink(missing_ok=True)

    def _log(self, stage: str, step: int, seen: dict[str, list[float]], began: tuple[float, float]) -> None:
        """Print the means since the last line, and the seconds since this stage was started or continued."""
        means = {k: round(float(np.mean(v)), 3) for k, v in seen.items()}
        clock = {"wall_s": round(time.time() - began[0], 1), "cpu_s": round(time.process_time() - began[1], 1)}
        record = json.dumps({"stage": stage, "step": step, **means, **clock})
        print(record, flush=True)
        with open(self.work / "log.jsonl", "a") as f:
            f.write(record + "\n")

    def text(self) -> None:
        draw_seed = 7_000_000 + 10_000 * self.settings.seed

        def step(rng: Random, number: int) -> tuple[Tensor, dict[str, float]]:
            draw = grammar.Draw(draw_seed + number, unseen_pairs=False)
            videos = [draw.video(2) for _ in range(self.settings.captions)]
            pooled = self.model.sentences(self.tokens([grammar.caption(rng, v) for v in videos]))
            return says_loss(self.model.says_head(spread(pooled)), torch.tensor([said(v) for v in videos]))

        s = self.settings
        parameters = [
            p for n, p in self.model.named_parameters() if not n.startswith(("clip.visual.", "frame_", "ord"))
        ]
        self.train("text", s.text_steps, s.text_rate, parameters, step)

    def vision(self) -> None:
        def step(rng: Random, number: int) -> tuple[Tensor, dict[str, float]]:
            frames, labels = self.stills(rng, self.pool("vision", number), self.settings.frames)
            return frame_loss(self.model.frame_head(self.model.images(frames)), labels)

        s = self.settings
        parameters = [p for n, p in self.model.named_parameters() if n.startswith(("clip.visual.", "frame_"))]
        self.train("vision", s.vision_steps, s.vision_rate, parameters, step)

    def stills(self, rng: Random, pool: Pool, n: int) -> tuple[Tensor, Tensor]:
        """Draw single frames [n, S, S, 3] uint8 and their labels [n, 7]."""
        picks = [(rng.choice(pool.shots), rng.randrange(3)) for _ in range(n)]
        frames, labels = [s.frames[k] for s, k in picks], [s.labels[k] for s, k in picks]
        return torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(labels))

    def joint(self) -> None:
        s = self.settings
        self.train("joint", s.joint_steps, s.joint_rate, list(self.model.parameters()), self._pairs("joint"))

    def settle(self) -> None:
        s, scale = self.settings, self.model.clip.logit_scale
        if not (self.work / "settle.partial.pt").exists():
            with torch.no_grad():
                if self.kind.sigmoid:  # a cosine that was a match stays one
                    self.model.clip.logit_bias.mul_(100 / scale.exp())
                scale.fill_(math.log(100))
        others = [p for p in self.model.parameters() if p is not scale]
        self.train("settle", s.settle_steps, s.settle_rate, others, self._pairs("settle"))

    def taught(self, teacher: str) -> None:
        """Take the teacher's text tower as it is, and train the image tower to the teacher's features of frames."""
        whole = registry.load(teacher, offline=True).model.float().eval()
        words = {k: v for k, v in whole.state_dict().items() if not k.startswith("visual.")}
        self.model.clip.load_state_dict(words, strict=False)
        s = self.settings

        def step(rng: Random, number: int) -> tuple[Tensor, dict[str, float]]:
            frames, _ = self.stills(rng, self.pool("taught", number), s.frames)
            pixels = self.model.normalised(frames)
            with torch.no_grad():
                wanted = whole.encode_image(pixels)
            seen = self.model.images(frames)
            loss = ((seen - wanted) ** 2).sum(-1).mean() / NORM**2
            found = F.normalize(seen - wanted.mean(0), dim=-1) @ F.normalize(wanted - wanted.mean(0), dim=-1).T
            cosine = F.cosine_similarity(seen, wanted).mean().item()
            return loss, {"cosine": cosine, "found": accuracy(found, torch.arange(len(found)))}

        parameters = [p for n, p in self.model.named_parameters() if n.startswith("clip.visual.")]
        self.train("taught", s.taught_steps, s.taught_rate, parameters, step)

    def _pairs(self, stage: str) -> StepOf:
        """Return the step of clips with their captions: `joint` and `settle`."""
        s, model = self.settings, self.model

        def step(rng: Random, number: int) -> tuple[Tensor, dict[str, float]]:
            batch = clip_batch(rng, self.pool(stage, number), s.clips)
            n, per_clip = batch.frames.shape[:2]
            images = model.images(batch.frames.flatten(0, 1))
            labels = batch.labels.flatten(0, 1)
            attributes, seen = frame_loss(model.frame_head(images), labels)
            length = images.norm(dim=-1)
            even = ((length / length.mean() - 1) ** 2).mean()  # GLIM's temperature acts on raw dot products
            frames = clip_scale(images).unflatten(0, (n, per_clip))  # [N, 4, D]
            text = clip_scale(model.sentences(self.tokens(batch.captions)))
            called = clip_scale(model.sentences(self.tokens(batch.names)))  # [N, D]
            ordered = F.normalize(model.ordered(F.normalize(frames, dim=-1)), dim=-1)
            unit_frames, unit_text = F.normalize(frames, dim=-1), F.normalize(text, dim=-1)
            scale = model.clip.logit_scale.exp().clamp(max=100)

            # For text-guided pooling every clip gets scenes of two others as distractors, never of its twin.
            shift = rng.sample(range(1, n // 2), 2)
            strange = [frames[(torch.arange(n) + 2 * k) % n][:, 2 * (k % 2) : 2 * (k % 2) + 2] for k in shift]
            longer = torch.cat([frames, *strange], 1)  # [N, 8, D]
            same = torch.zeros(n, n, dtype=torch.bool)
            at = 2 * torch.arange(n // 2)[batch.twins]
            same[at, at + 1] = same[at + 1, at] = True

            pooled = F.normalize(unit_frames.mean(1), dim=-1)
            bias = model.clip.logit_bias if self.kind.sigmoid else None
            by_mean, r1_mean = contrast((scale * unit_text @ pooled.T).masked_fill(same, -1e4), bias)
            by_guided, r1_guided = contrast((scale * guided(text, longer)).masked_fill(same, -1e4), bias)
            by_order, r1_order = contrast(scale * unit_text @ ordered.T, bias)
            own = unit_frames[:, :2].flatten(0, 1)  # of the scene that is named
            names = scale * own @ F.normalize(called, dim=-1).T
            by_name, r1_name = name_loss(names, batch.labels[:, :2].flatten(0, 1), bias)
            text_says, hits = says_loss(model.says_head(spread(text)), batch.says)
            video_says, video_hits = says_loss(model.says_head(spread(ordered)), batch.says)
            loss = 0.5 * by_mean + by_guided + by_order + 0.5 * by_name
            loss = loss + 0.25 * attributes + text_says + video_says + 5 * even
            metrics = {"mean": r1_mean, "guided": r1_guided, "ordered": r1_order, "name": r1_name}
            metrics |= {"place": seen["place"], "shape": seen["shape"], "even": even.item()}
            metrics |= {"text_action": hits["action"], "video_action": video_hits["action"]}
            return loss, metrics

        return step


def clip_scale(features: Tensor) -> Tensor:
    """Bring features [N, D] to a mean length of 10, as the exported weights do."""
    return features * (NORM / features.detach().norm(dim=-1).mean())


def guided(text: Tensor, frames: Tensor) -> Tensor:
    """Score by text-guided pooling as GLIM does, on raw dot products: [T, D], [V, F, D] -> [T, V] cosines."""
    dots = torch.einsum("td,vfd->tvf", text, frames)
    weights = (dots / 5).softmax(-1)
    length = torch.einsum("tvf,vfg,tvg->tv", weights, frames @ frames.mT, weights).sqrt()
    return (weights * dots).sum(-1) / (length * text.norm(dim=-1)[:, None])


def spread(x: Tensor) -> Tensor:
    """Bring unit vectors to the length of a standard normal one, so that a linear head learns at its usual pace."""
    return F.normalize(x, dim=-1) * WIDTH**0.5


def name_loss(scores: Tensor, labels: Tensor, bias: Tensor | None) -> tuple[Tensor, float]:
    """Find the name of the thing in a frame among all names of the batch.

    scores: [2 N, N], two frames of each of N scenes against the N names. labels: [2 N, 7]. Names of other things of the
    same shape and colour are not counted as wrong, frames in which nothing shows not at all.
    """
    look = labels[:, 0] * len(COLOURS) + labels[:, 1]  # [2 N]
    own = torch.arange(len(labels)) // 2
    alike = look[:, None] == look[::2][None]  # [2 N, N]
    alike[torch.arange(len(labels)), own] = False
    seen = labels[:, 3] == 1
    scores = scores.masked_fill(alike, -1e4)[seen]
    loss = F.cross_entropy(scores, own[seen]) if bias is None else each_pair(scores, own[seen], bias)
    return loss, accuracy(scores, own[seen])


# -------------------------------------------------------------------------------------------------------------- export


@torch.no_grad()
def export(run: Run, folder: Path) -> None:
    """Scale the outputs to the mean lengths of the kind and write the folder that open_clip loads."""
    model, kind = run.model.clip.eval(), run.kind
    pool = Pool(99, 400)
    rng = Random(99)
    batch = clip_batch(rng, pool, 400)
    frames = run.model.eval().images(batch.frames.flatten(0, 1))
    text = run.model.sentences(run.tokens(batch.captions))
    pooled = getattr(model.visual, "attnpool", None)
    for parameter in (model.visual.proj,) if pooled is None else (pooled.c_proj.weight, pooled.c_proj.bias):
        parameter.mul_(kind.frame_norm / frames.norm(dim=-1).mean())
    last = list(model.text.text_projection.parameters()) if kind.sigmoid else [model.text_projection]
    for parameter in last:
        parameter.mul_(kind.caption_norm / text.norm(dim=-1).mean())
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": model_config(run.tokenizer.vocab_size, kind),
        "preprocess_cfg": {"mean": list(kind.mean), "std": list(kind.std), "interpolation": "bicubic"},
    }
    if kind.fit != "shortest":  # open_clip's default
        config["preprocess_cfg"]["resize_mode"] = kind.fit
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copyfile(run.work / "bpe.txt.gz", folder / "bpe.txt.gz")
    size = sum(p.stat().st_size for p in folder.iterdir())
    count = sum(p.numel() for p in model.parameters())
    print(json.dumps({"stage": "export", "folder": str(folder), "size_bytes": size, "parameters": count}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, log and the result")
    parser.add_argument(
        "--threads", type=int, default=1, help="torch threads; two on a busy machine are slower than one"
    )
    parser.add_argument("--save-every", type=int, default=200, help="steps between checkpoints inside a stage")
    parser.add_argument("--install", action="store_true", help="copy the result into tvr_cli/backbones")
    parser.add_argument("--make", choices=sorted(KINDS), default=Settings.make, help="which backbone")
    for field in dataclasses.fields(Settings)[1:]:
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    args = parser.parse_args()
    if args.install and KINDS[args.make].teacher:
        sys.exit(f"{args.make} does not ship with tvr; leave out --install and use it as local:FOLDER")
    torch.set_num_threads(args.threads)
    settings = Settings(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Settings)})
    args.work.mkdir(parents=True, exist_ok=True)
    stamp = args.work / "settings.json"
    if stamp.exists() and json.loads(stamp.read_text()) != dataclasses.asdict(settings):
        sys.exit(f"{stamp} was made with other settings; choose another --work folder or delete this one")
    stamp.write_text(json.dumps(dataclasses.asdict(settings), indent=2) + "\n")
    cut_vocabulary(args.work / "bpe.txt.gz")
    run = Run(args.work, settings, args.save_every)
    if run.kind.teacher:
        run.taught(run.kind.teacher)
    else:
        run.text()
        run.vision()
        run.joint()
        run.settle()
    name = settings.make.replace("-", "_")
    export(run, args.work / name)
    if args.install:
        target = Path(__file__).resolve().parents[1] / "tvr_cli" / "backbones" / name
        shutil.copytree(args.work / name, target, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
