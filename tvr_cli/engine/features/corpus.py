"""Which captions belong to the clips of a frame store: from a flag, from the last time, or from beside the videos."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tvr_cli import commands, data, files
from tvr_cli.data import jsonl, timed
from tvr_cli.data.annotation_files import refuse_empty
from tvr_cli.data.columns import CaptionsFile
from tvr_cli.data.jsonl import Resolved
from tvr_cli.errors import DataError
from tvr_cli.log import logger
from tvr_cli.stores.features.rows import text_row_key
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.frames.store import ClipRecord, FrameStore
from tvr_cli.types import Caption, Manifest

_TEXT_KEY, _ID_KEY = np.dtype("S12"), np.dtype("S8")  # bytes of `text_row_key`; of a hash that tells ids apart


@dataclass(frozen=True)
class Corpus:
    """Captions with their clips. aside: captions of videos without a clip. origin: where they came from.

    `about` is what evaluation tells the reader: name and variant of the data set, its annotation files and notes, the
    official number of videos of each split (`expected`), and the ids of those without frames (`missing`).
    """

    captions: list[Resolved] = field(default_factory=list)
    aside: list[Caption] = field(default_factory=list)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """Different texts by their keys."""
        return {text_row_key(c.caption.text): c.caption.text for c in self.captions}

    def about(self, frames: FrameStore) -> dict[str, Any]:
        """Return what a feature store's state says of its corpus."""
        return {**self.of_captions(), "frames_content": frames.content_hash()}

    def of_captions(self) -> dict[str, Any]:
        """Return what it says of the captions alone."""
        missing: dict[str, list[str]] = {k: list(v) for k, v in self.origin.get("missing", {}).items()}
        stated = {c.video: c.split for c in self.aside if c.split}
        for split, video in sorted({(stated.get(c.video) or jsonl.split_of(c.video), c.video) for c in self.aside}):
            missing.setdefault(split, []).append(video)
        return {**self.origin, "missing": missing}


Captions = Path | CaptionsFile | Manifest | str | FeatureStore | Corpus | None


def has_captions(frames: FrameStore, last: FeatureStore | None) -> bool:
    """Return whether `read_corpus` would find captions where none are named."""
    return bool(last is not None and last.captions) or (_remembered(last) or frames.captions_beside) is not None


def read_corpus(captions: Captions, frames: FrameStore, last: FeatureStore | None) -> Corpus:
    """Read and resolve captions.

    A path is a captions file whose columns are not named; a string is `NAME:ROOT[:VARIANT]`; a feature store: the
    captions that it holds, and no file is read; a corpus: itself; None: those of `last`, else
    `captions.jsonl` beside the videos, else none. Raises DataError, naming file and line, before anything else is done.
    """
    if isinstance(captions, FeatureStore):
        return _held(captions, frames)
    if isinstance(captions, Corpus):
        return captions
    captions = _found(captions, frames, last)
    if captions is None:
        return Corpus()
    if isinstance(captions, CaptionsFile):
        as_read = _as_read([captions.path])
        named = _called(jsonl.read_captions(captions), captions, frames)
        strict = jsonl.timed_format(captions) is None
        resolved, aside = jsonl.resolve(named, frames.records, absent=_failed(frames), strict=strict)
        origin: dict[str, Any] = {"captions": str(captions.path.resolve()), "read": as_read}
        if captions.columns:
            origin["columns"] = dict(captions.columns)
    else:
        _require_captions(captions)
        strict = captions.name == "jsonl"
        absent = [*captions.missing, *_failed(frames)]
        resolved, aside = jsonl.resolve(captions.captions, frames.records, absent=absent, strict=strict)
        origin = _origin(captions)
    _tell_of_aside(len(resolved), len(aside), dict.fromkeys(c.video for c in aside), frames)
    return Corpus(resolved, aside, origin)


def no_captions(frames: FrameStore, last: FeatureStore | None) -> Corpus:
    """Return the captions of a part: none. They belong to the whole, and are encoded once."""
    return Corpus()


def no_census(frames: FrameStore, last: FeatureStore | None) -> Census:
    """Return how many captions a part has: none."""
    return Census()


