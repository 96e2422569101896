"""The toy corpus as files: videos, `captions.jsonl`, and the ground truth beside them in `events.jsonl`.

    FOLDER/world.json            what it was made from (seed, sizes, version) and which encoder wrote it
    FOLDER/captions.jsonl        {"video", "id", "caption", "split"}: what any corpus of one's own looks like
    FOLDER/events.jsonl          {"video", "split", "kind", "family", "named", "span", "scenes": [{"start", "end", …}]}
    FOLDER/{train,val,test}/00042.mp4

Everything follows from the seed. What is there already is kept; the videos of another seed or version are replaced
where the caller knows each file to be a demo's own (`made.py`), else they stay and nothing is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tvr_cli import schema
from tvr_cli.data.demo_world import encode, grammar, render
from tvr_cli.data.demo_world.grammar import Scene, Video
from tvr_cli.errors import DataError
from tvr_cli.files import disk_errors, lock, parse_lines, read_json, temporary_of, write_json, write_text
from tvr_cli.log import progress
from tvr_cli.removal import listed, remove_files
from tvr_cli.types import SPLITS, Split

WORLD_VERSION = 1  # raise when the same seed would give other pixels or captions
_BATCH = 25  # videos a task
_TRUTH = {
    "video": schema.text,
    "split": schema.one_of(*SPLITS),
    "kind": schema.text,
    "family": schema.maybe(schema.integer),
    "named": schema.fixed(schema.whole, schema.whole),
    "scenes": schema.items(schema.known({"start": schema.number, "end": schema.number})),
}


@dataclass(frozen=True, slots=True)
class WorldOptions:
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


SMALL = WorldOptions(train=96, val=16, test=48)  # for tests: the same code in seconds


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


def make(
    folder: Path, options: WorldOptions, *, workers: int = 1, replaceable: Callable[[Path], bool] = lambda path: False
) -> WorldReport:
    """Make the corpus in `folder`, or complete it.

    replaceable: whether a file of another corpus may go. Raises EnvironmentProblem without a video encoder or disk
    space, DataError if `folder` holds something else, or another corpus of which any file must stay.
    """
    started = time.monotonic()
    encoder = encode.find_encoder()
    require_own(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        _clear_if_other(folder, {**options.identity(), "encoder": encoder}, replaceable)
        videos = list(world(options))
        captions = list(_captions(options, videos))
        _write_unless_there(folder / "captions.jsonl", _lines(captions), replaceable)
        _write_unless_there(folder / "events.jsonl", _lines(_events(videos)), replaceable)
        todo = [(name, video) for name, _, video in videos if not (folder / name).exists()]
        _write_videos(folder, todo, encoder, workers)
    size = sum((folder / name).stat().st_size for name, _, _ in videos)
    seconds = time.monotonic() - started
    return WorldReport(folder, encoder, len(todo), len(videos) - len(todo), len(captions), size, seconds)


def require_own(folder: Path) -> None:
    """Raise DataError unless `folder` holds a corpus that this module made, or no file yet."""
    stamp = folder / "world.json"
    if is_corpus(folder):
        return
    if others := [p.relative_to(folder).as_posix() for p in _files(folder) if not _of_the_stamp(p)]:
        raise DataError(
            f"{str(folder)!r} holds what `tvr demo` did not make: {listed(others)}; nothing was changed. "
            "Give the demo a folder of its own with -o"
        )
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()) or stamp.is_symlink():
        raise DataError(f"{str(folder)!r} is a file or a link; give the demo a folder of its own with -o")


def is_corpus(folder: Path) -> bool:
    """Whether `folder` has the stamp of this module: a world.json with the fields that it writes."""
    stamp = folder / "world.json"
    if not stamp.is_file():
        return False
    try:
        found = read_json(stamp)
    except DataError:
        return False
    return isinstance(found, dict) and set(found) == {*WorldOptions().identity(), "encoder"}


def world(options: WorldOptions) -> Iterator[tuple[str, Split, Video]]:
    """Yield (id, split, video) of the whole corpus, without drawing a pixel."""
    for number, split in enumerate(SPLITS):
        rng = Random(f"{options.seed}/{split}/order")
        videos = grammar.make_split(_seed(options, number), options.size(split), unseen_pairs=split == "test")
        rng.shuffle(videos)  # so that the names say nothing about families
        for i, video in enumerate(videos):
            yield f"{split}/{i:05d}.mp4", split, video


def read_truth(folder: Path) -> dict[str, Truth]:
    """Read `events.jsonl`: video id -> what the video shows. Raises DataError if `folder` holds no toy corpus."""
    truths = parse_lines(folder / "events.jsonl", _truth)
    if not truths:
        raise DataError(f"expected the toy corpus of `tvr demo` in {str(folder)!r}, found no events.jsonl there")
    return {truth.video: truth for truth in truths}


def _truth(found: Mapping[str, Any]) -> Truth:
    """Return what a line of `events.jsonl` says. Raises ValueError where it is not as it was written."""
    record = schema.require(found, _TRUTH)
    first, second = (record["scenes"][i] for i in record["named"])
    events = (first["start"], first["end"]), (second["start"], second["end"])
    return Truth(record["video"], record["split"], record["kind"], record["family"], events)


def _seed(options: WorldOptions, split_number: int) -> int:
    return 1_000_003 * options.seed + 101 + split_number


def _captions(options: WorldOptions, videos: Iterable[tuple[str, Split, Video]]) -> Iterator[Mapping[str, Any]]:
    for name, split, video in videos:
        rng = Random(f"{options.seed}/{name}/captions")
        for i in range(options.test_captions if split == "test" else options.captions):
            yield {"video": name, "id": f"{name}#{i}", "caption": grammar.caption(rng, video), "split": split}


def _events(videos: Iterable[tuple[str, Split, Video]]) -> Iterator[Mapping[str, Any]]:
    second = render.SCENE_FRAMES / render.FPS
    for name, split, video in videos:
        i, j = video.pair
        yield {
            "video": name,
            "split": split,
            "kind": video.kind,
            "family": video.family,
            "named": [i, j],
            "span": [i * second, (j + 1) * second],
            "scenes": shown(video.scenes),
        }


def shown(scenes: Iterable[Scene]) -> list[dict[str, Any]]:
    """Return what scenes show that follow each other from the start of a file, each with its seconds."""
    second = render.SCENE_FRAMES / render.FPS
    return [
        {
            "start": i * second,
            "end": (i + 1) * second,
            **dataclasses.asdict(scene.thing),
            "action": scene.action,
            "bystander": None if scene.bystander is None else dataclasses.asdict(scene.bystander),
        }
        for i, scene in enumerate(scenes)
    ]


def _lines(records: Iterable[Mapping[str, Any]]) -> str:
    import json

    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)


def _clear_if_other(folder: Path, wanted: Mapping[str, Any], replaceable: Callable[[Path], bool]) -> None:
    """Empty a folder of another world or encoder, if all of it may go, and stamp it with what is made now."""
    stamp = folder / "world.json"
    if is_corpus(folder):
        if read_json(stamp) == wanted:
            return
        there = _files(folder)
        if stay := [p.relative_to(folder).as_posix() for p in there if not replaceable(p)]:
            raise DataError(
                f"{str(folder)!r} holds another toy corpus (other sizes, seed or encoder), of which demo.json does not "
                f"list as unchanged: {listed(stay)}; nothing was replaced. Give this demo a folder of its own with -o"
            )
        remove_files(folder, [p.relative_to(folder).as_posix() for p in there if p != stamp])
    write_json(stamp, wanted)


def _write_unless_there(path: Path, text: str, replaceable: Callable[[Path], bool]) -> None:
    """Write a file. One that holds just that stays; one that holds something else is replaced only if it may be."""
    if path.is_file():
        if path.read_bytes() == text.encode():
            return
        if not replaceable(path):
            raise DataError(
                f"{str(path)!r} is not what `tvr demo` wrote; nothing was replaced. Move the file elsewhere, or give "
                "the demo a folder of its own with -o"
            )
    write_text(path, text)


def _files(folder: Path) -> list[Path]:
    """Return what is in a folder and its folders, in order, without the lock."""
    return [p for p in sorted(folder.rglob("*")) if (p.is_symlink() or not p.is_dir()) and p != folder / ".lock"]


def _of_the_stamp(path: Path) -> bool:
    return temporary_of("world.json").fullmatch(path.name) is not None


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
