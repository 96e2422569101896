"""Why a file answers a sentence: what a word contributes is what is lost without it; pictures and pages of that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pages import require_sound
from typer.testing import CliRunner, Result

from tvr_cli.api import open_workspace
from tvr_cli.cli import app
from tvr_cli.data.demo_world.corpus import WorldOptions, make
from tvr_cli.engine.searching import explain

SENTENCE = "a red circle moves to the left"
FILE = "test/00001.mp4"


@pytest.fixture(autouse=True)
def demo_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")


@pytest.fixture(scope="module", params=["films", pytest.param("clips", marks=pytest.mark.slow)])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four toy videos: twelve frames a clip, or frames by time."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TVR_BACKBONE", "demo-tiny")
        make(folder / "videos", WorldOptions(train=1, val=1, test=2, captions=1))
        out = open_workspace(folder / "out")
        out.extract(folder / "videos", size=64, workers=1, **({"fps": 4} if request.param == "films" else {}))
        out.search(SENTENCE)
    return folder


def run(library: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["explain", *words, "-o", str(library / "out")])


def told(library: Path, *words: str) -> dict:
    result = run(library, *words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_score_is_that_of_the_search_and_its_moment(library: Path) -> None:
    hits = open_workspace(library / "out").search(SENTENCE, k=100, min_confidence=None).results[0].hits
    best = next(hit for hit in hits if hit.video_id == FILE)
    found = told(library, SENTENCE, FILE)
    assert found["schema"] == "tvr/explain@1" and found["path"] == str(library / "videos" / FILE)
    for key in ("score", "start", "end", "peak"):
        assert found[key] == pytest.approx(getattr(best, key), abs=1e-4), key
    assert len(found["ts"]) == len(found["values"]) and found["ts"] == sorted(found["ts"])
    assert all(found["low"] - 1e-6 <= value <= found["high"] + 1e-6 for value in found["values"])


def test_a_word_contributes_what_is_lost_without_it(library: Path) -> None:
    out, found = open_workspace(library / "out"), told(library, SENTENCE, FILE)
    assert [word["word"] for word in found["words"]] == SENTENCE.split()
    assert all(len(word["values"]) == len(found["ts"]) for word in found["words"])
    without = told(library, "a red moves to the left", FILE)
    assert without["words"][1]["word"] == "red"
    if found["clips"]:  # the clip's own score; where single frames score it is the same moment's, not the best one's
        share = found["score"] - without["score"]
        assert found["words"][2]["contribution"] == pytest.approx(share, abs=1e-5)
        (clip,) = found["clips"]
        assert sum(clip["weights"]) == pytest.approx(1.0, abs=1e-4) and len(clip["weights"]) == len(clip["ts"])
        top = clip["weights"].index(max(clip["weights"]))
        assert found["values"][top] == pytest.approx(found["score"], abs=1e-5)
    else:
        at = [i for i, t in enumerate(found["ts"]) if found["start"] <= t < found["end"]]
        values = found["words"][2]["values"]
        mean = sum(values[i] for i in at) / len(at)
        assert found["words"][2]["contribution"] == pytest.approx(mean, abs=1e-4)
    hits = out.search("a red moves to the left", k=100, min_confidence=None).results[0].hits
    assert next(h.score for h in hits if h.video_id == FILE) == pytest.approx(without["score"], abs=1e-4)


def test_a_part_of_a_file_is_asked_about_alone(library: Path) -> None:
    found = told(library, SENTENCE, f"{FILE}@0:01-2.5")
    assert all(1.0 <= t <= 2.5 for t in found["ts"]) and found["seconds"] > 2.5
    refused = run(library, SENTENCE, f"{FILE}@1-9999")
    assert refused.exit_code == 3 and "9999" in refused.stderr


def test_it_is_drawn_as_the_ending_says(library: Path, tmp_path: Path) -> None:
    for name, begins in (("why.png", b"\x89PNG"), ("why.svg", b"<?xml"), ("why.html", b"<!doctype html>")):
        done = run(library, SENTENCE, FILE, "--out", str(tmp_path / name))
        assert done.exit_code == 0 and f"drew {tmp_path / name}" in done.stderr, done.stderr
        assert (tmp_path / name).read_bytes().startswith(begins)
    found = require_sound((tmp_path / "why.html").read_text("utf-8"), scripts=0)
    assert [one.text for one in found if one.attributes.get("scope") == "row"] == SENTENCE.split()
    assert sum(one.tag == "img" for one in found) == 8
    again = run(library, SENTENCE, FILE, "--out", str(tmp_path / "why.png"))
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    odd = run(library, SENTENCE, FILE, "--out", str(tmp_path / "why.gif"))
    assert odd.exit_code == 2 and ".png, .svg, .pdf or .html" in odd.stderr


def test_words_with_signs_of_other_languages_are_drawn_as_they_are(library: Path, tmp_path: Path) -> None:
    sentence = "<script>alert(1)</script> $x_1$ \u202e \\frac{1}{2} 朝"
    for name in ("why.png", "why.html"):
        done = run(library, sentence, FILE, "--out", str(tmp_path / name))
        assert done.exit_code == 0, done.stderr
        assert ("matplotlib's font lacks letters" in done.stderr) == (name == "why.png")
    found = require_sound((tmp_path / "why.html").read_text("utf-8"), scripts=0)
    assert next(one.text for one in found if one.tag == "h1").startswith("<script>alert(1)</script> $x_1$ \\u202e")


def test_the_table_says_it_in_words(library: Path) -> None:
    shown = run(library, SENTENCE, FILE).stdout.splitlines()
    assert shown[0].startswith(f"{FILE}: best at 0:0") and "by text_guided" in shown[0]
    assert [line.split()[0] for line in shown[3:]] == SENTENCE.split()


def test_what_cannot_be_explained_is_a_sentence(library: Path, tmp_path: Path) -> None:
    assert run(library, " ", FILE).exit_code == 2
    unknown = run(library, SENTENCE, "nothing.mp4")
    assert unknown.exit_code == 3 and "expected a file of the library" in unknown.stderr
    assert run(tmp_path, SENTENCE, FILE).exit_code == 3


def test_a_file_that_has_gone_is_explained_and_not_linked(library: Path, tmp_path: Path) -> None:
    film = library / "videos" / FILE
    shutil.move(film, tmp_path / "film.mp4")
    try:
        assert run(library, SENTENCE, FILE, "--out", str(tmp_path / "why.html")).exit_code == 0
    finally:
        shutil.move(tmp_path / "film.mp4", film)
    page = (tmp_path / "why.html").read_text("utf-8")
    assert "not there any more" in page and "href" not in page


def test_each_word_is_left_out_once() -> None:
    assert explain.without_a_word("a  red dog") == ["red dog", "a dog", "a red"]
    assert explain.without_a_word("dog") == [""]
