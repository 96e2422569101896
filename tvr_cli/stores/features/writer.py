"""Writing a feature store: shards as they are ready, then in one step the clips and captions that now count.

Runs under the lock of the store's folder. Every step ends with a new head, after all that it covers is on the disk: a
crash leaves whole shards, which the next run takes over, and the clips and captions of before. Files that nothing
refers to any more are removed after the new head stands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli import files
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.log import logger
from tvr_cli.removal import listed
from tvr_cli.schema import Misfit
from tvr_cli.stores import listing
from tvr_cli.stores.columns import TABLE, Table
from tvr_cli.stores.features import films, rebuild, rows
from tvr_cli.stores.features import head as heads
from tvr_cli.stores.features.films import FilmFeatures
from tvr_cli.stores.features.head import Finished, Head, Kind, Made, ShardLine
from tvr_cli.stores.features.shards import norm_sums, offsets
from tvr_cli.stores.features.tables import (
    NOWHERE,
    Place,
    StoredCaption,
    content_of,
    pack_captions,
    pack_clips,
)
from tvr_cli.stores.frames.store import ClipRecord
from tvr_cli.types import TextFeatures, VideoFeatures

# Names that only a feature store gives: nothing else in the folder is ever deleted. The last are of format 1.
_OWN = (heads.SHARD, heads.ROWS, listing.LIST, TABLE, re.compile(r"(clips|captions)-[0-9a-f]{16}\.json"))
_NAMES = "|".join(pattern.pattern for pattern in _OWN)
_TEMPORARY = re.compile(rf"({_NAMES}|(store|state)\.json|shards\.jsonl)\.\d+\.tmp")
_BEFORE_THE_HEAD = {".lock", "store.json.damaged"}  # what may be there, besides its own files, before store.json is


class FeatureWriter:
    """One feature store opened for writing; the caller holds the lock of its folder."""

    def __init__(self, folder: Path, made: Made, workspace: Folder | None = None):
        """Begin or continue the store. made: what makes it, where it is begun. workspace: as in `FeatureStore.open`.

        Raises StoreMismatch on another format version or where something else is in the folder, DataError where it is
        damaged.
        """
        self.root = folder
        require_own(folder, workspace)
        if not (folder / listing.HEAD).is_file():
            begin(folder, made)
        self._head, lines = heads.read(folder, workspace)
        self._covered = list(lines)
        self._digest = hashlib.sha256(heads.covered_bytes(folder, self._head, workspace))
        self._keys: dict[str, tuple[str, ...]] = {}
        self._lines = [line for line in lines if self._whole(line)]

    @property
    def made(self) -> Made:
        return self._head.made

    def keys(self, kind: Kind) -> set[str]:
        """Return the keys of all rows that are there."""
        return {key for line in self._lines if line.kind == kind for key in self._keys[line.name]}

    def size_bytes(self) -> int:
        """Return the size of all shards."""
        return sum(line.size_bytes for line in self._lines)

    def add_video(self, keys: Sequence[str], video: VideoFeatures, dtype: torch.dtype) -> None:
        """Write the features of some clips as one shard.

        Raises DataError for a value that `dtype` cannot hold, ValueError where something is missing that the store has.
        """
        fixed, lengths = self.made.identity["shape"] == "fixed", video.n_frames.tolist()
        tensors = {"key": video.key, "n_frames": video.n_frames}
        slotted = {"frames": video.frames, "patches": video.patches}
        held = {name: self._required(f"video.{name}", x) for name, x in slotted.items() if self._has(f"video.{name}")}
        if held:
            held["frame_ts"] = video.ts
        if held and not fixed:
            held = {name: torch.cat([x[:n] for x, n in zip(all_, lengths, strict=True)]) for name, all_ in held.items()}
            tensors["frame_offsets"] = offsets(lengths)
        tensors |= {name: x if name == "frame_ts" else _cast(x, dtype, name) for name, x in held.items()}
        if self._has("video.pooled"):
            tensors["pooled"] = _cast(self._required("video.pooled", video.pooled), dtype, "pooled")
        self._write("video", keys, tensors)

    def add_films(self, some: Sequence[FilmFeatures], dtype: torch.dtype) -> None:
        """Write the features of films as one shard. Raises as `add_video` does."""
        for film in some:
            self._required("timeline.frames", film.frames)
        tensors = films.pack(some)
        tensors["frames"] = _cast(tensors["frames"], dtype, "frames")
        self._write("timeline", [films.film_row_key(film.key) for film in some], tensors)

    def add_text(self, keys: Sequence[str], text: TextFeatures, dtype: torch.dtype) -> None:
        """Write the features of some captions as one shard. Raises as `add_video` does."""
        pooled = self._required("text.pooled", text.pooled)
        tensors = {"key": text.key, "n_tokens": text.n_tokens, "pooled": _cast(pooled, dtype, "pooled")}
        if self._has("text.tokens"):
            each = self._required("text.tokens", text.tokens)
            if self.made.identity["words"]["shape"] != "fixed":
                lengths = text.n_tokens.tolist()
                each = torch.cat([t[:n] for t, n in zip(each, lengths, strict=True)])
                tensors["token_offsets"] = offsets(lengths)
            tensors["tokens"] = _cast(each, dtype, "tokens")
        if self._has("text.importance"):
            if text.importance is None:
                raise ValueError("expected marks of content words (text.importance), which this store has; found none")
            tensors["importance"] = text.importance
        self._write("text", keys, tensors)

    def drop(self, name: str) -> bool:
        """Forget a shard, so that its rows are made again. False when there is no such shard."""
        gone = [line for line in self._covered if line.name == name]
        if not gone:
            return False
        self._lines = [line for line in self._lines if line.name != name]
        self._commit_lines()
        for file in (name, *(line.keys for line in gone)):
            (self.root / file).unlink(missing_ok=True)
        return True

    def finish(
        self,
        clips: Sequence[ClipRecord],
        captions: Sequence[StoredCaption],
        corpus: Mapping[str, Any],
        timelines: Iterable[str] = (),
    ) -> bool:
        """Make `clips` and `captions` what the store contains. Returns False when that is what it contained already.

        timelines: the rows of films that stay.
        """
        clip_keys = [rows.clip_row_key(c.key, c.n_frames) for c in clips]
        text_keys = [rows.text_row_key(c.text) for c in captions]
        live = {*clip_keys, *text_keys, *timelines}
        self._lines = [line for line in self._lines if not live.isdisjoint(self._keys[line.name])]
        finished = Finished(
            clips=self._write_table(*pack_clips(clips, self._places("video", clip_keys))),
            captions=self._write_table(*pack_captions(captions, self._places("text", text_keys))),
            content=content_of(self.made.fingerprint, clips, captions),
            frameless=sum(not c.n_frames for c in clips),
            corpus=dict(corpus),
        )
        before = self._head.finished
        if before == finished and self._lines == self._covered:
            os.utime(self.root / listing.HEAD)  # the store that was asked for last is the newest
        else:
            self._head = dataclasses.replace(self._head, finished=finished, norms=heads.mean_norms(self._lines))
            self._commit_lines()
        self._drop_orphans()
        return before != finished

    # ---------------------------------------------------------------------------------------------------------- private

    def _has(self, name: str) -> bool:
        return name in self.made.tensors

    def _required(self, name: str, x: Tensor | None) -> Tensor:
        """Return a tensor that this store has. Raises ValueError where it is missing or has another dimension."""
        dim = self.made.tensors[name].dim
        if x is None or x.shape[-1] != dim:
            found = "none" if x is None else f"those of {x.shape[-1]} values"
            raise ValueError(f"expected vectors of {dim} values for {name}, which this store has; found {found}")
        return x

    def _write(self, kind: Kind, keys: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save

        metadata = {"format": "tvr/features@1", "kind": kind}  # shards are those of format 1
        held = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
        data = save(held, metadata=metadata)
        digest = hashlib.sha256(data).hexdigest()
        name = f"{kind}-{digest[:16]}.safetensors"
        line, said = rows.pack(self.made, name, digest, len(data), keys, norm_sums(kind, held))
        files.write_bytes(self.root / name, data)
        files.write_bytes(self.root / line.keys, said)
        before = self._lines == self._covered
        self._keys[name] = tuple(keys)
        self._lines = [*(old for old in self._lines if old.name != name), line]
        if before and self._lines[:-1] == self._covered:
            self._append(line)
        else:
            self._commit_lines()

    def _append(self, line: ShardLine) -> None:
        covers = listing.append(self.root, self._head.shards, self._digest, heads.list_bytes([line]))
        self._covered = list(self._lines)
        self._commit(dataclasses.replace(self._head, shards=covers))

    def _commit_lines(self) -> None:
        """Replace the list where other shards count now, and the head in any case."""
        head = self._head
        if self._lines != self._covered:
            data = heads.list_bytes(self._lines)
            covers = listing.write_list(self.root, listing.next_list(head.shards.name), data)
            head = dataclasses.replace(head, shards=covers)
            self._covered, self._digest = list(self._lines), hashlib.sha256(data)
        self._commit(head)

    def _commit(self, head: Head) -> None:
        heads.write_head(self.root, head)
        self._head = head

    def _places(self, kind: Kind, keys: Sequence[str]) -> list[Place]:
        known = rows.places(((line, self._keys[line.name]) for line in self._lines), kind)
        return [known.get(key, NOWHERE) for key in keys]

    def _write_table(self, table: Table, data: bytes) -> Table:
        path = self.root / table.file
        if not (path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data):
            files.write_bytes(path, data)
        return table

    def _drop_orphans(self) -> None:
        """Delete files that the head does not cover."""
        drop_orphans(self.root, self._head, self._lines)

    def _whole(self, line: ShardLine) -> bool:
        """Whether a shard is there in its full size, with the keys of its rows; its checksum is verified when read."""
        path = self.root / line.name
        if not path.is_file() or path.stat().st_size != line.size_bytes:
            logger.warning("shard %s is missing or has another size; its rows are made again", line.name)
            return False
        try:
            self._keys[line.name] = rows.read(self.root, line)
        except Misfit as e:
            logger.warning("shard %s: %s; its rows are made again", line.name, e)
            return False
        return True


def drop_orphans(folder: Path, head: Head, lines: Iterable[ShardLine]) -> None:
    """Delete files of a store that its head does not cover: what a stop left, what was replaced, what 0.1.0 wrote."""
    names = {head.shards.name, *(name for line in lines for name in (line.name, line.keys))}
    if head.finished is not None:
        names |= {head.finished.clips.file, head.finished.captions.file}
    old = {"state.json", heads.OLD_LIST}
    for path in list(folder.iterdir()):
        ours = any(pattern.fullmatch(path.name) for pattern in (*_OWN, _TEMPORARY)) or path.name in old
        if ours and path.name not in names:
            with contextlib.suppress(OSError):  # a reader on Windows may hold it open; the next run removes it
                path.unlink()


def require_own(folder: Path, workspace: Folder | None = None) -> None:
    """Raise StoreMismatch (or DataError) unless `folder` is a feature store or holds nothing but parts of one.

    Shards whose store.json was lost are taken over: each is found by what it holds. workspace: as in `FeatureWriter`.
    """
    if (folder / listing.HEAD).is_file():
        heads.read_head(folder, workspace)
        return
    if (folder / heads.OLD_LIST).exists():
        heads.require_head(folder, workspace)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    there -= _BEFORE_THE_HEAD
    own = (*_OWN, _TEMPORARY)
    if others := [name for name in there if not any(pattern.fullmatch(name) for pattern in own)]:
        raise StoreMismatch(
            f"{str(folder)!r} holds something else than a feature store: {listed(others)}; nothing was written there. "
            "Move it elsewhere, or choose another workspace with -o"
        )


def begin(folder: Path, made: Made) -> None:
    """Write the head of a new store; what lies in its folder of a lost one of the same identity is taken up."""
    lines = [held.line for held in rebuild.held(folder) if held.made.fingerprint == made.fingerprint]
    rebuild.write(folder, made, lines)


def _cast(x: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    out = x.to(dtype)
    if not torch.isfinite(out).all():
        fix = "--dtype fp32" if torch.isfinite(x).all() else "another backbone or precision"
        raise DataError(
            f"the {what} features hold values that are not finite numbers as {str(dtype).removeprefix('torch.')}; "
            f"nothing of this shard was written; run again with {fix}"
        )
    return out
