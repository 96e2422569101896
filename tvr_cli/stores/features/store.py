"""Reading a feature store: what one backbone made of the clips and captions of a workspace, un-normalised.

    <workspace>/features/<fingerprint>/
        store.json                 format version, identity, sizes, what it provides, provenance
        shards.jsonl               one line a shard: name, kind, sha256, bytes, the key of each row
        video-<hash>.safetensors   features of clips, text-<hash>.safetensors of captions (`feature_shards.py`)
        clips-<hash>.json, captions-<hash>.json     the clips and captions that are in the workspace now
        state.json                 which of these two files count, and where the captions came from

Shards are found by content (a clip's key, a caption's text), so a renamed video or a caption of two videos costs
nothing. A shard counts when its line is written, the store when `state.json` is. Writing is in `feature_writer.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli import commands, files, plans
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.plans import FramePlan, WordPlan
from tvr_cli.stores.features.shards import Place, ShardLine, ShardReader, places, read_lines
from tvr_cli.stores.frames.store import ClipRecord
from tvr_cli.types import Sizes, Split, TextFeatures, VideoFeatures, caption_key

FORMAT_VERSION = 1
_HEADER = {"fingerprint", "identity", "provenance", "backbone", "dim", "provides"}


@dataclass(frozen=True, slots=True)
class StoredCaption:
    """A caption and its place in the corpus.

    key: `types.caption_key(text)`. clips: rows of `FeatureStore.clips` that it describes (every window of a file that
    was cut), the same file's all, `file_id`. source: `file:line` or the annotation file. start, end: seconds, as given.
    """

    id: str
    text: str
    key: int
    split: Split
    clips: tuple[int, ...]
    file_id: str
    source: str = ""
    start: float | None = None
    end: float | None = None


class FeatureStore:
    """A feature store opened for reading. Use `Workspace.features`, or `open`."""

    def __init__(self, root: Path, header: dict[str, Any], state: dict[str, Any], workspace: Folder | None = None):
        self.root = root
        self.workspace = workspace  # what `-o` of a command in a message names
        self.fingerprint: str = header["fingerprint"]
        self.identity: dict[str, Any] = header["identity"]
        self.corpus: dict[str, Any] = state["corpus"]
        self.provenance: dict[str, Any] = {**header["provenance"], **self.corpus}
        self.backbone_name: str = header["backbone"]
        self.word_plan = WordPlan(**self.identity["words"])
        self.word_importance: str = self.identity["importance"]
        self.provides: frozenset[str] = frozenset(header["provides"])
        self._state = state
        self._header = header

    @classmethod
    def open(cls, folder: Path, workspace: Folder | None = None) -> FeatureStore:
        """Open the store in `folder`. workspace: the one that it belongs to, for the commands in messages.

        Raises DataError when there is none, its first run was never finished or it names files elsewhere,
        StoreMismatch on another format.
        """
        header = read_header(folder, workspace)
        if not (folder / "state.json").is_file():
            raise DataError(
                f"the feature store {str(folder)!r} was begun but not finished; continue it with: "
                + _complete(folder, workspace)
            )
        return cls(folder, header, read_state(folder, workspace), workspace)

    def made_by(self, backbone: str) -> bool:
        """Whether `backbone` is a name of the backbone that made this store: the one given then, or its own."""
        return backbone in (self.backbone_name, self.identity["backbone"]["name"])

    def has_changed(self, file: Path) -> bool:
        """Whether a file that captions were read from is there and says something else than then.

        A file is known by its stamp, else by its content. tvr 0.1.0 kept neither: there a file is another one when it
        was written after the store was last brought up to date.
        """
        now, known = files.stamp(file), self.corpus.get("read", {}).get(str(file))
        if now is None or not file.is_file():
            return False
        if known is None:
            return now[1] > (self.root / "state.json").stat().st_mtime_ns
        return list(now) != known["stamp"] and files.sha256_file(file) != known["sha256"]

    # ----------------------------------------------------------------------------------------------------- the corpus

    @cached_property
    def clips(self) -> list[ClipRecord]:
        """The clips, sorted by id: the rows of `video`."""
        names = {f.name for f in dataclasses.fields(ClipRecord)}
        records = self._list("clips")
        return [
            ClipRecord(**{**{k: v for k, v in r.items() if k in names}, "span": (r["span"][0], r["span"][1])})
            for r in records
        ]

    @cached_property
    def captions(self) -> list[StoredCaption]:
        """The captions, in the order of their source: the rows of `text`."""
        records = self._list("captions")
        return [StoredCaption(**{**r, "clips": tuple(r["clips"]), "key": caption_key(r["text"])}) for r in records]

    def _list(self, what: str) -> Any:
        """Read a list that the state names. Its name is its checksum."""
        path = self.root / self._state[what]
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        if list_name(what, data) != path.name:
            found = "differs from its checksum" if data else "is missing or empty"
            raise DataError(f"{str(path)!r} {found}; make it again with: {_complete(self.root, self.workspace)}")
        return json.loads(data)

    @property
    def frame_plan(self) -> FramePlan:
        return FramePlan.from_identity(self.identity["frames"])

    @property
    def shape(self) -> str:
        """`fixed`: all F slots are kept, missing frames too; `ragged`: the real frames only."""
        return str(self.identity["shape"])

    @property
    def sizes(self) -> Sizes:
        return Sizes(int(self._header["dim"]), self._slots, self.word_plan.length)

    def split(self, name: str) -> Tensor:
        """Return the rows [n] int64 of a split's captions."""
        return torch.tensor([i for i, c in enumerate(self.captions) if c.split == name], dtype=torch.int64)

    def content_hash(self) -> str:
        """Return a hash that changes when the clips, their features or the captions change."""
        parts = (self.fingerprint, self._state["clips"], self._state["captions"])
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    # -------------------------------------------------------------------------------------------------------- features

    def video(self, index: Tensor | None = None) -> VideoFeatures:
        """Return features of clips (all, or the rows `index`), float32; ts is float64 seconds in the file.

        Raises DataError when a shard is damaged, naming the command that rebuilds it.
        """
        rows = _rows(index, len(self.clips))
        if not rows:
            empty = torch.zeros(0, self._slots, self.sizes.dim)
            none = torch.zeros(0, dtype=torch.int64)
            return VideoFeatures(none, empty, none, torch.zeros(0, self._slots, dtype=torch.float64))
        wanted = [self._video_places[i] for i in rows]
        read, width = self._reader, self._slots
        if self.shape == "fixed":
            frames, ts = read.rows(wanted, "frames"), read.rows(wanted, "frame_ts")
        else:
            frames = read.padded(wanted, "frames", "frame_offsets", width)
            ts = read.padded(wanted, "frame_ts", "frame_offsets", width)
        key = torch.tensor([self.clips[i].key for i in rows], dtype=torch.int64)
        return VideoFeatures(key, frames.float(), read.rows(wanted, "n_frames"), ts)

    def text(self, index: Tensor | None = None, *, tokens: bool = True) -> TextFeatures:
        """Return features of captions (all, or the rows `index`), float32. Raises DataError for a damaged shard.

        tokens: False leaves the features of single tokens unread, which are most of the bytes.
        """
        rows = _rows(index, len(self.captions))
        key = torch.tensor([self.captions[i].key for i in rows], dtype=torch.int64)
        length, dim = self.word_plan.length, self.sizes.dim
        with_tokens = tokens and "tokens" in self.provides
        if not rows:
            none = torch.zeros(0, length, dim) if with_tokens else None
            marks = torch.zeros(0, length, dtype=torch.uint8) if "importance" in self.provides else None
            return TextFeatures(key, torch.zeros(0, dim), none, key.clone(), marks)
        wanted, read = [self._text_places[i] for i in rows], self._reader
        each = marks = None
        if with_tokens:
            fixed = self.word_plan.shape == "fixed"
            each = read.rows(wanted, "tokens") if fixed else read.padded(wanted, "tokens", "token_offsets", length)
            each = each.float()
        if "importance" in self.provides:
            marks = read.rows(wanted, "importance")
        pooled = read.rows(wanted, "pooled").float()
        return TextFeatures(key, pooled, each, read.rows(wanted, "n_tokens"), marks)

    @cached_property
    def _lines(self) -> list[ShardLine]:
        return read_lines(self.root)

    @cached_property
    def _reader(self) -> ShardReader:
        return ShardReader(self.root, self._lines, self.workspace)

    @cached_property
    def _slots(self) -> int:
        slots = self.frame_plan.slots
        return slots if slots is not None else max((c.n_frames for c in self.clips), default=0)

    @cached_property
    def _video_places(self) -> list[Place]:
        known = places(self._lines, "video")
        return [self._found(known, clip_row_key(c.key, c.n_frames)) for c in self.clips]

    @cached_property
    def _text_places(self) -> list[Place]:
        known = places(self._lines, "text")
        return [self._found(known, text_row_key(c.text)) for c in self.captions]

    def _found(self, known: Mapping[str, Place], key: str) -> Place:
        if key not in known:
            raise DataError(
                f"the feature store {str(self.root)!r} is incomplete (a shard is missing); complete it with: "
                + _complete(self.root, self.workspace)
            )
        return known[key]


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return the name of a store's folder: a hash of its identity, 16 hexadecimal digits."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def check_identity(store: FeatureStore, identity: Mapping[str, Any], command: str) -> None:
    """Raise StoreMismatch, naming the first field that differs and the command that fixes it, unless all are equal."""
    for differing in plans.differences(store.identity, identity)[:1]:
        raise StoreMismatch(
            f"the feature store {str(store.root)!r} was made with {differing.field} = {differing.found!r}, but "
            f"{differing.wanted!r} is wanted; run: {command}"
        )


