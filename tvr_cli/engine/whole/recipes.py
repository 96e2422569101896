"""Which recipes there are, and the one function of `tvr reproduce`. No torch before a recipe is followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvr_cli import commands, config
from tvr_cli.errors import ConfigError
from tvr_cli.preset_loader import preset_names, preset_path
from tvr_cli.results.base import Result
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.whole.reproduce import ReproducePreview, ReproduceReport


@dataclass(frozen=True)
class RecipesReport(Result):
    """The names of the shipped recipes, sorted."""

    schema = "recipes"
    recipes: Sequence[str]


def follow(
    recipe: str | None,
    data: str | None,
    workspace: Workspace,
    *,
    assignments: Sequence[str] = (),
    device: str = "auto",
    offline: bool = False,
    allow_missing: bool = False,
    workers: int | None = None,
    dry_run: bool = False,
) -> RecipesReport | ReproducePreview | ReproduceReport:
    """List the recipes where none is named, else run every step of one, or (dry_run) say what that would do.

    data: `NAME:ROOT[:VARIANT]`. Raises ConfigError for an unknown recipe or without data, and what `reproduce` raises.
    """
    if recipe is None:
        return RecipesReport(preset_names("recipes"))
    preset_path("recipes", recipe)
    if data is None:
        layers = reversed(config.preset_layers("recipes", recipe))  # the last that says it holds
        name = next(said for layer in layers if (said := layer.tree.get("data", {}).get("name")))
        full = commands.tvr("reproduce", recipe, data=f"{name}:{name}/")
        raise ConfigError(f"say where the data set lies, for example: {full}, or {name}:{name}/:VARIANT")
    from tvr_cli.engine.whole import reproduce

    options = reproduce.ReproduceOptions(tuple(assignments), device, offline, allow_missing, workers)
    verb = reproduce.dry_run if dry_run else reproduce.reproduce
    return verb(recipe, data, workspace, options)
