"""Finding a plug-in by name: a file that is shipped, an installed package's entry point, or anybody's dotted name.

A name without a dot is a shipped file's, else that of an entry point of the kind's group; a shipped one always wins, so
that no package changes what a name in a paper means. A name with dots is a module that Python can import (`PYTHONPATH`
counts), or something inside of one behind one more dot: `mypackage.mymodule.Name`. Nothing is imported before its name
is asked for, and a dotted name is asked for by a command or a caller, never by a file of a workspace alone: such a file
may come from anybody.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeGuard, TypeVar

from tvr_cli.errors import ConfigError, EnvironmentProblem, did_you_mean, reason

_T = TypeVar("_T")


def entry_points(group: str) -> list[str]:
    """Return the names that installed packages give to plug-ins of a group, sorted. Imports none of them."""
    from importlib import metadata

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
        from importlib import metadata

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

    def lacks(self, name: str, expected: str, thing: Any, near: str = "") -> ConfigError:
        """Return the error of a name whose module has nothing of its own of what a plug-in must have."""
        return self.unfit(name, expected, f"{describe(thing)} without one of its own", near=near)

    def subclass(self, name: str, found: Any, attribute: str, base: type[_T]) -> type[_T]:
        """Return the class that a name means: what was found, or what a module that was found calls `attribute`.

        Raises ConfigError where it does not derive from `base`, with the classes of the module that do.
        """

        def fits(thing: Any) -> TypeGuard[type[_T]]:
            return isinstance(thing, type) and issubclass(thing, base) and thing is not base

        whole = isinstance(found, ModuleType)
        thing = getattr(found, attribute, None) if whole else found
        if fits(thing):
            return thing
        origin = f"{base.__module__}.{base.__qualname__}"
        if own := defined(found, fits) if whole else []:
            raise ConfigError(
                f"{name!r} has no class `{attribute}` of its own that derives from {origin}; say which class is meant: "
                + ", or ".join(f"{found.__name__}.{each}" for each in own)
            )
        expected = f"a class{f' `{attribute}`' if whole else ''} that derives from {origin}"
        if thing is None or (whole and thing is base):
            raise self.lacks(name, expected, found)
        raise self.unfit(name, expected, describe(thing))

    def _locate(self, name: str, dotted: str) -> Any:
        """Import a dotted name: a module, else what a module holds under the last part of the name."""
        if not all(part.isidentifier() for part in dotted.split(".")):
            raise ConfigError(
                f"{dotted!r} cannot be a {self.word}: expected a name like mypackage.mymodule or "
                "mypackage.mymodule.Name, parts with single dots between them"
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
                if not hasattr(module, "__path__"):
                    raise self._nothing_in(name, module, last) from missing
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

    def _absent(self, name: str, missing: str) -> ConfigError:
        """Return the error of a module that is not there, with the nearest module of its package."""
        parent, _, last = missing.rpartition(".")
        path = getattr(importlib.import_module(parent), "__path__", ()) if parent else ()
        hint = _near(parent, last, [m.name for m in pkgutil.iter_modules(path)] if path else ())
        hint = hint or "; is the folder that holds it in PYTHONPATH, or its package installed?"
        return ConfigError(f"cannot find the {self.word} {name!r}: there is no module {missing!r}{hint}")

    def _nothing_in(self, name: str, module: ModuleType, last: str) -> ConfigError:
        """Return the error of a name that its module does not hold, with the nearest of the module's own classes."""
        hint = _near(module.__name__, last, defined(module, lambda thing: isinstance(thing, type)))
        return ConfigError(
            f"cannot find the {self.word} {name!r}: the module {module.__name__!r} has no {last!r}{hint}"
        )


def defined(module: ModuleType, fits: Callable[[Any], bool]) -> list[str]:
    """Return the public names of what a module defines itself, as against what it imports, and that fits."""
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__ and fits(thing)
    ]


def describe(thing: Any) -> str:
    """Say what something is, for a message that expected something else: `the class Base`, `the list []`."""
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    return f"the {type(thing).__name__} {getattr(thing, '__name__', repr(thing))}"


def _near(parent: str, last: str, known: Iterable[str]) -> str:
    """Return `; did you mean PARENT.NAME?` for the nearest of the names that a module or package holds, or nothing."""
    return did_you_mean(last, known).replace("mean ", f"mean {parent}.")
