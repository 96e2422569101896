"""Setting results side by side: a table of runs, and a paired test of the first against each other. No torch."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tvr_cli import commands, config, data, significance
from tvr_cli.data.registry import shipped
from tvr_cli.engine.evaluation import audit, ground
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.evaluation.audit import Difference
from tvr_cli.engine.evaluation.evaluate_result import Claim, Completeness, claim
from tvr_cli.engine.evaluation.row import rows_of_result
from tvr_cli.engine.evaluation.score_file import Ids
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.metrics import Ranks
from tvr_cli.preset_loader import preset_names
from tvr_cli.results.base import INLINE, OPTIONAL, Result, key, plain
from tvr_cli.results.metrics import Pair
from tvr_cli.runs import RunDir
from tvr_cli.significance import Comparison
from tvr_cli.workspace import Workspace

COLUMNS = ("R@1", "R@5", "R@10", "MdR", "MnR")
TESTED = ("R@1", "R@5", "R@10")


@dataclass(frozen=True)
class Entry:
    """One thing to compare: a label, what its result says, its ranks (None where only numbers are known).

    tree, origins: the resolved configuration of a run and where its values came from, None of anything else.
    """

    label: str
    result: Claim
    ranks: tuple[Ranks, Ranks] | None
    tree: Mapping[str, Any] | None = None
    origins: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """The authors' number. exact: False where the revision of the code behind it is unknown."""

    t2v_r1: float = field(metadata=key("t2v R@1"))
    exact: bool
    selected_on: str


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """One entry. interval: of t2v R@1. cost: as the result has it. published: of a run that is a recipe's.

    table: 0 for the first entry and what stands on its ground, a number of its own for every other test set.
    """

    label: str
    table: int
    method: str | None
    fidelity: str | None
    backbone: str | None
    split: str | None
    captions: int | None
    videos: int | None
    gallery: Completeness
    metrics: str
    v2t_protocol: str | None
    selected_on: str | None
    t2v: Mapping[str, float]
    v2t: Mapping[str, float]
    rsum: float | None
    interval: Pair | None
    cost: Mapping[str, float]
    published: Published | None


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """The first entry against another one, query by query."""

    against: str
    paired: Literal[True] = field(default=True, init=False)
    side: Literal["t2v", "v2t"]
    found: Comparison = field(metadata=INLINE)


@dataclass(frozen=True, kw_only=True)
class UnpairedTest:
    """The first entry against another one by sampling error alone, where one of them has no ranks."""

    against: str
    paired: Literal[False] = field(default=False, init=False)
    found: Difference = field(metadata=INLINE)


@dataclass(frozen=True, kw_only=True)
class CompareReport(Result):
    """Entries side by side, and each one on the same ground tested against the first.

    apart: label -> why it was not tested: another test set, or nothing shows that it is the same. protocols: label ->
    points in which it differs.
    """

    schema = "compare"
    rows: tuple[ComparedRow, ...]
    tests: tuple[PairedTest | UnpairedTest, ...]
    apart: Mapping[str, Sequence[str]]
    protocols: Mapping[str, Sequence[str]]
    plot: Path | None = field(default=None, metadata=OPTIONAL)


def read_entry(path: Path, split: str, workspace: Workspace, ids: Ids | None = None) -> Entry:
    """Read a run (by folder or name), a result JSON or a score matrix. Raises DataError when it is none of them.

    ids: of the data set that score matrices are about (`--data`).
    """
    folder = path if path.is_dir() else workspace.runs_folder / path.name
    if folder.is_dir():
        result_path = folder / "results" / f"{split}.json"
        which = {} if RunDir(folder).begun else {"method": folder.name}
        where = None if split == "test" else split
        make = commands.tvr("evaluate", *([] if which else [folder.name]), **which, split=where, workspace=workspace)
        if not result_path.is_file():
            raise DataError(f"the run {folder.name!r} has no result on the split {split!r}; run: {make}")
        ranks_path = folder / "results" / f"{split}.ranks.safetensors"
        tree = RunDir(folder).config() if RunDir(folder).begun else None
        ranks = referee.read_ranks(ranks_path) if ranks_path.is_file() else None
        origins = RunDir(folder).origins()
        said = ground.with_identity(Claim.in_file(result_path, f"move it elsewhere and run: {make}"), result_path)
        return Entry(folder.name, said, ranks, tree, origins)
    if path.suffix == ".json" and path.is_file():
        ranks_path = path.with_suffix(".ranks.safetensors")
        ranks = referee.read_ranks(ranks_path) if ranks_path.is_file() else None
        return Entry(path.stem, ground.with_identity(Claim.in_file(path), path), ranks)
    if path.is_file():
        result, ranks = referee.judge_file(path, referee.JudgeOptions(), allow_missing=True, ids=ids)
        return Entry(path.name, claim(result), ranks)
    fix = _instead(str(path), workspace) if str(path) in preset_names("methods") else ""
    raise DataError(f"expected a run, a result JSON or a score matrix at {str(path)!r}, found nothing{fix}")


