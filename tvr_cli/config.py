"""Configuration: dataclasses are the schema, YAML files and flags change their values, every leaf knows its origin.

Precedence: defaults < preset (`extends`, left to right) < `--config FILE` < `--set a.b=c` and named flags. There is no
interpolation. A leaf that is None means "as the store or the backbone has it". YAML is read by `yaml_text.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from tvr_cli import yaml_text
from tvr_cli.errors import ConfigError, MethodNotNamed, did_you_mean
from tvr_cli.preset_loader import Kind, preset_names, preset_path, presets_root

_Card = TypeVar("_Card")

# ------------------------------------------------------------------------------------------------------------- schema


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which backbone makes the features. None = that of the feature store."""

    name: str | None = None
    temporal_shift: bool | None = None


@dataclass(frozen=True, kw_only=True)
class FramesConfig:
    """The frame plan (see `plans.FramePlan`). None = that of the frame store."""

    kind: Literal["uniform", "fps"] | None = None
    num_frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    """The word plan (see `plans.WordPlan`). None = that of the feature store."""

    shape: Literal["fixed", "ragged"] | None = None
    length: int | None = None
    importance: Literal["none", "stopwords", "spacy"] | None = None


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set, where, and which of its variants."""

    name: str | None = None
    root: str | None = None
    variant: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a method is trained. Rates are per step of the optimizer; `warmup` is a fraction of all steps."""

    seed: int = 0
    tune: Literal["head", "full"] = "head"
    epochs: int = 5
    steps: int | None = None
    batch_size: int = 128
    accumulate: int = 1  # batches whose mean gradient makes one update; none of them sees the others' pairs
    optimizer: Literal["adamw", "bertadam", "hf-adamw"] = "adamw"
    lr: float = 1e-4
    backbone_lr: float = 1e-6
    logit_scale_lr: float | None = None  # None: backbone_lr where the backbone is tuned (it is CLIP's), else lr
    weight_decay: float = 0.2
    decay: Literal["matrices", "authors", "all"] = "matrices"
    warmup: float = 0.1
    schedule: Literal["cosine", "authors", "hf-cosine", "constant"] = "cosine"
    schedule_epochs: int | None = None  # length of the schedule where it is not the run's own (GARE: always 5)
    grad_clip: float = 1.0
    captions: Literal["one", "all"] = "one"
    negatives: Literal["other-videos", "diagonal"] = "other-videos"
    freeze: tuple[str, ...] = ()
    max_logit_scale: float = 4.605170185988092  # ln 100, as the papers clamp it
    precision: Literal["fp32", "bf16"] = "fp32"
    clip_precision: Literal["fp32", "fp16"] = "fp32"
    grad_checkpointing: bool = False
    grad_cache: int | None = None
    gradients: Literal["exact", "authors"] = "exact"  # of several devices: of the loss, or as the authors average them
    augment: Literal["none", "randaugment"] = "none"
    validate_every: int | None = None  # steps; None = once an epoch
    validation_captions: Literal["one", "all"] = "one"
    patience: int | None = None  # validations without a better one before training stops
    checkpoint_every: int | None = 500  # steps; every validation writes one too
    select_on: Literal["val", "test"] = "val"
    keep_checkpoints: int = 2
    tensorboard: bool = False


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Where the values of a published experiment come from, and what its authors report.

    sources: dotted path -> paper, authors' script or our assumption. published: metrics in percent, or None, with a
    source of its own (`recipe.published`). gpus: how many the authors' script starts, None where none says so. notes:
    what contradicts what, and which was taken.
    """

    sources: Mapping[str, str]
    published: Mapping[str, Any] | None
    selected_on: Literal["val", "test"]
    code_revision: Literal["known", "unknown"]
    gpus: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One resolved experiment: a method with its options, its data plans and its training."""

    method: str
    options: Mapping[str, Any]
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    frames: FramesConfig = field(default_factory=FramesConfig)
    shape: Literal["fixed", "ragged"] | None = None
    words: WordsConfig = field(default_factory=WordsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    recipe: RecipeConfig | None = None

    def options_hash(self) -> str:
        """Return a hash of the method's options, by which an index knows them."""
        options = json.dumps(dict(self.options), sort_keys=True, default=str)
        return hashlib.blake2b(options.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The section `sweep` of a file for `tvr sweep`: every method with every encoder on every data set, once a seed.

    methods: presets of methods, or `recipe:NAME` for a published configuration. encoders: as `--backbone` names them.
    data: `NAME:ROOT[:VARIANT]`. baseline: the method that `tvr table` tests the others against, None = the first.
    tuned: the name of a search (`tvr optimise`) whose best settings the methods get.
    """

    methods: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    baseline: str | None = None
    tuned: str | None = None


# ------------------------------------------------------------------------------------------------------------- layers


@dataclass(frozen=True)
class Layer:
    """One source of values: a tree, what to call it in messages, and the line of each dotted path where it has one.

    card: what the preset of a backbone says of its weights beside the tree: no value of an experiment that extends it.
    """

    tree: Mapping[str, Any]
    origin: str
    lines: Mapping[str, int] = field(default_factory=dict)
    card: Any = None

    @property
    def typed(self) -> bool:
        """Whether the command line says it, not a file."""
        return is_typed(self.origin)

    def where(self, path: str) -> str:
        """Return `file:line` of a path, or the origin alone (`--set`, a flag)."""
        return f"{self.origin}:{self.lines[path]}" if path in self.lines else self.origin


@dataclass(frozen=True)
class Resolved:
    """A resolved experiment and the origin of every leaf, by dotted path."""

    experiment: Experiment
    origins: Mapping[str, str]

    def tree(self) -> dict[str, Any]:
        """Return the resolved values as the tree that a configuration file would hold."""
        return experiment_tree(self.experiment)

    def leaves(self) -> list[tuple[str, Any, str]]:
        """Return (dotted path, value, origin) of every leaf."""
        return [(path, value, self.origins.get(path, "default")) for path, value in flatten(self.tree()).items()]


def is_typed(origin: str) -> bool:
    """Whether a value of this origin stands in the command line, not in a file."""
    return origin in ("flag", "--set")


def file_layers(path: Path) -> list[Layer]:
    """Read a YAML file, and before it, left to right, what it `extends`. Raises ConfigError with file and line."""
    return _file_layers(path, seen=())


def preset_layers(kind: Kind, name: str) -> list[Layer]:
    """Read a shipped preset. Raises ConfigError with the nearest name."""
    return file_layers(preset_path(kind, name))


def preset_sections(
    kind: Literal["datasets", "backbones"], name: str, schemas: Mapping[str, type[Any]]
) -> dict[str, dict[str, Any]]:
    """Return, for each section of a preset, its checked values by name; empty where there is no preset or section.

    schemas: section -> its dataclass. Raises ConfigError as `resolve` does.
    """
    sections: dict[str, dict[str, Any]] = {key: {} for key in schemas}
    for layer in preset_layers(kind, name) if name in preset_names(kind) else ():
        for key, schema in schemas.items():
            _merge(sections, key, schema, layer.tree.get(key), layer, {})
    return sections


def preset_card(name: str, schema: type[_Card]) -> _Card:
    """Return what the preset of a backbone says of its weights (`card`), the defaults where it says nothing.

    Raises ConfigError with file, line and the nearest key.
    """
    sections: dict[str, dict[str, Any]] = {"card": {}}
    for layer in preset_layers("backbones", name):
        _merge(sections, "card", schema, layer.card, layer, {})
    made: _Card = _build(schema, sections["card"], f"presets/backbones/{name}.yaml: card")
    return made


def sweep_of(layers: Sequence[Layer]) -> tuple[SweepConfig, list[Layer]]:
    """Return the section `sweep` of the layers, and the layers without it. Raises ConfigError as `resolve` does."""
    sections: dict[str, dict[str, Any]] = {"sweep": {}}
    for layer in layers:
        _merge(sections, "sweep", SweepConfig, layer.tree.get("sweep"), layer, {})
    rest = [dataclasses.replace(layer, tree={k: v for k, v in layer.tree.items() if k != "sweep"}) for layer in layers]
    return SweepConfig(**sections["sweep"]), rest


def set_layer(assignments: Sequence[str]) -> Layer:
    """Read `--set a.b=c` arguments; the value is YAML. Raises ConfigError."""
    tree: dict[str, Any] = {}
    for text in assignments:
        path, eq, value = text.partition("=")
        if not eq or not path:
            raise ConfigError(f"--set expects PATH=VALUE, for example --set train.epochs=10; found {text!r}")
        try:
            node = yaml_text.compose(value)
            parsed = None if node is None else yaml_text.construct(node)
        except (yaml_text.YAMLError, ValueError) as e:
            shown = text if len(text) <= 100 else f"{text[:100]}…"
            raise ConfigError(f"--set {shown}: the value is not YAML: {' '.join(str(e).split())}") from e
        _put(tree, _parts(path), parsed)
    return Layer(tree, "--set")


def flag_layer(values: Mapping[str, Any]) -> Layer:
    """Make a layer of named flags: dotted path -> value; None values are left out."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        if value is not None:
            _put(tree, path.split("."), value)
    return Layer(tree, "flag")


def method_layer(name: str) -> Layer:
    """Make the layer of `--method NAME`, without options."""
    return Layer({"method": {name: {}}}, "flag")


# ------------------------------------------------------------------------------------------------------------ resolve


def method_of(layers: Sequence[Layer]) -> str:
    """Return the name of the one method that the layers configure. Raises ConfigError when there is none or several."""
    found: dict[str, str] = {}
    for layer in layers:
        section = layer.tree.get("method")
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"{layer.where('method')}: method: expected a mapping NAME: {{options}}, found {section!r}"
            )
        for name in section:
            found.setdefault(str(name), layer.where(f"method.{name}"))
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise ConfigError("no method is named; give --method NAME, or a configuration with `method: {NAME: {}}`")
    listed = ", ".join(f"{name} ({where})" for name, where in found.items())
    raise ConfigError(f"a run has one method, these were named: {listed}")


def resolve(layers: Sequence[Layer], options_schema: Callable[[str], type]) -> Resolved:
    """Merge layers, later ones winning, and check every leaf against the schema.

    options_schema: method name -> the dataclass of its options. Raises ConfigError with file, line, dotted path and
    the nearest key; MethodNotNamed where only a file names a method that is not built in.
    """
    name = method_of(layers)
    _require_typed(name, layers)
    schemas: dict[str, Any] = {f.name: f for f in dataclasses.fields(Experiment)}
    hints = typing.get_type_hints(Experiment)
    sections: dict[str, dict[str, Any]] = {}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        for key, value in layer.tree.items():
            if key not in schemas or key == "options":
                known = sorted(set(schemas) - {"options"})
                raise ConfigError(f"{layer.where(key)}: {key}: unknown key{did_you_mean(key, known)}")
            if key == "method":
                options = value.get(name) or {}
                _merge(sections, f"method.{name}", options_schema(name), options, layer, origins)
            elif (schema := _dataclass_in(hints[key])) is not None:
                _merge(sections, key, schema, value, layer, origins)
            else:
                values[key] = _check(hints[key], value, layer, key)
                origins[key] = layer.where(key)
    for key in sections:
        if not key.startswith("method."):
            values[key] = _build(_dataclass_in(hints[key]), sections[key], key)
    options = sections.get(f"method.{name}", {})
    _build(options_schema(name), options, f"method.{name}")
    return Resolved(Experiment(method=name, options=_with_defaults(options_schema(name), options), **values), origins)


def experiment_tree(experiment: Experiment) -> dict[str, Any]:
    """Return an experiment as the tree that a configuration file would hold."""
    tree: dict[str, Any] = {"method": {experiment.method: dict(experiment.options)}}
    for f in dataclasses.fields(experiment):
        if f.name in ("method", "options"):
            continue
        value = getattr(experiment, f.name)
        tree[f.name] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
    return tree


def from_tree(
    tree: Mapping[str, Any], options_schema: Callable[[str], type], origin: str, *, named: str | None = None
) -> Resolved:
    """Resolve a stored tree again (a run's `config.json`). named: its method, where the command names it too.

    Raises ConfigError where that is another one, MethodNotNamed as `resolve` does.
    """
    layers = [Layer({k: v for k, v in tree.items() if v is not None}, origin)]
    return resolve([*layers, *([] if named is None else [method_layer(named)])], options_schema)


# Changing these does not make it another experiment: luck, book-keeping, memory, and our better choice of the epoch.
_FREE = frozenset(
    f"train.{name}"
    for name in (
        *("seed", "select_on", "validate_every", "validation_captions", "patience", "keep_checkpoints"),
        *("checkpoint_every", "tensorboard", "grad_checkpointing", "grad_cache"),
    )
) | {"data.root"}


def is_free(path: str) -> bool:
    """Whether a leaf may have another value and the experiment be the same."""
    return path in _FREE


def recipe_changes(origins: Mapping[str, str]) -> list[str]:
    """Return the paths of a resolved recipe that were changed behind it, by a file, `--set` or a flag."""
    shipped = ("presets/", "default")
    return sorted(
        p for p, o in origins.items() if p not in _FREE and not p.startswith("recipe") and not o.startswith(shipped)
    )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted path -> leaf. Recipe sources and published values stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and path not in ("recipe.sources", "recipe.published"):
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


# ------------------------------------------------------------------------------------------------------------ private


def _require_typed(name: str, layers: Sequence[Layer]) -> None:
    """Refuse a dotted method, somebody's module, that only a file names: such a file may come from anybody."""
    naming = [layer for layer in layers if name in (layer.tree.get("method") or {})]
    if "." in name and not any(layer.typed for layer in naming):
        raise MethodNotNamed(naming[0].where(f"method.{name}"), name)


def _file_layers(path: Path, seen: tuple[Path, ...]) -> list[Layer]:
    shown = _shown(path)
    if path in seen:
        raise ConfigError(f"{shown}: extends itself, by way of {' -> '.join(_shown(p) for p in seen)}")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"cannot read the configuration {str(path)!r}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{shown}: expected UTF-8 text: {e}") from e
    lines: dict[str, int] = {}
    try:
        node = yaml_text.compose(text)
        tree = dict(yaml_text.plain(node, "", lines, shown)) if node is not None else {}
    except yaml_text.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where, why = (f":{mark.line + 1}", e.problem) if mark is not None else ("", e)  # type: ignore[attr-defined]
        raise ConfigError(f"{shown}{where}: not valid YAML: {why}") from e
    except ValueError as e:
        raise ConfigError(f"{shown}: not a configuration: {e}") from e
    layers: list[Layer] = []
    for base in _as_list(tree.pop("extends", [])):
        kind, _, name = str(base).partition("/")
        base_path = path.parent / f"{base}.yaml"
        if kind in ("methods", "datasets", "backbones", "recipes", "ranges") and not base_path.is_file():
            base_path = preset_path(kind, name)  # type: ignore[arg-type]
        layers += _file_layers(base_path, (*seen, path))
    card = tree.pop("card", None) if path.parent.resolve() == (presets_root() / "backbones").resolve() else None
    return [*layers, Layer(tree, shown, lines, card)]


