"""From a file or flags to the cells of a sweep: what is asked for, what of it cannot be and why, before any work."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import config, files
from tvr_cli.backbones import registry
from tvr_cli.config import FramesConfig, Layer, Resolved, SweepConfig, WordsConfig
from tvr_cli.engine import dataset, scorers
from tvr_cli.engine.training.assemble import require_in_range
from tvr_cli.engine.training.seeds import check_seeds
from tvr_cli.engine.whole.sweep_result import Cell, CellRecord, CellState, SweepHead
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.methods import base
from tvr_cli.methods.base import Method
from tvr_cli.preset_loader import preset_names
from tvr_cli.types import Manifest, Sizes
from tvr_cli.workspace import Workspace

_PLAN, _CELLS = "sweep.json", "cells"
_RECIPE = "recipe:"  # of a method: a published configuration in place of the method's preset
# What a sweep has once for all methods; where a recipe's is another one, `tvr table` says so beside its number.
_SHARED = ("backbone", "data", "frames", "shape", "words")
_SMALL = Sizes(dim=128, frames=4, words=16)  # a method's needs and whether it trains do not depend on sizes


@dataclass(frozen=True)
class Asked:
    """What the command line says of a sweep. file: YAML, or a shipped one by name. Flags replace what it says."""

    file: Path | None = None
    methods: Sequence[str] = ()
    encoders: Sequence[str] = ()
    data: Sequence[str] = ()
    seeds: Sequence[str] = ()
    assignments: Sequence[str] = ()


@dataclass(frozen=True)
class Corpus:
    """A data set of a sweep. label: the name of its workspace; frames, words: of its preset."""

    label: str
    spec: str
    manifest: Manifest
    frames: FramesConfig
    words: WordsConfig


@dataclass(frozen=True)
class Table:
    """A whole sweep before it begins. layers: what the file says of every cell; every cell's experiment is resolved."""

    asked: SweepConfig
    corpora: Sequence[Corpus]
    cells: Sequence[Cell]
    experiments: Sequence[Resolved]
    settings: dict[str, Any]

    @property
    def baseline(self) -> str:
        return self.asked.baseline or self.asked.methods[0]

    def resolved(self, cell: Cell) -> Resolved:
        """Return the experiment of a cell."""
        return self.experiments[self.cells.index(cell)]


def table_of(asked: Asked) -> Table:
    """Return the cells of what is asked for, in the order data set, encoder, method, seed.

    Raises ConfigError for what no sweep can have (an unknown method, encoder or key), DataError for a data set that
    cannot be read. A cell whose encoder lacks what its method needs is there, and says so.
    """
    wanted, layers = _wanted(asked)
    set_layer = config.set_layer(asked.assignments)
    corpora = [_corpus(spec) for spec in wanted.data]
    _require_distinct("data sets", [corpus.label for corpus in corpora], wanted.data)
    _require_distinct("methods", [_stem(method) for method in wanted.methods], wanted.methods)
    names = [short_name(encoder) for encoder in wanted.encoders]
    _require_distinct("encoders", names, wanted.encoders)
    provides = {encoder: registry.resolve(encoder).provides | {"importance"} for encoder in wanted.encoders}
    cells: list[Cell] = []
    experiments: list[Resolved] = []
    for corpus in corpora:
        for encoder, short in zip(wanted.encoders, names, strict=True):
            for preset in wanted.methods:
                for seed in wanted.seeds:
                    resolved = _experiment(preset, encoder, seed, layers, set_layer)
                    trains = _trains(resolved)
                    stem = f"{_stem(preset)}-{short}"
                    run = f"{stem}-seed{seed}" if trains else stem
                    cells.append(
                        Cell(
                            method=preset,
                            encoder=encoder,
                            data=corpus.label,
                            seed=seed if trains else None,
                            run=run,
                            lacks=_lacks(resolved, encoder, provides[encoder]),
                        )
                    )
                    experiments.append(resolved)
                    if not trains:  # one number, whatever the seed
                        break
    if wanted.baseline is not None and wanted.baseline not in {*wanted.methods, *(cell.row for cell in cells)}:
        raise ConfigError(
            f"baseline: expected a method of the sweep ({', '.join(wanted.methods)}), found {wanted.baseline!r}"
        )
    return Table(wanted, corpora, cells, experiments, _settings(layers, set_layer))


