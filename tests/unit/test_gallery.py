"""Queries and candidates of a split: windows are merged by file, equal captions and clips tie exactly."""

import numpy as np
import torch

from tvr_cli import metrics
from tvr_cli.engine.evaluation.gallery import Gallery, video_scores
from tvr_cli.methods import base
from tvr_cli.types import Sizes, TextFeatures, VideoFeatures

DIM, FRAMES = 8, 2


class Held:
    """Features of captions and clips by row, given as vectors."""

    def __init__(self, captions, clips, caption_keys=None, clip_keys=None):
        self._captions, self._clips = torch.tensor(captions), torch.tensor(clips)
        self._caption_keys = torch.tensor(caption_keys or range(len(captions)))
        self._clip_keys = torch.tensor(clip_keys or range(len(clips)))

    def text(self, index):
        rows = self._captions[index]
        return TextFeatures(self._caption_keys[index], rows, None, torch.full((len(rows),), 3))

    def video(self, index):
        frames = self._clips[index][:, None].expand(-1, FRAMES, -1)
        count = torch.full((len(frames),), FRAMES)
        return VideoFeatures(self._clip_keys[index], frames, count, torch.zeros(len(frames), FRAMES))


def unit(*weights):
    return [float(w) for w in (*weights, *[0] * (DIM - len(weights)))]


def gallery(captions, files, of_caption):
    names = tuple(f"{i}.mp4" for i in range(max(files) + 1))
    return Gallery(torch.arange(captions), torch.arange(len(files)), torch.tensor(files), np.array(of_caption), names)


def score(features, of):
    return video_scores(base.build("mean", Sizes(DIM, FRAMES, 4)), features, of, 10**6)


def test_a_file_scores_as_its_best_window():
    # Three windows of file 0, one of file 1; the caption is what the last window of file 0 shows.
    features = Held([unit(0, 0, 1)], [unit(1), unit(1, 1), unit(0, 0, 1), unit(0, 1, 1)])
    scores = score(features, gallery(1, [0, 0, 0, 1], [0]))
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.5**0.5]]))
    result = metrics.evaluate(scores.numpy(), np.array([0]))
    assert result["t2v"]["R@1"] == 100.0  # two files, not four windows


def test_captions_repeated_across_videos_tie_exactly():
    # MSR-VTT 1k-A: one sentence for two videos. Noise as of another batch shape must not decide between them.
    noisy = [unit(1, 0.2), unit(1, 0.2 + 1e-6), unit(0, 1)]
    features = Held(noisy, [unit(1), unit(1, 0.4), unit(0, 1)], caption_keys=[7, 7, 8])
    scores = score(features, gallery(3, [0, 1, 2], [0, 1, 2]))
    assert torch.equal(scores[0], scores[1])
    backward = metrics.video_to_text(scores.numpy(), np.arange(3))
    assert backward.tied.tolist() == [1, 1, 0]
    assert metrics.summary(backward)["R@1"] == 100 * (0.5 + 0.5 + 1) / 3


def test_equal_clips_tie_exactly():
    features = Held([unit(1), unit(0, 1)], [unit(1, 0.1), unit(1, 0.1 + 1e-6), unit(0, 1)], clip_keys=[5, 5, 6])
    scores = score(features, gallery(2, [0, 1, 2], [0, 2]))
    assert torch.equal(scores[:, 0], scores[:, 1])
