"""How sure a result is: bootstrap intervals, paired tests, and what the sampling error of R@k alone allows. numpy only.

The unit is the video: captions of one video are resampled together, because they stand and fall together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tvr_cli.errors import DataError
from tvr_cli.metrics import Floats, Ints, Ranks, per_query

DRAWS = 2000
LEVEL = 0.95
_BLOCK = 200  # bootstrap draws held at once


@dataclass(frozen=True, slots=True)
class Comparison:
    """B minus A on one metric. interval: 95 % of the paired bootstrap. p: two-sided, of the test named."""

    metric: str
    a: float
    b: float
    difference: float
    interval: tuple[float, float]
    p: float
    test: str


def intervals(ranks: Ranks, *, seed: int = 0, draws: int = DRAWS) -> dict[str, list[float]]:
    """Return [low, high] of every mean metric: 95 % percentile bootstrap over videos."""
    values, video = per_query(ranks)
    names = [name for name in values if name != "MdR"]
    stacked = np.stack([values[name] for name in names], axis=1)  # [N, M]
    means = _resampled_means(stacked, video, seed=seed, draws=draws)
    low, high = _percentiles(means)
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(names)}


def resampled(
    statistics: Sequence[Callable[[Floats], Floats]], group: Ints, *, seed: int = 0, draws: int = DRAWS
) -> list[tuple[float, float]]:
    """Return [low, high] of any statistics of N queries: 95 % percentile bootstrap over groups of queries.

    statistics: each takes weights [B, N], how often a draw has each query, and returns [B] values; NaN is a draw that
    it has no value for. All of them see the same draws. An interval of NaN: no draw had a value.
    """
    blocks = [np.stack([one(weights) for one in statistics]) for weights in _weights(group, seed=seed, draws=draws)]
    values = np.concatenate(blocks, axis=1)  # [M, draws]
    edge = 100.0 * (1.0 - LEVEL) / 2.0
    found = []
    for row in values:
        known = row[~np.isnan(row)]
        low, high = np.percentile(known, [edge, 100.0 - edge]) if len(known) else (math.nan, math.nan)
        found.append((float(low), float(high)))
    return found


def compare(
    a: Ranks, b: Ranks, metrics: Sequence[str] = ("R@1",), *, seed: int = 0, draws: int = DRAWS
) -> list[Comparison]:
    """Compare two results on the same queries, one metric at a time, every metric under the same draws.

    McNemar's exact test where every query is a plain hit or miss (no tie straddles k) and videos have one query each;
    else a permutation test that swaps A and B video by video. Raises DataError when the queries differ.
    """
    values_a, video = per_query(a)
    values_b, video_b = per_query(b)
    if len(video) != len(video_b) or not np.array_equal(video, video_b):
        raise DataError(
            f"the two results have different queries ({len(video)} and {len(video_b)}, or another order); only results "
            "of the same split and gallery can be compared pair by pair"
        )
    difference = np.stack([values_b[name] - values_a[name] for name in metrics], axis=1)  # [N, M]
    low, high = _percentiles(_resampled_means(difference, video, seed=seed, draws=draws))
    single = len(np.unique(video)) == len(video)
    plain = [single and name.startswith("R@") and _hit_or_miss(values_a[name], values_b[name]) for name in metrics]
    tied = [i for i, exact in enumerate(plain) if not exact]
    permuted = dict(zip(tied, _permutation(difference[:, tied], video, seed=seed, draws=draws), strict=True))
    found = []
    for i, name in enumerate(metrics):
        if plain[i]:
            p, test = mcnemar(int((difference[:, i] > 0).sum()), int((difference[:, i] < 0).sum())), "McNemar, exact"
        else:
            p, test = permuted[i], "permutation over videos"
        mean_a, mean_b = float(values_a[name].mean()), float(values_b[name].mean())
        found.append(Comparison(name, mean_a, mean_b, mean_b - mean_a, (float(low[i]), float(high[i])), p, test))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p corrected for how many were asked (Holm, 1979), in the order given: below .05 holds for all at once."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def over_seeds(results: Sequence[Ranks], metrics: Sequence[str]) -> tuple[Floats, Ints]:
    """Return [N, M] values of every query, the mean over results of several seeds, and the video of each.

    Raises DataError when the results have different queries.
    """
    found = [per_query(ranks) for ranks in results]
    video = found[0][1]
    if not all(np.array_equal(video, other) for _, other in found):
        raise DataError("the results of several seeds have different queries; make them again on the same features")
    return np.mean([np.stack([values[name] for name in metrics], axis=1) for values, _ in found], axis=0), video


def interval_over_seeds(results: Sequence[Ranks], metric: str, *, seed: int = 0, draws: int = DRAWS) -> list[float]:
    """Return [low, high] of a metric's mean over seeds: 95 % percentile bootstrap over videos, seeds as they are."""
    values, video = over_seeds(results, (metric,))
    low, high = _percentiles(_resampled_means(values, video, seed=seed, draws=draws))
    return [float(low[0]), float(high[0])]


