"""Guard rails of training: a loss that is not a number stops the run, a loss at chance is said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvr_cli import log
from tvr_cli.errors import DataError
from tvr_cli.files import write_json

# Loss parts that are an InfoNCE over the batch: at chance each is the logarithm of the batch size.
CONTRASTIVE = ("nce", "contrastive", "t2v", "v2t")
_AT_CHANCE = 0.98


def require_finite(
    folder: Path,
    *,
    step: int,
    loss: float,
    parts: Mapping[str, float],
    grad_norm: float,
    captions: Sequence[str],
    clips: Sequence[str],
    keep: bool = True,
) -> None:
    """Raise DataError when the loss or the gradient norm is NaN or infinite, after saving what the batch was.

    Called before the optimizer moves: the weights are still those of the step before, and so is the last checkpoint.
    keep: whether this process saves it; another rank does otherwise.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    path = folder / f"not-finite-step-{step}.json"
    bad = sorted(name for name, value in parts.items() if not math.isfinite(value))
    record: dict[str, Any] = {
        "step": step, "loss": str(loss), "grad_norm": str(grad_norm), "parts": {k: str(v) for k, v in parts.items()},
        "captions": list(captions), "clips": list(clips),
    }  # fmt: skip
    if keep:
        write_json(path, record)
    what = (
        f"the loss is {loss}" if not math.isfinite(loss) else f"the loss is {loss:.4g}, its gradient's norm {grad_norm}"
    )
    where = f" (in {', '.join(bad)})" if bad else ""
    raise DataError(
        f"step {step}: {what}{where}; nothing was updated, the batch is listed in {str(path)!r}. "
        "Look for a clip without frames or features that are all zero, or lower train.lr or train.max_logit_scale"
    )


def say_if_at_chance(
    parts: Sequence[Mapping[str, float]], batch_size: int, start: Sequence[Mapping[str, float]] = ()
) -> bool:
    """Warn when the contrastive loss after the warm-up is no better than guessing, and return whether it is so.

    start: the same of the first steps. A loss that began above what guessing gives (a sharp logit scale on features
    that do not fit yet) and has fallen since is learning, and nothing is said.
    """
    chance = math.log(max(batch_size, 2))
    for name in CONTRASTIVE:
        now, before = _mean(parts, name), _mean(start, name)
        if now is not None and now > _AT_CHANCE * chance and (before is None or now > _AT_CHANCE * before):
            log.logger.warning(
                "warning: after the warm-up the loss %s is %.3f, and guessing gives %.3f: nothing is learned yet. "
                "Check that captions belong to their clips, or try another train.lr",
                name, now, chance,
            )  # fmt: skip
            return True
    return False


def _mean(parts: Sequence[Mapping[str, float]], name: str) -> float | None:
    values = [p[name] for p in parts if name in p]
    return sum(values) / len(values) if values else None
