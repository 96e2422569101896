"""Measure whether an event of one second is found in a film of forty minutes in which little happens.

    python scripts/bench_events.py -o out

A film of the toy world is twenty takes of two minutes: an empty place whose light slowly changes, and for one second,
at a random eighth of a second, an event. No two events of a film have shape and colour in common, so that the nineteen
others are no answers. Each film is a library of its own. Printed are, for `--fps 4` and for the plan that a folder of
one's own gets unasked, the frames kept and how often the event is the first answer, and among the first three, at an
IoU of 0.5, however sure the answer is; last, how many first answers are right and sure, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from bench_moments import LEAST_IOU, read_truth
from make_moment_films import empty

from tvr_cli.api import FOUND, open_workspace
from tvr_cli.data.demo_world import corpus, encode, grammar, render
from tvr_cli.data.demo_world.corpus import WorldOptions
from tvr_cli.data.demo_world.grammar import Scene
from tvr_cli.results.found import Hit
from tvr_cli.workspace import Workspace

TAKE_S = 120
LIGHT, LIGHT_S = 12.0, 300.0  # levels of grey up and down, and seconds of a round
PLANS = {"--fps 4": {"fps": 4.0}, "default": {}}
FIRST = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--films", type=int, default=3)
    parser.add_argument("--takes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--head", help="folder of the run of a moment head; without it none ranks")
    args = parser.parse_args()
    folders = [args.out / f"film-{number}" for number in range(args.films)]
    for number, folder in enumerate(folders):
        if not (folder / "truth.jsonl").exists():
            make(folder, Random(f"{args.seed}/{number}"), args.takes)
    for name, flags in PLANS.items():
        ranks, sure, frames = list[float](), 0, 0
        for folder in folders:
            workspace = open_workspace(folder / name.replace(" ", "-").lstrip("-"))
            if not (workspace.root / "frames").is_dir():
                workspace.extract(folder, exclude="*/*", **flags)  # type: ignore[arg-type]
            workspace.features(backbone="demo-tiny")
            truth = read_truth(folder / "truth.jsonl")
            report = workspace.search(
                list(truth),
                k=FIRST,
                per_file=0,
                method="text_guided",
                backbone="demo-tiny",
                run=args.head,
                no_head=args.head is None,
                min_confidence=None,
            )
            found = [_rank(answer.hits, *truth[answer.query][0][1:]) for answer in report.results]
            sure += sum(
                rank == 1 and (answer.confidence or 0.0) >= FOUND
                for rank, answer in zip(found, report.results, strict=True)
            )
            ranks += found
            store = Workspace(workspace.root).frames()
            frames += store.count_frames(store.films())
        first, some = (100 * np.mean(np.array(ranks) <= most) for most in (1, FIRST))
        hours = args.films * args.takes * TAKE_S / 3600
        print(
            f"{name}: {frames:,} frames of {hours:.1f} hours, {len(ranks)} events: first answer {first:.1f} %, "
            f"in the first {FIRST} {some:.1f} % at IoU >= {LEAST_IOU}; first and sure {100 * sure / len(ranks):.1f} %"
        )


def make(folder: Path, rng: Random, takes: int) -> None:
    """Write a film and what is true of it."""
    folder.mkdir(parents=True, exist_ok=True)
    frames, lines = list[np.ndarray](), list[dict[str, object]]()
    for number, scene in enumerate(_events(rng, takes)):
        alone = dataclasses.replace(scene, seed=number, bystander=None)
        begins = rng.randrange(render.FPS, (TAKE_S - 2) * render.FPS)
        place, event = empty(alone), render.scene_frames(alone)
        lit: dict[int, np.ndarray] = {}
        start = (len(frames) + begins) / render.FPS
        for at in range(TAKE_S * render.FPS):
            level = round(LIGHT * math.sin(2 * math.pi * len(frames) / render.FPS / LIGHT_S))
            if begins <= at < begins + len(event):
                frames.append(_lit(event[at - begins], level))
            else:
                frames.append(lit.setdefault(level, _lit(place, level)))
        query = grammar.clause(rng, scene)
        lines.append({"query": query, "video": "film.mp4", "start": start, "end": start + len(event) / render.FPS})
    encode.write_video(folder / "film.mp4", frames, encoder=encode.find_encoder(), fps=render.FPS)
    (folder / "truth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _events(rng: Random, n: int) -> Iterator[Scene]:
    """Yield events of test videos, no two of one shape and colour."""
    scenes = [s for _, split, video in corpus.world(WorldOptions()) if split == "test" for s in video.scenes]
    rng.shuffle(scenes)
    of = {(scene.thing.shape, scene.thing.colour): scene for scene in scenes}
    yield from list(of.values())[:n]


def _lit(picture: np.ndarray, level: int) -> np.ndarray:
    return np.clip(picture.astype(np.int16) + level, 0, 255).astype(np.uint8)


def _rank(hits: list[Hit], start: float, end: float) -> float:
    """Return at which place the event is, counted from 1; infinity where it is not among the hits."""
    for place, hit in enumerate(hits, start=1):
        both = max(0.0, min(end, hit.end) - max(start, hit.start))
        if both / (max(end, hit.end) - min(start, hit.start)) >= LEAST_IOU:
            return place
    return math.inf


if __name__ == "__main__":
    main()
