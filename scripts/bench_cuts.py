"""Measure whether cuts of real footage are found: join clips to a film, and compare its hard edges with the joins.

    python scripts/bench_cuts.py FOLDER --clips 9 --seconds 4

The clips of FOLDER that decode are drawn in random order, cut to so many seconds, brought to 320 x 180 at 24 frames a
second and joined. Printed are the joins with a hard edge within a quarter of a second, and the edges that are no join,
by the rule of `engine/searching/cells.py` and by the median change alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import av
import numpy as np

from tvr_cli.data.demo_world import encode
from tvr_cli.engine.searching import cells
from tvr_cli.plans import AskedFrames
from tvr_cli.stores.decoding.sample import Task, sample

RATE, WIDTH, HEIGHT = 24, 320, 180
NEAR_S = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fps", type=float, default=4.0)
    args = parser.parse_args()
    paths = sorted(path for path in args.folder.iterdir() if path.suffix in (".mp4", ".mov", ".webm", ".mkv", ".avi"))
    Random(args.seed).shuffle(paths)
    frames, joins = list[np.ndarray](), list[float]()
    for path in paths[: args.clips]:
        try:
            frames += _frames(path, args.seconds)
        except av.FFmpegError as e:
            print(f"{path.name} is left out: {e}")
        joins.append(len(frames) / RATE)
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        encode.write_video(film, frames, encoder=encode.find_encoder(), fps=RATE)
        found = sample(Task(film, AskedFrames(fps=args.fps).plan())).timeline
    assert found is not None
    joins = sorted({join for join in joins if 0 < join < len(frames) / RATE})
    plain = np.nan_to_num(found.change) > cells.HARD
    print(f"{len(frames) / RATE:.1f} s, {len(found.ts)} frames kept, {len(joins)} joins")
    for name, edges in (("rule", cells.cuts(found.ts, found.change)), ("median change alone", plain)):
        print(f"{name}: {judged(joins, found.ts[edges], len(frames) / RATE)}")


def judged(joins: list[float], edges: np.ndarray, seconds: float) -> str:
    """Say how many joins have an edge nearby, and how many edges have no join."""
    near = [join for join in joins if len(edges) and np.abs(edges - join).min() <= NEAR_S]
    false = [edge for edge in edges if np.abs(np.array(joins) - edge).min() > NEAR_S]
    return f"{len(near)} of {len(joins)} joins found, {60 * len(false) / seconds:.1f} false cuts a minute"


def _frames(path: Path, seconds: float) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        rate, due = float(container.streams.video[0].average_rate or 25), 0.0
        for k, frame in enumerate(container.decode(video=0)):
            if k / rate >= seconds:
                return
            while due <= k / rate:
                yield frame.to_ndarray(format="rgb24", width=WIDTH, height=HEIGHT)
                due += 1 / RATE


if __name__ == "__main__":
    main()
