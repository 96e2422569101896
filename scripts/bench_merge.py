"""What merging many parts costs: seconds, and the memory of the process for more and more of them.

python scripts/bench_merge.py --parts 25,50,100,200 --clips 1000

Parts are written with real records (files of one to three windows) and rows (128 clips a shard of features), and shards
of 64 bytes each, which a merge links and never reads. Every merge is a process of its own; `resident` is the most that
it held, imports included. Then the same merge again, in which nothing is new.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_stores import FEATURE_CLIPS, windows

from tvr_cli.engine.extraction.part_list import DonePart, note_done
from tvr_cli.plans import FramePlan
from tvr_cli.stores import listing
from tvr_cli.stores.features import head as features
from tvr_cli.stores.features import rows as feature_rows
from tvr_cli.stores.features.head import Made, NormSum
from tvr_cli.stores.features.rows import clip_row_key
from tvr_cli.stores.frames import head as heads
from tvr_cli.stores.frames import store as frames
from tvr_cli.stores.frames.head import Head
from tvr_cli.stores.frames.records import About, StoredClip
from tvr_cli.workspace import Workspace

SHARD_BYTES = 64
FRAME_CLIPS = 250  # a shard of frames is written every 20 seconds, or 64 MB
RUN = """
import sys, time
from pathlib import Path
from tvr_cli.engine.whole.merge import merge
from tvr_cli.workspace import Workspace
def held(what):
    for line in open("/proc/self/status"):
        if line.startswith(what):
            return int(line.split()[1]) / 1e3
before = held("RssAnon")
wall, cpu = time.perf_counter(), time.process_time()
found = merge(sorted(map(Path, sys.argv[2:])), Workspace(Path(sys.argv[1])))
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(f"{found.frames.clips} clips, {found.frames.new} + {found.features[0].new} shards new: {wall:.1f} s, "
      f"{cpu:.1f} s of processor time, anonymous {held('RssAnon') - before:+.0f} MB, resident {held('VmHWM'):.0f} MB")
"""


def main() -> None:
    """Write parts, and print what each merge costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="25,50,100,200", help="how many; the largest is written")
    parser.add_argument("--clips", type=int, default=1000, help="a part")
    args = parser.parse_args()
    counts = sorted(map(int, args.parts.split(",")))
    with tempfile.TemporaryDirectory() as temporary:
        started, number, parts = time.process_time(), 0, []
        for i in range(counts[-1]):
            parts.append(Path(temporary) / f"{i:05d}")
            number = write_part(parts[-1], number, args.clips, i + 1, counts[-1])
        print(
            f"{len(parts)} parts of {args.clips} clips: written in {time.process_time() - started:.0f} s of processor"
        )
        for count in counts:
            for again in ("", " again"):
                out = Path(temporary) / f"out-{count}"
                print(f"{count} parts{again}: {merged(out, parts[:count])}", flush=True)


def write_part(folder: Path, number: int, clips: int, part: int, of: int) -> int:
    """Write a part whose first file has this number; returns the number of the next part's first."""
    held: list[StoredClip] = []
    while len(held) < clips:
        held += windows(number, "", len(held))[: clips - len(held)]
        number += 1
    write_frames(folder / "frames", held, part)
    write_features(folder, held, part)
    note_done(Workspace(folder), [DonePart(part=part, of=of, list=None, videos=clips, failed=0)])
    return number


def write_frames(folder: Path, held: list[StoredClip], part: int) -> None:
    folder.mkdir(parents=True)
    lines, identity = [], FramePlan().identity()
    for start in range(0, len(held), FRAME_CLIPS):
        some = held[start : start + FRAME_CLIPS]
        digest = hashlib.sha256(f"{part} {start}".encode()).hexdigest()
        name = f"{digest[:20]}.safetensors"
        line, data = frames.line_of(About(name, digest, SHARD_BYTES, start + len(some), identity), some)
        (folder / name).write_bytes(b"x" * SHARD_BYTES)
        (folder / line.records).write_bytes(data)
        lines.append(line)
    covers = listing.write_list(folder, listing.first_list(), heads.list_bytes(lines))
    sealed = frames.seal(identity, held)
    heads.write_head(folder, Head(identity, {"tvr": "bench"}, None, {"/videos": ""}, covers, sealed))


def write_features(workspace: Path, held: list[StoredClip], part: int) -> None:
    identity = {
        "backbone": {"name": "bench", "temporal_shift": False}, "frames": FramePlan().identity(), "shape": "fixed",
        "words": {"shape": "fixed", "length": 32}, "importance": "none",
    }  # fmt: skip
    made = Made.of(identity, backbone="bench", dim=512, provides=("frames", "pooled", "tokens"), provenance={})
    folder = Workspace(workspace).feature_folder(made.fingerprint)
    folder.mkdir(parents=True)
    lines = []
    for start in range(0, len(held), FEATURE_CLIPS):
        keys = [clip_row_key(c.record.key, c.record.n_frames) for c in held[start : start + FEATURE_CLIPS]]
        digest = hashlib.sha256(f"{part} {start}".encode()).hexdigest()
        name, norms = f"video-{digest[:16]}.safetensors", {"video.frames": NormSum(9.5 * len(keys), len(keys))}
        line, data = feature_rows.pack(made, name, digest, SHARD_BYTES, keys, norms)
        (folder / name).write_bytes(b"x" * SHARD_BYTES)
        (folder / line.keys).write_bytes(data)
        lines.append(line)
    covers = listing.write_list(folder, listing.first_list(), features.list_bytes(lines))
    features.write_head(folder, features.Head(made, covers))


def merged(out: Path, parts: list[Path]) -> str:
    """Merge parts in a process of its own; returns what it cost, in words."""
    command = [sys.executable, "-c", RUN, str(out), *map(str, parts)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ}).stdout.strip()


if __name__ == "__main__":
    main()
