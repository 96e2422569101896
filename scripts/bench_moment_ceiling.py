"""Measure what a ranking without training can reach, on films of `make_moment_films.py` that `bench_moments.py` asked.

    python scripts/bench_moment_ceiling.py films/ -o out

Prints, for the queries of `films/truth.jsonl`:

- what a ranking would reach on average that knows shape, colour and action of every true moment, and takes a motion for
  its reverse: chance decides between the true moments and those of the reverse. Means of frames are such a ranking.
- R@1 where the true spans are given and only their order is asked, by the cosine and by the score of
  `engine/searching/ranking.py` with all and with its share of what the bank says.
- the queries of which some moment of the index has an IoU of half or more with a true one: more no ranking finds; and
  the mean IoU of the best of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from bench_moments import LEAST_IOU, read_truth

from tvr_cli.data.demo_world import grammar
from tvr_cli.engine.features import sentences
from tvr_cli.engine.searching import bank, ranking
from tvr_cli.stores.index.store import Index
from tvr_cli.stores.index.timeline import IndexedFilms
from tvr_cli.workspace import Workspace

Span = tuple[str, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    truth = {query: spans for query, spans in read_truth(args.films / "truth.jsonl").items() if spans}
    print(f"{len(truth)} queries; blind to reversal, expected: R@1 {100 * blind(truth):.1f} %")
    workspace = Workspace(args.out)
    store = workspace.newest_features("demo-tiny")
    assert store is not None, "bench_moments.py has made them"
    model = sentences.encoder_of(store, named=None, offline=True, device="cpu", tokens=False)

    def unit(texts: Sequence[str]) -> np.ndarray:
        pooled = sentences.encode(model, list(texts), store).pooled.float()
        return torch.nn.functional.normalize(pooled, dim=-1).numpy()

    spans = sorted({span for some in truth.values() for span in some})
    parts = Index.open(workspace.index_folder).films
    shown = np.stack([mean(parts, span) for span in spans])
    fits = ranking.SHARPNESS * unit(list(truth)) @ shown.T  # [queries, spans]
    null, _ = ranking.null_of(shown, unit(bank.usual("demo-tiny").sentences))
    for share in (0.0, ranking.NULL_SHARE, 1.0):
        best = (fits - share * null).argmax(1)
        right = np.mean([spans[i] in truth[query] for i, query in zip(best, truth, strict=True)])
        print(f"true spans, {share:g} of the bank: R@1 {100 * right:.1f} %")
    kept = [part.span(i) for part in parts for i in np.flatnonzero(part.live)]
    most = [max(iou(one, (file, a, b)) for file, _, a, b in kept for one in some) for some in truth.values()]
    found = 100 * np.mean(np.array(most) >= LEAST_IOU)
    print(f"{len(kept)} moments in the index: {found:.1f} % of the queries, mean IoU of the best {np.mean(most):.3f}")


def blind(truth: Mapping[str, Sequence[Span]]) -> float:
    """Return the share of queries that chance answers rightly among true moments and those of the reverse."""
    shown = {event(query): spans for query, spans in truth.items()}
    shares = []
    for query, spans in truth.items():
        shape, colour, action = event(query)
        other = shown.get((shape, colour, grammar.REVERSED.get(action, "")), ())
        shares.append(len(spans) / (len(spans) + len(other)))
    return float(np.mean(shares))


def event(query: str) -> tuple[str, str, str]:
    """Return the shape, colour and action that a query says."""
    words = f" {query} "
    of = (grammar.SHAPE_WORDS, grammar.COLOUR_WORDS, grammar.ACTION_WORDS)
    shape, colour, action = (
        next(name for name, said in names.items() if any(f" {word} " in words for word in said)) for names in of
    )
    return shape, colour, action


def mean(parts: Sequence[IndexedFilms], span: Span) -> np.ndarray:
    """Return the direction [D] of the mean of the frames that a film shows between two seconds."""
    for part in parts:
        name, start, end = span
        of_file = [i for i in np.flatnonzero(part.live) if part.span(i)[0] == name]
        if not of_file:
            continue
        first, last = part.array("moment")[of_file].min(), part.array("moment")[of_file].max()
        begins, ends = part.array("ts")[first:last], part.array("until")[first:last]
        weight = np.clip(np.minimum(ends, end) - np.maximum(begins, start), 0.0, None)
        weight *= part.seen(slice(first, last)) < end  # these are true spans: what was seen later is not in it
        found = weight @ part.array("frames")[first:last].astype(np.float64)
        return np.asarray(found / np.linalg.norm(found), dtype=np.float32)
    raise SystemExit(f"{span[0]!r} is not in the index; run bench_moments.py on these films first")


def iou(a: Span, b: Span) -> float:
    """Return how much two spans overlap."""
    both = min(a[2], b[2]) - max(a[1], b[1])
    return both / (max(a[2], b[2]) - min(a[1], b[1])) if a[0] == b[0] and both > 0 else 0.0


if __name__ == "__main__":
    main()
