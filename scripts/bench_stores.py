"""What opening large stores of frames and of features costs: seconds and memory, of the head alone and of all records.

python scripts/bench_stores.py --clips 1000000

The stores are written with real records (files of one to three windows; 1 000 clips a shard of frames, 128 a shard of
features, a caption for ten clips) and shards of one byte each: opening never reads them. Each measurement is a process
of its own; `anonymous` is what its heap grew by, `resident` the most that it held, imports included.
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
from tvr_cli.stores import listing
from tvr_cli.stores.decoding.types import Track
from tvr_cli.stores.features import head as features
from tvr_cli.stores.features import rows as feature_rows
from tvr_cli.stores.features.head import Finished, Made, NormSum, ShardLine
from tvr_cli.stores.features.rows import clip_row_key, text_row_key
from tvr_cli.stores.features.tables import StoredCaption, content_of, pack_captions, pack_clips
from tvr_cli.stores.frames import head as heads
from tvr_cli.stores.frames import store as frames
from tvr_cli.stores.frames.head import Head
from tvr_cli.stores.frames.records import About, ClipRecord, SourceFile, StoredClip
from tvr_cli.types import SPLITS, caption_key, clip_key

SHARD_CLIPS = 1000
FEATURE_CLIPS = 128
IMPORTS = {
    "frames": "from tvr_cli.stores.frames.store import FrameStore",
    "features": "import torch; from tvr_cli.stores.features.store import FeatureStore",
}
FRAMES = {
    "open the head": "store = FrameStore.open(folder)",
    "open, counts and content hash": "store = FrameStore.open(folder); store.counts; store.content_hash(); len(store)",
    "open and read all records": "store = FrameStore.open(folder); store.records",
}


FEATURES = {
    "open": "store = FeatureStore.open(folder); len(store.clips), len(store.captions)",
    "open, and the columns that an evaluation reads": (
        "store = FeatureStore.open(folder); store.clips.key; store.clips.file; store.clips.file_ids; "
        "store.split('test')"
    ),
    "open, and the places and records of 1 024 clips": (
        "store = FeatureStore.open(folder); rows = torch.arange(0, len(store.clips), len(store.clips) // 1024); "
        "store.clips.take(rows.tolist()); store.clips.places(rows)"
    ),
    "open, and make every record": "store = FeatureStore.open(folder); sum(1 for _ in store.clips)",
}


def main() -> None:
    """Write two stores and print what each step costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--only", choices=("frames", "features"))
    parser.add_argument("--keep", type=Path, help="write the stores here and keep them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = args.keep or Path(temporary)
        for kind, write, steps in (("frames", write_frames, FRAMES), ("features", write_features, FEATURES)):
            if args.only not in (None, kind):
                continue
            folder = root / kind
            started = time.process_time()
            write(folder, args.clips)
            size = sum(f.stat().st_size for f in folder.iterdir() if f.suffix != ".safetensors")
            head = sum(f.stat().st_size for f in [folder / listing.HEAD, *folder.glob("shards-*.jsonl")])
            print(
                f"{kind}, {args.clips} clips: written in {time.process_time() - started:.1f} s of processor time; "
                f"head {head / 1e6:.2f} MB, all {size / 1e6:.0f} MB ({size / args.clips:.0f} bytes a clip)"
            )
            for name, step in steps.items():
                print(f"{name}: {measured(folder, step)}")


def write_frames(folder: Path, clips: int) -> None:
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
    covers = listing.write_list(folder, listing.first_list(), listed)
    sealed = heads.Sealed(hashlib.sha256(b"content").hexdigest(), number)
    heads.write_head(folder, Head(FramePlan().identity(), {"tvr": "bench"}, None, {"/videos": ""}, covers, sealed))


def write_features(folder: Path, clips: int) -> None:
    """Write a feature store of so many clips and a tenth as many captions, shard after shard."""
    folder.mkdir(parents=True)
    identity = {
        "backbone": {"name": "bench", "temporal_shift": False}, "frames": FramePlan().identity(), "shape": "fixed",
        "words": {"shape": "fixed", "length": 32}, "importance": "none",
    }  # fmt: skip
    made = Made.of(identity, backbone="bench", dim=512, provides=("frames", "pooled", "tokens"), provenance={})
    held: list[ClipRecord] = []
    number = 0
    while len(held) < clips:
        held += [clip.record for clip in windows(number, "", 0)]
        number += 1
    held = sorted(held[:clips], key=lambda record: record.id)
    texts = [f"a sentence about the film of camera number {i}" for i in range(clips // 10)]
    captions = [
        StoredCaption(f"c{i}", text, caption_key(text), SPLITS[i % 3], (10 * i,), held[10 * i].file_id, f"x.jsonl:{i}")
        for i, text in enumerate(texts)
    ]
    lines: list[ShardLine] = []
    at = shards_of("video", [clip_row_key(r.key, r.n_frames) for r in held], folder, made, lines)
    of = shards_of("text", [text_row_key(text) for text in texts], folder, made, lines)
    tables = pack_clips(held, at), pack_captions(captions, of)
    for table, data in tables:
        files.write_bytes(folder / table.file, data)
    content = content_of(made.fingerprint, held, captions)
    finished = Finished(tables[0][0], tables[1][0], content, 0, {"captions": "/x.jsonl"})
    covers = listing.write_list(folder, listing.first_list(), features.list_bytes(lines))
    features.write_head(folder, features.Head(made, covers, features.mean_norms(lines), finished))


def shards_of(kind: str, keys: list[str], folder: Path, made: Made, lines: list[ShardLine]) -> list[tuple[str, int]]:
    """Write shards of one byte for rows with these keys; returns where each row is."""
    rows = FEATURE_CLIPS if kind == "video" else 16 * FEATURE_CLIPS
    norms = {"video": {"video.frames": NormSum(9.5 * rows, rows)}, "text": {"text.pooled": NormSum(8.5 * rows, rows)}}
    places = []
    for start in range(0, len(keys), rows):
        some = keys[start : start + rows]
        digest = hashlib.sha256(f"{kind}{start}".encode()).hexdigest()
        name = f"{kind}-{digest[:16]}.safetensors"
        line, data = feature_rows.pack(made, name, digest, 1, some, norms[kind])
        (folder / name).write_bytes(b"x")
        (folder / line.keys).write_bytes(data)
        lines.append(line)
        places += [(name, row) for row in range(len(some))]
    return places


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
import time
from pathlib import Path
{IMPORTS[folder.name]}
def held(what):
    for line in open("/proc/self/status"):
        if line.startswith(what):
            return int(line.split()[1]) / 1e3
folder, before = Path({str(folder)!r}), held("RssAnon")
wall, cpu = time.perf_counter(), time.process_time()
{step}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
most, grown = held("VmHWM"), held("RssAnon") - before
print(f"{{cpu:.3f}} s of processor time ({{wall:.3f}} s), anonymous {{grown:+.0f}} MB, resident {{most:.0f}} MB")
"""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, env={**os.environ}
    ).stdout.strip()


if __name__ == "__main__":
    main()
