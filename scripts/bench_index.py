"""What a search index costs: bytes a clip, opening, answering, growing; one thread, processor time, synthetic clips.

    python scripts/bench_index.py --clips 100000
    python scripts/bench_index.py --clips 2000 --method gare        (bytes a clip only mean something here)

Writes an index of N clips (clusters of unit vectors with noise, D 512, F 12) into a temporary folder that it removes,
and prints one table. `open + first` is a process of its own, so that its memory is that of a query and of nothing else.
What must be read is the coarse vectors and the shortlist's encodings (what is hashed of the ten hits is not counted):
`read` goes over these bytes once in the mapping (a sum of 8-byte words), `copy` reads them with read() into a buffer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from tvr_cli.engine.searching import measure
from tvr_cli.engine.searching.search import SearchOptions, search
from tvr_cli.engine.searching.way import way_of
from tvr_cli.methods import base
from tvr_cli.methods.base import Method, unit
from tvr_cli.stores.index.store import ENCODING_ROWS, Index, IndexBlock, IndexedClip, write_index
from tvr_cli.types import Sizes, TextFeatures, VideoFeatures

DIM, FRAMES, WORDS, CLUSTERS = 512, 12, 32, 1000
WARM = 20


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    if options.child is not None:
        print(json.dumps(first_answer(options)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-index-", dir=options.folder) as folder:
        options.child = Path(folder) / "index"
        report(options)


def report(options: argparse.Namespace) -> None:
    index, build = timed(lambda: write(options, options.clips))
    print(f"{options.method}, {options.clips} clips, D {DIM}, F {FRAMES}, {torch.get_num_threads()} thread")
    row("bytes a clip", f"{index.size_bytes() / len(index) / 1000:.2f} kB")
    row("build, encoding included", f"{build:.2f} s")
    row("stages and recall", f"{index.measured['way']}, {index.measured['recall']}")
    command = [sys.executable, __file__, "--child", str(options.child), "--method", options.method]
    first = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3)]
    best = min(first, key=lambda found: found["open_and_first_s"])
    row("open + first answer", f"{best['open_and_first_s'] * 1e3:.0f} ms")
    row("memory, RssAnon / total", f"{best['anon_mb']:.0f} / {best['rss_mb']:.0f} MB")
    row("  of which before opening", f"{best['anon_before_mb']:.0f} / {best['rss_before_mb']:.0f} MB")
    row("warm answer (median of 20)", f"{best['warm_s'] * 1e3:.1f} ms")
    row("one read of what must be read", f"{best['read_s'] * 1e3:.1f} ms mapped, {best['copy_s'] * 1e3:.1f} ms copied")
    row("  warm / read, warm / copy", f"{best['warm_s'] / best['read_s']:.2f}, {best['warm_s'] / best['copy_s']:.2f}")
    more = max(1, options.clips // 100)
    _, grown = timed(lambda: index.append(blocks(options, more, options.clips), identity={"bench": 2}, asked={}))
    row(f"append {more} clips", f"{grown:.2f} s, {100 * grown / build:.1f} % of building")
    _, deleted = timed(lambda: Index.open(options.child).delete([f"{i:08d}.mp4" for i in range(0, options.clips, 100)]))
    row(f"delete {len(range(0, options.clips, 100))} clips", f"{deleted:.2f} s")
    _, verified = timed(lambda: Index.open(options.child).verify())
    row("verify all (tvr doctor)", f"{verified:.2f} s")


def first_answer(options: argparse.Namespace) -> dict[str, float]:
    """Open the index and answer, in a process that has done nothing else."""
    method, texts = scorer(options), sentences(options)
    encoded = method.encode_text(texts)
    method.score(encoded, method.encode_video(videos(2, 0)))  # the library's own first use is not the index's
    before = memory()
    chosen = SearchOptions()

    def once() -> Index:
        index = Index.open(options.child)
        search(method, index, encoded.rows(slice(0, 1)), chosen)
        return index

    index, first = timed(once)
    warm = [
        timed(lambda i=i: search(method, index, encoded.rows(slice(i, i + 1)), chosen))[1] for i in range(1, WARM + 1)
    ]
    anon, rss = memory()
    read, copy = reading(index, method.coarse(encoded))
    return {
        "open_and_first_s": first, "warm_s": sorted(warm)[len(warm) // 2], "read_s": read, "copy_s": copy,
        "anon_mb": anon, "rss_mb": rss, "anon_before_mb": before[0], "rss_before_mb": before[1],
    }  # fmt: skip


def reading(index: Index, query: torch.Tensor) -> tuple[float, float]:
    """Return the seconds of one pass over the bytes that an answer needs: in the mapping, and by read()."""
    rows = index.candidates(query[:1], way_of(index.measured, len(index)).shortlist)[0]
    folder = index.generation
    words, spans = [], []
    for segment in index.head.segments:
        for part in segment.parts:
            path = folder / part.file
            if part.name == "coarse":
                pieces = [(0, part.size_bytes)]
            elif part.name.startswith("t."):
                pieces = [(row * part.row_bytes, part.row_bytes) for row in rows.tolist()]
            else:
                pieces = []
            mapped = np.memmap(path, dtype=np.uint8, mode="r") if pieces else None
            for start, size in pieces:
                words.append(mapped[start : start + size - size % 8].view(np.uint64))
                spans.append((path, start, size))

    def over() -> int:
        return sum(int(piece.sum()) for piece in words)

    buffer = bytearray(1 << 20)

    def copied() -> None:
        opened = {path: os.open(path, os.O_RDONLY) for path in {path for path, _, _ in spans}}
        for path, start, size in spans:
            for at in range(start, start + size, len(buffer)):
                os.preadv(opened[path], [memoryview(buffer)[: min(len(buffer), start + size - at)]], at)
        for descriptor in opened.values():
            os.close(descriptor)

    return tuple(sorted(timed(act)[1] for _ in range(5))[2] for act in (over, copied))  # type: ignore[return-value]


def write(options: argparse.Namespace, clips: int) -> Index:
    """Write an index that finds out, as `tvr index` does, how wide its stages have to be."""
    method, started = scorer(options), time.perf_counter()

    def find_out(index: Index) -> dict[str, Any]:
        seconds = measure.BUILD_SHARE * (time.perf_counter() - started)
        texts = method.encode_text(sentences(options, 50, seed=4))
        way, recall = measure.measured(method, index, lambda: (texts, "made-up sentences"), seconds=seconds)
        return {"way": asdict(way), "recall": asdict(recall) if recall else None}

    return write_index(options.child, {"bench": 1}, blocks(options, clips, 0), stored="float16", measure=find_out)


@torch.no_grad()
def blocks(options: argparse.Namespace, clips: int, first: int) -> Iterator[IndexBlock]:
    method = scorer(options)
    for start in range(first, first + clips, ENCODING_ROWS):
        video = videos(min(ENCODING_ROWS, first + clips - start), start)
        encoded = method.encode_video(video)
        names = [f"{i:08d}.mp4" for i in range(start, start + len(video))]
        listed = [IndexedClip(name, name, f"/library/films/{name}", 0.0, 12.0) for name in names]
        yield IndexBlock(listed, encoded, method.coarse(encoded), video.ts, video.n_frames)


def scorer(options: argparse.Namespace) -> Method:
    torch.manual_seed(0)
    return base.build(options.method, Sizes(DIM, FRAMES, WORDS)).eval()


def centres() -> torch.Tensor:
    return unit(torch.randn(CLUSTERS, DIM, generator=torch.Generator().manual_seed(7)))


def videos(clips: int, first: int) -> VideoFeatures:
    g = torch.Generator().manual_seed(first + 1)
    means = centres()[torch.randint(0, CLUSTERS, (clips,), generator=g)]
    frames = means[:, None] + 0.04 * torch.randn(clips, FRAMES, DIM, generator=g)
    ts = torch.arange(FRAMES).double().expand(clips, -1) + 0.5
    key = torch.arange(first, first + clips)
    return VideoFeatures(key, 10 * frames.half().float(), torch.full((clips,), FRAMES), ts)


def sentences(options: argparse.Namespace, n: int = WARM + 1, seed: int = 3) -> TextFeatures:
    g = torch.Generator().manual_seed(seed)
    pooled = centres()[:n] + 0.03 * torch.randn(n, DIM, generator=g)
    tokens = pooled[:, None] + 0.03 * torch.randn(n, WORDS, DIM, generator=g)
    marks = torch.ones(n, WORDS, dtype=torch.uint8)
    return TextFeatures(torch.arange(n), pooled, tokens, torch.full((n,), 12), marks)


def timed(act):
    """Return what `act` returns, and its processor seconds, those of the system included."""
    started = time.process_time()
    found = act()
    return found, time.process_time() - started


def memory() -> tuple[float, float]:
    """Return the process's anonymous and total resident memory in MB (10^6 bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Rss")}
    return sizes["RssAnon"], sum(sizes.values())


def row(what: str, found: str) -> None:
    print(f"| {what:<32} | {found} |", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--method", default="text_guided")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary index lies")
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
