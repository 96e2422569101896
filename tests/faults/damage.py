"""What may happen to a file: a bit falls over, its end is missing, a value in its JSON is of another type."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

# One value of each kind, and numbers that are none of a count's.
OTHERS: tuple[Any, ...] = (None, True, -1, 1.5, 2**70, float("nan"), "x", "", [], [1], {}, {"x": 1})


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Turn over one bit."""
    found = bytearray(data)
    at = rng.randrange(len(found) * 8)
    found[at // 8] ^= 1 << at % 8
    return bytes(found)


def cut(data: bytes, rng: random.Random) -> bytes:
    """Leave out the end, at least one byte of it."""
    return data[: rng.randrange(len(data))]


def swaps(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what was changed and a copy of a JSON value with one thing in it of another type, missing, or too much."""
    for path in list(_paths(value)):
        for other in OTHERS:
            if type(other) is not type(_at(value, path)) or other != _at(value, path):
                yield f"{_said(path)} = {other!r}", _with(value, path, other)
        if path:
            yield f"{_said(path)} missing", _without(value, path)
        if isinstance(_at(value, path), dict):
            yield f"{_said(path)} has more", _with(value, (*path, "more"), 1)


def _paths(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from _paths(item, (*path, key))


def _at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def _with(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return copy.deepcopy(new)
    found = copy.deepcopy(value)
    _at(found, path[:-1])[path[-1]] = copy.deepcopy(new)
    return found


def _without(value: Any, path: tuple) -> Any:
    found = copy.deepcopy(value)
    del _at(found, path[:-1])[path[-1]]
    return found


def _said(path: tuple) -> str:
    return ".".join(map(str, path)) or "all of it"
