"""Verbs of programs that need no workspace: judging a score matrix, and a card of how a result came about."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_cli.api_flags import judge_options

if TYPE_CHECKING:
    from tvr_cli.engine.evaluation.evaluate_result import EvaluateReport, ScoresReport

PathLike = str | os.PathLike[str]


def judge_scores(
    path: PathLike,
    *,
    v2t_protocol: str = "max",
    metrics: str = "fair",
    post: str | Sequence[str] = (),
    scale: str | None = None,
    qrels: PathLike | None = None,
    allow_missing: bool = False,
    seed: int = 0,
    data: str | None = None,
    split: str = "test",
) -> ScoresReport:
    """Judge a score matrix of any tool, safetensors or npz (`tvr evaluate --scores`). Raises DataError, ConfigError.

    scale: what a cosine of one is in the scores: "cosine", "logit" or a number. data, split: what they are about.
    """
    from tvr_cli.engine.evaluation import judge, score_ids

    options = judge_options(v2t_protocol, metrics, post, seed, scale, qrels)
    ids = None if data is None else score_ids.of_dataset(data, split)
    return judge.judge_file(Path(path), options, allow_missing=allow_missing, ids=ids)[0]


def protocol_card(report: EvaluateReport | ScoresReport) -> list[str]:
    """Return the lines of a citable block of text that says how a result came about."""
    from tvr_cli.engine.evaluation.card import card_of

    return card_of(report).lines()
