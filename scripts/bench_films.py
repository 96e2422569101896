"""Measure a query over hours of film: processor time against one read of the vectors, and memory.

    python scripts/bench_films.py --hours 100 --dim 512

The index is synthetic: films of an hour at one frame a second, random unit vectors, an edge every few seconds. Printed
are the median of some queries, without a moment head and with one of random weights, the time of one sum over all frame
vectors as they are mapped (what one read costs), and what of the process's memory belongs to no file.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from tvr_cli.engine.searching import cells, moments, ranking, session
from tvr_cli.engine.searching.confidence import Confidence
from tvr_cli.engine.searching.head_confidence import HeadLines
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.stores.index.store import IndexBlock, IndexedClip, write_index
from tvr_cli.stores.index.timeline import FilmBlock, IndexedFilms
from tvr_cli.stores.moment_head import PARTS, MadeFor, MomentHead
from tvr_cli.types import Encoding

SECONDS = 3600  # a film


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=100)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        clips = [IndexedClip(f"{i}.mp4", f"{i}.mp4", f"/{i}.mp4", 0.0, float(SECONDS)) for i in range(args.hours)]
        one = torch.ones(len(clips), dtype=torch.int64)
        encoding = Encoding(torch.arange(len(clips)), {"none": torch.zeros(len(clips), 1)})
        block = IndexBlock(clips, encoding, torch.ones(len(clips), 1), torch.zeros(len(clips), 1), one)
        index = write_index(Path(folder) / "index", {}, [block], films=films(args.hours, args.dim))
        (part,) = index.films
        print(f"{len(part.array('ts')):,} frames of {args.dim} values, {len(part.live):,} moments")
        queries = unit(np.random.default_rng(1), args.queries, args.dim)
        steps = np.linspace(0, 1, 101).tolist()
        lines = Confidence(len(part.live), 500, 100, steps, steps, None)
        read = head(args.dim)
        for name, by, sure in (
            ("a query", ranking.Compared(session.products), lines),
            ("with a head", ranking.ByHead(read, session.products), None),
            ("with a head and its confidence", ranking.ByHead(read, session.products), HeadLines(lines, read)),
        ):
            first = cpu(lambda: ask(part, queries[0], by, sure))  # noqa: B023
            before = anonymous_mb()
            took = statistics.median(cpu(lambda: ask(part, q, by, sure)) for q in queries)  # noqa: B023
            once = statistics.median(cpu(lambda: part.array("frames").view(np.uint16).sum()) for _ in range(5))
            print(f"{name} {1000 * took:.0f} ms, one read of the vectors {1000 * once:.0f} ms: {took / once:.2f}")
            print(
                f"  the first {1000 * first:.0f} ms; memory of no file {anonymous_mb():.0f} MB, before {before:.0f} MB"
            )


def ask(part: IndexedFilms, query: np.ndarray, by: ranking.Ranking, sure: Confidence | HeadLines | None) -> None:
    """Answer a sentence as a session does. sure: the lines that confidence is told by, None = it is not."""
    moments.search([part], query[None], SearchOptions(), by, sure)


def head(dim: int) -> MomentHead:
    """Return a head that has learned nothing: what it costs does not depend on its weights."""
    weights = np.random.default_rng(2).standard_normal((PARTS, dim, dim)).astype(np.float32) / dim
    return MomentHead(weights, np.zeros(dim, np.float32), MadeFor("none", {}, 1, 1.0), 1, 1, 0, "")


def films(n: int, dim: int) -> Iterator[FilmBlock]:
    """Yield synthetic films of an hour each."""
    draw = np.random.default_rng(0)
    for i in range(n):
        ts = np.arange(SECONDS, dtype=np.float64)
        edges = draw.random(SECONDS) < 0.25
        track = cells.Track(unit(draw, SECONDS, dim), ts, ts + 1, edges & (draw.random(SECONDS) < 0.5), ts)
        found = cells.candidates(track, edges)
        length = np.concatenate([part for _, part in cells.means(track, found)])
        yield FilmBlock(f"{i}.mp4", f"/{i}.mp4", track.unit, ts, ts + 1, ts, found, length, *np.zeros((2, len(found))))


def unit(draw: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """Return random unit vectors [n, dim] float32."""
    found = draw.standard_normal((n, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def cpu(run: Callable[[], object]) -> float:
    """Return the processor time of a call, seconds."""
    started = time.process_time()
    run()
    return time.process_time() - started


def anonymous_mb() -> float:
    """Return the memory of this process that is no file's, MB of 10^6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024 / 1e6


if __name__ == "__main__":
    main()
