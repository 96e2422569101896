"""Reading a run's weights: tensors by name and the JSON that stands beside them. Reading never runs code.

`engine/training/checkpoint.py` describes the files and writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tvr_cli import files
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.stores.run_header import check_about

FORMAT = "tvr/checkpoint@1"


@dataclass(frozen=True)
class Best:
    """The best validation so far. metrics: t2v and v2t as `metrics.evaluate` gives them."""

    step: int
    key: tuple[float, float]  # t2v R@1, then rsum
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: tensors on the CPU and the JSON that stood beside them."""

    model: dict[str, Tensor]
    clip: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    rng: dict[str, Tensor]
    about: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps that were done."""
        return int(self.about["step"])

    @property
    def best(self) -> Best | None:
        """The best validation up to then."""
        best = self.about.get("best")
        return None if best is None else Best(best["step"], tuple(best["key"]), best["metrics"])


def read(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises DataError for a broken file and StoreMismatch for another format version."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "clip": {}, "optimizer": {}, "rng": {}}
    try:
        with safe_open(path, "pt") as f:
            about = files.parse_json((f.metadata() or {}).get("tvr", "{}"))
            check_about(about, path)
            if about.get("format") != FORMAT:
                raise StoreMismatch(
                    f"{str(path)!r} has format {about.get('format')!r}, this version reads {FORMAT!r}; train again"
                )
            for key in f.keys():  # noqa: SIM118 - not a mapping
                part, _, name = key.partition(".")
                parts[part][name] = f.get_tensor(key)
    except FileNotFoundError:
        raise DataError(f"expected a checkpoint at {str(path)!r}, found none") from None
    except (SafetensorError, ValueError, KeyError) as e:
        raise DataError(
            f"the checkpoint {str(path)!r} is damaged ({e}); move it elsewhere to go on from the one before"
        ) from e
    return Checkpoint(about=about, **parts)


def load_model(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load weights and buffers. Raises StoreMismatch that names the first tensors which do not fit."""
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - checkpoint.model.keys()), sorted(checkpoint.model.keys() - own.keys())
    wrong = [k for k in own if k in checkpoint.model and own[k].shape != checkpoint.model[k].shape]
    if missing or unknown or wrong:
        told = [f"lacks {missing[:3]}"] * bool(missing) + [f"has unknown {unknown[:3]}"] * bool(unknown)
        told += [f"{k}: {list(checkpoint.model[k].shape)}, not {list(own[k].shape)}" for k in wrong[:3]]
        raise StoreMismatch(f"the checkpoint does not fit the method: it {'; '.join(told)}; train again")
    model.load_state_dict(checkpoint.model)
