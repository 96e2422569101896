"""WTI a tile at a time: DMAE's tiles, whose branches the options choose."""

from tvr_kernels.dmae.folded import score

__all__ = ["score"]
