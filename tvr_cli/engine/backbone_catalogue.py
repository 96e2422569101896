"""What backbones there are, what each is and yields, and whether its weights are on this machine."""

from __future__ import annotations

from tvr_cli.backbones import registry


def packages() -> list[str]:
    """Return what pip calls the libraries that the shipped backbones come from."""
    return sorted(registry.packages().values())
