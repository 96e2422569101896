"""What one can ask with: sums of sentences, pictures and moments; how each is said, and what it finds."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.data.demo_world.corpus import WorldOptions, make
from tvr_cli.engine.searching import light, sums
from tvr_cli.engine.searching import session as sessions
from tvr_cli.engine.searching.asked import Asked
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.engine.searching.question import Part, Picture, Question, Sentence, Stretch, asking, features_of
from tvr_cli.engine.searching.session import Session
from tvr_cli.errors import ConfigError, DataError, DecodeError
from tvr_cli.plans import FramePlan
from tvr_cli.results.found import Hit
from tvr_cli.stores.decoding import still
from tvr_cli.stores.decoding.still import Still
from tvr_cli.stores.decoding.types import unheard
from tvr_cli.stores.frames.store import decode_jpeg
from tvr_cli.workspace import Workspace

pytestmark = pytest.mark.usefixtures("warm_readers")


def png() -> bytes:
    Image.effect_noise((64, 64), 50).save(data := io.BytesIO(), "PNG")
    return data.getvalue()


PNG = png()


def tvr(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def of(*parts: tuple[float, str]) -> Question:
    return Question(tuple(Part(Sentence(text), weight) for weight, text in parts))


@pytest.fixture(scope="module", params=["clips", "films"])
def out(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of small films, by clips of twelve frames, or by time."""
    folder = tmp_path_factory.mktemp("asked")
    make(folder / "videos", WorldOptions(train=3, val=1, test=3, captions=1))
    rate = ["--fps", 4] if request.param == "films" else ["--num-frames", 12]
    tvr("extract-frames", folder / "videos", "-o", folder / "out", "--size", 64, "--workers", 1, *rate)
    tvr("precompute-features", "-o", folder / "out", "--backbone", "demo-tiny")
    tvr("index", "-o", folder / "out")
    return folder / "out"


# ---------------------------------------------------------------------------------------------------- how it is said


def test_a_text_is_the_question_of_a_sentence():
    assert asking("a dog") == of((1, "a dog")) and asking("a dog").sentence == "a dog" == asking("a dog").text
    assert of((2, "a dog")).sentence == "a dog"  # a weight alone changes no direction


def test_a_sum_is_said_as_it_may_be_typed():
    parts = (
        Part(Sentence("a dog")), Part(Picture(Path("beach.jpg")), 2), Part(Stretch("a.mp4", 3, 4.5), -0.5),
        Part(Stretch("b.mp4"), -1),
    )  # fmt: skip
    asked = Question(parts)
    assert asked.text == "a dog + 2:image:beach.jpg - 0.5:like:a.mp4@3-4.5 - like:b.mp4"
    assert asked.sentence is None and not asked.of_words and of((1, "a"), (-1, "b")).of_words


# ---------------------------------------------------------------------------------------------------- what a sum is


def test_a_sum_is_that_of_unit_vectors_and_as_long_as_its_parts_on_average():
    known = {"a": np.array([3.0, 0.0]), "b": np.array([0.0, 1.0])}
    found = features_of(of((2, "a"), (-1, "b")), lambda what: known[str(what)])
    assert found / np.linalg.norm(found) == pytest.approx(np.array([2, -1]) / 5**0.5)
    assert np.linalg.norm(found) == pytest.approx((2 * 3 + 1 * 1) / 3)
    assert features_of(of((2, "a")), lambda what: known[str(what)]) is known["a"]


@pytest.mark.parametrize("parts", [[(1, "a"), (-1, "a")], [(1, "a"), (0.5, "c"), (0.5, "c")]])
def test_a_sum_of_which_nothing_is_left_is_refused(parts):
    known = {"a": np.array([1.0, 0.0]), "c": np.array([-2.0, 0.0])}
    with pytest.raises(ConfigError, match="a sum of which nothing is left: a "):
        features_of(of(*parts), lambda what: known[str(what)])


# ------------------------------------------------------------------------------------------------------ what it finds


def spans(hits):
    return [(hit.video_id, hit.start, hit.end, hit.peak) for hit in hits]


