"""The served library in headless Chromium: search, play, more like this, a dropped picture, keys alone, axe-core."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import LOOKS, Visit, opened, require_accessible
from PIL import Image
from typer.testing import CliRunner
from videos import decode_all, make_video

from tvr_cli import files
from tvr_cli.cli import app
from tvr_cli.server import running
from tvr_cli.server.app import create_app
from tvr_cli.server.guard import Rules
from tvr_cli.server.library import Library, Named
from tvr_cli.watching.looking import Flaw
from tvr_cli.watching.status import Board, Doing, WatchStatus
from tvr_cli.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
NAMES = ('a "quoted" <b>film<⁄b>.webm', "شاطئ 50% #1?.webm", "plain.webm")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of three films that a browser can play."""
    uvicorn = pytest.importorskip("uvicorn")
    folder = tmp_path_factory.mktemp("served")
    (folder / "films").mkdir()
    for number, name in enumerate(NAMES):
        make_video(folder / "films" / name, 50 + number, fps=10, codec="libvpx", gop=10)
    yield from serving(uvicorn, folder)


@pytest.fixture(scope="module")
def unplayable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of films that no browser plays as they are."""
    uvicorn = pytest.importorskip("uvicorn")
    folder = tmp_path_factory.mktemp("unplayable")
    (folder / "films").mkdir()
    make_video(folder / "films" / "tape.avi", 125, fps=25, codec="mpeg2video")
    make_video(folder / "films" / "disc.mpg", 126, fps=25, codec="mpeg2video")
    yield from serving(uvicorn, folder)


def serving(uvicorn: Any, folder: Path) -> Iterator[str]:
    """Serve the films of a folder."""
    out = folder / "out"
    for words in (
        ["extract-frames", folder / "films", "-o", out, "--num-frames", 4, "--workers", 1],
        ["precompute-features", "-o", out, "--backbone", "demo-tiny"],
        ["index", "--method", "text_guided", "-o", out],
    ):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.stderr
    with socket.create_server(("127.0.0.1", 0)) as line:
        port = line.getsockname()[1]
        made = create_app(Library(Workspace(out), Named()), Rules(running.hosts_of("127.0.0.1"), port))
        server = uvicorn.Server(uvicorn.Config(made, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [line]}, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{port}/"
        until = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{address}api/search?q=a&everything=true") as answer:
                    assert json.load(answer)["results"]
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.1)
        yield address
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from opened()


@pytest.fixture
def visit(browser: Any, served: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    found = Visit(browser, served, *getattr(request, "param", (1280, "light")))
    found.tab.evaluate("document.getElementById('all').checked = true")  # three films are too few to be sure with
    yield found
    assert found.wrong == []
    assert all(url.startswith((served, "data:", "blob:")) for url in found.asked)
    found.tab.context.close()


def ask(visit: Visit, words: str = "a red circle") -> None:
    visit.tab.locator("#q").fill(words)
    visit.tab.keyboard.press("Enter")
    visit.tab.wait_for_selector(".card")


@pytest.mark.parametrize("visit", LOOKS, indirect=True, ids=lambda look: f"{look[0]}-{look[1]}")
def test_it_fits_and_is_accessible_with_answers_and_with_a_player(visit: Visit) -> None:
    require_accessible(visit)
    visit.tab.locator("summary").click()
    ask(visit)
    assert visit.tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    require_accessible(visit)
    visit.tab.locator(".card .play").first.click()
    visit.tab.wait_for_function("() => document.querySelector('video')?.readyState > 1")
    assert visit.tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    require_accessible(visit)


def test_a_moment_plays_inside_its_seconds_and_the_next_one_too(visit: Visit) -> None:
    ask(visit)
    names = visit.tab.locator(".card h3").all_inner_texts()
    assert set(names) <= set(NAMES) and visit.tab.locator(".card b").count() == 0
    said = visit.tab.evaluate("fetch('/api/search?q=a%20red%20circle&k=20&everything=true').then((a) => a.json())")
    for number, hit in enumerate(said["results"][0]["hits"][:2]):
        if number == 0:
            visit.tab.locator(".card .play").first.click()
        else:
            visit.tab.locator("#player-after").click()
        visit.tab.wait_for_function("() => document.querySelector('video')?.played.length > 0")
        visit.tab.wait_for_function("() => document.querySelector('video').paused")
        second = visit.tab.evaluate("document.querySelector('video').currentTime")
        assert hit["start"] - 0.05 <= second <= hit["end"] + 0.05
    visit.tab.keyboard.press("Escape")
    # A dialog tells that it closed in a later turn.
    visit.tab.wait_for_function("() => !document.querySelector('video')")


def test_keys_alone_ask_play_and_close(visit: Visit) -> None:
    tab = visit.tab
    assert tab.evaluate("document.activeElement.id") == "q"
    tab.keyboard.type("a red circle")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".card")
    for _ in range(20):
        tab.keyboard.press("Tab")
        if "play" in tab.evaluate("document.activeElement.className"):
            break
    tab.keyboard.press("Enter")
    tab.wait_for_function("() => document.querySelector('#player video')?.readyState > 1")
    assert tab.evaluate("document.getElementById('player').contains(document.activeElement)")
    tab.keyboard.press("Escape")
    assert not tab.locator("#player").is_visible()


AT = "Number(new URL(document.querySelector('video').src).searchParams.get('at'))"  # `currentSrc` comes later


def test_what_the_browser_cannot_play_is_transcoded_on_the_way_and_said(browser: Any, unplayable: str) -> None:
    visit = Visit(browser, unplayable)
    tab = visit.tab
    tab.evaluate("document.getElementById('all').checked = true")
    ask(visit)
    for number in range(2):  # a film with sound, and one that is long enough to go elsewhere in it
        (tab.locator(".card .play").first if number == 0 else tab.locator("#player-after")).click()
        tab.wait_for_function("() => document.querySelector('video')?.currentSrc.includes('/api/stream')")
        tab.wait_for_function("() => document.querySelector('video').played.length > 0")
        assert "Transcoded for this browser" in tab.locator("#player-note").inner_text()
        assert tab.evaluate("document.querySelector('video').videoWidth") == 160
        tab.wait_for_function("() => document.querySelector('video').paused")
    curve = tab.locator("#player-curve svg").bounding_box()
    assert curve is not None
    tab.mouse.click(curve["x"] + curve["width"] * 0.5, curve["y"] + 5)
    tab.wait_for_function(f"() => {AT} > 2 && document.querySelector('video').played.length > 0")
    tab.keyboard.press("Escape")
    tab.wait_for_function("() => !document.querySelector('video')")
    assert [one for one in visit.wrong if "416" not in one] == []
    tab.context.close()


SECOND = "document.querySelector('video').currentTime"


def value_of(tab: Any) -> float:
    return float(tab.locator("#player-curve").get_attribute("aria-valuenow"))


def test_keys_and_drags_on_the_curve_go_elsewhere_in_the_film(visit: Visit) -> None:
    ask(visit)
    tab = visit.tab
    tab.locator(".card .play").first.click()
    tab.wait_for_function("() => document.querySelector('video')?.played.length > 0")
    tab.wait_for_function("() => document.querySelector('video').paused")
    curve = tab.locator("#player-curve")
    end = float(curve.get_attribute("aria-valuemax"))
    assert (curve.get_attribute("role"), curve.get_attribute("aria-valuemin")) == ("slider", "0") and 4 < end < 6
    assert curve.get_attribute("aria-label").startswith("Place in the file; the moment is 0:0")
    for _ in range(20):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.id") == "player-curve":
            break
    for key, second in (("Home", 0.0), ("ArrowRight", 1.0), ("ArrowUp", 2.0), ("ArrowLeft", 1.0), ("PageUp", end),
                        ("ArrowDown", end - 1), ("PageDown", 0.0), ("End", end)):  # fmt: skip
        tab.keyboard.press(key)
        tab.wait_for_function(f"() => Math.abs({SECOND} - {second}) < 0.11")
        assert abs(value_of(tab) - second) < 0.11
    assert curve.get_attribute("aria-valuetext") == f"0:{end:04.1f} of 0:{end:04.1f}"
    box = curve.bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 9)
    tab.mouse.down()
    for share in (0.6, 0.2):
        tab.mouse.move(box["x"] + box["width"] * share, box["y"] + 60, steps=4)  # below it is still dragged
        tab.wait_for_function(f"() => Math.abs({SECOND} - {end * share}) < 0.11")
        assert abs(value_of(tab) - end * share) < 0.11
    tab.mouse.up()
    tab.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 9)
    assert abs(value_of(tab) - end * 0.2) < 0.11  # nothing is held any more
    require_accessible(visit)


def test_a_film_that_is_converted_is_asked_once_for_where_the_keys_come_to_rest(browser: Any, unplayable: str) -> None:
    visit = Visit(browser, unplayable)
    tab = visit.tab
    tab.evaluate("document.getElementById('all').checked = true")
    ask(visit)
    tab.locator(".card .play").first.click()
    tab.wait_for_function("() => document.querySelector('video')?.played.length > 0")
    tab.wait_for_function("() => document.querySelector('video').paused")
    before = [url for url in visit.asked if "/api/stream" in url]
    tab.locator("#player-curve").focus()
    tab.evaluate(  # in one go: a machine that pauses between two keys would have gone there
        """for (const key of ["Home", "ArrowRight", "ArrowRight", "ArrowRight"])
             document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key }));"""
    )
    assert value_of(tab) == 3.0  # the slider is there before the film is
    tab.wait_for_function(f"() => {AT} === 3 && document.querySelector('video').played.length > 0")
    asked = {url for url in visit.asked if "/api/stream" in url and url not in before}
    assert [url.rpartition("at=")[2] for url in asked] == ["3.000"]
    tab.keyboard.press("Escape")
    tab.wait_for_function("() => !document.querySelector('video')")
    tab.context.close()


def test_a_clip_is_saved_and_a_selection_exported_by_keys_alone(visit: Visit, served: str) -> None:
    ask(visit)
    tab = visit.tab
    for name in ("Save clip", "Select"):
        reach(visit, name)
        if name == "Select":
            tab.keyboard.press("Space")
            continue
        with tab.expect_download() as coming:
            tab.keyboard.press("Enter")
        clip = coming.value
        assert clip.suggested_filename.startswith("001_") and clip.suggested_filename.endswith(".mp4")
        assert len(decode_all(clip.path())) > 1
    assert tab.locator("#taking-count").inner_text() == "1 moment selected"
    reach(visit, "Export")
    with tab.expect_download() as coming:
        tab.keyboard.press("Enter")
    assert coming.value.suggested_filename == "moments.otio"
    assert json.loads(coming.value.path().read_bytes())["OTIO_SCHEMA"].startswith("Timeline")
    reach(visit, "Select all")
    tab.keyboard.press("Enter")
    reach(visit, "Save clips", back=True)
    tab.keyboard.press("Enter")
    tab.wait_for_function("() => document.getElementById('told').textContent.includes('clips saved in')")
    folder = Path(json.loads(urllib.request.urlopen(f"{served}api/library").read())["clips"])
    assert len(list(folder.glob("*.mp4"))) == tab.locator(".pick input:checked").count()
    require_accessible(visit)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def reach(visit: Visit, name: str, *, back: bool = False) -> None:
    """Go by Tab to what has a name."""
    named = "document.activeElement.textContent.trim() || document.activeElement.labels?.[0]?.textContent"
    for _ in range(60):
        visit.tab.keyboard.press("Shift+Tab" if back else "Tab")
        if (visit.tab.evaluate(named) or "").startswith(name):
            return
    raise AssertionError(f"no {name} within 60 steps")


def test_a_dropped_picture_and_more_like_this_are_asked_with(visit: Visit) -> None:
    out = io.BytesIO()
    Image.new("RGB", (80, 60), (200, 20, 20)).save(out, "PNG")
    visit.tab.evaluate(
        """(data) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const moved = new DataTransfer();
          moved.items.add(new File([bytes], "a.png", { type: "image/png" }));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: moved, bubbles: true, cancelable: true }));
        }""",
        base64.b64encode(out.getvalue()).decode(),
    )
    visit.tab.wait_for_selector(".card")
    assert visit.tab.locator("#parts li").inner_text().startswith("a picture")
    visit.tab.locator(".card .does button").first.click()
    visit.tab.wait_for_function("() => document.querySelector('#parts li')?.textContent.startsWith('like ')")
    visit.tab.wait_for_function("() => !document.getElementById('state').textContent.startsWith('Searching')")
    assert visit.tab.locator("#state.wrong").count() == 0


@pytest.mark.parametrize("visit", LOOKS, indirect=True, ids=lambda look: f"{look[0]}-{look[1]}")
def test_the_page_says_what_a_watcher_does_and_what_failed(visit: Visit, served: str) -> None:
    with urllib.request.urlopen(f"{served}api/library") as answer:
        workspace = Workspace(Path(json.load(answer)["workspace"]))
    assert visit.tab.locator("#watch").is_hidden()  # none runs
    board = Board(workspace, WatchStatus(workspace=str(workspace), state="starting", clips=3))
    with files.lock(workspace.watch_folder):
        board.say(
            state="working", progress=Doing("encoding frames", 96, 480), settling=1, failed=2,
            failures=[Flaw('<img src=x onerror="document.title=1">.mp4', "zero bytes"), Flaw("a/" * 200, "zero bytes")],
        )  # fmt: skip
        visit.tab.wait_for_selector("#watch p")
        said = visit.tab.locator("#watch p").inner_text()
        assert said == (
            "New videos are being taken in; encoding frames: 96 of 480; 1 video still being written; 2 videos failed."
        )
        visit.tab.locator("#watch summary").click()
        assert "<img src=x" in visit.tab.locator("#watch li").first.inner_text()
        assert visit.tab.locator("#watch img").count() == 0
        assert visit.tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        require_accessible(visit)
        board.say(state="waiting", progress=None, settling=0, read=1, clips=4)
        visit.tab.wait_for_function("() => document.querySelector('#watch p').textContent.includes('read so far')")
        assert visit.tab.locator("#watch details").get_attribute("open") is not None  # what was opened stays open
    visit.tab.wait_for_function("() => document.getElementById('watch').hidden")


def test_the_page_for_programs_lists_the_addresses(browser: Any, served: str) -> None:
    visit = Visit(browser, f"{served}docs")
    visit.tab.wait_for_selector("h2")
    assert "GET /api/search" in visit.tab.locator("h2").all_inner_texts()
    require_accessible(visit)
    assert visit.wrong == [] and all(url.startswith((served, "data:")) for url in visit.asked)
    visit.tab.context.close()
