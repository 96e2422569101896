"""A page is one sound document, whatever names, sentences and subtitles hold, with or without videos and frames."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import urllib.parse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_frames
from pages import Element, elements, require_sound
from PIL import Image
from videos import make_video, read_barcode

from tvr_cli.engine.showing.page import markup, peaks, pictures
from tvr_cli.engine.showing.page.text import link, shown
from tvr_cli.engine.showing.page.write import WrittenPage, write
from tvr_cli.errors import ConfigError, EnvironmentProblem
from tvr_cli.results.found import Answer, Curve, Hit, QueryReport
from tvr_cli.stores.decoding.types import unheard
from tvr_cli.workspace import Workspace

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quotes\" 'and' &amp;",
    "line\nbreak\ttab",
    "שלום world",
    "\u202egnp.exe",
    'x" onerror="alert(1)',
    "-->]]></style></script>",
    "\udcff\x1b[31m",
    "javascript:alert(1)",
    "100% #1?=;:@",
    "https://example.org",
    "{{7*7}}${7}",
)
CURVE = Curve((0.0, 2.5, 5.0, 7.5), (0.1, 0.2, 0.9, 0.3), 0.0, 0.9)


def answer_of(query: str, hits: Sequence[Hit], nearest: Sequence[Hit] = ()) -> Answer:
    return Answer(query, hits, bool(hits), None, nearest)


def hit(rank: int, name: str, **more: object) -> Hit:
    found = Hit(rank, 0.5, name, f"/videos/{name}", 4.0, 6.0, 5.0, curve=CURVE)
    return replace(found, **more)  # type: ignore[arg-type]


def written(tmp_path: Path, *answers: Answer, **options: bool) -> tuple[WrittenPage, str]:
    done = write(QueryReport(answers), Workspace(tmp_path / "out"), tmp_path / "page.html", **options)
    return done, done.path.read_text(encoding="utf-8")


def with_frames(tmp_path: Path, *names: str) -> None:
    tiny_frames.simple(tmp_path / "out", dict.fromkeys(names, 4))


def cards(found: list[Element]) -> list[Element]:
    return [one for one in found if one.has_class("card")]


def test_a_moment_is_a_card_with_picture_curve_and_a_link_that_plays_it(tmp_path):
    with_frames(tmp_path, "a.mp4", "b.mp4")
    done, html = written(
        tmp_path, answer_of("a dog", [hit(1, "a.mp4"), hit(2, "b.mp4", start=1.25, end=3.5, peak=2.0)])
    )
    found = require_sound(html, scripts=1)
    assert (done.moments, done.pictures, done.size_bytes) == (2, 2, len(html.encode()))
    first, _ = cards(found)
    assert "a.mp4" in first.text and "score 0.500" in first.text and "best at 0:05.0" in first.text
    links = [one for one in found if one.has_class("play")]
    videos = os.path.relpath("/videos", tmp_path)
    assert [one.attributes["href"] for one in links] == [f"{videos}/a.mp4#t=4,6", f"{videos}/b.mp4#t=1.25,3.5"]
    assert links[1].text.split() == ["Play", "b.mp4,", "number", "2", "0:01.2–0:03.5"]
    images = [one for one in found if one.tag == "img"]
    data = [base64.b64decode((one.attributes["src"] or "").partition(",")[2]) for one in images]
    # Frames lie at 0, 2.5, 5 and 7.5 s: the ones nearest to 5 and to 2 s.
    store = Workspace(tmp_path / "out").frames()
    assert data == [next(store.read(["a.mp4"])).jpegs[2], next(store.read(["b.mp4"])).jpegs[1]]
    assert images[0].attributes["alt"] == "Frame of a.mp4 at 0:05.0"
    drawings = [one for one in found if one.tag == "svg"]
    assert len(drawings) == 2 and all("the moment is" in (one.attributes["aria-label"] or "") for one in drawings)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_sentences_and_words_are_shown_and_never_run(name, tmp_path):
    clean = os.fsdecode(os.fsencode(name)).replace("/", "⁄")
    hits = [hit(1, f"{clean}.mp4", channel="both", said=name), hit(2, "b.mp4", missing=True)]
    _, html = written(tmp_path, answer_of(name, hits))
    found = require_sound(html, scripts=1)
    (heading,) = [one for one in found if one.tag == "h1"]
    assert heading.text == shown(name)
    first = cards(found)[0]
    assert shown(f"{clean}.mp4") in first.text and shown(name) in first.text
    tame = answer_of("a", [replace(hits[0], said="a", path="/videos/a.mp4"), hits[1]])
    harmless = require_sound(written(tmp_path / "other", tame)[1], scripts=1)
    assert [one.tag for one in found] == [one.tag for one in harmless]
    (play,) = [one for one in found if one.has_class("play")]
    address = (play.attributes["href"] or "").removesuffix("#t=4,6")
    assert urllib.parse.unquote_to_bytes(address.rpartition("/")[2]) == os.fsencode(f"{clean}.mp4")


def test_what_is_shown_stays_on_its_line_and_turns_nothing_around_it():
    assert shown("a\nb\u202ec\udcff\u2066d\x1b\u2028") == "a\\nb\\u202ec\\udcff\\u2066d\\x1b\\u2028"
    assert (
        shown("می\u200cخواهم 日本\u3000語 👩\u200d🚀") == "می\u200cخواهم 日本\u3000語 👩\u200d🚀"
    )  # written with joiners


def test_the_style_and_the_script_are_all_that_the_policy_lets_in(tmp_path):
    _, html = written(tmp_path, answer_of("a dog", [hit(1, "a.mp4")]))
    found = elements(html)
    policy = next(o for o in found if o.attributes.get("http-equiv") == "Content-Security-Policy").attributes["content"]
    assert policy is not None and policy.startswith("default-src 'none'; ")
    for kind in ("style", "script"):
        inside = next(one.text for one in found if one.tag == kind)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy


def test_links_lead_from_the_folder_of_the_page_and_keep_every_byte(tmp_path):
    page = tmp_path / "pages" / "of a" / "page.html"
    assert link(str(tmp_path / "a b%.mp4"), page, 0.0, 1.5) == "../../a%20b%25.mp4#t=0,1.5"
    assert link(str(tmp_path / "pages" / "of a" / "a:b#1?.mp4"), page, 1.0, 1.0) == "a%3Ab%231%3F.mp4#t=1"
    assert link(os.fsdecode(bytes(tmp_path) + b"/\xff.mp4"), page, -1.0, 2.0) == "../../%FF.mp4#t=0,2"


def test_several_sentences_are_sections_with_contents(tmp_path):
    _, html = written(
        tmp_path, answer_of("a dog", [hit(1, "a.mp4")]), answer_of("a cat", []), answer_of("a dog", [hit(1, "a.mp4")])
    )
    found = require_sound(html, scripts=1)
    assert [one.text for one in found if one.tag == "h2"] == ["a dog", "a cat", "a dog"]
    (nav,) = [one for one in found if one.tag == "nav"]
    assert "a dog 1 moment" in nav.text and "a cat 0 moments" in nav.text
    sections = [one for one in found if one.tag == "section"]
    assert "Nothing was found." in sections[1].text and not cards(elements(sections[1].text))


def test_what_was_not_found_with_confidence_is_not_a_moment_but_the_nearest(tmp_path):
    far = [hit(i, f"{i}.mp4", confidence=0.5) for i in range(1, 9)]
    done, html = written(tmp_path, answer_of("a dog", [], far))
    assert done.moments == 4 and "Nothing was found with confidence; the nearest are:" in html
    sure = [hit(1, "a.mp4", confidence=0.999, more=1)]
    done, html = written(tmp_path, answer_of("a dog", sure, far), overwrite=True)
    (card,) = cards(require_sound(html, scripts=1))
    assert done.moments == 1 and "confidence 99 %" in card.text
    assert "8 more moments, found with less confidence" in html and "--per-file 0 -k 10 --all" in html

    far[-1] = replace(far[-1], more=4)  # of a file that no hit is of: its moments score better than the last one, too
    _, html = written(tmp_path, answer_of("a dog", sure, far), overwrite=True)
    assert "--per-file 0 -k 14 --all" in html


def test_a_missing_file_keeps_its_card_and_its_picture_and_leads_nowhere(tmp_path):
    with_frames(tmp_path, "a.mp4")
    done, html = written(tmp_path, answer_of("a dog", [hit(1, "a.mp4", missing=True)]))
    found = require_sound(html, scripts=1)
    assert done.pictures == 1 and not [one for one in found if one.has_class("play")]
    (card,) = cards(found)
    assert "Not there any more" in card.text and "/videos/" in card.text
    assert "1 file is not there any more" in html


def test_without_frames_or_files_a_card_says_that_there_is_no_picture(tmp_path):
    done, html = written(tmp_path, answer_of("a dog", [hit(1, "a.mp4")]))
    require_sound(html, scripts=1)
    assert done.pictures == 0 and "no picture" in html


def test_damaged_frames_cost_the_picture_alone(tmp_path):
    with_frames(tmp_path, "a.mp4")
    for path in (tmp_path / "out" / "frames").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    done, html = written(tmp_path, answer_of("a dog", [hit(1, "a.mp4")]))
    assert done.pictures == 0 and len(cards(require_sound(html, scripts=1))) == 1


def test_files_with_more_moments_are_named_with_what_shows_them(tmp_path):
    _, html = written(tmp_path, answer_of("a dog", [hit(1, "a.mp4", more=2), hit(2, "b.mp4", more=1)]))
    assert "--per-file 0 -k 5" in html and "2 more moments" in html and "1 more moment<" in html


def test_moments_of_what_is_said_alone_stand_on_a_line_of_time(tmp_path):
    with_frames(tmp_path, "a.mp4")
    _, html = written(
        tmp_path, answer_of("a dog", [hit(1, "a.mp4", curve=None, channel="speech", said="a dog, she said")])
    )
    found = require_sound(html, scripts=1)
    (card,) = cards(found)
    assert "a dog, she said" in card.text and "said" in card.text
    (svg,) = [one for one in found if one.tag == "svg"]
    assert (
        svg.attributes["aria-label"]
        == "Where the moment is in the file, from 0:00.0 to 1:40.0: the moment is 0:04.0 to 0:06.0"
    )


def test_a_page_of_a_hundred_moments_has_at_most_4_mb(tmp_path):
    """Pictures that are larger than a page has room for, curves as long as they get."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 170, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((398, 224), Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
    assert len(out.getvalue()) > 50_000
    made = pictures.fitted(out.getvalue(), 5.0, pictures_room := 23_000)
    assert len(made.jpeg) <= pictures_room and made.width >= 200
    values = tuple(np.random.default_rng(1).random(480).tolist())
    curve = Curve(tuple(np.linspace(0, 3600, 480).tolist()), values, 0.0, 1.0)
    name = "a long name of a video file that somebody gave it " * 3 + ".mp4"
    hits = [hit(i, f"{i}{name}", curve=curve) for i in range(1, 101)]
    seen = [pictures.Seen(made, 3600.0)] * 100
    html = markup_of(hits, seen, tmp_path / "page.html")
    assert len(html.encode()) <= 4_000_000
    assert len(html.encode()) > 100 * len(made.jpeg) * 4 / 3