def test_sums_of_sentences_are_answered_alike_with_torch_and_without(out):
    asked = [
        "a red circle", of((1, "a red circle"), (1, "a star moves left")), of((1, "a star"), (-0.5, "a red circle")),
        of((3, "a red circle"))
    ]  # fmt: skip
    options = SearchOptions(k=5, per_file=0)
    session = Session(Workspace(out), Asked(), offline=True).answer(asked, options)
    lightly = light.answer(Workspace(out), Asked(), asked, options)
    assert lightly is not None and all(session)
    for one, other in zip(session, lightly, strict=True):
        assert spans(one) == spans(other)
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=1e-3)
    assert spans(session[0]) == spans(session[3]) and session[1] != session[0] != session[2]


FILM = "test/00000.mp4"
OPEN: dict[Path, Session] = {}


def film(out: Path) -> Path:
    return out.parent / "videos" / FILM


@pytest.fixture
def picture(out: Path, tmp_path: Path) -> Path:
    """The sixth frame of a film, half of its first second, as a picture of its own."""
    with av.open(str(film(out))) as opened:
        list(opened.decode(video=0))[5].to_image().save(tmp_path / "still.png")
    return tmp_path / "still.png"


def ask(out: Path, *parts: Part, **options: int) -> list[Hit]:
    session = OPEN.setdefault(out, Session(Workspace(out), Asked(), offline=True))
    (hits,) = session.answer([Question(parts)], SearchOptions(**options))
    return hits


def test_a_picture_finds_the_moment_that_it_is_of(out, picture):
    best, other, *_ = ask(out, Part(Picture(picture)))
    assert best.video_id == FILM and best.start < 0.6 and best.end <= 1.0
    assert 1.001 > best.score > 0.85 > other.score, "a cosine, of features that were made in the same way"
    assert ask(out, Part(Picture(picture), 2))[0] == best


def test_a_picture_and_words_are_weighed_against_each_other(out, picture):
    words = Sentence("a red circle moves left")
    heavy, light = (ask(out, Part(Picture(picture), weight), Part(words))[0] for weight in (100, 0.01))
    assert heavy.video_id == FILM != light.video_id
    assert heavy.score > 0.85 and light.score < 0.6, "pictures lie nearer to each other than to words"


def test_a_moment_of_the_library_never_finds_itself(out, picture):
    asked = Part(Stretch(FILM, 0.3, 0.8))
    found = ask(out, asked, k=100, per_file=0)
    assert found and not [hit for hit in found if hit.video_id == FILM and hit.start < 0.8 and hit.end > 0.3]
    by_path = ask(out, Part(Stretch(str(film(out)), 0.3, 0.8)), k=100, per_file=0)
    assert by_path == found and ask(out, Part(Stretch(FILM)), k=100)[0].video_id != FILM
    # What is seen in it is what is seen in a frame of it.
    others = [hit.video_id for hit in ask(out, Part(Picture(picture)), k=100) if hit.video_id != FILM]
    assert ask(out, asked)[0].video_id == others[0]


def test_what_is_not_in_the_library_is_told(out):
    for stretch, said in [
        (Stretch("test/00009.mp4", 0, 1), "none of its 7; did you mean test/0000"),
        (Stretch(FILM, 1.5, 9), "of which the library has 2.0 s, found 1.5-9"),
        (Stretch("00000.mp4"), "found 3 that '00000.mp4' may be"),
    ]:
        with pytest.raises(DataError, match=said):
            ask(out, Part(stretch))


