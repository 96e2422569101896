"""What a result is: a frozen dataclass with a schema's name and version, which becomes JSON and comes back from it.

A result stands beside the function that returns it; here is what all of them share. Its JSON is `{"schema":
"tvr/NAME@VERSION", …}` with its fields in their order. Three marks change how a field is written:

    head: Head = field(metadata=INLINE)                        its own keys instead of one that holds them
    note: str | None = field(default=None, metadata=OPTIONAL)  no key where it is None, or empty
    size_bytes: int = field(metadata=key("bytes"))             another key than the field's name

and `dry_run: Literal[True] = field(default=True, init=False)` is a constant, which reading checks. A command that ends
in one of two ways has two classes of one schema. Adding a key keeps the version; whoever reads ignores unknown keys.
"""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from tvr_cli.errors import DataError
from tvr_cli.files import read_json

_MARK = "tvr.json"
INLINE: Mapping[str, Any] = {_MARK: "inline"}
OPTIONAL: Mapping[str, Any] = {_MARK: "optional"}
HIDDEN: Mapping[str, Any] = {_MARK: "hidden"}  # of this process alone: never written, its default when read
_KEY = "tvr.key"
_R = TypeVar("_R", bound="Result")
_T = TypeVar("_T")


def key(name: str) -> Mapping[str, Any]:
    """Return the metadata of a field that has another key in JSON, such as `R@1`."""
    return {_KEY: name}


class Result:
    """Base of every result. schema: its name. version: raised when a key changes its meaning or goes."""

    schema: ClassVar[str]
    version: ClassVar[int] = 1

    @classmethod
    def schema_line(cls) -> str:
        """Return what stands first in the JSON: `tvr/NAME@VERSION`."""
        return f"tvr/{cls.schema}@{cls.version}"

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints: plain dicts, lists, text and numbers."""
        return {"schema": self.schema_line(), **_members(self)}

    @classmethod
    def from_json(cls: type[_R], data: Any, where: str, fix: str = "") -> _R:
        """Return the result that an object of JSON says.

        where: what was read, for the message. fix: what to do. Raises DataError for another schema or version, or when
        a key is missing or of another type.
        """
        check_schema(data, cls.schema_line(), where, fix)
        return read(cls, data, where, fix)

    @classmethod
    def from_file(cls: type[_R], path: Path, fix: str = "") -> _R:
        """Read a file that holds the JSON. Raises DataError as `from_json` does, and where there is no JSON."""
        return cls.from_json(read_json(path, fix=fix), repr(str(path)), fix)


def schemas() -> dict[str, tuple[type[Result], ...]]:
    """Return every schema line of the results that are imported by now, sorted, with the classes that have it."""
    found: dict[str, list[type[Result]]] = {}
    for cls in _below(Result):
        if "schema" in vars(cls):
            found.setdefault(cls.schema_line(), []).append(cls)
    return {name: tuple(found[name]) for name in sorted(found)}


def check_schema(data: Any, expected: str, where: str, fix: str = "") -> None:
    """Raise DataError when an object is not of the schema and version `expected`."""
    found = data.get("schema") if isinstance(data, Mapping) else None
    if found != expected:
        what = "an object without a schema" if isinstance(data, Mapping) else _shown(data)
        told = f"the schema {found}" if isinstance(found, str) else what
        raise DataError(f"{where}: expected a result of the schema {expected}, found {told}{fix and '; ' + fix}")


def read(cls: type[_T], data: Any, where: str, fix: str = "") -> _T:
    """Return a dataclass from its JSON, whether it is a whole result or a part. Raises DataError where it does not fit.

    Keys that the class does not know are ignored; a missing one is an error unless its field has a default.
    """
    try:
        return typing.cast(_T, _of(cls, data, ()))
    except _Misfit as e:
        raise DataError(f"{where}: {e}{fix and '; ' + fix}") from None


# ------------------------------------------------------------------------------------------------------------ writing


def plain(value: Any) -> Any:
    """Return a value as JSON has it: dataclasses and mappings as dicts, sequences as lists, paths as text."""
    if isinstance(value, Result):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _members(value)
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return os.fspath(value) if isinstance(value, Path) else value


def _members(value: Any) -> dict[str, Any]:
    """Return the keys and values of a dataclass, without a schema."""
    members: dict[str, Any] = {}
    for f in dataclasses.fields(value):
        mark, held = f.metadata.get(_MARK), getattr(value, f.name)
        if mark == "hidden" or (mark in ("optional", "inline") and held is None):
            continue
        if mark == "inline":
            members |= _members(held)
        else:
            members[f.metadata.get(_KEY, f.name)] = plain(held)
    return members


# ------------------------------------------------------------------------------------------------------------ reading


class _Misfit(Exception):
    """A value that its type does not allow. path: the keys that lead to it."""

    def __init__(self, path: tuple[str, ...], expected: str, found: str):
        super().__init__(f"{'.'.join(path) or 'the whole'}: expected {expected}, found {found}")
        self.depth, self.expected, self.found = len(path), expected, found


_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    Path: "a path",
}


def _of(hint: Any, value: Any, path: tuple[str, ...]) -> Any:
    """Return `value` as the type `hint` has it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(args, value, path)
    if origin is Literal:
        return _literal(args, value, path)
    if dataclasses.is_dataclass(hint):
        return _object(hint, value, path)
    if origin in (tuple, list, Sequence):
        return _items(origin, args, value, path)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _Misfit(path, "an object", _shown(value))
        return {_key_of(args[0], k, path): _of(args[1], v, (*path, str(k))) for k, v in value.items()}
    return _scalar(hint, value, path)


