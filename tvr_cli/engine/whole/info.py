"""What a store, a run or an index holds, and which of them it is, read from its own files and not from its name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tvr_cli import commands
from tvr_cli.engine.evaluation.evaluate_result import Claim
from tvr_cli.engine.searching.index import AboutBank, measured_of
from tvr_cli.engine.searching.measure import Recall
from tvr_cli.engine.searching.way import Way
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.files import read_json
from tvr_cli.results.base import Result, key
from tvr_cli.runs import RunDir
from tvr_cli.scale import Scale
from tvr_cli.stores.features import head as features_head
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.frames import head as frames_head
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.stores.index.opening import open_index
from tvr_cli.stores.index.place import CURRENT, require_free, standing
from tvr_cli.stores.speech import store as speech
from tvr_cli.stores.speech.place import is_speech
from tvr_cli.types import Sizes
from tvr_cli.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class FramesInfo(Result):
    """A frame store. frames: of timelines those that are kept, else what clips have. pictures: what is kept of one.

    decoders: name -> clips. failures: videos that were not read.
    """

    schema = "info"
    kind: Literal["frames"] = field(default="frames", init=False)
    path: Path
    clips: int
    videos: int
    frames: int
    pictures: str
    truncated: int
    decoders: Mapping[str, int]
    failures: int
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]
    size_bytes: int = field(metadata=key("bytes"))


@dataclass(frozen=True, kw_only=True)
class FeaturesInfo(Result):
    """A feature store. splits: name -> captions. norms: tensor -> mean L2 norm of its real vectors.

    scale: what the methods whose temperatures count on CLIP's norm multiply its features with.
    """

    schema = "info"
    kind: Literal["features"] = field(default="features", init=False)
    path: Path
    backbone: str
    fingerprint: str
    clips: int
    captions: int
    splits: Mapping[str, int]
    sizes: Sizes
    provides: Sequence[str]
    norms: Mapping[str, float]
    scale: Scale
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]
    size_bytes: int = field(metadata=key("bytes"))


@dataclass(frozen=True, kw_only=True)
class RunInfo(Result):
    """A run. logged: lines of metrics.jsonl. results: file name without its ending -> the JSON in it, as it is."""

    schema = "info"
    kind: Literal["run"] = field(default="run", init=False)
    path: Path
    method: str
    config: Mapping[str, Any]
    store: str | None
    env: Mapping[str, Any]
    logged: int
    results: Mapping[str, Any]
    size_bytes: int = field(metadata=key("bytes"))


@dataclass(frozen=True, kw_only=True)
class IndexInfo(Result):
    """A search index, what it was made with, how it is searched, and what it found out about that."""

    schema = "info"
    kind: Literal["index"] = field(default="index", init=False)
    path: Path
    method: str | None
    run: str | None
    store: str | None
    clips: int
    videos: int
    identity: Mapping[str, Any]
    size_bytes: int = field(metadata=key("bytes"))
    bytes_per_clip: float
    search: Way | None
    recall: Recall | None
    bank: AboutBank | None


@dataclass(frozen=True, kw_only=True)
class SpeechInfo(Result):
    """The words of a workspace, counted as `Counts` of the speech store says."""

    schema = "info"
    kind: Literal["speech"] = field(default="speech", init=False)
    path: Path
    files: int
    streams: int
    passages: int
    empty: int
    unreadable: int
    guessed: int
    doubles: int
    first: str
    size_bytes: int = field(metadata=key("bytes"))


@dataclass(frozen=True, kw_only=True)
class DamagedInfo(Result):
    """A part of a workspace that cannot be read. problem: what is wrong and what mends it, in words."""

    schema = "info"
    kind: Literal["damaged"] = field(default="damaged", init=False)
    path: Path
    problem: str


@dataclass(frozen=True, kw_only=True)
class OtherFormatInfo(Result):
    """A part that another version wrote. problem: which format it has, and the command that brings it to this one."""

    schema = "info"
    kind: Literal["other-format"] = field(default="other-format", init=False)
    path: Path
    problem: str


@dataclass(frozen=True, kw_only=True)
class WorkspaceInfo(Result):
    """Everything in a workspace."""

    schema = "info"
    kind: Literal["workspace"] = field(default="workspace", init=False)
    path: Path
    parts: Sequence[Part | DamagedInfo | OtherFormatInfo]

    @property
    def unread(self) -> int:
        """How many parts cannot be read."""
        return sum(isinstance(part, DamagedInfo | OtherFormatInfo) for part in self.parts)


Part = FramesInfo | FeaturesInfo | RunInfo | IndexInfo | SpeechInfo


def info(path: Path) -> Part | WorkspaceInfo:
    """Describe the store, run, index or workspace at `path`; of a workspace what is damaged as well.

    Raises DataError if it is none of them, or is damaged itself.
    """
    if (describe := _kind(path) or _by_place(path)) is not None:
        return describe(path)
    if found := [part for part in map(_part, Workspace(path).parts()) if part is not None]:
        return WorkspaceInfo(path=path, parts=found)
    found_instead = _something_else(path)
    raise DataError(
        f"expected a frame store, feature store, run, index or workspace at {str(path)!r}, found {found_instead}"
    )


def _part(path: Path) -> Part | DamagedInfo | OtherFormatInfo | None:
    """Describe a part of a workspace, None where its folder holds nothing of tvr's."""
    try:
        describe = _kind(path) or _by_place(path)
        return None if describe is None else describe(path)
    except DataError as e:
        other = isinstance(e, StoreMismatch) and _says_format(path / "store.json")
        return (OtherFormatInfo if other else DamagedInfo)(path=path, problem=str(e))


