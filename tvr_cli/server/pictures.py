"""The picture of a second: the frame that the workspace has nearest to it. No video is opened for it."""

from __future__ import annotations

import threading

import numpy as np

from tvr_cli.errors import DataError
from tvr_cli.stores.frames.records import ClipRecord
from tvr_cli.workspace import Workspace


class Pictures:
    """JPEG frames by file and second. Threads may share it."""

    def __init__(self, workspace: Workspace):
        self._workspace = workspace
        self._reading = threading.Lock()
        self._known: tuple[str, dict[str, list[ClipRecord]]] = ("", {})

    def at(self, video_id: str, second: float) -> bytes:
        """Return the frame nearest to a second. Raises DataError where the workspace has none of the file."""
        with self._reading:
            store = self._workspace.frames()
            content = store.content_hash()
            if self._known[0] != content:
                clips: dict[str, list[ClipRecord]] = {}
                for record in store.records:
                    clips.setdefault(record.file_id, []).append(record)
                self._known = (content, clips)
            clips_of = self._known[1].get(video_id)
            if not clips_of:
                raise DataError(f"the workspace has no frames of {video_id!r}")
            nearest = min(clips_of, key=lambda clip: _away(clip, second))
            frames = next(store.read([nearest.id]))
            return frames.jpegs[int(np.abs(frames.ts - second).argmin())]


def _away(clip: ClipRecord, second: float) -> float:
    """Return how far a second is from the middle of a clip, of those that have it, else from the clip."""
    start, end = clip.span
    inside = start <= second <= end
    return abs((start + end) / 2 - second) / 1e6 if inside else min(abs(start - second), abs(end - second))
