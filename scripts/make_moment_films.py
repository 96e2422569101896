"""Make films of the toy world in which moments are known, to measure a search for moments with.

    python scripts/make_moment_films.py films --kind joined --videos 160

    films/000.mp4 …      each is made of the scenes of so many test videos
    films/truth.jsonl    {"query", "video", "start", "end"}, a line a true moment; several lines of a query are several
                         moments, a query without video, start and end is of something that no film shows

    films/captions.jsonl with another `--split` than test: what each scene shows, with its times, to train on; videos
                         are named below the folder that holds `films`

joined: scenes of one second, hard cuts between them, as the test videos have them. stretched: each scene lasts 0.5 to
6 s, log-uniform. one-take: one background and no cut; between the events a pause. A moment is right where colour, shape
and action are what the query says, and the texture where it says one. Everything follows from the seed.

--phase: black is shown before each film for less than a second, another time for each, and films have 24 frames a
second instead of 8: no edge lies where a frame plan would have it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tvr_cli.data.demo_world import corpus, encode, grammar, render
from tvr_cli.data.demo_world.corpus import WorldOptions
from tvr_cli.data.demo_world.grammar import Scene

KINDS = ("joined", "stretched", "one-take")
SHORTEST_S, LONGEST_S = 0.5, 6.0  # of a stretched scene
_TEXTURES = {"striped": {"striped", "stripes"}, "dotted": {"dotted", "dots"}}
PAUSES_S = (0.5, 2.0)  # between the events of one take
_FINER = 3  # times as many frames where films have a phase


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="joined")
    parser.add_argument("--videos", type=int, default=160, help="videos that the films are made of")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="whose videos")
    parser.add_argument("--skip", type=int, default=0, help="videos of the split that are left to other films")
    parser.add_argument("--phase", action="store_true", help="begin each film between two frames of a plan")
    parser.add_argument("--a-film", type=int, default=40, help="videos a film")
    parser.add_argument("--lead", type=float, default=0.0, help="seconds of the first frame before all else")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    moved = args.lead, args.split, args.skip, args.phase
    print(Films(args.kind, args.videos, args.a_film, args.seed, *moved).make(args.folder))


@dataclasses.dataclass(frozen=True)
class Films:
    """Which films. lead: seconds that move every edge against the grid of a frame plan.

    phase: black before each film, and more frames a second, so that where an edge lies is no whole frame of a scene.
    """

    kind: str
    videos: int = 160
    a_film: int = 40
    seed: int = 0
    lead: float = 0.0
    split: str = "test"
    skip: int = 0
    phase: bool = False

    def make(self, folder: Path) -> str:
        """Write films and truth; say what was made."""
        scenes = [video.scenes for video in self._videos()]
        folder.mkdir(parents=True, exist_ok=True)
        encoder, rng = encode.find_encoder(), Random(f"{self.seed}/{self.kind}/films")
        shown: list[tuple[str, float, float, Scene]] = []
        rate = render.FPS * (_FINER if self.phase else 1)
        for number, start in enumerate(range(0, len(scenes), self.a_film)):
            name, frames = f"{number:03d}.mp4", list[np.ndarray]()
            black = Random(f"{self.seed}/{self.kind}/phase/{number}").randrange(1, rate) if self.phase else 0
            at = lead = round(self.lead * render.FPS)
            for part in itertools.chain.from_iterable(
                _parts(scenes[start : start + self.a_film], self.kind, rng, number)
            ):
                if part.scene is not None:
                    second = at / render.FPS + black / rate
                    shown.append((name, second, second + len(part.frames) / render.FPS, part.scene))
                frames += part.frames
                at += len(part.frames)
            frames = [frame for frame in [frames[0]] * lead + frames for _ in range(rate // render.FPS)]
            frames = [np.zeros_like(frames[0])] * black + frames
            encode.write_video(folder / name, frames, encoder=encoder, fps=rate)
        draw = Random(f"{self.seed}/{self.kind}/queries")
        lines = list(_truth(shown, draw))
        _write(folder / "truth.jsonl", lines)
        if self.split != "test":
            said = [
                {"video": f"{folder.name}/{name}", "caption": grammar.clause(draw, scene), "start": start, "end": end}
                for name, start, end, scene in shown
            ]
            _write(folder / "captions.jsonl", [{**line, "split": self.split} for line in said])
        queries, films = len({line["query"] for line in lines}), len({name for name, *_ in shown})
        return f"{len(shown)} scenes in {films} films, {queries} queries, {len(lines)} moments"

    def _videos(self) -> list[grammar.Video]:
        options = WorldOptions(seed=self.seed)
        there = [video for _, split, video in corpus.world(options) if split == self.split]
        if len(there) < self.skip + self.videos:
            raise SystemExit(f"the split has {len(there)} videos, {self.skip + self.videos} were asked for")
        return there[self.skip : self.skip + self.videos]


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Part:
    """Frames of a film. scene: the event that they show, None = a pause."""

    frames: list[np.ndarray]
    scene: Scene | None


def _parts(videos: Sequence[Sequence[Scene]], kind: str, rng: Random, number: int) -> Iterator[list[Part]]:
    for scene in itertools.chain.from_iterable(videos):
        if kind == "joined":
            yield [Part(render.scene_frames(scene), scene)]
        elif kind == "stretched":
            seconds = SHORTEST_S * (LONGEST_S / SHORTEST_S) ** rng.random()
            yield [Part(_lasting(render.scene_frames(scene), round(seconds * render.FPS)), scene)]
        else:
            alone = dataclasses.replace(scene, seed=number, bystander=None)  # the seed decides the background
            pause = empty(alone)
            yield [
                Part(render.scene_frames(alone), alone),
                Part([pause] * round(rng.uniform(*PAUSES_S) * render.FPS), None),
            ]


def _lasting(frames: list[np.ndarray], n: int) -> list[np.ndarray]:
    """Return n frames that show the same motion, slower or faster."""
    return [frames[i * len(frames) // n] for i in range(n)]


def empty(scene: Scene) -> np.ndarray:
    """Return the background alone: what is seen of a blinking thing while it is not."""
    blinking = dataclasses.replace(scene, action="blink")
    hidden = next(k for k in range(render.SCENE_FRAMES) if not render.pose(blinking, k).visible)
    return render.scene_frames(blinking, at=(hidden,))[0]


def _truth(shown: Sequence[tuple[str, float, float, Scene]], rng: Random) -> Iterator[dict[str, Any]]:
    """Yield a query for each different event, with every moment that it is true of."""
    asked: set[tuple[str, str, str]] = set()
    for *_, scene in shown:
        if (event := scene.event) in asked:
            continue
        asked.add(event)
        query = grammar.clause(rng, scene)
        textures = [t for t, words in _TEXTURES.items() if words & set(query.split())]
        for name, start, end, other in shown:
            if other.event == event and (not textures or other.thing.texture in textures):
                yield {"query": query, "video": name, "start": start, "end": end}


if __name__ == "__main__":
    main()
