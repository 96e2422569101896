"""The library for agents, asked by the SDK's own client: answers of the commands, and nothing beyond the library."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_library
from PIL import Image
from small_library import SECRET, SENTENCE, tvr
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.data.demo_world.corpus import WorldOptions
from tvr_cli.engine.searching import resident
from tvr_cli.results.found import QueryReport
from tvr_cli.server import agents
from tvr_cli.server.library import Library
from tvr_cli.workspace import Workspace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_library.library(tmp_path_factory.mktemp("agents"), WorldOptions(train=2, val=1, test=1, captions=1))


def calls(place: Path, *asked: tuple[str, Mapping[str, Any]]) -> list[Any]:
    """Return what tools answer, one client after connecting once."""
    mcp = pytest.importorskip("mcp")

    async def all_of_them() -> list[Any]:
        async with mcp.Client(agents.create(Library(Workspace(place / "out")))) as client:
            return [await client.call_tool(name, dict(arguments)) for name, arguments in asked]

    return asyncio.run(all_of_them())


def without_scores(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**hit, "score": round(hit["score"], 4)} for hit in said["results"][0]["hits"]]


def test_a_search_is_what_the_command_prints(place: Path) -> None:
    asked = {"sentence": SENTENCE, "k": 3, "per_file": 1, "everything": True}
    (found,) = calls(place, ("search", asked))
    told = tvr("query", SENTENCE, "-k", 3, "--per-file", 1, "--all", "-o", place / "out")
    assert not found.is_error and json.loads(found.content[0].text) == found.structured_content
    assert without_scores(found.structured_content) == without_scores(told) and len(told["results"][0]["hits"]) == 3


def test_a_library_is_described(place: Path) -> None:
    (found,) = calls(place, ("describe", {}))
    said = found.structured_content
    assert (said["videos"], said["clips"], said["encoder"], said["method"]) == (4, 4, "demo-tiny", "text_guided")
    assert said["channels"] == ["picture"] and said["watched"] is False and said["hours"] == 0.0 and said["ask"]
    assert str(place) not in json.dumps(said)


def test_the_frame_of_a_moment_is_a_picture(place: Path) -> None:
    hit = tvr("query", SENTENCE, "-k", 1, "--all", "-o", place / "out")["results"][0]["hits"][0]
    (found,) = calls(place, ("frame", {"video": hit["video_id"], "at": hit["peak"]}))
    (picture,) = found.content
    assert (picture.type, picture.mime_type) == ("image", "image/jpeg")
    assert Image.open(io.BytesIO(base64.b64decode(picture.data))).size == (64, 64)


def test_a_large_picture_is_made_smaller_and_a_small_one_is_left_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 1000, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG", quality=95)
    large = out.getvalue()
    assert len(large) > agents.MOST_BYTES >= len(agents.small(large))
    made = agents.small(large, 50_000)
    assert len(made) <= 50_000 and Image.open(io.BytesIO(made)).size[0] < 1000
    assert agents.small(made, 50_000) == made


def test_whatever_is_no_file_of_the_library_is_refused_with_a_sentence(place: Path) -> None:
    names = [
        str(place / "secret.txt"), "../secret.txt", "..%2fsecret.txt", "/etc/passwd", "file:///etc/passwd",
        "~/.ssh/id_rsa", "test/../../secret.txt", "a\x00b", "\u202egnp.4pm", "secret.txt", ".", "index/current", "http://127.0.0.1/x",
    ]  # fmt: skip
    for found in calls(place, *(("frame", {"video": name, "at": 0}) for name in names)):
        assert found.is_error and "the library has no video" in found.content[0].text
        assert SECRET not in found.content[0].text and "root:" not in found.content[0].text


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("search", {"sentence": " "}, "expected a sentence to look for"),
        ("search", {"sentence": "a", "newer": "yesterday"}, "--newer: expected a date"),
        ("search", {"sentence": "a", "channel": "smell"}, "--channel: unknown 'smell'"),
        ("search", {"sentence": "a", "inside": ["nowhere/*"]}, "nowhere"),
        ("search", {"sentence": "a" * 2001}, "sentence: expected text of 2000 or fewer letters, found 2001"),
        ("search", {"sentence": ""}, "sentence: expected text of 1 or more letters, found 0"),
        ("search", {"sentence": 7}, "sentence: expected text, found 7"),
        ("search", {"sentence": "a", "k": 201}, "k: expected 200 or less, found 201"),
        ("search", {"sentence": "a", "k": "many"}, "k: expected a whole number, found 'many'"),
        (
            "search",
            {"sentence": "a", "k": 1.5, "longer": -1},
            "k: expected a whole number, found 1.5; longer: expected 0 or",
        ),
        ("search", {"sentence": "a", "everything": "perhaps"}, "everything: expected true or false, found 'perhaps'"),
        ("search", {"sentence": "a", "inside": "x"}, "inside: expected a list, found 'x'"),
        ("search", {"sentence": "a", "inside": ["x", 1]}, "inside: expected text, found 1"),
        ("search", {"sentence": "a", "inside": ["*"] * 17}, "inside: expected 16 or fewer of them, found 17"),
        ("search", {"sentence": "a", "confidence": 2}, "confidence: expected 1 or less, found 2"),
        ("frame", {"video": "a.mp4", "at": -1}, "at: expected 0 or more, found -1"),
        ("frame", {"at": 1}, "video: expected a value, found none"),
        ("delete", {}, "there is no tool 'delete'; there are search, describe, frame"),
        ("serch", {"sentence": "a"}, "there is no tool 'serch'; did you mean search?"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(place: Path, name: str, arguments: dict[str, Any], words: str) -> None:
    (found,) = calls(place, (name, arguments))
    assert found.is_error and words in found.content[0].text and "Traceback" not in found.content[0].text
    assert "pydantic" not in found.content[0].text and "validation error" not in found.content[0].text


def test_a_picture_cannot_be_asked_with_by_a_path(place: Path) -> None:
    """What names a file elsewhere is words here, and what a tool does not know is passed over."""
    secret = str(place / "secret.txt")
    asked = {"sentence": f"image:{secret}", "image": secret, "plus": [f"image:{secret}"], "not_in": secret}
    (found,) = calls(place, ("search", {**asked, "everything": True}))
    assert not found.is_error and found.structured_content["results"][0]["query"] == f"image:{secret}"


def test_a_library_that_is_not_there_is_a_sentence_and_no_end(tmp_path: Path) -> None:
    for found in calls(tmp_path, ("describe", {}), ("search", {"sentence": "a"}), ("frame", {"video": "a", "at": 0})):
        assert found.is_error and "tvr extract-frames" in found.content[0].text


def test_a_bug_is_no_secret_of_the_machine(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Library, "about", broken)
    (found,) = calls(place, ("describe", {}))
    assert found.is_error and "a bug in tvr" in found.content[0].text and SECRET not in found.content[0].text


def test_tools_say_that_they_only_read(place: Path) -> None:
    mcp = pytest.importorskip("mcp")

    async def listed() -> Any:
        async with mcp.Client(agents.create(Library(Workspace(place / "out")))) as client:
            return (await client.list_tools()).tools

    tools = asyncio.run(listed())
    assert [tool.name for tool in tools] == ["search", "describe", "frame"]
    assert all(tool.annotations.read_only_hint and not tool.annotations.open_world_hint for tool in tools)
    assert all(tool.description for tool in tools)


def test_a_server_of_the_workspace_is_asked_where_one_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = QueryReport([])
    asked: list[Mapping[str, Any]] = []
    monkeypatch.setattr(resident, "ask", lambda workspace, verb, what: asked.append({"verb": verb, **what}) or told)
    (found,) = calls(place, ("search", {"sentence": SENTENCE, "longer": 5}))
    assert found.structured_content == told.to_json()
    assert (asked[0]["verb"], asked[0]["sentences"]) == ("search", [SENTENCE])
    assert asked[0]["longer"] == 5 and asked[0]["method"] is None


def test_without_the_extra_it_says_what_to_install(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    result = CliRunner().invoke(app, ["mcp", "-o", str(place / "out")])
    assert result.exit_code == 4 and "pip install 'tvr-cli[mcp]'" in result.stderr and result.stdout == ""


@pytest.mark.slow
def test_a_client_that_starts_it_gets_the_protocol_and_nothing_else(place: Path) -> None:
    """A process of its own, whose standard output the client reads; what tvr says goes to standard error."""
    mcp = pytest.importorskip("mcp")
    words = ["-m", "tvr_cli", "mcp", "-o", str(place / "out")]
    told = tvr("query", SENTENCE, "-k", 2, "--all", "-o", place / "out")

    async def talk() -> Any:
        with open(place / "said.txt", "w") as said:
            started = mcp.stdio_client(mcp.StdioServerParameters(command=sys.executable, args=words), errlog=said)
            async with mcp.Client(started) as client:
                about = await client.call_tool("describe", {})
                found = await client.call_tool("search", {"sentence": SENTENCE, "k": 2, "everything": True})
                hit = found.structured_content["results"][0]["hits"][0]
                frame = await client.call_tool("frame", {"video": hit["video_id"], "at": hit["peak"]})
                return about, found, frame

    about, found, frame = asyncio.run(talk())
    assert about.structured_content["videos"] == 4
    assert without_scores(found.structured_content) == without_scores(told)  # one of them was answered without torch
    assert frame.content[0].type == "image"
    assert "answering an agent" in (place / "said.txt").read_text()
