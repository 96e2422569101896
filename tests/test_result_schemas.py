"""The keys of every result are frozen, and every command prints a result.

`tests/golden/results/keys.txt` has a line a key. A new key is a new line there (`python tests/test_result_schemas.py`
writes the file); one that goes or changes its meaning needs a new version of its schema as well.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tvr_cli
from tvr_cli.results.base import Result, schemas

ROOT = Path(__file__).resolve().parent.parent
# Formats of files, which no command prints.
ON_DISK = {"tvr/moment-head@1", "tvr/checkpoint@1", "tvr/demo-files@1", "tvr/features@1", "tvr/unfinished@1"}
KEYS = ROOT / "tests" / "golden" / "results" / "keys.txt"


def shipped() -> dict[str, tuple[type[Result], ...]]:
    """Every schema of the package, with every module imported."""
    for module in pkgutil.walk_packages(tvr_cli.__path__, "tvr_cli."):
        importlib.import_module(module.name)
    ours = {line: tuple(c for c in found if c.__module__.startswith("tvr_cli")) for line, found in schemas().items()}
    return {line: classes for line, classes in ours.items() if classes}


def keys_of(hint: Any, path: str = "") -> list[str]:
    """Return the dotted keys below a type; [] stands for the items of a list, * for the names of a mapping."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return [line for f in dataclasses.fields(hint) for line in _field(f, hints[f.name], path)]
    if origin in (typing.Union, types.UnionType):
        return list(dict.fromkeys(line for arg in args for line in keys_of(arg, path)))
    if origin in (dict, Mapping):
        return keys_of(args[1], f"{path}*.")
    if origin in (list, tuple, Sequence):
        return keys_of(args[0], f"{path[:-1]}[].")
    return []


def _field(f: dataclasses.Field, hint: Any, path: str) -> list[str]:
    mark = f.metadata.get("tvr.json")
    if mark == "hidden":
        return []
    if mark == "inline":
        return keys_of(hint, path)
    name = f"{path}{f.metadata.get('tvr.key', f.name)}"
    return [name + ("?" if mark == "optional" else ""), *keys_of(hint, f"{name}.")]


def lines() -> list[str]:
    return [
        f"{schema} {cls.__name__} {key}"
        for schema, classes in shipped().items()
        for cls in sorted(classes, key=lambda c: c.__name__)
        for key in keys_of(cls)
    ]


def test_the_keys_of_every_schema_are_frozen() -> None:
    assert lines() == KEYS.read_text().splitlines(), "see the docstring of this file"


def test_every_schema_is_documented_and_every_documented_one_exists() -> None:
    page = (ROOT / "docs" / "formats.md").read_text()
    documented = set(re.findall(r"tvr/[a-z-]+@[0-9]+", page)) - ON_DISK
    assert set(shipped()) == documented


def test_every_key_is_documented() -> None:
    named = set(re.findall(r'[`"]([A-Za-z_@0-9 ]+)[`"]', (ROOT / "docs" / "formats.md").read_text()))
    keys = {part.rstrip("?").replace("[]", "") for line in lines() for part in line.split(" ", 2)[2].split(".")}
    assert sorted(keys - named - {"*"}) == []


def test_results_are_frozen_and_spelled_in_one_place() -> None:
    for classes in shipped().values():
        assert all(cls.__dataclass_params__.frozen for cls in classes)
    spelled = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "tvr_cli").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Dict)
        and any(isinstance(k, ast.Constant) and k.value == "schema" for k in node.keys)
        and path.name not in ("base.py", "demo_files.py")
    ]
    assert not spelled, spelled


def test_seeds_and_draws_are_folded_in_one_place() -> None:
    package = ROOT / "tvr_cli"
    spelled = [p.relative_to(package).as_posix() for p in package.rglob("*.py") if "ddof=1" in p.read_text()]
    assert spelled == ["results/metrics.py"]


if __name__ == "__main__":
    KEYS.parent.mkdir(exist_ok=True)
    KEYS.write_text("".join(line + "\n" for line in lines()))
