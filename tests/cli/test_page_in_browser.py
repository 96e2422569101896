"""The page in headless Chromium: it plays moments by mouse and by keys alone, asks nobody, fits, and is accessible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_frames
from browsers import LOOKS, Visit, opened, require_accessible
from videos import make_video

from tvr_cli.engine.showing import explain_plot
from tvr_cli.engine.showing.page.write import write
from tvr_cli.results.explained import ExplainReport, WordShare
from tvr_cli.results.found import Answer, Curve, Hit, QueryReport
from tvr_cli.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
NAMES = (
    'a "quoted" <script>alert(1)</script> film.webm'.replace("/", "⁄"),
    "شاطئ 50% #1?.webm",
    "a name that is very long and has no blanks ".replace(" ", "_") * 4 + ".webm",
    "gone.webm",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two sentences over films of five seconds, with hostile names, a missing one and words."""
    folder = tmp_path_factory.mktemp("browser")
    (folder / "films").mkdir()
    for name in NAMES[:-1]:
        make_video(folder / "films" / name, 50, fps=10, codec="libvpx", gop=10)
    tiny_frames.write(folder / "out", [tiny_frames.clip(name, 4, size=224) for name in NAMES])
    curve = Curve(tuple(i / 10 for i in range(50)), tuple(abs(25 - i) / 25 for i in range(50)), 0.0, 1.0)
    hits = [
        Hit(i, 1 / i, name, str(folder / "films" / name), 2.0, 3.0, 2.5, missing=name == NAMES[-1], curve=curve)
        for i, name in enumerate(NAMES, 1)
    ]
    heard = [Hit(1, 0.5, NAMES[0], hits[0].path, 1.0, 2.0, 1.5, channel="speech", said="<b>Look</b> & see")]
    answers = [Answer("a dog <i>surfing</i>", hits, True, None, []), Answer("look", heard, True, None, [])]
    write(QueryReport(answers), Workspace(folder / "out"), folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def why(page: Path) -> Path:
    """A page of `tvr explain` about the first film, with a word too long for a phone."""
    words = [WordShare("a" * 60, 0.5, [0.1, 0.4, -0.2]), WordShare("<b>", -0.1, [0.0, -0.3, 0.1])]
    report = ExplainReport(
        "a <b>", NAMES[0], str(page.parent / "films" / NAMES[0]), "text_guided", None, 5.0, 0.5, 1.0, 2.0, 1.5,
        0.0, 0.6,
        [0.5, 1.5, 4.5], [0.2, 0.6, 0.1], words, [],
    )  # fmt: skip
    return explain_plot.draw(report, Workspace(page.parent / "out"), page.parent / "why.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from opened()


@pytest.fixture
def visit(browser: Any, page: Path, request: pytest.FixtureRequest) -> Iterator[Visit]:
    found = Visit(browser, page, *getattr(request, "param", (1280, "light")))
    yield found
    found.tab.context.close()


@pytest.mark.parametrize("visit", LOOKS, indirect=True, ids=lambda look: f"{look[0]}-{look[1]}")
def test_it_fits_asks_nobody_and_reports_no_error(visit: Visit, page: Path) -> None:
    tab = visit.tab
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate("Array.from(document.images).every((image) => image.naturalWidth > 0)")
    tab.locator("a.play").nth(2).click()
    tab.wait_for_function("() => document.querySelector('video')?.readyState > 1")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    inside = "(d) => { const r = d.getBoundingClientRect(); return r.left >= 0 && r.right <= innerWidth; }"
    assert tab.locator("#player").evaluate(inside) and tab.locator("#player").evaluate(
        "d => d.scrollWidth <= d.clientWidth"
    )
    assert visit.wrong == []
    assert all(url.startswith(("data:", page.parent.as_uri())) for url in visit.asked)


def test_nothing_of_a_video_is_loaded_before_it_is_asked_for(visit: Visit, page: Path) -> None:
    visit.tab.wait_for_timeout(300)
    assert [url for url in visit.asked if not url.startswith("data:")] == [page.as_uri()]
    assert visit.tab.locator("video").count() == 0


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_click_plays_the_file_inside_the_moment_and_stops_at_its_end(visit: Visit, number: int) -> None:
    visit.tab.locator("a.play").nth(number).click()
    assert 2.0 <= visit.second() <= 3.0
    visit.tab.wait_for_function("() => document.querySelector('video').paused")
    visit.tab.wait_for_function("() => !document.querySelector('video').seeking")
    assert 2.0 <= visit.second() <= 3.0
    visit.tab.locator("#player-close").click()
    assert not visit.tab.locator("#player").is_visible()
    # A dialog tells that it closed in a later turn.
    visit.tab.wait_for_function("() => !document.querySelector('video')")
    assert visit.wrong == []


def test_keys_alone_do_all_of_it(visit: Visit) -> None:
    tab = visit.tab
    reached: list[str] = []
    for _ in range(12):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.className || document.activeElement.tagName"))
        if reached[-1].endswith("play"):
            break
    assert reached[-1] == "stage play" and reached[:-1] == ["A", "A"]  # contents, then the first picture
    ring = "getComputedStyle(document.activeElement.closest('.card')).outlineStyle"
    assert tab.evaluate(ring) == "solid"
    tab.keyboard.press("Enter")
    assert 2.0 <= visit.second() <= 3.0
    assert tab.evaluate("document.getElementById('player').contains(document.activeElement)")
    tab.locator("#player-after").focus()
    tab.keyboard.press("Enter")
    tab.wait_for_function("() => document.getElementById('player-name').textContent.includes('شاطئ')")
    tab.keyboard.press("Escape")
    assert not tab.locator("#player").is_visible()
    tab.wait_for_function("() => document.activeElement.dataset.name?.includes('شاطئ')")  # where the eye was last
    assert visit.wrong == []


def test_a_file_that_cannot_be_played_is_said(browser: Any, page: Path) -> None:
    film = page.parent / "films" / NAMES[0]
    film.rename(film.with_suffix(".away"))
    try:
        visit = Visit(browser, page)
        visit.tab.locator("a.play").first.click()
        note = visit.tab.locator("#player-note")
        visit.tab.wait_for_function("() => document.getElementById('player-note').textContent")
        assert "cannot play the file" in note.inner_text() and str(film) in note.inner_text()
        visit.tab.context.close()
    finally:
        film.with_suffix(".away").rename(film)


def test_without_scripts_a_picture_is_a_link_to_its_second(browser: Any, page: Path) -> None:
    visit = Visit(browser, page, java_script_enabled=False)
    link = visit.tab.locator("a.play").first
    assert (link.get_attribute("href") or "").endswith(".webm#t=2,3") and link.is_visible()
    visit.tab.context.close()


def test_who_asks_for_less_motion_has_none(browser: Any, page: Path) -> None:
    visit = Visit(browser, page, reduced_motion="reduce")
    duration = "getComputedStyle(document.querySelector('.go')).transitionDuration"
    assert visit.tab.evaluate(duration) == "0s"
    visit.tab.context.close()


@pytest.mark.parametrize("visit", LOOKS, indirect=True, ids=lambda look: f"{look[0]}-{look[1]}")
@pytest.mark.parametrize("playing", [False, True], ids=["page", "player"])
def test_axe_finds_nothing_serious(visit: Visit, playing: bool) -> None:
    if playing:
        visit.tab.locator("a.play").first.click()
        visit.tab.wait_for_function("() => document.querySelector('video')?.readyState > 1")
    require_accessible(visit)


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: f"{look[0]}-{look[1]}")
def test_the_page_of_explain_fits_and_is_accessible(browser: Any, why: Path, page: Path, look: tuple[int, str]) -> None:
    visit = Visit(browser, why, *look)
    assert visit.tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visit.wrong == [] and [url for url in visit.asked if not url.startswith("data:")] == [why.as_uri()]
    require_accessible(visit)
    visit.tab.context.close()
