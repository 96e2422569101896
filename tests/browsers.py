"""A headless Chromium for tests, and what a visit of a page finds wrong.

Needs `playwright` and a Chromium (TVR_CHROMIUM, else what the system has), and axe-core's script where TVR_AXE says
(npm install axe-core). What is missing is skipped, and says so; TVR_BROWSER=required, as `.ci/run` has it, fails then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

CHROMIUM = os.environ.get("TVR_CHROMIUM") or next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
AXE = os.environ.get("TVR_AXE")
LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


def lacking(what: str) -> NoReturn:
    """Skip the test, or fail it where everything was to be there."""
    if os.environ.get("TVR_BROWSER") == "required":
        pytest.fail(what)
    pytest.skip(what)


def opened() -> Iterator[Any]:
    """Give a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("playwright is not installed (pip install playwright)")
    if CHROMIUM is None:
        lacking("there is no Chromium; TVR_CHROMIUM may name one")
    with sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Visit:
    """A tab on the page, and what went wrong in it."""

    def __init__(self, browser: Any, page: Path | str, width: int = 1280, scheme: str = "light", **more: Any):
        self.tab = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more).new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda said: self.wrong.append(f"{said.type}: {said.text}"))
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(page if isinstance(page, str) else page.as_uri())

    def second(self) -> float:
        """Where the video is, once it has arrived in the moment."""
        self.tab.wait_for_function("() => document.querySelector('video')?.currentTime >= 1")
        return float(self.tab.evaluate("document.querySelector('video').currentTime"))


def require_accessible(visit: Visit) -> None:
    """Hold what a tab shows to axe-core: nothing serious."""
    if AXE is None or not Path(AXE).is_file():
        lacking("TVR_AXE names no axe.min.js (npm install axe-core)")
    visit.tab.evaluate(Path(AXE).read_text("utf-8"))  # by the debugger: the page's own policy lets no script in
    found = visit.tab.evaluate("axe.run().then((found) => found.violations)")
    bad = [(one["id"], one["impact"], [node["html"][:120] for node in one["nodes"]]) for one in found]
    assert not [one for one in bad if one[1] in ("serious", "critical")], bad