def test_what_is_no_picture_is_told(tmp_path):
    (text := tmp_path / "text.png").write_text("not a picture")
    (cut := tmp_path / "cut.png").write_bytes(PNG[: len(PNG) // 2])
    Image.new("1", (20_000, 20_000)).save(bomb := tmp_path / "bomb.png")
    for path, said in [(text, "no format of pictures"), (cut, "truncated"), (bomb, "20000x20000 pixels are too many")]:
        with pytest.raises(DecodeError, match=said):
            still.decode(Still(path, FramePlan()), unheard)
    for path, said in [
        (text, "asked with by --like"),
        (tmp_path, "a folder"),
        (tmp_path / "none.png", "no file there"),
    ]:
        with pytest.raises(DataError, match=said):
            still.read(path, FramePlan())


def test_a_method_that_ranks_by_more_than_frames_refuses_sums(out, picture, monkeypatch):
    """By clips; frames by time answer whatever ranks the windows."""
    monkeypatch.setattr(sums._light, "METHODS", {})
    monkeypatch.setattr(sessions, "_by_frames_alone", lambda scorer: False)
    if Workspace(out).frames().plan.has_timelines:
        assert ask(out, Part(Picture(picture)))[0].video_id == FILM
        return
    with pytest.raises(ConfigError, match=r"this index is of text_guided, which ranks by more; .*: tvr index"):
        ask(out, Part(Picture(picture)))


def test_a_picture_is_turned_upright_and_put_on_white(tmp_path):
    image = Image.new("RGBA", (80, 40), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # its left side is above
    image.save(tmp_path / "a.png", exif=exif)
    jpeg = still.decode(Still(tmp_path / "a.png", FramePlan(size=64, fit="squash")), unheard)
    pixels = decode_jpeg(jpeg).astype(int)
    assert pixels.shape == (64, 64, 3)
    assert abs(pixels[:24] - 255).max() < 12 and abs(pixels[40:] - (254, 0, 0)).max() < 12


# ------------------------------------------------------------------------------------------------ on the command line


def query(out: Path, *words: object) -> list[dict[str, Any]]:
    return json.loads(tvr("query", *words, "-o", out, "--json"))["results"]


def test_the_command_asks_with_all_of_it(out, picture):
    (by_picture,) = query(out, "--image", picture)
    assert by_picture["query"] == f"image:{picture}" and by_picture["hits"][0]["video_id"] == FILM
    (weighed,) = query(out, "a red circle", "--plus", f"9:image:{picture}", "--minus", "0.1:a star")
    assert weighed["hits"][0]["video_id"] == FILM
    assert weighed["query"] == f"a red circle + 9:image:{picture} - 0.1:a star"
    (like,) = query(out, "--like", f"{FILM}@0-0:01", "-k", 50, "--in", "test/")
    assert {hit["video_id"] for hit in like["hits"]} <= {"test/00000.mp4", "test/00001.mp4", "test/00002.mp4"}
    assert not any(hit["video_id"] == FILM and hit["start"] < 1 for hit in like["hits"])
    many = CliRunner().invoke(app, ["query", "-", "--plus", "a star", "-o", str(out), "--json"], input="a\nb\n")
    assert [answer["query"] for answer in json.loads(many.stdout)["results"]] == ["a + a star", "b + a star"]


def test_a_confidence_is_rounded_down_for_what_is_below_a_line_is_below_it():
    hit = Hit(rank=1, score=0.0, video_id=FILM, path=FILM, start=0.0, end=1.0, peak=0.0)
    shown = [replace(hit, confidence=sure).percent for sure in (0.9499, 0.95, 0.29, 0.999, 1.0, 0.0, None)]
    assert shown == [94, 95, 29, 99, 100, 0, None]


@pytest.mark.parametrize("device", ["auto", "cpu:0"], ids=["without torch", "with torch"])
def test_filters_hold_with_torch_and_without(out, tmp_path, device):
    (tmp_path / "list").write_text("test/00000.mp4\ntest/00001.mp4\n")
    flags = ["--in", "test/", "--not-in", tmp_path / "list", "--newer", "1d", "--all", "--device", device]
    (answer,) = query(out, "a red circle", "-k", 50, *flags)
    assert {hit["video_id"] for hit in answer["hits"]} == {"test/00002.mp4"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "expected a sentence to look for"),
        (["a", "--in", "*.mov"], 3, "is left to search: --in '*.mov' leaves out 7"),
        (["a", "--plus", "image:"], 2, "expected a file behind 'image:', such as image:beach.jpg"),
        (["a", "--minus", "2:like: "], 2, "expected a file behind 'like: ', such as like:film.mp4@3-4.5"),
        (["--like", f"{FILM}@abc"], 3, f"expected seconds behind the @ of '{FILM}@abc', such as {FILM}@3-4.5"),
        (["--like", f"{FILM}@7-9"], 3, "of which the library has 2.0 s, found 7-9"),
        (["a", "--plus", "b", "--channel", "both"], 2, "a sum, a picture or a moment has none"),
        (["a", "--minus", "a"], 2, "a sum of which nothing is left: a - a"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(out, words, code, said):
    result = CliRunner().invoke(app, ["query", *words, "-o", str(out)])
    assert result.exit_code == code and said in result.stderr and not result.stdout
