"""Frames and features of a sweep: one plan of frames a data set, and one store an encoder that serves all methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tvr_cli import log
from tvr_cli.backbones import registry
from tvr_cli.engine.whole.sweep_plan import Corpus, Table
from tvr_cli.methods import base
from tvr_cli.plans import AskedFrames, FramePlan, PrecomputeOptions, Wish
from tvr_cli.workspace import Workspace


def frame_plan(workspace: Workspace, corpus: Corpus, encoders: Sequence[str]) -> FramePlan:
    """Return the plan of frames that serves every encoder: that of the frames that are there where it does.

    Else the data set's own where that does; else pictures are kept whole, at the size that the largest one takes.
    """
    views = [registry.resolve(encoder).view for encoder in encoders]
    if workspace.has_frames and all((there := workspace.frames().plan).serves(view) for view in views):
        return there
    usual = AskedFrames().plan(corpus.frames)
    if all(usual.serves(view) for view in views):
        return usual
    size = max(usual.size, *(view.size for view in views))
    return AskedFrames(fit="whole", size=size).plan(corpus.frames)


def feature_options(
    table: Table, corpus: Corpus, encoder: str, *, device: str = "auto", offline: bool = False
) -> PrecomputeOptions:
    """Return how the features of an encoder are made: as the experiments want them, for all methods in one store."""
    wanted = _wish(table, corpus, encoder).options(device=device, offline=offline)
    usual, most = corpus.words.length, registry.resolve(encoder).context_length
    if usual is not None and usual > most:
        log.logger.info("%s takes %d tokens of a caption, not the %d of the data set's preset", encoder, most, usual)
        usual = most
    return dataclasses.replace(wanted, max_words=wanted.max_words or usual)


def has_features(workspace: Workspace, table: Table, corpus: Corpus, encoder: str) -> bool:
    """Whether features of an encoder are there that serve all methods; a method that was added may need more."""
    if not workspace.begun_features():
        return False
    wish = _wish(table, corpus, encoder)
    return any(
        store.made_by(encoder) and not wish.differences(store.identity, store.backbone_name)
        for store in workspace.all_features()
    )


def _wish(table: Table, corpus: Corpus, encoder: str) -> Wish:
    """Return what all cells of an encoder and a data set ask of their features."""
    cells = [c for c in table.cells if c.encoder == encoder and c.data == corpus.label and c.lacks is None]
    experiments = [table.resolved(cell).experiment for cell in cells]
    needs = frozenset().union(*(base.load_class(e.method).needs for e in experiments))
    return Wish.from_experiment(experiments[0], needs)
