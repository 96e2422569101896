"""From a file or flags to the cells of a sweep: what is asked for, what of it cannot be and why, before any work."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import config, files
from tvr_cli.backbones import registry
from tvr_cli.config import FramesConfig, Layer, Resolved, SweepConfig, WordsConfig
from tvr_cli.engine import dataset, scorers
from tvr_cli.engine.training.assemble import require_in_range
from tvr_cli.engine.training.seeds import check_seeds
from tvr_cli.engine.whole.ranges import Ranges, drawn, ranges_of
from tvr_cli.engine.whole.sweep_result import Cell, CellRecord, CellState, SearchHead, SweepHead
from tvr_cli.errors import ConfigError, DataError, did_you_mean
from tvr_cli.methods import base
from tvr_cli.methods.base import Method
from tvr_cli.preset_loader import preset_names
from tvr_cli.types import Manifest, Sizes
from tvr_cli.workspace import Workspace

_PLAN, _CELLS = "sweep.json", "cells"
_RECIPE = "recipe:"  # of a method: a published configuration in place of the method's preset
# What a sweep has once for all methods; where a recipe's is another one, `tvr table` says so beside its number.
_SHARED = ("backbone", "data", "frames", "shape", "words")
_NOTHING = "{} has nothing to train, so there is nothing to search; leave it out"
_SMALL = Sizes(dim=128, frames=4, words=16)  # a method's needs and whether it trains do not depend on sizes


@dataclass(frozen=True)
class Asked:
    """What the command line says of a sweep. file: YAML, or a shipped one by name. Flags replace what it says.

    search: its cells are trials. found: what a search found, where the sweep takes its settings (`tuned`).
    """

    file: Path | None = None
    methods: Sequence[str] = ()
    encoders: Sequence[str] = ()
    data: Sequence[str] = ()
    seeds: Sequence[str] = ()
    assignments: Sequence[str] = ()
    search: Search | None = None
    found: Callable[[str], Found] | None = None
    tuned: str | None = None


@dataclass(frozen=True)
class Search:
    """Trials of each method, drawn by a seed from the shipped ranges or those of a file."""

    trials: int
    seed: int = 0
    file: Path | None = None


@dataclass(frozen=True)
class Found:
    """What a search found. best: (data, method, encoder) -> path -> value. tried: the same -> finished trials."""

    best: Mapping[tuple[str, str, str], Mapping[str, Any]]
    tried: Mapping[tuple[str, str, str], int]

    def paths(self) -> set[str]:
        """The settings that were searched and are not the preset's."""
        return {path for values in self.best.values() for path in values}


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
    search: SearchHead | None = None
    tuned: Mapping[str, Mapping[str, Any]] | None = None

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
    ranges = _ranges(asked.search, wanted, set_layer)
    found = None if wanted.tuned is None or asked.found is None else asked.found(wanted.tuned)
    if found is not None and (both := sorted(config.flatten(set_layer.tree).keys() & found.paths())):
        raise ConfigError(f"{both[0]} is what the search {wanted.tuned!r} found, and --set gives it a value")
    for corpus in corpora:
        for encoder, short in zip(wanted.encoders, names, strict=True):
            for preset in wanted.methods:
                for one in _variants(asked.search, ranges.get(preset), found, (corpus.label, preset, encoder), wanted):
                    own = [*layers, config.flag_layer(one.settings)]
                    resolved = _experiment(preset, encoder, one.seed, own, set_layer)
                    trains = _trains(resolved)
                    if one.trial is not None:
                        _require_searchable(preset, resolved, trains)
                    stem = f"{_stem(preset)}-{short}"
                    cells.append(
                        Cell(
                            method=preset,
                            encoder=encoder,
                            data=corpus.label,
                            seed=one.seed if trains else None,
                            run=f"{stem}-{one.suffix}" if trains else stem,
                            lacks=_lacks(resolved, encoder, provides[encoder]),
                            trial=one.trial,
                            trials=one.trials if trains else (None if found is None else 0),
                        )
                    )
                    experiments.append(resolved)
                    if not trains:  # one number, whatever the seed
                        break
    if wanted.baseline is not None and wanted.baseline not in {*wanted.methods, *(cell.row for cell in cells)}:
        raise ConfigError(
            f"baseline: expected a method of the sweep ({', '.join(wanted.methods)}), found {wanted.baseline!r}"
        )
    head = None
    if asked.search is not None:
        said = {method: {path: r.said() for path, r in own.items()} for method, own in ranges.items()}
        settings = {method: _draws(asked.search, own, method) for method, own in ranges.items()}
        head = SearchHead(trials=asked.search.trials, seed=asked.search.seed, ranges=said, settings=settings)
    tuned = None if found is None else {row_key(*key): dict(values) for key, values in found.best.items()}
    return Table(wanted, corpora, cells, experiments, _settings(layers, set_layer), head, tuned)


