"""Measure how well `tvr query` says no: what it refuses that is not there, and what it answers that is.

    python scripts/bench_no.py work/ --videos 100
    python scripts/bench_no.py work/ --videos 1000 --folds 2
    python scripts/bench_no.py work/ --videos 100 --backbone local:FOLDER --null sentences.txt
    python scripts/bench_no.py work/ --videos 100 --head trained/runs/moments
    python scripts/bench_no.py work/ --videos 400 --num-frames 12 --method mean
    python scripts/bench_no.py work/ --videos 400 --num-frames 12 --run out/demo/runs/glccl-head-seed0

The scenes of so many test videos of the toy world are joined to eight films by what they show: each has eight of the 64
looks (shape and colour), every shape and every colour once, bystanders too. A fold is the library without one film, so
that eight looks are nowhere in it, though each of their shapes and colours is. It is asked

  present         an event of the library (a sample)
  absent subject  an event of a look that is nowhere in it
  absent action   an event of a look that is in it, doing something else
  out of domain   everyday sentences, none of which the index is calibrated with

and of each answer the confidence is told: the share that is refused, below 0.95, or answered. With `--num-frames` each
film is cut to clips of three scenes, of which windows of so many frames are ranked, as a data set has them. A run is
one that was trained on features of the same plan: those of `tvr demo`. Everything follows from the seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from make_moment_films import Films

from tvr_cli.api import FOUND, open_workspace
from tvr_cli.data.demo_world import encode, grammar, render
from tvr_cli.data.demo_world.grammar import Scene, Thing

GROUPS = 8
MOST = 150  # queries of a kind that a fold is asked
FPS = 4
SCENES = 3  # of a clip
SIZE = 64  # pixels, as the toy world's encoder sees them
OF_THE_DEMO: dict[str, Any] = {"max_words": 24, "word_importance": "stopwords"}
Look = tuple[str, str]
OUTSIDE = Path(__file__).with_name("sentences_outside.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--videos", type=int, default=100, help="test videos that the films are made of")
    parser.add_argument("--folds", type=int, default=GROUPS)
    parser.add_argument("--backbone", default="demo-tiny")
    parser.add_argument("--num-frames", type=int, help="windows of so many frames instead of frames by time")
    parser.add_argument("--method", default="text_guided")
    parser.add_argument("--run", type=Path, help="folder of the run of a method, which ranks windows")
    parser.add_argument("--head", type=Path, help="folder of the run of a moment head; without it none ranks")
    parser.add_argument("--null", type=Path, help="a bank, for a backbone whose own is of another world")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    name = f"{args.videos}" + ("-clips" if args.num_frames else "")
    library = Library.made(args.work / name, args.videos, args.seed, SCENES if args.num_frames else None)
    told: dict[str, list[float]] = {}
    for fold in range(args.folds):
        for kind, confidences in ask(library, fold, args).items():
            told.setdefault(kind, []).extend(confidences)
    scenes = sum(len(of_film) for of_film in library.shown)
    print(f"{args.videos} videos, {scenes} scenes of a second; {args.folds} folds, each without one film")
    print("\n".join(rows(told)))


def ask(library: Library, fold: int, args: argparse.Namespace) -> dict[str, list[float]]:
    """Return the confidences of the first answers of a fold, by what was asked."""
    out = args.work / f"out-{library.films.name}"
    hidden = library.films / f"{fold}"
    aside = args.work / f"{library.films.name}-{fold}"
    hidden.rename(aside)
    try:
        workspace = open_workspace(out)
        scored = {"method": args.method} if args.run is None else {"run": str(args.run)}
        if args.num_frames is None:
            workspace.extract(library.films, fps=FPS, forget=True)
        else:
            workspace.extract(data=f"jsonl:{library.films}", num_frames=args.num_frames, size=SIZE, forget=True)
        workspace.features(backbone=args.backbone, **(OF_THE_DEMO if args.num_frames else {}))
        workspace.index(**scored, backbone=args.backbone, bank=args.null, overwrite=True)
        asked = queries(library, fold, Random(f"{args.seed}/{fold}/queries"))
        texts = [text for some in asked.values() for text in some]
        run = args.run or args.head  # a run names itself, or is found by its name in this workspace, where it is not
        about = {"run": run and str(run), "no_head": args.head is None}
        answers = workspace.search(texts, k=10, backbone=args.backbone, min_confidence=None, **about).results
    finally:
        aside.rename(hidden)
    confidences = iter(answer.confidence for answer in answers)
    return {kind: [next(confidences) or 0.0 for _ in some] for kind, some in asked.items()}


def queries(library: Library, fold: int, draw: Random) -> dict[str, list[str]]:
    """Return what a fold is asked, by kind."""
    shown = {scene.event for film, scenes in enumerate(library.shown) if film != fold for scene in scenes}
    looks = {event[:2] for event in shown}
    all_of_them = [
        Scene(Thing(shape, colour), action, None, 0)
        for shape in grammar.SHAPES
        for colour in grammar.COLOURS
        for action in grammar.ACTIONS
        if grammar.possible(shape, action)
    ]
    kinds = {
        "present": [scene for scene in all_of_them if scene.event in shown],
        "absent subject": [scene for scene in all_of_them if group_of(scene.thing.look) == fold],
        "absent action": [scene for scene in all_of_them if scene.event not in shown and scene.thing.look in looks],
    }
    said = {
        kind: [grammar.clause(draw, scene) for scene in draw.sample(scenes, min(MOST, len(scenes)))]
        for kind, scenes in kinds.items()
    }
    return {**said, "out of domain": OUTSIDE.read_text("utf-8").splitlines()}


def rows(told: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Say how many were refused, and how well present and absent are told apart."""
    present = np.array(told["present"])
    for kind, confidences in told.items():
        found = np.array(confidences) >= FOUND
        if kind == "present":
            yield f"{kind:16}{100 * found.mean():5.1f} % answered, of {len(found)}"
        elif len(found):
            apart = f"AUROC against present {auroc(present, np.array(confidences)):.3f}"
            yield f"{kind:16}{100 * (1 - found.mean()):5.1f} % refused, of {len(found)}; {apart}"


