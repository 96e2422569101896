"""The features that a run trains on: the store it fits, or one made for it from the frames that are there."""

from __future__ import annotations

from pathlib import Path

from tvr_cli import commands, files, log, plans
from tvr_cli.backbones import registry
from tvr_cli.data.jsonl import CAPTIONS_EXAMPLE
from tvr_cli.engine.features.corpus import has_captions
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.plans import FramePlan, PrecomputeOptions, Wish
from tvr_cli.runs import RunDir
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import Manifest, Sizes
from tvr_cli.workspace import Workspace


def find(workspace: Workspace, wish: Wish) -> tuple[FeatureStore | None, list[str]]:
    """Return the newest finished store that fits, or None and what kept the newest one from fitting."""
    newest: list[str] = []
    for store in workspace.given_features() if wish.backbone is None else workspace.all_features():
        if not (reasons := wish.differences(store.identity, store.backbone_name)):
            return store, []
        newest = newest or reasons
    return None, newest


def require(
    workspace: Workspace,
    wish: Wish,
    *,
    captions: Path | Manifest | None = None,
    device: str = "auto",
    offline: bool = False,
) -> FeatureStore:
    """Return the store to train on, computing features first where they are missing or stale (which is said).

    Raises DataError when there are no frames or no captions, StoreMismatch when the frames do not have the wanted plan.
    """
    store, reasons = find(workspace, wish)
    if store is not None and store.imported is not None and captions is not None:
        raise DataError(
            f"the features in {str(store.root)!r} were imported, and captions are named there: {store.import_again}"
        )
    why = "; ".join(reasons) or stale(workspace, store, captions)
    if captions is None and workspace.has_frames and not has_captions(workspace.frames(), workspace.newest_features()):
        raise _without_captions()  # before an hour of computing features
    if store is None or why:
        store = _compute(workspace, wish, store, why, captions, device, offline)
    if not store.captions:
        raise _without_captions()
    return store


def _flags(wish: Wish) -> dict[str, int | float | None]:
    """Return the flags of `tvr extract-frames` that choose the frames of a wish."""
    return {name: value for name, value in wish.frames.items() if name != "kind"}


def _without_captions() -> DataError:
    return DataError(
        "expected captions to train on, found none beside the videos. Write a captions.jsonl like this and give it "
        "with --captions captions.jsonl:",
        example=CAPTIONS_EXAMPLE,
    )


def expected_sizes(workspace: Workspace, wish: Wish) -> Sizes:
    """Return the sizes of features that do not exist yet: from the plans, the frames and the backbone's name."""
    from tvr_cli.engine.features.choose import choose_for

    backbone = registry.resolve(choose_for(wish, workspace))
    slots = wish.frames.get("num_frames") or wish.frames.get("max_frames")
    if slots is None and workspace.has_frames:
        slots = workspace.frames().plan.slots
    words = wish.words.get("length") or plans.default_words(backbone.context_length)
    return Sizes(backbone.dim, slots or FramePlan().num_frames, words)


def of_run(workspace: Workspace, run: RunDir) -> FeatureStore:
    """Open the store that a run was begun on. Raises StoreMismatch when it is no longer there."""
    fingerprint = files.bare_name(str(run.env().get("store")), run.env_path)
    there = (workspace.feature_folder(fingerprint) / "store.json").is_file()
    store = workspace.finished_features(fingerprint) if there else None
    if store is None:
        raise StoreMismatch(
            f"the run {run.name!r} was begun on the features {fingerprint}, which are not in "
            f"{str(workspace.features_folder)!r}; make them again with " + commands.tvr("precompute-features")
        )
    return store


def stale(workspace: Workspace, store: FeatureStore | None, captions: Path | Manifest | None = None) -> str:
    """Return, in words, why the features are to be looked at again; empty = they are as the frames and captions are."""
    if store is None or not workspace.has_frames:
        return ""
    if captions is not None:
        return "captions were named"
    return workspace.outdated(store) or ("" if store.captions else "there are no captions yet")


def _compute(
    workspace: Workspace,
    wish: Wish,
    store: FeatureStore | None,
    why: str,
    captions: Path | Manifest | None,
    device: str,
    offline: bool,
) -> FeatureStore:
    from tvr_cli.engine.features import precompute, repair

    if not workspace.has_frames:
        if why:
            workspace.refuse_without_frames(
                f"no feature store of {str(workspace)!r} fits (the newest: {why}), and there are no frames to make one "
                "from",
                StoreMismatch,
            )
        workspace.refuse_without_frames(f"expected frames or features in {str(workspace)!r}, found none")
    making = commands.tvr("precompute-features")
    log.logger.info("computing features first (%s): %s", making, why or "there are none yet")
    if store is not None:  # it only needs a refresh: it keeps its own plans
        options = PrecomputeOptions(device=device, offline=offline)
        made = repair.refresh(workspace, store, options, captions, named=wish.backbone).store
    else:
        made = precompute.precompute(
            workspace, wish.backbone, captions, wish.options(device=device, offline=offline)
        ).store
    if differences := wish.differences(made.identity, made.backbone_name):
        raise StoreMismatch(
            f"the frames in {str(workspace.frames_folder)!r} do not fit: {'; '.join(differences)}; extract others "
            "into a workspace of their own: "
            + commands.tvr("extract-frames", *workspace.video_roots(), **_flags(wish), workspace=Path(f"{workspace}-2"))
        )
    return made