def row_key(data: str, method: str, encoder: str) -> str:
    """Return what stands for a row of a data set in the plan of a sweep."""
    return f"{method} with {encoder} on {data}"


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
    told += _searched_otherwise(before, table)
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
    if cell.trial is not None:
        return CellState(cell, "done")
    result = workspace_of(folder, cell.data).run(cell.run).results / "test.json"
    return CellState(cell, "done" if result.is_file() else "todo")


# ------------------------------------------------------------------------------------------------------------ private


@dataclass(frozen=True)
class _Variant:
    """One of the cells of a row: a seed, or a trial."""

    suffix: str
    seed: int
    settings: Mapping[str, Any]
    trial: int | None = None
    trials: int | None = None


def _variants(
    search: Search | None, ranges: Ranges | None, found: Found | None, row: tuple[str, str, str], wanted: SweepConfig
) -> list[_Variant]:
    """Return the cells of a row: its trials in a search, else its seeds, with the settings that a search found."""
    if search is not None:
        assert ranges is not None, "those of every method were read"
        settings = _draws(search, ranges, row[1])
        return [_Variant(f"trial{t}", wanted.seeds[0], own, trial=t) for t, own in enumerate(settings)]
    own = {} if found is None else found.best.get(row, {})
    trials = None if found is None else found.tried.get(row, 0)
    return [_Variant(f"seed{seed}", seed, own, trials=trials) for seed in wanted.seeds]


def _draws(search: Search, ranges: Ranges, method: str) -> list[dict[str, Any]]:
    return [drawn(ranges, seed=search.seed, method=method, trial=t) for t in range(search.trials)]


def _ranges(search: Search | None, wanted: SweepConfig, set_layer: Layer) -> dict[str, Ranges]:
    """Return the ranges of each method of a search.

    Raises ConfigError for a method without parameters, and for a setting that is also given with --set.
    """
    if search is None:
        return {}
    if search.trials < 1:
        raise ConfigError(f"--trials: expected 1 or more, found {search.trials}")
    fixed = config.flatten(set_layer.tree)
    out = {}
    for preset in wanted.methods:
        name = config.method_of(_own_layers(preset))
        if base.load_class(name).loss is Method.loss:  # no file of ranges would help
            raise ConfigError(_NOTHING.format(preset))
        found = ranges_of(name, search.file)
        if both := sorted(found.keys() & fixed.keys()):
            raise ConfigError(f"{both[0]} is searched, and --set gives it a value; leave one of the two out")
        out[preset] = found
    return out


def _require_searchable(preset: str, resolved: Resolved, trains: bool) -> None:
    if not trains:
        raise ConfigError(_NOTHING.format(preset))
    if resolved.experiment.train.select_on != "val":
        raise ConfigError(
            "a search looks at validation alone, and train.select_on is "
            f"{resolved.experiment.train.select_on!r}; set train.select_on=val"
        )


def _searched_otherwise(before: SweepHead, table: Table) -> list[str]:
    """Say in what a search, or what is taken of one, is not that of the folder."""
    old, new = before.search, table.search
    if (old is None) != (new is None):
        return ["one is a search of settings and the other is not"]
    told = []
    if old is not None and new is not None:
        if old.seed != new.seed:
            told.append(f"--seed: it was {old.seed}, {new.seed} is asked for")
        if old.trials > new.trials:
            told.append(f"--trials: it was {old.trials}, {new.trials} is asked for")
        kept = [method for method in old.ranges if method in new.ranges]
        told += [f"the ranges of {m} have changed" for m in kept if dict(new.ranges[m]) != dict(old.ranges[m])]
    was, now = before.tuned or {}, table.tuned or {}
    told += [f"the search found other settings for {key}" for key in was if dict(was[key]) != dict(now.get(key, {}))]
    return told


def _wanted(asked: Asked) -> tuple[SweepConfig, list[Layer]]:
    """Return what is swept, flags in place of the file's values, and the rest of the file, checked for being there."""
    wanted, layers = config.sweep_of([] if asked.file is None else _file_layers(asked.file))
    flags: dict[str, Any] = {
        name: tuple(dict.fromkeys(values))
        for name in ("methods", "encoders", "data")
        if (values := getattr(asked, name))
    }
    if asked.tuned is not None:
        flags["tuned"] = asked.tuned
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
    name, shipped = str(file), preset_names("sweeps")
    if not file.is_file() and file.name == name and not file.suffix:  # a word
        if name not in shipped:
            near = did_you_mean(name, shipped) or f"; the sweeps that ship are: {', '.join(shipped)}"
            raise ConfigError(f"found no file {name!r}, and no sweep of that name ships{near}")
        return config.preset_layers("sweeps", name)
    return config.file_layers(file)


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
