"""What one row of recalls can and cannot be, by its digits (`digits`), in a sentence.

No row is accused: a cause is named where chance alone would explain the digits in fewer than 1 % of all rows, and it is
a cause, not a motive. That a row fits is no praise: few digits fit nearly everything. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tvr_cli import significance
from tvr_cli.engine.evaluation import digits
from tvr_cli.engine.evaluation.digits import KNOWN, LIMIT, Tried
from tvr_cli.engine.evaluation.row import Row, Side
from tvr_cli.results.base import OPTIONAL
from tvr_cli.results.metrics import Pair


@dataclass(frozen=True)
class Possible:
    """Numbers of queries that give a row's digits: how many, the smallest ten, and which are test sets in use."""

    count: int
    smallest: Sequence[int]
    known: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class AuditedRow:
    """What a row can and cannot be, by metric name.

    fits_claim: whether `queries` is possible, None where it is not said or R@k are no counts. chance: the share of all
    rows with these decimals that fit it too. counts: the hits that it means, None where it does not fit, or where
    several counts round to one number. interval:
    95 %, of what `interval_of` says. tried: other numbers that were tried, where it does not fit; tie_inflation and
    smaller_gallery are those of them that fit. verdict: one sentence. findings: what the file itself shows, None of a
    typed row, and of a file's second direction. side: the direction, None of a typed row.
    """

    label: str
    side: Side | None = field(default=None, metadata=OPTIONAL)
    queries: int | None
    recalls: Mapping[str, float]
    decimals: Mapping[str, int]
    read_as: str | None = field(default=None, metadata=OPTIONAL)
    monotone: bool
    possible: Possible
    fits_claim: bool | None
    chance: float | None
    counts: Mapping[str, int | None] | None
    interval: Mapping[str, Pair]
    interval_of: str | None
    tried: tuple[Tried, ...]
    tie_inflation: Sequence[int]
    smaller_gallery: Sequence[int]
    verdict: str
    findings: Sequence[str] | None = field(default=None, metadata=OPTIONAL)


def audit(row: Row) -> AuditedRow:
    """Say what a row can and cannot be: which query counts up to LIMIT give every number to the digits typed."""
    possible = digits.possible_counts(row.recalls)
    judged = row.queries if row.no_counts is None else None
    counts = None if judged is None else digits.counts_of(row.recalls, judged)
    fits = None if judged is None else counts is not None
    tried = () if judged is None or fits else digits.tries(row.recalls, judged, possible)
    interval, interval_of = _interval(row)
    known = {n: name for n, name in KNOWN.items() if n in set(possible)}
    return AuditedRow(
        label=row.label,
        side=row.side,
        queries=row.queries,
        recalls={f"R@{k}": float(v) for k, v in row.recalls.items()},
        decimals={f"R@{k}": digits.decimals(v) for k, v in row.recalls.items()},
        read_as=row.read_as,
        monotone=_monotone(row),
        possible=Possible(len(possible), possible[:10], known),
        fits_claim=fits,
        chance=None if judged is None else digits.chance_of(row.recalls, judged),
        counts={f"R@{k}": _single(row, k, hits) for k, hits in counts.items()} if counts else None,
        interval=interval,
        interval_of=interval_of,
        tried=tried,
        tie_inflation=[n for search in tried if search.what == "ties" for n in search.fit],
        smaller_gallery=[n for search in tried if search.what == "fewer" for n in search.fit],
        verdict=_verdict(row, possible, fits, tried),
    )


def _single(row: Row, k: int, hits: int) -> int | None:
    """Return the hits behind R@k where no other count gives its digits, else None."""
    return hits if (row.queries or 0) <= 10 ** (digits.decimals(row.recalls[k]) + 2) else None


def units_of(row: Row) -> tuple[int, str]:
    """Return the size of the sample behind a row, and of what it is: captions of one video stand and fall together."""
    assert row.queries, "as was checked"
    videos = digits.VIDEOS_OF_QUERIES.get(row.queries)
    if row.side == "v2t":
        return row.queries, f"{row.queries} videos"
    if row.videos is not None and row.videos < row.queries:
        videos = row.videos
    if videos is not None:
        return videos, f"{videos} videos, whose captions stand and fall together; a bootstrap over videos is narrower"
    if row.queries in digits.SINGLE or row.queries in digits.QUERIES_OF_VIDEOS or row.videos == row.queries:
        return row.queries, f"{row.queries} videos"
    return row.queries, f"{row.queries} queries; at least this wide, more where videos have several captions"