def markup_of(hits: list[Hit], seen: list[pictures.Seen], to: Path) -> str:
    html = markup.page([answer_of("a dog", hits)], [seen], to)
    require_sound(html, scripts=1)
    return html


def test_the_room_of_all_pictures_is_shared(tmp_path, monkeypatch):
    with_frames(tmp_path, "a.mp4")
    rooms: list[int] = []
    fitted = pictures.fitted

    def noting(jpeg: bytes, at: float, most: int, ratio: float | None) -> pictures.Picture:
        rooms.append(most)
        return fitted(jpeg, at, most, ratio)

    monkeypatch.setattr(pictures, "fitted", noting)
    written(tmp_path, answer_of("a dog", [hit(i, "a.mp4") for i in range(1, 101)]))
    assert set(rooms) == {23_000}


def test_a_squashed_frame_gets_the_shape_of_its_video_again():
    out = io.BytesIO()
    Image.new("RGB", (224, 224)).save(out, "JPEG")
    made = pictures.fitted(out.getvalue(), 0.0, 23_000, 16 / 9)
    assert (made.width, made.height) == (398, 224)
    assert Image.open(io.BytesIO(made.jpeg)).size == (398, 224)


def test_the_frame_at_the_peak_is_decoded_where_no_stored_one_is_near(tmp_path):
    film = make_video(tmp_path / "film.mp4", 90, fps=10, size=(160, 120))
    found = hit(1, "film.mp4", path=str(film), start=4.0, end=6.0, peak=5.0)
    # Stored are the beginnings of quarters of 100 s: 0, 25, 50 and 75.
    tiny_frames.write(tmp_path / "out", [tiny_frames.clip("film.mp4", 4, window=(0.0, 100.0))])
    done, html = written(tmp_path, answer_of("a dog", [found]))
    assert done.pictures == 1
    (image,) = [one for one in require_sound(html, scripts=1) if one.tag == "img"]
    jpeg = base64.b64decode((image.attributes["src"] or "").partition(",")[2])
    assert read_barcode(np.array(Image.open(io.BytesIO(jpeg)))) == 50


