"""Which recipes there are. No torch: the list is printed at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvr_cli.preset_loader import preset_names
from tvr_cli.results.base import Result


@dataclass(frozen=True)
class RecipesReport(Result):
    """The names of the shipped recipes, sorted."""

    schema = "recipes"
    recipes: Sequence[str]


def recipes() -> RecipesReport:
    """Return the recipes that `tvr reproduce` knows."""
    return RecipesReport(preset_names("recipes"))
