"""What does not fit of what was sent, in words: the same for an address and for a tool of an agent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_MOST_SHOWN = 40  # letters of a value that does not fit

# By pydantic's names of what is wrong; in braces what it says of the limit.
_EXPECTED = {
    "greater_than_equal": "{ge:g} or more",
    "less_than_equal": "{le:g} or less",
    "string_too_short": "text of {min_length} or more letters",
    "string_too_long": "text of {max_length} or fewer letters",
    "too_short": "{min_length} or more of them",
    "too_long": "{max_length} or fewer of them",
    "literal_error": "{expected}",
    "finite_number": "a finite number",
    "string_type": "text",
    "list_type": "a list",
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("model_attributes_type", "model_type", "dict_type"), "an object of JSON"),
}


def sentence(wrong: Iterable[Mapping[str, Any]]) -> str:
    """Return what pydantic found wrong as a sentence: each value by its name, what was expected and what was found."""
    return "; ".join(f"{name(one)}: {_told(one)}" for one in wrong)


def name(one: Mapping[str, Any]) -> str:
    """Return what a value is called that does not fit: the last name of its place, of a list's item the list's."""
    names = [part for part in one["loc"] if isinstance(part, str)]
    return names[-1] if names else "what was sent"


def _told(one: Mapping[str, Any]) -> str:
    kind, limits = one["type"], one.get("ctx") or {}
    if kind == "missing":
        return "expected a value, found none"
    if kind == "json_invalid":
        return f"expected JSON, found something else ({limits.get('error', 'no JSON')})"
    if kind not in _EXPECTED:
        return str(one["msg"]).replace("Input should be", "expected")
    return f"expected {_EXPECTED[kind].format(**limits)}, found {_found(one['input'], limits)}"


def _found(value: Any, limits: Mapping[str, Any]) -> str:
    """Return a value that does not fit, or how long it is, where that is what is wrong with it."""
    if {"min_length", "max_length"} & set(limits):
        return str(len(value))
    shown = repr(value)
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…"
