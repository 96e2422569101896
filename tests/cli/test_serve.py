"""A served library: the command line's own answers over HTTP, nothing beyond the library, and the command itself."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from small_library import SECRET, SENTENCE, files_of, tvr
from typer.testing import CliRunner

from tvr_cli import files
from tvr_cli.cli import app
from tvr_cli.engine.searching.library import LibraryFile
from tvr_cli.server import running
from tvr_cli.watching import status
from tvr_cli.watching.looking import Flaw
from tvr_cli.workspace import Workspace

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
    video = sorted(files_of(client))[0]
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
    video = sorted(files_of(client))[-1]
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
