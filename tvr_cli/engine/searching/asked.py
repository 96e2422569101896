"""What a command names to score with, and whether there is anything to score. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from tvr_cli.defaults import named_backbone
from tvr_cli.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Asked:
    """What was named to score with; None = whatever is there.

    first: the backbone whose clip vectors find the candidates, where that is another (`two_stores.py`).
    """

    run: str | None = None
    method: str | None = None
    backbone: str | None = None
    first: str | None = None


def require_library(workspace: Workspace, backbone: str | None) -> None:
    """Raise DataError where there are neither features, of `backbone` if named, nor frames to make them from."""
    if workspace.has_frames or workspace.newest_features_head(named_backbone(backbone)) is not None:
        return
    workspace.refuse_without_frames(
        f"expected frames or features in {str(workspace)!r} (an index goes with its features), found none"
    )
