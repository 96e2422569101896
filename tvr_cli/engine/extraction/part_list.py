"""The list of parts, `parts.jsonl`: which videos each of n jobs reads, balanced by the bytes of their files.

The sources are listed once, here; a job reads the head and its own lines, not ten million names. The first line is the
head, with its own checksum and that of each part's lines; behind it lie the lines of part 1, of part 2 and so on. Ids
are those of the store that all parts are merged into, so that no part has to know the others. No torch here.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvr_cli import commands, files, os_errors, schema
from tvr_cli.engine.extraction.discover import Selection, Video
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.results.base import Result, key
from tvr_cli.stores import listing
from tvr_cli.stores.frames.windows import Span, parse_segment
from tvr_cli.types import Manifest
from tvr_cli.workspace import Workspace

FORMAT_VERSION = 1
_LOCK_WAIT_S = 60.0
_HEAD_BYTES = 1 << 26  # that a first line may have: a list of a hundred thousand parts has some ten million


@dataclass(frozen=True, slots=True)
class PartLines:
    """Where the lines of a part lie. at: bytes behind the head. size_bytes: of the lines. video_bytes: of the files."""

    videos: int
    video_bytes: int
    at: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PartList:
    """The head of a list. sha256: what the list is known by. roots: as in the head of a frame store.

    dataset: whose preset says how frames are chosen, None = videos of one's own. captions: found beside the videos.
    """

    path: Path
    sha256: str
    parts: tuple[PartLines, ...]
    roots: Mapping[str, str]
    segment: str
    dataset: str | None
    captions: str | None
    head_bytes: int


@dataclass(frozen=True, kw_only=True)
class PartListReport(Result):
    """What was planned. path: of the list. video_bytes: of all files; smallest, largest: of the files of one part."""

    schema = "plan-parts"
    dry_run: bool
    path: Path = field(metadata=key("list"))
    parts: int
    videos: int
    video_bytes: int = field(metadata=key("bytes"))
    smallest: int
    largest: int


@dataclass(frozen=True, kw_only=True)
class DonePart(Result):
    """What a workspace notes of a part whose extraction ended. list: the sha256 of the list of parts, None = by hash.

    videos: of the part; failed: those of them that could not be read.
    """

    schema = "part"
    part: int
    of: int
    list: str | None
    videos: int
    failed: int


def write(selection: Selection, workspace: Workspace, n: int, *, segment: str, dry_run: bool) -> PartListReport:
    """Share out the videos of a selection over n parts and write the list of a workspace.

    Files are given away from the largest on, each to the part with the fewest bytes; what is read of one file stays
    together. Raises ConfigError for more parts than files.
    """
    shares = _shared(selection.videos, n)
    numbers = {root: i for i, root in enumerate(selection.roots)}
    bodies = ["".join(_line(v, size, numbers) for v, size in share).encode("ascii") for share in shares]
    parts, at = [], 0
    for share, body in zip(shares, bodies, strict=True):
        taken = sum(_sizes_once(share).values())
        parts.append(PartLines(len(share), taken, at, len(body), hashlib.sha256(body).hexdigest()))
        at += len(body)
    head = listing.sealed({
        "kind": "parts",
        "format": FORMAT_VERSION,
        "parts": [[p.videos, p.video_bytes, p.at, p.size_bytes, p.sha256] for p in parts],
        "roots": [[root, (selection.prefixes or {}).get(root, "")] for root in selection.roots],
        "segment": segment,
        "dataset": selection.dataset,
        "captions": None if selection.captions is None else str(selection.captions),
    })  # fmt: skip
    path = workspace.part_list
    if not dry_run:
        first = json.dumps(head).encode("ascii") + b"\n"
        files.write_bytes(path, first + b"".join(bodies))
    sizes = [p.video_bytes for p in parts]
    return PartListReport(
        dry_run=dry_run,
        path=path,
        parts=n,
        videos=len(selection.videos),
        video_bytes=sum(sizes),
        smallest=min(sizes),
        largest=max(sizes),
    )


def find(sources: Sequence[Path] | Manifest) -> PartList | None:
    """Return the list of parts that sources are, None where they are videos. Raises DataError for a damaged one."""
    if isinstance(sources, Manifest) or len(sources) != 1 or sources[0].suffix.lower() != ".jsonl":
        return None
    return read_head(sources[0]) if _is_list(sources[0]) else None


def read_head(path: Path) -> PartList:
    """Read the head of a list. Raises DataError unless it is what was written."""
    try:
        with open(path, "rb") as f:
            first = f.readline(_HEAD_BYTES)
        found = files.parse_json(first)
        listing.require_sealed(found)
        said = schema.require(found, _HEAD)
    except OSError as e:
        raise os_errors.unread(e, path) or _damaged(path, str(e)) from e
    except ValueError as e:
        raise _damaged(path, str(e)) from e
    return PartList(
        path,
        found["sha256"],
        tuple(PartLines(*part) for part in said["parts"]),
        dict(said["roots"]),
        said["segment"],
        said["dataset"],
        said["captions"],
        len(first),
    )


def read_part(listed: PartList, shard: tuple[int, int]) -> Selection:
    """Return the videos of part (i, n), i from 1. Raises ConfigError for another n, DataError for damage."""
    part, of = shard
    if of != len(listed.parts):
        raise ConfigError(
            f"--shard: {str(listed.path)!r} has {len(listed.parts)} parts, found {part}/{of}; expected "
            f"I/{len(listed.parts)}"
        )
    lines = listed.parts[part - 1]
    with open(listed.path, "rb") as f:
        f.seek(listed.head_bytes + lines.at)
        body = f.read(lines.size_bytes)
    if hashlib.sha256(body).hexdigest() != lines.sha256:
        raise _damaged(listed.path, f"the lines of part {part} differ from their checksum")
    roots, cut = tuple(listed.roots), parse_segment(listed.segment)
    try:
        videos = [_video(files.parse_json(line), roots, cut) for line in body.split(b"\n")[:-1]]
    except (ValueError, IndexError) as e:
        raise _damaged(listed.path, f"part {part}: {e}") from e
    captions = None if listed.captions is None else Path(listed.captions)
    return Selection(videos, roots, captions, listed.dataset, dict(listed.roots))


def note_done(workspace: Workspace, notes: Sequence[DonePart]) -> None:
    """Note that the extraction of some parts ended in this workspace; what is noted already is not written again."""
    with files.lock(workspace.frames_folder, wait_s=_LOCK_WAIT_S):
        there = done_parts(workspace)
        if new := [note.to_json() for note in notes if note not in there]:
            files.append_lines(workspace.done_parts, new)


def done_parts(workspace: Workspace) -> list[DonePart]:
    """Return the parts whose extraction ended in this workspace. Raises DataError for a damaged note."""
    path = workspace.done_parts
    found = files.parse_lines(path, lambda line: DonePart.from_json(line, repr(str(path))))
    newest = {(note.list, note.of, note.part): note for note in found}  # the last line of a part counts
    return sorted(newest.values(), key=lambda done: (done.of, done.part))


def _shared(videos: Sequence[Video], n: int) -> list[list[tuple[Video, int]]]:
    """Return n lists of videos with the bytes of their files, each by id."""
    of_file: dict[Path, list[Video]] = {}
    for video in videos:
        of_file.setdefault(video.path, []).append(video)
    if n > len(of_file):
        raise ConfigError(f"--plan-parts: expected at most {len(of_file)}, which is the number of files; found {n}")
    sizes = {path: _size(path) for path in of_file}
    shares: list[list[tuple[Video, int]]] = [[] for _ in range(n)]
    lightest = [(0, 0, part) for part in range(n)]  # bytes, videos, number
    for path in sorted(of_file, key=lambda path: (-sizes[path], of_file[path][0].id)):
        taken, held, part = heapq.heappop(lightest)
        shares[part] += [(video, sizes[path]) for video in of_file[path]]
        heapq.heappush(lightest, (taken + sizes[path], held + len(of_file[path]), part))
    return [sorted(share, key=lambda of: of[0].id) for share in shares]


def _sizes_once(share: Sequence[tuple[Video, int]]) -> dict[Path, int]:
    return {video.path: size for video, size in share}


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # the part that reads it says what is wrong with it
        return 0


def _line(video: Video, size: int, roots: Mapping[str, int]) -> str:
    said: dict[str, Any] = {"id": video.id, "path": str(video.path), "bytes": size, "root": roots[video.source]}
    if video.spans:
        said["spans"] = [[span.start, span.end] for span in video.spans]
        said["clips"] = list(video.clip_ids)
    if video.segmenting is not None:
        said["cut"] = True
    if video.track is not None:
        said["track"] = video.track
    return json.dumps(said) + "\n"


def _video(line: Any, roots: Sequence[str], cut: Any) -> Video:
    _LINE(line, "")
    said: dict[str, Any] = line
    spans = tuple(Span(start, end) for start, end in said.get("spans", ()))
    return Video(
        said["id"],
        Path(said["path"]),
        roots[said["root"]],
        spans,
        tuple(said.get("clips", ())),
        cut if said.get("cut") else None,
        said.get("track"),
    )


def _is_list(path: Path) -> bool:
    """Return whether a file begins like a list of parts, damaged or not: a manifest of videos has no kind."""
    try:
        with open(path, "rb") as f:
            return f.read(len(_BEGINS)) == _BEGINS
    except OSError:
        return False


def _damaged(path: Path, found: str) -> DataError:
    again = commands.tvr("extract-frames", commands.VIDEOS, plan_parts=8)
    return DataError(f"the list of parts {str(path)!r} is damaged ({found}); write it again: {again}")


_BEGINS = b'{"kind": "parts"'
_HEAD = {
    "kind": schema.one_of("parts"),
    "format": schema.one_of(FORMAT_VERSION),
    "parts": schema.items(schema.fixed(schema.count, schema.count, schema.count, schema.count, schema.sha256), 1),
    "roots": schema.items(schema.fixed(schema.string, schema.text), 1),
    "segment": schema.text,
    "dataset": schema.maybe(schema.text),
    "captions": schema.maybe(schema.string),
}
_LINE = schema.known(
    {"id": schema.text, "path": schema.string, "bytes": schema.count, "root": schema.count},
    {
        "spans": schema.items(schema.fixed(schema.maybe(schema.number), schema.maybe(schema.number)), 1),
        "clips": schema.items(schema.text, 1),
        "cut": schema.flag,
        "track": schema.count,
    },
)
