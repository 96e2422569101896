"""Can these numbers be? What a row of R@k says about the number of queries behind it. numpy and integers only.

A recall is a count over a number of queries, so a row with enough decimals betrays its denominator: 49.1071 / 76.1905 /
84.0278 is 495, 768 and 847 of 1008, on a test set of 1000: rank entries were counted twice where scores tied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from tvr_cli import clip4clip, significance
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.evaluation.evaluate_result import Claim
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.metrics import Ints
from tvr_cli.results.base import OPTIONAL, Result, plain
from tvr_cli.results.metrics import Pair

LIMIT = 70_000  # the largest test set in use: MSR-VTT full has 59 800 queries
# Test sizes that people report on (docs/datasets.md): queries of text-to-video, videos of video-to-text.
KNOWN: dict[int, str] = {
    1000: "MSR-VTT 1k-A, LSMDC",
    2990: "MSR-VTT full (videos)",
    59800: "MSR-VTT full (captions)",
    670: "MSVD (videos)",
    27763: "MSVD (captions)",
    1004: "DiDeMo",
    1003: "DiDeMo, one file missing",
    4917: "ActivityNet val_1",
    4885: "ActivityNet val_2",
    1500: "VATEX HGR (videos)",
    15000: "VATEX HGR (captions)",
}
_TYPED_DIGITS = 10  # more decimals than that nobody types; int64 holds them all
TIE_SLACK = 0.05  # tie inflation adds a few entries, not half a test set


@dataclass(frozen=True, slots=True)
class Row:
    """A typed row: queries it claims (None = not said), and R@k in percent as typed, decimals kept."""

    queries: int | None
    recalls: Mapping[int, Decimal]
    label: str = "row"


@dataclass(frozen=True, slots=True)
class Typed:
    """A row as it was typed: queries it claims, and the text of R@k, each None where it was left out.

    True where any recall was typed.
    """

    queries: int | None
    recalls: Mapping[int, str | None]

    def __bool__(self) -> bool:
        return any(self.recalls.values())


@dataclass(frozen=True)
class Possible:
    """Numbers of queries that give a row's digits: how many, the smallest ten, and which are test sets in use."""

    count: int
    smallest: Sequence[int]
    known: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class AuditedRow:
    """What a row can and cannot be, by metric name.

    fits_claim: whether `queries` is possible, None where it is not said. counts: the hits that it means, None where it
    does not fit. interval: 95 %, by sampling error. tie_inflation, smaller_gallery: possible numbers near the claim.
    verdict: one sentence. findings: what the file itself shows, None of a typed row.
    """

    label: str
    queries: int | None
    recalls: Mapping[str, float]
    decimals: Mapping[str, int]
    monotone: bool
    possible: Possible
    fits_claim: bool | None
    counts: Mapping[str, int | None] | None
    interval: Mapping[str, Pair]
    tie_inflation: Sequence[int]
    smaller_gallery: Sequence[int]
    verdict: str
    findings: Sequence[str] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Difference:
    """B minus A on one metric, tested by sampling error alone. significant: p below 0.05."""

    metric: str
    a: float
    b: float
    difference: float
    p: float
    significant: bool


@dataclass(frozen=True, kw_only=True)
class AuditReport(Result):
    """Every row audited; of the first two the differences, and the points of protocol in which they differ."""

    schema = "audit"
    rows: tuple[AuditedRow, ...]
    differences: Sequence[Difference]
    protocols: Sequence[str]


def row_of(label: str, queries: int | None, typed: Mapping[int, str | None]) -> Row:
    """Read R@k values as typed. Raises ConfigError for text that is no percentage."""
    recalls = {}
    for k, text in typed.items():
        if text is None:
            continue
        try:
            value = Decimal(text)
        except InvalidOperation:
            raise ConfigError(f"--r{k} expects a percentage such as 47.3, found {text!r}") from None
        if not value.is_finite() or not 0 <= value <= 100:
            raise ConfigError(f"--r{k} expects a percentage between 0 and 100, found {text!r}")
        recalls[k] = value
    if not recalls:
        raise ConfigError("give at least one of --r1, --r5, --r10, or a result to audit")
    return Row(queries, recalls, label)


