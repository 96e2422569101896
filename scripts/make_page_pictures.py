"""Make the pictures of pages in docs/images: `tvr query --html` and `tvr explain --out`, seen in a browser.

    pip install playwright
    python scripts/make_page_pictures.py --chromium /usr/bin/chromium

Makes films of the toy world, one with a subtitle, and asks them; everything follows from the seed.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from pathlib import Path

import make_moment_films
from PIL import Image
from typer.testing import CliRunner

from tvr_cli.cli import app

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
FILMS = ("beach walk.mp4", "harbour 2019.mp4", "kitchen.mp4", "night train.mp4")
SENTENCE = "a red circle moves to the left"
SUBTITLE = "1\n00:01:15,000 --> 00:01:16,200\nLook: a red circle moves to the left!\n"
COLOURS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    os.environ["TVR_BACKBONE"] = "demo-tiny"
    with tempfile.TemporaryDirectory(prefix="page-pictures-") as name:
        folder = Path(name)
        films = folder / "films"
        make_moment_films.make(films, "stretched", 12 * len(FILMS), 12)
        for made, called in zip(sorted(films.glob("*.mp4")), FILMS, strict=True):
            made.rename(films / called)
        (films / FILMS[1]).with_suffix(".srt").write_text(SUBTITLE)
        os.chdir(folder)
        tvr("extract-frames", "films", "--fps", "4", "--size", "224")
        tvr("query", SENTENCE, "--channel", "both", "--all", "-k", "8", "--html", "page.html")
        tvr("explain", SENTENCE, f"{FILMS[0]}@0:00-0:40", "--out", "why.html")
        shoot(options.chromium, folder)


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


def save(png: bytes, to: Path) -> None:
    """Write a picture with few colours, which these have: a third of the bytes."""
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(COLOURS, kmeans=1, dither=Image.Dither.NONE).save(to, optimize=True)
    print(f"{to}: {to.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