def test_a_file_that_is_no_video_any_more_costs_its_picture_alone(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"still being written")
    done, html = written(tmp_path, answer_of("a dog", [hit(1, "film.mp4", path=str(tmp_path / "film.mp4"))]))
    assert done.pictures == 0
    assert [one for one in require_sound(html, scripts=1) if one.has_class("play")]


def test_a_peak_of_a_track_is_read_from_that_track_and_a_name_that_looks_so_is_none(tmp_path):
    make_video(tmp_path / "film.mp4", 10, fps=10, size=(160, 120))
    named = (tmp_path / "film.mp4").rename(tmp_path / "film#track=7")
    ids = {"film#track=7#track=0": True, "film#track=7#track=3": False, "film#track=7": True}
    wanted = [(str(named), name, 0.0) for name in ids]
    assert {number for number, _ in peaks.decoded(wanted, 160)} == {i for i, there in enumerate(ids.values()) if there}


def test_the_frame_on_screen_at_a_second_is_the_one_that_began_before_it(tmp_path):
    film = make_video(tmp_path / "film.mp4", 30, fps=10, size=(160, 120))
    for second, number in ((0.0, 0), (1.05, 10), (1.1, 11), (99.0, 29)):
        at, jpeg = peaks.read(peaks.Peak(str(film), second, None, 480), unheard)
        assert read_barcode(np.array(Image.open(io.BytesIO(jpeg)))) == number and at == pytest.approx(number / 10)


