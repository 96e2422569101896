"""One file that holds everything a run needs to go on, and the best weights beside it.

runs/<name>/checkpoints/
  step-00000120.safetensors   model, optimizer moments, random state; in the metadata: step, best, config hash, store
  best.safetensors            the model of the best validation, and which step and result that was

Tensors are named `model.*` (the method), `clip.*` (a backbone that is tuned too), `optimizer.*`, `rng.*`.

safetensors only: reading a checkpoint never runs code. All that is not a tensor is one JSON text in the metadata, with
sorted keys, so that equal states give equal bytes. Random numbers need no state of their own (`draws.py`,
`sampling.py`); torch's global generator is kept for the sake of third-party methods. Writing is atomic, best before
last: after a crash at any moment the newest file is whole, and repeating the lost steps repeats the lost best.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tvr_cli import files
from tvr_cli.errors import DataError, EnvironmentProblem, StoreMismatch
from tvr_cli.stores.run_header import STEP, best_path, last_path, read_about

__all__ = ["Best", "Checkpoint", "best_path", "last_path", "read", "read_about", "restore", "write", "write_best"]

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


def write(
    folder: Path,
    *,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    named: Sequence[tuple[str, nn.Parameter]],
    about: Mapping[str, Any],
    best: Best | None,
    keep: int,
    backbone: nn.Module | None = None,
) -> Path:
    """Write the checkpoint of `step` and delete all but the last `keep`.

    named: the trained parameters with their names. about: JSON values that a resume checks (config hash, sizes …).
    """
    tensors = _weights(model, backbone)
    counters: dict[str, dict[str, Any]] = {}
    for name, p in named:
        for key, value in optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{key}"] = value
            else:
                counters.setdefault(name, {})[key] = value
    tensors |= _rng_state()
    path = folder / f"step-{step:08d}.safetensors"
    saved_best = None if best is None else {"step": best.step, "key": list(best.key), "metrics": best.metrics}
    _save(path, tensors, {**about, "step": step, "best": saved_best, "optimizer": counters})
    _forget(folder, keep)
    return path


def write_best(
    folder: Path, *, model: nn.Module, about: Mapping[str, Any], best: Best, backbone: nn.Module | None = None
) -> Path:
    """Write the weights of the best validation."""
    path = best_path(folder)
    described = {"step": best.step, "key": list(best.key), "metrics": best.metrics}
    _save(path, _weights(model, backbone), {**about, "best": described})
    return path


def read(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises DataError for a broken file and StoreMismatch for another format version."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "clip": {}, "optimizer": {}, "rng": {}}
    try:
        with safe_open(path, "pt") as f:
            about = json.loads((f.metadata() or {}).get("tvr", "{}"))
            if about.get("format") != FORMAT:
                raise StoreMismatch(
                    f"{str(path)!r} has format {about.get('format')!r}, this version reads {FORMAT!r}; train again"
                )
            for key in f.keys():  # noqa: SIM118 - not a mapping
                part, _, name = key.partition(".")
                parts[part][name] = f.get_tensor(key)
    except FileNotFoundError:
        raise DataError(f"expected a checkpoint at {str(path)!r}, found none") from None
    except (SafetensorError, json.JSONDecodeError, KeyError) as e:
        raise DataError(
            f"the checkpoint {str(path)!r} is damaged ({e}); move it elsewhere to go on from the one before"
        ) from e
    return Checkpoint(about=about, **parts)


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    named: Sequence[tuple[str, nn.Parameter]],
    backbone: nn.Module | None = None,
) -> None:
    """Put a checkpoint's model, optimizer and random state back, on the parameters' own devices."""
    load_model(model, checkpoint)
    if backbone is not None:
        backbone.load_state_dict(checkpoint.clip)
    counters = checkpoint.about["optimizer"]
    moments: dict[str, dict[str, Any]] = {name: dict(values) for name, values in counters.items()}
    for key, value in checkpoint.optimizer.items():
        name, _, what = key.rpartition(".")
        moments.setdefault(name, {})[what] = value
    for name, p in named:
        if name in moments:
            optimizer.state[p] = {key: _beside(p, key, value) for key, value in moments[name].items()}
    _restore_rng(checkpoint.rng)


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


def bytes_of(modules: Sequence[nn.Module], *, keep: int) -> int:
    """Return the most bytes that the checkpoints of a run take.

    Counted: `keep` + 1 files of weights and two moments (the new one is written before an old one goes), and the best.
    """
    weights = sum(t.numel() * t.element_size() for m in modules for t in m.state_dict().values())
    moments = 2 * sum(p.numel() * p.element_size() for m in modules for p in m.parameters() if p.requires_grad)
    return (keep + 1) * (weights + moments) + weights


def require_space(folder: Path, modules: Sequence[nn.Module], *, keep: int) -> int:
    """Return the bytes that a run's checkpoints will take. Raises EnvironmentProblem when the disk has fewer."""
    needed = bytes_of(modules, keep=keep)
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise EnvironmentProblem(
            f"the checkpoints need {needed / 1e6:.0f} MB in {str(folder)!r}, {free / 1e6:.0f} MB are free; "
            "free some space, choose another workspace with -o, or lower train.keep_checkpoints"
        )
    return needed


def _weights(model: nn.Module, backbone: nn.Module | None) -> dict[str, Tensor]:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    if backbone is not None:
        tensors |= {f"clip.{k}": v for k, v in backbone.state_dict().items()}
    return tensors


def _beside(p: nn.Parameter, key: str, value: Any) -> Any:
    # Moments lie beside their parameter; torch's own step counter stays on the CPU.
    return value.to(p.device) if isinstance(value, Tensor) and key != "step" else value


def _save(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    # Clone: parameters that share memory (tied weights) are refused by safetensors otherwise.
    plain = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    text = json.dumps({"format": FORMAT, **about}, sort_keys=True, ensure_ascii=False)
    files.write_bytes(path, save(plain, metadata={"tvr": text}))


def _forget(folder: Path, keep: int) -> None:
    found = sorted(p for p in folder.glob("step-*.safetensors") if STEP.fullmatch(p.name))
    for path in found[: -max(keep, 1)]:
        path.unlink(missing_ok=True)


def _rng_state() -> dict[str, Tensor]:
    state = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["rng.cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_rng(state: Mapping[str, Tensor]) -> None:
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
