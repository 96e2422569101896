"""The fault suite at length: kills, mutated videos, signals over six commands; prints a table for docs/reliability.md.

    python scripts/fault_soak.py --kills 200 --videos 2000 --signals 60

A kill comes at a seeded step on disk after the first shard. A signal comes at a seeded step of extract, precompute,
train, index, query or evaluate and has to end the process with 130, what is done being saved, within `--seconds`: the
one number here that depends on speed, so run it on an idle machine. It ends with an error at the first thing lost.
"""

from __future__ import annotations

import argparse
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from faults import blows  # noqa: E402
from faults.mutated_videos import read_mutated  # noqa: E402

LATER = ("query", "evaluate")  # commands that only read the stores


def kills(world: blows.World, folder: Path, number: int, seed: int) -> Counter[str]:
    """Kill commands in turn; return how many of each."""
    rng, found = random.Random(seed), Counter[str]()
    for turn in range(number):
        name = blows.COMMANDS[turn % len(blows.COMMANDS)]
        step = rng.choice([s for s in world.steps[name] if s.done or name in ("train", "index")])
        out = world.start(name, folder / f"kill-{turn}")
        ended = blows.forked(world.command(name, out), blows.send(step.number, signal.SIGKILL), out)
        assert ended.code == -signal.SIGKILL, ended
        assert world.finish(name, out) == world.right[name], step
        found[f"SIGKILL {name}"] += 1
    return found


def signals(world: blows.World, folder: Path, number: int, seed: int) -> tuple[Counter[str], float]:
    """Interrupt commands in turn; return how many of each, and the longest time from the signal to the end."""
    rng, found, longest = random.Random(seed), Counter[str](), 0.0
    commands = (*blows.COMMANDS, *LATER)
    whole = folder / "whole"
    out = world.start("index", whole)
    blows.forked(world.command("index", out))
    reading = {
        "query": ["query", "a square", "--method", "text_guided", "-o", str(out)],
        "evaluate": ["evaluate", "one", "-o", str(out)],
    }
    steps = {name: blows.recorded(reading[name], out)[1] for name in LATER} | world.steps
    for turn in range(number):
        name = commands[turn % len(commands)]
        number_of = (signal.SIGINT, signal.SIGTERM)[turn // len(commands) % 2]
        step = rng.choice(steps[name])
        place = out if name in LATER else world.start(name, folder / f"signal-{turn}")
        words = reading[name] if name in LATER else world.command(name, place)
        with tempfile.NamedTemporaryFile() as sent:
            ended = blows.forked(words, stamped(step.number, number_of, Path(sent.name)), place)
            took = time.time() - float(Path(sent.name).read_text())
        assert ended.code == 130 or (name == "train" and ended.code == 0), (name, step, ended)
        if name not in LATER:
            assert world.finish(name, place) == world.right[name], step
        longest = max(longest, took)
        found[f"{number_of.name} {name}"] += 1
    return found, longest


def stamped(number: int, signal_number: int, note: Path) -> blows.Strike:
    """Return a blow that also writes down when it came."""
    send = blows.send(number, signal_number)

    def strike(step: blows.Step) -> None:
        if step.number == number:
            note.write_text(str(time.time()))
        send(step)

    return strike


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--signals", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=5.0, help="that a process may take to end after a signal")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.time()
    rows: list[tuple[str, int, str]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        world = blows.World(folder / "world")
        for what, n in kills(world, folder, options.kills, options.seed).items():
            rows.append((what, n, "each went on; nothing differs from an undisturbed run"))
        found, longest = signals(world, folder, options.signals, options.seed)
        for what, n in found.items():
            rows.append((what, n, "exit 130, saved"))
        (folder / "videos").mkdir()
        for what, n in read_mutated(folder / "videos", options.videos, options.seed, workers=2).items():
            rows.append((f"mutated video, {what}", n, "no hang, no bug, times ascend"))
    print("| what | tried | outcome |\n|---|---:|---|")
    for row in rows:
        print("| {} | {:,} | {} |".format(*row))
    print(
        f"\nSeed {options.seed}, {time.time() - started:.0f} s on {platform.machine()} with Python "
        f"{platform.python_version()}; the longest end after a signal took {longest:.1f} s."
    )
    assert longest <= options.seconds, f"a process took {longest:.1f} s to end"


if __name__ == "__main__":
    main()
