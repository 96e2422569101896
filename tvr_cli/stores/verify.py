"""What is verified when: the one list, and the check of everything that `tvr doctor out` runs.

    store     what                                        when a command uses it              `tvr doctor out`
    index     current, head                               schema and sha256, at opening       the same
    index     checksums, deleted.bits                     sha256, at opening                  the same
    index     size of every part                          at opening, before each answer      the same
    index     rows that are shown: encoding, times, names their groups, before they are shown every group
    index     what is only scanned: coarse vectors, the   when it is written                  every group
              rest of the shortlist
    frames    head, list of shards                        schema and sha256, at opening       the same
    frames    records of a shard                          schema and sha256, when read        of each
    frames    shards                                      sha256, when one is first read      sha256 of each
    features  head, list of shards                        schema and sha256, at opening       the same
    features  tables of clips and captions: checksums     sha256, when they are opened        the same
    features  their rows                                  their groups, when they are read    every group
    features  keys of a shard's rows                      schema and sha256, by who writes    of each
    features  shards                                      sha256, when one is first read      sha256 of each
    speech    head, database                              schema and sha256, at opening       the same
    head      of moments: its numbers                     schema and sha256, when it ranks    the same

Every row that reaches a shown answer is verified before it is shown. Damage in what is only scanned can lose a hit,
never invent one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tvr_cli import commands, files, os_errors
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError, EnvironmentProblem, TvrError, Unreadable
from tvr_cli.schema import Misfit
from tvr_cli.stores import run_header
from tvr_cli.stores.features import head as features_head
from tvr_cli.stores.features import rows
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.frames import head as frames_head
from tvr_cli.stores.frames.store import read_records
from tvr_cli.stores.index.opening import open_index
from tvr_cli.stores.index.place import has_generations, is_index, standing
from tvr_cli.stores.moment_head import MomentHead
from tvr_cli.stores.speech import place as speech_place


@dataclass(frozen=True, slots=True)
class Finding:
    """A file, or a few that belong together, that was read whole. problem: a sentence, empty when it is whole."""

    what: str
    problem: str = ""
    fix: str = ""


def kind(folder: Path) -> str | None:
    """Return `frames`, `features`, `index`, `speech` or `head`, None where there is no store of tvr.

    The header in a folder says which; where it is lost or damaged, the names of the files beside it do.
    """
    if (folder / "current").is_file():
        return "index"
    if speech_place.is_speech(folder):
        return "speech"
    if run_header.head_path(folder).is_file():
        return "head"
    if not (folder / "store.json").is_file():
        return _by_names(folder)
    try:
        header = files.read_json(folder / "store.json")
    except (DataError, EnvironmentProblem):
        return _by_names(folder)
    found = header.get("kind", "index" if is_index(folder) else None) if isinstance(header, dict) else None
    return found if isinstance(found, str) and found in _CHECKS else _by_names(folder)


def _by_names(folder: Path) -> str | None:
    signs = {
        "frames": frames_head.has_own_names,
        "features": features_head.has_own_names,
        "index": has_generations,
    }
    return next((name for name, holds in signs.items() if holds(folder)), None)


def check(folder: Path, workspace: Folder | None) -> Iterator[Finding]:
    """Yield what is found in a store, reading every byte of it. workspace: what `-o` of a command in a fix names."""
    of = kind(folder)
    return _CHECKS[of](folder, workspace) if of is not None else iter(())


def _index(folder: Path, workspace: Folder | None) -> Iterator[Finding]:
    fix = commands.tvr("index", overwrite=True, workspace=workspace)
    try:
        there = standing(folder) is not None
    except TvrError as e:  # it may be anybody's: nothing replaces it
        yield Finding("head", str(e))
        return
    try:
        index = open_index(folder)
    except TvrError as e:
        yield _wrong("head", e, fix if there else "")
        return
    yield Finding("head")
    for name, part in index.parts():
        try:
            part.verify_all()
        except DataError as e:
            yield Finding(name, str(e), fix)
        else:
            yield Finding(name)


def _frames(folder: Path, workspace: Folder | None) -> Iterator[Finding]:
    try:
        _, lines = frames_head.read(folder, workspace)
    except TvrError as e:
        yield Finding("head", str(e))
        return
    yield Finding("head")
    for line in lines:
        fix = commands.tvr("extract-frames", repair=line.name, workspace=workspace)
        try:
            read_records(folder, line, workspace)
        except TvrError as e:
            yield _wrong(line.records, e, fix)
        else:
            yield Finding(line.records)
        yield _whole(folder / line.name, line.sha256, fix)


def _features(folder: Path, workspace: Folder | None) -> Iterator[Finding]:
    fix = features_head.complete(folder, workspace)
    try:
        head, lines = features_head.read(folder, workspace)
    except TvrError as e:
        yield Finding("head", str(e))
        return
    yield Finding("head")
    if head.finished is None:
        yield Finding("clips and captions", "the store was begun but not finished", fix)
    else:
        store = FeatureStore(folder, head, head.finished, lines, workspace)
        for what, table in (("clips", head.finished.clips), ("captions", head.finished.captions)):
            try:
                records = store.clips if what == "clips" else store.captions
                records.table.verify_all()
                lost = store.without_features(records)
            except TvrError as e:
                yield _wrong(table.file, e, fix)
            else:
                yield Finding(table.file, f"no shard has the features of {lost} {what}" if lost else "", fix)
    for line in lines:
        repair = features_head.complete(folder, workspace, line.name)
        try:
            rows.read(folder, line)
        except TvrError as e:
            yield _wrong(line.keys, e, repair)
        except Misfit as e:
            yield Finding(line.keys, str(e), repair)
        else:
            yield Finding(line.keys)
        yield _whole(folder / line.name, line.sha256, repair)


def _speech(folder: Path, workspace: Folder | None) -> Iterator[Finding]:
    from tvr_cli.stores.speech import store as speech  # what reads subtitles is loaded where there are any

    try:
        found = speech.SpeechStore.open(folder)
    except TvrError as e:  # it may be anybody's: nothing replaces it
        yield Finding("head", str(e))
        return
    if found is None:
        yield Finding("words", speech.OUTDATED, speech.again(workspace))
        return
    yield Finding("head")
    yield Finding("words")


def _head(folder: Path, workspace: Folder | None) -> Iterator[Finding]:
    try:
        MomentHead.open(run_header.head_path(folder))
    except TvrError as e:
        yield _wrong(run_header.HEAD, e, commands.tvr("train", moments=True, workspace=workspace))
        return
    yield Finding(run_header.HEAD)


def _wrong(what: str, e: TvrError, fix: str) -> Finding:
    """Return what an error says of a part. What the system does not give is not made again: it may be whole."""
    return Finding(what, str(e), "" if isinstance(e, Unreadable | EnvironmentProblem) else fix)


def _whole(path: Path, sha256: str, fix: str) -> Finding:
    try:
        found = files.sha256_file(path)
    except OSError as e:
        if (unread := os_errors.unread(e, path)) is not None:
            return _wrong(path.name, unread, fix)
        return Finding(path.name, f"it cannot be read ({e.strerror})", fix)
    if found != sha256:
        return Finding(path.name, f"expected sha256 {sha256[:12]}…, found {found[:12]}…", fix)
    return Finding(path.name)


_CHECKS = {"index": _index, "frames": _frames, "features": _features, "speech": _speech, "head": _head}
