"""A served library: the command line's own answers over HTTP and the socket, and nothing beyond the library."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import numpy as np
import pytest
import small_library
from PIL import Image
from small_library import SECRET, SENTENCE, tvr
from starlette.testclient import TestClient
from typer.testing import CliRunner
from videos import decode_all

from tvr_cli import errors, files, log
from tvr_cli.cli import app
from tvr_cli.data.demo_world.corpus import WorldOptions
from tvr_cli.engine.searching import resident
from tvr_cli.engine.searching.library import LibraryFile
from tvr_cli.results.found import QueryReport
from tvr_cli.server import door, running, streams
from tvr_cli.server.app import create_app
from tvr_cli.server.encoders import Encoders
from tvr_cli.server.guard import Rules
from tvr_cli.server.library import Library, Named
from tvr_cli.server.taking import Taking, chosen
from tvr_cli.version import __version__
from tvr_cli.watching import status
from tvr_cli.watching.looking import Flaw
from tvr_cli.workspace import Workspace

HERE = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_library.library(tmp_path_factory.mktemp("served"), WorldOptions(train=2, val=2, test=4, captions=1))


@pytest.fixture(scope="module")
def library(place: Path) -> Library:
    return Library(Workspace(place / "out"), Named())


@pytest.fixture(scope="module")
def client(library: Library) -> Iterator[TestClient]:
    made = create_app(library, Rules(running.hosts_of("127.0.0.1"), 8765))
    with TestClient(made, base_url=HERE, raise_server_exceptions=False) as client:
        yield client


# ------------------------------------------------------------------------------------------------------------- answers


def test_an_answer_is_what_the_command_prints(client, place):
    asked = {"q": SENTENCE, "k": 3, "per_file": 1, "everything": True}
    said = client.get("/api/search", params=asked).json()
    told = tvr("query", SENTENCE, "-k", 3, "--per-file", 1, "--all", "-o", place / "out")
    said_hits, told_hits = said["results"][0].pop("hits"), told["results"][0].pop("hits")
    assert said == told and len(said_hits) == 3
    for a, b in zip(said_hits, told_hits, strict=True):
        assert a.pop("score") == pytest.approx(b.pop("score"), abs=1e-5)  # one of them was answered without torch
        assert a == b


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("/api/search?q=a&k=0", 400, "k: expected 1 or more, found '0'"),
        ("/api/search?q=a&k=many", 400, "k: expected a whole number, found 'many'"),
        ("/nowhere", 404, "there is no such address"),
        ("/api/search?q=a&typo=1", 422, "unknown parameter 'typo'; there are q, like"),
        ("/api/search?q=a&channle=both", 422, "unknown parameter 'channle'; did you mean channel?"),
        ("/api/library?typo=1", 422, "unknown parameter 'typo'; there are none"),
    ],
)
def test_every_refusal_is_a_sentence_under_error(client, address, status, words):
    said = client.get(address)
    assert said.status_code == status and list(said.json()) == ["error"] and words in said.json()["error"]


def test_a_picture_is_asked_with_and_never_kept(client, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(out, "PNG")
    said = client.post("/api/search", files={"image": ("a.png", out.getvalue())}, data={"everything": "true", "k": "2"})
    assert said.status_code == 200, said.text
    answer = said.json()["results"][0]
    assert answer["query"] == "a picture" and len(answer["hits"]) == 2
    assert not list(tmp_path.iterdir())
    refused = client.post("/api/search", files={"image": ("a.png", b"no picture")})
    assert refused.status_code == 404 and "picture" in refused.json()["error"]
    assert str(tmp_path) not in refused.json()["error"]
    filtered = client.post("/api/search", files={"image": ("a.png", out.getvalue())}, data={"inside": "nowhere/*"})
    assert filtered.status_code == 404 and "nowhere" in filtered.json()["error"]
    typed = client.post("/api/search", files={"image": ("a.png", out.getvalue())}, data={"insid": "x"})
    assert typed.status_code == 422 and "did you mean inside?" in typed.json()["error"]


def test_the_page_and_its_parts_name_no_other_address(client):
    for path, kind in (("/", "text/html"), ("/docs", "text/html"), ("/static/page.js", "text/javascript"),
                       ("/static/player.js", "text/javascript"), ("/static/scrub.js", "text/javascript"),
                       ("/static/style.css", "text/css"),
                       ("/static/cards.css", "text/css"), ("/static/watch.js", "text/javascript"),
                       ("/static/docs.js", "text/javascript"), ("/static/docs.css", "text/css")):  # fmt: skip
        said = client.get(path)
        assert said.status_code == 200 and said.headers["content-type"].startswith(kind)
        assert "https://" not in said.text and "http://" not in said.text.replace("http://www.w3.org/2000/svg", "")
        assert "innerHTML" not in said.text and " style=" not in said.text and " onclick=" not in said.text
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        *("/api/library", "/api/search", "/api/watch", "/api/picture", "/media"),
        *("/api/clip", "/api/clips", "/api/timeline", "/api/stream"),
    }


def test_a_file_of_the_library_comes_whole_or_in_part(client, place):
    video = sorted(library_files(client))[0]
    data = (place / "videos" / video).read_bytes()
    whole = client.get("/media", params={"video": video})
    assert whole.content == data and whole.headers["content-type"] == "video/mp4"
    part = client.get("/media", params={"video": video}, headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == data[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(data)}"
    beyond = client.get("/media", params={"video": video}, headers={"Range": f"bytes={len(data)}-"})
    assert beyond.status_code == 416
    picture = client.get("/api/picture", params={"video": video, "at": 1.0})
    assert Image.open(io.BytesIO(picture.content)).format == "JPEG"


def test_a_file_that_has_gone_is_said_to_have_gone(client, place):
    video = sorted(library_files(client))[-1]
    path = place / "videos" / video
    path.rename(path.with_suffix(".away"))
    try:
        said = client.get("/media", params={"video": video})
        assert said.status_code == 404 and "renamed, moved or deleted" in said.json()["error"]
        assert client.get("/api/picture", params={"video": video}).status_code == 200
    finally:
        path.with_suffix(".away").rename(path)


def test_the_page_is_told_what_keeps_the_library_up_to_date(client, place):
    assert client.get("/api/watch").json()["state"] == "none"
    workspace = Workspace(place / "out")
    failed = [Flaw("broken.mp4", "zero bytes")]
    with files.lock(workspace.watch_folder):
        status.Board(workspace, status.WatchStatus(workspace="out", state="starting")).say(
            state="working", failures=failed
        )
        said = client.get("/api/watch").json()
    assert said["state"] == "working" and said["failures"] == [{"what": "broken.mp4", "reason": "zero bytes"}]


def library_files(client: TestClient) -> list[str]:
    found = client.get("/api/search", params={"q": SENTENCE, "k": 50, "per_file": 1, "everything": True}).json()
    assert client.get("/api/library").json()["videos"] == 8
    return [hit["video_id"] for hit in found["results"][0]["hits"]]


# -------------------------------------------------------------------------------------------------------- taken along


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


# ---------------------------------------------------------------------------------------------------------- transcoded


def test_a_file_is_transcoded_from_the_second_that_is_asked_for(client, place, tmp_path):
    video = sorted(library_files(client))[0]
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
    video = sorted(library_files(client))[-1]
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


# ------------------------------------------------------------------------------------------------------------- hostile


def hostile(place: Path) -> list[tuple[str, str, dict[str, str], dict[str, Any]]]:
    """Return requests that want more than the library: method, address, headers, what else."""
    secret = str(place / "secret.txt")
    up = "../secret.txt"
    names = [
        secret, up, f"../{up}", quote(up, safe=""), quote(quote(up, safe=""), safe=""), "..%2fsecret.txt",
        "..%252fsecret.txt", "..\\secret.txt", "%2e%2e/secret.txt", f"file://{secret}", f"test/../{up}", "/etc/passwd",
        "\x00", "a\x00.mp4", "", ".", "..", "~/.ssh/id_rsa", "/proc/self/environ", "test/00000.mp4/../../../secret.txt",
        "\u202esecret.txt", "💥", "a" * 5000, "con", "http://127.0.0.1:1/x", "out/index", "index/current", "%",
    ]  # fmt: skip
    found: list[tuple[str, str, dict[str, str], dict[str, Any]]] = []
    found += [("GET", "/media", {}, {"params": {"video": name}}) for name in names]
    found += [("GET", "/api/picture", {}, {"params": {"video": name}}) for name in names[:8]]
    found += [
        ("GET", path, {}, {})
        for path in (
            f"/static/{up}", "/static/..%2f..%2fapp.py", "/static/%2e%2e/app.py", "//etc/passwd",
            f"/media/{quote(secret)}", "/static/page.js/..%2fapp.py", "/..%2f..%2fsecret.txt",
            "/docs/../../secret.txt", "/media?video[]=x", "/api/search?k=%ff", "/media?video=%ff%fe",
        )
    ]  # fmt: skip
    found += [
        ("GET", "/api/search", {}, {"params": params})
        for params in (
            {"q": "a", "plus": f"image:{secret}"}, {"q": "a", "minus": "image:/etc/passwd"},
            {"q": "a", "plus": f"2:image:{secret}"}, {"q": "a", "like": secret}, {"q": "a", "like": f"{up}@0-1"},
            {"q": "a" * 3000}, {"q": "a", "k": "1e9"}, {"q": "a", "k": "-1"}, {"q": "a", "newer": "'; DROP TABLE"},
            {"q": "a", "longer": "nan"}, {"q": "a", "channel": "x"},
            {"q": ""}, {"q": "a", "like": ["x"] * 40}, {"q": "a", "inside": "[" * 200}, {"q": "a", "confidence": "2"},
        )
    ]  # fmt: skip
    found += [
        ("POST", "/api/search", {}, {"content": b"\x00" * 100}),
        ("POST", "/api/search", {"content-type": "multipart/form-data"}, {"content": b"--x"}),
        ("POST", "/api/search", {"content-type": "application/json"}, {"content": b"{" * 100_000}),
        ("POST", "/api/search", {}, {"files": {"image": ("x", b"\xff\xd8\xff" + b"\x00" * 1000)}}),
        ("POST", "/api/search", {}, {"files": {"image": (secret, b"GIF89a")}}),
        ("POST", "/api/search", {}, {"files": {"image": ("x.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")}}),
        ("POST", "/api/search", {}, {"content": b"x" * (33 * 2**20)}),
        ("GET", "/media", {"range": "bytes=-1-"}, {"params": {"video": "x"}}),
        ("GET", "/", {"host": "evil.com"}, {}),
        ("GET", "/api/library", {"origin": "http://evil.com"}, {}),
        ("POST", "/", {}, {}),
        ("PUT", "/media", {}, {"params": {"video": "x"}}),
    ]
    return found


def test_no_file_is_opened_that_an_imported_video_without_one_is_called(client, place, library, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(library, "file", lambda video: LibraryFile(video, "secret.txt", 1.0))
    for address in ("/media", "/api/stream"):
        said = client.get(address, params={"video": "a"})
        assert said.status_code == 404 and SECRET not in said.text
        assert said.json()["error"] == "'secret.txt' was imported without its file"


def test_no_hostile_request_reaches_a_file_or_ends_the_server(client, place):
    requests = hostile(place)
    assert len(requests) >= 60
    for method, address, headers, more in requests:
        said = client.request(method, address, headers=headers, **more)
        assert 400 <= said.status_code < 500, (method, address, more, said.status_code, said.text[:300])
        assert SECRET not in said.text and "root:" not in said.text
        assert "Traceback" not in said.text
    assert client.get("/api/search", params={"q": SENTENCE}).status_code == 200


def test_many_clients_at_once_are_all_answered(client):
    wrong: list[Any] = []

    def ask(number: int) -> None:
        for i in range(10):
            said = client.get("/api/search", params={"q": SENTENCE, "k": 1 + (number + i) % 5, "everything": True})
            if said.status_code != 200 or len(said.json()["results"][0]["hits"]) < 1:
                wrong.append(said.text)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


# ---------------------------------------------------------------------------------------------------------- the socket


@pytest.fixture
def opened(library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = door.Door(library)
    note = library.workspace.server_note
    with made.open():
        note.write_text(json.dumps({"tvr": __version__, "pid": os.getpid(), "url": HERE, "socket": str(made.path)}))
        yield made.path
    note.unlink(missing_ok=True)


ASKED: dict[str, Any] = {"sentences": [SENTENCE], "k": 2, "min_confidence": None}


def test_a_query_is_answered_by_the_server_with_the_same(opened, place, library):
    assert opened.stat().st_mode & 0o777 == 0o600
    asked = {"k": 2, "min_confidence": None}
    library.answer([SENTENCE], asked)  # a first question is answered without torch, whose last digit may differ
    found = resident.ask(library.workspace, "search", ASKED)
    assert found is not None and found.to_json() == library.answer([SENTENCE], asked).to_json()
    result = CliRunner().invoke(app, ["query", SENTENCE, "--verbose", "--all", "-o", str(place / "out"), "--json"])
    assert result.exit_code == 0 and "answered by the server of this workspace" in result.stderr
    QueryReport.from_json(json.loads(result.stdout), "the answer")


@pytest.mark.parametrize("words", [["explain", SENTENCE, "test/00000.mp4"], ["similar", "test/00000.mp4"]])
def test_other_commands_that_ask_are_answered_by_the_server_with_the_same(opened, place, monkeypatch, words):
    served = CliRunner().invoke(app, ["--debug", *words, "-o", str(place / "out"), "--json"])
    assert served.exit_code == 0 and "answered by the server of this workspace" in served.stderr
    monkeypatch.setenv("TVR_NO_SERVER", "1")
    alone = CliRunner().invoke(app, [*words, "-o", str(place / "out"), "--json"])
    assert alone.exit_code == 0 and json.loads(served.stdout) == json.loads(alone.stdout)
    refused = CliRunner().invoke(app, [*words[:-1], "nowhere.mp4", "-o", str(place / "out")])
    assert refused.exit_code == 3 and "found 'nowhere.mp4'" in refused.stderr


@pytest.mark.parametrize(
    "words", [["query", SENTENCE, "--all"], ["explain", SENTENCE, "test/00000.mp4"], ["similar", "test/00000.mp4"]]
)
def test_who_is_answered_by_the_server_imports_nothing_that_searches(opened, place, words):
    command = ["tvr", "--debug", *words, "-o", str(place / "out"), "--json"]
    code = (
        "import sys\nfrom tvr_cli.cli import main\n"
        f"sys.argv = {command!r}\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    searching = {name for name in imported if name.startswith("tvr_cli.engine.searching.")}

    assert "answered by the server of this workspace" in done.stderr
    assert searching == {"tvr_cli.engine.searching.resident"}
    assert not imported & {"numpy", "torch", "PIL", "yaml", "rich", "pydantic", "tvr_cli.plans", "tvr_cli.config"}


def test_a_file_is_the_one_that_its_name_means_where_it_was_typed(opened, library, place, monkeypatch):
    def similar(moment: str) -> Any:
        return resident.ask(library.workspace, "similar", {"moment": moment, "k": 1})

    monkeypatch.chdir(place / "videos" / "test")
    assert similar("00001.mp4@0-1").video_id == "test/00001.mp4"
    assert similar("../val/00000.mp4").video_id == "val/00000.mp4"
    there = os.getcwd()
    monkeypatch.setattr(resident, "_here", lambda: str(place))  # who asks stands elsewhere than the server
    assert similar("videos/val/00000.mp4").video_id == "val/00000.mp4"
    assert similar(f"{there}/00001.mp4").video_id == similar("test/00001.mp4").video_id == "test/00001.mp4"
    assert similar("../val/00000.mp4") is None  # a file of the library as seen from the server alone


def test_what_is_said_once_is_said_to_each_who_asks(opened, library, client, caplog):
    line = "answers have no confidence: it takes 30 moments or windows to tell, and the index has 8"
    for _ in range(2):
        caplog.clear()
        with log.told() as said:  # as in a process of its own
            assert resident.ask(library.workspace, "search", ASKED) is not None
        assert said == [line]
        answer = client.get("/api/search", params={"q": SENTENCE})
        assert json.loads(answer.headers["tvr-said"]) == [line]
    assert "tvr-said" not in client.get("/api/library").headers


def test_what_the_server_refuses_is_refused_with_its_words(opened, place):
    result = CliRunner().invoke(app, ["query", " ", "-o", str(place / "out")])
    assert result.exit_code == 2 and "expected a sentence to look for" in result.stderr
    with pytest.raises(errors.ConfigError, match="expected a sentence"):
        resident.ask(Workspace(place / "out"), "search", {"sentences": [""]})


@pytest.mark.parametrize(
    "asked",
    [
        {**ASKED, "method": "mean"},  # it answers with another
        {**ASKED, "image": ["a.png"]},  # a path as seen from here
        {**ASKED, "shoe_size": 44},  # it knows nothing of
        {**ASKED, "inside": ["holiday/"]},  # a folder as seen from here
        {**ASKED, "inside": "holiday/*.mp4"},
    ],
)
def test_what_the_server_does_not_answer_with_is_answered_here(opened, library, asked):
    assert resident.ask(library.workspace, "search", asked) is None


@pytest.mark.parametrize("flag, value", [("device", "cpu:0"), ("method", "mean"), ("offline", True)])
def test_what_was_named_otherwise_than_for_the_server_is_said(flag, value, opened, library, caplog):
    with caplog.at_level("DEBUG", logger="tvr"):
        assert resident.ask(library.workspace, "search", {**ASKED, flag: value}) is None
    assert f"not asked of a server: it was started with another --{flag} than was named" in caplog.text


def test_files_by_name_and_by_whole_paths_are_asked_of_the_server(opened, library, place):
    for inside in ("*.mp4", f"{place}/videos/"):
        found = resident.ask(library.workspace, "search", {**ASKED, "inside": [inside]})
        assert found is not None and len(found.results[0].hits) == 2


def test_a_backbone_that_the_variable_names_here_alone_is_asked_here(opened, library, monkeypatch):
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")  # the server was started before
    assert resident.ask(library.workspace, "search", ASKED) is None
    monkeypatch.delenv("TVR_BACKBONE")
    assert resident.ask(library.workspace, "search", ASKED) is not None


def test_other_versions_other_workspaces_and_the_variable_are_answered_here(opened, library, monkeypatch, tmp_path):
    other = Workspace(tmp_path / "other")
    other.root.mkdir()
    other.server_note.write_text(library.workspace.server_note.read_text())
    assert resident.ask(other, "search", ASKED) is None
    with monkeypatch.context() as changed:
        changed.setattr(resident, "__version__", "0.0.1")
        assert resident.ask(library.workspace, "search", ASKED) is None
    with monkeypatch.context() as changed:
        changed.setenv("TVR_NO_SERVER", "1")
        assert resident.ask(library.workspace, "search", ASKED) is None
    assert resident.ask(library.workspace, "search", ASKED) is not None


@pytest.mark.parametrize(
    "note", ["", "[]", '{"pid": 1}', '{"pid": "1", "socket": "/x", "url": "u"}', "\xff", "{" * 9999]
)
def test_a_note_that_says_nothing_is_no_server(note, tmp_path):
    workspace = Workspace(tmp_path)
    workspace.server_note.write_text(note, encoding="latin-1")
    assert resident.ask(workspace, "search", ASKED) is None and resident.running(workspace) is None


def test_a_stale_or_foreign_socket_is_ignored(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    plain = tmp_path / "plain"
    plain.write_text("no socket")
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(dead))
    for path in (plain, dead, tmp_path / "none"):
        note = {"tvr": __version__, "pid": os.getpid(), "url": HERE, "socket": str(path)}
        workspace.server_note.write_text(json.dumps(note))
        assert resident.ask(workspace, "search", ASKED) is None
    live = tmp_path / "live.sock"
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(live))
        line.listen()
        workspace.server_note.write_text(json.dumps({**note, "socket": str(live)}))
        monkeypatch.setattr(resident, "peer", lambda line: os.getuid() + 1)
        assert resident.ask(workspace, "search", ASKED) is None  # another user listens


@pytest.mark.parametrize("says", [b"", b"something else\n"])
def test_a_server_that_sleeps_or_speaks_otherwise_is_not_waited_for(tmp_path, monkeypatch, says):
    monkeypatch.setattr(resident, "_HEARD_S", 0.2)
    workspace = Workspace(tmp_path)
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(tmp_path / "live.sock"))
        line.listen()
        note = {"tvr": __version__, "pid": os.getpid(), "url": HERE, "socket": str(tmp_path / "live.sock")}
        workspace.server_note.write_text(json.dumps(note))

        def answer() -> None:
            with line.accept()[0] as asking:
                asking.sendall(says)
                asking.recv(1 << 16)
                time.sleep(0.5)

        other = threading.Thread(target=answer)
        other.start()
        assert resident.ask(workspace, "search", ASKED) is None
        other.join()


def test_whoever_connects_and_says_nothing_keeps_nobody_waiting(opened, library):
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as half:
        silent.connect(str(opened))
        half.connect(str(opened))
        half.sendall(b'{"tvr": ')
        assert resident.ask(library.workspace, "search", ASKED) is not None


# ------------------------------------------------------------------------------------- what happens while it is served


def test_an_index_that_is_made_again_or_deleted_meanwhile_is_noticed(client, place):
    before = client.get("/api/search", params={"q": SENTENCE, "everything": True}).json()
    tvr("index", "--method", "mean", "--overwrite", "-o", place / "out")
    made = client.get("/api/search", params={"q": SENTENCE, "everything": True}).json()
    assert [len(answer["results"][0]["hits"]) for answer in (before, made)] == [8, 8]
    shutil.rmtree(place / "out" / "index")
    again = client.get("/api/search", params={"q": SENTENCE, "everything": True})
    assert again.status_code == 200 and len(again.json()["results"][0]["hits"]) == 8
    tvr("index", "--method", "text_guided", "--overwrite", "-o", place / "out")


def test_a_workspace_that_goes_meanwhile_is_said_to_have_gone(client, place):
    (place / "out").rename(place / "away")
    try:
        for address in (f"/api/search?q={quote(SENTENCE)}", "/api/library", "/media?video=test/00000.mp4"):
            said = client.get(address)
            assert said.status_code == 404 and "found none" in said.json()["error"], said.text
    finally:
        (place / "away").rename(place / "out")
    assert client.get("/api/search", params={"q": SENTENCE}).status_code == 200


def test_a_video_that_is_being_written_is_said_not_to_be_readable(client, place):
    path = place / "videos" / "test" / "00001.mp4"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    try:
        for address in ("/api/stream?video=test/00001.mp4", "/api/clip?video=test/00001.mp4&start=0&end=1"):
            said = client.get(address)
            assert said.status_code == 404 and "not readable as a video" in said.json()["error"]
        assert client.get("/media?video=test/00001.mp4").content == data[: len(data) // 3]
    finally:
        path.write_bytes(data)


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


# --------------------------------------------------------------------------------------------------------- the command


def test_flags_that_cannot_be(place, tmp_path):
    def said(*flags: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["serve", "-o", str(place / "out"), *flags])
        return result.exit_code, result.stderr

    assert said("--stop", "--status") == (
        2,
        "error: --background, --stop and --status are three things to do; give one of them\n",
    )
    assert said("--port", "0")[0] == 2 and "1 to 65535" in said("--port", "99999")[1]
    assert said("--token", "short")[0] == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, message = said("--port", str(taken.getsockname()[1]))
    assert code == 4 and "is in use" in message and not (place / "out" / "server.json").exists()
    assert said("--host", "203.0.113.7", "--port", "9")[0] == 4
    assert (
        CliRunner().invoke(app, ["serve", "--status", "-o", str(tmp_path)]).stdout == f"no server of {tmp_path} runs\n"
    )


def test_another_address_needs_a_token_and_gets_one():
    assert running.address_of("127.0.0.1", 8765, None).token is None
    assert running.address_of("localhost", 8765, None).url == "http://127.0.0.1:8765/"
    elsewhere = running.address_of("0.0.0.0", 8765, None)
    assert elsewhere.token is not None and len(elsewhere.token) == 32 and elsewhere.token in elsewhere.url


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(app, ["serve", "-o", str(tmp_path)])
    assert result.exit_code == 4 and "tvr-cli[serve]" in result.stderr


@pytest.mark.parametrize("how", [[], ["--background"]])
def test_a_misspelt_workspace_is_refused_and_not_made(tmp_path, how):
    out = tmp_path / "nothere"
    result = CliRunner().invoke(app, ["serve", "-o", str(out), *how])
    assert result.exit_code == 3 and not out.exists()
    assert result.stderr == (
        f"error: expected a workspace at '{out}', found no folder; name another with -o, or serve videos while they "
        f"are taken in: tvr serve --watch videos/ -o {out}\n"
    )
    out.mkdir()
    result = CliRunner().invoke(app, ["serve", "-o", str(out), *how])
    assert result.exit_code == 3 and "found a folder without frames" in result.stderr and not list(out.iterdir())


def test_a_workspace_that_a_watcher_will_fill_may_be_new(tmp_path):
    running.require_library(Workspace(tmp_path / "new"), filled=True)


def test_a_server_that_is_told_to_end_just_ends(place, tmp_path, monkeypatch):
    """Nothing goes on with the same command, as what Ctrl-C says of other commands would have it."""
    import uvicorn

    def told(server: object, sockets: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(uvicorn.Server, "run", told)
    monkeypatch.setattr(running, "_warm", lambda library: None)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = CliRunner().invoke(app, ["serve", "-o", str(place / "out"), "--port", str(port), "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["did"] == "served"
    assert "interrupted" not in result.stderr and result.stderr.splitlines()[-1] == "ended"
    assert not (place / "out" / "server.json").exists()


@pytest.mark.slow
def test_mixed_requests_of_many_clients_are_answered_and_memory_stays(place):
    script = Path(__file__).resolve().parents[2] / "scripts" / "bench_serve.py"
    asked = ["load", place, "--clients", 8, "--requests", 160, "--may-grow", 64]
    done = subprocess.run([sys.executable, script, *map(str, asked)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong:" not in done.stdout and "since the first round" in done.stdout


@pytest.mark.slow
def test_a_server_in_the_background_starts_answers_and_ends(place, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    out = place / "out"

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "tvr_cli", *map(str, words)], capture_output=True, text=True)

    started = run("serve", "--background", "--port", port, "-o", out, "--json")
    assert started.returncode == 0, started.stderr
    try:
        assert json.loads(started.stdout)["did"] == "started"
        assert (out / "server.json").stat().st_mode & 0o777 == 0o600
        second = run("serve", "--port", port, "-o", out)
        assert second.returncode == 4 and "is served already" in second.stderr
        asked = run("query", SENTENCE, "--verbose", "--all", "-o", out, "--json")
        assert "answered by the server" in asked.stderr and json.loads(asked.stdout)["results"][0]["hits"]
    finally:
        assert run("serve", "--stop", "-o", out).returncode == 0
    until = time.monotonic() + 20
    while (out / "server.json").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not (out / "server.json").exists()
    assert run("query", SENTENCE, "--all", "-o", out, "--json").returncode == 0
