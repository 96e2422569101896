"""WTI in one compiled pass: DMAE's, of its word branch alone."""

from tvr_kernels.dmae.compiled import score, supports

__all__ = ["score", "supports"]
