"""Reading a feature store: what one backbone made of the clips and captions of a workspace, un-normalised.

    <workspace>/features/<fingerprint>/
        store.json                 the head: identity, tensors, mean norms, and what the store contains (head.py)
        shards-<n>.jsonl           one line a shard: checksums of it and of its rows, norms of its vectors
        video-<hash>.safetensors   features of clips, text-<hash>.safetensors of captions (shards.py)
        <shard>.<hash>.rows.json   what each row of a shard is (rows.py); read by who writes, not by who reads
        clips-<hash>.table, captions-<hash>.table     the clips and captions that are in the workspace now (tables.py)

Opening costs the head and the list; a clip or caption is a row of a mapped table, verified when it is read. A step
counts when the head is replaced (`stores/listing.py`). Writing is in `writer.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli import files, plans
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError, EnvironmentProblem, StoreMismatch
from tvr_cli.imported import Imported
from tvr_cli.plans import FramePlan, WordPlan
from tvr_cli.scale import Scale
from tvr_cli.stores import listing
from tvr_cli.stores.columns import Columns, Table
from tvr_cli.stores.features import head as heads
from tvr_cli.stores.features.columns import CAPTIONS, CLIPS
from tvr_cli.stores.features.films import Films
from tvr_cli.stores.features.head import SHORT, Finished, Head, ShardLine, fingerprint_of
from tvr_cli.stores.features.rows import clip_row_key, text_row_key
from tvr_cli.stores.features.scale import scale_of
from tvr_cli.stores.features.shards import ShardReader, damaged
from tvr_cli.stores.features.tables import Captions, Clips, Place, StoredCaption
from tvr_cli.stores.table import MappedTable, rows_of
from tvr_cli.types import Sizes, TextFeatures, VideoFeatures

__all__ = ["FeatureStore", "StoredCaption", "check_identity", "clip_row_key", "fingerprint_of", "text_row_key"]


class FeatureStore:
    """A feature store opened for reading. Use `Workspace.features`, or `open`.

    norms: mean L2 norm of the real vectors of each tensor, by its full name. frameless: clips without a frame.
    """

    def __init__(
        self,
        root: Path,
        head: Head,
        finished: Finished,
        lines: Sequence[ShardLine],
        workspace: Folder | None = None,
    ):
        self.root = root
        self.workspace = workspace  # what `-o` of a command in a message names
        made = self._made = head.made
        self.fingerprint: str = made.fingerprint
        self.identity: dict[str, Any] = dict(made.identity)
        self.corpus: dict[str, Any] = dict(finished.corpus)
        self.provenance: dict[str, Any] = {**made.provenance, **self.corpus}
        self.backbone_name: str = made.backbone
        self.tensors = made.tensors
        self.norms: Mapping[str, float] = head.norms
        self.word_plan = WordPlan(**self.identity["words"])
        self.word_importance: str = self.identity["importance"]
        self.frameless: int = finished.frameless
        self.provides: frozenset[str] = _provides(self.tensors, finished.frameless)
        self._lines = {line.name: line for line in lines}
        self._reader = ShardReader(root, lines, workspace)
        self._finished = finished

    @classmethod
    def open(cls, folder: Path, workspace: Folder | None = None) -> FeatureStore:
        """Open the store in `folder`. workspace: the one that it belongs to, for the commands in messages.

        Raises DataError when there is none, its first run was never finished or it is damaged, StoreMismatch on
        another format.
        """
        store = cls.find(folder, workspace)
        if store is None:
            raise unfinished(folder, workspace)
        return store

    @classmethod
    def find(cls, folder: Path, workspace: Folder | None = None) -> FeatureStore | None:
        """Open the store in `folder`, None when its first run was never finished. Raises as `open` does."""
        return cls.of(folder, *heads.read(folder, workspace), workspace)

    @classmethod
    def of(
        cls, folder: Path, head: Head, lines: Sequence[ShardLine], workspace: Folder | None = None
    ) -> FeatureStore | None:
        """Open the store of a head and its list that were read, None when its first run was never finished."""
        if head.finished is None:
            return None
        store = cls(folder, head, head.finished, lines, workspace)
        for table in ("clips", "captions"):  # mapped while they are there: what is wrong is said when it is needed
            with contextlib.suppress(DataError, EnvironmentProblem):
                getattr(store, table)
        return store

    def made_by(self, backbone: str) -> bool:
        """Whether `backbone` is a name of the backbone that made this store: the one given then, or its own."""
        return self._made.made_by(backbone)

    def has_changed(self, file: Path) -> bool:
        """Whether a file that captions were read from is there and says something else than then.

        A file is known by its stamp, else by its content. tvr 0.1.0 kept neither: there a file is another one when it
        was written after the store was last brought up to date.
        """
        now, known = files.stamp(file), self.corpus.get("read", {}).get(str(file))
        if now is None or not file.is_file():
            return False
        if known is None:
            return now[1] > (self.root / listing.HEAD).stat().st_mtime_ns
        return list(now) != known["stamp"] and files.sha256_file(file) != known["sha256"]

    @cached_property
    def clips(self) -> Clips:
        """The clips, sorted by id: the rows of `video`. Raises DataError where their table is damaged."""
        return Clips(self._table(self._finished.clips, CLIPS))

    @cached_property
    def captions(self) -> Captions:
        """The captions, in the order of their source: the rows of `text`. Raises as `clips` does."""
        return Captions(self._table(self._finished.captions, CAPTIONS))

    @property
    def imported(self) -> Imported | None:
        """What is known of features that somebody else computed, None of those that were computed here."""
        return self._made.imported

    @property
    def import_again(self) -> str:
        """The command that imports it again, where it is imported."""
        assert self.imported is not None, "the caller asked"
        return heads.import_again(self.corpus, self.backbone_name, self.imported, self.workspace)

    def require_encoder(self) -> None:
        """Raise DataError where nothing can encode sentences for it: imported features whose backbone nobody named."""
        if self._made.names_backbone:
            return
        raise DataError(
            f"the features in {str(self.root)!r} were imported without the name of their backbone, so no sentence can "
            "be encoded for them; import them again with --backbone NAME, where one of tvr's made them"
        )

    @property
    def shape(self) -> str:
        """`fixed`: all F slots are kept, missing frames too; `ragged`: the real frames only."""
        return str(self.identity["shape"])

    @property
    def sizes(self) -> Sizes:
        """D is that of frames, else of one vector a clip, else of captions."""
        first = next(name for name in ("video.frames", "video.pooled", "text.pooled") if name in self.tensors)
        return Sizes(self._dim(first), self._slots, self.word_plan.length)

    @property
    def scale(self) -> Scale:
        """What brings its features to the length of CLIP's, for the methods that count on it."""
        return scale_of(self.identity["backbone"]["name"], self.norms, self.provenance)

    @property
    def shard_count(self) -> int:
        return len(self._lines)

    @property
    def has_films(self) -> bool:
        """Whether it has the frames of files by time, besides clips."""
        return "timeline.frames" in self.tensors

    @cached_property
    def films(self) -> Films:
        """The frames of files by time. Raises DataError for a damaged shard."""
        return Films(self._reader, [line.name for line in self._lines.values() if line.kind == "timeline"])

    def split(self, name: str) -> Tensor:
        """Return the rows [n] int64 of a split's captions."""
        return self.captions.split(name)

    def content_hash(self) -> str:
        """Return a hash that changes when the clips, their features or the captions change."""
        return self._finished.content

    # -------------------------------------------------------------------------------------------------------- features

    def video(self, index: Tensor | None = None, *, patches: bool = False) -> VideoFeatures:
        """Return features of clips (all, or the rows `index`), float32; ts is float64 seconds in the file.

        patches: read the features of single patches too, where the store has them; they are most of its bytes. Raises
        DataError when a shard is damaged, naming the command that rebuilds it.
        """
        rows = rows_of(range(len(self.clips)) if index is None else index)
        key = self.clips.table.rows("key", rows)
        wanted, read = self._places(self.clips, rows), self._reader
        n_frames = read.rows(wanted, "n_frames") if wanted else key.clone()
        pooled = self._vectors(wanted, "video.pooled")
        if "video.frames" not in self.tensors:
            nothing = torch.zeros(len(rows), 0, self.sizes.dim)
            return VideoFeatures(key, nothing, n_frames, torch.zeros(len(rows), 0, dtype=torch.float64), pooled)
        each = None
        if patches and "video.patches" in self.tensors:
            each = self._slotted(wanted, "patches", (0, self._dim("video.patches"))).float()
        frames = self._slotted(wanted, "frames", (self._dim("video.frames"),)).float()
        return VideoFeatures(key, frames, n_frames, self._slotted(wanted, "frame_ts", ()).double(), pooled, each)

    def text(self, index: Tensor | None = None, *, tokens: bool = True) -> TextFeatures:
        """Return features of captions (all, or the rows `index`), float32. Raises DataError for a damaged shard.

        tokens: False leaves the features of single tokens unread, which are most of the bytes.
        """
        rows = rows_of(range(len(self.captions)) if index is None else index)
        key = self.captions.table.rows("key", rows)
        length = self.word_plan.length
        with_tokens = tokens and "text.tokens" in self.tensors
        with_marks = "text.importance" in self.tensors
        if not len(rows):
            none = torch.zeros(0, length, self._dim("text.tokens")) if with_tokens else None
            marks = torch.zeros(0, length, dtype=torch.uint8) if with_marks else None
            return TextFeatures(key, torch.zeros(0, self._dim("text.pooled")), none, key.clone(), marks)
        wanted, read = self._places(self.captions, rows), self._reader
        each = None
        if with_tokens:
            fixed = self.word_plan.shape == "fixed"
            each = read.rows(wanted, "tokens") if fixed else read.padded(wanted, "tokens", "token_offsets", length)
            each = each.float()
        pooled = read.rows(wanted, "pooled").float()
        marks = read.rows(wanted, "importance") if with_marks else None
        return TextFeatures(key, pooled, each, read.rows(wanted, "n_tokens"), marks)

    @cached_property
    def _slots(self) -> int:
        if "video.frames" not in self.tensors:
            return 0
        imported = self.imported
        slots = FramePlan.from_identity(self.identity["frames"]).slots if imported is None else imported.num_frames
        if slots is not None or not len(self.clips):
            return slots or 0
        return int(self.clips.n_frames.max())

    def _dim(self, name: str) -> int:
        stored = self.tensors.get(name)
        return 0 if stored is None or stored.dim is None else stored.dim

    def _vectors(self, wanted: Sequence[Place], name: str) -> Tensor | None:
        """Return a tensor of one vector an item, None where the store has none."""
        if name not in self.tensors:
            return None
        return self._reader.rows(wanted, name.partition(".")[2]).float() if wanted else torch.zeros(0, self._dim(name))

    def _slotted(self, wanted: Sequence[Place], field: str, row: tuple[int, ...]) -> Tensor:
        """Return what each frame slot has. row: the shape of one, where nothing is wanted."""
        if not wanted:
            return torch.zeros(0, self._slots, *row)
        if self.shape == "fixed":
            return self._reader.rows(wanted, field)
        return self._reader.padded(wanted, field, "frame_offsets", self._slots)

    def _places(self, records: Clips | Captions, rows: Tensor) -> list[Place]:
        """Return where features are. Raises DataError where a shard does not count (any more) or is too short."""
        found = records.places(rows)
        for name in dict.fromkeys(name for name, _ in found):
            if name not in self._lines:
                raise DataError(
                    f"the feature store {str(self.root)!r} is incomplete (a shard is missing); complete it with: "
                    + heads.complete(self.root, self.workspace)
                )
        for name, row in found:
            if row >= self._lines[name].rows:
                raise damaged(self.root, name, f"it has no row {row}", self.workspace)
        return found

    def without_features(self, records: Clips | Captions) -> int:
        """Return how many of its clips or captions no shard has that counts: 0 unless the store is incomplete."""
        return sum(name not in self._lines for name, _ in records.places(torch.arange(len(records))))

    def _table(self, table: Table, columns: Columns) -> MappedTable:
        return MappedTable(self.root, table, columns, lambda found: damaged_table(found, self.root, self.workspace))


def unfinished(folder: Path, workspace: Folder | None) -> DataError:
    """Return the error for a store whose first run was never finished."""
    return DataError(
        f"the feature store {str(folder)!r} was begun but not finished; continue it with: "
        + heads.complete(folder, workspace)
    )


def damaged_table(found: str, folder: Path, workspace: Folder | None) -> DataError:
    """Return the error for a table of clips or captions that is not what the head says."""
    return DataError(f"{found}; make it again with: {heads.complete(folder, workspace)}")


def check_identity(store: FeatureStore, identity: Mapping[str, Any], command: str) -> None:
    """Raise StoreMismatch, naming the first field that differs and the command that fixes it, unless all are equal."""
    for differing in plans.differences(store.identity, identity)[:1]:
        raise StoreMismatch(
            f"the feature store {str(store.root)!r} was made with {differing.field} = {differing.found!r}, but "
            f"{differing.wanted!r} is wanted; run: {command}"
        )


def _provides(tensors: Mapping[str, Any], frameless: int) -> frozenset[str]:
    """Return what methods can use: frames, and what is made of them, only where every clip has one."""
    names = {SHORT.get(name, name) for name in tensors}
    return frozenset({name for name in names if not name.startswith(("frames", "video."))} if frameless else names)
