"""Can these numbers be? Rows of R@k against what their digits allow (`digits`), and two rows against each other.

No row is accused: a cause is named where chance alone would explain the digits in fewer than 1 % of all rows, and it is
a cause, not a motive. That a row fits is no praise: few digits fit nearly everything. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from tvr_cli import clip4clip, significance
from tvr_cli.engine.evaluation import digits, ground
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.evaluation.digits import KNOWN, LIMIT, Tried
from tvr_cli.engine.evaluation.evaluate_result import Claim
from tvr_cli.engine.evaluation.shifted import ShiftReport, audit_shifted
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.results.base import OPTIONAL, Result, plain
from tvr_cli.results.metrics import Pair

_FRACTION_DIGITS = 2  # 0.27 is a fraction; 0.3 may be the R@1 of chance, in percent
_KNOWN_CODE = re.compile(r"t-?mass", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """A row: queries it claims (None = not said), and R@k in percent as typed, decimals kept.

    videos: where that is said. intervals: R@k -> [low, high], where the result has its own. no_counts: a sentence that
    says why R@k are no counts of hits, where the result says so itself. read_as: how the text was understood, where
    that is not plain.
    """

    queries: int | None
    recalls: Mapping[int, Decimal]
    label: str = "row"
    videos: int | None = None
    intervals: Mapping[str, Pair] = field(default_factory=dict)
    no_counts: str | None = None
    read_as: str | None = None


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

    fits_claim: whether `queries` is possible, None where it is not said or R@k are no counts. chance: the share of all
    rows with these decimals that fit it too. counts: the hits that it means, None where it does not fit, or where
    several counts round to one number. interval:
    95 %, of what `interval_of` says. tried: other numbers that were tried, where it does not fit; tie_inflation and
    smaller_gallery are those of them that fit. verdict: one sentence. findings: what the file itself shows, None of a
    typed row.
    """

    label: str
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


@dataclass(frozen=True)
class Difference:
    """B minus A on one metric, tested by sampling error alone, video by video. significant: p below 0.05."""

    metric: str
    a: float
    b: float
    difference: float
    p: float
    significant: bool


@dataclass(frozen=True, kw_only=True)
class AuditReport(Result):
    """Every row audited; of the first two the differences, and the points of protocol in which they differ.

    apart: why the two have no common p, or what their p cannot say.
    """

    schema = "audit"
    rows: tuple[AuditedRow, ...]
    differences: Sequence[Difference]
    apart: Sequence[str]
    protocols: Sequence[str]


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


def row_of_result(result: Claim, label: str, side: str = "t2v") -> Row:
    """Take the row of one direction of a result. Raises DataError when it has none."""
    found = result.t2v if side == "t2v" else result.v2t
    if found is None or "R@1" not in found:
        raise DataError(
            f"{label}: expected a result of tvr evaluate with {side!r} and R@1, found {sorted(result.said)[:8]}"
        )
    recalls = {k: Decimal(repr(float(found[f"R@{k}"]))) for k in (1, 5, 10) if f"R@{k}" in found}
    return Row(
        result.captions if side == "t2v" else result.videos,
        recalls,
        label,
        videos=result.videos,
        intervals=result.intervals.t2v if side == "t2v" else {},
        no_counts=_no_counts(result, side),
    )


def _no_counts(result: Claim, side: str) -> str | None:
    """Say why the numbers of a result are no counts of hits, where it says so itself."""
    if entries := result.rank_entries.get(side):
        return f"the counting of older code, by its own label: recalls over {entries} rank entries"
    if result.draws:
        return f"means over {result.draws} draws of the method's noise, no counts"
    if ties := result.ties.get(side):
        return f"{ties} queries are tied, and R@k are expectations over all orders of them, no counts"
    return None


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


def audit_asked(
    results: Sequence[Path],
    first: Typed,
    second: Typed,
    *,
    split: str = "test",
    scores: Path | None = None,
    scores_shifted: Path | None = None,
) -> AuditReport | ShiftReport:
    """Audit results and up to two rows that were typed, or two score matrices of the same code.

    Without any result the first row must have a recall. Raises as `row_of`, `audit_all` and `audit_shifted`.
    """
    if scores is not None or scores_shifted is not None:
        if scores is None or scores_shifted is None or results or first or second:
            raise ConfigError("give --scores and --scores-shifted together, and nothing else to audit")
        return audit_shifted(scores, scores_shifted)
    return audit_all(
        results,
        row_of("row", first.queries, first.recalls) if first or not results else None,
        row_of("second row", second.queries, second.recalls) if second else None,
        split=split,
    )


