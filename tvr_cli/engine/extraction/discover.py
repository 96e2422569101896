"""Finding the videos that the user means: folders, files, manifest files, the manifest of a data set."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import schema
from tvr_cli.engine.extraction import headers, tree
from tvr_cli.errors import DataError, did_you_mean
from tvr_cli.files import is_text, parse_json
from tvr_cli.log import logger, warn_once
from tvr_cli.stores.frames.windows import Segmenting, Span, clip_id
from tvr_cli.types import Manifest

# What people and data sets call videos. A file named as an argument, or in a manifest, is read whatever it is called.
EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("3g2", "3gp", "3gpp", "asf", "avi", "divx", "dv", "f4v", "flv", "gif", "h264", "hevc", "ivf", "m1v", "m2t"),
        *("m2ts", "m2v", "m4v", "mjpeg", "mjpg", "mkv", "mov", "mp4", "mpe", "mpeg", "mpg", "mpv", "mts", "mxf", "nut"),
        *("ogg", "ogm", "ogv", "qt", "rm", "rmvb", "ts", "vob", "webm", "wmv", "wtv", "y4m"),
    )
)
# What lies beside videos and is none: pictures, sounds, documents, data. Text is known by what it holds.
_BESIDE = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "heic", "heif", "avif", "dng", "thm", "psd"),
        *("mp3", "wav", "aac", "m4a", "flac", "opus", "oga", "wma", "aif", "aiff", "mid"),
        *("pdf", "doc", "docx", "xls", "xlsx", "odt", "ods", "zip", "gz", "7z", "rar", "tar"),
        *("db", "sqlite", "npy", "npz", "pkl", "parquet", "arrow", "h5", "pt", "pth", "safetensors", "sup", "idx"),
    )
)
# First bytes (at an offset) of common containers, for files of other names.
_SIGNATURES = (
    (4, b"ftyp"),
    (4, b"moov"),
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
    (8, b"AVI "),
    (0, b"FLV\x01"),
    (0, b"OggS"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF, WMV
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3"),  # MPEG video
    (8, b"AMV "),
    (0, b"DHAV"),  # Dahua
    (0, b"DKIF"),  # IVF
    (0, b".RMF"),  # RealMedia
    (0, b"\x06\x0e\x2b\x34"),  # MXF
    (4, b"mdat"),
    (4, b"wide"),
)
# What MPEG-4 files hold that are sound or a picture.
_NO_VIDEO_BRANDS = (b"M4A ", b"M4B ", b"heic", b"heix", b"mif1", b"avif", b"crx ")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_MANIFEST_KEYS = ("path", "id", "start", "end")


@dataclass(frozen=True, slots=True)
class Video:
    """What counts as one video: a file, or a line of a manifest.

    id: unique in the store. source: the folder, manifest file or data set that named it. spans, clip_ids: the clips
    wanted, as pairs; empty = the whole file, cut as `segmenting` says. track: number of its stream, None = the default.
    """

    id: str
    path: Path
    source: str
    spans: tuple[Span, ...] = ()
    clip_ids: tuple[str, ...] = ()
    segmenting: Segmenting | None = None
    track: int | None = None

    def clip_id(self, i: int, span: Span) -> str:
        """Return the id of clip `i`, which is the span `span`."""
        return self.clip_ids[i] if self.clip_ids else clip_id(self.id, span)


@dataclass(frozen=True, slots=True)
class Selection:
    """The videos found, by ascending id. roots: sources in the order given, as in `Video.source`.

    captions: captions.jsonl beside them. dataset: the data set that they are. prefixes: what stands before the ids of
    each source, where that is decided (a list of parts says it): then the videos are those of the part, with the ids of
    the store.
    """

    videos: list[Video]
    roots: tuple[str, ...]
    captions: Path | None
    dataset: str | None = None
    prefixes: Mapping[str, str] | None = None


def discover(
    sources: Sequence[Path] | Manifest,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    segmenting: Segmenting | None = None,
    cut_manifests: bool = False,
    follow: bool = False,
    may_be_empty: bool = False,
) -> Selection:
    """Find every video of the sources. Ids are unique in each; `naming.name_videos` makes them so over all.

    include, exclude: globs, matched against the path below the source (or, without a slash, against the name).
    segmenting: how files are cut; lines of a manifest say themselves what a clip is, unless `cut_manifests`. follow:
    also links that lead out of a folder. may_be_empty: a folder without videos is no error.
    Raises DataError when a source is missing, holds no video, or two of its videos would have the same id.
    """
    if isinstance(sources, Manifest):
        return _of_dataset(sources)
    keep = _Globs(tuple(include), tuple(exclude))
    found: list[Video] = []
    roots, captions = dict[str, None](), None
    for source in sources:
        path = Path(os.path.abspath(source))
        if path.is_dir():
            walk = tree.walk(path, follow=follow)
            here, root, beside = _of_folder(path, source, walk, keep, segmenting), str(path), path
            if not here and not may_be_empty:
                raise DataError(_nothing(source, walk, keep))
        elif path.is_file() and path.suffix.lower() == ".jsonl":
            here = _of_manifest(path, segmenting if cut_manifests else None, keep)
            root, beside = str(path), path.parent
        elif path.is_file():
            root, beside = str(path.parent), path.parent
            here = [Video(path.name, path.resolve(), root, segmenting=segmenting)]
        else:
            raise DataError(
                f"{str(source)!r}: no such file or folder{_near(path)}; expected a folder of videos, a video, or a "
                'manifest (.jsonl with one {"path": …} a line)'
            )
        found += here
        roots[root] = None
        captions = captions or next((p for p in [beside / "captions.jsonl"] if p.is_file() and p != path), None)
    return Selection(_unique(found), tuple(roots), captions)


def in_shard(name: str, part: int, of: int) -> bool:
    """Return whether a video is of part `part` (from 1) of `of`: a fixed split by the hash of its id."""
    digest = hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % of == part - 1


@dataclass(frozen=True)
class _Globs:
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def wants(self, relative: str) -> bool:
        if any(_matches(relative, glob) for glob in self.exclude):
            return False
        return not self.include or any(_matches(relative, glob) for glob in self.include)

    def names_extension(self, relative: str) -> bool:
        """Return whether an include glob spells out the file's extension, known to us or not."""
        suffix = Path(relative).suffix
        return bool(suffix) and any(g.endswith(suffix) and _matches(relative, g) for g in self.include)


