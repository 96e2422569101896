"""Checking that what a JSON file says is what its format says, before anything of it is used.

A shape takes a value and where it stands (`segments[0].clips`) and raises Misfit with a sentence; `record`, `items` and
`maybe` make shapes of shapes. The files of a workspace may come from anybody, so nothing is coerced: a number in quotes
is not a number, and true is not 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvr_cli import files
from tvr_cli.errors import DataError

_One = Callable[[Any, str], None]


class Misfit(ValueError):
    """What is wrong with a JSON object, for a sentence."""


@dataclass(frozen=True)
class Shape:
    """What a value has to be.

    one: raises Misfit for a value that is not, and says where it stands. many: whether all values of a list are, found
    out at once, because a store has millions of them.
    """

    one: _One
    many: Callable[[Sequence[Any]], bool]

    def __call__(self, value: Any, at: str) -> None:
        self.one(value, at)


def check(value: Any, shape: Shape | _One, where: str, fix: str) -> None:
    """Raise DataError unless `value` has the shape. where: the file, for the message. fix: what the user can do."""
    try:
        shape(value, "")
    except ValueError as e:
        raise DataError(f"{where} is damaged: {e}; {fix}") from None


def require(value: Any, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return a JSON object as far as `shapes` name its keys. Raises Misfit for a missing key or another shape."""
    known(shapes)(value, "")
    return {name: value[name] for name in shapes}


def shown(value: Any) -> str:
    """Return a value as a message can hold it."""
    found = repr(value)
    return f"{found[:60]}{'…' * (len(found) > 60)}"


# ----------------------------------------------------------------------------------------------------------- of values


def _kind(wanted: str, types: set[type], fits: Callable[[Sequence[Any]], bool] = lambda values: True) -> Shape:
    """Return the shape of values of some types, exactly (`True` is no whole number), that fit."""

    def many(values: Sequence[Any]) -> bool:
        return set(map(type, values)) <= types and fits(values)

    return Shape(lambda value, at: _require(many([value]), value, at, wanted), many)


def single(one: _One) -> Shape:
    """Return the shape that a function checks."""

    def many(values: Sequence[Any]) -> bool:
        try:
            for value in values:
                one(value, "")
        except ValueError:
            return False
        return True

    return Shape(one, many)


def _finite(values: Sequence[Any]) -> bool:
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # a whole number beyond every float
        return False


def _between(low: int, high: int) -> Callable[[Sequence[int]], bool]:
    return lambda values: not values or (low <= min(values) and max(values) < high)


anything = single(lambda value, at: None)  # somebody else says what is wrong with it
string = _kind("text", {str})  # whatever is in it
text = _kind("text", {str}, lambda values: files.is_text("".join(values)))  # that can be written as UTF-8
flag = _kind("true or false", {bool})
integer = _kind("a whole number", {int})
int64 = _kind("a whole number of 64 bits", {int}, _between(-(2**63), 2**63))
int32 = _kind("a whole number of 0 or more, below 2147483648", {int}, _between(0, 2**31))
whole = _kind("a whole number of 0 or more", {int}, lambda values: min(values, default=0) >= 0)
positive = _kind("a whole number above 0", {int}, lambda values: min(values, default=1) > 0)
count = _kind("a whole number of 0 or more", {int}, _between(0, 2**63))  # that an int64 holds
number = _kind("a number", {int, float}, _finite)
any_number = _kind("a number", {int, float})  # also one that is infinite, or none
sha256 = _kind(
    "a sha256 in hexadecimal",
    {str},
    lambda values: all(len(v) == 64 and set(v) <= set("0123456789abcdef") for v in values),
)
mapping = _kind("an object", {dict})  # what is in it is somebody else's business


def one_of(*values: object) -> Shape:
    """One of these values, of the same type."""

    def one(value: Any, at: str) -> None:
        found = any(type(value) is type(v) and value == v for v in values)
        _require(found, value, at, " or ".join(map(repr, values)))

    return single(one)


# ----------------------------------------------------------------------------------------------------------- of shapes


def maybe(inner: Shape) -> Shape:
    """Null, or what `inner` wants."""
    return Shape(
        lambda value, at: None if value is None else inner.one(value, at),
        lambda values: inner.many([value for value in values if value is not None]),
    )


def items(inner: Shape, least: int = 0) -> Shape:
    """A list of what `inner` wants, at least so many."""

    def one(value: Any, at: str) -> None:
        long_enough = type(value) is list and len(value) >= least
        _require(long_enough, value, at, "a list" if not least else f"a list of {least} or more")
        if not inner.many(value):
            for i, item in enumerate(value):
                inner.one(item, f"{at}[{i}]")

    def many(values: Sequence[Any]) -> bool:
        long_enough = all(type(value) is list and len(value) >= least for value in values)
        return long_enough and inner.many([item for value in values for item in value])

    return Shape(one, many)


def fixed(*inner: Shape) -> Shape:
    """A list with one shape an item."""

    def one(value: Any, at: str) -> None:
        _require(type(value) is list and len(value) == len(inner), value, at, f"a list of {len(inner)}")
        for i, (shape, item) in enumerate(zip(inner, value, strict=True)):
            shape.one(item, f"{at}[{i}]")

    def many(values: Sequence[Any]) -> bool:
        if not all(type(value) is list and len(value) == len(inner) for value in values):
            return False
        return all(shape.many(some) for shape, some in zip(inner, zip(*values, strict=True), strict=False))

    return Shape(one, many)


def each(inner: Shape) -> Shape:
    """An object with any keys whose values are what `inner` wants."""

    def one(value: Any, at: str) -> None:
        mapping.one(value, at)
        for name, item in value.items():
            inner.one(item, _below(at, name))

    return single(one)


def record(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object with these keys, perhaps the `optional` ones, and no others."""
    shapes = {**required, **(optional or {})}

    def one(value: Any, at: str) -> None:
        mapping.one(value, at)
        if lacking := [name for name in required if name not in value]:
            raise Misfit(f"{at or 'it'} lacks {', '.join(map(repr, lacking))}")
        if unknown := sorted(set(value) - set(shapes)):
            raise Misfit(f"{at or 'it'} has {unknown[0]!r}, which its format does not know")
        for name, item in value.items():
            shapes[name].one(item, _below(at, name))

    return single(one)


def known(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object with these keys, perhaps the `optional` ones; others are somebody else's business."""
    closed, names = record(required, optional), {*required, *(optional or {})}

    def one(value: Any, at: str) -> None:
        mapping.one(value, at)
        closed.one({name: item for name, item in value.items() if name in names}, at)

    return single(one)


def _below(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _require(holds: bool, value: Any, at: str, wanted: str) -> None:
    if not holds:
        raise Misfit(f"expected {wanted} as {at or 'its content'!r}, found {shown(value)}")
