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
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from tvr_cli import files
from tvr_cli.errors import EnvironmentProblem
from tvr_cli.stores.run_header import STEP, best_path, last_path, read_about
from tvr_cli.stores.run_weights import FORMAT, Best, Checkpoint, load_model, read

__all__ = ["Best", "Checkpoint", "best_path", "last_path", "read", "read_about", "restore", "write", "write_best"]


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
    _sweep(path.parent)
    files.write_bytes(path, save(plain, metadata={"tvr": text}))


def _sweep(folder: Path) -> None:
    """Remove what a writer that was killed left: a run has one writer, so it is nobody's any more."""
    for path in folder.glob("*.safetensors.*.tmp"):
        name = path.name.partition(".safetensors.")[0] + ".safetensors"
        if files.temporary_of(name).fullmatch(path.name):
            path.unlink(missing_ok=True)


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
