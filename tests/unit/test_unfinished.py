"""A video that Ctrl-C finds half read: what was decoded is kept, and the next run makes of it what one run makes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import videos
from processes import WATCHDOG_S
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.plans import FramePlan
from tvr_cli.stores.decoding import sample as sampling
from tvr_cli.stores.decoding.room import Room
from tvr_cli.stores.decoding.sample import Sampled, Task, sample
from tvr_cli.stores.decoding.types import Place, Stop
from tvr_cli.stores.frames import unfinished
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.stores.frames.unfinished import Unfinished
from tvr_cli.stores.frames.windows import Segmenting, Span

PLAN = FramePlan("uniform", num_frames=3, size=48)
WINDOWS = Segmenting(2.0, 0.5, 2.0)
TESTS = Path(__file__).parent.parent


def stopped(task: Task, after: int) -> Unfinished:
    """Return what a reading leaves that is stopped when so many packets were decoded."""
    decoded = 0

    def beat(at: Place | Room | None = None, /) -> None:
        nonlocal decoded
        decoded += isinstance(at, Place) and at.doing == "decoded"
        if decoded == after:
            raise Stop

    with pytest.raises(Stop) as caught:
        sample(task, beat)
    assert isinstance(caught.value.part, Unfinished)
    return caught.value.part


def kept(task: Task, folder: Path, after: int) -> Task:
    """Stop a reading, and return the task that goes on with it."""
    path = folder / unfinished.name_of(task.path, task.track)
    path.write_bytes(unfinished.pack(stopped(task, after)))
    return dataclasses.replace(task, unfinished=path)


def about(task: Task) -> dict[str, Any]:
    """Return what the pictures of a task's file depend on now."""
    return sampling._about(task, sampling.stamp(task.path) or (0, 0, 0, 0))


def plain(found: Sampled) -> Any:
    """Return a result as something that compares."""
    clips = [(c.span, c.jpegs, c.ts.tolist(), c.damaged, c.reason) for c in found.clips]
    return clips, dataclasses.replace(found, clips=[])


