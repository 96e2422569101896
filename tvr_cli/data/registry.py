"""What a data set is, and finding one by name: the file name is the registry, `load(root, variant) -> Manifest` its
one function.

A data set's module may say more about itself, and the doctor, completeness and `tvr datasets` use it:
- the first line of its docstring: what it is;
- `VARIANTS`: the names of its variants, the default first;
- `SIZES`: variant (`default` where there are none) -> split -> `SplitSize`, the official numbers;
- `GALLERIES`: how many videos test galleries in use have that are none of its variants, and whose they are;
- `seconds_of(video)`: how long a video is by the times in its id, None where it has none;
- `wanted(root, variant)`: the annotation files that are needed, each with the names that it may have;
- `ORDINARY`: names of its annotation files that a folder of one's own may hold as well.

A dotted name (`mypackage.mydata`) and an entry point of the group `tvr.datasets` load somebody else's.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvr_cli import plugins
from tvr_cli.data import annotation_files as ann
from tvr_cli.data import galleries
from tvr_cli.data.sizes import SplitSize, videos_of
from tvr_cli.errors import ConfigError, DataError, did_you_mean
from tvr_cli.types import SPLITS, Manifest

_WITHOUT_VARIANT = "default"


@dataclass(frozen=True)
class DataSet:
    """A data set as its module describes it. name: the one that it was asked for by."""

    name: str
    module: Any

    @property
    def summary(self) -> str:
        """The first sentence of its docstring, in one line."""
        first = (inspect.getdoc(self.module) or "").split("\n\n")[0]
        return " ".join(first.split())

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of its variants, the default first; () where there are none."""
        return tuple(getattr(self.module, "VARIANTS", ()))

    @property
    def ordinary(self) -> frozenset[str]:
        """Names of annotation files that tell nothing about which data set it is."""
        return frozenset(getattr(self.module, "ORDINARY", ()))

    def sizes(self, variant: str | None) -> Mapping[str, SplitSize]:
        """Return the official sizes of the splits, empty where there are none."""
        sizes: Mapping[str, SplitSize] = getattr(self.module, "SIZES", {}).get(variant or _WITHOUT_VARIANT, {})
        return sizes

    def is_own(self, variant: str | None) -> bool:
        """Whether a manifest's variant is the data set's own protocol, not another one and no list of videos.

        Variants that begin with `default` are protocols; others, as VATEX's, are layouts of one.
        """
        return variant is None or (variant in self.variants and self.variants[0] != _WITHOUT_VARIANT)

    @property
    def galleries(self) -> Mapping[int, str]:
        """Counts of test galleries in use that are none of its variants -> whose they are."""
        return dict(getattr(self.module, "GALLERIES", {}))

    def seconds_of(self, video: str) -> float | None:
        """Return how long a video is by the times in its id, None where ids tell nothing."""
        return self.module.seconds_of(video) if hasattr(self.module, "seconds_of") else None

    def wanted(self, root: Path, variant: str | None = None) -> list[tuple[str, ...]]:
        """Return the annotation files that are needed, each with the names that it may have; [] where none are said."""
        return list(self.module.wanted(root, variant)) if hasattr(self.module, "wanted") else []

    def read(self, root: Path, variant: str | None) -> Manifest:
        """Read the annotation files below a root, captions without words included.

        variant: one of `variants`, or the path of a file that lists the test videos, one id a line.
        Raises what the data set's `load` raises, ConfigError when that returns no manifest, and DataError for a caption
        whose split is none.
        """
        listed = galleries.list_of(variant, self.variants)
        return self._read(root, variant) if listed is None else self._listed(root, listed)

    def _listed(self, root: Path, path: Path) -> Manifest:
        """Read the variant whose test gallery holds the videos of a list, cut to them."""
        lines = galleries.ids_of(path)
        manifests, refused = [], []
        for variant in self.variants or (None,):
            try:
                manifests.append(self._read(root, variant))
            except DataError as e:  # files of this variant are not there; those of another may be
                refused.append(e)
        if not manifests:
            raise refused[0]
        return galleries.cut(galleries.best(manifests, path, lines), path, lines, self.galleries)

    def _read(self, root: Path, variant: str | None) -> Manifest:
        manifest = self.module.load(root, variant)
        if not isinstance(manifest, Manifest):
            raise ConfigError(
                f"expected that `load` of the data set {self.name} returns a tvr_cli.types.Manifest, found "
                f"{plugins.describe(manifest)}"
            )
        for caption in manifest.captions:
            if caption.split is not None and caption.split not in SPLITS:
                near = did_you_mean(str(caption.split), SPLITS)
                raise DataError(
                    f"{caption.source or self.name}: the caption {caption.id!r} is of the split {caption.split!r}; "
                    f"expected {', '.join(SPLITS)} or none{near}"
                )
        expected = manifest.expected or videos_of(self.sizes(manifest.variant))
        return replace(manifest, name=self.name, expected=expected)


