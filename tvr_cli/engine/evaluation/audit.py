"""Can these numbers be? Results, score matrices and typed rows, each judged (`verdict`), and two against each other.

No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tvr_cli import clip4clip, significance
from tvr_cli.engine.evaluation import ground
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.evaluation.evaluate_result import Claim
from tvr_cli.engine.evaluation.row import Row, Side, Typed, row_of, rows_of_result
from tvr_cli.engine.evaluation.shifted import ShiftReport, audit_shifted
from tvr_cli.engine.evaluation.verdict import AuditedRow, audit, units_of
from tvr_cli.errors import ConfigError
from tvr_cli.results.base import OPTIONAL, Result, plain

_KNOWN_CODE = re.compile(r"t-?mass", re.IGNORECASE)


@dataclass(frozen=True)
class Difference:
    """B minus A on one metric, tested by sampling error alone, video by video. significant: p below 0.05.

    side: the direction, None where a typed row is one of the two.
    """

    side: Side | None = field(default=None, kw_only=True, metadata=OPTIONAL)
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
    """Audit every row, both directions of a result, and compare the first two results or typed rows.

    results: runs' folders (their result of `split`), result JSONs or score matrices. A typed row does not say its
    direction and is set beside text-to-video. Raises DataError for what is none of these.
    """
    read = [_read(path, split) for path in results]
    named = [*(rows for rows, _, _ in read), *([row] for row in (typed, against) if row is not None)]
    audited = [
        replace(audit(row), findings=findings if row is rows[0] else None) for rows, _, findings in read for row in rows
    ]
    audited += [audit(row) for row in (typed, against) if row is not None]
    claims = [claim for _, claim, _ in read]
    apart, differences = [], []
    if len(named) > 1:
        apart = ground.apart(claims[0], claims[1]) if len(claims) > 1 else _rows_apart(named[0][0], named[1][0])
        if len(claims) > 1 and not apart and not ground.proven(claims[0], claims[1]):
            apart = [ground.UNPROVEN]
        if not apart:
            apart = [ROWS_ARE_NOT_PAIRED]
            differences = [found for a, b in zip(named[0], named[1], strict=False) for found in differ(a, b)]
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


def _read(path: Path, split: str) -> tuple[list[Row], Claim, list[str]]:
    """Return the rows, what is said and the findings of a run's folder, a result JSON or a score matrix."""
    if path.is_dir():
        path = path / "results" / f"{split}.json"
    if path.suffix == ".json":
        claim = ground.with_identity(Claim.in_file(path), path)
        return rows_of_result(claim, str(path)), claim, _of_known_code(claim)
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
    return rows_of_result(claim, str(path)), claim, findings


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
        p = significance.rates_differ(x, units_of(a)[0], y, units_of(b)[0])
        found.append(Difference(f"R@{k}", x, y, y - x, p, p < 0.05, side=a.side if a.side == b.side else None))
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
