"""The toy corpus as files: videos, `captions.jsonl`, and the ground truth beside them in `events.jsonl`.

    FOLDER/world.json            what it was made from (seed, sizes, version) and which encoder wrote it
    FOLDER/captions.jsonl        {"video", "id", "caption", "split"}: what any corpus of one's own looks like
    FOLDER/events.jsonl          {"video", "split", "kind", "family", "named", "span", "scenes": [{"start", "end", …}]}
    FOLDER/{train,val,test}/00042.mp4

Everything follows from the seed. What is there already is kept; the videos of another seed or version are replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tvr_cli.data.demo_world import encode, grammar, render
from tvr_cli.data.demo_world.grammar import Video
from tvr_cli.errors import DataError
from tvr_cli.files import disk_errors, lock, read_json, read_lines, write_json, write_text
from tvr_cli.log import progress
from tvr_cli.types import SPLITS, Split

WORLD_VERSION = 1  # raise when the same seed would give other pixels or captions
_BATCH = 25  # videos a task


@dataclass(frozen=True, slots=True)
class WorldPlan:
    """What to make: the seed, the videos of each split, and captions a video (training and validation, test)."""

    seed: int = 0
    train: int = 1500
    val: int = 200
    test: int = 1000
    captions: int = 5
    test_captions: int = 1

    def size(self, split: Split) -> int:
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def identity(self) -> dict[str, Any]:
        """What a folder must have been made from to be kept."""
        return {"world": WORLD_VERSION, **dataclasses.asdict(self)}


SMALL = WorldPlan(train=96, val=16, test=48)  # for tests: the same code in seconds


@dataclass(frozen=True, slots=True)
class WorldReport:
    """What `make` did. seconds: wall clock."""

    folder: Path
    encoder: str
    made: int
    kept: int
    captions: int
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Truth:
    """What a video shows, by its id. events: seconds of the two named events. span: from the first to the second."""

    video: str
    split: Split
    kind: str
    family: int | None
    events: tuple[tuple[float, float], tuple[float, float]]

    @property
    def span(self) -> tuple[float, float]:
        """From the start of the first named event to the end of the second, in seconds."""
        return self.events[0][0], self.events[1][1]


def make(folder: Path, plan: WorldPlan, *, workers: int = 1) -> WorldReport:
    """Make the corpus in `folder`, or complete it.

    Raises EnvironmentProblem without a video encoder or disk space, DataError if `folder` holds something else.
    """
    started = time.monotonic()
    encoder = encode.find_encoder()
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        _clear_if_other(folder, plan, encoder)
        videos = list(world(plan))
        captions = list(_captions(plan, videos))
        write_text(folder / "captions.jsonl", _lines(captions))
        write_text(folder / "events.jsonl", _lines(_events(videos)))
        todo = [(name, video) for name, _, video in videos if not (folder / name).exists()]
        _write_videos(folder, todo, encoder, workers)
    size = sum((folder / name).stat().st_size for name, _, _ in videos)
    seconds = time.monotonic() - started
    return WorldReport(folder, encoder, len(todo), len(videos) - len(todo), len(captions), size, seconds)


def world(plan: WorldPlan) -> Iterator[tuple[str, Split, Video]]:
    """Yield (id, split, video) of the whole corpus, without drawing a pixel."""
    for number, split in enumerate(SPLITS):
        rng = Random(f"{plan.seed}/{split}/order")
        videos = grammar.make_split(_seed(plan, number), plan.size(split), unseen_pairs=split == "test")
        rng.shuffle(videos)  # so that the names say nothing about families
        for i, video in enumerate(videos):
            yield f"{split}/{i:05d}.mp4", split, video


def read_truth(folder: Path) -> dict[str, Truth]:
    """Read `events.jsonl`: video id -> what the video shows. Raises DataError if `folder` holds no toy corpus."""
    records: list[dict[str, Any]] = read_lines(folder / "events.jsonl")
    if not records:
        raise DataError(f"expected the toy corpus of `tvr demo` in {str(folder)!r}, found no events.jsonl there")
    return {r["video"]: _truth(r) for r in records}


def _truth(record: Mapping[str, Any]) -> Truth:
    first, second = (record["scenes"][i] for i in record["named"])
    events = (first["start"], first["end"]), (second["start"], second["end"])
    return Truth(record["video"], record["split"], record["kind"], record["family"], events)


def _seed(plan: WorldPlan, split_number: int) -> int:
    return 1_000_003 * plan.seed + 101 + split_number


def _captions(plan: WorldPlan, videos: Iterable[tuple[str, Split, Video]]) -> Iterator[Mapping[str, Any]]:
    for name, split, video in videos:
        rng = Random(f"{plan.seed}/{name}/captions")
        for i in range(plan.test_captions if split == "test" else plan.captions):
            yield {"video": name, "id": f"{name}#{i}", "caption": grammar.caption(rng, video), "split": split}


def _events(videos: Iterable[tuple[str, Split, Video]]) -> Iterator[Mapping[str, Any]]:
    second = render.SCENE_FRAMES / render.FPS
    for name, split, video in videos:
        scenes = [
            {
                "start": i * second,
                "end": (i + 1) * second,
                **dataclasses.asdict(scene.thing),
                "action": scene.action,
                "bystander": None if scene.bystander is None else dataclasses.asdict(scene.bystander),
            }
            for i, scene in enumerate(video.scenes)
        ]
        i, j = video.pair
        yield {
            "video": name,
            "split": split,
            "kind": video.kind,
            "family": video.family,
            "named": [i, j],
            "span": [i * second, (j + 1) * second],
            "scenes": scenes,
        }


def _lines(records: Iterable[Mapping[str, Any]]) -> str:
    import json

    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)


def _clear_if_other(folder: Path, plan: WorldPlan, encoder: str) -> None:
    """Empty a folder of another plan or encoder; refuse one that this module did not make."""
    stamp = folder / "world.json"
    wanted = {**plan.identity(), "encoder": encoder}
    if stamp.exists():
        if read_json(stamp) == wanted:
            return
        for split in SPLITS:
            shutil.rmtree(folder / split, ignore_errors=True)
    elif any(p.suffix == ".mp4" for p in folder.rglob("*")):
        raise DataError(f"{str(folder)!r} holds videos that `tvr demo` did not make; give the demo a folder of its own")
    write_json(stamp, wanted)


def _write_videos(folder: Path, todo: list[tuple[str, Video]], encoder: str, workers: int) -> None:
    for split in SPLITS:
        with disk_errors(folder):
            (folder / split).mkdir(exist_ok=True)
    tasks = [(folder, todo[i : i + _BATCH], encoder) for i in range(0, len(todo), _BATCH)]
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(progress("making videos", total=len(todo), unit="videos"))
        if workers > 1 and len(tasks) > 1:
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context))
            done: Iterable[int] = pool.map(_write_batch, tasks)
        else:
            done = map(_write_batch, tasks)
        for n in done:
            bar.advance(n)


def _write_batch(task: tuple[Path, list[tuple[str, Video]], str]) -> int:
    folder, videos, encoder = task
    for name, video in videos:
        with disk_errors(folder / name):
            encode.write_video(folder / name, render.video_frames(video), encoder=encoder, fps=render.FPS)
    return len(videos)
