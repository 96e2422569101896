"""The picture of a second: the frame that the workspace has nearest to it. No video is opened for it."""

from __future__ import annotations

import threading

from tvr_cli.errors import DataError
from tvr_cli.stores.frames.records import ClipRecord
from tvr_cli.workspace import Workspace


class Pictures:
    """JPEG frames by file and second. Threads may share it."""

    def __init__(self, workspace: Workspace):
        self._workspace = workspace
        self._reading = threading.Lock()

    def at(self, video_id: str, second: float) -> bytes:
        """Return the frame nearest to a second. Raises DataError where the workspace has none of the file."""
        with self._reading:
            store = self._workspace.frames()
            clips = store.clips_of([video_id]).get(video_id)
            if not clips:
                raise DataError(f"the workspace has no frames of {video_id!r}")
            return store.nearest(min(clips, key=lambda clip: _away(clip.record, second)), second)[1]


def _away(clip: ClipRecord, second: float) -> float:
    """Return how far a second is from the middle of a clip, of those that have it, else from the clip."""
    start, end = clip.span
    inside = start <= second <= end
    return abs((start + end) / 2 - second) / 1e6 if inside else min(abs(start - second), abs(end - second))
