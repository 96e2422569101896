"""TensorBoard, for those who watch there: `--set train.tensorboard=true`; the package is in the extra `tensorboard`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tvr_cli.errors import EnvironmentProblem


def watcher(folder: Path) -> Callable[[Mapping[str, Any]], None]:
    """Return a function that writes each record of a run as scalars below `folder`.

    Raises EnvironmentProblem when TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as e:
        raise EnvironmentProblem(
            "train.tensorboard needs the package tensorboard: pip install 'tvr-cli[tensorboard]'"
        ) from e
    writer = SummaryWriter(str(folder))

    def watch(record: Mapping[str, Any]) -> None:
        for name, value in scalars(record).items():
            writer.add_scalar(name, value, record["step"])

    return watch


def scalars(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a record by path, like `step/parts/nce` and `validation/t2v/R@1`."""
    prefix = prefix or f"{record['event']}/"
    out: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            out |= scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key not in ("step", "epoch"):
            out[f"{prefix}{key}"] = float(value)
    return out