def _merge(
    sections: dict[str, dict[str, Any]], prefix: str, schema: Any, value: Any, layer: Layer, origins: dict[str, str]
) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigError(f"{layer.where(prefix)}: {prefix}: expected a mapping of options, found {value!r}")
    hints = typing.get_type_hints(schema)
    known = [f.name for f in dataclasses.fields(schema)]
    section = sections.setdefault(prefix, {})
    for key, leaf in value.items():
        path = f"{prefix}.{key}"
        if key not in known:
            raise ConfigError(f"{layer.where(path)}: {path}: unknown key{did_you_mean(str(key), known)}")
        section[key] = _check(hints[key], leaf, layer, path)
        origins[path] = layer.where(path)


def _build(schema: Any, section: Mapping[str, Any], prefix: str) -> Any:
    try:
        return schema(**section)
    except TypeError as e:
        missing = [
            f.name
            for f in dataclasses.fields(schema)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in section
        ]
        raise ConfigError(f"{prefix}: missing value of {', '.join(missing) or e}") from e
    except ValueError as e:
        raise ConfigError(f"{prefix}: {e}") from e


def _with_defaults(schema: Any, section: Mapping[str, Any]) -> dict[str, Any]:
    made = schema(**section)
    return {f.name: getattr(made, f.name) for f in dataclasses.fields(schema)}


