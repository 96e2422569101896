"""Which moment head ranks the moments of an index: the one that is named, else the newest that fits. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvr_cli import commands, log
from tvr_cli.engine.searching.hits import HeadWish
from tvr_cli.errors import ConfigError, DataError, StoreMismatch, TvrError
from tvr_cli.stores import moment_head, run_header
from tvr_cli.stores.moment_head import MadeFor, MomentHead
from tvr_cli.workspace import Workspace


def split(workspace: Workspace, run: str | None, *, use: bool = True) -> tuple[str | None, HeadWish]:
    """Return what `--run` names: the run of a method, and the head that is wanted. use: whether one is at all.

    Raises ConfigError where one is named and none is wanted.
    """
    if run is None or (found := workspace.find_head(run)) is None:
        return run, HeadWish(use=use)
    if not use:
        raise ConfigError("--run names a moment head and --no-head leaves it out; give one of them")
    return None, HeadWish(str(found.path), use)


@dataclass(frozen=True)
class Chosen:
    """The head that ranks moments, None = none does. name: its run's. lines: what whoever asks is told of it."""

    head: MomentHead | None
    lines: tuple[str, ...] = ()
    name: str | None = None

    def say(self) -> None:
        """Tell it, once to each who asks."""
        for line in self.lines:
            log.say_once(line)


def head_for(workspace: Workspace, backbone: str, identity: Mapping[str, Any], wish: HeadWish) -> Chosen:
    """Return the head that ranks moments of features, where there is one that fits. identity: the features'.

    Raises StoreMismatch where the one that is named does not fit, and as `MomentHead.open`.
    """
    if not wish.use:
        return Chosen(None)
    features = MadeFor.of(backbone, identity)
    if wish.named is not None:
        return _named(workspace, wish.named, features)
    if features is None:
        return Chosen(None)
    unfit: list[str] = []
    for run in workspace.heads():
        path = run_header.head_path(run.path)
        try:
            if not (unlike := moment_head.made_for(path).unlike(features)):
                line = f"moments are ranked by the head {run.name!r} (--no-head leaves it out)"
                return Chosen(MomentHead.open(path), (line,), run.name)
        except TvrError as e:
            unlike = str(e)
        unfit.append(f"the head {run.name!r} is left out: {unlike}")
    return Chosen(None, tuple(unfit))


def _named(workspace: Workspace, named: str, features: MadeFor | None) -> Chosen:
    found = workspace.find_head(named)
    if found is None:
        raise DataError(f"expected a moment head at {named!r}, found none; train one with: {_train(workspace)}")
    path = run_header.head_path(found.path)
    made = moment_head.made_for(path)
    unlike = "there are no frames by time here" if features is None else made.unlike(features)
    if unlike:
        raise StoreMismatch(f"the head {found.name!r} does not fit: {unlike}; train one here with: {_train(workspace)}")
    return Chosen(MomentHead.open(path), (f"moments are ranked by the head {found.name!r}",), found.name)


def _train(workspace: Workspace) -> str:
    return commands.tvr("train", moments=True, workspace=workspace)
