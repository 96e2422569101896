"""The encoders that ship with tvr, which know its toy world and nothing else: each a folder beside this file. No torch.

`scripts/train_demo_backbone.py` makes them; open_clip loads such a folder as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

# The name that a feature store's identity has for the first of them, and the demo's own.
DEMO_TINY = "demo-tiny"
_MARK = "open_clip_config.json"


@functools.cache
def folders() -> Mapping[str, Path]:
    """Return name -> folder: `demo-tiny` is the folder `demo_tiny`."""
    return {p.parent.name.replace("_", "-"): p.parent for p in sorted(Path(__file__).parent.glob(f"*/{_MARK}"))}


def is_toy(name: str) -> bool:
    """Whether an encoder came with tvr, by its name: one that knows the toy world only."""
    return name == DEMO_TINY or name in folders()