def _check(hint: Any, value: Any, layer: Layer, path: str) -> Any:
    """Return `value` as the type of its field. Raises ConfigError that says what was expected."""
    if typing.get_origin(hint) is tuple and dataclasses.is_dataclass(schema := typing.get_args(hint)[0]):
        return _check_each(schema, value, layer, path)
    accepted, result = _fit(hint, value)
    if accepted:
        return result
    raise ConfigError(f"{layer.where(path)}: {path}: expected {_describe(hint)}, found {value!r}")


def _check_each(schema: Any, value: Any, layer: Layer, path: str) -> tuple[Any, ...]:
    """Return a list of mappings as instances of a dataclass; where one is wrong, the line of the list is named."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{layer.where(path)}: {path}: expected a list of mappings, found {value!r}")
    made = []
    for i, item in enumerate(value):
        sections: dict[str, dict[str, Any]] = {}
        _merge(sections, f"{path}[{i}]", schema, item, dataclasses.replace(layer, origin=layer.where(path)), {})
        made.append(_build(schema, sections.get(f"{path}[{i}]", {}), f"{layer.where(path)}: {path}[{i}]"))
    return tuple(made)


def _fit(hint: Any, value: Any) -> tuple[bool, Any]:
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if hint is Any:
        return True, value
    if origin in (typing.Union, types.UnionType):
        for option in args:
            fits, result = (value is None, None) if option is type(None) else _fit(option, value)
            if fits:
                return True, result
        return False, None
    if origin is Literal:
        return value in args, value
    if origin in (tuple, list):
        if isinstance(value, str) or not isinstance(value, Sequence):
            return False, None
        inner = args[0] if args else Any
        items = [_fit(inner, v) for v in value]
        return all(ok for ok, _ in items), tuple(v for _, v in items)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping), value
    if hint is bool:
        return isinstance(value, bool), value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if hint is float:
        return _as_float(value)
    return isinstance(value, hint), value


def _as_float(value: Any) -> tuple[bool, Any]:
    # YAML 1.1 reads 1e-4 (no dot) as a string; people write it, so take it.
    if isinstance(value, bool):
        return False, None
    try:
        return isinstance(value, int | float | str), float(value)
    except (TypeError, ValueError, OverflowError):  # the last: a whole number beyond every float
        return False, None


def _describe(hint: Any) -> str:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, args))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join("nothing" if a is type(None) else _describe(a) for a in args)
    if typing.get_origin(hint) in (tuple, list):
        return f"a list of {_describe(args[0])}"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint, str(hint))


def _dataclass_in(hint: Any) -> Any:
    options: Iterator[Any] = iter((hint, *typing.get_args(hint)))
    return next((h for h in options if dataclasses.is_dataclass(h)), None)


def _parts(path: str) -> list[str]:
    """Split a dotted path; a method's name may hold dots (`method.mypackage.mymethod.temperature`)."""
    first, *rest = path.split(".")
    if first == "method" and len(rest) > 2:
        return [first, ".".join(rest[:-1]), rest[-1]]
    return [first, *rest]


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _shown(path: Path) -> str:
    """Name a shipped preset by its place under presets/, any other file by the path that was given."""
    root = presets_root()
    try:
        return f"presets/{path.resolve().relative_to(root.resolve()).as_posix()}"
    except ValueError:
        return str(path)
