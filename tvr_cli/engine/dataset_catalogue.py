"""What data sets there are, how large each officially is, and which files it needs. No torch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvr_cli import config, data, log
from tvr_cli.errors import TvrError
from tvr_cli.results.base import Result


@dataclass(frozen=True)
class DatasetsReport(Result):
    """What `tvr datasets` prints."""

    schema = "datasets"
    datasets: Sequence[Mapping[str, Any]]


def describe(name: str) -> dict[str, Any]:
    """Describe a data set. Raises ConfigError, with the nearest name, for an unknown one."""
    found = data.find(name)
    frames, words = config.dataset_plans(name)
    variants = []
    with tempfile.TemporaryDirectory() as empty:  # files as they would be looked for where none is found
        for variant in found.variants or (None,):
            variants.append(
                {
                    "name": variant,
                    "sizes": {split: asdict(size) for split, size in found.sizes(variant).items()},
                    "files": [list(group) for group in found.wanted(Path(empty), variant)],
                }
            )
    plans = {"frames": asdict(frames), "words": asdict(words)}
    return {"name": name, "summary": found.summary, "variants": variants, "plans": plans}


def describe_all() -> list[dict[str, Any]]:
    """Describe every data set that has a short name, sorted, without what cannot be loaded."""
    found = []
    for name in data.names():
        try:
            found.append(describe(name))
        except TvrError as e:
            log.logger.warning("warning: %s", e)
    return found
