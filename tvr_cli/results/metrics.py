"""The numbers of both directions, and folding those of several seeds or draws into one. numpy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from tvr_cli.results.base import OPTIONAL

_T = TypeVar("_T")
Pair = Sequence[float]  # [low, high]


@dataclass(frozen=True)
class Metrics:
    """Both directions. t2v, v2t: metric -> value, recalls in percent. rsum: R@1, R@5 and R@10 of both, added up."""

    t2v: Mapping[str, float]
    v2t: Mapping[str, float]
    rsum: float

    @staticmethod
    def of(result: HasMetrics) -> Metrics:
        """Return the metrics of a result that has them among other fields."""
        return Metrics(result.t2v, result.v2t, result.rsum)


class HasMetrics(Protocol):
    """Any result with the metrics of both directions among its fields."""

    @property
    def t2v(self) -> Mapping[str, float]: ...
    @property
    def v2t(self) -> Mapping[str, float]: ...
    @property
    def rsum(self) -> float: ...


@dataclass(frozen=True)
class Deviation:
    """The sample standard deviation of every number of several `Metrics`; None where there was only one."""

    t2v: Mapping[str, float | None]
    v2t: Mapping[str, float | None]
    rsum: float | None


@dataclass(frozen=True)
class Rate:
    """A share in percent with its 95 % interval; deviation: of `value` over several seeds, None of one."""

    value: float
    low: float
    high: float
    deviation: float | None = field(default=None, metadata=OPTIONAL)


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return float(np.mean(values))


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, None of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def fold(results: Sequence[_T], how: Callable[[Sequence[float]], float | None] = mean) -> _T:
    """Fold results of one shape (dataclasses, mappings, numbers) into one, number by number.

    A `Rate` gets the deviation of its values as well. Whatever is no number is taken from the first result.
    """
    folded: Any = _fold(results, how)
    return folded


def mean_and_deviation(results: Sequence[HasMetrics]) -> tuple[Metrics, Deviation]:
    """Fold the metrics of several seeds, or of several draws of a method's noise."""
    only = [Metrics.of(r) for r in results]
    spread = fold(only, deviation)
    return fold(only), Deviation(spread.t2v, spread.v2t, spread.rsum)


def _fold(results: Sequence[Any], how: Callable[[Sequence[float]], float | None]) -> Any:
    first = results[0]
    if isinstance(first, Rate):
        value, low, high = (how([getattr(r, name) for r in results]) for name in ("value", "low", "high"))
        return Rate(value, low, high, deviation([r.value for r in results]))  # type: ignore[arg-type]
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [f.name for f in dataclasses.fields(first) if f.init]
        return dataclasses.replace(first, **{name: _fold([getattr(r, name) for r in results], how) for name in names})
    if isinstance(first, Mapping):
        return {name: _fold([r[name] for r in results], how) for name in first}
    return how(results) if isinstance(first, int | float) and not isinstance(first, bool) else first
