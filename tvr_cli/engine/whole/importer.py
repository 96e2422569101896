"""Turning the authors' checkpoints into runs: the head under its own names, CLIP as a backbone inside the run.

A file is a plain state dict of torch. `clip.*` becomes `runs/<name>/backbone/`, and features must come from it; names
that nothing reads are dropped and listed; any other unknown name is an error, because it would mean another model.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli import commands, config
from tvr_cli.backbones import registry
from tvr_cli.backbones.tensor_files import read_tensors
from tvr_cli.engine import scorers
from tvr_cli.engine.training import checkpoint
from tvr_cli.engine.training.checkpoint import Best
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.files import lock, sha256_file
from tvr_cli.methods import base
from tvr_cli.methods.base import Method
from tvr_cli.results.base import Result
from tvr_cli.types import Sizes
from tvr_cli.workspace import Workspace

CLIP = "clip."
_DEFAULT_SIZES = {"frames": 12, "words": 32}  # where a checkpoint does not fix a size


@dataclass(frozen=True)
class Parts:
    """A checkpoint taken apart: head and CLIP weights under their own names, and the names that were dropped."""

    head: dict[str, Tensor]
    clip: dict[str, Tensor]
    dropped: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ImportReport(Result):
    """The run that a checkpoint became, or would. backbone: its CLIP. dropped: names that nothing reads.

    next: the command that makes its features.
    """

    schema = "import-checkpoint"
    dry_run: bool
    run: str
    path: Path
    method: str
    fidelity: str
    options: Mapping[str, Any]
    sizes: Sizes
    parameters: int
    backbone: str | None
    dropped: Sequence[str]
    next: str


def import_checkpoint(
    file: Path,
    method: str,
    workspace: Workspace,
    *,
    run: str | None = None,
    assignments: tuple[str, ...] = (),
    dry_run: bool = False,
) -> ImportReport:
    """Make a run from the authors' checkpoint.

    dry_run: read and check the file, and write nothing.
    Raises DataError for a file that is no state dict or not of this method, ConfigError when the run exists.
    """
    if not file.is_file():
        raise DataError(f"expected a checkpoint at {str(file)!r}, found none")
    folder = workspace.run(run or file.stem.replace(" ", "-"))
    if folder.begun:
        raise ConfigError(f"the run {folder.name!r} exists; give this one another name with --run NAME")
    folder.require_own()
    cls = base.load_class(method)
    parts = take_apart(read_state(file), cls)
    options, sizes = _read_sizes(cls, parts.head, file)
    shift = bool(parts.clip) and cls.shifts_patches
    layers = [*scorers.method_layers(method), config.Layer({"method": {method: options}}, file.name)]
    backbone = f"local:{(folder.path / 'backbone').resolve()}" if parts.clip else None
    named = {
        "backbone.name": backbone,
        "backbone.temporal_shift": shift or None,
        "train.tune": "full" if parts.clip else None,
    }
    layers += [config.flag_layer(named), config.set_layer(assignments)]
    resolved = config.resolve(layers, scorers.options_schema)
    sizes = Sizes(sizes.dim, sizes.frames, resolved.experiment.words.length or sizes.words)
    built = _fill(resolved.experiment.options, sizes, parts.head, cls, file)
    clip = registry.from_clip_state(parts.clip, f"{file.name} (CLIP)") if parts.clip else None
    if not dry_run:
        about = {
            "store": None,
            "imported": backbone or True,
            "tune": "imported",
            "sizes": asdict(sizes),
            "source": sha256_file(file),
        }
        with lock(folder.path):
            if clip is not None:
                registry.save(clip, folder.path / "backbone")
            checkpoint.write_best(folder.checkpoints, model=built, about=about, best=Best(0, (0.0, 0.0)))
            imported = {"file": file.name, "sha256": about["source"], "dropped": list(parts.dropped)}
            folder.write_env({"imported": imported}, registry.packages().values())
            folder.write_config(resolved)  # last: a folder with a config is a whole run
    return ImportReport(
        dry_run=dry_run,
        run=folder.name,
        path=folder.path,
        method=method,
        fidelity=cls.fidelity,
        options=dict(resolved.experiment.options),
        sizes=sizes,
        parameters=sum(t.numel() for t in parts.head.values()),
        backbone=backbone,
        dropped=parts.dropped,
        next=commands.tvr("precompute-features", backbone=backbone, temporal_shift=shift, max_words=sizes.words or None)
        if backbone
        else commands.tvr("precompute-features"),
    )


def read_state(file: Path) -> dict[str, Tensor]:
    """Read a state dict without running anything, see `read_tensors`. Raises DataError when it is none."""
    state: Any = read_tensors(file)
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise DataError(f"{str(file)!r} holds no state dict (a mapping from names to tensors)")
    return {str(k).removeprefix("module."): v for k, v in state.items()}


def take_apart(state: Mapping[str, Tensor], cls: type[Method]) -> Parts:
    """Sort the names of a checkpoint into head, CLIP and dropped.

    A method whose authors wrap it (DMAE: `model.dmae_utils.*`) keeps only what is below the wrapper.
    """
    head: dict[str, Tensor] = {}
    clip: dict[str, Tensor] = {}
    dropped: list[str] = []
    for name, value in state.items():
        short = name.removeprefix("model.").removeprefix("module.")
        if cls.checkpoint_prefix:
            if cls.checkpoint_prefix not in short:
                dropped.append(name)
                continue
            short = short.split(cls.checkpoint_prefix, 1)[1]
        if short.startswith(CLIP):
            clip[short.removeprefix(CLIP)] = value
            continue
        short = short.removeprefix("agent.") if short.startswith("agent.psi.") else short
        if any(fnmatch.fnmatch(short, pattern) for pattern in cls.ignored_keys):
            dropped.append(name)
        elif short in head and not torch.equal(head[short], value):
            raise DataError(f"the checkpoint holds two different tensors for {short!r}")
        else:
            head[short] = value
    if "logit_scale" in clip:
        head.setdefault("logit_scale", clip["logit_scale"])
    return Parts(head, clip, tuple(sorted(dropped)))


def _read_sizes(cls: type[Method], head: Mapping[str, Tensor], file: Path) -> tuple[dict[str, Any], Sizes]:
    try:
        return cls.read_checkpoint(head)
    except KeyError as e:
        raise DataError(
            f"{str(file)!r} is not a checkpoint of this method: it has no {e.args[0]!r} "
            f"(it has {', '.join(list(head)[:5])} …)"
        ) from None


def _fill(
    options: Mapping[str, Any], sizes: Sizes, head: Mapping[str, Tensor], cls: type[Method], file: Path
) -> Method:
    """Build the method and load the head. Raises DataError that names missing, unknown and misfitting tensors."""
    whole = Sizes(sizes.dim, sizes.frames or _DEFAULT_SIZES["frames"], sizes.words or _DEFAULT_SIZES["words"])
    method = cls(cls.Config(**options), whole)
    own = method.state_dict()
    # Buffers of training state (a replay buffer's flag) are ours; a missing parameter would be another model.
    parameters = {name for name, _ in method.named_parameters()}
    given = {k: v.float() if v.is_floating_point() else v for k, v in head.items() if k in own or k != "logit_scale"}
    _pad_positions(given, own)
    missing, unknown = sorted(parameters - given.keys()), sorted(given.keys() - own.keys())
    wrong = [
        f"{k} {list(v.shape)}, not {list(own[k].shape)}"
        for k, v in given.items()
        if k in own and v.shape != own[k].shape
    ]
    if missing or unknown or wrong:
        told = [f"it lacks {', '.join(missing[:5])}"] * bool(missing)
        told += [f"it has unknown {', '.join(unknown[:5])}"] * bool(unknown) + wrong[:3]
        raise DataError(f"{str(file)!r} does not fit {cls.__module__.rpartition('.')[2]}: {'; '.join(told)}")
    method.load_state_dict({**own, **given})
    return method


def _pad_positions(given: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Lengthen a position table that has fewer rows than ours with zeros: only the first F rows are ever read."""
    table = given.get("frame_position_embeddings.weight")
    rows = len(own.get("frame_position_embeddings.weight", ()))
    if table is not None and len(table) < rows:
        given["frame_position_embeddings.weight"] = torch.nn.functional.pad(table, (0, 0, 0, rows - len(table)))
