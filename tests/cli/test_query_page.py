"""`tvr query --html`: the answer that is printed, as a page; and what it refuses before it searches."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import require_sound
from typer.testing import CliRunner, Result
from videos import make_video

from tvr_cli.cli import app

SRT = "1\n00:00:00,100 --> 00:00:00,900\nThe <b>zeppelin</b> lands.\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small films, one with subtitles, searched once by the picture and by what is said."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TVR_BACKBONE", "demo-tiny")
        (folder / "films").mkdir()
        for number, name in enumerate(("lake.mp4", "street.mp4", "<b>&'film'.mp4")):
            make_video(folder / "films" / name, 20 + number, fps=10, size=(64, 64), gop=5)
        (folder / "films" / "lake.srt").write_text(SRT)
        words = [
            "extract-frames",
            str(folder / "films"),
            "-o",
            str(folder / "out"),
            "--size",
            "64",
            "--num-frames",
            "12",
        ]
        assert CliRunner().invoke(app, words).exit_code == 0
        assert query(folder, "a red star").exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def demo_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")


def query(folder: Path, *words: str, piped: str | None = None) -> Result:
    return CliRunner().invoke(app, ["query", *words, "--all", "-o", str(folder / "out")], input=piped)


def test_the_table_is_printed_as_without_it_and_the_page_shows_the_same(library: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    plain, shown = query(library, "a red star"), query(library, "a red star", "--html", str(page))
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout == plain.stdout and f"wrote {page}: 3 moments, 3 with a picture" in shown.stderr
    one = query(library, "a red star", "-k", "1", "--html", str(tmp_path / "one.html"))
    assert "one.html: 1 moment, 1 with a picture" in one.stderr
    found = require_sound(page.read_text("utf-8"), scripts=1)
    names = [one.text for one in found if one.has_class("name")]
    hits = json.loads(query(library, "a red star", "--json").stdout)["results"][0]["hits"]
    assert names == [Path(hit["path"]).name for hit in hits]
    assert len([one for one in found if one.tag == "polygon"]) == 3  # a curve each


@pytest.mark.parametrize("form", ["--json", "--paths"])
def test_the_page_goes_with_every_form_of_the_answer_and_leaves_it_as_it_is(form, library, tmp_path):
    page = tmp_path / "p.HTM"
    plain, shown = query(library, "a red star", form), query(library, "a red star", form, "--html", str(page))
    assert shown.exit_code == 0 and shown.stdout == plain.stdout and page.is_file()


@pytest.mark.parametrize("name", ["p.txt", "p", "html", "p.html.gz"])
def test_a_page_of_another_ending_is_refused_before_anything_is_searched(name: str, tmp_path: Path) -> None:
    refused = query(tmp_path / "no library", "a red star", "--html", str(tmp_path / name))
    assert refused.exit_code == 2 and refused.stderr == (
        f"error: --html: expected a file ending in .html or .htm, found '{tmp_path / name}'\n"
    )


def test_sentences_of_stdin_are_sections_and_words_that_were_said_are_shown(library: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = query(library, "-", "--channel", "both", "--html", str(page), piped="zeppelin\na blue square\n")
    assert done.exit_code == 0, done.stderr
    found = require_sound(page.read_text("utf-8"), scripts=1)
    assert [one.text for one in found if one.tag == "h2"] == ["zeppelin", "a blue square"]
    assert "The zeppelin lands." in [one.text for one in found if one.tag == "blockquote"]
    shutil.rmtree(library / "out" / "speech")


def test_a_file_that_is_there_is_refused_before_anything_is_searched(library: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    refused = query(tmp_path / "no library", "a red star", "--html", str(page))
    assert refused.exit_code == 2 and "replace it with --overwrite" in refused.stderr and page.read_text() == "mine"
    replaced = query(library, "a red star", "--html", str(page), "--overwrite")
    assert replaced.exit_code == 0 and page.read_text("utf-8").startswith("<!doctype html>")
    assert query(library, "a red star", "--html", str(tmp_path)).exit_code == 2


def test_a_page_that_cannot_be_written_is_a_sentence_and_leaves_nothing(library: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = query(library, "a red star", "--html", str(tmp_path / "file" / "page.html"))
    assert refused.exit_code == 4 and "page.html" in refused.stderr and "Traceback" not in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_has_gone_keeps_its_card(library: Path, tmp_path: Path) -> None:
    moved = library / "films" / "street.mp4"
    try:
        moved.rename(tmp_path / "street.mp4")
        done = query(library, "a red star", "--html", str(tmp_path / "page.html"))
    finally:
        (tmp_path / "street.mp4").rename(moved)
    assert done.exit_code == 0 and "1 file of the answer was renamed, moved or deleted" in done.stderr
    found = require_sound((tmp_path / "page.html").read_text("utf-8"), scripts=1)
    assert len([one for one in found if one.has_class("card")]) == 3
    assert len([one for one in found if one.has_class("play")]) == 2


def test_a_page_needs_no_torch(library: Path, tmp_path: Path) -> None:

    words = ["tvr", "query", "a red star", "--all", "-o", str(library / "out"), "--html", str(tmp_path / "page.html")]
    code = (
        "import sys\nfrom tvr_cli.cli import main\n"
        f"sys.argv = {words!r}\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'av', 'open_clip', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and (tmp_path / "page.html").is_file(), done.stderr
