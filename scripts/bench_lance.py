"""An index in a LanceDB table beside the index of files: build, a query, and what cells find for the time they take.

python scripts/bench_lance.py --clips 100000        (in an environment with the extra [lance])

Clips of a stated mixture (D 512, F 12, fp16): clusters of about 20, their centres in 256 groups; a clip is its centre
with noise of half its length, a frame its clip with 0.6, a sentence half a frame and half its clip's mean with 0.6
(near) or 1.5 (far). Every way fetches --shortlist clips with their frames and scores them with text_guided; recall@10
is that of the ten best of all clips, scored in the index of files. The table is written once, scanned in memory, and
searched by cells that are built of it then. Each sentence is asked of every way in turn, so that all of them share what
else the machine does: once for what it costs at first (frames may have to come from the disk), then --rounds times.
Processor seconds count all threads; those of writing are without the making of the clips.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from tvr_cli.engine.searching.search import SearchOptions, search
from tvr_cli.methods import base
from tvr_cli.methods.base import Method, unit
from tvr_cli.stores.index.lance_index import LanceIndex, write_lance
from tvr_cli.stores.index.lance_table import LanceTable
from tvr_cli.stores.index.store import ENCODING_ROWS, Index, IndexBlock, IndexedClip, write_index
from tvr_cli.types import Encoding, Sizes, TextFeatures, VideoFeatures

DIM, FRAMES, WORDS, GROUPS = 512, 12, 8, 256
PROBES = (1, 2, 4, 8, 16, 32, 64, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--shortlist", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the indexes, which are removed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-lance-", dir=options.folder) as folder, torch.no_grad():
        report(options, Path(folder))


def report(options: argparse.Namespace, folder: Path) -> None:
    method = base.build("text_guided", Sizes(DIM, FRAMES, WORDS)).eval()
    text = method.encode_text(sentences(options))
    print(f"{options.clips} clips, D {DIM}, F {FRAMES}, {options.queries} sentences, shortlist {options.shortlist}")
    files = built("files", options, functools.partial(write_index, folder / "files" / "index", {}), method)
    exact = found_by(method, files, text, SearchOptions(k=10, exhaustive=True))
    write = functools.partial(write_lance, folder / "table" / "index", {}, memory=2**60)
    scanned = built("table", options, write, method)
    assert isinstance(scanned, LanceIndex)
    rows(method, {"files": (files, 0), "table, scanned in memory": (scanned, 0)}, text, options, exact)
    cells = with_cells(scanned, method.coarse(text.rows(slice(0, 20))))
    asked: dict[str, tuple[Index, int]] = {"files": (files, 0)}
    asked |= {f"table, {p} cells": (cells, p) for p in sorted({*PROBES, cells.about.probes or 1})}
    rows(method, asked, text, options, exact)
    print(f"most memory, mapped files too: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


def built(name: str, options: argparse.Namespace, write: Callable[..., Index], method: Method) -> Index:
    """Build an index, and print what that took; the making of clips, in one thread, apart."""
    making = [0.0]

    def timed() -> Iterator[IndexBlock]:
        coming = blocks(method, options)
        while True:
            began = time.thread_time()
            block = next(coming, None)
            making[0] += time.thread_time() - began
            if block is None:
                return
            yield block

    wall, cpu = time.perf_counter(), time.process_time()
    index = write(timed(), stored="float16")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{name}: written in {wall:.0f} s, clips made in {making[0]:.0f} s of processor time, the rest "
        f"{cpu - making[0]:.0f} s; {index.size_bytes() / 1e6:.0f} MB; {load()}",
        flush=True,
    )
    return index


def with_cells(scanned: LanceIndex, queries: torch.Tensor) -> LanceIndex:
    """Build cells of a table as `write_lance` does above its memory, and open the index that searches them."""
    wall, cpu, cells = time.perf_counter(), time.process_time(), round(len(scanned) ** 0.5)
    table = LanceTable.open(scanned.table.at)
    table.build(cells)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    table = LanceTable.open(table.at)
    about = replace(scanned.about, version=table.version, probes=1)
    made = LanceIndex(scanned.folder, scanned.generation, replace(scanned.head, table=about), table)
    probes, found = made.tuned(queries, 200)
    print(
        f"{cells} cells: built in {wall:.0f} s, {cpu:.0f} s of processor time; {made.size_bytes() / 1e6:.0f} MB; tuned "
        f"to {probes}, where {found:.3f} of the nearest 200 are found; {load()}",
        flush=True,
    )
    made.about = replace(about, probes=probes)
    return made


def rows(
    method: Method,
    asked: dict[str, tuple[Index, int]],
    text: Encoding,
    options: argparse.Namespace,
    exact: list[set[str]],
) -> None:
    """Print what a sentence costs in each way, and what share of the ten best of all clips it finds.

    asked: name -> index, and how many of its cells are looked at, if any.
    """
    want = SearchOptions(k=10, shortlist=options.shortlist)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
    got: dict[str, list[set[str]]] = {name: [] for name in asked}
    for number in range(1 + options.rounds):
        for i in range(len(text)):
            for name, (index, probes) in asked.items():
                if probes:
                    assert isinstance(index, LanceIndex)
                    index.about = replace(index.about, probes=probes)
                wall, cpu = time.perf_counter(), time.process_time()
                found = found_by(method, index, text.rows(slice(i, i + 1)), want)
                taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
                if not number:
                    got[name] += found
    half, n = len(exact) // 2, len(text)
    first = np.array(taken["files"][n:]) * 1e3
    for name in asked:
        recall = [len(a & b) / len(b) for a, b in zip(got[name], exact, strict=True)]
        cold, warm = np.array(taken[name][:n]) * 1e3, np.array(taken[name][n:]) * 1e3
        cpu, wall = np.median(warm, 0)
        times = np.median(warm / first, 0)
        print(
            f"{name}: {cpu:.1f} ms of processor time ({times[0]:.2f} x files), {wall:.1f} ms ({times[1]:.2f} x; 95 %: "
            f"{np.percentile(warm[:, 1], 95):.1f}); at first {np.median(cold[:, 0]):.1f} and "
            f"{np.median(cold[:, 1]):.1f} ms; recall@10 near {np.mean(recall[:half]):.3f}, far "
            f"{np.mean(recall[half:]):.3f}",
            flush=True,
        )
    print(load())


def found_by(method: Method, index: Index, text: Encoding, options: SearchOptions) -> list[set[str]]:
    """Return the paths of the clips that answer each sentence."""
    return [{hit.path for hit in hits} for hits in search(method, index, text, options)]


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"


def blocks(method: Method, options: argparse.Namespace) -> Iterator[IndexBlock]:
    for start in range(0, options.clips, ENCODING_ROWS):
        video = videos(min(ENCODING_ROWS, options.clips - start), start, options.clips)
        encoded = method.encode_video(video)
        listed = [IndexedClip(f"{i:08d}.mp4", f"{i:08d}.mp4", f"/films/{i:08d}.mp4", 0.0, 12.0)
                  for i in range(start, start + len(video))]  # fmt: skip
        yield IndexBlock(listed, encoded, method.coarse(encoded), video.ts, video.n_frames)


def noise(shape: tuple[int, ...], length: float, g: torch.Generator) -> torch.Tensor:
    """Return normal noise whose vectors are `length` long on average."""
    return length / DIM**0.5 * torch.randn(*shape, DIM, generator=g)


@functools.cache
def centres(clips: int) -> torch.Tensor:
    """Return the directions [n, D] of the clusters."""
    n = max(1, clips // 20)
    groups = unit(torch.randn(GROUPS, DIM, generator=torch.Generator().manual_seed(7)))
    return unit(groups[torch.arange(n) % GROUPS] + noise((n,), 0.5, torch.Generator().manual_seed(8)))


def clip_means(numbers: torch.Tensor, clips: int) -> torch.Tensor:
    """Return the mean direction [n, D] of clips by their numbers."""
    own = torch.empty(len(numbers), DIM)
    of = numbers // ENCODING_ROWS
    for block in of.unique().tolist():
        drawn = noise((ENCODING_ROWS,), 0.5, torch.Generator().manual_seed(10_000_000 + block))
        own[of == block] = drawn[numbers[of == block] % ENCODING_ROWS]
    middle = centres(clips)
    return unit(middle[numbers % len(middle)] + own)


def videos(n: int, first: int, clips: int) -> VideoFeatures:
    """Return clips that are all of one block, the first of it being number `first`."""
    means = clip_means(torch.arange(first, first + n), clips)
    frames = unit(means[:, None] + noise((n, FRAMES), 0.6, torch.Generator().manual_seed(first + 5)))
    ts = torch.arange(FRAMES).double().expand(n, -1) + 0.5
    return VideoFeatures(torch.arange(first, first + n), 10 * frames.half().float(), torch.full((n,), FRAMES), ts)


def sentences(options: argparse.Namespace) -> TextFeatures:
    """The first half near a clip, the second far."""
    g, n = torch.Generator().manual_seed(3), options.queries
    numbers = torch.randint(0, options.clips, (n,), generator=g)
    means = clip_means(numbers, options.clips)
    frame = unit(means + noise((n,), 0.6, g))
    spread = torch.where(torch.arange(n) < n // 2, 0.6, 1.5)[:, None]
    pooled = unit(0.5 * frame + 0.5 * means + spread * noise((n,), 1.0, g))
    marks = torch.ones(n, WORDS, dtype=torch.uint8)
    return TextFeatures(torch.arange(n), pooled, pooled[:, None].expand(-1, WORDS, -1), torch.full((n,), WORDS), marks)


if __name__ == "__main__":
    main()
