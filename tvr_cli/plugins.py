"""Finding a plug-in by name: a file that is shipped, an installed package's entry point, or anybody's dotted name.

A name without a dot is a shipped file's, else that of an entry point of the kind's group; a shipped one always wins, so
that no package changes what a name in a paper means. A name with dots is a module that Python can import (`PYTHONPATH`
counts), or something inside of one. Nothing is imported before its name is asked for, and a dotted name is asked for by
a command or a caller, never by a file of a workspace alone: such a file may come from anybody.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from tvr_cli.errors import ConfigError, EnvironmentProblem, did_you_mean, reason


def entry_points(group: str) -> list[str]:
    """Return the names that installed packages give to plug-ins of a group, sorted. Imports none of them."""
    return sorted({point.name for point in metadata.entry_points(group=group)})


@dataclass(frozen=True)
class Kind:
    """A kind of plug-in.

    word: what messages call one. package: where the shipped ones lie. group: of entry points. shipped: lists the names
    of the shipped ones, sorted.
    """

    word: str
    package: str
    group: str
    shipped: Callable[[], list[str]]

    def names(self) -> list[str]:
        """Return all names that need no dot, sorted: the shipped ones and those of installed packages."""
        return sorted({*self.shipped(), *entry_points(self.group)})

    def third_party(self, name: str) -> bool:
        """Whether a name means something that is not shipped: a dotted one, or that of an entry point."""
        return name not in self.shipped() and ("." in name or name in self.names())

    def find(self, name: str) -> Any:
        """Return what a name means: a module, or an object inside of one.

        Raises ConfigError, with the nearest name, where there is nothing of this name or it cannot be imported;
        EnvironmentProblem where it needs a package that is not installed.
        """
        if name in self.shipped():
            return importlib.import_module(f"{self.package}.{name}")
        if "." in name:
            return self._locate(name, name)
        points = {point.value: point for point in metadata.entry_points(group=self.group) if point.name == name}
        if not points:
            known = self.names()
            near = did_you_mean(name, known) or f"; the {self.word}s are: {', '.join(known)}"
            raise ConfigError(f"unknown {self.word} {name!r}{near}")
        if len(points) > 1:
            listed = ", ".join(sorted(points))
            raise ConfigError(f"several packages call a {self.word} {name!r}: {listed}; say which by its dotted name")
        return self._locate(name, next(iter(points)).replace(":", "."))

    def unfit(self, name: str, expected: str, found: str, *, near: str = "") -> ConfigError:
        """Return the error of a name that means something of another kind."""
        return ConfigError(f"{name!r} is no {self.word}: expected {expected}, found {found}{near}")

    def lacks(self, name: str, expected: str, thing: Any, attribute: str) -> ConfigError:
        """Return the error of a name whose module lacks what a plug-in must have, with the nearest that it has."""
        public = [n for n in getattr(thing, "__dict__", ()) if not n.startswith("_")]
        near = did_you_mean(attribute, public)
        return self.unfit(name, expected, f"{describe(thing)} without one", near=near)

    def _locate(self, name: str, dotted: str) -> Any:
        """Import a dotted name: a module, else what a module holds under the last part of the name."""
        if not all(part.isidentifier() for part in dotted.split(".")):
            raise ConfigError(
                f"{dotted!r} cannot be a {self.word}: expected a module's name like mypackage.mymodule, parts with "
                "single dots between them"
            )
        try:
            return self._import(name, dotted)
        except ModuleNotFoundError as missing:
            parent, _, last = dotted.rpartition(".")
            if parent and missing.name == dotted:
                try:
                    module = self._import(name, parent)
                except ModuleNotFoundError:
                    raise self._absent(name, missing.name) from missing
                if hasattr(module, last):
                    return getattr(module, last)
            raise self._absent(name, str(missing.name)) from missing

    def _import(self, name: str, dotted: str) -> Any:
        """Import a module; a ModuleNotFoundError that is raised says that `dotted` itself is not there."""
        try:
            return importlib.import_module(dotted)
        except ModuleNotFoundError as e:
            if e.name is not None and f"{dotted}.".startswith(f"{e.name}."):
                raise
            raise EnvironmentProblem(
                f"the {self.word} {name!r} imports {e.name!r}, which is not installed; install it where tvr is"
            ) from e
        except (Exception, SystemExit) as e:  # whatever a module of somebody else's does when it is executed
            raise ConfigError(f"cannot import the {self.word} {name!r}: {type(e).__name__}: {reason(e)}") from e

    def _absent(self, name: str, module: str) -> ConfigError:
        """Return the error of a module that is not there, with the nearest module or class beside it."""
        parent, _, last = module.rpartition(".")
        near = did_you_mean(last, _beside(parent)) if parent else ""
        if near:
            near = near.replace("mean ", f"mean {parent}.")
        hint = near or "; is the folder that holds it in PYTHONPATH, or its package installed?"
        return ConfigError(f"cannot find the {self.word} {name!r}: there is no module {module!r}{hint}")


def describe(thing: Any) -> str:
    """Say what something is, for a message that expected something else: `the class Base`, `the list []`."""
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    return f"the {type(thing).__name__} {getattr(thing, '__name__', repr(thing))}"


def _beside(parent: str) -> list[str]:
    """Return the modules in a package, or the public names of a module."""
    module = importlib.import_module(parent)
    path = getattr(module, "__path__", None)
    return [m.name for m in pkgutil.iter_modules(path)] if path else [n for n in vars(module) if not n.startswith("_")]
