"""Measure whether an action that is not there is told from those that are, on films of `make_moment_films.py`.

    python scripts/bench_absent_action.py films/ -o out --head trained/runs/moments

The films are made and indexed as by `bench_moments.py`. Asked are

  present         every query of `films/truth.jsonl`, one for each different event (shape, colour and action)
  absent action   the same shape and colour doing something that is in no film
  reversed        the same shape and colour, the motion reversed, where that is in no film
  absent subject  a shape and colour of no film
  out of domain   everyday sentences

and of each the confidence of the answer and the score of its first moment are told: AUROC against present, and what is
refused below 0.95 (of present: answered). Without `--head` no head ranks. Everything follows from the seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np
from bench_moments import read_truth
from bench_no import OUTSIDE, auroc

from tvr_cli.api import FOUND, open_workspace
from tvr_cli.data.demo_world import grammar
from tvr_cli.data.demo_world.grammar import Scene, Thing

Event = tuple[str, str, str]  # shape, colour, action


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--fps", type=float, default=4.0)
    parser.add_argument("--head", type=Path, help="folder of the run of a moment head; without it none ranks")
    parser.add_argument("--backbone", default="demo-tiny")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    asked = queries(list(read_truth(args.films / "truth.jsonl")), Random(args.seed))
    workspace = open_workspace(args.out)
    if not (args.out / "frames").is_dir():
        workspace.extract(args.films, fps=args.fps)
    workspace.features(backbone=args.backbone)
    report = workspace.search(
        [text for texts in asked.values() for text in texts],
        k=1,
        per_file=0,
        method="text_guided",
        backbone=args.backbone,
        run=args.head and str(args.head),
        no_head=args.head is None,
        min_confidence=None,
    )
    answers = iter(report.results)
    told = {kind: [next(answers) for _ in texts] for kind, texts in asked.items()}
    sure = {kind: np.array([answer.confidence or 0.0 for answer in some]) for kind, some in told.items()}
    scores = {kind: np.array([answer.hits[0].score for answer in some]) for kind, some in told.items()}
    for kind in asked:
        print(row(kind, sure, scores))


def row(kind: str, sure: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray]) -> str:
    """Say how many answers of a kind are refused, and how well they are told from present ones."""
    found = 100 * float((sure[kind] >= FOUND).mean())
    if kind == "present":
        return f"{kind:16}{found:5.1f} % answered, of {len(sure[kind])}"
    apart = (
        f"{auroc(by['present'], by[kind]):.3f} by {name}" for name, by in (("confidence", sure), ("score", scores))
    )
    return f"{kind:16}{100 - found:5.1f} % refused, of {len(sure[kind])}; AUROC against present {', '.join(apart)}"


def queries(present: Sequence[str], draw: Random) -> dict[str, list[str]]:
    """Return what is asked, by kind. present: a query for each different event of the films."""
    events = [event_of(query) for query in present]
    there, looks = set(events), {event[:2] for event in events}
    asked: dict[str, list[str]] = {"present": list(present), "absent action": [], "reversed": [], "absent subject": []}
    for shape, colour, action in events:
        absent = [a for a in grammar.ACTIONS if grammar.possible(shape, a) and (shape, colour, a) not in there]
        if absent:
            asked["absent action"].append(said((shape, colour, draw.choice(absent)), draw))
        if (back := grammar.REVERSED.get(action)) in absent and back is not None:
            asked["reversed"].append(said((shape, colour, back), draw))
    for shape in grammar.SHAPES:
        for colour in grammar.COLOURS:
            if (shape, colour) not in looks:
                action = draw.choice([a for a in grammar.ACTIONS if grammar.possible(shape, a)])
                asked["absent subject"].append(said((shape, colour, action), draw))
    outside = OUTSIDE.read_text("utf-8").splitlines()
    return {kind: list(dict.fromkeys(texts)) for kind, texts in {**asked, "out of domain": outside}.items() if texts}


def said(event: Event, draw: Random) -> str:
    shape, colour, action = event
    return grammar.clause(draw, Scene(Thing(shape, colour), action, None, 0))


def event_of(query: str) -> Event:
    """Return which event a sentence of the toy world's grammar is about."""
    rest = f" {query} "
    shape, colour, action = (
        next(name for name, phrases in words.items() if any(f" {phrase} " in rest for phrase in phrases))
        for words in (grammar.SHAPE_WORDS, grammar.COLOUR_WORDS, grammar.ACTION_WORDS)
    )
    return shape, colour, action


if __name__ == "__main__":
    main()