def of_imported(captions: CaptionsFile | Manifest, clips: Sequence[ClipRecord]) -> Corpus:
    """Read and resolve captions of features that somebody else computed; those of other videos are set aside.

    Raises as `read_corpus` does.
    """
    if isinstance(captions, CaptionsFile):
        named: Iterable[Caption] = jsonl.read_captions(captions)
        if jsonl.timed_format(captions) is not None:
            named = timed.as_called(named, dict.fromkeys(c.file_id for c in clips))
        origin: dict[str, Any] = {"captions": str(captions.path.resolve()), "read": _as_read([captions.path])}
        if captions.columns:
            origin["columns"] = dict(captions.columns)
    else:
        _require_captions(captions)
        named, origin = captions.captions, _origin(captions)
    resolved, aside = jsonl.resolve(named, clips, strict=False)
    if not resolved:
        raise DataError(
            f"none of the {len(aside)} captions is about one of the {len(clips)} videos with features (the first is "
            f"about {aside[0].video!r}, the first video is {clips[0].id!r}): features of another data set, or captions"
        )
    return Corpus(resolved, aside, origin)


@dataclass(frozen=True)
class Census:
    """How many captions there are, without the captions.

    texts: [n] S12, the keys of different ones. aside: captions of videos without a clip.
    """

    total: int = 0
    texts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=_TEXT_KEY))
    aside: int = 0

    def unlike(self, keys: Iterable[str]) -> int:
        """Return how many texts have another key than these (`rows.text_row_key`)."""
        there = np.frombuffer(b"".join(map(bytes.fromhex, keys)), dtype=_TEXT_KEY)
        return int(np.isin(self.texts, there, invert=True).sum())


def count_captions(captions: Captions, frames: FrameStore, last: FeatureStore | None) -> Census:
    """Count what `read_corpus` reads, and raise what it raises. Of a captions file one caption at a time is held."""
    if not isinstance(captions, FeatureStore | Corpus):
        captions = _found(captions, frames, last)
        if captions is None:
            return Census()
        if isinstance(captions, CaptionsFile):
            return _counted(captions, frames)
    corpus = read_corpus(captions, frames, last)
    return Census(
        len(corpus.captions), _unique(map(_text_key, (c.caption for c in corpus.captions))), len(corpus.aside)
    )


def _counted(file: CaptionsFile, frames: FrameStore) -> Census:
    """Go through a captions file."""
    keys, ids, aside = bytearray(), bytearray(), dict[str, int]()
    wordless, splits = list[Caption](), jsonl.StatedSplits()
    named, strict = _called(jsonl.each_caption(file), file, frames), jsonl.timed_format(file) is None
    for c in jsonl.each_resolved(named, frames.records, absent=_failed(frames), strict=strict):
        caption = c.caption if isinstance(c, Resolved) else c
        ids += hashlib.blake2b(caption.id.encode(), digest_size=_ID_KEY.itemsize).digest()
        if not caption.text.strip():
            wordless.append(caption)
        if isinstance(c, Resolved):
            keys += _text_key(caption)
            splits.add(c)
        else:
            aside[caption.video] = aside.get(caption.video, 0) + 1
    if not ids:
        raise jsonl.no_captions(file.path)
    refuse_empty(wordless)
    unlike = np.unique(np.frombuffer(ids, dtype=_ID_KEY))
    if len(unlike) < len(ids) // _ID_KEY.itemsize:
        for _ in jsonl.unlike_ids(jsonl.each_caption(file), file.path):  # says which
            pass
    splits.check()
    total = len(keys) // _TEXT_KEY.itemsize
    _tell_of_aside(total, sum(aside.values()), aside, frames)
    return Census(total, np.unique(np.frombuffer(keys, dtype=_TEXT_KEY)), sum(aside.values()))


def _text_key(caption: Caption) -> bytes:
    return bytes.fromhex(text_row_key(caption.text))


def _unique(keys: Iterable[bytes]) -> np.ndarray:
    return np.unique(np.frombuffer(b"".join(keys), dtype=_TEXT_KEY))


def _found(
    captions: Path | CaptionsFile | Manifest | str | None, frames: FrameStore, last: FeatureStore | None
) -> CaptionsFile | Manifest | None:
    """Return what `read_corpus` reads, None where there are no captions."""
    if captions is None:
        captions = _remembered(last) or frames.captions_beside
        if captions is None:
            logger.info("no captions: the features will serve queries, but not training or evaluation")
            return None
        said = captions.path if isinstance(captions, CaptionsFile) else captions
        logger.info("captions: %s", f"the data set {said.name}" if isinstance(said, Manifest) else said)
    if isinstance(captions, str):
        return data.load(captions)
    return CaptionsFile(captions) if isinstance(captions, Path) else captions


