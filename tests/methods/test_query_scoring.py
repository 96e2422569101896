"""`text_guided` is query-scoring (arXiv 2205.08508): its equations, its options, and what stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tvr_cli.methods import _light, base
from tvr_cli.types import Sizes, TextFeatures, VideoFeatures


def method(**options):
    return base.build("text_guided", Sizes(dim=16, frames=5, words=8), options)


def features(lengths=(5, 3, 4)):
    g = torch.Generator().manual_seed(0)
    text = TextFeatures(torch.arange(4), 10 * torch.randn(4, 16, generator=g), None, torch.full((4,), 8))
    frames = 10 * torch.randn(3, 5, 16, generator=g)
    n = torch.tensor(lengths)
    return text, VideoFeatures(torch.arange(3), frames, n, torch.arange(5.0).expand(3, 5))


def query_scoring(text, frames, temperature):
    """The equations of the paper, one pair at a time: cosines, softmax over frames, weighted mean of unit frames."""
    t = torch.nn.functional.normalize(text, dim=0)
    x = torch.nn.functional.normalize(frames, dim=1)
    weights = ((x @ t) / temperature).softmax(0)
    return torch.cosine_similarity(t, weights @ x, dim=0)


def test_temperature_and_normalize_give_query_scoring():
    text, video = features()
    m = method(temperature=0.1, normalize=True)
    scores = m.score(m.encode_text(text), m.encode_video(video))
    expected = torch.stack(
        [
            torch.stack([query_scoring(t, x[:n], 0.1) for x, n in zip(video.frames, video.n_frames, strict=True)])
            for t in text.pooled
        ]
    )
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)


def test_normalized_scores_do_not_depend_on_lengths_and_the_default_ones_do():
    text, video = features()
    longer = VideoFeatures(video.key, video.frames * torch.tensor([1.0, 2, 3, 4, 5])[:, None], video.n_frames, video.ts)
    for normalize, same in ((True, True), (False, False)):
        m = method(temperature=0.1 if normalize else 5.0, normalize=normalize)
        t = m.encode_text(text)
        a, b = m.score(t, m.encode_video(video)), m.score(t, m.encode_video(longer))
        assert torch.allclose(a, b, atol=1e-6) is same


def test_frames_of_zeros_in_missing_slots_do_no_harm():
    text, video = features()
    video.frames[1, 3:] = 0.0
    for mask in (True, False):
        m = method(temperature=0.1, normalize=True, mask_padding=mask)
        assert m.score(m.encode_text(text), m.encode_video(video)).isfinite().all()


def test_the_default_is_what_it_was():
    text, video = features()
    m = method()
    assert (m.config.temperature, m.config.normalize, m.config.mask_padding) == (5.0, False, True)
    t, x = text.pooled[0], video.frames[0]
    expected = torch.cosine_similarity(t, ((x @ t) / 5).softmax(0) @ x, dim=0)
    torch.testing.assert_close(m.score(m.encode_text(text), m.encode_video(video))[0, 0], expected)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.1, "normalize": True}])
def test_the_way_without_torch_scores_the_same(options):
    text, video = features()
    m, light = method(**options), _light.TextGuided(**options)
    t, v = m.encode_text(text), m.encode_video(video)
    arrays = {name: tensor.numpy() for name, tensor in v.tensors.items()}
    np.testing.assert_allclose(light.score(text.pooled.numpy(), arrays), m.score(t, v).numpy(), rtol=1e-4, atol=1e-5)
    mine = light.explain(text.pooled.numpy()[:1], arrays)
    np.testing.assert_allclose(mine, m.explain(t, v)[0].numpy(), rtol=1e-4, atol=1e-5)