def short_name(encoder: str) -> str:
    """Return what stands for an encoder in the name of a run: of a path the last part, `/` and the like as `-`."""
    kind, colon, path = encoder.partition(":")
    plain = Path(path).name if colon and kind == "local" else encoder
    return re.sub(r"[^A-Za-z0-9._+]+", "-", plain).strip("-")


def kept_plan(folder: Path) -> SweepHead | None:
    """Return the plan of the sweep in a folder, None where there is none. Raises DataError where it is no sweep's."""
    path = folder / _PLAN
    return SweepHead.from_file(path, "keep a copy and move the folder elsewhere") if path.is_file() else None


def require_plan(folder: Path) -> SweepHead:
    """Return the plan of the sweep in a folder. Raises DataError where there is none."""
    found = kept_plan(folder)
    if found is None:
        raise DataError(f"expected a sweep (a folder with {_PLAN}) at {str(folder)!r}, found none")
    return found


def keep_plan(folder: Path, plan: SweepHead) -> None:
    """Write the plan of a sweep."""
    files.write_json(folder / _PLAN, plan.to_json())


def require_same(before: SweepHead, table: Table, folder: Path) -> None:
    """Raise ConfigError, with the difference, unless a sweep is the one before or that one with more cells."""
    told = [
        f"{name}: {', '.join(map(str, gone))} is gone"
        for name in ("methods", "encoders", "data", "seeds")
        if (gone := [value for value in getattr(before, name) if value not in getattr(table.asked, name)])
    ]
    old, new = config.flatten(before.settings), config.flatten(table.settings)
    told += [
        f"{path}: it was {old.get(path, 'not given')!s}, {new.get(path, 'not given')!s} is asked for"
        for path in sorted({*old, *new})
        if old.get(path) != new.get(path)
    ]
    if told:
        raise ConfigError(
            f"the sweep in {str(folder)!r} is another one ({'; '.join(told)}); methods, encoders, data sets and seeds "
            "may be added to it, anything else needs a sweep of its own: give it another --name"
        )


def workspace_of(folder: Path, data: str) -> Workspace:
    """Return the workspace of a data set of a sweep. Raises DataError for a name that leads out of the folder."""
    return Workspace(folder / files.bare_name(data, folder / _PLAN))


def record_path(folder: Path, cell: Cell) -> Path:
    """Return where it is kept what became of a cell."""
    where = folder / _PLAN
    return folder / _CELLS / files.bare_name(cell.data, where) / f"{files.bare_name(cell.run, where)}.json"


def record_of(folder: Path, cell: Cell) -> CellRecord | None:
    """Return what became of a cell, None where it was never finished."""
    path = record_path(folder, cell)
    return CellRecord.from_file(path, "move it elsewhere, and the cell is done again") if path.is_file() else None


def state_of(folder: Path, cell: Cell) -> CellState:
    """Return a cell with its state: it is done where its result is there."""
    if cell.lacks is not None:
        return CellState(cell, "empty", cell.lacks)
    record = record_of(folder, cell)
    if record is None:
        return CellState(cell, "todo")
    if record.state == "failed":
        return CellState(cell, "failed", record.reason)
    result = workspace_of(folder, cell.data).run(cell.run).results / "test.json"
    return CellState(cell, "done" if result.is_file() else "todo")


# ------------------------------------------------------------------------------------------------------------ private


def _wanted(asked: Asked) -> tuple[SweepConfig, list[Layer]]:
    """Return what is swept, flags in place of the file's values, and the rest of the file, checked for being there."""
    wanted, layers = config.sweep_of([] if asked.file is None else _file_layers(asked.file))
    flags: dict[str, Any] = {
        name: tuple(dict.fromkeys(values))
        for name in ("methods", "encoders", "data")
        if (values := getattr(asked, name))
    }
    if asked.seeds:
        flags["seeds"] = check_seeds(asked.seeds)
    wanted = dataclasses.replace(wanted, **flags)
    for name in ("methods", "encoders", "data", "seeds"):
        if not getattr(wanted, name):
            raise ConfigError(f"a sweep needs {name}; give --{name}, or `sweep: {{{name}: [...]}}` in a file")
        if len(set(getattr(wanted, name))) < len(getattr(wanted, name)):
            raise ConfigError(
                f"sweep.{name}: something stands there twice: {', '.join(map(str, getattr(wanted, name)))}"
            )
    return wanted, layers