def _require_captions(manifest: Manifest) -> None:
    if not manifest.captions:
        raise DataError(
            f"the data set {manifest.name!r} in {str(manifest.root)!r} holds no captions; leave it out for features "
            "that serve queries alone, or give its captions"
        )


def _tell_of_aside(resolved: int, aside: int, videos: Mapping[str, object], frames: FrameStore) -> None:
    """Say how many captions have no clip. videos: theirs, in the order of the captions. Raises DataError where all."""
    if not resolved:
        raise DataError(
            f"none of the {aside} captions is about one of the {len(frames.records)} extracted clips "
            f"(the first is about {next(iter(videos))!r}, the first clip is {frames.records[0].id!r})"
        )
    if aside:
        logger.warning("%d captions of %d videos without frames were set aside", aside, len(videos))


def _held(store: FeatureStore, frames: FrameStore) -> Corpus:
    """Return the captions of a feature store, with the rows that their clips have among the frames now."""
    row = {record.id: i for i, record in enumerate(frames.records)}
    ids, captions = store.clips.ids(range(len(store.clips))), []
    for c in store.captions:
        clips = tuple(row[i] for i in (ids[k] for k in c.clips) if i in row)
        if clips:
            caption = Caption(c.id, c.file_id, c.text, c.split, c.start, c.end, c.source)
            captions.append(Resolved(caption, clips, c.file_id))
    return Corpus(captions, [], store.corpus)


def _origin(manifest: Manifest) -> dict[str, Any]:
    named = manifest.listed or manifest.variant
    variant = f":{named}" if named else ""
    place = manifest.annotations[0] if manifest.name == "jsonl" else manifest.root
    return {
        "data": f"{manifest.name}:{place.resolve()}{variant}",
        "name": manifest.name,
        "variant": manifest.variant,
        "annotations": [str(path) for path in manifest.annotations],
        "read": _as_read(manifest.annotations),
        "notes": list(manifest.notes),
        "expected": dict(manifest.expected),
    }


def _called(captions: Iterable[Caption], file: CaptionsFile, frames: FrameStore) -> Iterable[Caption]:
    """Return captions of a file with the ids that its videos have among the frames. A data set about moments names
    videos that are nowhere any more, which are set aside as those of any data set.
    """
    if jsonl.timed_format(file) is not None:
        return timed.as_called(captions, dict.fromkeys(record.file_id for record in frames.records))
    return _of_their_folder(captions, file.path, frames)


def _of_their_folder(captions: Iterable[Caption], file: Path, frames: FrameStore) -> Iterable[Caption]:
    """Return captions with the ids that the videos beside their file have, where those have its folder's name in front.

    Without it `GX01.mp4` would mean the file of that name in the folder that was extracted first.
    """
    prefix = frames.prefix_of(file.resolve().parent)
    if not prefix:
        return captions
    there = {name for r in frames.records for name in (r.id, r.file_id, str(PurePosixPath(r.file_id).with_suffix("")))}
    wanted = ((c, f"{prefix}/{c.video}") for c in captions)
    return (dataclasses.replace(c, video=own) if own in there else c for c, own in wanted)


def _as_read(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return what tells whether files are read again as they are: stamp and sha256 by path.

    Named as it will be looked for: as it was given, and resolved.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        stamp = files.stamp(path)  # before the content: one that changes in between is another one later
        if stamp is not None:
            known = {"stamp": list(stamp), "sha256": files.sha256_file(path)}
            found |= {str(path): known, str(path.resolve()): known}
    return found


def _failed(frames: FrameStore) -> list[str]:
    return [str(failure["video"]) for failure in frames.failures()]


def _remembered(last: FeatureStore | None) -> CaptionsFile | Manifest | None:
    if last is None:
        return None
    if spec := last.provenance.get("data"):
        fix = commands.tvr("precompute-features", data=str(spec))
        return data.load_from(f"the feature store {last.fingerprint}", str(spec), fix=fix)
    file = Path(str(last.provenance.get("captions", "")))
    if file.is_file():
        return CaptionsFile(file, last.provenance.get("columns", {}))
    if last.provenance.get("captions"):
        logger.warning("the captions of the last time, %s, are gone", file)
    return None
