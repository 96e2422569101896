"""Bits flipped and types swapped in what a frame store says of itself: an error with a sentence, or the same answer.

A seeded sample; `TVR_FAULTS=N` tries N bits a file instead.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forged_frames
import pytest
import tiny_frames
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.errors import DataError, StoreMismatch, TvrError
from tvr_cli.stores.frames.rebuild import rebuild_head
from tvr_cli.stores.frames.store import FrameStore

BITS = int(os.environ.get("TVR_FAULTS", "250"))
OTHERS: list[Any] = [None, True, -1, 3, 2.5, float("nan"), "text", "\udc80", [], [1], [[]], {}, {"a": 1}]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("frames")
    writer = tiny_frames.write(
        out,
        [tiny_frames.clip("a.mp4", 2), tiny_frames.clip("b.mp4", 3, window=(5.0, 10.5)), tiny_frames.clip("ü.mp4", 1)],
    )
    writer.add([tiny_frames.clip("d.mp4", 4)])
    writer.set_header(captions_beside="/videos/captions.jsonl", roots={"/videos": "", "/other": "other"})
    writer.seal()
    return out / "frames"


def answer(folder: Path) -> Any:
    """Return everything that a store says."""
    found = FrameStore.open(folder)
    clips = [(c.record, [bytes(j) for j in c.jpegs], c.ts.tolist()) for c in found.read([r.id for r in found.records])]
    told = (
        found.identity,
        found.provenance,
        found.counts,
        found.video_count(),
        found.content_hash(),
        found.captions_beside,
    )
    return told, clips, [(c.file, c.row, c.slots) for c in found._clips.values()]


def is_found_or_same(folder: Path, whole: Any) -> bool:
    """Return whether a damage was found; it is a failure when it was not and the answer is another one."""
    try:
        now = answer(folder)
    except (DataError, StoreMismatch) as e:
        assert len(str(e)) > 40, "a sentence"
        return True
    assert now == whole
    return False


@pytest.mark.parametrize("pattern", ["store.json", "shards-*.jsonl", "*.records.json", "*.safetensors"])
def test_a_flipped_bit_is_found_or_changes_nothing(store: Path, tmp_path: Path, pattern: str) -> None:
    folder, whole = Path(shutil.copytree(store, tmp_path / "frames")), answer(store)
    draw, found = random.Random(pattern), 0
    tried = BITS if pattern != "*.safetensors" else BITS // 5
    for _ in range(tried):
        path = draw.choice(sorted(folder.glob(pattern)))
        data = path.read_bytes()
        bit = draw.randrange(8 * len(data))
        hurt = bytearray(data)
        hurt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(hurt)
        found += is_found_or_same(folder, whole)
        path.write_bytes(data)
    assert found > 0
    print(f"{pattern}: {found} of {tried} flipped bits were found, the others change nothing")


@pytest.mark.parametrize("pattern", ["store.json", "shards-*.jsonl", "*.records.json"])
def test_a_file_cut_anywhere_is_found(store: Path, tmp_path: Path, pattern: str) -> None:
    folder, whole = Path(shutil.copytree(store, tmp_path / "frames")), answer(store)
    path = sorted(folder.glob(pattern))[0]
    data = path.read_bytes()
    for size in range(0, len(data) - 2, max(1, len(data) // 60)):
        path.write_bytes(data[:size])
        assert is_found_or_same(folder, whole), size


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values inside a JSON value, itself left out."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, v in inner for p in [(*path, key), *places(v, (*path, key))]]


def swapped(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    inner = dict(value) if isinstance(value, dict) else list(value)
    inner[path[0]] = swapped(inner[path[0]], path[1:], other)
    return inner


def without(value: Any, path: tuple[Any, ...]) -> Any:
    inner = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1:
        del inner[path[0]]
    else:
        inner[path[0]] = without(inner[path[0]], path[1:])
    return inner


@pytest.mark.parametrize("forge", [forged_frames.head, forged_frames.line, forged_frames.records])
def test_swapped_types_with_checksums_that_fit_are_no_bug(
    store: Path, tmp_path: Path, forge: Callable[[Path, forged_frames.Change], None]
) -> None:
    """Checksums say that nothing changed since; that it is what tvr writes, only the schema says."""
    folder, seen = tmp_path / "frames", []
    shutil.copytree(store, folder)
    forge(folder, lambda body: seen.append(body) or body)
    draw, refused, tried = random.Random(0), 0, 0
    for path in places(seen[0]):
        others = draw.sample(OTHERS, 4)
        changes = [lambda body, p=path, o=other: swapped(body, p, o) for other in others]
        for change in [*changes, lambda body, p=path: without(body, p)]:
            shutil.rmtree(folder)
            shutil.copytree(store, folder)
            forge(folder, change)
            tried += 1
            try:
                answer(folder)
            except TvrError as e:
                refused += 1
                assert e.exit_code == 3
    assert refused > tried / 3
    print(f"{refused} of {tried} forged values were refused; the others are values that could be")


def test_a_store_that_needs_a_later_reader_says_so(store: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(store, tmp_path / "frames"))
    forged_frames.head(folder, lambda body: {**body, "uses": ["pieces"]})
    with pytest.raises(StoreMismatch, match="uses 'pieces', which a later tvr knows"):
        FrameStore.open(folder)


def test_frames_of_another_fit_are_not_read_as_cropped_ones(store: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(store, tmp_path / "frames"))
    for said, found in (({"fit": "stretch"}, "fit = 'stretch'"), ({"fit": "squash"}, "filter = 'pillow-bicubic short")):
        forged_frames.head(folder, lambda body, said=said: {**body, "identity": {**body["identity"], **said}})
        with pytest.raises(StoreMismatch, match=f"{found}.*, which a later tvr reads"):
            FrameStore.open(folder)


def test_slots_point_into_a_timeline(store: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(store, tmp_path / "frames"))

    def view(body: dict[str, Any]) -> dict[str, Any]:
        clips = body["clips"]
        at = clips["id"].index("b.mp4#t=5,10.5")
        clips["slots"][at], clips["n_frames"][at] = [0, 2], 2
        return body

    def fewer(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "frames": line["frames"] - 1}

    forged_frames.records(folder, view)
    forged_frames.line(folder, fewer)
    (whole,) = FrameStore.open(store).read(["b.mp4#t=5,10.5"])
    (seen,) = FrameStore.open(folder).read(["b.mp4#t=5,10.5"])
    assert seen.jpegs == [whole.jpegs[0], whole.jpegs[2]]
    assert seen.ts.tolist() == [whole.ts[0], whole.ts[2]]
    assert whole.until.tolist() == [whole.ts[1], whole.ts[2], 10.5] and seen.until.tolist() == [whole.ts[1], 10.5]
    assert json.loads((folder / "store.json").read_text())["format"] == 2


@pytest.mark.parametrize("pattern", ["store.json", "shards-*.jsonl", "both", "none of them"])
def test_a_damaged_head_is_made_again_from_the_records(store: Path, tmp_path: Path, pattern: str) -> None:
    out = tmp_path / "out"
    folder = Path(shutil.copytree(store, out / "frames"))
    whole = answer(folder)
    for path in folder.glob("*.json*" if pattern == "both" else pattern):
        if not path.name.endswith("records.json"):
            data = path.read_bytes()
            path.write_bytes(data.replace(b'"', b"'", 5) if pattern != "both" else data[: len(data) // 2])
    if pattern == "none of them":
        (folder / "store.json").unlink()
    with pytest.raises(DataError, match="extract-frames"):
        FrameStore.open(folder, out)
    mended = CliRunner().invoke(app, ["extract-frames", "--repair", "all", "-o", str(out)])
    assert mended.exit_code == 0 and "made again from the records" in mended.stderr, mended.stderr
    now, clips, places = answer(folder)
    assert (clips, places) == whole[1:]
    assert (now[0], *now[2:5]) == (whole[0][0], *whole[0][2:5])  # all but who made it, and when
    assert CliRunner().invoke(app, ["extract-frames", "--repair", "all", "-o", str(out)]).exit_code == 0


def test_what_was_replaced_does_not_come_back_with_the_head(tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = out / "frames"
    writer = tiny_frames.write(out, [tiny_frames.clip("a.mp4", 2), tiny_frames.clip("b.mp4", 1)])
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    writer.add([tiny_frames.clip("a.mp4", 4)])
    for name, data in kept.items():  # as a crash before the old files went leaves them
        if not (folder / name).exists():
            (folder / name).write_bytes(data)
            os.utime(folder / name, (1, 1))
    (folder / "store.json").write_bytes(b"{")
    assert rebuild_head(folder) and not rebuild_head(folder)
    assert {r.id: r.n_frames for r in FrameStore.open(folder).records} == {"a.mp4": 4, "b.mp4": 1}


@pytest.mark.parametrize("head", [{"kind": "frames", "format": 3}, {"kind": "features", "format": 1}, {"theme": 1}])
def test_the_head_of_another_program_or_version_is_not_made_again(store: Path, tmp_path: Path, head: Any) -> None:
    folder = Path(shutil.copytree(store, tmp_path / "frames"))
    (folder / "store.json").write_text(json.dumps(head))
    with pytest.raises(StoreMismatch):
        rebuild_head(folder)
    assert json.loads((folder / "store.json").read_text()) == head