def _one_of(hints: Sequence[Any], value: Any, path: tuple[str, ...]) -> Any:
    """Return the first of several types that fits; of the misfits the one that got furthest is told."""
    misfits = []
    for hint in hints:
        try:
            return _of(hint, value, path)
        except _Misfit as e:
            misfits.append(e)
    deepest = max(misfits, key=lambda e: e.depth)
    if deepest.depth > len(path):
        raise deepest
    raise _Misfit(path, " or ".join(dict.fromkeys(e.expected for e in misfits)), misfits[0].found)


def _literal(allowed: Sequence[Any], value: Any, path: tuple[str, ...]) -> Any:
    for one in allowed:
        if type(one) is type(value) and one == value:
            return one
    raise _Misfit(path, " or ".join(_shown(one) for one in allowed), _shown(value))


def _object(cls: Any, value: Any, path: tuple[str, ...]) -> Any:
    """Return a dataclass from its keys; a whole result inside another one is checked for its schema as well."""
    if not isinstance(value, Mapping):
        raise _Misfit(path, "an object", _shown(value))
    if path and issubclass(cls, Result) and value.get("schema") != cls.schema_line():
        raise _Misfit((*path, "schema"), cls.schema_line(), _shown(value.get("schema")))
    return _fill(cls, value, path)


def _fill(cls: Any, value: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    hints, given = typing.get_type_hints(cls), {}
    for f in dataclasses.fields(cls):
        mark, hint, name = f.metadata.get(_MARK), hints[f.name], f.metadata.get(_KEY, f.name)
        if mark == "hidden":
            continue
        if mark == "inline":
            held = _inlined(hint, value, path)
        elif name in value:
            held = _of(hint, value[name], (*path, name))
        elif f.init and (f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING):
            continue
        else:
            raise _Misfit((*path, name), _NAMES.get(hint, "a value"), "none")
        if f.init:
            given[f.name] = held
    return cls(**given)


def _inlined(hint: Any, value: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Return a part whose keys stand among its owner's; None where it may be missing and its keys are."""
    wanted = [h for h in typing.get_args(hint) or (hint,) if h is not type(None)]
    if len(wanted) < len(typing.get_args(hint)) and not any(_touches(h, value) for h in wanted):
        return None
    misfits = []
    for h in wanted:
        try:
            return _fill(h, value, path)
        except _Misfit as e:
            misfits.append(e)
    raise max(misfits, key=lambda e: e.depth)


def _touches(cls: Any, value: Mapping[str, Any]) -> bool:
    return any(f.metadata.get(_KEY, f.name) in value for f in dataclasses.fields(cls))


def _items(origin: Any, args: Sequence[Any], value: Any, path: tuple[str, ...]) -> Any:
    if not isinstance(value, list | tuple):
        raise _Misfit(path, "a list", _shown(value))
    if origin is tuple and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise _Misfit(path, f"a list of {len(args)}", f"one of {len(value)}")
        return tuple(_of(hint, v, (*path, str(i))) for i, (hint, v) in enumerate(zip(args, value, strict=True)))
    read = [_of(args[0], v, (*path, str(i))) for i, v in enumerate(value)]
    return tuple(read) if origin is tuple else read


def _key_of(hint: Any, name: str, path: tuple[str, ...]) -> str | int:
    """Return the key of a mapping: JSON has text where the mapping may have whole numbers."""
    if hint is not int:
        return name
    try:
        return int(name)
    except ValueError:
        raise _Misfit(path, "whole numbers as keys", _shown(name)) from None


def _scalar(hint: Any, value: Any, path: tuple[str, ...]) -> Any:
    if hint is Path and isinstance(value, str):
        return Path(value)
    fits = isinstance(value, int | float if hint is float else hint)
    if not fits or (isinstance(value, bool) and hint is not bool):
        raise _Misfit(path, _NAMES.get(hint, "a value"), _shown(value))
    return value


def _shown(value: Any) -> str:
    """Name a value in a message, shortly."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return json.dumps(value, ensure_ascii=False)[:60]


def _below(cls: type[Result]) -> list[type[Result]]:
    return [found for sub in cls.__subclasses__() for found in (sub, *_below(sub))]
