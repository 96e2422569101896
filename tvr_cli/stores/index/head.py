"""The head of an index: what one generation of it is made of, as its store.json says. No torch, nothing is opened.

A generation is a list of segments, oldest first; the rows of an index are the rows of its segments, one after the
other. A segment is a set of parts, one file each: `coarse`, the method's tensors (`t.NAME`), columns of clips and of
files. Docs/formats.md has every byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvr_cli import files, schema
from tvr_cli.stores.parts import DTYPE, Part

INDEX_FORMAT = 2
HEAD = "store.json"
COLUMNS: Mapping[str, str] = {
    "coarse": "float16", "key": "int64", "n_frames": "int32", "ts": "float64", "clip.file": "int32",
    "clip.start": "float64", "clip.end": "float64", "clip.id.offsets": "int64", "clip.id.bytes": "uint8",
    "file.id.offsets": "int64", "file.id.bytes": "uint8", "file.path.offsets": "int64", "file.path.bytes": "uint8",
}  # fmt: skip
# Frames and moments of films by time (`timeline.py`): type, and what a row of it is besides its own number.
TIMELINE: Mapping[str, tuple[str, str]] = {
    "timeline.frames": ("float16", "frame"),
    "timeline.ts": ("float64", "frame"), "timeline.until": ("float64", "frame"),
    "timeline.seen": ("float64", "frame"),
    "timeline.moment": ("int32", "moment"), "timeline.file": ("int32", "moment"),
    "timeline.length": ("float32", "moment"), "timeline.null": ("float32", "moment"),
    "timeline.mild": ("float32", "moment"),
}  # fmt: skip
LATER = frozenset({"timeline.mild", "timeline.seen"})  # of these, what an index may lack that was made before
ROOM = ("timeline.", "null.")  # parts that may come later: checked as the others, left alone by who does not know them


@dataclass(frozen=True, slots=True)
class Segment:
    """Clips that were added together. sums: the file of the checksums of all groups of all parts, in their order."""

    clips: int
    files: int
    parts: tuple[Part, ...]
    sums: str
    sums_sha256: str

    def names(self) -> list[str]:
        """Return the files of the segment."""
        return [self.sums, *(part.file for part in self.parts)]

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)


@dataclass(frozen=True, slots=True)
class Kept:
    """How a tensor of the method's encoding is kept. dtype: as the method made it, and as it is given back.

    in_coarse: it is the coarse vector of the clip, so it has no part of its own.
    """

    dtype: str
    in_coarse: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Where the clips of an index are, where not in segments: a table of LanceDB (`lance_index.py`).

    uri: what holds it, None = the workspace, with which it moves. version: of the table, the one that counts. rows,
    files: in it. parts: name -> type and shape of a row, of coarse vectors, times and the method's tensors. memory:
    bytes that coarse vectors may take; where they take more, `probes` cells of so many are searched. null: sentences.
    """

    uri: str | None
    name: str
    version: int
    rows: int
    files: int
    parts: Mapping[str, tuple[str, tuple[int, ...]]]
    memory: int
    probes: int | None = None
    null: Sequence[str] = ()

    @property
    def is_searched_by_cells(self) -> bool:
        return self.probes is not None

    def to_json(self) -> dict[str, Any]:
        said = {name: getattr(self, name) for name in ("uri", "name", "version", "rows", "files", "memory", "probes")}
        parts = {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in self.parts.items()}
        return {**said, "parts": parts, "null": list(self.null)}

    @staticmethod
    def from_json(said: Mapping[str, Any]) -> Table:
        """Read what `to_json` wrote, its types being checked."""
        parts = {name: (p["dtype"], tuple(p["shape"])) for name, p in said["parts"].items()}
        return Table(**{**said, "parts": parts})