def _instead(method: str, workspace: Workspace) -> str:
    """Say what stands for the name of a method: its runs, where there are some, else how its result is made."""
    if runs := sorted(run.name for run in workspace.runs() if method in run.config().get("method", {})):
        return f"; runs of it: {', '.join(runs)}"
    return f"; make its result with: {commands.tvr('evaluate', method=method, workspace=workspace)}"


def compare(entries: Sequence[Entry], *, seed: int = 0, same_gallery: bool = False) -> CompareReport:
    """Set entries side by side: a row each, and tests of the first against every other on the same ground.

    same_gallery: whether the caller vouches for what nothing shows to be of the same captions and videos. Raises
    ConfigError with fewer than two entries, DataError for a result without the metrics of both directions.
    """
    if len(entries) < 2:
        raise ConfigError("name at least two runs, results or score matrices to compare")
    for entry in entries:
        if entry.result.rule is not None:
            raise ConfigError(
                f"{entry.label!r} was scored by the rule {entry.result.rule!r} of its authors' released test, which "
                "may stand beside no other number; evaluate it without --rule and compare that"
            )
    first = entries[0]
    apart = {}
    for entry in entries[1:]:
        told = ground.apart(first.result, entry.result)
        if not told and not same_gallery and not ground.proven(first.result, entry.result):
            told = [ground.UNPROVEN]
        if told:
            apart[entry.label] = told
    return CompareReport(
        rows=tuple(_row(entry, table) for entry, table in zip(entries, _tables(entries), strict=True)),
        tests=tuple(test for entry in entries[1:] if entry.label not in apart for test in _tests(first, entry, seed)),
        apart=apart,
        protocols={
            entry.label: told
            for entry in entries[1:]
            if (told := audit.protocol_differences(first.result, entry.result))
        },
    )


def _tables(entries: Sequence[Entry]) -> list[int]:
    """Return the table of every entry: that of the first one from which nothing sets it apart."""
    heads: list[Entry] = []
    tables = []
    for entry in entries:
        own = next((i for i, head in enumerate(heads) if not ground.apart(head.result, entry.result)), len(heads))
        if own == len(heads):
            heads.append(entry)
        tables.append(own)
    return tables


def markdown(report: CompareReport) -> list[str]:
    """Return the lines of a report's tables as Markdown, one for every test set."""
    lines: list[str] = []
    for header, rows in tables_of(report):
        lines += [""] if lines else []
        lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    return lines


