"""Measure how often the first answer is a true moment, on films of `make_moment_films.py`.

    python scripts/bench_moments.py films/ -o out --fps 4

Extracts, encodes with `demo-tiny` and indexes what is missing in `out`, asks every query of `films/truth.jsonl`, and
prints R@1 and R@5 at IoU >= .5, the mean IoU of right first answers and the median distance of their edges from the
truth. `--save FILE` writes the answers: a JSON list of {"query", "hits": [{"path", "start", "end", "score"}]}.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tvr_cli.api import open_workspace
from tvr_cli.results.found import Hit

LEAST_IOU = 0.5
_TOP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--fps", type=float, default=4.0)
    parser.add_argument("--keep-all", action="store_true")
    parser.add_argument("--head", type=Path, help="folder of the run of a moment head; without it none ranks")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    truth = read_truth(args.films / "truth.jsonl")
    workspace = open_workspace(args.out)
    if not (args.out / "frames").is_dir():
        workspace.extract(args.films, fps=args.fps, keep_all=args.keep_all)
    workspace.features(backbone="demo-tiny")
    report = workspace.search(
        list(truth),
        k=_TOP,
        per_file=0,
        method="text_guided",
        backbone="demo-tiny",
        run=args.head and str(args.head),
        no_head=args.head is None,
        min_confidence=None,
    )
    answers = {answer.query: answer.hits for answer in report.results}
    if args.save:
        said = [{"query": q, "hits": [_said(hit) for hit in hits]} for q, hits in answers.items()]
        args.save.write_text(json.dumps(said), encoding="utf-8")
    print(summary(truth, answers))


def _said(hit: Hit) -> dict[str, object]:
    return {"path": hit.path, "start": hit.start, "end": hit.end, "score": hit.score}


def read_truth(path: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Return the true moments of each query: (video, start, end)."""
    found: dict[str, list[tuple[str, float, float]]] = {}
    for line in path.read_text("utf-8").splitlines():
        said = json.loads(line)
        moments = found.setdefault(said["query"], [])
        if said.get("video") is not None:
            moments.append((said["video"], said["start"], said["end"]))
    return found


def summary(truth: Mapping[str, Sequence[tuple[str, float, float]]], answers: Mapping[str, Sequence[Hit]]) -> str:
    """Say how good answers are."""
    asked = [query for query, moments in truth.items() if moments]
    first, some, overlaps, edges = [], [], [], list[float]()
    for query in asked:
        found = [_best(hit, truth[query]) for hit in answers[query][:_TOP]]
        first.append(bool(found) and found[0][0] >= LEAST_IOU)
        some.append(any(overlap >= LEAST_IOU for overlap, _ in found))
        if first[-1]:
            overlaps.append(found[0][0])
            edges += found[0][1]
    rates = f"R@1 {100 * np.mean(first):.1f} %, R@{_TOP} {100 * np.mean(some):.1f} % at IoU >= {LEAST_IOU}"
    if not overlaps:
        return f"{len(asked)} queries: {rates}"
    return (
        f"{len(asked)} queries: {rates}; of the right first answers the mean IoU is {np.mean(overlaps):.3f} and the "
        f"median edge {np.median(edges):.3f} s off"
    )


def _best(hit: Hit, moments: Sequence[tuple[str, float, float]]) -> tuple[float, list[float]]:
    """Return the largest overlap (IoU) of an answer with a true moment, and how far its two edges are off."""
    found = [(0.0, list[float]())]
    for video, start, end in moments:
        if video == hit.video_id:
            both = max(0.0, min(end, hit.end) - max(start, hit.start))
            iou = both / (max(end, hit.end) - min(start, hit.start))
            found.append((iou, [abs(start - hit.start), abs(end - hit.end)]))
    return max(found, key=lambda one: one[0])


if __name__ == "__main__":
    main()
