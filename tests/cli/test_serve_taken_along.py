"""What comes out of a served library: clips, timelines for editors, and files as a browser can play them."""

from __future__ import annotations

import asyncio
import json
import re
import resource
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from served_library import HERE
from small_library import SENTENCE, files_of, tvr
from starlette.testclient import TestClient
from videos import decode_all

from tvr_cli import errors
from tvr_cli.results.found import QueryReport
from tvr_cli.server import running, streams
from tvr_cli.server.app import create_app
from tvr_cli.server.encoders import Encoders
from tvr_cli.server.guard import Rules
from tvr_cli.server.library import Library, Named
from tvr_cli.server.taking import Taking, chosen
from tvr_cli.workspace import Workspace

ONE = {"video_id": "test/00000.mp4", "start": 0, "end": 1, "peak": 0}


def moments_of(client: TestClient, k: int = 2) -> list[dict[str, Any]]:
    asked = {"q": SENTENCE, "k": k, "per_file": 1, "everything": True}
    found: list[dict[str, Any]] = client.get("/api/search", params=asked).json()["results"][0]["hits"]
    return found


def test_a_moment_comes_as_the_clip_that_the_command_saves(client, place, tmp_path):
    moment = moments_of(client, 1)[0]
    said = client.get("/api/clip", params={"video": moment["video_id"], "start": moment["start"], "end": moment["end"]})
    assert said.status_code == 200 and said.headers["content-type"] == "video/mp4"
    tvr("query", SENTENCE, "-k", 1, "--per-file", 1, "--all", "-o", place / "out", "--save-clips", tmp_path)
    (saved,) = tmp_path.iterdir()
    assert said.headers["content-disposition"] == f"attachment; filename*=UTF-8''{saved.name}"
    (tmp_path / "came.mp4").write_bytes(said.content)
    assert int(said.headers["content-length"]) == len(said.content)
    for ours, theirs in zip(decode_all(tmp_path / "came.mp4"), decode_all(saved), strict=True):
        assert (ours == theirs).all()


def test_chosen_moments_are_saved_in_the_folder_and_nothing_is_replaced(client, place):
    moments = moments_of(client)
    folder = place / "out" / "clips"
    assert client.get("/api/library").json()["clips"] == str(folder)
    said = client.post("/api/clips", json={"query": SENTENCE, "moments": moments})
    assert said.status_code == 200, said.text
    report = QueryReport.from_json(said.json(), "the answer")
    assert report.clips is not None and [clip.query for clip in report.clips.clips] == [SENTENCE] * 2
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(name[:4] for name in first) == ["001_", "002_"]
    client.post("/api/clips", json={"moments": moments[:1], "pad": 0.5})
    assert sorted(path.name[:4] for path in folder.iterdir()) == ["001_", "002_", "003_"]
    assert all((folder / name).read_bytes() == data for name, data in first.items())


@pytest.mark.parametrize("form", ["otio", "xml", "edl", "fcpxml", "csv"])
def test_chosen_moments_come_as_what_the_command_exports(client, place, tmp_path, form):
    said = client.post("/api/timeline", json={"query": SENTENCE, "moments": moments_of(client), "form": form})
    assert said.status_code == 200, said.text
    assert said.headers["content-disposition"].endswith(f"moments.{form}")
    made = tmp_path / f"moments.{form}"
    tvr("query", SENTENCE, "-k", 2, "--per-file", 1, "--all", "-o", place / "out", "--export", made)
    assert without_scores(said.text) == without_scores(made.read_bytes().decode())


def without_scores(text: str) -> str:
    """Leave out the last digits, which differ between a query with torch and one without."""
    return re.sub(r"(\d\.\d{4})\d+", r"\1", text)


@pytest.mark.parametrize(
    ("address", "sent", "status", "words"),
    [
        ("/api/clips", {"moments": []}, 400, "moments"),
        ("/api/clips", {"moments": [ONE | {"video_id": "../secret.txt"}]}, 404, "no video"),
        ("/api/clips", {"moments": [ONE | {"start": 1}]}, 400, "ends after"),
        ("/api/clips", {"moments": [], "folder": "/tmp"}, 422, "folder"),
        ("/api/timeline", {"moments": [ONE], "form": "exe"}, 400, "form"),
        ("/api/timeline", {"moments": [ONE | {"start": -1}], "form": "csv"}, 400, "start"),
    ],
)
def test_what_cannot_be_taken_along_is_refused(client, address, sent, status, words):
    said = client.post(address, json=sent)
    assert said.status_code == status and words in said.json()["error"]


def test_a_moment_of_a_file_that_has_gone_is_said_and_the_others_are_saved(client, place):
    moments = moments_of(client)
    path = Path(moments[0]["path"])
    path.rename(path.with_suffix(".away"))
    try:
        report = client.post("/api/clips", json={"moments": moments}).json()
        problems = [clip.get("problem") for clip in report["clips"]["clips"]]
        assert "is not there any more" in problems[0] and problems[1] is None
        one = {"video": moments[0]["video_id"], "start": 0, "end": 1}
        alone = client.get("/api/clip", params=one)
        assert alone.status_code == 404 and "is not there any more" in alone.json()["error"]
        exported = client.post("/api/timeline", json={"moments": moments, "form": "csv"})
        assert exported.status_code == 200 and str(path) in json.loads(exported.headers["tvr-said"])[0]
    finally:
        path.with_suffix(".away").rename(path)


