"""Measure whether joins of real footage are found: clips joined to films by hard cuts and by dissolves.

    python scripts/bench_cuts.py FOLDER --films 3 --seconds 4

The clips of FOLDER that decode are drawn in random order for each film, cut to so many seconds, brought to 320 x 180 at
24 frames a second and joined, every other join a dissolve of half a second. Each film is written a second time, at 15
frames a second and in far lower quality. All go through `extract-frames` and the encoder; printed is, film by film, how
many hard joins have an edge within a quarter of a second and dissolves one within half a second, the moments that cross
a hard join, the edges a minute that are at no join, and the edges of each writing that the other has none near.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import av
import numpy as np

from tvr_cli.api import open_workspace
from tvr_cli.data.demo_world import encode
from tvr_cli.engine.searching import cells, films
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.workspace import Workspace

RATE, WIDTH, HEIGHT = 24, 320, 180
AGAIN_RATE = 15
DISSOLVE_S = 0.5
NEAR_S = 0.25
_SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".avi")
_WORSE = {"libx264": {"crf": "38"}, "libopenh264": {"b": "60000"}, "mpeg4": {"qscale": "20"}}


@dataclass(frozen=True)
class Film:
    """hard: [h] seconds of cuts. dissolves: [d] seconds of the middles of dissolves."""

    frames: Sequence[np.ndarray]
    hard: np.ndarray
    dissolves: np.ndarray

    def at(self, rate: int) -> Film:
        """Return it at a lower rate: a cut is where the first frame of the new clip is shown."""
        frames = [self.frames[i * RATE // rate] for i in range(len(self.frames) * rate // RATE)]
        return Film(frames, np.ceil(self.hard * rate - 1e-6) / rate, self.dissolves)


@dataclass(frozen=True)
class Found:
    """What the search makes of a film. hard, soft: seconds of edges. spans: [m, 2] the moments that there may be."""

    hard: np.ndarray
    soft: np.ndarray
    spans: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        return np.sort(np.concatenate([self.hard, self.soft]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--films", type=int, default=3)
    parser.add_argument("--clips", type=int, default=26, help="at most so many clips a film")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fps", type=float, default=4.0)
    parser.add_argument("--backbone", default="demo-tiny")
    args = parser.parse_args()
    paths = sorted(path for path in args.folder.iterdir() if path.suffix in _SUFFIXES)
    made = [film(paths, args.clips, args.seconds, Random(f"{args.seed}/{number}")) for number in range(args.films)]
    again = [one.at(AGAIN_RATE) for one in made]
    with tempfile.TemporaryDirectory() as folder:
        for number, (one, other) in enumerate(zip(made, again, strict=True)):
            write(Path(folder) / "films" / f"{number} as it is.mp4", one.frames, RATE)
            write(Path(folder) / "films" / f"{number} again.mp4", other.frames, AGAIN_RATE)
        open_workspace(Path(folder) / "out").extract(Path(folder) / "films", fps=args.fps)
        open_workspace(Path(folder) / "out").features(backbone=args.backbone)
        store = Workspace(Path(folder) / "out").newest_features(args.backbone)
        assert store is not None, "it has just been made"
        found = dict(all_found(store))
    for number, (one, other) in enumerate(zip(made, again, strict=True)):
        first, second = found[f"{number} as it is.mp4"], found[f"{number} again.mp4"]
        print(f"film {number}, {len(one.frames) / RATE:.0f} s: {judged(one, RATE, first)}")
        print(f"film {number} again: {judged(other, AGAIN_RATE, second)}")
        for name, a, b in (("hard edges", first.hard, second.hard), ("all edges", first.edges, second.edges)):
            print(f"  {name}: {len(a)} and {len(b)}, without one near in the other: {apart(a, b)} and {apart(b, a)}")


def judged(film: Film, rate: int, found: Found) -> str:
    """Say how many joins have an edge nearby, how many moments cross a cut, and how many edges have no join."""
    hard = sum(near(found.hard, join) <= NEAR_S + 1e-6 for join in film.hard)
    dissolved = sum(near(found.edges, join) <= DISSOLVE_S + 1e-6 for join in film.dissolves)
    crossing = sum(
        bool(((film.hard > start + NEAR_S + 1e-6) & (film.hard < end - NEAR_S - 1e-6)).any())
        for start, end in found.spans
    )
    joins = np.concatenate([film.hard, film.dissolves])
    minutes = len(film.frames) / rate / 60
    false = [sum(near(joins, edge) > DISSOLVE_S for edge in edges) / minutes for edges in (found.hard, found.edges)]
    return (
        f"{hard} of {len(film.hard)} cuts and {dissolved} of {len(film.dissolves)} dissolves found, {crossing} of "
        f"{len(found.spans)} moments cross a cut; at no join {false[0]:.1f} hard edges a minute, {false[1]:.1f} in all"
    )


def near(of: np.ndarray, second: float) -> float:
    """Return how far the nearest of some seconds is from one."""
    return float(np.abs(of - second).min(initial=np.inf))


def apart(edges: np.ndarray, others: np.ndarray) -> int:
    """Return how many edges have none of the others within a quarter of a second."""
    return sum(near(others, edge) > NEAR_S + 1e-6 for edge in edges)


def all_found(store: FeatureStore) -> Iterator[tuple[str, Found]]:
    """Yield what is found in each film: its name, and where it may be cut."""
    least = films.measured_edge(store)
    for (name, _), records in films._files(store).items():
        for track in films._tracks(store, [records]):
            soft = cells.distances(track) > (np.inf if least is None else least)
            first, last = cells.candidates(track, soft).T
            spans = np.stack([track.ts[first], track.until[last - 1]], 1)
            yield name, Found(track.ts[track.hard & (track.ts > 0)], track.ts[soft], spans)


def film(paths: Sequence[Path], clips: int, seconds: float, rng: Random) -> Film:
    """Join clips in random order; every other join is a dissolve."""
    frames, hard, dissolves = list[np.ndarray](), list[float](), list[float]()
    n = round(DISSOLVE_S * RATE)
    for path in rng.sample(list(paths), min(clips, len(paths))):
        try:
            clip = list(_frames(path, seconds))
        except av.FFmpegError as e:
            print(f"{path.name} is left out: {e}")
            continue
        if len(clip) < 3 * n:  # too short to have a dissolve at both ends
            continue
        if not frames:
            frames = clip
        elif len(hard) <= len(dissolves):
            hard.append(len(frames) / RATE)
            frames += clip
        else:
            share = [(i + 1) / (n + 1) for i in range(n)]
            mixed = [
                ((1 - s) * a + s * b).astype(np.uint8) for s, a, b in zip(share, frames[-n:], clip[:n], strict=True)
            ]
            dissolves.append((len(frames) - n / 2) / RATE)
            frames = [*frames[:-n], *mixed, *clip[n:]]
    return Film(frames, np.array(hard), np.array(dissolves))


def write(path: Path, frames: Sequence[np.ndarray], rate: int) -> None:
    """Write a film; at another rate than the first one in low quality."""
    path.parent.mkdir(exist_ok=True)
    name = encode.find_encoder()
    options = {**encode.ENCODERS[name], **({} if rate == RATE else _WORSE[name])}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(name, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


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
