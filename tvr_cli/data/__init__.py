"""Datasets: annotation files to a `Manifest`, one file each. No decoding and no tokenising here."""

from __future__ import annotations

from tvr_cli.data.registry import find, load, load_from, names, read

__all__ = ["find", "load", "load_from", "names", "read"]
