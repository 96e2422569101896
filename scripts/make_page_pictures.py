"""Make the pictures in docs/images of what is seen in a browser: `tvr query --html`, `tvr explain --out`, `tvr serve`.

    pip install playwright
    python scripts/make_page_pictures.py --chromium /usr/bin/chromium

Makes films of the toy world, one with a subtitle, and asks them; everything follows from the seed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import socket
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make_moment_films
from PIL import Image
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.server import running
from tvr_cli.server.app import create_app
from tvr_cli.server.guard import Rules
from tvr_cli.server.library import Library
from tvr_cli.workspace import Workspace

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
FILMS = ("beach walk.mp4", "harbour 2019.mp4", "kitchen.mp4", "night train.mp4")
SENTENCE = "a red circle moves to the left"
SUBTITLE = "1\n00:01:15,000 --> 00:01:16,200\nLook: a red circle moves to the left!\n"
COLOURS = 256
# Of the server, each also with its player; those of SHOWN go to docs/images.
LOOKS = (
    ("serve", 1280, 900, "light"),
    ("serve-narrow", 390, 760, "dark"),
    ("serve-dark", 1280, 900, "dark"),
    ("serve-narrow-light", 390, 760, "light"),
)
SHOWN = ("serve", "serve-player", "serve-narrow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--all", type=Path, metavar="DIR", help="where all looks of the server go, to be looked at")
    options = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    os.environ["TVR_BACKBONE"] = "demo-tiny"
    with tempfile.TemporaryDirectory(prefix="page-pictures-") as name:
        folder = Path(name)
        films = folder / "films"
        make_moment_films.Films("stretched", 12 * len(FILMS), 12).make(films)
        for made, called in zip(sorted(films.glob("*.mp4")), FILMS, strict=True):
            made.rename(films / called)
        (films / FILMS[1]).with_suffix(".srt").write_text(SUBTITLE)
        if options.all is not None:
            options.all = options.all.absolute()
        os.chdir(folder)
        tvr("extract-frames", "films", "--fps", "4", "--size", "224")
        tvr("query", SENTENCE, "--channel", "both", "--all", "-k", "8", "--html", "page.html")
        tvr("explain", SENTENCE, f"{FILMS[0]}@0:00-0:40", "--out", "why.html")
        shoot(options.chromium, folder)
        tvr("index", "--method", "text_guided")
        with served(Workspace(folder / "out")) as address:
            shoot_server(options.chromium, address, options.all)


def tvr(*words: str) -> None:
    done = CliRunner().invoke(app, list(words))
    if done.exit_code:
        raise SystemExit(f"tvr {' '.join(words)}: {done.stderr}")


def shoot(chromium: str | None, folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    looks = (("page.html", "page", 1280, 900, "light"), ("page.html", "page-narrow", 390, 760, "dark"),
             ("why.html", "explain", 1280, 1000, "light"))  # fmt: skip
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for page, name, width, height, scheme in looks:
            tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            tab.goto((folder / page).as_uri())
            tab.evaluate("for (const one of document.querySelectorAll('.folder')) one.textContent = 'films/'")
            save(tab.screenshot(), IMAGES / f"{name}.png")
        browser.close()


@contextlib.contextmanager
def served(workspace: Workspace) -> Iterator[str]:
    """Serve a workspace from this process."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as line:
        port = line.getsockname()[1]
        made = create_app(Library(workspace), Rules(running.hosts_of("127.0.0.1"), port))
        server = uvicorn.Server(uvicorn.Config(made, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [line]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}/"
        server.should_exit = True
        thread.join(30)


def shoot_server(chromium: str | None, address: str, everything: Path | None) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running_browser:
        browser = running_browser.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        urllib.request.urlopen(f"{address}api/search?q=a").close()  # what is said of a first question is no part of it
        for look, width, height, scheme in LOOKS:
            tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            tab.goto(address)
            tab.locator("#all").evaluate("box => { box.checked = true; }")
            tab.locator("#q").fill(SENTENCE)
            tab.keyboard.press("Enter")
            tab.wait_for_function("() => document.querySelectorAll('.card img').length > 3")
            tab.wait_for_function("() => Array.from(document.images).slice(0, 4).every((image) => image.naturalWidth)")
            shorten = "one.textContent = one.textContent.replace(/\\/.*\\//, '')"
            tab.evaluate(f"for (const one of document.querySelectorAll('.folder, #library')) {shorten}")
            for box in range(2):
                tab.locator(".pick input").nth(box).check()
            tab.evaluate("scrollTo(0, 0); document.activeElement.blur()")
            keep(tab.screenshot(animations="disabled"), look, everything)
            stand_at_peak(tab, 1)
            keep(tab.screenshot(animations="disabled"), f"{look}-player", everything)
            tab.close()
        browser.close()


def stand_at_peak(tab: Any, number: int) -> None:
    """Open the player of a card, and let it stand where the moment is seen best: at its end another may begin."""
    tab.locator(".card .play").nth(number).click()
    tab.wait_for_function("() => document.querySelector('video')?.played.length")
    tab.wait_for_function("() => document.querySelector('video').paused")
    curve = tab.locator("#player-curve svg")
    end = float(curve.get_attribute("data-end"))
    start, length = (float(curve.locator(".moment").get_attribute(name)) * end / 1000 for name in ("x", "width"))
    peak = float(curve.locator(".peak").get_attribute("x1")) * end / 1000
    box = curve.bounding_box()
    tab.mouse.click(box["x"] + box["width"] * peak / end, box["y"] + box["height"] / 2)
    tab.wait_for_function(f"() => Math.abs(document.querySelector('video').currentTime - {peak}) < 0.1")
    tab.wait_for_function("() => !document.querySelector('video').seeking")
    second = tab.evaluate("document.querySelector('video').currentTime")
    if not start <= second <= start + length:
        raise SystemExit(
            f"the player stands at {second:.2f} s, outside of its moment, {start:.2f} to {start + length:.2f}"
        )


def keep(png: bytes, name: str, everything: Path | None) -> None:
    """Save a picture that a page shows, and all of them where they are wanted."""
    if name in SHOWN:
        save(png, IMAGES / f"{name}.png")
    if everything is not None:
        everything.mkdir(parents=True, exist_ok=True)
        save(png, everything / f"{name}.png")


def save(png: bytes, to: Path) -> None:
    """Write a picture with few colours, which these have: a third of the bytes."""
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(COLOURS, kmeans=1, dither=Image.Dither.NONE).save(to, optimize=True)
    print(f"{to}: {to.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
