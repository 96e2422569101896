"""Scores of a split: read from a store block by block, they are those of features held in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import SyntheticStore

from tvr_cli import metrics
from tvr_cli.engine.gallery import gallery_of, streamed_ranks, video_scores
from tvr_cli.methods import base
from tvr_cli.stores.features import FeatureStore

SMALL = 20_000  # bytes: a few captions and clips a tile


def method_for(store: FeatureStore, name: str) -> base.Method:
    torch.manual_seed(0)
    return base.build(name, store.sizes, {}).eval()


@pytest.mark.parametrize("name", ["mean", "text_guided", "glccl"])
def test_a_store_read_in_blocks_gives_the_scores_of_features_in_memory(name: str, tmp_path: Path) -> None:
    held = SyntheticStore(videos=40, captions_per_video=2, splits=("test",))
    store = held.write(tmp_path)
    method, gallery = method_for(store, name), gallery_of(store, "test")

    class Held:  # the store's rows, all in memory
        text = staticmethod(lambda index: store.text().rows(index))
        video = staticmethod(lambda index: store.video().rows(index))

    whole = video_scores(method, Held(), gallery, 10**9)
    torch.testing.assert_close(video_scores(method, store, gallery, SMALL), whole, rtol=1e-5, atol=1e-6)


def test_streamed_ranks_of_a_store_are_those_of_its_matrix(tmp_path: Path) -> None:
    store = SyntheticStore(videos=30, captions_per_video=2, splits=("test",)).write(tmp_path)
    method, gallery = method_for(store, "text_guided"), gallery_of(store, "test")
    scores = video_scores(method, store, gallery, 10**9).numpy()
    forward, backward = streamed_ranks(method, store, gallery, SMALL)
    whole = metrics.evaluate(scores, gallery.video_of_caption)
    # The queries stand in another order, so sums of fractions differ in the last bit.
    assert metrics.summary(forward) == pytest.approx(whole["t2v"], rel=1e-12)
    assert metrics.summary(backward) == pytest.approx(whole["v2t"], rel=1e-12)


@pytest.mark.parametrize(("name", "wanted"), [("text_guided", False), ("glccl", True)])
def test_tokens_are_read_only_for_a_method_that_uses_them(
    name: str, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SyntheticStore(videos=8, splits=("test",)).write(tmp_path)
    asked = []
    read = FeatureStore.text

    def spy(self: FeatureStore, index: torch.Tensor | None = None, *, tokens: bool = True):
        asked.append(tokens)
        return read(self, index, tokens=tokens)

    monkeypatch.setattr(FeatureStore, "text", spy)
    video_scores(method_for(store, name), store, gallery_of(store, "test"), 10**9)
    assert asked and set(asked) == {wanted}


def test_one_caption_a_video_in_any_order_needs_no_merging() -> None:
    scores = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    videos, grouped = metrics.group_by_video(scores, order)
    assert videos.tolist() == list(range(7))
    np.testing.assert_array_equal(grouped[order], scores)
    assert metrics.group_by_video(scores, np.arange(7))[1] is scores
