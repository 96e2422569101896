"""DMAE and WTI behind their GEMM, compiled by numba: one pass over a tile's table, captions along the lanes.

The formulas and the tiles are those of `folded.py`. The best frame of a word and what its neighbour adds are kept
together while the frames are gone through, so no index is ever looked up.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tvr_kernels.compiled import array, filled, put_transposed, supported
from tvr_kernels.dmae import DmaeOptions
from tvr_kernels.dmae.folded import by_length
from tvr_kernels.gemm import matmul
from tvr_kernels.vectors import LANES, jit, load, maximum, splat, store, where_greater

_ZERO, _HALF = np.float32(0.0), np.float32(0.5)


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: DmaeOptions) -> tuple[bool, str]:
    """Return (can run, why)."""
    return supported({**text, **{f"video {k}": x for k, x in video.items()}}, video["frames"].shape[1])


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: DmaeOptions) -> Tensor:
    """Return [T, V] fp32; see the package for the inputs."""
    with torch.no_grad():
        return by_length(_tile, text, video, weights)


def _tile(text: Mapping[str, Tensor], video: Mapping[str, Tensor], options: DmaeOptions) -> Tensor:
    """Score a tile, [T, V]."""
    captions, text = len(text["rows"]), filled(text)
    rows, frames = text["rows"].transpose(0, 1), video["frames"]  # [L, T, D], [V, F, D]
    shape = (*frames.shape[:2], *rows.shape[:2])
    table = matmul(frames.flatten(0, 1), rows.flatten(0, 1).T).view(shape)  # [V, F, L, T]
    weight, bias = text["weight"].T, torch.zeros_like(video["weight"])
    of_rows, closeness = torch.zeros(rows.shape[:2]), torch.zeros_like(bias)
    if options.mask_padding:
        of_rows, bias = text["bias"].T, video["bias"]
    neighbour = torch.zeros(frames.shape[:2], dtype=torch.long)
    if options.neighbours:
        closeness, neighbour = video["closeness"], video["neighbour"]
    out = torch.empty(rows.shape[1], len(frames))
    _epilogue(
        *(array(x) for x in (table, weight, of_rows, text["floor"])),
        *(array(x) for x in (video["weight"], bias, closeness, neighbour)),
        *(options.sentence, options.words, out.numpy()),
    )
    return out[:captions]


@jit
def _epilogue(table, row_weight, row_bias, floor, frame_weight, frame_bias, closeness, neighbour, sentence, words, out):
    """Fill out [T, V] from table [V, F, L, T]; of rows [L, T], of captions [T], of clips [V, F].

    row_bias and frame_bias: 0, or -inf where a slot may not win.
    """
    V, F, L, T = table.shape
    per_frame, rows = np.empty((F, LANES), np.float32), np.empty((V, LANES), np.float32)
    scale = _HALF / np.float32(np.int64(sentence) + np.int64(words))
    for block in range(0, T, LANES):
        first = min(block, T - LANES)  # the last block overlaps the one before
        for v in range(V):
            for f in range(F):
                store(per_frame, (f, 0), splat(np.float32(-np.inf)))
            score = splat(_ZERO)
            for row in range(L):
                best, beside = splat(np.float32(-np.inf)), splat(_ZERO)
                of_row = load(row_bias, (row, first))
                alone = sentence and row == 0
                for f in range(F):
                    x = load(table, (v, f, row, first))
                    if alone:
                        score = score + x * frame_weight[v, f]
                    else:
                        store(per_frame, (f, 0), maximum(load(per_frame, (f, 0)), x + of_row))
                    if frame_bias[v, f] == _ZERO:
                        near = load(table, (v, neighbour[v, f], row, first)) * (_HALF * closeness[v, f])
                        beside = where_greater(x, best, near, beside)
                        best = maximum(x, best)
                score = score + (best + beside) * load(row_weight, (row, first))
            if words:
                for f in range(F):
                    score = score + maximum(load(per_frame, (f, 0)), load(floor, (first,))) * frame_weight[v, f]
            store(rows, (v, 0), score * scale)
        put_transposed(rows, first, out)
