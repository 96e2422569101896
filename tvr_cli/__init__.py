"""tvr: text-video retrieval from the command line, and as four names for programs (docs/api.md).

    tvr_cli.open_workspace("out")                    the verbs of the command line as methods
    tvr_cli.evaluate(scores, video_of_caption)       metrics of any score matrix (numpy only)
    tvr_cli.load_method(workspace, run="glccl")      a trained method, ready to score
    tvr_cli.Index.open("out/index")                  what `tvr query` searches

Nothing heavy is imported before one of them is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvr_cli.version import __version__

__all__ = ["Index", "__version__", "evaluate", "load_method", "open_workspace"]

if TYPE_CHECKING:
    from tvr_cli.api import open_workspace
    from tvr_cli.engine.scorers import load_method
    from tvr_cli.metrics import evaluate
    from tvr_cli.stores.index.store import Index

_LAZY = {
    "open_workspace": "tvr_cli.api",
    "evaluate": "tvr_cli.metrics",
    "load_method": "tvr_cli.engine.scorers",
    "Index": "tvr_cli.stores.index.store",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