def list_name(what: str, data: bytes) -> str:
    """Return the name of the file that lists the clips or captions: it holds 16 digits of its sha256."""
    return f"{what}-{hashlib.sha256(data).hexdigest()[:16]}.json"


def clip_row_key(key: int, n_frames: int) -> str:
    """What finds a clip's features: its content key and how many of its frames could be read."""
    return f"{key & (2**64 - 1):016x}.{n_frames}"


def text_row_key(text: str) -> str:
    """What finds a caption's features: its text, whatever its spacing."""
    return hashlib.blake2b(" ".join(text.split()).encode(), digest_size=12).hexdigest()


def read_state(folder: Path, workspace: Folder | None = None) -> dict[str, Any]:
    """Read state.json of a store that was finished. Raises DataError when it is damaged or its names are not bare."""
    path = folder / "state.json"
    fix = f"move the file elsewhere and run: {_complete(folder, workspace)}"
    state = files.read_json(path, fix=fix)
    if not isinstance(state, dict) or {"clips", "captions", "corpus"} - set(state):
        raise DataError(f"{str(path)!r} is damaged (it lacks a key); {fix}")
    for what in ("clips", "captions"):
        files.bare_name(state[what], path)
    return state


def read_header(folder: Path, workspace: Folder | None = None) -> dict[str, Any]:
    """Read store.json. Raises DataError when there is no store, StoreMismatch on another kind or format version."""
    make = commands.tvr("precompute-features", backbone="NAME", workspace=workspace)
    if not (folder / "store.json").is_file():
        if (folder / "shards.jsonl").is_file():
            raise DataError(
                f"{str(folder)!r} holds features and no store.json, which says what made them. Put a copy of it back, "
                f"or name the backbone, and what fits is taken up: {make}"
            )
        raise DataError(f"expected a feature store in {str(folder)!r}, found none; run: {make}")
    again = f"put a copy of the file back, or move the folder elsewhere and name the backbone: {make}"
    header = files.read_json(folder / "store.json", fix=again)
    kind, version = (header.get("kind"), header.get("format")) if isinstance(header, dict) else (None, None)
    if kind != "features" or version != FORMAT_VERSION:
        raise StoreMismatch(
            f"{str(folder)!r}: format: this tvr reads feature stores of format {FORMAT_VERSION}, found "
            f"{kind} {version}; it is left as it is: {again}"
        )
    if _HEADER - set(header) or fingerprint_of(header["identity"]) != header["fingerprint"]:
        raise DataError(f"{str(folder / 'store.json')!r} is damaged (it does not fit its fingerprint); {again}")
    return header


def _complete(folder: Path, workspace: Folder | None) -> str:
    """The command that makes what a store misses, with the backbone and plans of that store."""
    return commands.tvr("precompute-features", repair=folder.name, workspace=workspace)


def _rows(index: Tensor | None, n: int) -> Sequence[int]:
    return range(n) if index is None else index.tolist()
