"""What a store, a run or an index holds, and which of them it is, read from its own files and not from its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tvr_cli import commands
from tvr_cli.errors import DataError
from tvr_cli.files import read_json
from tvr_cli.results.base import Result, key
from tvr_cli.runs import RunDir
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.stores.index.place import CURRENT
from tvr_cli.stores.index.store import Index
from tvr_cli.types import Sizes
from tvr_cli.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class FramesInfo(Result):
    """A frame store. decoders: name -> clips. failures: videos that could not be read."""

    schema = "info"
    kind: Literal["frames"] = field(default="frames", init=False)
    path: Path
    clips: int
    videos: int
    frames: int
    truncated: int
    decoders: Mapping[str, int]
    failures: int
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]
    size_bytes: int = field(metadata=key("bytes"))


@dataclass(frozen=True, kw_only=True)
class FeaturesInfo(Result):
    """A feature store. splits: name -> captions."""

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
    """A search index and what it was made with."""

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


@dataclass(frozen=True, kw_only=True)
class WorkspaceInfo(Result):
    """Everything in a workspace."""

    schema = "info"
    kind: Literal["workspace"] = field(default="workspace", init=False)
    path: Path
    parts: Sequence[Part]


Part = FramesInfo | FeaturesInfo | RunInfo | IndexInfo


def info(path: Path) -> Part | WorkspaceInfo:
    """Describe the store, run, index or workspace at `path`. Raises DataError if it is none of them."""
    _, describe = _kind(path)
    return describe(path)


def _kind(path: Path) -> tuple[str, Any]:
    if (path / CURRENT).is_file():
        return "index", _index
    if (path / "store.json").is_file():
        return _store_kind(path / "store.json")
    if (path / "config.json").is_file() or (path / "results").is_dir():
        return "run", _run
    if Workspace(path).parts():
        return "workspace", _workspace
    raise DataError(
        f"expected a frame store, feature store, run, index or workspace at {str(path)!r}, found none of them; "
        f"a workspace is made by: {commands.tvr('extract-frames', 'VIDEOS', workspace=path)}"
    )


def _store_kind(header: Path) -> tuple[str, Any]:
    """Return the kind that a store's header says; an index of tvr 0.1.0 says none."""
    found = read_json(header, fix="nothing of it was changed")
    kind = found.get("kind", "index") if isinstance(found, dict) else None
    if kind not in (known := {"frames": _frames, "features": _features, "index": _index}):
        raise DataError(
            f"{str(header)!r} says kind {kind!r}; this tvr knows {', '.join(known)}. It is left as it is: look at it "
            "with the tvr, or the other program, that wrote it"
        )
    return kind, known[kind]


def _frames(path: Path) -> FramesInfo:
    store = FrameStore.open(path)
    return FramesInfo(
        path=path,
        clips=len(store.records),
        videos=len({r.file_id for r in store.records}),
        frames=sum(r.n_frames for r in store.records),
        truncated=sum(r.truncated for r in store.records),
        decoders=dict(Counter(r.decoder for r in store.records)),
        failures=len(store.failures()),
        identity=store.identity,
        provenance=store.provenance,
        size_bytes=_size(path),
    )


def _features(path: Path) -> FeaturesInfo:
    store = FeatureStore.open(path)
    return FeaturesInfo(
        path=path,
        backbone=store.backbone_name,
        fingerprint=store.fingerprint,
        clips=len(store.clips),
        captions=len(store.captions),
        splits={name: len(store.split(name)) for name in ("train", "val", "test")},
        sizes=store.sizes,
        provides=sorted(store.provides),
        identity=store.identity,
        provenance=store.provenance,
        size_bytes=_size(path),
    )


def _run(path: Path) -> RunInfo:
    run = RunDir(path)
    config = run.config() if run.config_path.is_file() else {}
    results = {p.stem: read_json(p) for p in sorted(run.results.glob("*.json")) if not p.name.endswith(".ids.json")}
    return RunInfo(
        path=path,
        method=next(iter(config.get("method", {path.name: None}))),
        config=config,
        store=(Workspace.around(path) or Workspace(path.parent)).fingerprint_of(run),
        env=run.env(),
        logged=len(run.logged()),
        results=results,
        size_bytes=_size(path),
    )


def _index(path: Path) -> IndexInfo:
    index = Index.open(path)
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
    )


def _workspace(path: Path) -> WorkspaceInfo:
    held = [
        p
        for p in Workspace(path).parts()
        if any(p.glob("*.json")) or (p / CURRENT).is_file() or (p / "results").is_dir()
    ]
    return WorkspaceInfo(path=path, parts=[part for p in held if not isinstance(part := info(p), WorkspaceInfo)])


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