def row_of_result(result: Claim, label: str, side: str = "t2v") -> Row:
    """Take the row of one direction of a result. Raises DataError when it has none."""
    found = result.t2v if side == "t2v" else result.v2t
    if found is None or "R@1" not in found:
        raise DataError(
            f"{label}: expected a result of tvr evaluate with {side!r} and R@1, found {sorted(result.said)[:8]}"
        )
    recalls = {k: Decimal(repr(float(found[f"R@{k}"]))) for k in (1, 5, 10) if f"R@{k}" in found}
    return Row(result.captions if side == "t2v" else result.videos, recalls, label)


def audit(row: Row) -> AuditedRow:
    """Say what a row can and cannot be: which query counts up to LIMIT give every number to the digits typed."""
    possible = possible_counts(row)
    fits = None if row.queries is None else row.queries in possible
    above, below = _near(row, possible, above=True), _near(row, possible, above=False)
    return AuditedRow(
        label=row.label,
        queries=row.queries,
        recalls={f"R@{k}": float(v) for k, v in row.recalls.items()},
        decimals={f"R@{k}": _decimals(v) for k, v in row.recalls.items()},
        monotone=_monotone(row),
        possible=Possible(len(possible), possible[:10], {n: KNOWN[n] for n in possible if n in KNOWN}),
        fits_claim=fits,
        counts={f"R@{k}": _count(v, row.queries) for k, v in row.recalls.items()} if fits else None,
        interval={
            f"R@{k}": list(significance.wilson(float(v), row.queries)) for k, v in row.recalls.items() if row.queries
        },
        tie_inflation=above,
        smaller_gallery=below,
        verdict=_verdict(row, possible, above, below),
    )


def audit_typed(results: Sequence[Path], first: Typed, second: Typed) -> AuditReport:
    """Audit results and up to two rows that were typed; without any result the first row must have a recall.

    Raises as `row_of` and `audit_all`.
    """
    return audit_all(
        results,
        row_of("row", first.queries, first.recalls) if first or not results else None,
        row_of("second row", second.queries, second.recalls) if second else None,
    )


def audit_all(results: Sequence[Path], typed: Row | None, against: Row | None) -> AuditReport:
    """Audit every row, and compare the first two.

    results: result JSONs (text-to-video is taken) or score matrices. Raises DataError for a file that is neither.
    """
    read = [_read(path) for path in results]
    rows = [*(row for row, _, _ in read), *(row for row in (typed, against) if row is not None)]
    audited = [replace(audit(row), findings=findings) for row, _, findings in read]
    audited += [audit(row) for row in (typed, against) if row is not None]
    claims = [claim for _, claim, _ in read]
    return AuditReport(
        rows=tuple(audited),
        differences=differ(rows[0], rows[1]) if len(rows) > 1 else [],
        protocols=protocol_differences(claims[0], claims[1]) if len(claims) > 1 else [],
    )


def _read(path: Path) -> tuple[Row, Claim, list[str]]:
    """Return the row, what is said and the findings of a result JSON or a score matrix."""
    if path.suffix == ".json":
        claim = Claim.in_file(path)
        return row_of_result(claim, str(path)), claim, []
    file = referee.read_scores(path)
    judged, _ = referee.judge(file.scores, file.video_of_caption, referee.JudgeOptions())
    old = clip4clip.evaluate(file.scores, file.video_of_caption)
    findings = []
    for side, name, fair in (("t2v", "text to video", judged.t2v), ("v2t", "video to text", judged.v2t)):
        extra = old["rank_entries"][side] - (
            len(file.scores) if side == "t2v" else len(np.unique(file.video_of_caption))
        )
        if extra:
            findings.append(
                f"{name}: {judged.ties[side]} tied queries; the old counting makes {extra} extra rank entries and "
                f"R@1 {old[side]['R@1']:.4f}, where the expectation is {fair['R@1']:.4f}"
            )
    if zeros := referee.zero_columns(file.scores):
        findings.append(f"{zeros} videos have the same score for every caption: missing videos, filled with zeros?")
    claim = Claim.of({"captions": len(file.scores), "videos": file.scores.shape[1], **plain(judged)}, str(path))
    return row_of_result(claim, str(path)), claim, findings