def audit_all(results: Sequence[Path], typed: Row | None, against: Row | None, *, split: str = "test") -> AuditReport:
    """Audit every row, and compare the first two.

    results: runs' folders (their result of `split`), result JSONs (text-to-video is taken) or score matrices. Raises
    DataError for what is none of these.
    """
    read = [_read(path, split) for path in results]
    rows = [*(row for row, _, _ in read), *(row for row in (typed, against) if row is not None)]
    audited = [replace(audit(row), findings=findings) for row, _, findings in read]
    audited += [audit(row) for row in (typed, against) if row is not None]
    claims = [claim for _, claim, _ in read]
    apart, differences = [], []
    if len(rows) > 1:
        apart = ground.apart(claims[0], claims[1]) if len(claims) > 1 else _rows_apart(rows[0], rows[1])
        if len(claims) > 1 and not apart and not ground.proven(claims[0], claims[1]):
            apart = [ground.UNPROVEN]
        if not apart:
            differences, apart = differ(rows[0], rows[1]), [ROWS_ARE_NOT_PAIRED]
    return AuditReport(
        rows=tuple(audited),
        differences=differences,
        apart=apart,
        protocols=protocol_differences(claims[0], claims[1]) if len(claims) > 1 else [],
    )


ROWS_ARE_NOT_PAIRED = (
    "rows alone do not say which queries both got right: on one test set the paired p (tvr compare, with the ranks of "
    "both) may be smaller or larger"
)


def _rows_apart(a: Row, b: Row) -> list[str]:
    """Say why two rows have no common p: they are of different test sets. Raises ConfigError where queries miss."""
    if not a.queries or not b.queries:
        raise ConfigError("comparing two rows needs the number of queries of both: --queries and --against-queries")
    if a.queries == b.queries:
        return []
    return [f"{a.queries} queries against {b.queries}: another test set, so no p says which one is better"]


def _read(path: Path, split: str) -> tuple[Row, Claim, list[str]]:
    """Return the row, what is said and the findings of a run's folder, a result JSON or a score matrix."""
    if path.is_dir():
        path = path / "results" / f"{split}.json"
    if path.suffix == ".json":
        claim = ground.with_identity(Claim.in_file(path), path)
        return row_of_result(claim, str(path)), claim, _of_known_code(claim)
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
    if constant := referee.constant_columns(file.scores):
        findings.append(
            f"{len(constant)} videos have the same score for every caption (first: column {constant[0]}): missing "
            "videos, filled with zeros?"
        )
    findings += judged.doubts or () if isinstance(judged, referee.Fair) else ()
    said = {"captions": len(file.scores), "videos": file.scores.shape[1], **plain(judged)}
    claim = Claim.of(said | ({"identity": plain(file.identity)} if file.identity else {}), str(path))
    return row_of_result(claim, str(path)), claim, findings


def _of_known_code(claim: Claim) -> list[str]:
    """Say it where a result names code whose evaluation is known to score other pairs than those it ranks."""
    if claim.method is None or not _KNOWN_CODE.search(claim.method):
        return []
    return [
        "this row comes from code with a known cause: the released evaluation pools each candidate video with its own "
        "caption (docs/evaluation.md, conditioning on the wrong caption); not comparable with a retrieval setting"
    ]


def differ(a: Row, b: Row) -> list[Difference]:
    """Compare two rows by their sampling error alone, the videos being the sample.

    Needs the queries of both; raises ConfigError without.
    """
    if not a.queries or not b.queries:
        raise ConfigError("comparing two rows needs the number of queries of both: --queries and --against-queries")
    found = []
    for k in sorted(a.recalls.keys() & b.recalls.keys()):
        x, y = float(a.recalls[k]), float(b.recalls[k])
        p = significance.rates_differ(x, _units(a)[0], y, _units(b)[0])
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


def _single(row: Row, k: int, hits: int) -> int | None:
    """Return the hits behind R@k where no other count gives its digits, else None."""
    return hits if (row.queries or 0) <= 10 ** (digits.decimals(row.recalls[k]) + 2) else None


def _units(row: Row) -> tuple[int, str]:
    """Return the size of the sample behind a row, and of what it is: captions of one video stand and fall together."""
    assert row.queries, "as was checked"
    videos = digits.VIDEOS_OF_QUERIES.get(row.queries)
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
    units, what = _units(row)
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
    queries = digits.QUERIES_OF_VIDEOS.get(row.queries or 0)
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
