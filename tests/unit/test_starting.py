"""What a tiny file costs is nothing but starting: it is opened once, and its pictures start no threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import videos

from tvr_cli.plans import FramePlan
from tvr_cli.stores.decoding import look
from tvr_cli.stores.decoding.choose import decoder_versions
from tvr_cli.stores.decoding.sample import Task, sample
from tvr_cli.stores.frames.windows import AUTO


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx"), ("a.mkv", "libx264")])
def test_a_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str) -> None:
    path = videos.make_video(tmp_path / name, 6, size=(64, 48), fps=10, codec=codec)
    opened, open_ = [0], av.open

    def counting(*args: Any, **more: Any) -> Any:
        opened[0] += 1
        return open_(*args, **more)

    monkeypatch.setattr(av, "open", counting)
    (clip,) = sample(Task(path, FramePlan("uniform", num_frames=4, size=48), segmenting=AUTO)).clips
    assert (len(clip.jpegs), opened[0]) == (4, 1)


@pytest.mark.parametrize("size", [(64, 48), (333, 241), (1280, 722)])
def test_one_thread_makes_the_picture_that_many_make(size: tuple[int, int]) -> None:
    frame = av.VideoFrame.from_ndarray(videos.barcode(5, *size), format="rgb24").reformat(format="yuv444p")
    one = look.pixels_of(frame, "coded", None)
    assert np.array_equal(one, frame.to_ndarray(format="rgb24"))


def test_what_is_installed_is_looked_for_once() -> None:
    assert decoder_versions() is decoder_versions()
