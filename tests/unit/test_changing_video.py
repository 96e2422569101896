"""A video that is replaced while it is read: what is kept is of one file, and its hash is of the same one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import videos

from tvr_cli import files
from tvr_cli.plans import FramePlan
from tvr_cli.stores.decoding import sample as sampling
from tvr_cli.stores.decoding.pool import DecodePool, Unread
from tvr_cli.stores.decoding.sample import Sampled, Task, sample
from tvr_cli.stores.frames.store import decode_jpeg

PLAN = FramePlan(num_frames=2, size=64)


def numbers(found: Sampled) -> list[int]:
    return [videos.read_barcode(decode_jpeg(data)) for clip in found.clips for data in clip.jpegs]


def replaced_while_read(monkeypatch: pytest.MonkeyPatch, path: Path, others: list[Path]) -> None:
    """After pictures were read, and before the content is hashed, put the next of `others` in the place of `path`."""
    read = sampling._read

    def read_and_replace(*args: object) -> object:
        found = read(*args)  # type: ignore[arg-type]
        if others:
            shutil.copy(others.pop(0), path.with_name("new"))
            path.with_name("new").replace(path)
        return found

    monkeypatch.setattr(sampling, "_read", read_and_replace)


def test_a_video_replaced_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = videos.make_video(tmp_path / "old.mp4", 8), videos.make_video(tmp_path / "later.mp4", 60)
    path = Path(shutil.copy(old, tmp_path / "a.mp4"))
    replaced_while_read(monkeypatch, path, [new])
    found = sample(Task(path, PLAN))
    assert numbers(found) == [15, 45] and found.sha256 == files.sha256_file(new)
    assert found.stamp == files.stamp(path)


def test_a_video_that_never_stays_the_same_fails_for_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = videos.make_video(tmp_path / "a.mp4", 8)
    other = Path(shutil.copy(path, tmp_path / "b.mp4"))
    replaced_while_read(monkeypatch, path, [other] * 5)
    with pytest.raises(OSError, match="changed while it was read, 3 times"):
        sample(Task(path, PLAN))


def fail(task: str, beat: object) -> None:
    raise OSError("it changed while it was read, 3 times")


def test_such_a_video_may_succeed_at_another_try() -> None:
    with DecodePool(fail, workers=1, timeout_s=60.0) as pool:
        ((_, result),) = pool.run([("a.mp4", "a.mp4")])
    assert isinstance(result, Unread) and result.kind == "transient" and "changed while it was read" in result.reason
