"""Whether a backbone suits the frames that are there: what is refused before it is loaded, and what is warned of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tvr_cli import commands
from tvr_cli.backbones.base import Description
from tvr_cli.backbones.toy import is_toy
from tvr_cli.engine.features.choose import DEFAULT_BACKBONE
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.log import warn_once
from tvr_cli.plans import FramePlan, PrecomputeOptions
from tvr_cli.stores.frames.store import ClipRecord, FrameStore
from tvr_cli.workspace import Workspace

_SHOWS = {"crop": "are cropped to their centre", "squash": "are squashed to a square, nothing cut off"}


def require(backbone: Description, frames: FrameStore, options: PrecomputeOptions, workspace: Workspace) -> None:
    """Raise DataError where the frames are not what a backbone takes, ConfigError where it lacks what is asked."""
    _require_view(frames, backbone, workspace)
    _require_frames(frames, backbone, workspace)
    if options.patches and "video.patches" not in backbone.provides:
        raise ConfigError(
            f"--patches: the backbone {backbone.name} has no patches of frames to keep (it is no ViT of which only the "
            f"class token is pooled); leave it out, or take one that provides video.patches "
            f"({commands.tvr('backbones')})"
        )


def warn(backbone: Description, frames: FrameStore) -> None:
    """Say what is not refused: answers that mean nothing, a licence."""
    if is_toy(backbone.name):
        _warn_of_real_videos(backbone.name, frames.records)
    if backbone.non_commercial:
        warn_once(f"the weights of {backbone.name} are under {backbone.licence}: not for commercial use")


def _frames_for(backbone: Description, frames: FramePlan, workspace: Workspace) -> str:
    """Return the command that reads the videos again for a backbone, into a workspace beside this one.

    frames: how those of this one were chosen, and it goes on but for what the backbone decides.
    """
    root = workspace.root if workspace.root.name not in ("", "..") else workspace.root.resolve()
    beside = Path(f"{root}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', backbone.name)}")
    flags = frames.flags() if backbone.frames is None else {}
    return commands.tvr("extract-frames", *workspace.video_roots(), **{"for": backbone.name}, **flags, workspace=beside)


def _require_view(frames: FrameStore, backbone: Description, workspace: Workspace) -> None:
    """Raise DataError where frames do not show what a backbone sees: too few pixels, or another part of a picture."""
    plan, view = frames.plan, backbone.view
    if plan.serves(view):
        return
    for_it = _frames_for(backbone, plan, workspace)
    if plan.fit not in ("whole", view.fit):
        raise DataError(
            f"the frames in {str(frames.root)!r} {_SHOWS[plan.fit]}, but the backbone {backbone.name} was trained on "
            f"pictures that {_SHOWS[view.fit]}; give frames for it a workspace of their own: {for_it}"
        )
    raise DataError(
        f"the frames in {str(frames.root)!r} are {plan.size} px, but the backbone {backbone.name} takes {view.size} "
        f"px; name one that takes {plan.size} px or less with --backbone ({commands.tvr('backbones')}), or give larger "
        f"frames a workspace of their own: {for_it}"
    )


def _require_frames(frames: FrameStore, backbone: Description, workspace: Workspace) -> None:
    """Raise DataError where clips do not have the one number of frames that a backbone takes."""
    if backbone.frames is None or frames.plan.slots == backbone.frames:
        return
    found = "any number of frames" if frames.plan.slots is None else f"up to {frames.plan.slots} frames"
    raise DataError(
        f"the clips in {str(frames.root)!r} have {found}, but the backbone {backbone.name} takes {backbone.frames} a "
        "clip; give frames for it a workspace of their own: " + _frames_for(backbone, frames.plan, workspace)
    )


def _warn_of_real_videos(name: str, records: Sequence[ClipRecord]) -> None:
    """What ships with tvr has seen nothing but the toy world, whose folders are marked by `events.jsonl`."""
    folders = {Path(r.path).parent for r in records}
    if any(not any((p / "events.jsonl").is_file() for p in (f, *f.parents[:2])) for f in folders):
        warn_once(
            f"{name} knows only the toy world of `tvr demo`; on other videos its answers mean nothing. "
            f"Use --backbone {DEFAULT_BACKBONE} for real ones"
        )
