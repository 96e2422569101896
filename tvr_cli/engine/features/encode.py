"""Running a backbone: captions and frames to features, as the plans of a feature store have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from tvr_cli.backbones.base import Backbone, VideoOut
from tvr_cli.engine.features import word_importance
from tvr_cli.engine.features.frame_batches import FrameBatch
from tvr_cli.plans import WordPlan
from tvr_cli.types import TextFeatures, VideoFeatures, caption_key

TEXT_BATCH = 128


class EncodesText(Protocol):
    """What of a `Backbone` encodes captions."""

    @property
    def device(self) -> torch.device: ...
    def tokenize(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]: ...
    def count_tokens(self, texts: Sequence[str]) -> Tensor: ...
    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]: ...


@torch.no_grad()
def encode_captions(
    backbone: EncodesText, texts: Sequence[str], plan: WordPlan, importance: str, *, batch: int = TEXT_BATCH
) -> TextFeatures:
    """Encode captions [T] as a feature store of this plan holds them: float32, un-normalised.

    Ragged: token slots beyond a caption's own tokens are zero. importance: the store's rule (`word_importance.RULES`).
    """
    parts = [_captions(backbone, texts[i : i + batch], plan, importance) for i in range(0, len(texts), batch)]
    if not parts:
        return _captions(backbone, [""], plan, importance).rows(slice(0, 0))
    fields: dict[str, list[Any]] = {f: [getattr(part, f) for part in parts] for f in vars(parts[0])}
    joined: dict[str, Any] = {f: None if values[0] is None else torch.cat(values) for f, values in fields.items()}
    return TextFeatures(**joined)


@torch.no_grad()
def encode_batch(backbone: Backbone, batch: FrameBatch, shape: str, *, patches: bool = False) -> VideoFeatures:
    """Encode a batch of clips: `fixed` encodes missing frames too, `ragged` only the real ones (zeros elsewhere).

    An encoder of whole clips is given no missing frames in either; their slots are zeros. patches: of frames too.
    """
    pixels, real = batch.pixels.to(backbone.device, non_blocking=True), batch.real.to(backbone.device)
    begins = torch.tensor([record.start or 0.0 for record in batch.records], dtype=batch.ts.dtype)
    times = (batch.ts - begins[:, None]).to(backbone.device)
    seen = clip_features(backbone, pixels, real, shape, times=times, patches=patches)
    key = torch.tensor([record.key for record in batch.records], dtype=torch.int64)
    frames = torch.zeros(len(key), 0, backbone.dim) if seen.frames is None else seen.frames.float().cpu()
    pooled = None if seen.pooled is None else seen.pooled.float().cpu()
    each = None if seen.patches is None else seen.patches.float().cpu()
    return VideoFeatures(key, frames, batch.real.sum(1), batch.ts, pooled, each)


def clip_features(
    backbone: Backbone,
    pixels: Tensor,
    real: Tensor,
    shape: str,
    *,
    times: Tensor | None = None,
    patches: bool = False,
) -> VideoOut:
    """Return what the backbone yields of uint8 clips [V, F, 3, S, S]; gradients flow. shape: as in `encode_batch`.

    times: [V, F] seconds since each clip begins; only a backbone that is `timed` needs them. patches: those of frames
    too, of a backbone that provides them.
    """
    if patches:
        return VideoOut(*_frames_and_patches(backbone, pixels, real, shape))
    if "video.pooled" in backbone.provides:
        return _whole_clips(backbone, pixels, real, times)
    return VideoOut(_frame_features(backbone, pixels, real, shape), None)


def _whole_clips(backbone: Backbone, pixels: Tensor, real: Tensor, times: Tensor | None) -> VideoOut:
    """Encode clips by an encoder that mixes their frames: each full, the nearest frame standing where one is missing.

    A clip has as many frames as the encoder takes, or its own where any number will do, never more because of its
    neighbours in a batch. Raises ValueError where it has more frames than the encoder takes.
    """
    counts = real.sum(1).clamp(min=1)  # of a clip without a frame the black slot 0: nothing uses its vector
    wanted = counts if backbone.about.frames is None else torch.full_like(counts, backbone.about.frames)
    if bool((counts > wanted).any()):
        raise ValueError(f"expected clips of {backbone.about.frames} frames at most, found {int(counts.max())}")
    pooled: list[Tensor | None] = [None] * len(real)
    frames: list[Tensor | None] = [None] * len(real)
    for slots in wanted.unique().tolist():
        clips = (wanted == slots).nonzero()[:, 0]
        shown = (2 * torch.arange(slots, device=real.device) + 1) * counts[clips, None] // (2 * slots)  # [n, slots]
        full = pixels[clips[:, None], shown], torch.ones_like(shown, dtype=torch.bool)
        if backbone.about.timed and times is not None:
            out = backbone.encode_video(*full, times[clips[:, None], shown])
        else:
            out = backbone.encode_video(*full)
        for i, clip in enumerate(clips.tolist()):
            pooled[clip] = None if out.pooled is None else out.pooled[i]
            if out.frames is not None:  # of each frame that there is: where it is shown first
                own = out.frames.new_zeros(real.shape[1], out.frames.shape[-1])
                n = int(real[clip].sum())
                own[:n] = out.frames[i, torch.searchsorted(shown[i], torch.arange(n, device=real.device))]
                frames[clip] = own
    return VideoOut(_stacked(frames), _stacked(pooled))


def _stacked(rows: Sequence[Tensor | None]) -> Tensor | None:
    there = [row for row in rows if row is not None]
    return torch.stack(there) if there else None


def _frame_features(backbone: Backbone, pixels: Tensor, real: Tensor, shape: str) -> Tensor:
    """Return features [V, F, D] of frames."""
    if shape == "fixed":
        return backbone.encode_frames(pixels, real)
    encoded = backbone.encode_frames(pixels[real][None], real.new_ones(1, int(real.sum())))[0]
    frames = encoded.new_zeros(*real.shape, encoded.shape[-1])
    frames[real] = encoded
    return frames


def _frames_and_patches(backbone: Backbone, pixels: Tensor, real: Tensor, shape: str) -> tuple[Tensor, None, Tensor]:
    """Return frames [V, F, D] and their patches [V, F, P, D] as `VideoOut` has them."""
    if shape == "fixed":
        frames, patches = backbone.encode_patches(pixels, real)
        return frames, None, patches
    some = backbone.encode_patches(pixels[real][None], real.new_ones(1, int(real.sum())))
    frames, patches = (x[0].new_zeros(*real.shape, *x.shape[2:]) for x in some)
    frames[real], patches[real] = some[0][0], some[1][0]
    return frames, None, patches


def caption_features(
    backbone: EncodesText, ids: Tensor, n_tokens: Tensor, plan: WordPlan
) -> tuple[Tensor, Tensor | None]:
    """Return pooled [T, D] and tokens [T, L, D] (None if the backbone has none) of ids [T, L]; gradients flow."""
    used = ids if plan.shape == "fixed" else ids[:, : max(1, int(n_tokens.max()))]
    pooled, tokens = backbone.encode_text(used.to(backbone.device))
    return pooled.float(), None if tokens is None else _to_plan(tokens.float(), n_tokens.to(tokens.device), plan)


def _captions(backbone: EncodesText, texts: Sequence[str], plan: WordPlan, importance: str) -> TextFeatures:
    ids, n_tokens = backbone.tokenize(texts, plan.length)
    marks = word_importance.mark(cast(Backbone, backbone), texts, n_tokens, plan.length, importance)
    pooled, tokens = caption_features(backbone, ids, n_tokens, plan)
    key = torch.tensor([caption_key(text) for text in texts], dtype=torch.int64)
    return TextFeatures(key, pooled.cpu(), None if tokens is None else tokens.cpu(), n_tokens, marks)


def _to_plan(tokens: Tensor, n_tokens: Tensor, plan: WordPlan) -> Tensor:
    if plan.shape == "fixed":
        return tokens
    out = tokens.new_zeros(len(tokens), plan.length, tokens.shape[-1])
    out[:, : tokens.shape[1]] = tokens
    return out * (torch.arange(plan.length, device=tokens.device)[None, :, None] < n_tokens[:, None, None])
