"""Which captions belong to the clips of a frame store: from a flag, from the last time, or from beside the videos."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tvr_cli import commands, data, files
from tvr_cli.data import jsonl
from tvr_cli.data.columns import CaptionsFile
from tvr_cli.data.jsonl import Resolved
from tvr_cli.errors import DataError
from tvr_cli.log import logger
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.types import Caption, Manifest

Captions = Path | CaptionsFile | Manifest | str | FeatureStore | None


@dataclass(frozen=True)
class Corpus:
    """Captions with their clips. aside: captions of videos without a clip. origin: where they came from.

    `about` is what evaluation tells the reader: name and variant of the data set, its annotation files and notes, the
    official number of videos of each split (`expected`), and the ids of those without frames (`missing`).
    """

    captions: list[Resolved] = field(default_factory=list)
    aside: list[Caption] = field(default_factory=list)
    origin: Mapping[str, Any] = field(default_factory=dict)

    def about(self, frames: FrameStore) -> dict[str, Any]:
        """Return what a feature store's state says of its corpus."""
        missing: dict[str, list[str]] = {k: list(v) for k, v in self.origin.get("missing", {}).items()}
        stated = {c.video: c.split for c in self.aside if c.split}
        for split, video in sorted({(stated.get(c.video) or jsonl.split_of(c.video), c.video) for c in self.aside}):
            missing.setdefault(split, []).append(video)
        return {**self.origin, "missing": missing, "frames_content": frames.content_hash()}


def has_captions(frames: FrameStore, last: FeatureStore | None) -> bool:
    """Return whether `read_corpus` would find captions where none are named."""
    return bool(last is not None and last.captions) or (_remembered(last) or frames.captions_beside) is not None


def read_corpus(captions: Captions, frames: FrameStore, last: FeatureStore | None) -> Corpus:
    """Read and resolve captions.

    A path is a captions file whose columns are not named; a string is `NAME:ROOT[:VARIANT]`; a feature store: the
    captions that it holds, and no file is read; None: those of `last`, else `captions.jsonl` beside the videos, else
    none. Raises DataError, naming file and line, before anything else is done.
    """
    if isinstance(captions, FeatureStore):
        return _held(captions, frames)
    if captions is None:
        captions = _remembered(last) or frames.captions_beside
        if captions is None:
            logger.info("no captions: the features will serve queries, but not training or evaluation")
            return Corpus()
        said = captions.path if isinstance(captions, CaptionsFile) else captions
        logger.info("captions: %s", f"the data set {said.name}" if isinstance(said, Manifest) else said)
    if isinstance(captions, str):
        captions = data.load(captions)
    if isinstance(captions, Path):
        captions = CaptionsFile(captions)
    if isinstance(captions, CaptionsFile):
        as_read = _as_read([captions.path])
        named = _of_their_folder(jsonl.read_captions(captions), captions.path, frames)
        resolved, aside = jsonl.resolve(named, frames.records, absent=_failed(frames))
        origin: dict[str, Any] = {"captions": str(captions.path.resolve()), "read": as_read}
        if captions.columns:
            origin["columns"] = dict(captions.columns)
    else:
        strict = captions.name == "jsonl"
        absent = [*captions.missing, *_failed(frames)]
        resolved, aside = jsonl.resolve(captions.captions, frames.records, absent=absent, strict=strict)
        origin = _origin(captions)
    if not resolved:
        raise DataError(
            f"none of the {len(aside)} captions is about one of the {len(frames.records)} extracted clips "
            f"(the first is about {aside[0].video!r}, the first clip is {frames.records[0].id!r})"
        )
    if aside:
        videos = len({c.video for c in aside})
        logger.warning("%d captions of %d videos without frames were set aside", len(aside), videos)
    return Corpus(resolved, aside, origin)


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


def _of_their_folder(captions: list[Caption], file: Path, frames: FrameStore) -> list[Caption]:
    """Return captions with the ids that the videos beside their file have, where those have its folder's name in front.

    Without it `GX01.mp4` would mean the file of that name in the folder that was extracted first.
    """
    prefix = frames.prefix_of(file.resolve().parent)
    if not prefix:
        return captions
    there = {name for r in frames.records for name in (r.id, r.file_id, str(PurePosixPath(r.file_id).with_suffix("")))}
    wanted = ((c, f"{prefix}/{c.video}") for c in captions)
    return [dataclasses.replace(c, video=own) if own in there else c for c, own in wanted]


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
