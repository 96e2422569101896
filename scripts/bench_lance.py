"""An index in a LanceDB table beside the index of files: build, a query, and what cells find for the time they take.

python scripts/bench_lance.py --clips 100000        (in an environment with the extra [lance])

Clips of a stated mixture (D 512, F 12, fp16): clusters of about 20, their centres in 256 groups; a clip is its centre
with noise of half its length, a frame its clip with 0.6, a sentence half a frame and half its clip's mean with 0.6
(near) or 1.5 (far). Every way fetches --shortlist clips with their frames and scores them with text_guided; recall@10
is that of the ten best of all clips, scored in the index of files. Processor seconds count all threads.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from tvr_cli.engine.searching.search import SearchOptions, search
from tvr_cli.methods import base
from tvr_cli.methods.base import Method, unit
from tvr_cli.stores.index.lance_index import LanceIndex, write_lance
from tvr_cli.stores.index.store import ENCODING_ROWS, Index, IndexBlock, IndexedClip, write_index
from tvr_cli.types import Encoding, Sizes, TextFeatures, VideoFeatures

DIM, FRAMES, WORDS, GROUPS = 512, 12, 8, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--shortlist", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="for the indexes, which are removed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-lance-", dir=options.folder) as folder, torch.no_grad():
        report(options, Path(folder))


def report(options: argparse.Namespace, folder: Path) -> None:
    method = base.build("text_guided", Sizes(DIM, FRAMES, WORDS)).eval()
    text = method.encode_text(sentences(options))
    print(f"{options.clips} clips, D {DIM}, F {FRAMES}, {options.queries} sentences, shortlist {options.shortlist}")
    names = {
        "files": lambda at: write_index(at, {}, blocks(method, options), stored="float16"),
        "table, scanned in memory": lambda at: write_lance(at, {}, blocks(method, options), stored="float16"),
        "table, cells": lambda at: write_lance(
            at, {}, blocks(method, options), stored="float16", memory=1, queries=lambda: method.coarse(text)[:20]
        ),
    }
    found: dict[str, Index] = {}
    for number, (name, make) in enumerate(names.items()):
        wall, cpu = time.perf_counter(), time.process_time()
        found[name] = make(folder / str(number) / "index")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        size = found[name].size_bytes() / 1e6
        print(f"{name}: written in {wall:.0f} s, {cpu:.0f} s of processor time; {size:.0f} MB", flush=True)
    exact = answers(method, found["files"], text, SearchOptions(k=10, exhaustive=True))[0]
    for name, index in found.items():
        row(name, method, index, text, options, exact)
    cells = found["table, cells"]
    assert isinstance(cells, LanceIndex)
    for probes in (8, 16, 32, 64, 128):
        cells.about = replace(cells.about, probes=probes)
        row(f"table, {probes} cells", method, cells, text, options, exact)


def row(
    name: str, method: Method, index: Index, text: Encoding, options: argparse.Namespace, exact: list[set[str]]
) -> None:
    """Print what a sentence costs, and what share of the ten best of all clips it finds."""
    asked = SearchOptions(k=10, shortlist=options.shortlist)
    answers(method, index, text.rows(slice(0, 3)), asked)
    got, cpu, wall = answers(method, index, text, asked)
    far = len(exact) // 2
    recall = [len(a & b) / len(b) for a, b in zip(got, exact, strict=True)]
    near, faraway = np.mean(recall[:far]), np.mean(recall[far:])
    print(
        f"{name}: {1e3 * np.median(cpu):.1f} ms of processor time, {1e3 * np.median(wall):.1f} ms (95 %: "
        f"{1e3 * np.percentile(wall, 95):.1f}); recall@10 near {near:.3f}, far {faraway:.3f}",
        flush=True,
    )


def answers(
    method: Method, index: Index, text: Encoding, options: SearchOptions
) -> tuple[list[set[str]], list[float], list[float]]:
    """Ask one sentence after the other; returns the clips found, processor seconds and seconds of each."""
    got, cpu, wall = [], [], []
    for i in range(len(text)):
        seconds, spent = time.perf_counter(), time.process_time()
        found = search(method, index, text.rows(slice(i, i + 1)), options)[0]
        wall.append(time.perf_counter() - seconds)
        cpu.append(time.process_time() - spent)
        got.append({hit.path for hit in found})
    return got, cpu, wall


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


def clip_means(numbers: torch.Tensor, clips: int) -> torch.Tensor:
    """Return the mean direction [n, D] of clips by their numbers."""
    groups = unit(torch.randn(GROUPS, DIM, generator=torch.Generator().manual_seed(7)))
    centres = max(1, clips // 20)
    found = torch.empty(len(numbers), DIM)
    for i, number in enumerate(numbers.tolist()):
        centre = number % centres
        g = torch.Generator().manual_seed(10_000_000 + centre)
        middle = unit(groups[centre % GROUPS] + noise((1,), 0.5, g)[0])
        found[i] = unit(middle + noise((1,), 0.5, torch.Generator().manual_seed(number))[0])
    return found


def videos(n: int, first: int, clips: int) -> VideoFeatures:
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