def _file_layers(file: Path) -> list[Layer]:
    """Read a file, or the shipped sweep of that name. Raises ConfigError with file and line."""
    shipped = not file.is_file() and str(file) in preset_names("sweeps")
    return config.preset_layers("sweeps", str(file)) if shipped else config.file_layers(file)


def _corpus(spec: str) -> Corpus:
    manifest, frames, words = dataset.named(spec)
    label = "-".join(part for part in (manifest.name.rpartition(".")[2], manifest.variant) if part)
    return Corpus(re.sub(r"[^A-Za-z0-9._+]+", "-", label), spec, manifest, frames, words)


def _require_distinct(what: str, names: Sequence[str], given: Sequence[str]) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ConfigError(
                f"two {what} would both be called {name!r} in this sweep ({given[names.index(name)]} and {given[i]}); "
                "give one of them a sweep of its own"
            )


def _stem(preset: str) -> str:
    """Return what stands for a method in the name of a run: its preset or recipe, of a third party's the last part."""
    return preset.removeprefix(_RECIPE).rpartition(".")[2]


def _experiment(preset: str, encoder: str, seed: int, layers: Sequence[Layer], set_layer: Layer) -> Resolved:
    """Resolve a cell as `tvr train --method … --config … --set … --backbone … --seed …` does.

    Of options of methods in the file those of the cell's method count.
    """
    own = _own_layers(preset)
    name = config.method_of(own)
    flags = config.flag_layer({"train.seed": seed, "backbone.name": encoder})
    resolved = config.resolve(
        [*own, *(_of_method(layer, name) for layer in (*layers, set_layer)), flags], scorers.options_schema
    )
    require_in_range(resolved.experiment.train)
    return resolved


def _own_layers(preset: str) -> list[Layer]:
    """Return what stands for a method; of a recipe its options and its training."""
    recipe = preset.removeprefix(_RECIPE)
    if recipe == preset:
        return scorers.method_layers(preset)
    return [
        dataclasses.replace(layer, tree={k: v for k, v in layer.tree.items() if k not in _SHARED})
        for layer in config.preset_layers("recipes", recipe)
    ]


def _of_method(layer: Layer, name: str) -> Layer:
    methods = layer.tree.get("method")
    if not isinstance(methods, dict):
        return layer
    rest = {k: v for k, v in layer.tree.items() if k != "method"}
    return dataclasses.replace(layer, tree=rest | ({"method": {name: methods[name]}} if name in methods else {}))


def _small(resolved: Resolved) -> Method:
    return base.build(resolved.experiment.method, _SMALL, resolved.experiment.options)


def _trains(resolved: Resolved) -> bool:
    """Whether a cell has something to train: what `tvr train` would not refuse."""
    method = _small(resolved)
    return type(method).loss is not Method.loss and (resolved.experiment.train.tune == "full" or method.trains)


def _lacks(resolved: Resolved, encoder: str, provides: frozenset[str]) -> str | None:
    """Say what a method needs that an encoder has not, None where it has all."""
    method = _small(resolved)
    lacking = sorted(method.needs - provides)
    if lacking:
        return f"{resolved.experiment.method} needs {', '.join(lacking)}, which {encoder} does not provide"
    return None


def _settings(layers: Sequence[Layer], set_layer: Layer) -> dict[str, Any]:
    """Return what the file and `--set` say beside the section `sweep`, later ones winning."""
    merged: dict[str, Any] = {}
    for layer in (*layers, set_layer):
        merged = _merged(merged, layer.tree)
    return merged


def _merged(low: dict[str, Any], high: Any) -> dict[str, Any]:
    out = dict(low)
    for name, value in high.items():
        out[name] = _merged(out[name], value) if isinstance(value, dict) and isinstance(out.get(name), dict) else value
    return out
