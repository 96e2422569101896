"""Print how runs learned, as a Markdown table: the mean loss of each epoch, and R@1 on validation after it.

    python scripts/loss_curves.py out/demo clip4clip_seq-head-seed0 clip4clip_seq-head-seed1 clip4clip_seq-head-seed2

Runs of one method and several seeds make one row each of losses and of recalls, mean ± deviation over the runs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("runs", nargs="+", help="runs of one method")
    options = parser.parse_args()
    losses, recalls = [], []
    for name in options.runs:
        lines = (options.workspace / "runs" / name / "metrics.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        of_epoch: dict[int, list[float]] = defaultdict(list)
        for event in events:
            if event["event"] == "step":
                of_epoch[math.ceil(event["epoch"] - 1e-6)].append(event["loss"])
        losses.append([statistics.mean(of_epoch[epoch]) for epoch in sorted(of_epoch)])
        recalls.append([event["t2v"]["R@1"] for event in events if event["event"] == "validation"])
    epochs = range(1, len(losses[0]) + 1)
    print("| epoch | " + " | ".join(map(str, epochs)) + " |")
    print("|---|" + "---|" * len(epochs))
    print("| loss | " + " | ".join(_folded(column, 2) for column in zip(*losses, strict=True)) + " |")
    print("| validation R@1 | " + " | ".join(_folded(column, 1) for column in zip(*recalls, strict=True)) + " |")


def _folded(values: tuple[float, ...], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
