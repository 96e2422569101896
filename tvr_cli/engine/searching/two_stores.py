"""Two stores, one index: candidates by the clip vectors of one encoder, ranked by a method on the features of another.

Nothing is forced into one space: a sentence is encoded by both text towers, and each clip, known by its content, keeps
the first encoder's vector beside what the method keeps. To a search it is a method like any other, whose coarse vectors
are the first encoder's; it has no rough score, for that would be the second encoder's choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tvr_cli import commands
from tvr_cli.engine import scorers
from tvr_cli.engine.scorers import Scorer
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.methods import base
from tvr_cli.methods.base import Method
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import Encoding, TextFeatures, VideoFeatures
from tvr_cli.workspace import Workspace

VECTOR = "first_stage"  # the first encoder's unit vector among the tensors of a caption or a clip


@dataclass(frozen=True)
class First:
    """What finds the candidates: a store, and the method without training whose coarse vectors are taken."""

    scorer: Scorer
    store: FeatureStore

    def vectors(self, keys: Tensor) -> Tensor:
        """Return the unit vectors [n, D] of clips by their content keys, on the CPU."""
        at = {key: row for row, key in enumerate(self.store.clips.key.tolist())}
        rows = torch.tensor([at[key] for key in keys.tolist()], dtype=torch.int64)
        method = self.scorer.method
        video = self.store.video(rows, patches=method.reads_patches)
        return method.coarse(scorers.encode_videos(method, video)).float().cpu()

    def sentences(self, text: TextFeatures) -> Tensor:
        """Return the unit vectors [T, D] of sentences by their features of the first encoder, on the CPU."""
        method = self.scorer.method
        return method.coarse(scorers.encode_texts(method, text)).float().cpu()


class Ranked(base.Method):
    """A method whose candidates come from `VECTOR`, which encodings of both sides are given (`with_vectors`)."""

    def __init__(self, inner: Method):
        super().__init__(inner.config, inner.sizes)
        self.inner, self.needs, self.scale = inner, inner.needs, inner.scale  # type: ignore[misc]

    def encode_text(self, text: TextFeatures) -> Encoding:
        return self.inner.encode_text(text)

    def encode_video(self, video: VideoFeatures) -> Encoding:
        return self.inner.encode_video(video)

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        return self.inner.score(_own(text), _own(video))

    def coarse(self, e: Encoding) -> Tensor:
        return e[VECTOR]

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        return self.inner.explain(_own(text), _own(video))

    def pair_bytes(self) -> int:
        return self.inner.pair_bytes()


def with_vectors(encoding: Encoding, vectors: Tensor) -> Encoding:
    """Return the encoding of captions or clips with the first encoder's unit vectors [N, D] of them."""
    return Encoding(encoding.key, {**encoding.tensors, VECTOR: vectors.to(encoding.key.device)})


def first_of(workspace: Workspace, backbone: str, then: FeatureStore) -> First:
    """Return what finds candidates for a store: the features of a backbone in the same workspace.

    Raises DataError where there are none, or where they hold other clips than `then`, ConfigError where it is the same
    store.
    """
    store = workspace.features_for(backbone)
    if store.fingerprint == then.fingerprint:
        raise ConfigError(
            f"--first {backbone} and --then name the same features; name two backbones, or index one alone: "
            + commands.tvr("index", backbone=backbone, workspace=workspace)
        )
    ours, theirs = set(store.clips.key.tolist()), set(then.clips.key.tolist())
    if ours != theirs:
        stale = store if theirs - ours else then
        raise DataError(
            f"two stores of one index need the same clips: {len(ours - theirs)} clips are only among the features of "
            f"{store.backbone_name}, {len(theirs - ours)} only among those of {then.backbone_name}; bring them up to "
            f"date with: {commands.tvr('precompute-features', backbone=stale.backbone_name, workspace=workspace)}"
        )
    name = "one_vector" if "video.pooled" in store.provides else "mean"
    return First(scorers.untrained(name, store), store)


def identity_of(first: First) -> dict[str, Any]:
    """Return what an index keeps of the first store, as it does of its own."""
    store = first.store
    return {
        "backbone": store.backbone_name,
        "architecture": store.identity["backbone"]["name"],
        "store": store.fingerprint,
        "content": store.content_hash(),
        "method": first.scorer.name,
    }


def _own(e: Encoding) -> Encoding:
    """Return what the method itself made."""
    return Encoding(e.key, {name: x for name, x in e.tensors.items() if name != VECTOR})