def names() -> list[str]:
    """Return the names of the data sets, sorted: the shipped ones and those of installed packages."""
    return KIND.names()


def shipped() -> list[str]:
    """Return the names of the shipped data sets, sorted: the modules of this package that have a `load`."""
    folder = Path(__file__).parent
    return sorted(
        m.name for m in pkgutil.iter_modules([str(folder)]) if m.name != "registry" and _has_load(folder, m.name)
    )


def find(name: str) -> DataSet:
    """Return a data set by name. Raises ConfigError where there is none, or it has no `load(root, variant)`."""
    thing = KIND.find(name)
    load = getattr(thing, "load", None)
    expected = "a function `load(root, variant)` that returns a tvr_cli.types.Manifest"
    if load is None:
        near = did_you_mean("load", plugins.defined(thing, inspect.isfunction)) if inspect.ismodule(thing) else ""
        raise KIND.lacks(name, expected, thing, near)
    if not callable(load) or not _takes_two(load):
        found = f"load{inspect.signature(load)}" if callable(load) else plugins.describe(load)
        raise KIND.unfit(name, expected, found)
    return DataSet(name, thing)


def load(spec: str) -> Manifest:
    """Read the annotations of `NAME:ROOT[:VARIANT]`, every caption with words in it.

    Raises ConfigError for an unknown name or a malformed spec, DataError when the root is not there, when its files
    are not as the data set's are, and for captions without words, all of them at once.
    """
    manifest = read(spec)
    ann.refuse_empty(manifest.captions)
    return manifest


def load_from(file: str, spec: str, *, fix: str) -> Manifest:
    """Read a data set that a file of a workspace names, as `load` does.

    Raises DataError for a dotted one: reading it imports a module, so a command has to name it (`fix`), not a file that
    may come from anybody.
    """
    name = split_spec(spec)[0]
    if "." in name:
        raise DataError(
            f"{file} names the data set {name!r}, which is not one of tvr's own, and reading it runs that module; if "
            f"you trust it, name it yourself: {fix}"
        )
    return load(spec)


def read(spec: str) -> Manifest:
    """Read the annotations as `load` does, and keep captions without words: for who wants to list what is wrong."""
    name, root, variant = split_spec(spec)
    found = find(name)
    if not root.exists():
        raise DataError(f"expected the data set {name} at {str(root)!r}, found nothing there")
    return found.read(root, variant)


def split_spec(spec: str) -> tuple[str, Path, str | None]:
    """Split `NAME:ROOT[:VARIANT]`; a root may hold colons as long as it exists."""
    name, colon, rest = spec.partition(":")
    if not colon or not name or not rest:
        raise ConfigError(f"--data: expected NAME:ROOT[:VARIANT], found {spec!r}")
    if Path(rest).expanduser().exists() or ":" not in rest:
        return name, Path(rest).expanduser(), None
    root, _, variant = rest.rpartition(":")
    return name, Path(root).expanduser(), variant or None


def _takes_two(load: Any) -> bool:
    """Whether `load(root, variant)` fits the signature of a function."""
    try:
        inspect.signature(load).bind(Path(), None)
    except TypeError:
        return False
    return True


def _has_load(folder: Path, name: str) -> bool:
    """Whether a module defines `load`, without importing it."""
    file = folder / f"{name}.py"
    return name != "registry" and file.is_file() and "\ndef load(" in file.read_text(encoding="utf-8")


KIND = plugins.Kind("data set", "tvr_cli.data", "tvr.datasets", shipped)
