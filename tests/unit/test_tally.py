"""What an extraction counts is what it wrote: of one that the disk refused nothing is counted twice."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from videos import make_video

from tvr_cli.engine.extraction import extract
from tvr_cli.engine.extraction.extract import ExtractOptions, Tally
from tvr_cli.plans import FramePlan
from tvr_cli.stores.frames.writer import FrameWriter
from tvr_cli.workspace import Workspace


def test_videos_that_a_full_disk_kept_from_being_written_are_counted_when_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(3):
        make_video(tmp_path / "videos" / f"{number}.mp4", 12, size=(32, 32))
    workspace, plan, options = Workspace(tmp_path / "out"), FramePlan(num_frames=3), ExtractOptions(workers=1)
    add = FrameWriter.add

    def refused(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    full, then = Tally(), Tally()
    monkeypatch.setattr(FrameWriter, "add", refused)
    with pytest.raises(OSError):
        extract.extract([tmp_path / "videos"], workspace, plan, options, full)
    monkeypatch.setattr(FrameWriter, "add", add)
    report = extract.extract([tmp_path / "videos"], workspace, plan, options, then)
    assert (full.ok, full.clips, full.frames, full.size_bytes) == (0, 0, 0, 0)
    assert (then.ok, then.clips, then.frames) == (3, 3, 9)
    assert (report.ok, report.clips, report.frames) == (3, 3, 9) and report.size_bytes > 0
