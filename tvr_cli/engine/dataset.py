"""Data named on the command line: a data set's manifest and the plans of its preset, a captions file. No torch."""

from __future__ import annotations

from pathlib import Path

from tvr_cli import data, plans
from tvr_cli.config import FramesConfig, WordsConfig
from tvr_cli.data.columns import CaptionsFile, parse_columns
from tvr_cli.types import Manifest


def named(spec: str) -> tuple[Manifest, FramesConfig, WordsConfig]:
    """Read `NAME:ROOT[:VARIANT]`. Raises ConfigError for an unknown name, DataError for bad annotation files."""
    manifest = data.load(spec)
    frames, words = plans.of_dataset(manifest.name)
    return manifest, frames, words


def captions_file(path: Path, columns: str) -> CaptionsFile:
    """Name the columns of a captions file, `video=COLUMN,caption=COLUMN`. Raises ConfigError for another shape."""
    return CaptionsFile(path, parse_columns(columns))