def _kind(path: Path) -> Callable[[Path], Part] | None:
    """Return what describes a folder by the kind that its own files say, None where they say none."""
    if (path / CURRENT).is_file():
        return _index
    if is_speech(path):
        return _speech
    if (path / "store.json").is_file():
        return _store_kind(path / "store.json")
    if RunDir(path).config_path.is_file() or _has_results(path):
        return _run
    return None


def _says_format(header: Path) -> bool:
    """Return whether a store's header says which format it has, as that of another version does."""
    try:
        found = read_json(header)
    except DataError:
        return False
    return isinstance(found, dict) and type(found.get("format")) is int


def _by_place(path: Path) -> Callable[[Path], Part] | None:
    """Return what describes, or says what is wrong with, a store without a head, by its place in a workspace."""
    workspace = _around(path)
    if path == workspace.frames_folder and frames_head.has_store_files(path):
        return _frames
    if path.parent == workspace.features_folder and features_head.has_store_files(path):
        return _features
    if path == workspace.index_folder and path.is_dir() and any(path.iterdir()):
        return _index
    return None


def _something_else(path: Path) -> str:
    """Say what is at a path that is nothing of tvr's, and where to look instead."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        make = commands.tvr("extract-frames", commands.VIDEOS, workspace=Workspace.around(path) or path)
        return f"nothing there; a workspace is made by: {make}"
    if not path.is_dir():
        belongs = f"; what it belongs to: {commands.tvr('info', path.parent)}"
        return f"a file{belongs if _kind(path.parent) is not None else ''}"
    if not any(path.iterdir()):
        make = commands.tvr("extract-frames", commands.VIDEOS, workspace=path)
        return f"an empty folder; a workspace is made by: {make}"
    outer = Workspace(path.parent)
    if path in (outer.features_folder, outer.runs_folder) and any(_kind(part) for part in outer.parts()):
        return f"a folder of several; all of them: {commands.tvr('info', outer)}"
    return "a folder of something else"


def _store_kind(header: Path) -> Callable[[Path], Part]:
    """Return what describes a store by the kind that its header says; an index of tvr 0.1.0 says none.

    Where a header cannot be read, or says nothing, the store's place in a workspace does. Raises DataError.
    """
    known: dict[str, Callable[[Path], Part]] = {"frames": _frames, "features": _features, "index": _index}
    place, workspace = header.parent, _around(header.parent)
    if place == workspace.frames_folder:
        by_place = "frames"
    else:
        by_place = "features" if place.parent == workspace.features_folder else "index"
    try:
        found = read_json(header, fix="nothing of it was changed")
    except DataError:
        found = {}
    kind = found.get("kind", by_place) if isinstance(found, dict) else by_place
    if not isinstance(kind, str) or kind not in known:
        raise DataError(
            f"{str(header)!r} says kind {kind!r}; this tvr knows {', '.join(known)}. It is left as it is: look at it "
            "with the tvr, or the other program, that wrote it"
        )
    return known[kind]


def _has_results(path: Path) -> bool:
    """Whether a folder holds results of evaluations: those of a method without training are a run without more."""
    for file in sorted((path / "results").glob("*.json")):
        with contextlib.suppress(DataError):
            found = read_json(file)
            if isinstance(found, dict) and str(found.get("schema", "")).startswith("tvr/evaluate@"):
                return True
    return False


def _around(path: Path) -> Workspace:
    """Return the workspace that a part lies in, else its folder."""
    return Workspace.around(path) or Workspace(path.parent)


def _frames(path: Path) -> FramesInfo:
    store = FrameStore.open(path, _around(path))
    counts = store.counts
    return FramesInfo(
        path=path,
        clips=counts.clips,
        videos=store.video_count(),
        frames=store.count_frames(films) if (films := store.films()) else counts.frames,
        pictures=store.plan.pictures,
        truncated=counts.truncated,
        decoders=dict(counts.decoders),
        failures=len(store.failures()),
        identity=store.identity,
        provenance=store.provenance,
        size_bytes=_size(path),
    )


def _features(path: Path) -> FeaturesInfo:
    store = FeatureStore.open(path, _around(path))
    return FeaturesInfo(
        path=path,
        backbone=store.backbone_name,
        fingerprint=store.fingerprint,
        clips=len(store.clips),
        captions=len(store.captions),
        splits={name: len(store.split(name)) for name in ("train", "val", "test")},
        sizes=store.sizes,
        provides=sorted(store.provides),
        norms=dict(store.norms),
        scale=store.scale,
        identity=store.identity,
        provenance=store.provenance,
        size_bytes=_size(path),
    )


def _run(path: Path) -> RunInfo:
    run = RunDir(path)
    config = run.config() if run.config_path.is_file() else {}
    results = {p.stem: _result(p) for p in sorted(run.results.glob("*.json")) if not p.name.endswith(".ids.json")}
    return RunInfo(
        path=path,
        method=next(iter(config.get("method", {path.name: None}))),
        config=config,
        store=_around(path).fingerprint_of(run),
        env=run.env(),
        logged=len(run.logged()),
        results=results,
        size_bytes=_size(path),
    )


def _result(path: Path) -> Any:
    """Read a result of an evaluation, as it is. Raises DataError where it is none."""
    found = read_json(path, fix="move the file elsewhere and evaluate again")
    Claim.of(found, repr(str(path)))
    return found


def _index(path: Path) -> IndexInfo:
    if not (path / CURRENT).is_file():
        require_free(path)
    index = open_index(path)
    found = measured_of(standing(path))
    return IndexInfo(
        path=path,
        method=index.identity.get("method"),
        run=index.identity.get("run"),
        store=index.identity.get("store"),
        clips=len(index),
        videos=index.count_files(),
        identity=index.identity,
        size_bytes=index.size_bytes(),
        bytes_per_clip=index.size_bytes() / max(1, len(index)),
        search=found.search,
        recall=found.recall,
        bank=found.bank,
    )


def _speech(path: Path) -> SpeechInfo:
    store = speech.SpeechStore.open(path)
    if store is None:
        raise DataError(f"{speech.OUTDATED}: {speech.again(_around(path))}")
    return SpeechInfo(path=path, **asdict(store.counts), size_bytes=_size(path))


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
