"""What the stages of a search miss: recall@10 against scoring every clip, of the trained runs of a workspace.

    tvr demo --methods all --seeds 0,1,2
    python scripts/bench_recall.py out/demo

Two libraries from the same features: the store's own clips, and the same clips, 83 % of them windows of one film
(`--libraries film` measures in that one alone). Each run (and `mean` and `text_guided`) is indexed as `tvr index` does,
and answers captions of the test split that the index did not measure itself with. The columns are the default, the
default of a library that is too large for scoring every clip, of one that is too large for a rough score too, and what
0.1.0 did: coarse vectors, shortlist 200. `files` counts those that are reached when as many are asked for as there are.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from tvr_cli.engine import scorers
from tvr_cli.engine.scorers import Scorer
from tvr_cli.engine.searching import measure
from tvr_cli.engine.searching.search import SearchOptions, search
from tvr_cli.engine.searching.way import Way
from tvr_cli.results.found import Hit
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.index.store import ENCODING_ROWS, Index, IndexBlock, IndexedClip, write_index
from tvr_cli.types import Encoding
from tvr_cli.workspace import Workspace

FILM = 0.83
LIBRARIES = ("own", "film")
STAGES = {"default": (None, None), "rough": (0.0, 1e9), "coarse": (0.0, 0.0)}


@torch.no_grad()
def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    workspace = Workspace(options.workspace)
    store = workspace.newest_features()
    assert store is not None, "the workspace holds no features"
    captions = store.split("test")
    step = max(1, len(captions) // 50)
    own, asked = captions[::step][:50], torch.tensor([c for i, c in enumerate(captions.tolist()) if i % step])
    asked = asked[:: max(1, len(asked) // options.sentences)][: options.sentences]
    print(f"{len(store.clips)} clips, {len(asked)} sentences; recall@10 and the milliseconds of a sentence")
    for scorer in scorers_of(workspace, store, options.methods):
        texts = {
            name: scorers.encode_texts(scorer.method, store.text(rows))
            for name, rows in (("own", own), ("asked", asked))
        }
        for library in options.libraries:
            with tempfile.TemporaryDirectory() as folder:
                report(scorer, store, texts["own"], texts["asked"], library == "film", Path(folder) / "index")


def scorers_of(workspace: Workspace, store: FeatureStore, methods: list[str]) -> Iterator[Scorer]:
    for name in ("mean", "text_guided"):
        if not methods or name in methods:
            yield scorers.untrained(name, store)
    for run in sorted(workspace.runs(), key=lambda run: run.name):
        if not methods or any(run.name.startswith(name) for name in methods):
            yield scorers.trained(run, workspace.features_of(run))


def report(scorer: Scorer, store: FeatureStore, own: Encoding, asked: Encoding, crowded: bool, folder: Path) -> None:
    method = scorer.method
    index = write_index(folder, {}, blocks(scorer, store, crowded), stored="float16")
    exact = search(method, index, asked, SearchOptions(exhaustive=True))
    cells = []
    for every, rough in STAGES.values():
        chosen = measured_way(method, index, own, every, rough)
        cells.append(f"{cell(method, chosen, asked, exact)} ({words(chosen)})")
    cells.append(cell(method, with_way(index, Way("coarse", len(index), 200)), asked, exact))
    files = index.count_files()
    reached = len(
        search(method, measured_way(method, index, own, None, None), asked.rows(slice(0, 1)), SearchOptions(k=files))[0]
    )
    who = scorer.run.name if scorer.run else scorer.name
    print(f"| {who}{', a film' if crowded else ''} | {' | '.join(cells)} | {reached} of {files} |", flush=True)


def measured_way(method, index: Index, own: Encoding, every: float | None, rough: float | None) -> Index:
    """Measure an index as its build does, where stages may cost other times than they may by default."""
    before = measure.EVERY_S, measure.ROUGH_S
    try:
        measure.EVERY_S, measure.ROUGH_S = (b if a is None else a for a, b in zip((every, rough), before, strict=True))
        way, _ = measure.measured(method, index, lambda: (own, "captions"), seconds=60)
    finally:
        measure.EVERY_S, measure.ROUGH_S = before
    return with_way(index, way)


def with_way(index: Index, way: Way) -> Index:
    return Index(index.folder, index.generation, replace(index.head, measured={"way": asdict(way)}))


def words(index: Index) -> str:
    way = index.measured["way"]
    widths = [str(way[name]) for name in ("prefilter", "shortlist") if way[name] and way["first"] != "every"]
    return " ".join([way["first"], *widths])


def cell(method, index: Index, asked: Encoding, exact: list[list[Hit]]) -> str:
    started = time.process_time()
    found = search(method, index, asked, SearchOptions())
    spent = (time.process_time() - started) / len(asked)
    same = sum(len({h.video_id for h in a} & {h.video_id for h in b}) for a, b in zip(found, exact, strict=True))
    return f"{same / sum(len(a) for a in exact):.4f}, {1e3 * spent:.1f} ms"


def blocks(scorer: Scorer, store: FeatureStore, crowded: bool) -> Iterator[IndexBlock]:
    film = int(FILM * len(store.clips)) if crowded else 0
    spread = torch.randperm(len(store.clips), generator=torch.Generator().manual_seed(0)).tolist()
    for start in range(0, len(store.clips), ENCODING_ROWS):
        rows = list(range(start, min(start + ENCODING_ROWS, len(store.clips))))
        video = store.video(torch.tensor(rows), patches=scorer.method.reads_patches)
        encoded = scorers.encode_videos(scorer.method, video)
        names = [("film", "/film") if spread[i] < film else (store.clips[i].file_id, store.clips[i].path) for i in rows]
        listed = [
            IndexedClip(store.clips[i].id, file, str(path), *store.clips[i].span)
            for i, (file, path) in zip(rows, names, strict=True)
        ]
        yield IndexBlock(listed, encoded, scorer.method.coarse(encoded), video.ts, video.n_frames)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--methods", nargs="*", default=[], help="what the runs' names begin with; default: all")
    parser.add_argument("--libraries", nargs="*", choices=LIBRARIES, default=LIBRARIES, help="default: both")
    parser.add_argument("--sentences", type=int, default=300)
    return parser.parse_args()


if __name__ == "__main__":
    main()
