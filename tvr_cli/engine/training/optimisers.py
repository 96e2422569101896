"""Optimizers, schedules and parameter groups.

Three optimizers: AdamW (torch's, the default), the BertAdam that the authors of GARE, EagleNet, GLCCL, TC-MGC and
CLIP4Clip train with, and Hugging Face's first AdamW, which those of X-Pool and T-MASS do. Three schedules end at zero:
`cosine` is continuous at the end of the warm-up, `authors` drops from 1 to 0.5 (1 + cos(pi warmup)) there, as
BertAdam's `warmup_cosine` does, `hf-cosine` counts whole steps from 0. Sources: the specs' optimisation sections and
pytorch-pretrained-bert's BertAdam, which they follow; the golden traces `optim.*` decide.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tvr_cli.config import TrainConfig
from tvr_cli.engine.training.train_result import GroupRow
from tvr_cli.errors import ConfigError, did_you_mean

ScheduleName = Literal["cosine", "authors", "hf-cosine", "constant"]

# How a backbone's parameters are named in a training model, and in the authors' files. `transformerClip.` is different.
BACKBONE_PREFIX = "clip."


def multiplier(name: ScheduleName, step: int, total: float, warmup: float) -> float:
    """Return the factor on the learning rate at `step` (0-based) of `total`; `warmup` is a fraction of `total`.

    cosine: linear up to 1, then half a cosine down to 0, taken at the middle of the step, so that no rate is 0.
    authors: x = step / total; x / warmup below `warmup`, else 0.5 (1 + cos(pi x)), so the first step has rate 0 and
    steps beyond `total` raise the rate again. hf-cosine: w = int(warmup total) steps of step / w, then half a cosine
    over the rest, so the first step has rate 0. constant: linear up to 1, then 1.
    """
    if name == "authors":
        x = step / total
        return x / warmup if x < warmup else 0.5 * (1.0 + math.cos(math.pi * x))
    if name == "hf-cosine":
        rising = int(warmup * total)
        if step < rising:
            return step / rising
        return 0.5 * (1.0 + math.cos(math.pi * min((step - rising) / max(total - rising, 1), 1.0)))
    x = min((step + 0.5) / total, 1.0)
    if x < warmup:
        return x / warmup
    return 1.0 if name == "constant" else 0.5 * (1.0 + math.cos(math.pi * (x - warmup) / (1.0 - warmup)))


class BertAdam(torch.optim.Optimizer):
    """Adam without bias correction, decoupled weight decay, the schedule inside, each tensor's gradient clipped.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  p <- p - lr schedule(step) (m / (sqrt(v) + eps) + decay p).
    `schedule` maps a parameter's own number of updates so far to a factor; a parameter without a gradient does not
    count. State has the parameter's dtype, so fp16 parameters have fp16 moments, as in the authors' runs. The clip
    changes `.grad` in place. Source: specs of GARE section 6 and EagleNet section 8.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        schedule: Callable[[int], float],
        *,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_norm: float = 1.0,
    ):
        self.schedule = schedule
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "max_norm": max_norm}
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. No closure is supported."""
        if closure is not None:
            raise ValueError("BertAdam takes no closure")
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(group, parameters)

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        states = [self._state_of(p) for p in parameters]
        if group["max_norm"] > 0:
            _clip_each(gradients, group["max_norm"])
        (beta1, beta2), eps, decay = group["betas"], group["eps"], group["weight_decay"]
        m, v = [s["m"] for s in states], [s["v"] for s in states]
        torch._foreach_mul_(m, beta1)
        torch._foreach_add_(m, gradients, alpha=1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, gradients, gradients, value=1 - beta2)
        scale = torch._foreach_sqrt(v)
        torch._foreach_add_(scale, eps)
        update = torch._foreach_div(m, scale)
        if decay > 0:
            torch._foreach_add_(update, parameters, alpha=decay)
        rates = [-group["lr"] * self.schedule(s["step"]) for s in states]
        torch._foreach_mul_(update, rates)
        torch._foreach_add_(parameters, update)
        for s in states:
            s["step"] += 1

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            state |= {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
        return state


class HuggingFaceAdamW(torch.optim.Optimizer):
    """AdamW as Hugging Face first wrote it: epsilon outside of the bias correction, decay of the moved parameter.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  p <- p - lr sqrt(1 - b2^n) / (1 - b1^n) m / (sqrt(v) + eps),
    then p <- p - lr decay p. Source: spec of X-Pool section 7; its trace decides.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. No closure is supported."""
        if closure is not None:
            raise ValueError("HuggingFaceAdamW takes no closure")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        (beta1, beta2), state = group["betas"], self.state[p]
        if not state:
            state |= {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
        state["step"] += 1
        state["m"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        state["v"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        rate = group["lr"] * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
        p.addcdiv_(state["m"], state["v"].sqrt().add_(group["eps"]), value=-rate)
        p.mul_(1 - group["lr"] * group["weight_decay"])


@dataclass(frozen=True)
class Group:
    """Parameters that share a rate and a decay. side: what the rate belongs to."""

    side: Literal["head", "backbone", "logit scale"]
    lr: float
    weight_decay: float
    parameters: tuple[tuple[str, nn.Parameter], ...]

    @property
    def count(self) -> int:
        """Numbers in the group."""
        return sum(p.numel() for _, p in self.parameters)


@dataclass(frozen=True)
class Groups:
    """Every parameter of a model: those that are trained, in groups, and those that are not, with the reason."""

    trained: tuple[Group, ...]
    frozen: tuple[tuple[str, nn.Parameter], ...]
    dead: tuple[tuple[str, nn.Parameter], ...]

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """Return the trained parameters, in the order of the optimizer."""
        return [pair for group in self.trained for pair in group.parameters]

    def table(self) -> list[GroupRow]:
        """Return one row a group for `--dry-run`: side, rate, decay, tensors, numbers, first names."""
        rows = [_row(g.side, g.lr, g.weight_decay, g.parameters) for g in self.trained]
        rows += [
            _row(what, None, None, names) for what, names in (("frozen", self.frozen), ("dead", self.dead)) if names
        ]
        return rows


def group_parameters(
    named: Iterable[tuple[str, nn.Parameter]], train: TrainConfig, dead: frozenset[str] = frozenset()
) -> Groups:
    """Sort parameters into groups by name and shape.

    Names that begin with `clip.` belong to the backbone and take `backbone_lr`; `logit_scale` takes `logit_scale_lr`
    (None = the backbone's rate where it is tuned, else the head's); all others take `lr`. Weight decay: `authors`
    decays all but names containing "bias"; `matrices` spares vectors and scalars too; `all` spares nothing. `freeze`
    holds shell patterns of names that are not trained; a pattern that matches nothing raises ConfigError with the
    nearest name.
    """
    named = list(named)
    frozen_names = _matches([name for name, _ in named], train.freeze)
    buckets: dict[tuple[Any, float, float], list[tuple[str, nn.Parameter]]] = {}
    frozen, unused = [], []
    for name, p in named:
        if name in dead:
            unused.append((name, p))
        elif name in frozen_names or not p.requires_grad:
            frozen.append((name, p))
        else:
            side, lr = _side(name, train)
            buckets.setdefault((side, lr, _decay(name, p, train)), []).append((name, p))
    order = {"backbone": 0, "head": 1, "logit scale": 2}
    keys = sorted(buckets, key=lambda k: (order[k[0]], -k[2]))
    return Groups(tuple(Group(*key, tuple(buckets[key])) for key in keys), tuple(frozen), tuple(unused))


def build(groups: Groups, train: TrainConfig, total: float) -> torch.optim.Optimizer:
    """Make the optimizer of `train` for `total` steps. Both AdamW's rates are set by `set_rates` before every step."""
    settings = [
        {"params": [p for _, p in g.parameters], "lr": g.lr, "weight_decay": g.weight_decay} for g in groups.trained
    ]
    if train.optimizer == "bertadam":
        return BertAdam(settings, train.lr, lambda step: multiplier(train.schedule, step, total, train.warmup))
    if train.optimizer == "hf-adamw":
        return HuggingFaceAdamW(settings, train.lr)
    return torch.optim.AdamW(settings, lr=train.lr, betas=(0.9, 0.98), eps=1e-6, foreach=True)


