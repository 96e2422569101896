"""A data set named on the command line: its manifest, and the plans that its preset gives. No torch."""

from __future__ import annotations

from tvr_cli import data, plans
from tvr_cli.config import FramesConfig, WordsConfig
from tvr_cli.types import Manifest


def named(spec: str) -> tuple[Manifest, FramesConfig, WordsConfig]:
    """Read `NAME:ROOT[:VARIANT]`. Raises ConfigError for an unknown name, DataError for bad annotation files."""
    manifest = data.load(spec)
    frames, words = plans.of_dataset(manifest.name)
    return manifest, frames, words