def _interval(row: Row) -> tuple[dict[str, Pair], str | None]:
    """Return the intervals of a row and of what they are: its own bootstrap, else by the sampling error of videos."""
    own = {f"R@{k}": row.intervals[f"R@{k}"] for k in row.recalls if f"R@{k}" in row.intervals}
    if own:
        return own, "a bootstrap over videos, by the result itself"
    if not row.queries:
        return {}, None
    units, what = units_of(row)
    return {f"R@{k}": list(significance.wilson(float(v), units)) for k, v in row.recalls.items()}, what


def _monotone(row: Row) -> bool:
    values = [row.recalls[k] for k in sorted(row.recalls)]
    return values == sorted(values)


def _verdict(row: Row, possible: Sequence[int], fits: bool | None, tried: Sequence[Tried]) -> str:
    """Say it in one sentence. possible: all counts that fit. fits: whether the claimed one does."""
    if not _monotone(row):
        return "no gallery can give this row: a recall falls as k grows"
    if row.no_counts is not None:
        return row.no_counts
    if row.queries is None:
        return _without_claim(possible)
    if (told := _of_several_captions(row, possible)) is not None:
        return told
    if fits:
        return _fitting(row, row.queries)
    refused = f"{row.queries} queries cannot give these digits"
    for search in tried:
        if search.tells:
            told = f"{share(search.chance)} of all rows fit one of the {search.tried} numbers tried by chance"
            return f"{refused}; {_explained(search, row.queries)} ({told})"
    others = "means of several runs, expected ranks of ties and other test sets give such digits"
    fitting = sum(len(search.fit) for search in tried)
    if not fitting:
        return f"{refused}, nor can any of {tried[-1].tried if tried else 0} numbers near it: {others}"
    return (
        f"{refused}; {fitting} of {tried[-1].tried} numbers near it fit, but some number would for "
        f"{share(tried[-1].chance)} of all rows, so none is named: {others}"
    )


def _without_claim(possible: Sequence[int]) -> str:
    if not possible:
        return (
            f"no number of queries up to {LIMIT} gives all of these digits: they are no counts of hits. Means of "
            "several runs and expected ranks of ties are none, and a digit may be mistyped"
        )
    if len(possible) > LIMIT // 2:
        return "too few digits: almost every number of queries fits"
    return f"the smallest number of queries that fits is {possible[0]}; {len(possible) - 1} more up to {LIMIT} do"


def _of_several_captions(row: Row, possible: Sequence[int]) -> str | None:
    """Say it where the claim is a number of videos that have several captions each, all of which are queries."""
    queries = digits.QUERIES_OF_VIDEOS.get(row.queries or 0) if row.side != "v2t" else None
    if queries is None or queries not in possible:
        return None
    name = KNOWN[queries].removesuffix(" (captions)")
    chance = share(digits.chance_of(row.recalls, queries))
    return (
        f"{row.queries} are the videos of {name}; its text-to-video has {queries} queries, and they can give these "
        f"digits, as they can {chance} of all rows"
    )


def _fitting(row: Row, queries: int) -> str:
    chance = digits.chance_of(row.recalls, queries)
    fitting = f"{queries} queries can give these digits, as they can {share(chance)} of all rows"
    if chance >= digits.NAMED_BELOW:
        return f"{fitting}: so few digits prove nothing"
    return f"{fitting}; which hits these were is not in the digits"


def _explained(search: Tried, claimed: int) -> str:
    fitting = _some(search.fit)
    if search.what == "known":
        seen = digits.SEEN_INSTEAD[claimed]
        return " or ".join(f"{n} can: {seen[n]}" for n in search.fit)
    if search.what == "ties":
        return f"{fitting} rank entries can: the signature of tied ranks counted twice"
    return f"{fitting} queries can: videos may be missing from the gallery"


def share(chance: float) -> str:
    """Write a share of all rows: 72 %, 0.3 %, 1e-09."""
    if chance >= 0.995:
        return "all" if chance > 0.9999 else ">99 %"
    return f"{100 * chance:.2g} %" if chance >= 1e-4 else f"{chance:.0e}"


def _some(counts: Sequence[int]) -> str:
    shown = ", ".join(map(str, counts[:5]))
    return f"{shown} and {len(counts) - 5} more" if len(counts) > 5 else shown