def possible_counts(row: Row) -> list[int]:
    """Return every number of queries up to LIMIT for which all R@k are a count over it, to the digits typed."""
    queries = np.arange(1, LIMIT + 1, dtype=np.int64)
    fits = np.ones(LIMIT, dtype=bool)
    for value in row.recalls.values():
        fits &= _hits(value, queries) >= 0
    return queries[fits].tolist()


def differ(a: Row, b: Row) -> list[Difference]:
    """Compare two rows by their sampling error alone. Needs the queries of both; raises ConfigError without."""
    if not a.queries or not b.queries:
        raise ConfigError("comparing two rows needs the number of queries of both: --queries and --against-queries")
    found = []
    for k in sorted(a.recalls.keys() & b.recalls.keys()):
        x, y = float(a.recalls[k]), float(b.recalls[k])
        p = significance.rates_differ(x, a.queries, y, b.queries)
        found.append(Difference(f"R@{k}", x, y, y - x, p, p < 0.05))
    return found


def protocol_differences(a: Claim, b: Claim) -> list[str]:
    """Name every point of protocol of which both results say something, and not the same, as sentences."""
    fields = {
        "split": "split",
        "captions": "number of queries",
        "videos": "number of videos",
        "v2t_protocol": "video-to-text protocol",
        "metrics": "counting of ranks",
        "selected_on": "selection split",
        "backbone": "backbone",
        "tune": "tuning",
    }
    told = []
    for key, name in fields.items():
        one, other = getattr(a, key), getattr(b, key)
        if key in a.said and key in b.said and one != other:
            told.append(f"{name}: {one} against {other}")
    return told


def _count(value: Decimal, queries: int | None) -> int | None:
    """Return the count of hits that gives `value` over `queries` to its digits, or None."""
    hits = int(_hits(value, np.array([queries or 0]))[0])
    return hits if queries and hits >= 0 else None


def _hits(value: Decimal, queries: Ints) -> Ints:
    """Return [N] the count of hits that gives `value` percent over each number of queries, -1 where none does."""
    places = _decimals(value)
    if places > _TYPED_DIGITS:  # an unrounded binary float, from a JSON
        hits = np.rint(float(value) * queries / 100.0).astype(np.int64)
        return np.where(np.abs(100.0 * hits / np.maximum(queries, 1) - float(value)) < 1e-9, hits, -1)
    # Half a unit of the last digit, ends included: people round and people cut, and ties fall either way.
    scaled = int(value.scaleb(places))
    scale = 200 * 10**places
    hits = np.minimum((2 * scaled + 1) * queries // scale, queries)
    return np.where(hits * scale >= (2 * scaled - 1) * queries, hits, -1)


def _decimals(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _monotone(row: Row) -> bool:
    values = [row.recalls[k] for k in sorted(row.recalls)]
    return values == sorted(values)


def _near(row: Row, possible: Sequence[int], *, above: bool) -> list[int]:
    """Return possible counts a little above the claim (tie inflation), or below it (videos missing)."""
    if not row.queries or row.queries in possible:
        return []
    if above:
        return [n for n in possible if row.queries < n <= row.queries * (1 + TIE_SLACK)]
    return [n for n in possible if row.queries * 0.5 <= n < row.queries]


def _verdict(row: Row, possible: Sequence[int], above: Sequence[int], below: Sequence[int]) -> str:
    """Say it in one sentence. above, below: possible counts near the claim."""
    if not _monotone(row):
        return "no gallery can give this row: a recall falls as k grows"
    if not possible:
        return (
            f"no number of queries up to {LIMIT} gives all of these digits; expected ranks of ties, or a typing error"
        )
    if row.queries is None:
        if len(possible) > LIMIT // 2:
            return "too few digits: almost every number of queries fits"
        return f"the smallest number of queries that fits is {possible[0]}"
    if row.queries in possible:
        return f"{row.queries} queries fit"
    told = [f"{row.queries} queries cannot give these digits"]
    if above:
        told.append(f"{_some(above)} rank entries can: the signature of tied ranks counted twice")
    if below:
        told.append(f"{_some(below)} queries can: videos may be missing from the gallery")
    return "; ".join(told)


def _some(counts: Sequence[int]) -> str:
    shown = ", ".join(map(str, counts[:5]))
    return f"{shown} and {len(counts) - 5} more" if len(counts) > 5 else shown