def csv_text(report: CompareReport) -> str:
    """Return the rows of a report as CSV, floats unrounded."""
    out = io.StringIO()
    told = [plain(row) for row in report.rows]
    flat = [config.flatten({k: v for k, v in row.items() if not isinstance(v, list)}) for row in told]
    writer = csv.DictWriter(out, fieldnames=list(dict.fromkeys(k for row in flat for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def tables_of(report: CompareReport) -> list[tuple[list[str], list[list[str]]]]:
    """Return header and rows as text, a table for every test set, without columns in which nothing is known."""
    numbers = sorted({row.table for row in report.rows})
    return [_table_of([row for row in report.rows if row.table == number]) for number in numbers]


def _table_of(compared: Sequence[ComparedRow]) -> tuple[list[str], list[list[str]]]:
    header = ["run", "method", "fidelity", "t2v R@1 [95 %]", "R@5", "R@10", "MdR", "MnR", "v2t R@1", "rsum"]
    header += ["gallery", "selected on", "published t2v R@1", "difference", "parameters", "index B/clip", "pairs/s"]
    rows = []
    for row in compared:
        t2v, interval, published = row.t2v, row.interval, row.published
        shown = f"{t2v['R@1']:.1f}" + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else "")
        rows.append(
            [
                row.label,
                "–" if row.method == row.label else row.method or "–",
                row.fidelity or "–",
                shown,
                *[f"{t2v[c]:.1f}" if c in t2v else "–" for c in COLUMNS[1:]],
                f"{row.v2t['R@1']:.1f}",
                "–" if row.rsum is None else f"{row.rsum:.1f}",
                _incomplete(row.gallery),
                row.selected_on or "–",
                "–" if published is None else f"{published.t2v_r1:.1f}" + ("" if published.exact else " (indicative)"),
                "–" if published is None else f"{t2v['R@1'] - published.t2v_r1:+.1f}",
                *[_count(row.cost.get(k)) for k in ("parameters", "index_bytes_per_clip", "pairs_per_second")],
            ]
        )
    known = [i for i in range(len(header)) if any(row[i] != "–" for row in rows)]
    return [header[i] for i in known], [[row[i] for i in known] for row in rows]


def _row(entry: Entry, table: int) -> ComparedRow:
    result = entry.result
    for side, found in (("t2v", result.t2v), ("v2t", result.v2t)):
        if found is None or "R@1" not in found:
            raise DataError(f"{entry.label!r} is not a result of tvr evaluate (it has no {side} with R@1)")
    assert result.t2v is not None and result.v2t is not None  # as was just checked
    return ComparedRow(
        label=entry.label,
        table=table,
        method=result.method,
        fidelity=result.fidelity,
        backbone=result.backbone,
        split=result.split,
        captions=result.captions,
        videos=result.videos,
        gallery=dataclasses.replace(result.gallery, missing=None),
        metrics=result.metrics,
        v2t_protocol=result.v2t_protocol,
        selected_on=result.selected_on,
        t2v=result.t2v,
        v2t=result.v2t,
        rsum=result.rsum,
        interval=result.intervals.t2v.get("R@1"),
        cost=result.cost,
        published=published(result, entry.tree, entry.origins),
    )


def published(result: Claim, tree: Mapping[str, Any] | None, origins: Mapping[str, str] | None) -> Published | None:
    """Return the authors' t2v R@1 where a run is the recipe's experiment: tuning, backbone and plans unchanged.

    So is what it was judged on: the recipe's data set, its test split, all of its videos.
    """
    recipe = (tree or {}).get("recipe")
    if not recipe or not recipe.get("published") or origins is None or config.recipe_changes(origins):
        return None
    value = recipe["published"].get("t2v", {}).get("R@1")
    if value is None or result.split != "test" or result.metrics != "fair":
        return None
    wanted, found = (tree or {}).get("data", {}), result.data
    if wanted.get("name") != found.name or not _its_variant(found.name, wanted.get("variant"), found.variant):
        return None
    if result.gallery.scored != result.gallery.expected:
        return None
    exact = recipe["code_revision"] == "known"
    return Published(t2v_r1=float(value), exact=exact, selected_on=recipe["selected_on"])


def _its_variant(name: str | None, wanted: str | None, found: str | None) -> bool:
    """Whether a variant is a recipe's: where that names none, the data set's own protocol in any of its layouts."""
    if wanted is not None or found is None:
        return wanted == found
    return name in shipped() and data.find(name).is_own(found)


def _tests(first: Entry, other: Entry, seed: int) -> list[PairedTest | UnpairedTest]:
    if first.ranks is None or other.ranks is None:
        pairs = zip(*(rows_of_result(e.result, e.label) for e in (first, other)), strict=True)
        return [UnpairedTest(against=other.label, found=found) for a, b in pairs for found in audit.differ(a, b)]
    sides: tuple[Literal["t2v", "v2t"], ...] = ("t2v", "v2t")
    return [
        PairedTest(against=other.label, side=side, found=found)
        for i, side in enumerate(sides)
        for found in significance.compare(first.ranks[i], other.ranks[i], TESTED, seed=seed)
    ]


def _incomplete(gallery: Completeness) -> str:
    """Return what is missing of a gallery, a dash where nothing is or nothing is known."""
    expected, scored, filled = gallery.expected, gallery.scored, gallery.zero_filled
    if scored == expected and not filled:
        return "–"
    return f"{scored}/{expected} videos, {filled or 0} zero-filled"


def _count(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if value < 10 else f"{value:,.0f}"
