"""WTI in one kernel: DMAE's, compiled for its word branch alone."""

from tvr_kernels.dmae.triton_impl import MAX_WORDS, VECTORS, launch, score, supports

__all__ = ["MAX_WORDS", "VECTORS", "launch", "score", "supports"]
