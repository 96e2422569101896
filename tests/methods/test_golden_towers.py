"""The CLIP towers against the authors' features: text, frames, and EagleNet's temporal patch shift.

EagleNet's features are the authors' in float64, and how many bits twelve blocks lose in float32 is the processor's: the
tolerance is twice what their own form of the towers (`plain_towers`) loses here.
"""

from __future__ import annotations

from pathlib import Path

import plain_towers
import pytest
import torch
from golden import Closeness, GoldenFile, load, params
from torch import Tensor

from tvr_cli.backbones.openclip import OpenClipBackbone


def _backbone(golden: GoldenFile, prefix: str, *, temporal_shift: bool = False) -> OpenClipBackbone:
    state = {k.removeprefix(prefix): v for k, v in golden.tensors.items() if k.startswith(prefix)}
    return OpenClipBackbone.from_state_dict(state, name="golden", temporal_shift=temporal_shift).to(golden.dtype)


def _ids(golden: GoldenFile, name: str) -> Tensor:
    return golden[name].long().flatten(0, -2)


@pytest.mark.parametrize(("path", "dtype"), params("gare", needs="param.clip.visual."))
def test_golden_gare_towers(path: Path, dtype: torch.dtype) -> None:
    golden = load(path, dtype)
    close = Closeness("gare", dtype, reference="fp32", file=golden)
    backbone = _backbone(golden, "param.clip.")
    with torch.no_grad():
        pooled, tokens = backbone.encode_text(_ids(golden, "in.text_ids"))
        frames = backbone.encode_normalized(golden["in.video"])
    assert tokens is not None
    real = golden["in.text_mask"].bool()  # the authors mask pads as keys; nothing reads the pads' own rows
    close.value("feat.cls", pooled, golden["feat.cls"])
    close.value("feat.text_tokens", tokens[real], golden["feat.text_tokens"][real])
    close.value("feat.frames_raw", frames, golden["feat.frames_raw"])


@pytest.mark.parametrize(("path", "dtype"), params("eaglenet", needs="clip_param/visual."))
def test_golden_eaglenet_towers(path: Path, dtype: torch.dtype) -> None:
    golden = load(path, dtype)
    close = Closeness("eaglenet", dtype, file=golden)
    backbone = _backbone(golden, "clip_param/", temporal_shift=True)
    with torch.no_grad():
        text = backbone.encode_text(_ids(golden, "in/input_ids"))[0]
        video = backbone.encode_normalized(golden["in/pixels"])
    plain = _plain_eaglenet(golden)
    stages = [k.removesuffix("text_feat") for k in golden.tensors if k.endswith("/text_feat")]
    assert stages
    for stage in stages:
        for name, got in (("text_feat", text), ("video_feat", video)):
            expected = golden[stage + name]  # evaluation uses the first videos only
            close.value(stage + name, got[: len(expected)], expected, authors=plain[name][: len(expected)])


@pytest.mark.parametrize("path", dict.fromkeys(p.values[0] for p in params("eaglenet", needs="clip_param/visual.")))
def test_the_plain_towers_are_the_authors(path: Path) -> None:
    """What the tolerance above is measured with gives the authors' features in float64."""
    golden = load(path, torch.float64)
    plain = _plain_eaglenet(golden)
    for name in ("text_feat", "video_feat"):
        expected = golden[f"A/train0/{name}"]
        Closeness("eaglenet", torch.float64).value(name, plain[name][: len(expected)], expected)


def _plain_eaglenet(golden: GoldenFile) -> dict[str, Tensor]:
    state = {k.replace(".attn.net.", ".attn."): v for k, v in golden.under("clip_param/").items()}
    return {
        "text_feat": plain_towers.encode_text(state, _ids(golden, "in/input_ids"))[0],
        "video_feat": plain_towers.encode_image(state, golden["in/pixels"], shift=True),
    }


@pytest.mark.parametrize("method", ["glccl", "tcmgc"])
def test_golden_files_hold_features(method: str) -> None:
    """The cases below are not all skipped where the full files are present."""
    from golden import golden_dir

    if golden_dir() is None:
        pytest.skip("the full golden files are not here")
    assert params(method, needs="e2e.out.visual_output")


@pytest.mark.parametrize(
    ("method", "path", "dtype"),
    [pytest.param(m, *p.values, id=p.id) for m in ("glccl", "tcmgc") for p in params(m, needs="e2e.out.visual_output")],
)
def test_golden_clip4clip_towers(method: str, path: Path, dtype: torch.dtype) -> None:
    golden = load(path, dtype)
    close = Closeness(method, dtype, reference="fp32", file=golden)
    backbone = _backbone(golden, "param.clip.")
    video = golden["e2e.in.video"]  # [B, 1, F, 1, 3, S, S]
    with torch.no_grad():
        pooled, tokens = backbone.encode_text(_ids(golden, "e2e.in.input_ids"))
        frames = backbone.encode_normalized(video.flatten(0, 1).squeeze(2))
    assert tokens is not None
    close.value("e2e.out.sequence_output", pooled, golden["e2e.out.sequence_output"].flatten(0, 1))
    close.value("e2e.out.seq_features", tokens, golden["e2e.out.seq_features"])
    close.value("e2e.out.visual_output", frames, golden["e2e.out.visual_output"])
