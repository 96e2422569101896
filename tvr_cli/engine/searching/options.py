"""The options that a method without training has by its preset, without reading YAML for every query. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

from tvr_cli import user_cache
from tvr_cli.methods import _light
from tvr_cli.preset_loader import preset_path


@dataclass(frozen=True)
class PresetOptions:
    """Values by name, and the hash by which an index knows them (`Experiment.options_hash`)."""

    values: dict[str, Any]
    hash: str


def of_preset(method: str) -> PresetOptions:
    """Return the options of a method of `_light.METHODS` as its preset has them.

    They are remembered by what they are made from: the bytes of the preset and the fields of the method. Reading them
    again imports the configuration and YAML, a tenth of what a query starts for. Raises ConfigError for a preset that
    does not fit.
    """
    made_from = repr([(f.name, f.default) for f in dataclasses.fields(_light.METHODS[method])]).encode()
    made_from += preset_path("methods", method).read_bytes()
    name = f"{method} {hashlib.blake2b(made_from, digest_size=16).hexdigest()}"
    kept = user_cache.recall("options", name)
    if isinstance(kept, dict) and isinstance(kept.get("values"), dict) and isinstance(kept.get("hash"), str):
        return PresetOptions(kept["values"], kept["hash"])
    from tvr_cli import config  # dear, and needed once

    layers = config.preset_layers("methods", method)
    experiment = config.resolve(layers, lambda name: _light.METHODS[name]).experiment
    found = PresetOptions(dict(experiment.options), experiment.options_hash())
    if len(layers) == 1:  # what a preset extends is not among its bytes
        user_cache.keep("options", name, dataclasses.asdict(found))
    return found