def auroc(above: np.ndarray, below: np.ndarray) -> float:
    """Return how often one of `above` is larger than one of `below`; equal ones count half."""
    larger = (above[:, None] > below[None]).mean() + (above[:, None] == below[None]).mean() / 2
    return float(larger)


@dataclass(frozen=True)
class Library:
    """Films, one a group, and the scenes that each shows."""

    films: Path
    shown: Sequence[Sequence[Scene]]

    @staticmethod
    def made(folder: Path, videos: int, seed: int, scenes: int | None = None) -> Library:
        """Return the films of so many videos, made where they are not there yet. scenes: of a clip that a film is cut
        to, None = it is not cut.
        """
        draw, shown = Random(f"{seed}/{videos}/groups"), [list[Scene]() for _ in range(GROUPS)]
        for video in Films("joined", videos, seed=seed)._videos():
            for scene in video.scenes:
                group = group_of(scene.thing.look)
                shown[group].append(replace(scene, bystander=_among(scene, group, draw)))
        encoder = encode.find_encoder()
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for group, of_group in enumerate(shown):
            (folder / f"{group}").mkdir(exist_ok=True)
            for number, start in enumerate(range(0, len(of_group), scenes or len(of_group))):
                some = of_group[start : start + (scenes or len(of_group))]
                if not (path := folder / f"{group}" / f"{group}-{number:03d}.mp4").is_file():
                    frames = [frame for scene in some for frame in render.scene_frames(scene)]
                    encode.write_video(path, frames, encoder=encoder, fps=render.FPS)
                said = grammar.clause(draw, some[0])
                lines.append({"video": f"{group}/{path.name}", "caption": said, "split": "test"})
        if scenes is not None:  # which makes it a data set, whose pictures are those that runs are trained on
            (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return Library(folder, shown)


def group_of(look: Look) -> int:
    """Return which film shows a look."""
    return (grammar.COLOURS.index(look[1]) - grammar.SHAPES.index(look[0])) % GROUPS


def _among(scene: Scene, group: int, draw: Random) -> Thing | None:
    """Return a bystander of the same film where the scene has one."""
    if scene.bystander is None:
        return None
    looks = [(s, c) for s in grammar.SHAPES for c in grammar.COLOURS if group_of((s, c)) == group]
    shape, colour = draw.choice([look for look in looks if look != scene.thing.look])
    return replace(scene.bystander, shape=shape, colour=colour)


if __name__ == "__main__":
    main()
