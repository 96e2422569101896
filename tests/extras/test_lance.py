"""`tvr index --store lance` as people use it: the same answers as from files, growing, and back. Needs LanceDB."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.data.demo_world.corpus import WorldOptions, make
from tvr_cli.stores.index.opening import open_index

os.environ.setdefault("LANCEDB_LOG", "error")  # read when it is imported
pytest.importorskip("lancedb", reason="the extra [lance] is not installed here")

SENTENCES = ["a red star spins", "a green cross grows"]


def ok(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    return result


def said(*args: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ok(*args, "--json").stdout)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of ten of twelve toy videos, and the folder of all."""
    folder = tmp_path_factory.mktemp("lance")
    make(folder / "world", WorldOptions(train=6, val=2, test=4, captions=1))
    videos = folder / "videos"
    videos.mkdir()
    for i, path in enumerate(sorted((folder / "world").rglob("*.mp4"))[:10]):
        shutil.copy(path, videos / f"{i}.mp4")
    ok("extract-frames", videos, "-o", folder / "out", "--num-frames", 6, "--size", 64, "--workers", 1)
    ok("precompute-features", "-o", folder / "out", "--backbone", "demo-tiny")
    return folder


def hits(out: Path) -> list[Any]:
    """What is found, without the seconds that it took."""
    found = said("query", *SENTENCES, "--index", out, "--min-confidence", 0)
    return [[(h["path"], h["start"], h["end"], round(h["score"], 4)) for h in r["hits"]] for r in found["results"]]


def test_a_table_answers_as_files_do_and_grows(made: Path, tmp_path: Path) -> None:
    own, out = (Path(shutil.copytree(made / "out", tmp_path / name)) for name in ("own", "out"))
    ok("index", "--method", "text_guided", "-o", own)
    first = said("index", "--method", "text_guided", "-o", out, "--store", "lance")
    assert first["built"] and (first["clips"], first["added"]) == (10, 10)
    assert (out / "tvr-index-g000001.lance").is_dir()
    assert not said("index", "--method", "text_guided", "-o", out)["built"]  # it stays in its table, unasked
    assert hits(out) == hits(own) and any(hits(out))
    for i, path in enumerate(sorted((made / "world").rglob("*.mp4"))[10:], 10):
        shutil.copy(path, made / "videos" / f"{i}.mp4")
    for workspace in (own, out):
        ok("extract-frames", made / "videos", "-o", workspace, "--workers", 1)
        ok("precompute-features", "-o", workspace)
    grown = said("index", "-o", out)
    assert (grown["added"], grown["removed"], grown["clips"]) == (2, 0, 12)
    assert hits(out) == hits(own)
    ok("doctor", out)
    back = said("index", "-o", out, "--store", "file")
    assert back["built"] and hits(out) == hits(own)
    assert not list(out.glob("*.lance"))  # of the table nothing is left


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on this machine, which the variables of the environment lead to."""
    moto = pytest.importorskip("moto.server", reason="moto, a stand-in for S3, is not installed here")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/library", method="PUT")).close()
    yield "s3://library/films"
    server.stop()


def test_a_table_in_a_bucket_answers_and_grows(made: Path, tmp_path: Path, bucket: str) -> None:
    own, out = (Path(shutil.copytree(made / "out", tmp_path / name)) for name in ("own", "out"))
    ok("index", "--method", "text_guided", "-o", own)
    ok("index", "--method", "text_guided", "-o", out, "--store", f"lance:{bucket}")
    assert not list(out.glob("*.lance"))
    assert hits(out) == hits(own) and any(hits(out))
    index = open_index(out / "index")
    gone = next(row.id for _, row in index.listing())
    smaller = index.delete([gone])
    assert len(open_index(out / "index")) == len(smaller) == len(index) - 1 and index.clip(0).id


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--store", "faiss"], 2, "expected file, lance or lance:URI"),
        (["--coarse-memory", "1GB"], 2, "--coarse-memory is of a table: give it with --store lance"),
        (["--store", "lance:s3://127.0.0.1/none"], 4, "cannot be read or written"),
    ],
)
def test_a_store_that_cannot_be_is_a_sentence(
    made: Path, tmp_path: Path, flags: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    out = Path(shutil.copytree(made / "out", tmp_path / "out"))
    assert message in ok("index", "--method", "text_guided", "-o", out, *flags, code=code).stderr
    assert not (out / "index" / "current").exists()
