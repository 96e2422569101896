"""The types of tensors on disk as torch calls them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DTYPES = {
    "bool": torch.bool, "uint8": torch.uint8, "int32": torch.int32, "int64": torch.int64, "float16": torch.float16,
    "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def tensor_of(rows: np.ndarray, dtype: str) -> Tensor:
    """Return a tensor over the memory of `rows`, an array of the type or (of bfloat16) of its bits."""
    found = torch.from_numpy(rows)
    return found if found.dtype == DTYPES[dtype] else found.view(DTYPES[dtype])
