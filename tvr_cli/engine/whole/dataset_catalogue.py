"""What data sets there are, how large each officially is, and which files it needs. No torch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvr_cli import data, log, plans
from tvr_cli.config import FramesConfig, WordsConfig
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import TvrError
from tvr_cli.results.base import Result


@dataclass(frozen=True)
class Variant:
    """One variant (None where there are none). sizes: split -> official size. files: for each the names it may have."""

    name: str | None
    sizes: Mapping[str, SplitSize]
    files: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Plans:
    """The plans of a data set's preset; None = the default."""

    frames: FramesConfig
    words: WordsConfig


@dataclass(frozen=True)
class DataSetCard:
    """A data set: what it is, how large each variant officially is and which files it needs."""

    name: str
    summary: str
    variants: Sequence[Variant]
    plans: Plans


@dataclass(frozen=True)
class DatasetsReport(Result):
    """The data sets that were asked for."""

    schema = "datasets"
    datasets: Sequence[DataSetCard]


def datasets(name: str | None = None) -> DatasetsReport:
    """Describe one data set, or all that have a short name. Raises ConfigError for an unknown one."""
    return DatasetsReport([describe(name)] if name else describe_all())


def describe(name: str) -> DataSetCard:
    """Describe a data set. Raises ConfigError, with the nearest name, for an unknown one."""
    found = data.find(name)
    frames, words = plans.of_dataset(name)
    with tempfile.TemporaryDirectory() as empty:  # files as they would be looked for where none is found
        variants = [
            Variant(variant, found.sizes(variant), [list(group) for group in found.wanted(Path(empty), variant)])
            for variant in found.variants or (None,)
        ]
    return DataSetCard(name, found.summary, variants, Plans(frames, words))


def describe_all() -> list[DataSetCard]:
    """Describe every data set that has a short name, sorted, without what cannot be loaded."""
    found = []
    for name in data.names():
        try:
            found.append(describe(name))
        except TvrError as e:
            log.logger.warning("warning: %s", e)
    return found
