"""Which backbone makes features: the one that is named, that of the features that are there, else the default.

The default for folders of one's own is `pe-core-b16` where encoding frames and captions takes ten minutes or less; what
has to be downloaded first is said and not counted, for nothing here knows the network. Where it takes longer a
person is asked, and `clip-vit-b32`, a fourth of the time, is taken where nobody can answer. Frames that were made
for a paper's protocol (cropped: data sets, recipes, older frames) keep `clip-vit-b32`.
"""

from __future__ import annotations

import torch

from tvr_cli import commands
from tvr_cli.backbones import registry
from tvr_cli.backbones.base import Description
from tvr_cli.defaults import named_backbone
from tvr_cli.engine.device import pick_device
from tvr_cli.engine.features import cost
from tvr_cli.errors import EnvironmentProblem
from tvr_cli.log import ask, logger
from tvr_cli.plans import Wish
from tvr_cli.workspace import Workspace

DEFAULT_BACKBONE = "clip-vit-b32"
BETTER_BACKBONE = "pe-core-b16"
_PATIENCE_S = 600.0


def choose_backbone(
    asked: str | None,
    workspace: Workspace,
    *,
    own: bool = True,
    shift: bool = False,
    words: int | None = None,
    device: str = "auto",
    offline: bool = False,
    may_ask: bool = False,
    captions: int | None = None,
) -> str:
    """Return the backbone by the order: asked for, TVR_BACKBONE, that of the newest features, the default.

    A backbone that a run tuned for itself is taken only when it is asked for. own: whether the frames may be a person's
    own. shift, words: a temporal shift and token slots that are wanted, which the better one may not have. may_ask:
    whether to ask where the default takes long. captions: how many there are to encode, None = not known yet. Raises
    DataError where features are there and nothing tells what made them, EnvironmentProblem where offline leaves no
    default.
    """
    if named := named_backbone(asked):
        return named
    newest = workspace.given_backbone()
    if newest is not None:
        name, folder = newest
        registry.require_named(name, None, folder)
        return name
    better = registry.resolve(BETTER_BACKBONE)
    able = (not shift or "temporal_shift" in better.provides) and (words or 0) <= better.context_length
    if not (own and able):
        return DEFAULT_BACKBONE
    return _default(workspace, better, device=device, offline=offline, may_ask=may_ask, captions=captions)


def choose_for(wish: Wish, workspace: Workspace) -> str:
    """Return the backbone that features for an experiment are going to be made by. Raises as `choose_backbone`."""
    shift, words = bool(wish.temporal_shift), wish.words.get("length")
    return choose_backbone(wish.backbone, workspace, shift=shift, words=words)


def _default(
    workspace: Workspace, better: Description, *, device: str, offline: bool, may_ask: bool, captions: int | None
) -> str:
    """Return the default for the frames of a workspace, and say which it is where there was a choice."""
    plan = workspace.frames().plan if workspace.has_frames else None
    if plan is None or plan.fit != "whole" or not plan.serves(better.view):
        return DEFAULT_BACKBONE
    another = "--backbone names another"
    if offline:
        here = [name for name in (BETTER_BACKBONE, DEFAULT_BACKBONE) if registry.resolve(name).weights is not None]
        if not here:
            get = commands.tvr("backbones", "get", BETTER_BACKBONE)
            raise EnvironmentProblem(
                f"no backbone is named, and neither {BETTER_BACKBONE} nor {DEFAULT_BACKBONE} is on this machine, while "
                f"--offline forbids to download them; on a machine with a network run: {get}"
            )
        if len(here) == 1:
            logger.info("backbone: %s, the one that is on this machine (--offline); %s", here[0], another)
            return here[0]
    seconds = _seconds(workspace, device, captions or 0)
    about = f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
    about += f" of encoding {'frames' if captions is None else 'frames and captions'} here"
    if seconds <= _PATIENCE_S:
        logger.info("backbone: %s (%s%s); %s", BETTER_BACKBONE, about, _to_download(BETTER_BACKBONE), another)
        return BETTER_BACKBONE
    question = (
        f"{BETTER_BACKBONE} takes {about}{_to_download(BETTER_BACKBONE)}; {DEFAULT_BACKBONE} takes about a fourth of "
        f"that time{_to_download(DEFAULT_BACKBONE)}, and finds less. Which one?"
    )
    answer = ask(question, (BETTER_BACKBONE, DEFAULT_BACKBONE)) if may_ask else None
    if answer is None:
        logger.info(
            "backbone: %s%s, because %s would take %s; %s",
            *(DEFAULT_BACKBONE, _to_download(DEFAULT_BACKBONE, " (", ")"), BETTER_BACKBONE, about, another),
        )
    return answer or DEFAULT_BACKBONE


def _seconds(workspace: Workspace, device: str, captions: int) -> float:
    """Estimate how long the better backbone would encode the frames of a workspace and so many captions here."""
    about = registry.resolve(BETTER_BACKBONE)
    a_frame, a_caption = registry.skeleton(about).cost(about.context_length)
    store = workspace.frames()
    films = store.plan.has_timelines  # of these each frame is encoded, also where no window shows it
    frames = store.count_frames(store.films()) if films else sum(record.n_frames for record in store.records)
    flops = a_frame * frames + a_caption * captions
    return cost.seconds(flops, pick_device(device), torch.float32) if flops else 0.0


def _to_download(name: str, before: str = ", and ", behind: str = "") -> str:
    """Say how much has to be downloaded first, empty where the weights are here."""
    about = registry.resolve(name)
    if about.weights is not None:
        return ""
    size, estimated = cost.download_bytes(registry.skeleton(about))
    return f"{before}{'about ' if estimated else ''}{size / 1e9:.1f} GB to download{behind}"
