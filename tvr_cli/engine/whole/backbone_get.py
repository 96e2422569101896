"""Getting a backbone's weights and tokenizer onto this machine before they are needed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvr_cli import commands
from tvr_cli.backbones import hub, registry
from tvr_cli.errors import ConfigError, EnvironmentProblem
from tvr_cli.log import warn_once
from tvr_cli.results.base import Result, key


@dataclass(frozen=True, kw_only=True)
class GotFile:
    """One file. commit: of its repository. here_bytes: what was here before. path: where it is, or will be."""

    repository: str
    name: str
    commit: str
    hash: str
    size_bytes: int = field(metadata=key("bytes"))
    here_bytes: int
    fate: hub.Fate
    path: Path


@dataclass(frozen=True, kw_only=True)
class GetReport(Result):
    """What was fetched, or would be. size_bytes: of all files. fetched_bytes: of what was, or is, not here."""

    schema = "backbones-get"
    backbone: str
    dry_run: bool
    licence: str
    non_commercial: bool
    files: Sequence[GotFile]
    size_bytes: int = field(metadata=key("bytes"))
    fetched_bytes: int
    seconds: float


def get(name: str, *, dry_run: bool = False) -> GetReport:
    """Fetch what a backbone needs from the hub: resumed, compared with the hub's hashes, nothing half kept as whole.

    dry_run: only ask what there is. Raises ConfigError for a backbone that has nothing on the hub, EnvironmentProblem
    when files cannot be had.
    """
    started = time.monotonic()
    about = registry.resolve(name)
    wanted = about.kind.remote_files(about)
    if not wanted:
        if about.weights is not None:
            raise ConfigError(f"the weights of {name} are here already, in {str(about.weights)!r}: nothing to get")
        where = about.expected_at or "wherever its library keeps them"
        raise ConfigError(f"tvr knows no place to get the weights of {name} from; expected: {where}")
    if about.non_commercial:
        warn_once(f"the weights of {about.name} are under {about.licence}: not for commercial use")
    found = hub.all_of(wanted)
    again = commands.tvr("backbones", "get", name)
    fates: list[hub.Fate] = [each.fate if dry_run else hub.get(each, again=again) for each in found]
    if not dry_run and registry.resolve(name).weights is None:
        raise EnvironmentProblem(f"everything of {name} was downloaded, and yet its weights are not found; expected "
                                 f"{about.expected_at}")  # fmt: skip
    return GetReport(
        backbone=about.name,
        dry_run=dry_run,
        licence=about.licence,
        non_commercial=about.non_commercial,
        files=[_file(each, fate) for each, fate in zip(found, fates, strict=True)],
        size_bytes=sum(each.size_bytes for each in found),
        fetched_bytes=sum(each.size_bytes - each.here_bytes for each in found),
        seconds=time.monotonic() - started,
    )


def _file(found: hub.Found, fate: hub.Fate) -> GotFile:
    return GotFile(
        repository=found.repository,
        name=found.name,
        commit=found.commit,
        hash=found.hash,
        size_bytes=found.size_bytes,
        here_bytes=found.here_bytes,
        fate=fate,
        path=found.path,
    )
