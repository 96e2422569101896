"""Which files a search is about: by names, dates, lengths and lists."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tvr_cli.engine.searching import filters, library, typed
from tvr_cli.engine.searching.filters import Filters, chosen, matches
from tvr_cli.engine.searching.library import LibraryFile
from tvr_cli.engine.searching.question import Part, Picture, Sentence, Stretch
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.workspace import Workspace

NOW, DAY = 1_790_000_000.0, 86_400.0


@dataclass(frozen=True)
class Clip:
    id: str
    path: str
    file_id: str
    span: tuple[float, float]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of four files of 10 to 40 s, written 1 to 4 days ago; the last of them is gone."""
    clips = []
    for i, name in enumerate(("a/one.mp4", "a/two.mov", "b/one.mp4", "gone.mp4"), start=1):
        path = tmp_path / "films" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        os.utime(path, (0, NOW - i * DAY))
        clips += [Clip(f"{name}#t={s}", str(path), name, (s, s + 5.0)) for s in range(0, 10 * i, 5)]
    path.unlink()
    monkeypatch.setattr(library, "files_of", lambda workspace: library._files(clips))
    return tmp_path


def left(place: Path, **asked: object) -> list[str]:
    found = chosen(Workspace(place), Filters(**asked), now=NOW)  # type: ignore[arg-type]
    assert found is not None
    return sorted(found)


def test_what_asks_nothing_reads_nothing(tmp_path):
    assert chosen(Workspace(tmp_path), Filters()) is None


def test_names_are_globs_of_ids_and_paths(place, monkeypatch):
    assert left(place, inside=("a/*",)) == ["a/one.mp4", "a/two.mov"] == left(place, inside=("a/",))
    assert left(place, inside=("one.mp4",)) == ["a/one.mp4", "b/one.mp4"]
    assert left(place, inside=("*.mov", "gone*")) == ["a/two.mov", "gone.mp4"]
    assert left(place, inside=(str(place / "films" / "b" / "*"),)) == ["b/one.mp4"]
    monkeypatch.chdir(place)
    assert left(place, inside=("films/b/",)) == ["b/one.mp4"]
    assert not matches(LibraryFile("x/[a].mp4", "/x/[a].mp4", 1.0), "[a].mp4"), "a glob, not a name"


def test_dates_are_those_on_disk_and_a_file_that_is_gone_has_none(place):
    assert left(place, newer="2d") == ["a/one.mp4", "a/two.mov"] and left(place, newer="25h") == ["a/one.mp4"]
    assert left(place, older="2d") == ["b/one.mp4"] and left(place, older="36h") == ["a/two.mov", "b/one.mp4"]
    assert filters.date_of("--newer", "1w", NOW) == NOW - 7 * DAY
    assert (
        filters.date_of("--newer", "2026-11-02", NOW) - filters.date_of("--newer", "2026-11-01T12:00", NOW) == DAY / 2
    )


def test_lengths_are_of_files_and_not_of_their_clips(place):
    assert left(place, longer=20) == ["b/one.mp4", "gone.mp4"] and left(place, shorter=20) == ["a/one.mp4"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_a_list_of_paths_and_ids_is_left_out(place, monkeypatch, end):
    monkeypatch.chdir(place)
    names = ["a/one.mp4", str(place / "films" / "a" / "two.mov"), "films/b/one.mp4", "what-no-library-has.mp4", ""]
    (place / "list").write_bytes(end.join(names).encode())
    assert left(place, not_in=place / "list") == ["gone.mp4"]


def test_all_of_them_have_to_hold_and_nothing_left_says_what_each_leaves_out(place):
    assert left(place, inside=("one.mp4",), longer=15) == ["b/one.mp4"]
    with pytest.raises(DataError) as told:
        left(place, inside=("a/*", "*.mp3"), longer=25, newer="1h")
    assert str(told.value).endswith(
        "is left to search: --in 'a/*' --in '*.mp3' leaves out 2, --newer 1h leaves out 4, --longer 25 leaves out 2"
    )


def test_the_one_file_that_is_not_left_is_no_plural(place, monkeypatch):
    monkeypatch.setattr(library, "files_of", lambda workspace, files=library.files_of: files(workspace)[:1])
    with pytest.raises(DataError, match=r"^not the one file of .* is left to search: --in '.*' leaves out 1$"):
        left(place, inside=("x.mp4",))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"newer": "yesterday"}, "--newer: expected a date such as 2026-11-01"),
        ({"older": "2026-13-01"}, "--older: expected a date"),
        ({"longer": float("nan")}, "--longer: expected seconds"),
        ({"shorter": -1.0}, "--shorter: expected seconds"),
    ],
)
def test_what_is_no_date_and_no_length_is_told(place, asked, said):
    with pytest.raises(ConfigError, match=said):
        left(place, **asked)


def test_a_list_that_cannot_be_read_is_told(place):
    for path in (place, place / "absent"):
        with pytest.raises(DataError, match="which cannot be read"):
            left(place, not_in=path)


# ------------------------------------------------------------------------------------------- how questions are typed


def test_parts_are_added_to_each_sentence(tmp_path):
    one, two = typed.questions(["a dog", "a cat"], images=["b.jpg"], likes=["2:a.mp4@1:05-66.5"], minus=["0.5:snow"])
    added = (Part(Picture(Path("b.jpg"))), Part(Stretch("a.mp4", 65, 66.5), 2), Part(Sentence("snow"), -0.5))
    assert one.parts == (Part(Sentence("a dog")), *added) and two.parts == (Part(Sentence("a cat")), *added)
    (alone,) = typed.questions([], plus=["image:b.jpg", "3:like:x@y.mp4", "1:12:30 at noon"])
    assert alone.parts == (Part(Picture(Path("b.jpg"))), Part(Stretch("x@y.mp4"), 3), Part(Sentence("12:30 at noon")))


def test_a_sentence_alone_is_taken_as_it_is_and_in_a_sum_it_may_have_a_weight():
    assert [question.text for question in typed.questions(["2:dog", "image: a dog"])] == ["2:dog", "image: a dog"]
    (asked,) = typed.questions(["2:dog"], plus=["C3PO: a robot"])
    assert asked.parts == (Part(Sentence("dog"), 2), Part(Sentence("C3PO: a robot")))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"minus": ["snow"]}, "expected something to look for beside what --minus takes off"),
        ({"plus": ["2,5:snow"]}, "expected a weight above 0 before the colon, such as 2 or 0.5, found '2,5'"),
        ({"plus": ["nan:snow"]}, "found 'nan'"),
        ({"plus": ["1e999:snow"]}, "found '1e999'"),
        ({"plus": ["0:snow"]}, "found '0'"),
        ({"plus": ["-2:snow"]}, "--minus takes something off"),
        ({"plus": ["2:"]}, "--plus: expected something to look for, found '2:'"),
        ({"plus": ["\udcff"]}, "expected text in UTF-8"),
        ({"likes": ["a.mp4@9-3"]}, "expected a moment that ends after it starts"),
        ({"likes": ["a.mp4@1:2:3:4-9"]}, "expected seconds such as 75.5, or h:mm:ss"),
    ],
)
def test_what_cannot_be_asked_is_told(asked, said):
    with pytest.raises(ConfigError, match=said):
        typed.questions([], **asked)
