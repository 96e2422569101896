"""Measure what is kept of slides and of a picture that stands still, and whether anything is lost.

    python scripts/bench_slides.py -o out

A film of the toy world is a talk: slides that show a thing each, for 10 to 50 seconds, with noise in every frame; and
on every second one a line appears below after half of its time. Printed are, for the frames at 4 a second, for `--fps
4`, for other thresholds and for the plan that a folder of one's own gets unasked: the frames, the states of slides of
which none is kept, and how many first answers name another slide than where every frame is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np

from tvr_cli.api import open_workspace
from tvr_cli.data.demo_world import corpus, encode, grammar, render
from tvr_cli.data.demo_world.corpus import WorldOptions
from tvr_cli.engine.extraction.extract import ExtractOptions, extract
from tvr_cli.plans import AskedFrames, FramePlan
from tvr_cli.workspace import Workspace

SHORTEST_S, LONGEST_S = 10, 50
NOISE = 2.0  # levels of grey, of every pixel of every frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not (args.out / "slides.json").exists():
        make(args.out, Random(args.seed), args.slides)
    slides = json.loads((args.out / "slides.json").read_text("utf-8"))
    usual = AskedFrames(fps=4.0).plan()
    plans = {
        "every frame at 4 a second": dataclasses.replace(usual, alike=None),
        **{f"--fps 4, threshold {alike:g}": dataclasses.replace(usual, alike=alike) for alike in (4.0, 5.0, 6.0)},
        "default": AskedFrames().plan(),
    }
    first: list[int] | None = None
    for name, plan in plans.items():
        workspace = Workspace(args.out / name.replace(" ", "-").replace(",", "").lstrip("-"))
        ts, answers = answered(workspace, args.out / "talk.mp4", plan, slides)
        first = first or answers
        lost = sum(not any(s["start"] <= t < s["end"] for t in ts) for s in slides)
        other = sum(a != b for a, b in zip(first, answers, strict=True))
        print(
            f"{name}: {len(ts):,} frames, {lost} of {len(slides)} states lost, {other} of {len(first)} answers differ"
        )


def answered(
    workspace: Workspace, film: Path, plan: FramePlan, slides: Sequence[dict[str, object]]
) -> tuple[list[float], list[int]]:
    """Return the seconds of the frames kept, and the number of the slide that is the first answer of each query."""
    if not workspace.has_frames:
        extract([film], workspace, plan, ExtractOptions())
    opened = open_workspace(workspace.root)
    opened.features(backbone="demo-tiny")
    queries = list(dict.fromkeys(str(s["query"]) for s in slides))
    report = opened.search(queries, k=1, method="text_guided", backbone="demo-tiny", no_head=True, min_confidence=None)
    frames = workspace.frames()
    (timeline,) = (frames.timeline(film) for film in frames.films())
    starts = [float(str(s["start"])) for s in slides]
    numbers = [
        int(str(slides[int(np.searchsorted(starts, (hit.start + hit.end) / 2, side="right")) - 1]["slide"]))
        for answer in report.results
        for hit in answer.hits
    ]
    return timeline.ts.tolist(), numbers


def make(folder: Path, rng: Random, n: int) -> None:
    """Write the film and the states of its slides: {"slide", "query", "start", "end"}."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, frames, states = np.random.default_rng(rng.randrange(2**32)), list[np.ndarray](), list[dict[str, object]]()
    for number, scene in enumerate(_scenes(rng, n)):
        query, slide = grammar.clause(rng, scene), render.scene_frames(scene)[0]
        lasts = rng.randrange(SHORTEST_S * render.FPS, LONGEST_S * render.FPS)
        shown = [slide] if number % 2 else [slide, _with_a_line(slide)]
        for state in shown:
            start = len(frames)
            for _ in range(lasts // len(shown)):
                noisy = state + draw.normal(0, NOISE, state.shape)
                frames.append(np.clip(noisy, 0, 255).astype(np.uint8))
            seconds = {"start": start / render.FPS, "end": len(frames) / render.FPS}
            states.append({"slide": number, "query": query, **seconds})
    encode.write_video(folder / "talk.mp4", frames, encoder=encode.find_encoder(), fps=render.FPS)
    (folder / "slides.json").write_text(json.dumps(states), encoding="utf-8")


def _scenes(rng: Random, n: int) -> Iterator[grammar.Scene]:
    """Yield scenes of test videos, no two things of one shape and colour."""
    scenes = [s for _, split, video in corpus.world(WorldOptions()) if split == "test" for s in video.scenes]
    rng.shuffle(scenes)
    of = {
        (s.thing.shape, s.thing.colour): dataclasses.replace(s, bystander=None) for s in scenes if s.action != "blink"
    }
    yield from list(of.values())[:n]


def _with_a_line(slide: np.ndarray) -> np.ndarray:
    """Return a slide with a line of what may be words below."""
    found = slide.copy()
    for word in range(12, 60, 12):
        found[-10:-7, word : word + 9] = 230
    return found


if __name__ == "__main__":
    main()
