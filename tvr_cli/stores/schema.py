"""Checking that what a JSON file says is what its format says, before anything of it is used.

A shape is a function that takes a value and where it stands (`segments[0].clips`) and raises ValueError with a
sentence; `record`, `items` and `maybe` make shapes of shapes. A store's files may come from anybody, so nothing is
coerced: a number in quotes is not a number, and true is not 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tvr_cli.errors import DataError

Shape = Callable[[Any, str], None]


def check(value: Any, shape: Shape, where: str, fix: str) -> None:
    """Raise DataError unless `value` has the shape. where: the file, for the message. fix: what the user can do."""
    try:
        shape(value, "")
    except ValueError as e:
        raise DataError(f"{where} is damaged: {e}; {fix}") from None


def text(value: Any, at: str) -> None:
    _require(isinstance(value, str), value, at, "text")


def flag(value: Any, at: str) -> None:
    _require(isinstance(value, bool), value, at, "true or false")


def count(value: Any, at: str) -> None:
    """A whole number of 0 or more that an int64 holds."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    _require(whole and 0 <= value < 2**63, value, at, "a whole number of 0 or more")


def number(value: Any, at: str) -> None:
    """A finite number."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    _require(real and math.isfinite(value), value, at, "a number")


def sha256(value: Any, at: str) -> None:
    digits = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    _require(digits, value, at, "a sha256 in hexadecimal")


def mapping(value: Any, at: str) -> None:
    """Any object; what is in it is somebody else's business."""
    _require(isinstance(value, dict), value, at, "an object")


def one_of(*known: object) -> Shape:
    """One of these values, of the same type."""

    def shape(value: Any, at: str) -> None:
        found = any(type(value) is type(k) and value == k for k in known)
        _require(found, value, at, " or ".join(map(repr, known)))

    return shape


def maybe(inner: Shape) -> Shape:
    """Null, or what `inner` wants."""
    return lambda value, at: None if value is None else inner(value, at)


def items(inner: Shape) -> Shape:
    """A list of what `inner` wants."""

    def shape(value: Any, at: str) -> None:
        _require(isinstance(value, list), value, at, "a list")
        for i, item in enumerate(value):
            inner(item, f"{at}[{i}]")

    return shape


def each(inner: Shape) -> Shape:
    """An object with any keys whose values are what `inner` wants."""

    def shape(value: Any, at: str) -> None:
        mapping(value, at)
        for name, item in value.items():
            inner(item, f"{at}.{name}" if at else name)

    return shape


def record(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object with these keys, perhaps the `optional` ones, and no others."""
    optional = optional or {}

    def shape(value: Any, at: str) -> None:
        mapping(value, at)
        if lacking := [name for name in required if name not in value]:
            raise ValueError(f"{at or 'it'} lacks {', '.join(map(repr, lacking))}")
        if unknown := sorted(set(value) - set(required) - set(optional)):
            raise ValueError(f"{at or 'it'} has {unknown[0]!r}, which its format does not know")
        for name, item in value.items():
            {**required, **optional}[name](item, f"{at}.{name}" if at else name)

    return shape


def _require(holds: bool, value: Any, at: str, wanted: str) -> None:
    if not holds:
        found = repr(value)
        raise ValueError(f"expected {wanted} as {at or 'its content'!r}, found {found[:60]}{'…' * (len(found) > 60)}")
