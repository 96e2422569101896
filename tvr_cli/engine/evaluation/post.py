"""Post-processing of scores: dual softmax and QB-Norm, at the temperature that the scores' scale asks for. numpy only.

Both were made for cosines. Code of CLIP's family dumps cosines times its logit scale (100); at the same temperature
that is another method, a hundred times sharper. So scores carry their scale, and what has none is taken for cosines
only where it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tvr_cli.errors import ConfigError, DataError, did_you_mean
from tvr_cli.metrics import Floats, Scores

Post = Literal["dsl", "qbnorm"]
POSTS: dict[str, str] = {
    "dsl": "transductive: dual softmax uses all test queries at once and assumes one video a query",
    "qbnorm": "transductive: QB-Norm corrects each video by how it answers a bank of training captions",
}
DSL_SCALE = 100.0  # of cosines: CLIP's logit scale, as CAMoE (arXiv 2109.04290) uses it
QBNORM_BETA = 20.0  # of cosines: QB-Norm (arXiv 2112.12777), section 4
SCALES = {"cosine": 1.0, "logit": 100.0}  # what a cosine of one is in the scores
_COSINE_AT_MOST = 1.001  # half precision rounds a cosine of one up


def parse_posts(names: Sequence[str]) -> tuple[Post, ...]:
    """Read `--post dsl,qbnorm`. Raises ConfigError with the nearest name."""
    wanted = [part for name in names for part in name.split(",") if part and part != "none"]
    for name in wanted:
        if name not in POSTS:
            raise ConfigError(
                f"unknown post-processing {name!r}{did_you_mean(name, POSTS) or '; there are dsl, qbnorm'}"
            )
    return tuple(wanted)  # type: ignore[arg-type]


def parse_scale(text: str) -> float:
    """Read `--scale cosine|logit|NUMBER`. Raises ConfigError for what is none of these."""
    try:
        scale = SCALES[text] if text in SCALES else float(text)
    except ValueError:
        scale = 0.0
    if not 0 < scale < np.inf:
        raise ConfigError(f"--scale: expected cosine, logit or a positive number such as 100, found {text!r}")
    return scale


def scale_of(scale: float | None, *scores: Scores | None) -> float:
    """Return the scale of scores, as it is said; else 1, where they can be cosines. Raises DataError where not."""
    if scale is not None:
        return scale
    largest = max(float(np.abs(s).max()) for s in scores if s is not None)
    if largest > _COSINE_AT_MOST:
        raise DataError(
            f"--post needs to know the scale of the scores: its temperature is made for cosines, and here |score| "
            f"reaches {largest:.4g}. Say --scale logit (cosines times 100, as code of CLIP's family dumps them) or "
            "--scale NUMBER, or put an array `scale` into the score file"
        )
    return 1.0


def dual_softmax(scores: Scores, scale: float = 1.0) -> tuple[Floats, Floats]:
    """Return scores [T, V] for text-to-video and for video-to-text, each weighted by a softmax over its queries."""
    scaled = DSL_SCALE / scale * scores.astype(np.float64)
    return scores * _softmax(scaled, axis=0), scores * _softmax(scaled, axis=1)


def qbnorm(scores: Scores, bank: Scores, scale: float = 1.0) -> Floats:
    """Return scores [T, V] of QB-Norm's dynamic inverted softmax with a bank [Q, V] of training captions.

    A query whose best video is also the best of some bank query is normalised by the bank; the others stay as they are
    (their order does not change, so they are mapped monotonically).
    """
    beta = QBNORM_BETA / scale
    scaled = beta * bank.astype(np.float64)
    top = scaled.max(0)
    log_sum = top + np.log(np.exp(scaled - top).sum(0))  # [V]
    popular = np.zeros(scores.shape[1], dtype=bool)
    popular[bank.argmax(1)] = True
    plain = beta * scores.astype(np.float64)
    return np.where(popular[scores.argmax(1)][:, None], plain - log_sum, plain)


def _softmax(x: Floats, *, axis: int) -> Floats:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)
