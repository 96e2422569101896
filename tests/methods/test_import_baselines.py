"""Checkpoints in the layout of the baselines' authors, CLIP included, become runs that give the golden scores."""

from __future__ import annotations

import pytest
import tiny_clip
import torch
from golden import Closeness, load, params
from test_golden_clip4clip_seq import OF_ANOTHER, PREFIX
from test_import_checkpoint import imported, text_of, video_of

from tvr_cli.errors import ConfigError
from tvr_cli.types import Sizes


def clip_of_openai() -> dict[str, torch.Tensor]:
    """A tiny CLIP under the names that CLIP4Clip saves, its logit scale aside."""
    state = tiny_clip.model(tiny_clip.config()).state_dict()
    return {f"clip.{k}": v for k, v in state.items() if k not in ("logit_scale", "attn_mask")}


@torch.no_grad()
@pytest.mark.parametrize("head", ["transformer", "lstm"])
@pytest.mark.parametrize(("path", "dtype"), [p for p in params("clip4clip_seq") if "fp32" in p.id])
def test_clip4clip_gives_golden_scores(path, dtype, head, tmp_path):
    golden = load(path, dtype)
    state = {k: v for k, v in golden.under("param.").items() if not k.startswith(OF_ANOTHER[head])}
    frames = golden["eval.in.visual_output"]
    sizes = Sizes(frames.shape[-1], frames.shape[1], 8)
    method, report, _ = imported(tmp_path, "clip4clip_seq", {**state, **clip_of_openai()}, sizes)
    text = method.encode_text(text_of(golden["eval.in.sequence_output"].flatten(0, 1)))
    scores = method.score(text, method.encode_video(video_of(frames, golden["eval.in.video_mask"])))
    name = f"{PREFIX[head]}eval.out.sim"
    Closeness("clip4clip_seq", dtype, file=golden).value(name, scores, golden[name])
    assert report.options["head"] == head and report.backbone.startswith("local:") and not report.dropped


def test_meanp_is_another_method_and_says_which(tmp_path):
    with pytest.raises(ConfigError, match="is the method mean here"):
        imported(tmp_path, "clip4clip_seq", clip_of_openai(), Sizes(32, 6, 8))
