"""Whoever leaves a server while something is made for it ends that, and nobody asks for more than is reasonable."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import resting_task
import small_library
from starlette.testclient import TestClient
from videos import make_video

from tvr_cli import errors
from tvr_cli.data.demo_world.corpus import WorldOptions
from tvr_cli.engine.showing.clips import ClipOptions, save_clips
from tvr_cli.results.found import Answer, Hit, QueryReport
from tvr_cli.server import running, streams, taking
from tvr_cli.server.app import create_app
from tvr_cli.server.encoders import Encoders
from tvr_cli.server.guard import Rules
from tvr_cli.server.library import Library, Named
from tvr_cli.server.limits import ALL_CLIPS_S, LONGEST_CLIP_S
from tvr_cli.stores.decoding.types import Stop
from tvr_cli.workspace import Workspace

HERE = "http://127.0.0.1:8765"
ONE = {"video_id": "test/00000.mp4", "start": 0, "end": 1, "peak": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_library.library(tmp_path_factory.mktemp("left"), WorldOptions(train=1, val=1, test=1, captions=1))


@pytest.fixture(scope="module")
def client(place: Path) -> Iterator[TestClient]:
    made = create_app(Library(Workspace(place / "out"), Named()), Rules(running.hosts_of("127.0.0.1"), 8765))
    with TestClient(made, base_url=HERE, raise_server_exceptions=False) as client:
        yield client


# -------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (0, 1e9, "at most 3600 seconds, found one of 1e+09"),
        (0, LONGEST_CLIP_S + 1, "tvr query with --save-clips"),
        (1e9, 1e9 + 1, "'test/00000.mp4', which ends at"),
        (1e300, 2e300, "which ends at"),
    ],
)
def test_a_clip_of_absurd_seconds_is_refused(client, start, end, words):
    video = ONE["video_id"]
    for said in (
        client.get("/api/clip", params={"video": video, "start": start, "end": end}),
        client.post("/api/clips", json={"moments": [ONE, ONE | {"start": start, "end": end}]}),
    ):
        assert said.status_code == 400 and words in said.json()["error"], said.text


def test_a_moment_whose_end_is_a_little_beyond_the_file_is_cut_up_to_it(client):
    said = client.get("/api/clip", params={"video": ONE["video_id"], "start": 0, "end": LONGEST_CLIP_S})
    assert said.status_code == 200 and b"moov" in said.content


def test_clips_that_are_too_long_together_are_refused_and_none_is_saved(client, place):
    fits = int(ALL_CLIPS_S // LONGEST_CLIP_S)
    moments = [ONE | {"end": LONGEST_CLIP_S}] * fits
    said = client.post("/api/clips", json={"moments": [*moments, ONE]})
    assert said.status_code == 400
    assert said.json()["error"] == (
        "expected moments of at most 14400 seconds together, found 14401; choose fewer at a time"
    )
    said = client.post("/api/clips", json={"moments": moments, "pad": 1})
    assert said.status_code == 400 and "found 14408" in said.json()["error"]
    assert not (place / "out" / "clips").exists()


def test_a_moment_beyond_the_end_of_its_file_is_in_no_timeline(client):
    said = client.post("/api/timeline", json={"moments": [ONE | {"start": 1e300, "end": 2e300}], "form": "csv"})
    assert said.status_code == 400
    assert said.json()["error"] == (
        "expected a moment of 'test/00000.mp4', which ends at 4 seconds, found 1e+300 to 2e+300"
    )


# ------------------------------------------------------------------------------------------------------------- leaving


def is_there(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def until(true: Callable[[], bool]) -> None:
    last = time.monotonic() + 60
    while not true():
        assert time.monotonic() < last
        time.sleep(0.05)


@pytest.fixture
def served(place: Path) -> Iterator[int]:
    """The port of a server whose requests come by real connections."""
    uvicorn = pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as line:
        port = line.getsockname()[1]
        made = create_app(Library(Workspace(place / "out"), Named()), Rules(running.hosts_of("127.0.0.1"), port))
        server = uvicorn.Server(uvicorn.Config(made, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [line]}, daemon=True)
        thread.start()
        yield port
        server.should_exit = True
        thread.join(30)


@pytest.mark.parametrize(
    ("method", "address", "body"),
    [
        ("GET", "/api/clip?video=test/00000.mp4&start=0&end=1", None),
        ("POST", "/api/clips", '{"moments": [{"video_id": "test/00000.mp4", "start": 0, "end": 1, "peak": 0}]}'),
    ],
)
def test_who_leaves_ends_what_is_cut_for_it(served, tmp_path, monkeypatch, method, address, body):
    resting = tmp_path / "resting"
    monkeypatch.setenv("RESTING", str(resting))
    monkeypatch.setattr(taking, "_cut", resting_task.rest)
    asking = http.client.HTTPConnection("127.0.0.1", served, timeout=60)
    asking.request(method, address, body, {"content-type": "application/json"} if body else {})
    until(lambda: resting.exists() and resting.read_text() != "")
    process = int(resting.read_text())
    assert is_there(process)
    asking.close()
    until(lambda: not is_there(process))


def test_who_leaves_before_the_first_picture_ends_what_is_transcoded(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "_LOOK_S", 0.05)
    film = tmp_path / "film.mp4"
    os.mkfifo(film)  # who opens it waits for ever
    encoders = Encoders(at_once=1, wait_s=0.01)
    started: list[Any] = []
    start = asyncio.create_subprocess_exec

    async def noted(*words: Any, **how: Any) -> Any:
        started.append(await start(*words, **how))
        return started[0]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    looks = iter([False, False, True])

    async def gone() -> bool:
        return next(looks)

    with pytest.raises(errors.Interrupted, match="who asked has gone"):
        asyncio.run(streams.Stream.open(film, 0.0, None, encoders, gone))
    assert started[0].returncode is not None and next(looks, None) is None
    with encoders.place():  # which is free again
        pass


def test_who_has_gone_while_it_waited_for_a_place_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(taking.DecodePool, "run", lambda *_, **__: pytest.fail("something was started"))
    made = taking.Taking(tmp_path, Encoders())
    report = QueryReport([Answer.of("a dog", [Hit(1, 1.0, "a.mp4", str(tmp_path / "a.mp4"), 0.0, 1.0, 0.0)], None)])
    for act in (
        lambda: made.save(report, 0.0, lambda: True),
        lambda: made.clip(report, 0.0, lambda: True),
        lambda: made.timeline(report, "csv", lambda: True),
    ):
        with pytest.raises(errors.Interrupted, match="who asked has gone"):
            act()


def test_a_clip_that_is_ended_while_it_is_written_leaves_nothing(tmp_path):
    film = make_video(tmp_path / "a.avi", 200, codec="mpeg2video")  # is encoded again, packet by packet
    target = tmp_path / "clips"
    report = QueryReport([Answer.of("a dog", [Hit(1, 1.0, "a.avi", str(film), 0.0, 6.0, 0.0)], None)])
    seen: list[list[str]] = []

    def beat(*_: object) -> None:
        seen.append([path.name for path in target.iterdir()])
        if seen[-1] and len(seen) > 250:
            raise Stop

    with pytest.raises(Stop):
        save_clips(report, target, ClipOptions(), beat)
    assert seen[-1][0].startswith("001_a_0m00s.mp4.") and not list(target.iterdir())