def test_a_page_replaces_another_only_where_that_is_said(tmp_path):
    answer = answer_of("a dog", [])
    written(tmp_path, answer)
    with pytest.raises(ConfigError, match="is there already; name another file, or replace it with --overwrite"):
        written(tmp_path, answer)
    written(tmp_path, answer, overwrite=True)
    with pytest.raises(ConfigError, match="found the folder"):
        write(QueryReport([answer]), Workspace(tmp_path / "out"), tmp_path)


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(EnvironmentProblem):
        write(QueryReport([answer_of("a dog", [])]), Workspace(tmp_path / "out"), blocked / "page.html")
    assert sorted(tmp_path.iterdir()) == [blocked]


def test_the_records_of_some_files_are_found_without_the_others(tmp_path):
    with_frames(tmp_path, "a.mp4", "b.mp4")
    tiny_frames.simple(tmp_path / "out", {"c é.mp4": 4})
    lazy, whole = Workspace(tmp_path / "out").frames(), Workspace(tmp_path / "out").frames()
    read = lazy.clips_of({"c é.mp4", "nothing.mp4"})
    assert "_clips" not in vars(lazy)  # the other shard's records were not made
    assert len(whole.records) == 3 and whole.clips_of({"c é.mp4", "nothing.mp4"}) == read
    assert [clip.record.id for clip in read["c é.mp4"]] == ["c é.mp4"] and set(read) == {"c é.mp4"}


def test_records_of_a_store_that_was_replaced_meanwhile_are_read_as_they_are_now(tmp_path):
    with_frames(tmp_path, "a.mp4")
    store = Workspace(tmp_path / "out").frames()
    shutil.rmtree(tmp_path / "out" / "frames")
    with_frames(tmp_path, "a.mp4", "b.mp4")
    assert set(store.clips_of({"a.mp4", "b.mp4"})) == {"a.mp4", "b.mp4"}
