"""Finding a data set by name: the file name is the registry, `load(root, variant) -> Manifest` its one function."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from tvr_cli.data import annotation_files as ann
from tvr_cli.errors import ConfigError, DataError, did_you_mean
from tvr_cli.types import Manifest


def names() -> list[str]:
    """Return the names of the data sets, sorted: the modules of this package that have a `load`."""
    import tvr_cli.data as package

    folder = Path(package.__path__[0])
    return sorted(
        m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "registry" and _has_load(folder, m.name)
    )


def load(spec: str) -> Manifest:
    """Read the annotations of `NAME:ROOT[:VARIANT]`, every caption with words in it.

    Raises ConfigError for an unknown name or a malformed spec, DataError when the root is not there, when its files
    are not as the data set's are, and for captions without words, all of them at once.
    """
    manifest = read(spec)
    ann.refuse_empty(manifest.captions)
    return manifest


def read(spec: str) -> Manifest:
    """Read the annotations as `load` does, and keep captions without words: for who wants to list what is wrong."""
    name, root, variant = split_spec(spec)
    if name not in names():
        raise ConfigError(
            f"unknown data set {name!r}{did_you_mean(name, names()) or '; the data sets are: ' + ', '.join(names())}"
        )
    if not root.exists():
        raise DataError(f"expected the data set {name} at {str(root)!r}, found nothing there")
    manifest: Manifest = importlib.import_module(f"tvr_cli.data.{name}").load(root, variant)
    return manifest


def wanted(name: str, root: Path, variant: str | None = None) -> list[tuple[str, ...]]:
    """Return the annotation files that a benchmark needs, each with the names that it may have; [] of other data."""
    module = importlib.import_module(f"tvr_cli.data.{name}")
    return list(module.wanted(root, variant)) if hasattr(module, "wanted") else []


def split_spec(spec: str) -> tuple[str, Path, str | None]:
    """Split `NAME:ROOT[:VARIANT]`; a root may hold colons as long as it exists."""
    name, colon, rest = spec.partition(":")
    if not colon or not name or not rest:
        raise ConfigError(f"--data: expected NAME:ROOT[:VARIANT], found {spec!r}")
    if Path(rest).expanduser().exists() or ":" not in rest:
        return name, Path(rest).expanduser(), None
    root, _, variant = rest.rpartition(":")
    return name, Path(root).expanduser(), variant or None


def _has_load(folder: Path, name: str) -> bool:
    """Whether a module defines `load`, without importing it."""
    file = folder / f"{name}.py"
    return file.is_file() and "\ndef load(" in file.read_text(encoding="utf-8")
