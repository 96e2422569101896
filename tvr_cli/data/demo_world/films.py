"""Films of the toy world: scenes of many of its videos, one after the other, with what happens when said beside them.

    FOLDER/captions.jsonl        {"video", "id", "caption", "split", "start", "end"}: a line a scene
    FOLDER/truth.jsonl           {"query", "video", "start", "end"}: every moment of what films of the test split show
    FOLDER/events.jsonl          {"video", "split", "scenes"}: what each film shows, as beside the videos
    FOLDER/{train,test}/000.mp4  hard cuts between scenes of a second

A head that ranks moments is trained on those of the training split. Everything follows from the world.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from tvr_cli.data.demo_world import corpus, encode, grammar, render
from tvr_cli.data.demo_world.corpus import WorldOptions
from tvr_cli.data.demo_world.grammar import Scene
from tvr_cli.errors import DataError
from tvr_cli.files import disk_errors, lock, write_text
from tvr_cli.removal import listed

CAPTIONS, TRUTH, EVENTS = "captions.jsonl", "truth.jsonl", "events.jsonl"
_SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")
_A_FILM = 20  # videos, about a minute
_SECOND = render.SCENE_FRAMES / render.FPS


@dataclass(frozen=True, slots=True)
class FilmOptions:
    """Whose videos: of the first so many of each split films are made."""

    world: WorldOptions
    train: int
    test: int

    def size(self, split: Literal["train", "test"]) -> int:
        return {"train": self.train, "test": self.test}[split]

    @property
    def films(self) -> int:
        return sum(-(-self.size(split) // _A_FILM) for split in _SPLITS)


@dataclass(frozen=True, slots=True)
class FilmsReport:
    """What `make` did. seconds: that the films last. queries: of the truth."""

    folder: Path
    made: int
    kept: int
    scenes: int
    queries: int
    seconds: float


def make(
    folder: Path, options: FilmOptions, *, replaceable: Callable[[Path], bool] = lambda path: False
) -> FilmsReport:
    """Make the films in `folder`, or what is missing of them. replaceable: whether a file of other films may go.

    Raises EnvironmentProblem without a video encoder or disk space, DataError where files of other films may not go.
    """
    films = dict(_films(options))
    said = "".join(map(_line, _captions(options, films)))
    true = list(_truth(options, films))
    truth = "".join(map(_line, true))
    events = "".join(map(_line, _events(films)))
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        other = not _is(folder / CAPTIONS, said)
        wrong = [name for name, text in ((TRUTH, truth), (EVENTS, events)) if not _is(folder / name, text)]
        _refuse_to_replace(folder, [*films, CAPTIONS, TRUTH, EVENTS] if other else wrong, replaceable)
        todo = [name for name in films if other or not (folder / name).is_file()]
        for name in todo:
            with disk_errors(folder / name):
                (folder / name).parent.mkdir(exist_ok=True)
                frames = [frame for scene in films[name] for frame in render.scene_frames(scene)]
                encode.write_video(folder / name, frames, encoder=encode.find_encoder(), fps=render.FPS)
        for name, text in ((TRUTH, truth), (EVENTS, events)):
            if name in wrong:
                write_text(folder / name, text)
        if other:  # last: it says that the films beside it are these
            write_text(folder / CAPTIONS, said)
    scenes = sum(len(scenes) for scenes in films.values())
    queries = len({record["query"] for record in true})
    return FilmsReport(folder, len(todo), len(films) - len(todo), scenes, queries, scenes * _SECOND)


def are_of(folder: Path, options: FilmOptions) -> bool:
    """Whether the films in a folder, as far as there are any, are these."""
    return _is(folder / CAPTIONS, "".join(map(_line, _captions(options, dict(_films(options))))))


def _films(options: FilmOptions) -> Iterator[tuple[str, list[Scene]]]:
    """Yield the name and the scenes of each film."""
    videos = list(corpus.world(options.world))
    for split in _SPLITS:
        some = [video for _, of, video in videos if of == split][: options.size(split)]
        for number, start in enumerate(range(0, len(some), _A_FILM)):
            joined = itertools.chain.from_iterable(video.scenes for video in some[start : start + _A_FILM])
            yield f"{split}/{number:03d}.mp4", list(joined)


def _captions(options: FilmOptions, films: Mapping[str, Sequence[Scene]]) -> Iterator[Mapping[str, Any]]:
    for name, scenes in films.items():
        draw = Random(f"{options.world.seed}/films/{name}/captions")
        for i, scene in enumerate(scenes):
            yield {
                "video": name, "id": f"{name}#{i}", "caption": grammar.clause(draw, scene),
                "split": name.partition("/")[0], "start": i * _SECOND, "end": (i + 1) * _SECOND,
            }  # fmt: skip


def _truth(options: FilmOptions, films: Mapping[str, Sequence[Scene]]) -> Iterator[Mapping[str, Any]]:
    """Yield a query for each different event of the test split, with every moment of all films that it is true of.

    A query names no texture: else it would be true of fewer scenes than show its event.
    """
    draw = Random(f"{options.world.seed}/films/queries")
    moments: dict[tuple[str, str, str], list[tuple[str, int]]] = {}
    for name, scenes in films.items():
        for i, scene in enumerate(scenes):
            moments.setdefault(scene.event, []).append((name, i))
    for (shape, colour, action), there in moments.items():
        if any(is_test(name) for name, _ in there):
            query = grammar.clause(draw, Scene(grammar.Thing(shape, colour), action, None, 0))
            for name, i in there:
                yield {"query": query, "video": name, "start": i * _SECOND, "end": (i + 1) * _SECOND}


def _events(films: Mapping[str, Sequence[Scene]]) -> Iterator[Mapping[str, Any]]:
    for name, scenes in films.items():
        yield {"video": name, "split": name.partition("/")[0], "scenes": corpus.shown(scenes)}


def is_test(name: str) -> bool:
    """Whether a film is of the test split, by its name."""
    return name.startswith("test/")


def _refuse_to_replace(folder: Path, names: Sequence[str], replaceable: Callable[[Path], bool]) -> None:
    there = [name for name in names if (folder / name).exists()]
    if stay := [name for name in there if not replaceable(folder / name)]:
        raise DataError(
            f"{str(folder)!r} holds {listed(stay)}, which `tvr demo` did not make or which changed since; nothing was "
            "replaced. Move them elsewhere, or give the demo a folder of its own with -o"
        )


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
