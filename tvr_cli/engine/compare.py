"""Setting results side by side: a table of runs, and a paired test of the first against each other. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import commands, config, significance
from tvr_cli.engine import audit, referee
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.files import read_json
from tvr_cli.metrics import Ranks
from tvr_cli.preset_loader import preset_names
from tvr_cli.workspace import Workspace

COLUMNS = ("R@1", "R@5", "R@10", "MdR", "MnR")
TESTED = ("R@1", "R@5", "R@10")


@dataclass(frozen=True)
class Entry:
    """One thing to compare: a label, its result, its ranks (None where only numbers are known).

    tree, origins: the resolved configuration of a run and where its values came from, None of anything else.
    """

    label: str
    result: Mapping[str, Any]
    ranks: tuple[Ranks, Ranks] | None
    tree: Mapping[str, Any] | None = None
    origins: Mapping[str, str] | None = None


def read_entry(path: Path, split: str, workspace: Workspace) -> Entry:
    """Read a run (by folder or name), a result JSON or a score matrix. Raises DataError when it is none of them."""
    folder = path if path.is_dir() else workspace.runs_folder / path.name
    if folder.is_dir():
        result_path = folder / "results" / f"{split}.json"
        if not result_path.is_file():
            which = {} if (folder / "config.json").is_file() else {"method": folder.name}
            where = None if split == "test" else split
            make = commands.tvr(
                "evaluate", *([] if which else [folder.name]), **which, split=where, workspace=workspace
            )
            raise DataError(f"the run {folder.name!r} has no result on the split {split!r}; run: {make}")
        ranks_path = folder / "results" / f"{split}.ranks.safetensors"
        tree = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
        ranks = referee.read_ranks(ranks_path) if ranks_path.is_file() else None
        origins = read_json(folder / "origins.json") if (folder / "origins.json").is_file() else None
        return Entry(folder.name, read_json(result_path), ranks, tree, origins)
    if path.suffix == ".json" and path.is_file():
        ranks_path = path.with_suffix(".ranks.safetensors")
        return Entry(path.stem, read_json(path), referee.read_ranks(ranks_path) if ranks_path.is_file() else None)
    if path.is_file():
        result, ranks = referee.judge_file(path, referee.JudgeOptions(), allow_missing=True)
        return Entry(path.name, result, ranks)
    known = str(path) in preset_names("methods")
    fix = f"; make its result with: {commands.tvr('evaluate', method=path, workspace=workspace)}" if known else ""
    raise DataError(f"expected a run, a result JSON or a score matrix at {str(path)!r}, found nothing{fix}")


def compare(entries: Sequence[Entry], *, seed: int = 0) -> dict[str, Any]:
    """Return what `tvr compare --json` prints: a row an entry, and pairwise tests against the first.

    Raises ConfigError with fewer than two entries.
    """
    if len(entries) < 2:
        raise ConfigError("name at least two runs, results or score matrices to compare")
    first = entries[0]
    return {
        "schema": "tvr/compare@1",
        "rows": [_row(entry) for entry in entries],
        "tests": [test for entry in entries[1:] for test in _tests(first, entry, seed)],
        "protocols": {
            entry.label: told
            for entry in entries[1:]
            if (told := audit.protocol_differences(first.result, entry.result))
        },
    }


def markdown(report: Mapping[str, Any]) -> list[str]:
    """Return the lines of a report's table as Markdown."""
    header, rows = table_of(report)
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def csv_text(report: Mapping[str, Any]) -> str:
    """Return the rows of a report as CSV, floats unrounded."""
    out = io.StringIO()
    flat = [config.flatten({k: v for k, v in row.items() if not isinstance(v, list)}) for row in report["rows"]]
    writer = csv.DictWriter(out, fieldnames=list(dict.fromkeys(k for row in flat for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def table_of(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table as text, without columns in which nothing is known."""
    header = ["run", "method", "fidelity", "t2v R@1 [95 %]", "R@5", "R@10", "MdR", "MnR", "v2t R@1", "rsum"]
    header += ["gallery", "selected on", "published t2v R@1", "difference", "parameters", "index B/clip", "pairs/s"]
    rows = []
    for row in report["rows"]:
        t2v, interval, cost = row["t2v"], row["interval"], row["cost"]
        shown = f"{t2v['R@1']:.1f}" + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else "")
        published = row["published"]
        rows.append(
            [
                row["label"],
                "–" if row["method"] == row["label"] else row["method"],
                row["fidelity"],
                shown,
                *[f"{t2v[c]:.1f}" if c in t2v else "–" for c in COLUMNS[1:]],
                f"{row['v2t']['R@1']:.1f}",
                f"{row['rsum']:.1f}",
                _incomplete(row["gallery"]),
                row["selected_on"] or "–",
                "–"
                if published is None
                else f"{published['t2v R@1']:.1f}" + ("" if published["exact"] else " (indicative)"),
                "–" if published is None else f"{t2v['R@1'] - published['t2v R@1']:+.1f}",
                *[_count(cost.get(k)) for k in ("parameters", "index_bytes_per_clip", "pairs_per_second")],
            ]
        )
    known = [i for i in range(len(header)) if any(row[i] != "–" for row in rows)]
    return [header[i] for i in known], [[row[i] for i in known] for row in rows]


def _row(entry: Entry) -> dict[str, Any]:
    result = entry.result
    if "t2v" not in result:
        raise DataError(f"{entry.label!r} is not a result of tvr evaluate (it has no t2v)")
    return {
        "label": entry.label,
        "method": result.get("method"),
        "fidelity": result.get("fidelity"),
        "backbone": result.get("backbone"),
        "split": result.get("split"),
        "captions": result.get("captions"),
        "videos": result.get("videos"),
        "gallery": {k: result.get("gallery", {}).get(k) for k in ("expected", "scored", "zero_filled")},
        "metrics": result.get("metrics", "fair"),
        "v2t_protocol": result.get("v2t_protocol"),
        "selected_on": result.get("selected_on"),
        "t2v": result["t2v"],
        "v2t": result["v2t"],
        "rsum": result.get("rsum"),
        "interval": result.get("intervals", {}).get("t2v", {}).get("R@1"),
        "cost": result.get("cost", {}),
        "published": published(result, entry.tree, entry.origins),
    }


def published(
    result: Mapping[str, Any], tree: Mapping[str, Any] | None, origins: Mapping[str, str] | None
) -> dict[str, Any] | None:
    """Return the authors' t2v R@1 where a run is the recipe's experiment: tuning, backbone and plans unchanged.

    So is what it was judged on: the recipe's data set, its test split, all of its videos. exact: False where the
    revision of the code behind the number is unknown.
    """
    recipe = (tree or {}).get("recipe")
    if not recipe or not recipe.get("published") or origins is None or config.recipe_changes(origins):
        return None
    value = recipe["published"].get("t2v", {}).get("R@1")
    if value is None or result.get("split") != "test" or result.get("metrics", "fair") != "fair":
        return None
    wanted, found = (tree or {}).get("data", {}), result.get("data", {})
    gallery = result.get("gallery", {})
    if wanted.get("name") != found.get("name") or wanted.get("variant") not in (None, found.get("variant")):
        return None
    if gallery.get("scored") != gallery.get("expected"):
        return None
    return {"t2v R@1": float(value), "exact": recipe["code_revision"] == "known", "selected_on": recipe["selected_on"]}


def _tests(first: Entry, other: Entry, seed: int) -> list[dict[str, Any]]:
    if first.ranks is None or other.ranks is None:
        rows = [audit.row_of_result(e.result, e.label) for e in (first, other)]
        return [{"against": other.label, "paired": False, **d} for d in audit.differ(*rows)]
    return [
        {
            "against": other.label,
            "paired": True,
            "side": side,
            **significance.as_dict(comparison),
        }
        for i, side in enumerate(("t2v", "v2t"))
        for comparison in significance.compare(first.ranks[i], other.ranks[i], TESTED, seed=seed)
    ]


def _incomplete(gallery: Mapping[str, int | None]) -> str:
    """Return what is missing of a gallery, a dash where nothing is or nothing is known."""
    expected, scored, filled = gallery["expected"], gallery["scored"], gallery["zero_filled"]
    if scored == expected and not filled:
        return "–"
    return f"{scored}/{expected} videos, {filled or 0} zero-filled"


def _count(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if value < 10 else f"{value:,.0f}"
