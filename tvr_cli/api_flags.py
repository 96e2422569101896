"""What flags of the pipeline's verbs mean and allow, for `api.OpenWorkspace`: part of it in a file of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_cli.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from tvr_cli.engine.evaluation.judge import JudgeOptions
    from tvr_cli.engine.searching.index import Kind
    from tvr_cli.engine.training.train import TrainOptions
    from tvr_cli.engine.whole.parts import Pool

PathLike = str | os.PathLike[str]
_V2T, _COUNTINGS = ("max", "best-caption", "mean-rank"), ("fair", "clip4clip")


def train_options(
    run: str | None, resume: bool, captions: PathLike | None, device: str, offline: bool, threads: int | None,
    workers: int | None, memory_budget: str, devices: int | None,
) -> TrainOptions:  # fmt: skip
    from tvr_cli.engine.device import parse_bytes
    from tvr_cli.engine.training import presence, train

    at_least("--devices", devices, 1)
    place = presence.this_environment()
    if place is not None and devices is not None:
        raise ConfigError("--devices starts the ranks of this machine, and torchrun has started them; leave it out")
    at_least("--threads", threads, 1)
    at_least("--workers", workers, 0)
    return train.TrainOptions(
        run=run, resume=resume, captions=path_of(captions), device=device, offline=offline, threads=threads,
        workers=workers, memory_budget=parse_bytes(memory_budget), devices=devices or 1, place=place,
    )  # fmt: skip


def train_flags(
    seed: int | None, epochs: int | None, batch_size: int | None, tune: str | None, select_on: str | None,
    gradients: str | None, backbone: str | None,
) -> dict[str, Any]:  # fmt: skip
    at_least("--epochs", epochs, 1)
    at_least("--batch-size", batch_size, 1)
    return {
        "train.seed": seed, "train.epochs": epochs, "train.batch_size": batch_size, "train.tune": tune,
        "train.select_on": select_on, "train.gradients": gradients, "backbone.name": backbone,
    }  # fmt: skip


def judge_options(
    v2t_protocol: str, metrics: str, post: str | Sequence[str], seed: int, scale: str | None, qrels: PathLike | None
) -> JudgeOptions:
    from tvr_cli import relevance
    from tvr_cli.engine.evaluation import judge
    from tvr_cli.engine.evaluation.post import parse_posts, parse_scale

    return judge.JudgeOptions(
        v2t=one_of("--v2t-protocol", v2t_protocol, _V2T),
        counting=one_of("--metrics", metrics, _COUNTINGS),
        post=parse_posts(several(post)),
        seed=seed,
        scale=None if scale is None else parse_scale(scale),
        qrels=None if qrels is None else relevance.read_qrels(Path(qrels)),
    )


def kind_of_index(store: str | None, coarse_memory: str | None) -> Kind | None:
    """Read `--store` and `--coarse-memory`. Raises ConfigError."""
    if store is None:
        if coarse_memory is not None:
            raise ConfigError("--coarse-memory is of a table: give it with --store lance")
        return None
    from tvr_cli.engine.device import parse_bytes
    from tvr_cli.engine.searching.index import kind_named

    return kind_named(store, None if coarse_memory is None else parse_bytes(coarse_memory))


def pool_of(engine: str, address: str | None, repair: str | None, dry_run: bool, shard: tuple[int, int]) -> Pool | None:
    """Read `--engine` and `--address`: None is this process. Raises ConfigError."""
    one_of("--engine", engine, ("local", "ray"))
    if engine == "local":
        if address is not None:
            raise ConfigError("--address is of a cluster: give it with --engine ray")
        return None
    if repair is not None or dry_run or shard[1] > 1:
        raise ConfigError("--engine ray runs all parts of a list; leave out --shard, --repair and --dry-run")
    from tvr_cli.engine.whole.ray_runner import RayPool

    return RayPool(address)


# What tells a job its number: the variable, and the number of the first job.
_JOB = {"SLURM_ARRAY_TASK_ID": 1, "JOB_COMPLETION_INDEX": 0}


def shard_of(text: str) -> tuple[int, int]:
    """Read `--shard`: I/N, I from 1, or auto/N, where the scheduler says which. Raises ConfigError."""
    part, slash, of = text.partition("/")
    if not (slash and (part == "auto" or part.isdecimal()) and of.isdecimal()):
        raise ConfigError(f"--shard: expected I/N such as 3/16, or auto/16 in a job of an array, found {text!r}")
    return _job_number(int(of)) if part == "auto" else int(part), int(of)


def _job_number(of: int) -> int:
    """Return the number of this job, from 1."""
    told = {name: os.environ[name] for name in _JOB if os.environ.get(name)}
    if len(told) != 1:
        found = " and ".join(f"{name}={value}" for name, value in told.items()) or "neither"
        raise ConfigError(
            f"--shard auto/{of}: expected {' or '.join(_JOB)} (one of them) in the environment, which tell a job its "
            f"number, found {found}; name the part with --shard I/{of}"
        )
    name, value = next(iter(told.items()))
    first = _JOB[name]
    if not value.isdecimal() or not first <= int(value) < first + of:
        raise ConfigError(
            f"--shard auto/{of}: expected {name} to be a number from {first} to {first + of - 1}, found {value!r}; "
            "start the array with as many jobs as there are parts"
        )
    return int(value) - first + 1


def no_dry_repair(dry_run: bool) -> None:
    if dry_run:
        raise ConfigError("--repair has no dry run, it writes; leave out one of --repair and --dry-run")


def several(values: str | Sequence[str]) -> list[str]:
    """Return the values of a flag that repeats; a text alone is one of them."""
    return [values] if isinstance(values, str) else list(values)


def listed(values: str | Sequence[str]) -> list[str]:
    """Return the values of a flag that takes several with commas: a text of them, or a list."""
    words = values.split(",") if isinstance(values, str) else values
    return [word.strip() for word in words if word.strip()]


def path_of(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)


def one_of(flag: str, value: str, known: tuple[str, ...]) -> Any:
    if value not in known:
        raise ConfigError(f"{flag}: unknown {value!r}{did_you_mean(value, known) or '; there are ' + ', '.join(known)}")
    return value


def at_least(flag: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise ConfigError(f"{flag}: expected {least} or more, found {value}")