def _of_folder(folder: Path, given: Path, walk: tree.Walk, keep: _Globs, segmenting: Segmenting | None) -> list[Video]:
    found, unknown, others = list[tuple[str, Path]](), list[tuple[str, Path]](), Counter[str]()
    for relative, path in walk.files:
        if not keep.wants(relative) or (path.exists() and not path.is_file()):  # pipes and sockets are no videos
            continue
        if not is_text(relative):
            warn_once(f"ignored {str(path)!r}: its name is not valid UTF-8; rename it")
        elif _is_named_video(path) or keep.names_extension(relative):
            found.append((relative, path))
        elif _may_be_video(path):
            unknown.append((relative, path))
        elif not _is_beside(path):
            others[path.suffix.lower()] += 1
    moving = headers.moving([path for _, path in unknown])
    for relative, path in unknown:
        if path in moving:
            found.append((relative, path))
        elif not _is_beside(path):
            others[path.suffix.lower()] += 1
    if others and found:
        logger.info("%s", _skipped(given, others))
    if walk.unreadable:
        logger.warning(
            "warning: %s below %r cannot be looked through (%s: %s)%s; what is known of their files is kept",
            counted(len(walk.unreadable), "folder"), str(given), *walk.unreadable[0],
            "" if len(walk.unreadable) == 1 else " …",
        )  # fmt: skip
    if walk.outside:
        logger.warning(
            "warning: %s below %r lead out of it (%s) and are left alone; --follow reads them too",
            counted(len(walk.outside), "link"), str(given), few(walk.outside),
        )  # fmt: skip
    return [Video(relative, path, str(folder), segmenting=segmenting) for relative, path in sorted(found)]


def _skipped(given: Path, others: Counter[str]) -> str:
    """Say how many files are no videos, by ending, and how they are read all the same."""
    kinds = few([f"{n} {ending or 'without ending'}" for ending, n in others.most_common()])
    named = next((f"*{ending}" for ending, _ in others.most_common() if ending), "NAME")
    number = counted(sum(others.values()), "file")
    return f"{given}: skipped {number} that look like no video ({kinds}); --include {named!r} reads such all the same"


def _nothing(given: Path, walk: tree.Walk, keep: _Globs) -> str:
    wanted = f"files that match {' or '.join(keep.include)}" if keep.include else "videos by name (.mp4 …) and content"
    links = f" and {counted(len(walk.outside), 'link')} out of it, which --follow reads" if walk.outside else ""
    return f"no video in {str(given)!r}: looked for {wanted}, found {len(walk.files)} other files{links}"


def _is_named_video(path: Path) -> bool:
    """Return whether a file is called a video; `.ts` is MPEG transport stream or TypeScript."""
    suffix = path.suffix.lower()
    if suffix != ".ts":
        return suffix in EXTENSIONS
    head = _head(path)
    return head[:1] == b"G" and not head[1:2].isalpha()


