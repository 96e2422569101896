"""What backbones there are, what each is and yields, and whether its weights are on this machine."""

from __future__ import annotations

from typing import Any

from tvr_cli.backbones import registry
from tvr_cli.errors import TvrError


def packages() -> list[str]:
    """Return what pip calls the libraries that the shipped backbones come from."""
    return sorted(registry.packages().values())


def list_all() -> list[dict[str, Any]]:
    """Describe every backbone that has a name: presets, and those of installed packages.

    One that cannot be described has a `problem`, in words, and nothing else: the others are listed all the same.
    """
    return [_described_or_problem(name) for name in registry.names()]


def describe(name: str) -> dict[str, Any]:
    """Describe a backbone without its weights. Raises what `registry.resolve` raises."""
    about = registry.resolve(name)
    return {
        "name": name,
        "library": about.kind.library or about.kind.__module__.partition(".")[0],
        "source": about.source,
        "pixels": about.image_size,
        "dim": about.dim,
        "context": about.context_length,
        "provides": sorted(about.provides),
        "here": about.weights is not None,
    }


def show(name: str) -> dict[str, Any]:
    """Describe a backbone with what it takes its skeleton to know: parameters, operations, the methods it serves."""
    from tvr_cli.engine import suggest

    about = registry.resolve(name)
    skeleton = registry.skeleton(about)
    a_frame, a_caption = skeleton.cost(about.context_length)
    usable = suggest.fitting(about.provides | {"importance"})
    return {
        **describe(name),
        "weights": str(about.weights) if about.weights is not None else None,
        "expected_at": about.expected_at or None,
        "versions": about.kind.versions(),
        "parameters": sum(p.numel() for p in skeleton.parameters()),
        "flop_a_frame": a_frame,
        "flop_a_caption": a_caption,
        "tunable": not about.kind.cannot_save(about),
        "methods": sorted(usable),
    }


def _described_or_problem(name: str) -> dict[str, Any]:
    try:
        return describe(name)
    except TvrError as e:
        return {"name": name, "problem": str(e)}
