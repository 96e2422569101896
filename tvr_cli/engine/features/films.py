"""Encoding films: each frame of a timeline once, and the clips that are views of it from the same vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from tvr_cli.backbones.base import Backbone
from tvr_cli.engine.features.frame_batches import ahead
from tvr_cli.engine.features.frame_loader import seen
from tvr_cli.log import progress
from tvr_cli.plans import FeaturePlan, FramePlan, PrecomputeOptions
from tvr_cli.stores.features.films import FilmFeatures, film_row_key
from tvr_cli.stores.features.store import clip_row_key
from tvr_cli.stores.features.writer import FeatureWriter
from tvr_cli.stores.frames.store import Film, FrameStore, StoredClip
from tvr_cli.stores.frames.windows import on_screen
from tvr_cli.types import VideoFeatures, View

_BYTES = 64_000_000  # of a shard; what may be lost when a run is stopped
_ROWS = 128


def has_films(plan: FramePlan, provides: frozenset[str], options: PrecomputeOptions) -> bool:
    """Whether features of such frames are those of films: not where clips are wanted whole, or with their patches."""
    of_clips = options.temporal_shift or options.patches
    return plan.has_timelines and "frames" in provides and "video.pooled" not in provides and not of_clips


def lacking(frames: FrameStore, films: set[str], clips: set[str]) -> list[Film]:
    """Return the films that have to be encoded, each content once. films, clips: the keys of rows that are there."""
    found = {
        film.key: film
        for film in reversed(frames.films())
        if not row_keys([film]) <= films or not {_row_key(clip) for clip in film.clips} <= clips
    }
    return list(reversed(found.values()))


def row_keys(films: Iterable[Film]) -> set[str]:
    """Return what finds the features of films."""
    return {film_row_key(part.key) for film in films for part in film.parts}


def encode_films(
    writer: FeatureWriter,
    model: Backbone,
    frames: FrameStore,
    films: Sequence[Film],
    plan: FeaturePlan,
    *,
    dtype: torch.dtype,
    batch: int,
) -> None:
    """Encode films and write them, and the clips that the store lacks. batch: frames a forward pass."""
    there, films_there = writer.keys("video"), writer.keys("timeline")
    view, empty = model.about.view, None  # empty: what a slot without a frame holds
    if plan.shape == "fixed":
        nothing = torch.zeros(1, 1, 3, view.size, view.size, dtype=torch.uint8, device=model.device)
        missing = torch.zeros(1, 1, dtype=torch.bool, device=model.device)
        empty = model.encode_frames(nothing, missing)[0, 0].float().cpu()
    waiting: list[FilmFeatures] = []
    views: list[tuple[StoredClip, VideoFeatures]] = []
    with progress("encoding frames", total=frames.count_frames(films), unit="frames") as bar:
        for film in films:
            timeline = frames.timeline(film)
            chunks = [timeline.jpegs[i : i + batch] for i in range(0, len(timeline.jpegs), batch)]
            encoded = []
            for pixels in ahead(chunks, lambda chunk: _pixels(chunk, frames.plan, view)):
                real = torch.ones(1, len(pixels), dtype=torch.bool, device=model.device)
                encoded.append(model.encode_frames(pixels.to(model.device)[None], real)[0].float().cpu())
                bar.advance(len(pixels))
            ts = torch.from_numpy(timeline.ts)
            change = torch.full((len(ts),), torch.nan) if timeline.change is None else torch.from_numpy(timeline.change)
            found = FilmFeatures(film.key, torch.cat(encoded), ts, change)
            for part in film.parts:
                if (key := film_row_key(part.key)) not in films_there:
                    films_there.add(key)
                    waiting.append(_part(found, part))
            for clip in film.clips:
                if (key := _row_key(clip)) not in there:
                    there.add(key)
                    views.append((clip, _view(found, clip, plan.slots, empty)))
            if sum(f.frames.nbytes for f in waiting) > _BYTES or len(waiting) + len(views) >= _ROWS:
                _write(writer, waiting, views, dtype)
                waiting, views = [], []
    _write(writer, waiting, views, dtype)


def _write(
    writer: FeatureWriter,
    films: Sequence[FilmFeatures],
    views: Sequence[tuple[StoredClip, VideoFeatures]],
    dtype: torch.dtype,
) -> None:
    if films:
        writer.add_films(films, dtype)
    if views:
        writer.add_video([_row_key(clip) for clip, _ in views], _cat([video for _, video in views]), dtype)


def _row_key(clip: StoredClip) -> str:
    return clip_row_key(clip.record.key, clip.record.n_frames)


def _pixels(jpegs: Sequence[bytes], plan: FramePlan, view: View) -> Tensor:
    """Return what an encoder sees of frames: [n, 3, S, S] uint8."""
    return torch.stack([torch.from_numpy(seen(data, plan, view).copy()).permute(2, 0, 1) for data in jpegs])


def _part(film: FilmFeatures, part: Film) -> FilmFeatures:
    """Return the frames of a film that are on screen in some of its clips."""
    ts, numbers = film.ts.numpy(), np.arange(len(film.ts))
    at = np.unique(np.concatenate([numbers[on_screen(ts, *span)] for span in part.spans]))
    return FilmFeatures(part.key, film.frames[at], film.ts[at], film.change[at])


def _view(film: FilmFeatures, clip: StoredClip, slots: int | None, empty: Tensor | None) -> VideoFeatures:
    """Return a clip [1, F, D] of the frames that fill its slots. empty: [D] what stands in those without one."""
    at = torch.tensor(clip.slots, dtype=torch.int64)
    width = slots or len(at)
    frames = torch.zeros(width, film.frames.shape[1])
    if empty is not None:
        frames[:] = empty
    frames[: len(at)] = film.frames[at]
    ts = torch.zeros(width, dtype=torch.float64)
    ts[: len(at)] = film.ts[at]
    key, n = torch.tensor([clip.record.key]), torch.tensor([len(at)])
    return VideoFeatures(key, frames[None], n, ts[None])


def _cat(parts: Sequence[VideoFeatures]) -> VideoFeatures:
    width = max(part.ts.shape[1] for part in parts)

    def widened(x: Tensor) -> Tensor:
        out = x.new_zeros(1, width, *x.shape[2:])
        out[:, : x.shape[1]] = x
        return out

    return VideoFeatures(
        torch.cat([part.key for part in parts]),
        torch.cat([widened(part.frames) for part in parts]),
        torch.cat([part.n_frames for part in parts]),
        torch.cat([widened(part.ts) for part in parts]),
    )
