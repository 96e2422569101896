"""The tiled engine: tiles, budgets and top-k change nothing about a score."""

import pytest
import torch
import tvr_kernels
from tvr_kernels import _dispatch, _payoff

from tvr_cli.engine import device
from tvr_cli.engine.evaluation import score
from tvr_cli.errors import ConfigError, EnvironmentProblem
from tvr_cli.methods import base
from tvr_cli.types import Sizes, TextFeatures, VideoFeatures


def make(texts=37, videos=23, frames=5, dim=16):
    g = torch.Generator().manual_seed(0)
    text = TextFeatures(torch.arange(texts), torch.randn(texts, dim, generator=g), None, torch.full((texts,), 4))
    n_frames = torch.randint(1, frames + 1, (videos,), generator=g)
    video = VideoFeatures(
        torch.arange(videos), torch.randn(videos, frames, dim, generator=g), n_frames, torch.zeros(videos, frames)
    )
    return base.build("mean", Sizes(dim, frames, 8)), text, video


@pytest.mark.parametrize("budget", [1, 2_000, 50_000, 10**9])
def test_the_budget_does_not_change_the_scores(budget):
    method, text, video = make()
    whole = method.score(method.encode_text(text), method.encode_video(video))
    tiled = score.score_matrix(method, text, video, memory_budget=budget)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("budget", [1, 5_000, 10**9])
def test_top_k_equals_sorting_the_whole_matrix(budget):
    method, text, video = make()
    whole = score.score_matrix(method, text, video)
    scores, rows = score.top_k(method, text, video, 7, memory_budget=budget)
    expected = whole.argsort(dim=1, descending=True, stable=True)[:, :7]
    assert torch.equal(rows, expected)
    torch.testing.assert_close(scores, whole.gather(1, expected), rtol=0, atol=1e-6)


def test_top_k_keeps_the_first_of_equal_clips():
    method, text, video = make()
    same = torch.eye(16)[:1].expand(len(video), 5, 16)  # one-hot frames: every score is exact, whatever the tile
    twins = VideoFeatures(video.key, same, video.n_frames, video.ts)
    assert score.top_k(method, text, twins, 3, memory_budget=3_000)[1].tolist() == [[0, 1, 2]] * len(text)


def test_every_tile_is_scored_as_part_of_the_whole_job(monkeypatch):
    _, text, video = make()
    method = base.build("text_guided", Sizes(16, 5, 8))
    seen = []

    def pays(op, pairs, *_):
        seen.append((op, pairs))
        return False, "not asked about"

    monkeypatch.setattr(_payoff, "pays", pays)
    monkeypatch.setattr(_dispatch, "implementations", lambda op: ["reference", "folded", "compiled"])
    score.score_matrix(method, text, video, memory_budget=50_000)

    assert len(seen) > 1 and set(seen) == {("text_pooling", len(text) * len(video))}
    with pytest.raises(RuntimeError), tvr_kernels.job(9):
        raise RuntimeError
    assert _dispatch._job.get() == 0


@pytest.mark.parametrize(
    ("text", "size"), [("512MB", 512_000_000), ("1.5GiB", 1_610_612_736), ("7", 7), ("2 gb", 2 * 10**9)]
)
def test_sizes_are_read(text, size):
    assert device.parse_bytes(text) == size


def test_an_unreadable_size_and_a_missing_device_are_sentences():
    with pytest.raises(ConfigError, match="512MB"):
        device.parse_bytes("lots")
    with pytest.raises(EnvironmentProblem, match="--device cpu"):
        device.pick_device("cuda:99")