def film(folder: Path, kind: str) -> Path:
    if kind == "damaged":
        path = videos.make_video(folder / "film.mpg", 300, fps=30, size=(64, 48), codec="mpeg2video", gop=12)
        data = bytearray(path.read_bytes())
        data[len(data) // 3 : len(data) // 3 + 400] = bytes(i * 37 % 256 for i in range(400))
        path.write_bytes(bytes(data))
        return path
    codec, frames = {"mp4": ("libx264", 2), "avi": ("mpeg4", 2), "webm": ("libvpx", 0)}[kind]
    return videos.make_video(folder / f"film.{kind}", 300, fps=30, size=(64, 48), codec=codec, bframes=frames)


@pytest.mark.parametrize("kind", ["mp4", "avi", "webm", "damaged"])
def test_a_reading_that_goes_on_gives_what_an_undisturbed_one_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    task = Task(film(tmp_path, kind), PLAN, segmenting=WINDOWS)
    whole = sample(task)
    again = kept(task, tmp_path, 450 if kind == "avi" else 90)  # of AVI, all 300 are decoded once to know their times
    encoded, encode = [0], sampling.encode_jpeg

    def counting(pixels: np.ndarray, quality: int) -> bytes:
        encoded[0] += 1
        return encode(pixels, quality)

    monkeypatch.setattr(sampling, "encode_jpeg", counting)
    assert plain(sample(again)) == plain(whole)
    every = sum(len(clip.jpegs) for clip in whole.clips)
    assert 0 < encoded[0] < every if kind != "damaged" else sum(clip.damaged for clip in whole.clips)


@pytest.mark.parametrize(("kind", "alike"), [("mp4", None), ("damaged", 40.0)])
@pytest.mark.parametrize("after", [1, 30, 90])
def test_frames_by_time_go_on_from_where_they_were_stopped(
    tmp_path: Path, kind: str, alike: float | None, after: int
) -> None:
    """Which frames are kept depends on those before them, and these are seen again."""
    plan = FramePlan("timeline", fps=10.0, num_frames=3, size=48, alike=alike)
    task = Task(film(tmp_path, kind), plan, segmenting=WINDOWS)
    whole, again = sample(task), sample(kept(task, tmp_path, after))
    assert whole.timeline is not None and again.timeline is not None
    assert 3 < len(whole.timeline.jpegs) <= (100 if alike is None else 99)
    assert list(again.timeline.jpegs) == list(whole.timeline.jpegs)
    assert np.array_equal(again.timeline.ts, whole.timeline.ts)
    assert np.array_equal(again.timeline.change, whole.timeline.change, equal_nan=True)
    slots = [[None if c.slots is None else list(c.slots) for c in found.clips] for found in (whole, again)]
    assert slots[0] == slots[1] and [c.damaged for c in again.clips] == [c.damaged for c in whole.clips]


def test_frames_by_time_of_other_spans_are_not_gone_on_with(tmp_path: Path) -> None:
    """A line may have left the manifest, and its frames are none of what the others share."""
    plan = FramePlan("timeline", fps=10.0, num_frames=3, size=48)
    both = Task(film(tmp_path, "mp4"), plan, spans=(Span(0.0, 2.0), Span(6.0, 8.0)))
    late = dataclasses.replace(kept(both, tmp_path, 60), spans=(Span(6.0, 8.0),))
    again, whole = sample(late), sample(dataclasses.replace(late, unfinished=None))
    assert again.timeline is not None and whole.timeline is not None
    assert again.timeline.ts.tolist() == whole.timeline.ts.tolist()
    assert [clip.slots for clip in again.clips] == [clip.slots for clip in whole.clips]


def test_it_may_be_stopped_again_and_again(tmp_path: Path) -> None:
    task = Task(film(tmp_path, "mp4"), PLAN, segmenting=WINDOWS)
    again, held = task, []
    for _ in range(3):
        again = kept(again, tmp_path, 60)
        held.append(len(stopped(again, 1).jpegs))
    assert held == sorted(set(held)) and plain(sample(again)) == plain(sample(task))


@pytest.mark.parametrize("change", ["touched", "quality", "track", "flipped", "cut", "absent"])
def test_what_is_of_another_file_or_plan_or_is_damaged_is_not_used(tmp_path: Path, change: str) -> None:
    task = Task(film(tmp_path, "mp4"), PLAN, segmenting=WINDOWS)
    again = kept(task, tmp_path, 90)
    place = again.unfinished
    assert place is not None and unfinished.read(place, about(again))
    data = bytearray(place.read_bytes())
    if change == "touched":
        os.utime(task.path, ns=(1, 1))
    if change == "quality":
        again = dataclasses.replace(again, plan=dataclasses.replace(PLAN, quality=50))
    if change == "track":
        again = dataclasses.replace(again, track=0)
    if change == "flipped":
        data[-1] ^= 1
        place.write_bytes(bytes(data))
    if change == "cut":
        place.write_bytes(bytes(data[:-1]))
    if change == "absent":
        place.unlink()
    assert unfinished.read(place, about(again)) is None
    assert plain(sample(again)) == plain(sample(dataclasses.replace(again, unfinished=None)))


def test_a_file_that_changed_before_the_stop_leaves_nothing(tmp_path: Path) -> None:
    task = Task(film(tmp_path, "mp4"), PLAN)

    def beat(at: Place | Room | None = None, /) -> None:
        if isinstance(at, Place) and at.doing == "decoded":
            os.utime(task.path, ns=(1, 1))
            raise Stop

    with pytest.raises(Stop) as caught:
        sample(task, beat)
    assert caught.value.part is None


# --------------------------------------------------------------------------------------------------------- the command


def words(film: Path, out: Path) -> list[str]:
    return ["extract-frames", str(film), "-o", str(out), "--num-frames", "3", "--size", "48", "--segment", "2/0.5"]


def interrupted(film: Path, out: Path, signal_number: int = signal.SIGINT) -> subprocess.CompletedProcess[str]:
    """Run `tvr extract-frames` on a film and stop it with a signal in the middle."""
    resting = out.parent / "resting"
    code = (
        "import sys, resting_reader\nfrom tvr_cli.engine.extraction import extract\n"
        "extract.sample = resting_reader.sample_and_rest\nfrom tvr_cli.cli import main\nsys.argv[0] = 'tvr'\nmain()"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "REST_AFTER": "150", "RESTING": str(resting)}
    command = [sys.executable, "-c", code, *words(film, out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    while not resting.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal_number) if signal_number == signal.SIGINT else process.send_signal(signal_number)
    _, error = process.communicate(timeout=WATCHDOG_S)
    return subprocess.CompletedProcess(command, process.returncode, "", error)


def frames_of(out: Path) -> list[tuple[str, list[bytes], list[float], int]]:
    store = FrameStore.open(out / "frames")
    read = store.read([record.id for record in store.records])
    return [(f.record.id, f.jpegs, f.ts.tolist(), f.record.key) for f in read]


def test_ctrl_c_in_a_long_film_keeps_what_was_decoded_and_the_next_run_completes_it(tmp_path: Path) -> None:
    path, out, whole = film(tmp_path, "mp4"), tmp_path / "out", tmp_path / "whole"
    ended = interrupted(path, out)
    assert ended.returncode == 130 and "0 of 1 videos are saved" in ended.stderr, ended.stderr
    assert "and what was read of 1 more; continue with: tvr extract-frames" in ended.stderr
    (part,) = unfinished.kept(out / "frames")
    assert len(FrameStore.open(out / "frames")) == 0
    assert CliRunner().invoke(app, ["doctor", str(out)]).exit_code == 0
    assert CliRunner().invoke(app, words(path, out)).exit_code == 0
    assert unfinished.kept(out / "frames") == set(), part
    assert CliRunner().invoke(app, words(path, whole)).exit_code == 0
    assert frames_of(out) == frames_of(whole)
    assert [p.name for p in (out / "frames").glob("*.safetensors")] == [
        p.name for p in (whole / "frames").glob("*.safetensors")
    ]  # a shard is named after its bytes


def test_overwrite_drops_what_was_kept(tmp_path: Path) -> None:
    path, out = film(tmp_path, "mp4"), tmp_path / "out"
    assert interrupted(path, out, signal.SIGTERM).returncode == 130 and unfinished.kept(out / "frames")
    assert CliRunner().invoke(app, [*words(path, out), "--overwrite"]).exit_code == 0
    assert unfinished.kept(out / "frames") == set() and frames_of(out)
