"""Values of flags that need no converting: a word is a word, and what was left out is the default.

Typer imports pydantic to find that out, which takes a third of a light command's start. Whatever is not plainly right
goes Typer's way, which words what is wrong with it.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable
from typing import Any

_Convert = Callable[[Any, Any], Any]
_NOT_PLAIN = object()


def take_plainly(command: Any, function: Callable[..., None]) -> None:
    """Let a command of Typer's take the plain values of its function's parameters as they are."""
    hints = typing.get_type_hints(function, include_extras=True)
    for parameter in command.params:
        if parameter.name in hints:
            hint, info, *_ = typing.get_args(hints[parameter.name])
            parameter.process_value = _plainly(parameter, _without_none(hint), info, parameter.process_value)


def leave_out(parameters: Iterable[Any]) -> None:
    """Let flags of Typer's own (help, completion) that were not given be None: they do nothing then."""
    for parameter in parameters:
        if not parameter.required:
            parameter.process_value = _left_out(parameter.process_value)


def _left_out(convert: _Convert) -> _Convert:
    return lambda context, value: None if value is None else convert(context, value)


def _without_none(hint: Any) -> Any:
    """Return the X of `X | None`, and anything else as it is."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and type(None) in typing.get_args(hint) else hint


def _plainly(parameter: Any, kind: Any, info: Any, convert: _Convert) -> _Convert:
    """Return `convert` of a parameter for what is not plain. kind: its type, info: what Typer was told of it."""

    def process(context: Any, value: Any) -> Any:
        if value is None and not parameter.required:
            return None
        plain = _NOT_PLAIN if value is None else _plain(value, kind, info)
        return convert(context, value) if plain is _NOT_PLAIN else plain

    return convert if info.callback is not None else process


def _plain(value: Any, kind: Any, info: Any) -> Any:
    if info.parser is not None:
        try:
            return info.parser(value)
        except ValueError:
            return _NOT_PLAIN
    if kind is str and type(value) is str:
        return value
    if kind == list[str] and isinstance(value, list | tuple) and value and all(type(word) is str for word in value):
        return list(value)
    if kind is int:
        number = int(value) if type(value) is str and value.isascii() and value.isdigit() else value
        fits = type(number) is int and not (info.min is not None and number < info.min)
        return number if fits and not (info.max is not None and number > info.max) else _NOT_PLAIN
    return _NOT_PLAIN