def set_rates(optimizer: torch.optim.Optimizer, groups: Groups, factor: float) -> None:
    """Set every group's rate to its base rate times `factor`; BertAdam has its schedule inside and is left alone."""
    if isinstance(optimizer, BertAdam):
        return
    for settings, group in zip(optimizer.param_groups, groups.trained, strict=True):
        settings["lr"] = group.lr * factor


def _clip_each(gradients: Sequence[Tensor], max_norm: float) -> None:
    norms = torch._foreach_norm(list(gradients))
    factors = [(max_norm / (n + 1e-6)).clamp(max=1.0) for n in norms]  # torch's clip_grad_norm_, tensor by tensor
    torch._foreach_mul_(list(gradients), factors)


def _side(name: str, train: TrainConfig) -> tuple[str, float]:
    if name.rpartition(".")[2] == "logit_scale":
        own = train.backbone_lr if train.tune == "full" else train.lr
        return "logit scale", own if train.logit_scale_lr is None else train.logit_scale_lr
    return ("backbone", train.backbone_lr) if name.startswith(BACKBONE_PREFIX) else ("head", train.lr)


def _decay(name: str, p: nn.Parameter, train: TrainConfig) -> float:
    if train.decay == "all":
        return train.weight_decay
    spared = "bias" in name if train.decay == "authors" else p.ndim < 2 or "bias" in name
    return 0.0 if spared else train.weight_decay


def _matches(names: Sequence[str], patterns: Sequence[str]) -> frozenset[str]:
    found: set[str] = set()
    for pattern in patterns:
        hits = fnmatch.filter(names, pattern)
        if not hits:
            raise ConfigError(f"train.freeze: {pattern!r} matches no parameter{did_you_mean(pattern, names)}")
        found.update(hits)
    return frozenset(found)


def _row(what: str, lr: float | None, decay: float | None, named: Sequence[tuple[str, nn.Parameter]]) -> GroupRow:
    return GroupRow(
        group=what,
        lr=lr,
        weight_decay=decay,
        tensors=len(named),
        parameters=sum(p.numel() for _, p in named),
        names=[name for name, _ in named],
    )
