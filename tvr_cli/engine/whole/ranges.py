"""The ranges of `tvr optimise`: which settings of a method are searched, and what is drawn for a trial.

Ranges are data: `presets/ranges/<method>.yaml`, or a file of one's own. A value depends on the seed, the method, the
number of the trial and the path of the setting alone, so a search can be made longer or get another range, and what was
drawn stays. Trial 0 is the preset as it stands.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tvr_cli import config
from tvr_cli.config import Layer
from tvr_cli.errors import ConfigError, did_you_mean
from tvr_cli.preset_loader import preset_names

RangeKind = Literal["log", "uniform", "integer", "choice"]
_KINDS: tuple[RangeKind, ...] = ("log", "uniform", "integer", "choice")
_DIGITS = 3  # of what is drawn: a rate of 0.000317 is meant, not fifteen digits of it


@dataclass(frozen=True)
class Range:
    """Values of a setting. values: low and high of log, uniform and integer; all of a choice."""

    kind: RangeKind
    values: tuple[Any, ...]

    def at(self, u: float) -> Any:
        """Return the value that stands at u in [0, 1)."""
        if self.kind == "choice":
            return self.values[int(u * len(self.values))]
        low, high = self.values
        if self.kind == "integer":
            return low + int(u * (high - low + 1))
        value = low * (high / low) ** u if self.kind == "log" else low + u * (high - low)
        return min(max(float(f"{value:.{_DIGITS}g}"), low), high)

    def said(self) -> str:
        """Return it as a file says it: `log [1e-05, 0.001]`."""
        return f"{self.kind} [{', '.join(map(str, self.values))}]"


Ranges = Mapping[str, Range]


def ranges_of(method: str, file: Path | None = None) -> Ranges:
    """Return the ranges of a method by the dotted path of the setting: the shipped ones, or those of a file.

    Of a file, options of other methods are left out. Raises ConfigError with file and line for what is no range, and
    where nothing is to be searched.
    """
    if file is not None:
        layers = config.file_layers(file)
    elif method in preset_names("ranges"):
        layers = config.preset_layers("ranges", method)
    else:
        known = ", ".join(name for name in preset_names("ranges") if name != "common")
        raise ConfigError(f"no ranges are shipped for {method!r} (there are: {known}); give --ranges FILE")
    found: dict[str, Range] = {}
    for layer in layers:
        if unknown := sorted(set(layer.tree) - {"ranges"}):
            raise ConfigError(f"{layer.where(unknown[0])}: {unknown[0]}: a file of ranges has one section, `ranges`")
        section = layer.tree.get("ranges") or {}
        if not isinstance(section, Mapping):
            raise ConfigError(f"{layer.where('ranges')}: ranges: expected a mapping PATH: RANGE, found {section!r}")
        for path, said in section.items():
            if path.startswith("method.") and path.split(".")[1] != method:
                continue
            found[path] = _range(path, said, layer)
    if not found:
        raise ConfigError(f"{file}: expected ranges that {method} has, found none")
    return found


def drawn(ranges: Ranges, *, seed: int, method: str, trial: int) -> dict[str, Any]:
    """Return the settings of a trial by their paths; none of trial 0, which is the preset as it stands."""
    return {path: ranges[path].at(_at(seed, method, trial, path)) for path in sorted(ranges)} if trial else {}


def _at(seed: int, method: str, trial: int, path: str) -> float:
    digest = hashlib.blake2b(f"{seed}|{method}|{trial}|{path}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def _range(path: str, said: Any, layer: Layer) -> Range:
    where = f"{layer.where(f'ranges.{path}')}: {path}"
    if not isinstance(said, Mapping) or len(said) != 1:
        raise ConfigError(
            f"{where}: expected one of {', '.join(_KINDS)}, such as {{log: [1e-5, 1e-3]}}, found {said!r}"
        )
    ((kind, values),) = said.items()
    if kind not in _KINDS:
        raise ConfigError(f"{where}: unknown range {kind!r}{did_you_mean(str(kind), _KINDS)}")
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ConfigError(f"{where}: expected a list of values, found {values!r}")
    found = Range(kind, tuple(values))
    if kind == "choice":
        return found
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    if not numbers or len(values) != 2 or values[0] >= values[1]:
        raise ConfigError(f"{where}: expected [low, high] with low below high, found {list(values)}")
    if kind == "log" and values[0] <= 0:
        raise ConfigError(f"{where}: expected a low end above 0 of a range in the logarithm, found {values[0]}")
    if kind == "integer" and not all(isinstance(v, int) for v in values):
        raise ConfigError(f"{where}: expected whole numbers, found {list(values)}")
    return found
