"""WTI as its equations: the word branch of DMAE's reference."""

from tvr_kernels.dmae.reference import score

__all__ = ["score"]
