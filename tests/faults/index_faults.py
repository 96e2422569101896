"""Damage an index in every way that `damage` knows and look at what search says: the right rows, or a sentence.

    PYTHONPATH=.:tests python tests/faults/index_faults.py --flips 20000 --swaps 0

prints how many damages were refused at opening, refused before an answer was shown, harmless to the answer, and how
many of these `verify` (tvr doctor) finds. It ends with an error when a wrong row was shown or a damage stayed unseen.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import indexes
import torch

from faults.damage import cut, flipped, swaps
from tvr_cli.engine.searching.search import SearchOptions, search
from tvr_cli.errors import TvrError
from tvr_cli.results.found import Hit
from tvr_cli.stores.index.store import Index

CLIPS, DIM = 40, 256  # the frames of 12 clips share a group in half precision
ASKED = (0, 3, 17, 33)


class Victim:
    """An index of two segments with deleted clips, and what is true about it: the row of every clip for each query."""

    def __init__(self, folder: Path):
        self.model = indexes.method("text_guided", DIM)
        made = indexes.make(folder, CLIPS, CLIPS, name="text_guided", dim=DIM, stored="float16")
        more = indexes.blocks(self.model, 8, first=CLIPS, files=CLIPS + 8)
        index = made.append(more, identity={"method": "text_guided"}, asked={})
        index.delete([indexes.indexed(i, CLIPS).id for i in (5, 6)])
        self.folder = folder
        self.texts = self.model.encode_text(indexes.captions(list(ASKED), DIM))
        everything = SearchOptions(k=CLIPS + 8, exhaustive=True)
        # Each alone, as a shortlist is scored: among others a product is rounded otherwise.
        alone = [self.texts.rows(slice(i, i + 1)) for i in range(len(ASKED))]
        self.true = [
            {shown(hit) for hit in search(self.model, Index.open(folder), text, everything)[0]} for text in alone
        ]
        self.right = self.ask(SearchOptions(k=4, shortlist=8))

    def ask(self, options: SearchOptions) -> list[list[Hit]]:
        return search(self.model, Index.open(self.folder), self.texts, options)

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def outcome(self) -> tuple[str, bool]:
        """Return how search takes the damage, and whether reading everything finds it. Raises AssertionError."""
        try:
            index = Index.open(self.folder)
        except TvrError as e:
            assert str(e).strip(), "an error without a sentence"
            return "refused at opening", True
        try:
            index.verify()
            seen = False
        except TvrError:
            seen = True
        try:
            found = search(self.model, index, self.texts, SearchOptions(k=4, shortlist=8))
        except TvrError:
            return "refused before it was shown", seen
        for hits, true in zip(found, self.true, strict=True):
            assert {shown(hit) for hit in hits} <= true, (hits, true)
        return "the same answer" if found == self.right else "a hit was lost", seen


def shown(hit: Hit) -> tuple[Any, ...]:
    return (hit.video_id, hit.path, hit.start, hit.end, hit.score)


def damaged_bytes(victim: Victim, number: int, seed: int) -> Counter[str]:
    """Flip bits and cut ends, `number` times, anywhere; every damage is seen when everything is read."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    files = [path for path in victim.files() if path.stat().st_size]
    sizes = [path.stat().st_size for path in files]
    for _ in range(number):
        # Half of them by bytes, half by files: most files are small and say much.
        path = rng.choices(files, sizes)[0] if rng.random() < 0.5 else rng.choice(files)
        before, how = path.read_bytes(), flipped if rng.random() < 0.9 else cut
        replace(path, how(before, rng))
        outcome, seen = victim.outcome()
        assert seen or (path.name == "current" and outcome == "the same answer"), (path, how, outcome)
        found[outcome] += 1
        replace(path, before)
    assert victim.ask(SearchOptions(k=4, shortlist=8)) == victim.right, "the damage was not taken back"
    return found


def damaged_heads(victim: Victim, number: int, seed: int) -> Counter[str]:
    """Swap types in `current` and, with a checksum that fits, in the head; `number` 0 = every swap there is."""
    found: Counter[str] = Counter()
    unseen: list[str] = []
    for path in (victim.folder / "current", indexes.head_path(victim.folder)):
        pointer, before = (victim.folder / "current").read_bytes(), path.read_bytes()
        every = list(swaps(json.loads(before)))
        for what, changed in random.Random(seed).sample(every, number) if number else every:
            replace(path, json.dumps(changed).encode())
            if path.name != "current":
                indexes.seal(victim.folder)
            try:
                outcome, _ = victim.outcome()
            except Exception as e:
                raise AssertionError(f"{path.name}: {what}: {type(e).__name__}: {e}") from e
            if outcome != "refused at opening":
                # What search does not go by; and what nothing else says: a tensor more, clips deleted.
                free = ("identity", "asked", "measured", "second", "encoding.mean missing", "deleted = None")
                if path.name == "current" or not what.startswith(free):
                    unseen.append(f"{path.name}: {what}: {outcome}")
            found[outcome] += 1
            replace(path, before)
            replace(victim.folder / "current", pointer)
    assert not unseen, unseen
    return found


def replace(path: Path, data: bytes) -> None:
    """Write a file in another place and rename it: a mapped file must not change under its reader."""
    beside = path.with_name("beside")
    beside.write_bytes(data)
    os.replace(beside, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flips", type=int, default=20_000)
    parser.add_argument("--swaps", type=int, default=0, help="of each file; 0 = all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        victim = Victim(Path(folder) / "index")
        print("bits and ends:", dict(damaged_bytes(victim, options.flips, options.seed)))
        print("types in heads:", dict(damaged_heads(victim, options.swaps, options.seed)))


if __name__ == "__main__":
    main()
