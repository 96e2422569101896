"""Bits flipped and types swapped in what a feature store says of itself: an error with a sentence, or the same answer.

A seeded sample; `TVR_FAULTS=N` tries N bits a kind of file instead.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forged_features
import pytest
import tiny_features

from faults.damage import cut, flipped, swaps
from tvr_cli.errors import DataError, StoreMismatch, TvrError
from tvr_cli.stores import verify
from tvr_cli.stores.features import rows
from tvr_cli.stores.features.head import read, read_head
from tvr_cli.stores.features.rebuild import rebuild_head
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.features.writer import FeatureWriter

BITS = int(os.environ.get("TVR_FAULTS", "120"))
KINDS = ("store.json", "shards-*.jsonl", "*.rows.json", "*.table", "*.safetensors")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_features.write(tmp_path_factory.mktemp("features")).root


def answer(folder: Path) -> Any:
    """Return everything that a store says."""
    found = FeatureStore.open(folder)
    video, text = found.video(patches=True), found.text()
    tensors = [None if x is None else x.tolist() for part in (video, text) for x in vars(part).values()]
    said = (found.identity, found.provenance, found.backbone_name, found.tensors, found.norms, found.content_hash())
    return said, tensors, list(found.clips), list(found.captions), found.provides, found.sizes


def outcome(folder: Path, whole: Any) -> tuple[bool, bool]:
    """Return whether a damage was refused where it was used, and whether the doctor sees it.

    It is a failure when it was not refused and the answer is another one.
    """
    seen = any(finding.problem for finding in verify.check(folder, None)) or verify.kind(folder) is None
    try:
        now = answer(folder)
    except (DataError, StoreMismatch) as e:
        assert len(str(e)) > 40, "a sentence"
        return True, seen
    assert now == whole
    return False, seen


@pytest.mark.parametrize("how", [flipped, cut])
@pytest.mark.parametrize("pattern", KINDS)
def test_a_fallen_bit_or_a_lost_end_is_found_or_changes_nothing(
    store: Path, tmp_path: Path, pattern: str, how: Callable[[bytes, random.Random], bytes]
) -> None:
    folder, whole = Path(shutil.copytree(store, tmp_path / store.name)), answer(store)
    draw, refused = random.Random(pattern), 0
    for _ in range(BITS if how is flipped else BITS // 4):
        path = draw.choice(sorted(folder.glob(pattern)))
        data = path.read_bytes()
        hurt = how(data, draw)
        path.write_bytes(hurt)
        found, seen = outcome(folder, whole)
        blank = pattern == "store.json" and hurt.split() == data.split()  # a blank of the layout, or the last newline
        padding = pattern == "*.table" and not found  # between the columns: nothing reads it
        assert seen or blank or padding, (path.name, how.__name__)
        refused += found
        path.write_bytes(data)
    assert refused > 0 or pattern == "*.rows.json"  # who reads does not look at these
    assert answer(folder) == whole


@pytest.mark.parametrize("forge", ["head", "identity", "corpus", "line", "rows"])
def test_swapped_types_with_checksums_that_fit_are_no_bug(store: Path, tmp_path: Path, forge: str) -> None:
    """Checksums say that nothing changed since; that it is what tvr writes, only the schema says."""
    change = getattr(forged_features, forge)
    folder = tmp_path / store.name
    shutil.copytree(store, folder)
    held: list[Any] = []
    change(folder, lambda body: held.append(json.loads(json.dumps(body))) or body)
    every = list(swaps(held[0]))
    draw, refused = random.Random(forge), 0
    tried = draw.sample(every, min(len(every), 2 * BITS))
    for what, changed in tried:
        shutil.rmtree(folder)
        shutil.copytree(store, folder)
        try:
            change(folder, lambda body, new=changed: new)
        except (TypeError, AttributeError, ValueError):
            continue  # not even a forger can seal this
        try:
            answer(folder)
            _, lines = read(folder)
            for line in lines:
                rows.read(folder, line)
        except TvrError as e:
            refused += 1
            assert e.exit_code == 3, what
        except rows.Misfit:
            refused += 1
        except Exception as e:
            raise AssertionError(f"{what}: {type(e).__name__}: {e}") from e
    assert refused > len(tried) / 5, (refused, len(tried))


@pytest.mark.parametrize("pattern", ["store.json", "shards-*.jsonl"])
def test_a_damaged_head_is_made_again_from_what_lies_beside_the_shards(
    store: Path, tmp_path: Path, pattern: str
) -> None:
    folder, whole = Path(shutil.copytree(store, tmp_path / store.name)), answer(store)
    path = next(folder.glob(pattern))
    path.write_bytes(path.read_bytes().replace(b'"', b"'", 5))
    with pytest.raises(DataError, match=f"precompute-features --repair {store.name}"):
        FeatureStore.open(folder)
    assert rebuild_head(folder) and not rebuild_head(folder)
    head, lines = read(folder)
    assert head.made == read_head(store).made and {line.name for line in lines} == {x.name for x in read(store)[1]}
    if pattern == "store.json":
        assert head.finished is None and (folder / "store.json.damaged").is_file()
        tiny_features.finish(FeatureWriter(folder, head.made))
    assert answer(folder)[1:] == whole[1:]


def test_a_lost_head_is_made_again_by_who_writes(store: Path, tmp_path: Path) -> None:
    folder, whole = Path(shutil.copytree(store, tmp_path / store.name)), answer(store)
    made = read_head(folder).made
    (folder / "store.json").unlink()
    with pytest.raises(DataError, match="holds features and no store"):
        FeatureStore.open(folder)
    writer = FeatureWriter(folder, made)
    assert writer.keys("video") and writer.keys("text")
    tiny_features.finish(writer)
    assert answer(folder) == whole


@pytest.mark.parametrize("head", [{"kind": "features", "format": 3}, {"kind": "frames", "format": 2}, {"theme": 1}])
def test_the_head_of_another_program_or_version_is_not_made_again(store: Path, tmp_path: Path, head: Any) -> None:
    folder = Path(shutil.copytree(store, tmp_path / store.name))
    (folder / "store.json").write_text(json.dumps(head))
    with pytest.raises(StoreMismatch):
        rebuild_head(folder)
    assert json.loads((folder / "store.json").read_text()) == head


def test_a_store_that_needs_a_later_reader_says_so(store: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(store, tmp_path / store.name))
    forged_features.head(folder, lambda body: {**body, "uses": ["pieces"]})
    with pytest.raises(StoreMismatch, match="uses 'pieces', which a later tvr knows"):
        FeatureStore.open(folder)