@dataclass(frozen=True)
class Head:
    """What store.json of a generation says. building: it is being written and does not count yet.

    stored: `float16` or `float32`, how larger tensors of float32 are kept. encoding: how each tensor of the method is.
    deleted: sha256 of deleted.bits, None where no clip was deleted. measured: what the build found out about itself.
    """

    identity: Mapping[str, Any]
    asked: Mapping[str, str]
    stored: str = "float32"
    encoding: Mapping[str, Kept] = field(default_factory=dict)
    segments: Sequence[Segment] = ()
    deleted: str | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    second: Mapping[str, Any] | None = None
    building: bool = False
    table: Table | None = None

    @property
    def rows(self) -> int:
        """The rows of all segments, deleted ones too."""
        return self.table.rows if self.table is not None else sum(segment.clips for segment in self.segments)

    def names(self) -> set[str]:
        """Return the files of the generation."""
        found = {HEAD, *(name for segment in self.segments for name in segment.names())}
        return found | {DELETED} if self.deleted else found

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "index",
            "format": INDEX_FORMAT,
            "building": self.building,
            "identity": dict(self.identity),
            "asked": dict(self.asked),
            "stored": self.stored,
            "encoding": {n: {"dtype": k.dtype, "in_coarse": k.in_coarse} for n, k in self.encoding.items()},
            "segments": [_segment_to_json(segment) for segment in self.segments],
            "deleted": self.deleted,
            "measured": dict(self.measured),
            "second": self.second,
            **({} if self.table is None else {"table": self.table.to_json()}),
        }

    @staticmethod
    def from_json(data: Any, path: Path, fix: str) -> Head:
        """Read what `to_json` wrote, `path` for messages. Raises DataError when anything in it cannot be so."""
        schema.check(data, _HEAD, repr(str(path)), fix)
        segments = tuple(_segment_from_json(record, path) for record in data["segments"])
        encoding = {name: Kept(k["dtype"], k["in_coarse"]) for name, k in data["encoding"].items()}
        head = Head(
            data["identity"], data["asked"], data["stored"], encoding, segments, data["deleted"], data["measured"],
            data["second"], data["building"], None if data.get("table") is None else Table.from_json(data["table"]),
        )  # fmt: skip
        schema.check(head, _hangs_together, repr(str(path)), fix)
        return head


DELETED = "deleted.bits"

_PART = schema.record(
    {"name": schema.text, "file": schema.string, "dtype": DTYPE, "shape": schema.items(schema.count)},
)
_SEGMENT = schema.record(
    {
        "clips": schema.count,
        "files": schema.count,
        "parts": schema.items(_PART),
        "sums": schema.record({"file": schema.string, "sha256": schema.sha256}),
    }
)
_PRECISION = schema.record(
    {
        "stored": schema.one_of("float16", "float32"),
        "reason": schema.text,
        "sentences": schema.count,
        "of": schema.text,
        "clips": schema.count,
        "same": schema.count,
        "largest_error": schema.maybe(schema.number),
    }
)
_WAY = schema.record(
    {
        "first": schema.one_of("every", "rough", "coarse"),
        "clips": schema.count,
        "shortlist": schema.count,
        "prefilter": schema.count,
    }
)
_RECALL = schema.record(
    {
        "at": schema.each(schema.number),
        "sentences": schema.count,
        "of": schema.text,
        "clips": schema.count,
        "mends": schema.maybe(schema.count),
    }
)
_BANK = schema.record({"of": schema.text, "sentences": schema.count, "sha256": schema.sha256, "own": schema.flag})
_CONFIDENCE = schema.record(
    {
        "moments": schema.count,
        "sentences": schema.count,
        "strange": schema.count,
        "best": schema.maybe(schema.items(schema.number)),
        "apart": schema.maybe(schema.items(schema.number)),
        "why": schema.maybe(schema.text),
    }
)
_MOMENTS = schema.record({"edge": schema.maybe(schema.number), "against": schema.maybe(schema.text)})
_MEASURED = schema.record(
    {},
    {
        "precision": schema.maybe(_PRECISION),
        "way": schema.maybe(_WAY),
        "recall": schema.maybe(_RECALL),
        "bank": schema.maybe(_BANK),
        "moments": schema.maybe(_MOMENTS),
        "confidence": schema.maybe(_CONFIDENCE),
    },
)
_ASKED = schema.record({}, {"run": schema.text, "method": schema.text, "backbone": schema.text, "first": schema.text})
_TABLE = schema.record(
    {
        "uri": schema.maybe(schema.text), "name": schema.text, "version": schema.count, "rows": schema.count,
        "files": schema.count, "memory": schema.count, "probes": schema.maybe(schema.count),
        "parts": schema.each(schema.record({"dtype": DTYPE, "shape": schema.items(schema.count)})),
        "null": schema.items(schema.text),
    }
)  # fmt: skip
_HEAD = schema.record(
    {
        "kind": schema.one_of("index"),
        "format": schema.one_of(INDEX_FORMAT),
        "building": schema.flag,
        "identity": schema.mapping,
        "asked": _ASKED,
        "stored": schema.one_of("float16", "float32"),
        "encoding": schema.each(schema.record({"dtype": DTYPE, "in_coarse": schema.flag})),
        "segments": schema.items(_SEGMENT),
        "deleted": schema.maybe(schema.sha256),
        "measured": _MEASURED,
        "second": schema.maybe(schema.record({"identity": schema.mapping})),
    },
    {"table": _TABLE},
)


