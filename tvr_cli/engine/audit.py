"""Can these numbers be? What a row of R@k says about the number of queries behind it. numpy and integers only.

A recall is a count over a number of queries, so a row with enough decimals betrays its denominator: 49.1071 / 76.1905 /
84.0278 is 495, 768 and 847 of 1008, on a test set of 1000: rank entries were counted twice where scores tied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli import clip4clip, significance
from tvr_cli.engine import referee
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.files import read_json
from tvr_cli.metrics import Ints

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


def row_of_result(result: Mapping[str, Any], label: str, side: str = "t2v") -> Row:
    """Take the row of one direction of a result JSON. Raises DataError when it has none."""
    if side not in result or "R@1" not in result[side]:
        raise DataError(f"{label}: expected a result of tvr evaluate with {side!r} and R@1, found {sorted(result)[:8]}")
    recalls = {k: Decimal(repr(float(result[side][f"R@{k}"]))) for k in (1, 5, 10) if f"R@{k}" in result[side]}
    return Row(result.get("captions" if side == "t2v" else "videos"), recalls, label)


def audit(row: Row) -> dict[str, Any]:
    """Return what a row can and cannot be.

    possible: query counts up to LIMIT that give every number to the digits typed; verdict: one sentence.
    """
    possible = possible_counts(row)
    finding: dict[str, Any] = {
        "label": row.label,
        "queries": row.queries,
        "recalls": {f"R@{k}": float(v) for k, v in row.recalls.items()},
        "decimals": {f"R@{k}": _decimals(v) for k, v in row.recalls.items()},
        "monotone": _monotone(row),
        "possible": {
            "count": len(possible),
            "smallest": possible[:10],
            "known": {n: KNOWN[n] for n in possible if n in KNOWN},
        },
        "fits_claim": None if row.queries is None else row.queries in possible,
        "counts": {f"R@{k}": _count(v, row.queries) for k, v in row.recalls.items()}
        if row.queries in possible
        else None,
        "interval": {
            f"R@{k}": list(significance.wilson(float(v), row.queries)) for k, v in row.recalls.items() if row.queries
        },
        "tie_inflation": _near(row, possible, above=True),
        "smaller_gallery": _near(row, possible, above=False),
    }
    finding["verdict"] = _verdict(row, finding, possible)
    return finding


def audit_all(results: Sequence[Path], typed: Row | None, against: Row | None) -> dict[str, Any]:
    """Return what `tvr audit --json` prints: every row audited, and the first two compared.

    results: result JSONs (text-to-video is taken) or score matrices. Raises DataError for a file that is neither.
    """
    read = [_read(path) for path in results]
    rows = [*(row for row, _, _ in read), *(row for row in (typed, against) if row is not None)]
    audited = [{**audit(row), "findings": findings} for row, _, findings in read]
    audited += [audit(row) for row in (typed, against) if row is not None]
    heads = [head for _, head, _ in read]
    return {
        "schema": "tvr/audit@1",
        "rows": audited,
        "differences": differ(rows[0], rows[1]) if len(rows) > 1 else [],
        "protocols": protocol_differences(heads[0], heads[1]) if len(heads) > 1 else [],
    }


def _read(path: Path) -> tuple[Row, Mapping[str, Any], list[str]]:
    """Return the row, the head and the findings of a result JSON or a score matrix."""
    if path.suffix == ".json":
        result = read_json(path)
        if not isinstance(result, dict):
            raise DataError(f"{str(path)!r} is not a result of tvr evaluate")
        return row_of_result(result, str(path)), result, []
    file = referee.read_scores(path)
    result, _ = referee.judge(file.scores, file.video_of_caption, referee.JudgeOptions())
    old = clip4clip.evaluate(file.scores, file.video_of_caption)
    findings = []
    for side, name in (("t2v", "text to video"), ("v2t", "video to text")):
        extra = old["rank_entries"][side] - (
            len(file.scores) if side == "t2v" else len(np.unique(file.video_of_caption))
        )
        if extra:
            findings.append(
                f"{name}: {result['ties'][side]} tied queries; the old counting makes {extra} extra rank entries and "
                f"R@1 {old[side]['R@1']:.4f}, where the expectation is {result[side]['R@1']:.4f}"
            )
    if zeros := referee.zero_columns(file.scores):
        findings.append(f"{zeros} videos have the same score for every caption: missing videos, filled with zeros?")
    head = {"captions": len(file.scores), "videos": file.scores.shape[1], **result}
    return row_of_result(head, str(path)), head, findings


def possible_counts(row: Row) -> list[int]:
    """Return every number of queries up to LIMIT for which all R@k are a count over it, to the digits typed."""
    queries = np.arange(1, LIMIT + 1, dtype=np.int64)
    fits = np.ones(LIMIT, dtype=bool)
    for value in row.recalls.values():
        fits &= _hits(value, queries) >= 0
    return queries[fits].tolist()


def differ(a: Row, b: Row) -> list[dict[str, Any]]:
    """Compare two rows by their sampling error alone. Needs the queries of both; raises ConfigError without."""
    if not a.queries or not b.queries:
        raise ConfigError("comparing two rows needs the number of queries of both: --queries and --against-queries")
    found = []
    for k in sorted(a.recalls.keys() & b.recalls.keys()):
        x, y = float(a.recalls[k]), float(b.recalls[k])
        p = significance.rates_differ(x, a.queries, y, b.queries)
        found.append({"metric": f"R@{k}", "a": x, "b": y, "difference": y - x, "p": p, "significant": p < 0.05})
    return found


def protocol_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Name every point of protocol in which two result JSONs differ, as sentences."""
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
        if key in a and key in b and a[key] != b[key]:
            told.append(f"{name}: {a[key]} against {b[key]}")
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


def _verdict(row: Row, finding: Mapping[str, Any], possible: Sequence[int]) -> str:
    if not finding["monotone"]:
        return "no gallery can give this row: a recall falls as k grows"
    if not possible:
        return (
            f"no number of queries up to {LIMIT} gives all of these digits; expected ranks of ties, or a typing error"
        )
    if row.queries is None:
        if len(possible) > LIMIT // 2:
            return "too few digits: almost every number of queries fits"
        return f"the smallest number of queries that fits is {possible[0]}"
    if finding["fits_claim"]:
        return f"{row.queries} queries fit"
    told = [f"{row.queries} queries cannot give these digits"]
    if finding["tie_inflation"]:
        told.append(f"{_some(finding['tie_inflation'])} rank entries can: the signature of tied ranks counted twice")
    if finding["smaller_gallery"]:
        told.append(f"{_some(finding['smaller_gallery'])} queries can: videos may be missing from the gallery")
    return "; ".join(told)


def _some(counts: Sequence[int]) -> str:
    shown = ", ".join(map(str, counts[:5]))
    return f"{shown} and {len(counts) - 5} more" if len(counts) > 5 else shown
