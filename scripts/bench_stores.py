"""What opening a large frame store costs: seconds and memory, of the head alone and of all records.

python scripts/bench_stores.py --clips 1000000

The store is written with real records (files of one to three windows, 1 000 clips a shard) and shards of one byte each:
opening never reads them. Each measurement is a process of its own; `anonymous` is what its heap grew by, `resident` the
most that it held, imports included.
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

from tvr_cli import files
from tvr_cli.plans import FramePlan
from tvr_cli.stores.decoding.types import Track
from tvr_cli.stores.frames import head as heads
from tvr_cli.stores.frames import store as frames
from tvr_cli.stores.frames.head import Covered, Head
from tvr_cli.stores.frames.records import About, ClipRecord, SourceFile, StoredClip
from tvr_cli.types import clip_key

SHARD_CLIPS = 1000
STEPS = {
    "open the head": "store = FrameStore.open(folder)",
    "open, counts and content hash": "store = FrameStore.open(folder); store.counts; store.content_hash(); len(store)",
    "open and read all records": "store = FrameStore.open(folder); store.records",
}


def main() -> None:
    """Write a store and print what each step costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, help="write the store here and keep it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary) / "frames"
        started = time.process_time()
        write(folder, args.clips)
        size = sum(f.stat().st_size for f in folder.iterdir() if f.suffix != ".safetensors")
        head = sum(f.stat().st_size for f in [folder / heads.HEAD, *folder.glob("shards-*.jsonl")])
        print(
            f"{args.clips} clips: written in {time.process_time() - started:.1f} s of processor time; "
            f"head {head / 1e6:.2f} MB, all {size / 1e6:.0f} MB ({size / args.clips:.0f} bytes a clip)"
        )
        for name, step in STEPS.items():
            print(f"{name}: {measured(folder, step)}")


def write(folder: Path, clips: int) -> None:
    """Write a frame store of so many clips, shard after shard."""
    folder.mkdir(parents=True)
    lines, made, number, digest = [], 0, 0, hashlib.sha256(b"x").hexdigest()
    while made < clips:
        held: list[StoredClip] = []
        name = f"{hashlib.sha256(str(made).encode()).hexdigest()[:20]}.safetensors"
        while len(held) < min(SHARD_CLIPS, clips - made):
            held += windows(number, name, len(held))[: clips - made - len(held)]
            number += 1
        line, data = frames.line_of(About(name, digest, 1, len(held), FramePlan().identity()), held)
        (folder / name).write_bytes(b"x")
        (folder / line.records).write_bytes(data)
        lines.append(line)
        made += len(held)
    listed = heads.list_bytes(lines)
    covers = Covered(heads.first_list(), len(listed), files.write_bytes(folder / heads.first_list(), listed))
    sealed = heads.Sealed(hashlib.sha256(b"content").hexdigest(), number)
    heads.write_head(folder, Head(FramePlan().identity(), {"tvr": "bench"}, None, {"/videos": ""}, covers, sealed))


def windows(number: int, shard: str, row: int) -> list[StoredClip]:
    """Return the clips of one file: one to three windows."""
    name, sha256 = f"camera{number % 40}/GX{number:08d}.MP4", hashlib.sha256(str(number).encode()).hexdigest()
    tracks = (Track(0, "video", "h264", read=True), Track(1, "audio", "aac"))
    stamp = (10**7 + number, 1_700_000_000_000_000_000 + number, 1_700_000_000_000_000_000 + number, number)
    file = SourceFile(name, ("/videos",), stamp, 77.3, 29.97, (1, 1), tracks)
    found = []
    for i in range(number % 3 + 1):
        start, end = 25.0 * i, 25.0 * i + 30.0
        record = ClipRecord(
            f"{name}#t={start:g},{end:g}", f"/videos/{name}", start, end, clip_key(sha256, start, end), name, sha256,
            12, end - start, (start, end), 1920, 1080, "pyav", False,
        )  # fmt: skip
        found.append(StoredClip(record, file, shard, row + i))
    return found


def measured(folder: Path, step: str) -> str:
    """Run a step in a process of its own; returns what it cost, in words."""
    code = f"""
import resource, time
from pathlib import Path
from tvr_cli.stores.frames.store import FrameStore
def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e3
folder, before = Path({str(folder)!r}), anonymous()
wall, cpu = time.perf_counter(), time.process_time()
{step}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
grown = anonymous() - before
print(f"{{cpu:.3f}} s of processor time ({{wall:.3f}} s), anonymous {{grown:+.0f}} MB, resident {{most:.0f}} MB")
"""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, env={**os.environ}
    ).stdout.strip()


if __name__ == "__main__":
    main()