def test_a_file_is_transcoded_from_the_second_that_is_asked_for(client, place, tmp_path):
    video = sorted(files_of(client))[0]
    film = decode_all(place / "videos" / video)
    with av.open(str(place / "videos" / video)) as container:
        rate = float(container.streams.video[0].average_rate or 0)
    said = client.get("/api/stream", params={"video": video, "at": 1.0})
    assert said.status_code == 200 and said.headers["content-type"] == "video/mp4"
    made = tmp_path / "made.mp4"
    made.write_bytes(said.content)
    with av.open(str(made)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.codec.canonical_name == "h264"
        assert b"moof" in said.content and said.content.index(b"moov") < said.content.index(b"moof")
    found = decode_all(made)
    assert len(found) == len(film) - round(rate)
    for ours, theirs in zip(found, film[round(rate) :], strict=True):
        assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 8


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"video": "nowhere.mp4"}, 404, "no video"),
        ({"video": "test/00000.mp4", "at": 1e6}, 404, "cannot be transcoded: it has no picture at 1e+06 s"),
        (
            {"video": "test/00000.mp4", "at": 1e15},
            404,
            "cannot be transcoded: it has no picture at 1e+15 s, or none that can be decoded; it ends at",
        ),
        ({"video": "test/00000.mp4", "at": 1e300}, 404, "cannot be transcoded: it has no picture at 1e+300 s"),
        ({"video": "test/00000.mp4", "at": "nan"}, 400, "at"),
        ({"video": "test/00000.mp4", "at": -1}, 400, "at"),
    ],
)
def test_what_cannot_be_transcoded_is_said(client, asked, status, words):
    said = client.get("/api/stream", params=asked)
    assert said.status_code == status and words in said.json()["error"]


def test_a_file_that_is_no_video_any_more_is_said_to_be_none(client, place):
    video = sorted(files_of(client))[-1]
    path = place / "videos" / video
    data = path.read_bytes()
    path.write_bytes(b"it was replaced by words" * 100)
    try:
        said = client.get("/api/stream", params={"video": video})
        assert said.status_code == 404 and "not readable as a video" in said.json()["error"]
        cut = client.get("/api/clip", params={"video": video, "start": 0, "end": 1})
        assert cut.status_code == 404 and "not readable as a video" in cut.json()["error"]
    finally:
        path.write_bytes(data)


def test_no_more_is_encoded_at_a_time_than_there_are_places():
    encoders = Encoders(at_once=1, wait_s=0.01)
    with encoders.place(), pytest.raises(errors.EnvironmentProblem, match="1 videos are cut or transcoded already"):
        encoders.take()
    with encoders.place():
        pass


def test_who_saves_clips_while_others_are_saved_is_told_so_and_keeps_nobody_waiting(tmp_path, monkeypatch):
    taking = Taking(tmp_path, Encoders(at_once=1, wait_s=0.01))
    refused: list[str] = []

    def cut(*_: object) -> QueryReport:
        with pytest.raises(errors.EnvironmentProblem) as e:
            taking.save(chosen("", []), 0.0, lambda: False)
        refused.append(str(e.value))
        return chosen("", [])

    monkeypatch.setattr("tvr_cli.server.taking._apart", cut)
    for _ in range(2):  # the first has let go
        taking.save(chosen("", []), 0.0, lambda: False)
    assert refused == ["clips of another request are still being saved; try again when they are there"] * 2


def test_clips_for_which_there_is_no_room_are_said_and_leave_nothing(client, place):
    folder = place / "out" / "clips"
    before = sorted(folder.iterdir()) if folder.is_dir() else []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Bytes that a file may have: the process that cuts inherits it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        said = client.post("/api/clips", json={"moments": moments_of(client)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert said.status_code == 200
    for clip in said.json()["clips"]["clips"]:
        assert "cannot write" in clip["problem"] and "--clips" in clip["problem"]
    assert sorted(folder.iterdir()) == before


def test_a_folder_of_clips_that_cannot_be_is_said(place, tmp_path):
    (tmp_path / "file").write_text("no folder")
    named = Library(Workspace(place / "out"), Named(), tmp_path / "file" / "clips")
    made = create_app(named, Rules(running.hosts_of("127.0.0.1"), 8765))
    with TestClient(made, base_url=HERE, raise_server_exceptions=False) as client:
        said = client.post("/api/clips", json={"moments": [ONE]})
        assert said.status_code in (404, 503) and str(tmp_path / "file") in said.json()["error"]


@pytest.mark.parametrize("gone", [False, True])
def test_who_watches_no_more_ends_what_is_transcoded(place, monkeypatch, gone):
    monkeypatch.setattr(streams, "_IDLE_S", 0.3)
    monkeypatch.setattr(streams, "_LOOK_S", 0.1)
    encoders = Encoders(at_once=1, wait_s=0.01)

    async def there() -> bool:
        return False

    async def watch() -> None:
        stream = await streams.Stream.open(place / "videos" / "test" / "00000.mp4", 0.0, None, encoders, there)
        with pytest.raises(errors.EnvironmentProblem):
            encoders.take()

        async def receive() -> dict[str, Any]:
            if not gone:
                await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await asyncio.sleep(60)  # a laptop that sleeps takes nothing

        await asyncio.wait_for(stream({"type": "http", "asgi": {}}, receive, send), 20)
        assert stream._process.returncode is not None

    asyncio.run(watch())
    with encoders.place():
        pass
