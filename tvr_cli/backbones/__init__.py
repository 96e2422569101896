"""Models that turn pixels and captions into features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvr_cli.backbones.base import Backbone


def load(name: str, **options: Any) -> Backbone:
    """Load a backbone by name; see `registry.load` for the forms of a name and the options."""
    from tvr_cli.backbones import registry

    return registry.load(name, **options)