def _segment_to_json(segment: Segment) -> dict[str, Any]:
    parts = [{"name": p.name, "file": p.file, "dtype": p.dtype, "shape": list(p.shape)} for p in segment.parts]
    sums = {"file": segment.sums, "sha256": segment.sums_sha256}
    return {"clips": segment.clips, "files": segment.files, "parts": parts, "sums": sums}


def _segment_from_json(record: Mapping[str, Any], path: Path) -> Segment:
    parts = tuple(
        Part(p["name"], files.bare_name(p["file"], path), p["dtype"], tuple(p["shape"])) for p in record["parts"]
    )
    sums = record["sums"]
    return Segment(record["clips"], record["files"], parts, files.bare_name(sums["file"], path), sums["sha256"])


def _hangs_together(head: Head, at: str) -> None:
    """Raise ValueError unless shapes and types of the parts fit each other: nothing later looks at them again."""
    named: set[str] = {HEAD, DELETED}
    for i, segment in enumerate(head.segments):
        at = f"segments[{i}]"
        names = [part.name for part in segment.parts]
        tensors = {f"t.{name}": kept for name, kept in head.encoding.items() if not kept.in_coarse}
        known = {*COLUMNS, *tensors}
        if len(set(names)) < len(names) or known - set(names):
            raise ValueError(f"{at}.parts names one twice, or lacks {sorted(known - set(names))}")
        if strange := [n for n in names if n not in known and not n.startswith(ROOM)]:
            raise ValueError(f"{at}.parts has {strange[0]!r}, which its format does not know")
        for part in segment.parts:
            _fits(part, segment, tensors.get(part.name), at)
        _fits_timeline(segment, at)
        if again := named & set(segment.names()) or len(set(segment.names())) < len(segment.names()):
            raise ValueError(f"{at} names a file twice ({again})")
        named |= set(segment.names())
    for name in ("coarse", "ts", *(f"t.{name}" for name, kept in head.encoding.items() if not kept.in_coarse)):
        if len({segment.part(name).shape[1:] for segment in head.segments}) > 1:
            raise ValueError(f"the segments have different shapes of {name!r}")


def _fits_timeline(segment: Segment, at: str) -> None:
    parts = {part.name: part for part in segment.parts if part.name in TIMELINE}
    if parts and (lacking := set(TIMELINE) - set(parts) - LATER):
        raise ValueError(f"{at}.parts lacks {sorted(lacking)}")
    rows: dict[str, int] = {}
    for name, part in parts.items():
        dtype, row = TIMELINE[name]
        columns = {"timeline.frames": part.shape[1:], "timeline.moment": (2,)}.get(name, ())
        length = rows.setdefault(row, part.shape[0] if part.shape else 0)
        if part.dtype != dtype or part.shape != (length, *columns) or len(part.shape) > 2:
            raise ValueError(f"{at}: the part {name!r} has the type {part.dtype} and the shape {list(part.shape)}")


def _fits(part: Part, segment: Segment, kept: Kept | None, at: str) -> None:
    lengths = {
        "clip.id.offsets": segment.clips + 1, "file.id.offsets": segment.files + 1,
        "file.path.offsets": segment.files + 1,
    }  # fmt: skip
    free = part.name.endswith(".bytes") or part.name.startswith(ROOM)
    length = None if free else lengths.get(part.name, segment.clips)
    dims = {"coarse": 3, "ts": 2}.get(part.name, 1 if part.name in COLUMNS else None)
    if not part.shape or (length is not None and part.shape[0] != length) or dims not in (None, len(part.shape)):
        raise ValueError(f"{at}: the part {part.name!r} has the shape {list(part.shape)} for {segment.clips} clips")
    if part.name == "coarse" and not part.shape[1]:
        raise ValueError(f"{at}: the part 'coarse' has no vector a clip")
    wanted = COLUMNS.get(part.name)
    if kept is not None and kept.dtype == "float32":
        if part.dtype not in ("float16", "float32"):
            raise ValueError(f"{at}: the part {part.name!r} has the type {part.dtype}")
    elif part.dtype != (kept.dtype if kept is not None else wanted or part.dtype):
        raise ValueError(f"{at}: the part {part.name!r} has the type {part.dtype}")
