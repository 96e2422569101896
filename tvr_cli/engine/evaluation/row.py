"""A row of recalls: as it was typed, with its decimals, or one direction of a result. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Literal

from tvr_cli.engine.evaluation import digits
from tvr_cli.engine.evaluation.evaluate_result import Claim
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.results.metrics import Pair

Side = Literal["t2v", "v2t"]
_FRACTION_DIGITS = 2  # 0.27 is a fraction; 0.3 may be the R@1 of chance, in percent


@dataclass(frozen=True, slots=True)
class Row:
    """A row: queries it claims (None = not said), and R@k in percent as typed, decimals kept.

    videos: where that is said. intervals: R@k -> [low, high], where the result has its own. no_counts: a sentence that
    says why R@k are no counts of hits, where the result says so itself. read_as: how the text was understood, where
    that is not plain. side: the direction, None of a typed row, which does not say.
    """

    queries: int | None
    recalls: Mapping[int, Decimal]
    label: str = "row"
    videos: int | None = None
    intervals: Mapping[str, Pair] = field(default_factory=dict)
    no_counts: str | None = None
    read_as: str | None = None
    side: Side | None = None


@dataclass(frozen=True, slots=True)
class Typed:
    """A row as it was typed: queries it claims, and the text of R@k, each None where it was left out.

    True where any recall was typed.
    """

    queries: int | None
    recalls: Mapping[int, str | None]

    def __bool__(self) -> bool:
        return any(self.recalls.values())


def row_of(label: str, queries: int | None, typed: Mapping[int, str | None]) -> Row:
    """Read R@k values as typed: 47.3, 47,3 and 47.3% are one number, 0.473 is a fraction of it.

    Raises ConfigError for text that is no percentage.
    """
    recalls = {k: _percentage(k, text) for k, text in typed.items() if text is not None}
    if not recalls:
        raise ConfigError("give at least one of --r1, --r5, --r10, or a result to audit")
    said_percent = any("%" in text for text in typed.values() if text)
    if said_percent or max(recalls.values()) > 1 or max(map(digits.decimals, recalls.values())) < _FRACTION_DIGITS:
        return Row(queries, recalls, label)
    percent = {k: value.scaleb(2) if digits.decimals(value) else value * 100 for k, value in recalls.items()}
    read_as = "read as fractions, all being at most 1; percent is written 0.27%"
    return Row(queries, percent, label, read_as=read_as)


def _percentage(k: int, text: str) -> Decimal:
    number = text.strip().removesuffix("%").strip()
    if re.fullmatch(r"[0-9]+,[0-9]+", number):
        number = number.replace(",", ".")
    try:
        value = Decimal(number)
    except InvalidOperation:
        raise ConfigError(f"--r{k} expects a percentage such as 47.3, found {text!r}") from None
    if not value.is_finite() or not 0 <= value <= 100:
        raise ConfigError(f"--r{k} expects a percentage between 0 and 100, found {text!r}")
    return value


def rows_of_result(result: Claim, label: str) -> list[Row]:
    """Take the rows of both directions of a result; one of another tool may lack video-to-text.

    Raises DataError where text-to-video is missing.
    """
    backward = result.v2t is not None and "R@1" in result.v2t
    return [row_of_result(result, label), *([row_of_result(result, label, "v2t")] if backward else [])]


def row_of_result(result: Claim, label: str, side: Side = "t2v") -> Row:
    """Take the row of one direction of a result. Raises DataError when it has none."""
    found = result.t2v if side == "t2v" else result.v2t
    if found is None or "R@1" not in found:
        raise DataError(
            f"{label}: expected a result of tvr evaluate with {side!r} and R@1, found {sorted(result.said)[:8]}"
        )
    recalls = {k: Decimal(repr(float(found[f"R@{k}"]))) for k in (1, 5, 10) if f"R@{k}" in found}
    return Row(
        _queries(result, side),
        recalls,
        label,
        videos=result.videos,
        intervals=getattr(result.intervals, side),
        no_counts=_no_counts(result, side),
        side=side,
    )


def _queries(result: Claim, side: Side) -> int | None:
    """Return how many queries a direction has: where it is not said, captions or videos."""
    said = result.queries.get(side) if isinstance(result.queries, Mapping) else None
    return said or (result.captions if side == "t2v" else result.videos)


def _no_counts(result: Claim, side: Side) -> str | None:
    """Say why the numbers of a result are no counts of hits, where it says so itself."""
    if entries := result.rank_entries.get(side):
        return f"the counting of older code, by its own label: recalls over {entries} rank entries"
    if result.draws:
        return f"means over {result.draws} draws of the method's noise, no counts"
    if ties := result.ties.get(side):
        return f"{ties} queries are tied, and R@k are expectations over all orders of them, no counts"
    if side == "v2t" and result.v2t_protocol == "mean-rank" and result.captions != result.videos:
        return "means over the captions of each video (mean-rank), no counts"
    return None
