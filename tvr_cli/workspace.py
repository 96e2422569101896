"""A workspace: one folder, `out/` by default, that holds what tvr makes of some videos. What lies where is known here.

    out/
      frames/                    a frame store: `tvr extract-frames`
      features/<fingerprint>/    feature stores, one for each backbone and plan: `tvr precompute-features`
      runs/<name>/               runs: `tvr train`, `tvr evaluate`
      index/                     what `tvr query` searches
      speech/                    the words of the videos, where `tvr query --channel` asked for them
        heard/                   what `tvr transcribe` wrote down of what is said
      sweeps/<name>/             tables of many runs, each data set a workspace of its own: `tvr sweep`
      parts.jsonl                which videos each of several jobs reads: `tvr extract-frames --plan-parts`
      parts/<i>-of-<n>/          parts that a cluster reads, workspaces of their own: `--engine ray`
      done.jsonl                 which parts were read here: `tvr extract-frames --shard`
      mteb/                      MTEB's own folder of results, and a workspace for each of its data sets: `tvr mteb`
      server.json, server.log    where `tvr serve` runs: how it is reached, and what it says in the background
      watch/                     where `tvr watch` runs: what it does, and what it says in the background

This is the only file that knows these names. It answers which store, which run, whether one is there and whether it is
as new as what it was made from; it makes nothing. A store that was opened is kept as long as its files do not change.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from tvr_cli import commands, files
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.runs import RunDir
from tvr_cli.stores import run_header

if TYPE_CHECKING:
    from tvr_cli.stores.features.head import Head as FeaturesHead
    from tvr_cli.stores.features.store import FeatureStore
    from tvr_cli.stores.frames.head import Head as FramesHead
    from tvr_cli.stores.frames.store import FrameStore

_FRAMES, _FEATURES, _RUNS, _INDEX, _SPEECH = "frames", "features", "runs", "index", "speech"
_HEARD, _SWEEPS, _CLIPS, _WATCH, _MTEB = "heard", "sweeps", "clips", "watch", "mteb"
_PART = re.compile(r"([1-9][0-9]*)-of-([1-9][0-9]*)")
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Workspace(os.PathLike[str]):
    """The folder `root`, which need not exist yet."""

    root: Path
    _opened: dict[tuple[str, Path], tuple[files.Stamp | None, Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __fspath__(self) -> str:
        return str(self.root)

    def __str__(self) -> str:
        return str(self.root)

    @staticmethod
    def at(path: os.PathLike[str] | str) -> Workspace:
        """Return the workspace that `-o` names. Raises DataError when a file stands there, or above it."""
        root = Path(path)
        there = next((place for place in (root, *root.parents) if place.exists()), root)
        if there.exists() and not there.is_dir():
            what = "a file" if there == root else f"the file {str(there)!r} on the way"
            raise DataError(f"expected a workspace (a folder) at {str(root)!r}, found {what}; name another with -o")
        return Workspace(root)

    @staticmethod
    def searched(path: os.PathLike[str] | str) -> Workspace:
        """Return the workspace that `--index` names: its folder, or the folder of its index. Raises as `at`."""
        from tvr_cli.stores.index.place import is_index

        root = Path(path)
        return Workspace.at(root.parent if root.name == _INDEX and is_index(root) else root)

    @staticmethod
    def around(folder: Path) -> Workspace | None:
        """Return the workspace that a store, run or index lies in by its place, or None where it stands alone."""
        if folder.name in (_FRAMES, _INDEX, _SPEECH):
            return Workspace(folder.parent)
        return Workspace(folder.parent.parent) if folder.parent.name in (_FEATURES, _RUNS) else None

    def parts(self) -> list[Path]:
        """Return the folders that are there: frames, feature stores, runs, index, speech."""
        folders = [
            self.frames_folder, *sorted(self.features_folder.glob("*")),
            *sorted(self.runs_folder.glob("*")), self.index_folder, self.speech_folder,
        ]  # fmt: skip
        return [folder for folder in folders if folder.is_dir()]

    def stores(self) -> list[Path]:
        """Return the folders of frames, features, index and words that tvr made, with a readable head or not."""
        from tvr_cli.stores import verify

        return [folder for folder in self.parts() if verify.kind(folder) is not None]

    # --------------------------------------------------------------------------------------------------------- frames

    @property
    def frames_folder(self) -> Path:
        return self.root / _FRAMES

    @property
    def has_frames(self) -> bool:
        return (self.frames_folder / "store.json").is_file()

    def frames(self) -> FrameStore:
        """Open the frame store. Raises DataError when there is none, StoreMismatch when another version wrote it."""
        from tvr_cli.stores.frames.store import FrameStore

        return self._once(
            "store", self.frames_folder, lambda folder: FrameStore(folder, *self._frames_head(folder), self)
        )

    def frames_content(self) -> str:
        """Return the frame store's `content_hash`, from its head alone where that says it. Raises as `frames` does."""
        from tvr_cli.stores.frames import place

        return self._once("content", self.frames_folder, place.content) or self.frames().content_hash()

    def _frames_head(self, folder: Path) -> tuple[FramesHead, Sequence[Any]]:
        from tvr_cli.stores.frames import head as heads

        return self._once("head", folder, lambda folder: heads.read(folder, self))

    def video_roots(self) -> list[str]:
        """Return the folders and manifests that the frames were read from, for a command line that reads them again.

        Where nothing says them it is an example.
        """
        from tvr_cli.stores.frames import head as heads

        return heads.roots_of(self.frames_folder, self)

    def extract_again(self) -> str:
        """Return the command that brings the frames up to date with their videos, with the plan that they have."""
        from tvr_cli.stores.frames import head as heads

        return heads.again(self.frames_folder, self)

    def refuse_without_frames(self, found: str, error: type[DataError] = DataError) -> NoReturn:
        """Raise DataError, or another `error` of its kind, with what to do where frames are needed and not there.

        found: what is there instead, a whole clause.
        """
        from tvr_cli.stores.frames.head import require_head

        extract = commands.tvr("extract-frames", commands.VIDEOS, workspace=self)
        require_head(self.frames_folder, f"run: {extract}", self)
        raise error(f"{found}; start with: {extract}")

    # ------------------------------------------------------------------------------------------------------- features

    @property
    def features_folder(self) -> Path:
        return self.root / _FEATURES

    def feature_folder(self, fingerprint: str) -> Path:
        """Return where the feature store of a fingerprint lies, or will."""
        return self.features_folder / fingerprint

    def begun_features(self) -> list[Path]:
        """Return the folders of all feature stores, finished or not."""
        return sorted(path.parent for path in self.features_folder.glob("*/store.json"))

    def features(self, fingerprint: str) -> FeatureStore:
        """Open a feature store. Raises DataError when it is not there or was never finished."""
        from tvr_cli.stores.features.store import unfinished

        store = self.finished_features(fingerprint)
        if store is None:
            raise unfinished(self.feature_folder(fingerprint), self)
        return store

    def finished_features(self, fingerprint: str) -> FeatureStore | None:
        """Open a feature store, None when it was never finished. Raises DataError when it is not there."""
        from tvr_cli.stores.features.store import FeatureStore

        return self._once(
            "store", self.feature_folder(fingerprint), lambda folder: FeatureStore.of(folder, *self._head(folder), self)
        )

    def _head(self, folder: Path) -> tuple[FeaturesHead, Sequence[Any]]:
        from tvr_cli.stores.features import head as heads

        return self._once("head", folder, lambda folder: heads.read(folder, self))

    def all_features(self) -> Iterator[FeatureStore]:
        """Yield the finished feature stores, the one that was asked for last first."""
        opened = (self.finished_features(folder.name) for folder in self._newest_begun())
        return (store for store in opened if store is not None)

    def newest_features(self, backbone: str | None = None) -> FeatureStore | None:
        """Return the feature store that was asked for last (of one backbone, if named), or None."""
        return next((s for s in self.all_features() if backbone is None or s.made_by(backbone)), None)

    def newest_features_head(self, backbone: str | None = None) -> FeaturesHead | None:
        """Return what store.json of `newest_features` says; no store is opened, which needs no torch."""
        found = (self._head(folder)[0] for folder in self._newest_begun())
        finished = (head for head in found if head.finished is not None)
        return next((head for head in finished if backbone is None or head.made.made_by(backbone)), None)

    def given_features(self) -> Iterator[FeatureStore]:
        """Yield the finished feature stores of backbones that were given, newest first.

        What a run's own tuned backbone made is for scoring that run; to make features with it, name it.
        """
        return (store for store in self.all_features() if not self._tuned_here(store.backbone_name))

    def given_backbone(self) -> tuple[str, Path] | None:
        """Return the name of the backbone that the newest features were asked of and their folder, None without any.

        As in `given_features`; where none were finished, those that were begun last. Raises DataError where features
        are there and nothing tells what made them.
        """
        from tvr_cli.stores.features.head import UNNAMED, read_head

        if (store := next((s for s in self.given_features() if s.backbone_name != UNNAMED), None)) is not None:
            return store.backbone_name, store.root
        named = ((read_head(folder, self).made.backbone, folder) for folder in self._newest_begun())
        if (newest := next((n for n in named if n[0] != UNNAMED and not self._tuned_here(n[0])), None)) is None:
            self._refuse_headless()
        return newest

    def _newest_begun(self) -> list[Path]:
        """Return the folders of all feature stores, the one that was asked for, or added to, last first."""
        return sorted(
            self.begun_features(), key=lambda f: ((f / "store.json").stat().st_mtime_ns, f.name), reverse=True
        )

    def _tuned_here(self, backbone: str) -> bool:
        place = f"{self.runs_folder.resolve()}{os.sep}"
        return any(t in backbone for t in (f"local:{place}", f"@{place}"))  # the latter of somebody else's class

    def _refuse_headless(self) -> None:
        """Raise DataError where features are there without the store.json that says what made them."""
        from tvr_cli.stores.features.head import require_head

        for folder in sorted(self.features_folder.glob("*")):
            require_head(folder, self)

    def features_for(self, backbone: str | None) -> FeatureStore:
        """Return the newest features, of `backbone` if named. Raises DataError when there are none."""
        if (store := self.newest_features(backbone)) is not None:
            return store
        if backbone is None:
            for folder in self.begun_features():
                again = commands.tvr("precompute-features", repair=folder.name, workspace=self)
                raise DataError(f"the features in {str(folder)!r} were begun and not finished; go on with: {again}")
            self._refuse_headless()
        if not self.has_frames:
            self.refuse_without_frames(f"expected frames or features in {str(self)!r}, found none")
        make = commands.tvr("precompute-features", backbone=backbone, workspace=self)
        raise DataError(
            f"expected features in {str(self.features_folder)!r}{f' made by {backbone}' if backbone else ''}, found "
            f"none; run: {make}"
        )

    def outdated(self, store: FeatureStore) -> str:
        """Return, in words, what has changed since a feature store was brought up to date; empty = nothing."""
        if not self.has_frames or store.imported is not None:
            return ""
        if store.provenance.get("frames_content") != self.frames().content_hash():
            return "the frames have changed"
        file = Path(str(store.provenance.get("captions", "")))
        return f"{str(file)!r} has changed" if store.has_changed(file) else ""

    # ----------------------------------------------------------------------------------------------------------- runs

    @property
    def runs_folder(self) -> Path:
        return self.root / _RUNS

    def run(self, name: str) -> RunDir:
        """Return the folder of a run by name, whether it exists or not. Raises ConfigError for an unusable name."""
        return RunDir.named(self.runs_folder, name)

    def runs(self) -> list[RunDir]:
        """Return all runs, the one that was begun last first, without folders of other things and damaged ones."""
        configs = sorted(self.runs_folder.glob("*/config.json"), key=lambda p: (p.stat().st_mtime_ns, p), reverse=True)
        return [run for path in configs if (run := RunDir(path.parent)).begun]

    def newest_run(self) -> RunDir | None:
        """Return the run that was begun last, or None."""
        return next(iter(self.runs()), None)

    def find_run(self, run: str) -> RunDir:
        """Return an existing run by name, or by path from anywhere.

        Raises DataError when there is none, with what is wrong where a folder of this name is there, and for a moment
        head.
        """
        path = Path(run)
        if os.sep in run and RunDir(path).config_path.is_file():
            return RunDir.open(path)
        found = self.run(path.name if os.sep in run else run)
        if found.begun:
            return found
        if (head := self.find_head(run)) is not None:
            raise DataError(
                f"the run {head.name!r} is a moment head: it ranks moments by time for `tvr query` and scores no "
                "captions; judge it with: " + commands.tvr("moments", truth="truth.jsonl", run=run, workspace=self)
            )
        there = sorted(r.name for r in [*self.runs(), *self.heads()])
        raise DataError(
            found.flaw()
            or f"expected a run {run!r} in {str(self.runs_folder)!r}, found {', '.join(there) or 'no run at all'}"
        )

    def free_run(self, stem: str, taken: Collection[str] = ()) -> RunDir:
        """Return the first free run: `stem`, `stem-2`, `stem-3` …; a folder of other things is not free.

        taken: names that are not free either.
        """
        number = 1
        while True:
            run = self.run(stem if number == 1 else f"{stem}-{number}")
            if not run.begun and run.name not in taken and not run.strangers():
                return run
            number += 1

    def newest_run_on(self, store: FeatureStore) -> RunDir | None:
        """Return the newest run whose best weights go with these features, or None."""
        return next((run for run in self.runs() if self.fingerprint_of(run) == store.fingerprint), None)

    def heads(self) -> list[RunDir]:
        """Return the runs that are moment heads, the newest first."""
        there = sorted(
            self.runs_folder.glob(f"*/{run_header.HEAD}"), key=lambda p: (p.stat().st_mtime_ns, p), reverse=True
        )
        return [RunDir(path.parent) for path in there]

    def find_head(self, run: str) -> RunDir | None:
        """Return the run that is a moment head by its name, or its path from anywhere; None where there is none."""
        path = Path(run)
        found = RunDir(path) if os.sep in run and path.is_dir() else RunDir(self.runs_folder / path.name)
        return found if run_header.head_path(found.path).is_file() else None

    def fingerprint_of(self, run: RunDir) -> str | None:
        """Return the fingerprint of the feature store that a run's best weights go with, None without weights.

        That is the one it was trained on; of a fully tuned run the one that its own backbone made when it was finished;
        of an imported one the newest that its own CLIP made, or (it brought none) the newest of all.
        """
        header = run_header.read_header(run.checkpoints)
        if header is None:
            return None
        if header.imported:
            store = self.newest_features(header.imported if isinstance(header.imported, str) else None)
            return store.fingerprint if store else None
        named = run.env().get("tuned_store") if header.tuned else header.store
        return named and files.bare_name(named, run.env_path if header.tuned else run_header.best_path(run.checkpoints))

    def features_of(self, run: RunDir) -> FeatureStore:
        """Open the features of this workspace that a run's best weights go with, wherever the run itself lies.

        Raises DataError when the run has no weights, StoreMismatch, with what to run, when the features are not here.
        """
        header = run_header.read_header(run.checkpoints)
        if header is None:
            own = Workspace.around(run.path) or self
            raise DataError(
                f"the run {run.name!r} has no weights yet; continue it with: "
                + commands.tvr("train", resume=True, run=run.name, workspace=own)
            )
        fingerprint = self.fingerprint_of(run)
        if fingerprint is not None and self.feature_folder(fingerprint).is_dir():
            return self.features(fingerprint)
        raise StoreMismatch(self._lacking(run, header, fingerprint))

    def _lacking(self, run: RunDir, header: run_header.RunHeader, fingerprint: str | None) -> str:
        """Say which features a run wants that are not here, and how to get them."""
        if isinstance(header.imported, str):
            make = commands.tvr("precompute-features", backbone=header.imported, workspace=self)
            return (
                f"the run {run.name!r} was imported with its own CLIP, and there are no features of it in "
                f"{str(self.features_folder)!r}; run: {make}"
            )
        if header.imported:
            make = commands.tvr("precompute-features", workspace=self)
            return f"there are no features in {str(self.features_folder)!r} for the run {run.name!r}; run: {make}"
        if header.tuned:
            tuned = run.path / "backbone"
            make = commands.tvr("precompute-features", backbone=f"local:{tuned}", workspace=self)
            return f"the run {run.name!r} has a backbone of its own, whose features are not here; run: {make}"
        own = Workspace.around(run.path)
        if own is not None and fingerprint and own != self and own.feature_folder(fingerprint).is_dir():
            return (
                f"the run {run.name!r} goes with the features {fingerprint}, which are in {str(own)!r} and not in "
                f"{str(self)!r}; name that one with -o {own}, or make the same features here with "
                + commands.tvr("precompute-features", backbone=own.features(fingerprint).backbone_name, workspace=self)
            )
        return (
            f"the run {run.name!r} was trained on the feature store {fingerprint}, which is not in "
            f"{str(self.features_folder)!r}; run {commands.tvr('precompute-features')} with the run's backbone and "
            "plans"
        )

    # ---------------------------------------------------------------------------------------------------------- index

    @property
    def index_folder(self) -> Path:
        return self.root / _INDEX

    @property
    def speech_folder(self) -> Path:
        return self.root / _SPEECH

    @property
    def transcripts_folder(self) -> Path:
        """Where subtitles lie that tvr wrote of what is said."""
        return self.speech_folder / _HEARD

    def sweep_folder(self, name: str) -> Path:
        """Return where the sweep of a name lies, or will. Raises ConfigError for an unusable name."""
        return RunDir.named(self.root / _SWEEPS, name).path

    @property
    def clips_folder(self) -> Path:
        """Where a server saves clips unless another folder was named."""
        return self.root / _CLIPS

    @property
    def part_list(self) -> Path:
        """Where the list of parts is written."""
        return self.root / "parts.jsonl"

    @property
    def done_parts(self) -> Path:
        """Where it is noted which parts were read into this workspace."""
        return self.root / "done.jsonl"

    @property
    def mteb_folder(self) -> Path:
        """Where MTEB keeps its results."""
        return self.root / _MTEB

    def mteb_corpus(self, name: str) -> Workspace:
        """Return the workspace of a data set of MTEB. Raises ConfigError for an unusable name."""
        return Workspace(RunDir.named(self.mteb_folder / "corpora", name).path)

    @property
    def given_videos(self) -> Path:
        """Where videos lie that were handed over as bytes, while they are decoded."""
        return self.root / "videos"

    @property
    def parts_folder(self) -> Path:
        """Where a cluster keeps the parts of this workspace, each a workspace of its own."""
        return self.root / "parts"

    def part(self, part: int, of: int) -> Workspace:
        """Return the workspace of a part, which need not exist."""
        return Workspace(self.parts_folder / f"{part}-of-{of}")

    def parts_below(self) -> list[tuple[int, int]]:
        """Return the parts that have frames in `parts_folder`, as (i, n), of the largest n."""
        names = (_PART.fullmatch(path.name) for path in self.parts_folder.glob("*-of-*"))
        found = [(int(name[1]), int(name[2])) for name in names if name is not None]
        newest = max((of for _, of in found), default=0)
        return sorted((i, of) for i, of in found if of == newest and self.part(i, of).has_frames)

    @property
    def attempts(self) -> Path:
        """What counts how often a part was begun and did not end: a byte each."""
        return self.root / "attempts"

    @property
    def server_note(self) -> Path:
        """Where a server of the workspace says how it is reached."""
        return self.root / "server.json"

    @property
    def server_log(self) -> Path:
        """What a server in the background says."""
        return self.root / "server.log"

    @property
    def watch_folder(self) -> Path:
        """Where what keeps the workspace up to date says what it does; it holds this folder's lock."""
        return self.root / _WATCH

    def stamps(self) -> dict[Path, files.Stamp | None]:
        """Return what changes when an answer to a query may: of frames, features, runs and the index."""
        from tvr_cli.stores.index.place import CURRENT

        decide = [
            *(self.frames_folder / name for name in ("store.json", "manifest.jsonl")),
            *self.features_folder.glob("*/store.json"), *self.runs_folder.glob("*/config.json"),
            *self.runs_folder.glob("*/checkpoints/best.safetensors"), *self.runs_folder.glob(f"*/{run_header.HEAD}"),
            self.index_folder / CURRENT,
        ]  # fmt: skip
        return {path: files.stamp(path) for path in decide}

    def stamp_of_index(self, generation: Path) -> dict[Path, files.Stamp | None]:
        """Return the stamp of the index as `stamps` does, None unless it is `generation` that counts."""
        from tvr_cli.stores.index.place import CURRENT, current

        path = self.index_folder / CURRENT
        at = files.stamp(path)
        return {path: at if at is not None and current(self.index_folder)[0] == generation else None}

    # -------------------------------------------------------------------------------------------------------- private

    def _once(self, what: str, folder: Path, read: Callable[[Path], _Read]) -> _Read:
        """Read something of a store, unless it was read and the store's head is the same as then."""
        stamp = files.stamp(folder / "store.json")
        kept = self._opened.get((what, folder))
        if kept is not None and kept[0] == stamp:
            return kept[1]
        found = read(folder)
        self._opened[what, folder] = (stamp, found)
        return found
