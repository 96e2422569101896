"""Joining parts, each a workspace of its own, into one: frames and features, by links where the disk has them.

Nothing is decoded or encoded, and no part is changed. Everything that can be refused is refused before anything is
written; then each store counts in the moment in which its head is replaced. Run again, after a stop or with parts that
were late, it goes on. Captions belong to the whole: `tvr precompute-features` encodes them, once, in what was merged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvr_cli import commands, log
from tvr_cli.engine.extraction import part_list
from tvr_cli.engine.extraction.part_list import DonePart
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.results.base import Result, key
from tvr_cli.stores.features import join as features
from tvr_cli.stores.frames import join as frames
from tvr_cli.workspace import Workspace


@dataclass(frozen=True)
class MissingPart:
    """A part that was not merged. part: its folder, or its number as I/N. reason: a sentence. fix: what to run."""

    part: str
    reason: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class MergedFrames:
    """The frames of the whole. new: shards that were not there. doubled: clips that several parts had, taken once."""

    clips: int
    videos: int
    frames: int
    shards: int
    new: int
    doubled: int
    failed: int
    size_bytes: int = field(metadata=key("bytes"))


@dataclass(frozen=True, kw_only=True)
class MergedFeatures:
    """One feature store of the whole. new: shards that were not there."""

    folder: Path = field(metadata=key("store"))
    backbone: str
    shards: int
    new: int
    size_bytes: int = field(metadata=key("bytes"))


@dataclass(frozen=True, kw_only=True)
class MergeReport(Result):
    """What was merged, or would be. parts: those that were there. missing: those that were not, or lack features."""

    schema = "merge"
    dry_run: bool
    workspace: Path
    parts: int
    frames: MergedFrames | None
    features: Sequence[MergedFeatures]
    missing: Sequence[MissingPart]
    seconds: float


def merge(parts: Sequence[Path], workspace: Workspace, *, dry_run: bool = False) -> MergeReport:
    """Join the frames and features of `parts` into a workspace. What it has already stays, and counts as the first.

    Raises ConfigError without parts, DataError where none is there, one is damaged or two differ in a clip,
    StoreMismatch for other plans or backbones, EnvironmentProblem when the disk is full or another process writes.
    """
    started = time.monotonic()
    there, missing = _there(parts, workspace)
    sides = _frame_sides(there, workspace)
    stores = _feature_sides(there, workspace)
    _require_common_backbone(stores)
    missing += _unfinished(there, workspace) + _without_features(there, stores)
    total = sum(len(s.lines) for s in sides) + sum(len(s.lines) for some in stores.values() for s in some)
    with log.progress("reading parts", total=total, unit="shards") as bar:
        of_frames = frames.joint(workspace.frames_folder, sides, bar) if sides else None
        of_features = {name: features.joint(workspace.feature_folder(name), s, bar) for name, s in stores.items()}
    done = None if of_frames is None else _frames(of_frames, workspace, dry_run)
    if not dry_run and (notes := _notes(there)):
        part_list.note_done(workspace, notes)  # a later merge need not be given these parts again
    return MergeReport(
        dry_run=dry_run,
        workspace=workspace.root,
        parts=len(there),
        frames=done,
        features=[_features(name, joint, workspace, dry_run) for name, joint in of_features.items()],
        missing=missing,
        seconds=time.monotonic() - started,
    )


def _there(parts: Sequence[Path], workspace: Workspace) -> tuple[list[Workspace], list[MissingPart]]:
    """Return the parts that are workspaces, each once, and those that are not there."""
    if not parts:
        raise ConfigError(f"name the parts: {commands.tvr('merge', 'parts/1', 'parts/2', workspace=workspace)}")
    found, missing = dict[str, Workspace](), list[MissingPart]()
    for path in parts:
        if os.path.realpath(path) == os.path.realpath(workspace.root):
            raise ConfigError(f"{str(path)!r} is where the parts go (-o); name the parts alone")
        part = Workspace.at(path) if path.exists() else None
        if part is None or not part.stores():
            what = "there is no such folder" if part is None else "it holds no frames and no features"
            make = commands.tvr("extract-frames", commands.VIDEOS, workspace=path)
            missing.append(MissingPart(str(path), what, make))
        elif os.path.realpath(path) in found:
            log.logger.warning("warning: the part %s is named twice, and taken once", path)
        else:
            found[os.path.realpath(path)] = part
    if not found:
        raise DataError(f"none of the {len(parts)} parts is there: {missing[0].part}: {missing[0].reason}")
    return list(found.values()), missing


def _frame_sides(there: Sequence[Workspace], workspace: Workspace) -> list[frames.Side]:
    """Open the frames of the workspace, if it has any, and of its parts."""
    have = [w for w in (workspace, *there) if w.has_frames]
    for part in there:
        if not part.has_frames and part.frames_folder.is_dir():
            part.frames()  # says what is wrong with it
    sides = [frames.Side.open(w.frames_folder, w) for w in have]
    return sides if any(w is not workspace for w in have) else []


def _feature_sides(there: Sequence[Workspace], workspace: Workspace) -> dict[str, list[features.Side]]:
    """Open the features of the parts by their fingerprint, those of the workspace first."""
    found: dict[str, list[features.Side]] = {}
    for part in there:
        for folder in part.begun_features():
            found.setdefault(folder.name, []).append(features.Side.open(folder, part))
    for name, sides in found.items():
        if (own := workspace.feature_folder(name)) in workspace.begun_features():
            sides.insert(0, features.Side.open(own, workspace))
    return found


def _require_common_backbone(stores: dict[str, list[features.Side]]) -> None:
    """Raise StoreMismatch, naming the field, where a part has features and none of those that another part has."""
    parts: dict[str, set[str]] = {}
    for name, sides in stores.items():
        for side in sides:
            parts.setdefault(str(side.workspace), set()).add(name)
    if len(parts) > 1 and not set.intersection(*parts.values()):
        one, other = _strangers(parts)
        features.require_same(stores[min(parts[one])][0], stores[min(parts[other])][0])


def _strangers(parts: dict[str, set[str]]) -> tuple[str, str]:
    """Return two parts without a common feature store; of all of which none is common, the first and one without it."""
    first, *others = parts
    return first, next((p for p in others if parts[first].isdisjoint(parts[p])), others[0])


def _notes(there: Sequence[Workspace]) -> list[DonePart]:
    return [note for part in there for note in part_list.done_parts(part)]


def _unfinished(there: Sequence[Workspace], workspace: Workspace) -> list[MissingPart]:
    """Return the parts of which no workspace notes that their extraction ended.

    Where the workspace has a list of parts, that list alone counts: parts may have been cut anew after a failure.
    """
    done = _notes([workspace, *there])
    listed = part_list.read_head(workspace.part_list) if workspace.part_list.is_file() else None
    if listed is not None and any(note.list == listed.sha256 for note in done):
        done = [note for note in done if note.list == listed.sha256]
    ended: dict[tuple[str | None, int], set[int]] = {}
    for note in done:
        ended.setdefault((note.list, note.of), set()).add(note.part)
    missing = []
    for (name, of), numbers in ended.items():
        source = workspace.part_list if listed is not None and name == listed.sha256 else commands.VIDEOS
        for number in sorted(set(range(1, of + 1)) - numbers):
            fix = commands.tvr("extract-frames", source, shard=f"{number}/{of}", workspace=Path("parts") / str(number))
            missing.append(MissingPart(f"{number}/{of}", "no part notes that its extraction ended", fix))
    return missing


def _without_features(there: Sequence[Workspace], stores: dict[str, list[features.Side]]) -> list[MissingPart]:
    """Return the parts that lack features which another part has."""
    lacking = []
    for sides in stores.values():
        have = {str(side.workspace) for side in sides}
        backbone = sides[0].head.made.backbone
        for part in there:
            if part.has_frames and str(part) not in have:
                fix = commands.tvr("precompute-features", backbone=backbone, workspace=part)
                lacking.append(MissingPart(str(part), f"it has no features of {backbone}", fix))
    return lacking


def _frames(found: frames.Joint, workspace: Workspace, dry_run: bool) -> MergedFrames:
    new = len({line.name for _, line in found.taken} | {line.name for _, line, _ in found.written})
    if not dry_run:
        with log.progress("merging frames", total=len(found.taken) + len(found.written), unit="shards") as bar:
            new = frames.commit(workspace.frames_folder, found, workspace, bar)
    return MergedFrames(
        clips=found.clips,
        videos=found.videos,
        frames=found.frames,
        shards=len(found.lines),
        new=new,
        doubled=found.doubled,
        failed=len(found.failures),
        size_bytes=sum(line.size_bytes for line in found.lines),
    )


def _features(name: str, found: features.Joint, workspace: Workspace, dry_run: bool) -> MergedFeatures:
    folder, new = workspace.feature_folder(name), len(found.taken)
    if not dry_run:
        with log.progress("merging features", total=len(found.taken), unit="shards") as bar:
            new = features.commit(folder, found, workspace, bar)
    return MergedFeatures(
        folder=folder,
        backbone=found.made.backbone,
        shards=len(found.lines),
        new=new,
        size_bytes=sum(line.size_bytes for line in found.lines),
    )
