"""Measure what a frame plan costs and what moments can be found in it, on films of `make_moment_films.py`.

    python scripts/make_moment_films.py films --kind stretched --phase
    python scripts/bench_plan.py films -o out

Three workspaces are made below `out`: every frame at 4 a second, `--fps 4` (without those that look like the one
before), and the plan that a folder of one's own gets unasked. Printed of each are its frames and their bytes, the
queries of which some span of the index has an IoU of 0.5 with a true moment, mean IoU and median edge of the best such
span, and R@1 as `bench_moments.py` has it. `--head` names the run of a moment head, which
ranks then.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from bench_moments import LEAST_IOU, read_truth, summary

from tvr_cli.api import open_workspace
from tvr_cli.stores.index.store import Index
from tvr_cli.workspace import Workspace

_TOP = 5
PLANS: dict[str, dict[str, object]] = {
    "every frame at 4 a second": {"fps": 4.0, "keep_all": True},
    "--fps 4": {"fps": 4.0},
    "default": {},
}
Spans = Mapping[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--head", help="folder of the run of a moment head; without it none ranks")
    args = parser.parse_args()
    truth = read_truth(args.films / "truth.jsonl")
    for name, flags in PLANS.items():
        folder = args.out / name.replace(" ", "-").lstrip("-")
        workspace = open_workspace(folder)
        if not (folder / "frames").is_dir():
            workspace.extract(args.films, **flags)  # type: ignore[arg-type]
        workspace.features(backbone="demo-tiny")
        report = workspace.search(
            list(truth),
            k=_TOP,
            per_file=0,
            method="text_guided",
            backbone="demo-tiny",
            run=args.head,
            no_head=args.head is None,
            min_confidence=None,
        )
        frames = Workspace(folder).frames()
        size = sum(path.stat().st_size for path in (folder / "frames").glob("*.safetensors"))
        print(f"{name}: {frames.count_frames(frames.films()):,} frames, {size / 1e6:.1f} MB")
        print(f"  {best_spans(truth, spans(Index.open(folder / 'index')))}")
        print(f"  {summary(truth, {answer.query: answer.hits for answer in report.results})}")


def spans(index: Index) -> Spans:
    """Return the moments that there may be in each file: [m, 2] seconds."""
    found: dict[str, list[np.ndarray]] = {}
    for part in index.films:
        first, last = part.array("moment").T
        seconds = np.stack([part.array("ts")[first], part.array("until")[last - 1]], 1)
        for file in np.unique(part.array("file")).tolist():
            found.setdefault(part.segment.file_ids[file], []).append(seconds[part.array("file") == file])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def best_spans(truth: Mapping[str, Sequence[tuple[str, float, float]]], spans: Spans) -> str:
    """Say how near the nearest span is to the moments of each query."""
    overlaps, edges = list[float](), list[float]()
    for moments in filter(None, truth.values()):
        best = (0.0, (float("inf"), float("inf")))
        for video, start, end in moments:
            begins, ends = spans[video].T
            both = np.clip(np.minimum(ends, end) - np.maximum(begins, start), 0, None)
            iou = both / (np.maximum(ends, end) - np.minimum(begins, start))
            at = int(iou.argmax())
            best = max(best, (float(iou[at]), (abs(float(begins[at]) - start), abs(float(ends[at]) - end))))
        overlaps.append(best[0])
        edges += best[1]
    found = 100 * np.mean(np.array(overlaps) >= LEAST_IOU)
    return f"a span has IoU >= {LEAST_IOU} for {found:.1f} %, mean IoU {np.mean(overlaps):.3f}, median edge " + (
        f"{np.median(edges):.3f} s off"
    )


if __name__ == "__main__":
    main()