def _may_be_video(path: Path) -> bool:
    """Return whether a file of any other name begins like a video; what it holds is for `headers.moving`."""
    head = _head(path)
    if head[4:8] == b"ftyp" and head[8:12] in _NO_VIDEO_BRANDS:
        return False
    if any(head[at : at + len(mark)] == mark for at, mark in _SIGNATURES):
        return True
    # MPEG transport stream: packets of 188 bytes, or of 192 with a time before each.
    return any({*head[at : at + 3 * size : size]} == {0x47} for at, size in ((0, 188), (4, 192)))


def _is_beside(path: Path) -> bool:
    """Return whether nobody takes a file for a video: text (captions, subtitles, lists), pictures, sounds, documents.

    Only a file that is none of these is worth a word, as it may be a video of a kind that is not known here.
    """
    head = _head(path)
    return path.suffix.lower() in _BESIDE or b"\0" not in head or head.startswith(_UTF16)


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read(600)
    except OSError:
        return b""


def _of_manifest(path: Path, segmenting: Segmenting | None, keep: _Globs) -> list[Video]:
    """Read a manifest file: `{"path", "id"?, "start"?, "end"?}` a line, paths relative to its folder."""
    videos = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{str(path)!r} is not readable as UTF-8 text: {e}") from e
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            video = _manifest_line(line, f"{path}:{number}", path, segmenting)
            if keep.wants(video.id):
                videos.append(video)
    if not videos:
        raise DataError(f'{str(path)!r} names no video: expected one {{"path": "a.mp4"}} a line')
    return videos


def _manifest_line(line: str, where: str, manifest: Path, segmenting: Segmenting | None) -> Video:
    try:
        record: dict[str, Any] = parse_json(line)
    except ValueError as e:
        raise DataError(f"{where}: not a JSON object: {e}") from e
    if not isinstance(record, dict) or not isinstance(record.get("path"), str) or not record["path"]:
        raise DataError(f'{where}: expected {{"path": "a.mp4"}}, optionally with id, start, end; found {line[:80]!r}')
    if not (is_text(record["path"]) and "\0" not in record["path"] and is_text(str(record.get("id")))):
        raise DataError(
            f"{where}: no file can have a name with half a surrogate pair or NUL in it, found {line[:80]!r}"
        )
    for key in record:
        if key not in _MANIFEST_KEYS:
            warn_once(f"{where}: key {key!r} is not used here{did_you_mean(key, _MANIFEST_KEYS)}")
    span = Span(_second(record, "start", where), _second(record, "end", where))
    if (span.start or 0.0) < 0 or (span.end is not None and span.end <= (span.start or 0.0)):
        raise DataError(f"{where}: expected 0 <= start < end in seconds, found {span.start} and {span.end}")
    path = Path(os.path.abspath(manifest.parent / record["path"]))
    name = os.path.relpath(path, manifest.parent)
    file_id = path.name if name.startswith("..") else Path(name).as_posix()
    video_id = record.get("id", clip_id(file_id, span))
    if not isinstance(video_id, str) or not video_id:
        raise DataError(f"{where}: expected id to be a text, found {video_id!r}")
    if span == Span():
        return Video(video_id, path, str(manifest), segmenting=segmenting)
    return Video(video_id, path, str(manifest), (span,), (video_id,))


def _second(record: dict[str, Any], key: str, where: str) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    if not schema.number.many([value]):
        raise DataError(f"{where}: expected {key} in seconds, found {schema.shown(value)}")
    return float(value)


def _of_dataset(manifest: Manifest) -> Selection:
    root = f"{manifest.name}:{manifest.root}"
    videos = []
    for clip in manifest.clips:
        span = Span(clip.start, clip.end)
        spans = () if span == Span() else (span,)
        videos.append(Video(clip.id, Path(os.path.abspath(clip.path)), root, spans, (clip.id,) if spans else ()))
    if not videos:
        raise DataError(f"data set {manifest.name!r}: no video found below {str(manifest.root)!r}")
    return Selection(_unique(videos), (root,), None, manifest.name)


def _unique(videos: Sequence[Video]) -> list[Video]:
    by_id: dict[tuple[str, str], Video] = {}
    for video in videos:
        other = by_id.setdefault((video.id, video.source), video)
        if other is not video and (other.path, other.spans) != (video.path, video.spans):
            raise DataError(
                f"two videos would have the id {video.id!r}: {str(other.path)!r} and {str(video.path)!r}; "
                "give the folder that holds both, or a manifest with an id for each"
            )
    return [by_id[i] for i in sorted(by_id)]


def counted(n: int, noun: str) -> str:
    """Return `1 link`, `2 links`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def few(names: Sequence[str], most: int = 3) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _matches(relative: str, glob: str) -> bool:
    return fnmatch.fnmatchcase(relative if "/" in glob else relative.rpartition("/")[2], glob)


def _near(path: Path) -> str:
    try:
        return did_you_mean(path.name, [p.name for p in path.parent.iterdir()])
    except OSError:
        return ""
