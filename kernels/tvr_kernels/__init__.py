"""Scores of every caption with every clip without pair tensors: one folder an op, the same files in each.

Ops: `text_pooling`, `xpool`, `gare`, `glccl`, `tcmgc`, `dmae`, `eaglenet`, `wti`, `xclip`. Each has `text_side`,
`video_side` (what one item alone decides) and `score` (the pair part, `[T, V]`). `reference.py` is the equation and the
test oracle, `folded.py` the exact algebraic form, `compiled.py` (optional, numba) and `triton_impl.py` (CUDA) are fused
forms of it; `_dispatch` chooses between them. The algebra is derived in `kernels/README.md`. Nothing here imports
`tvr_cli`.
"""

from __future__ import annotations

from tvr_kernels._dispatch import KernelUnavailable, job

OPS = ("text_pooling", "xpool", "gare", "glccl", "tcmgc", "dmae", "eaglenet", "wti", "xclip")

__all__ = ["OPS", "KernelUnavailable", "job"]