def compare_seeds(
    a: Sequence[Ranks], b: Sequence[Ranks], metrics: Sequence[str], *, seed: int = 0, draws: int = DRAWS
) -> list[Comparison]:
    """Compare two methods of one seed or several on the same queries, as `compare` does two results.

    What is compared is a query's mean over the seeds of each side; videos are swapped whole. It answers whether the
    difference would be there with other videos, not with other seeds: for these stands the deviation beside the mean.
    """
    if len(a) == len(b) == 1:
        return compare(a[0], b[0], metrics, seed=seed, draws=draws)
    (values_a, video), (values_b, video_b) = over_seeds(a, metrics), over_seeds(b, metrics)
    if not np.array_equal(video, video_b):
        raise DataError("the two results have different queries; only results of the same split can be compared")
    difference = values_b - values_a
    low, high = _percentiles(_resampled_means(difference, video, seed=seed, draws=draws))
    p = _permutation(difference, video, seed=seed, draws=draws)
    means_a, means_b = values_a.mean(axis=0).tolist(), values_b.mean(axis=0).tolist()
    return [
        Comparison(
            name, means_a[i], means_b[i], means_b[i] - means_a[i], (float(low[i]), float(high[i])), p[i],
            "permutation over videos",
        )
        for i, name in enumerate(metrics)
    ]  # fmt: skip


def smallest_difference(queries: int, *, tests: int = 1, parts: int = 1, level: float = LEVEL) -> float:
    """Return the smallest net difference in points of R@k that can be significant on so many queries.

    It takes n videos of which each has one query that only the better side answers, and none the other way round: the
    exact sign test gives 2 · 2^-n, which has to reach (1 - level) / tests, the strictest step of Holm's correction.
    parts: of how many seeds a query's value is the mean; it can then differ by less. 100 where too few queries are.
    """
    needed = math.ceil(math.log2(2.0 * tests / (1.0 - level)) - 1e-9)
    return 100.0 * needed / (queries * parts) if needed <= queries else 100.0


def mcnemar(only_b: int, only_a: int) -> float:
    """Return the exact two-sided p of McNemar's test: the binomial test on the queries that exactly one got right."""
    n, k = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    log_half = n * math.log(0.5)
    tail = sum(
        math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + log_half) for i in range(k + 1)
    )
    return min(1.0, 2.0 * tail)


def binomial_tail(hits: int, n: int, rate: float) -> float:
    """Return the exact chance of `hits` or more in n tries that succeed at `rate` each, 0 < rate < 1."""
    if hits <= 0:
        return 1.0
    log_odds = math.log(rate) - math.log1p(-rate)
    start = n * math.log1p(-rate) + math.lgamma(n + 1)
    terms = (start + i * log_odds - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(hits, n + 1))
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def wilson(percent: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval in percent of a rate measured on n independent queries (Wilson, 1927)."""
    z, rate = 1.959963984540054, percent / 100.0
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return 100.0 * max(0.0, centre - half), 100.0 * min(1.0, centre + half)


def rates_differ(percent_a: float, n_a: int, percent_b: float, n_b: int) -> float:
    """Return the two-sided p that two independent rates differ (pooled z test), for rows without per-query ranks."""
    pooled = (percent_a * n_a + percent_b * n_b) / (100.0 * (n_a + n_b))
    spread = math.sqrt(max(pooled * (1 - pooled) * (1 / n_a + 1 / n_b), 0.0))
    if spread == 0.0:
        return 1.0
    return math.erfc(abs(percent_a - percent_b) / 100.0 / spread / math.sqrt(2))


def _resampled_means(values: Floats, video: Ints, *, seed: int, draws: int) -> Floats:
    """Return [draws, M] means of values [N, M] with the videos drawn again with replacement."""
    _, of_query = np.unique(video, return_inverse=True)
    sums = _sums_by_group(values, of_query)
    counts = np.bincount(of_query, minlength=len(sums)).astype(np.float64)
    drawn = _drawn(len(sums), seed=seed, draws=draws)
    return np.concatenate([(weight @ sums) / (weight @ counts)[:, None] for weight in drawn])


def _weights(group: Ints, *, seed: int, draws: int) -> Iterator[Floats]:
    """Yield [B, N]: how often each draw has each query, the queries of a group together."""
    names, of_query = np.unique(group, return_inverse=True)
    return (weight[:, of_query] for weight in _drawn(len(names), seed=seed, draws=draws))


def _drawn(groups: int, *, seed: int, draws: int) -> Iterator[Floats]:
    """Yield [B, G]: how often each draw has each of G groups, drawn with replacement."""
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _BLOCK):
        size = min(_BLOCK, draws - start)
        picked = rng.integers(0, groups, (size, groups))
        flat = (picked + np.arange(size)[:, None] * groups).ravel()
        yield np.bincount(flat, minlength=size * groups).reshape(size, groups).astype(np.float64)


def _percentiles(means: Floats) -> tuple[Floats, Floats]:
    edge = 100.0 * (1.0 - LEVEL) / 2.0
    low, high = np.percentile(means, [edge, 100.0 - edge], axis=0)
    return low, high


def _hit_or_miss(*values: Floats) -> bool:
    return all(bool(np.isin(side, (0, 100)).all()) for side in values)


def _permutation(difference: Floats, video: Ints, *, seed: int, draws: int) -> list[float]:
    """Return a two-sided p a column of difference [N, M], with the signs of a video's queries drawn together."""
    if not difference.shape[1]:
        return []
    _, of_query = np.unique(video, return_inverse=True)
    sums = _sums_by_group(difference, of_query)
    observed = np.abs(sums.sum(axis=0))
    rng = np.random.default_rng(seed)
    hits = np.ones(difference.shape[1], np.int64)  # the observed assignment is one of them
    for start in range(0, draws, _BLOCK):
        signs = rng.integers(0, 2, (min(_BLOCK, draws - start), len(sums))) * 2.0 - 1.0
        hits += (np.abs(signs @ sums) >= observed - 1e-9).sum(axis=0)
    return [float(hit) / (draws + 1) for hit in hits]


def _sums_by_group(values: Floats, group: Ints) -> Floats:
    """Return [G, M]: the columns of values [N, M] added up within each group."""
    return np.stack([np.bincount(group, column) for column in values.T], axis=1)
