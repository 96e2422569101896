"""What a store, a run or an index holds, and which of them it is, read from its own files and not from its name."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tvr_cli import commands
from tvr_cli.errors import DataError
from tvr_cli.files import read_json
from tvr_cli.runs import RunDir
from tvr_cli.stores.features import FeatureStore
from tvr_cli.stores.frames import FrameStore
from tvr_cli.stores.index import Index
from tvr_cli.workspace import Workspace


def info(path: Path) -> dict[str, Any]:
    """Describe the store, run, index or workspace at `path`. Raises DataError if it is none of them."""
    kind, describe = _kind(path)
    return {"schema": "tvr/info@1", "kind": kind, "path": str(path), **describe(path)}


def _kind(path: Path) -> tuple[str, Any]:
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


def _frames(path: Path) -> dict[str, Any]:
    store = FrameStore.open(path)
    return {
        "clips": len(store.records),
        "videos": len({r.file_id for r in store.records}),
        "frames": sum(r.n_frames for r in store.records),
        "truncated": sum(r.truncated for r in store.records),
        "decoders": dict(Counter(r.decoder for r in store.records)),
        "failures": len(store.failures()),
        "identity": store.identity,
        "provenance": store.provenance,
        "bytes": _size(path),
    }


def _features(path: Path) -> dict[str, Any]:
    store = FeatureStore.open(path)
    return {
        "backbone": store.backbone_name,
        "fingerprint": store.fingerprint,
        "clips": len(store.clips),
        "captions": len(store.captions),
        "splits": {name: len(store.split(name)) for name in ("train", "val", "test")},
        "sizes": asdict(store.sizes),
        "provides": sorted(store.provides),
        "identity": store.identity,
        "provenance": store.provenance,
        "bytes": _size(path),
    }


def _run(path: Path) -> dict[str, Any]:
    run = RunDir(path)
    config = run.config() if run.config_path.is_file() else {}
    results = {p.stem: read_json(p) for p in sorted(run.results.glob("*.json")) if not p.name.endswith(".ids.json")}
    return {
        "method": next(iter(config.get("method", {path.name: None}))),
        "config": config,
        "store": (Workspace.around(path) or Workspace(path.parent)).fingerprint_of(run),
        "env": run.env(),
        "logged": len(run.logged()),
        "results": results,
        "bytes": _size(path),
    }


def _index(path: Path) -> dict[str, Any]:
    index = Index.open(path)
    return {
        "method": index.identity.get("method"),
        "run": index.identity.get("run"),
        "store": index.identity.get("store"),
        "clips": len(index),
        "videos": len({c.file_id for c in index.clips}),
        "identity": dict(index.identity),
        "bytes": index.size_bytes(),
        "bytes_per_clip": index.size_bytes() / max(1, len(index)),
    }


def _workspace(path: Path) -> dict[str, Any]:
    parts = Workspace(path).parts()
    return {"parts": [info(p) for p in parts if any(p.glob("*.json")) or (p / "results").is_dir()]}


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
