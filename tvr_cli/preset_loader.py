"""Where the shipped presets lie: inside the wheel, or in the checkout of an editable install."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tvr_cli.errors import ConfigError, EnvironmentProblem, did_you_mean

Kind = Literal["methods", "datasets", "backbones", "recipes", "sweeps", "ranges"]


def presets_root() -> Path:
    """Return the folder of presets. Raises EnvironmentProblem when the installation has none."""
    package = Path(__file__).resolve().parent
    for root in (package / "presets", package.parent / "presets"):
        if (root / "methods").is_dir():
            return root
    raise EnvironmentProblem(f"no presets beside {str(package)!r}; reinstall tvr-cli, its installation is incomplete")


def preset_names(kind: Kind) -> list[str]:
    """Return the names of the shipped presets of a kind, sorted."""
    return sorted(p.stem for p in (presets_root() / kind).glob("*.yaml"))


def preset_path(kind: Kind, name: str) -> Path:
    """Return the file of a preset. Raises ConfigError with the nearest name."""
    path = presets_root() / kind / f"{name}.yaml"
    if path.is_file():
        return path
    known = preset_names(kind)
    near = did_you_mean(name, known) or f"; there are: {', '.join(known)}"
    raise ConfigError(f"unknown {kind.removesuffix('s')} {name!r}{near}")
