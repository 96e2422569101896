"""What is said and written: subtitle files as they are found in the wild, their store, finding words, two channels.

`golden/speech/said.mkv` has a text stream inside; it was made by: ffmpeg -f lavfi -i testsrc=s=96x96:r=5:d=1.2
-i said.srt -c:v mpeg4 -q:v 31 -c:s subrip said.mkv, from one cue, "a purple hippopotamus" at 0.2 to 0.9 s.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvr_cli.engine.searching import channels, speech
from tvr_cli.engine.searching.hits import Answering, Moment, SearchOptions
from tvr_cli.errors import DataError
from tvr_cli.files import read_json, sha256_file, write_json
from tvr_cli.results.found import Answer, Hit, QueryReport
from tvr_cli.stores.speech import cues, sources, store
from tvr_cli.stores.speech.cues import Passage
from tvr_cli.stores.speech.sources import Source, Video
from tvr_cli.stores.speech.store import Said, SpeechStore
from tvr_cli.workspace import Workspace

MKV = Path(__file__).parent.parent / "golden" / "speech" / "said.mkv"
SRT = "1\n00:00:01,000 --> 00:00:02,500\n<i>A red</i> car\nturns left.\n\n2\n00:01:00,000 --> 00:01:02,000\nHello\n"
VTT = "WEBVTT\n\n00:01.000 --> 00:02.500 align:start\n<v Bob>A red car</v>\n\n100:00:01.000 --> 100:00:02.000\nlate\n"
ASS = (
    "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name\nStyle: Default\n\n[Events]\n"
    "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    "Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\an8}A red\\Ncar\n"
    "Comment: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,nobody sees this\n"
    "Dialogue: 0,123:00:01.00,123:00:02.00,Default,,0,0,0,,late\n"
)


def spoken(text: str | bytes, language: str = "") -> cues.Read:
    return cues.read(text.encode() if isinstance(text, str) else text, language)


# -------------------------------------------------------------------------------------------------- reading subtitles


def test_three_formats_are_read_without_their_marks() -> None:
    assert spoken(SRT).passages == (Passage(1.0, 2.5, "A red car turns left."), Passage(60.0, 62.0, "Hello"))
    assert spoken(VTT).passages[0] == Passage(1.0, 2.5, "A red car")
    assert spoken(ASS).passages[0] == Passage(1.0, 2.5, "A red car")
    assert len(spoken(ASS).passages) == 2  # a comment is not shown


def test_hours_go_beyond_99() -> None:
    late = "1\n100:00:01,000 --> 100:00:02,000\nlate\n"
    assert spoken(late).passages == (Passage(360_001.0, 360_002.0, "late"),)
    assert spoken(VTT).passages[1] == Passage(360_001.0, 360_002.0, "late")
    assert spoken(ASS).passages[1] == Passage(442_801.0, 442_802.0, "late")


@pytest.mark.parametrize(
    ("encoding", "language", "guessed"),
    [
        ("utf-8", "", None),
        ("utf-8-sig", "", None),
        ("utf-16", "", None),
        ("utf-16-le", "", "utf-16-le"),
        ("cp1252", "", "cp1252"),
        ("cp1251", "ru", "cp1251"),
        ("cp932", "ja", "cp932"),
        ("gb18030", "zh-hans", "gb18030"),
    ],
)
def test_other_encodings_are_guessed_and_told(encoding: str, language: str, guessed: str | None) -> None:
    words = {"ru": "привет мир", "ja": "朝の運用", "zh-hans": "早上好"}.get(language, "déjà vu")
    found = spoken(f"1\n00:00:01,000 --> 00:00:02,000\n{words}\n".encode(encoding), language)
    assert [p.text for p in found.passages] == [words] and found.guessed == guessed and not found.problem


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"", "it is empty"), (b"\xef\xbb\xbf \n", "it is empty"), (b"hello", "it is no SubRip"), (b"\0" * 99, "it is"),
     (b"1\n00:00:01,000 --> 00:00:02,000\n\n", "it holds no words")],
)  # fmt: skip
def test_what_is_no_subtitle_says_so(data: bytes, problem: str) -> None:
    found = cues.read(data, "")
    assert found.passages == () and found.problem.startswith(problem)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from(["", SRT, VTT, ASS]))
def test_any_bytes_are_read_or_told(noise: bytes, good: str) -> None:
    found = cues.read(good.encode()[: len(good) // 2] + noise + good.encode()[len(good) // 2 :], "")
    assert found.passages or found.problem
    assert all(p.text and 0 <= p.start <= p.end for p in found.passages)


def test_cues_of_a_sentence_are_one_passage_and_overlapping_ones_too() -> None:
    said = [
        Passage(3, 5, "has fallen."), Passage(0, 2, "The bridge"), Passage(1.9, 4, "over there"),  # in no order
        Passage(5.1, 6, "Run!"), Passage(20, 21, "Later"), Passage(21, 40, "and for long"),
    ]  # fmt: skip
    assert cues.passages(said) == (
        Passage(0, 5, "The bridge over there has fallen."),
        Passage(5.1, 6, "Run!"),
        Passage(20, 21, "Later"),
        Passage(21, 40, "and for long"),
    )


def test_rolling_captions_say_everything_once() -> None:
    rolling = [Passage(0, 2, "one two"), Passage(2, 4, "one two\nthree four"), Passage(4, 6, "three four\nfive")]
    assert cues.passages(rolling) == (Passage(0, 6, "one two three four five"),)


def test_a_text_stream_inside_a_video_is_read() -> None:
    import av

    with av.open(str(MKV)) as container:
        index = container.streams.subtitles[0].index
    source = Source("said.mkv", str(MKV), str(MKV), index, "", (0, 0, 0, 0))
    (passage,) = sources.read(source).passages
    assert passage.text == "a purple hippopotamus"
    assert (passage.start, passage.end) == pytest.approx((0.2, 0.9), abs=0.02)
    assert "cannot be read" in sources.read(Source("x", "x", __file__, 0, "", (0, 0, 0, 0))).problem


# ---------------------------------------------------------------------------------------------------------- the store


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "a b.mp4"):
        (folder / name).write_bytes(b"no video")
    return folder


def videos(films: Path, *, until: float = 10_000.0) -> list[Video]:
    return [Video(path.name, str(path), (), (0.0, until)) for path in sorted(films.glob("*.mp4"))]


def srt(path: Path, *said: str) -> None:
    """Write cues of two seconds, ten seconds apart."""
    lines = [
        f"{i}\n00:{i // 6:02}:{i % 6}0,000 --> 00:{i // 6:02}:{i % 6}2,000\n{text}\n" for i, text in enumerate(said)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def made(films: Path, **options: float) -> SpeechStore:
    return store.refresh(films / "speech", videos(films, **options), "content", {str(films): 1})


def found(speech_store: SpeechStore, sentence: str) -> list[tuple[str, float]]:
    return [(one.file_id, one.start) for one in speech.find(speech_store, sentence, 10)]


def test_files_beside_a_video_are_its_own_by_name_and_language(films: Path) -> None:
    for name in ("a.srt", "a.en.srt", "a.en.vtt", "a.EN.ass", "ab.srt", "c.srt", "a b.de.forced.srt", "b.txt"):
        (films / name).write_text(SRT)
    there, doubles = sources.beside(videos(films))
    assert [(s.file_id, Path(s.path).name, s.language) for s in there] == [
        ("a b.mp4", "a b.de.forced.srt", "de.forced"), ("a.mp4", "a.srt", ""), ("a.mp4", "a.en.srt", "en"),
    ]  # fmt: skip
    assert sorted(Path(path).name for path in doubles) == ["a.EN.ass", "a.en.vtt"]


def test_the_store_counts_what_it_holds_and_what_it_tolerated(films: Path) -> None:
    srt(films / "a.srt", "Hello there", "A red car")
    (films / "b.srt").write_bytes(b"")
    (films / "b.en.srt").write_bytes("1\n00:00:01,000 --> 00:00:02,000\nd\xe9j\xe0\n".encode("latin-1"))
    (films / "b.de.srt").write_text("hello")
    (films / "a.vtt").write_text(VTT)
    counts = made(films).counts
    assert (counts.files, counts.streams, counts.passages) == (2, 0, 3)
    assert (counts.empty, counts.unreadable, counts.guessed, counts.doubles) == (1, 1, 1, 1)
    assert counts.first.endswith("b.srt: it is empty")


def test_only_what_changed_is_read_again(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srt(films / "a.srt", "an elephant")
    srt(films / "b.srt", "a walrus")
    first = made(films)
    assert first.unchanged() and found(first, "walrus") == [("b.mp4", 0.0)]
    read: list[str] = []
    monkeypatch.setattr(sources, "read", lambda one, real=sources.read: read.append(one.path) or real(one))
    srt(films / "b.srt", "nothing", "a giraffe")
    assert not first.unchanged()
    second = made(films)
    assert read == [str(films / "b.srt")]
    assert found(second, "walrus") == [] and found(second, "giraffe") == [("b.mp4", 10.0)]
    assert found(second, "elephant") == [("a.mp4", 0.0)]
    (films / "a.srt").unlink()
    assert found(made(films), "elephant") == [] and read == [str(films / "b.srt")]
    assert sorted(path.suffix for path in (films / "speech").iterdir() if path.name != ".lock") == [".json", ".sqlite"]


def test_a_reader_of_the_old_words_is_not_disturbed_and_a_damaged_store_is_made_again(films: Path) -> None:
    srt(films / "a.srt", "a walrus")
    reader = made(films)
    srt(films / "a.srt", "an elephant")
    made(films)
    assert found(reader, "walrus") == [("a.mp4", 0.0)] and found(reader, "elephant") == []
    (database,) = (films / "speech").glob("*.sqlite")
    damaged = bytearray(database.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    database.write_bytes(damaged)
    assert SpeechStore.open(films / "speech") is None
    assert found(made(films), "elephant") == [("a.mp4", 0.0)]
    head = read_json(films / "speech" / "speech.json")
    write_json(films / "speech" / "speech.json", {**head, "format": 2})
    assert SpeechStore.open(films / "speech") is None
    write_json(films / "speech" / "speech.json", {**head, "database": "../../b.mp4"})
    assert SpeechStore.open(films / "speech") is None
    empty = films / "speech" / "empty.sqlite"
    empty.write_bytes(b"")
    write_json(films / "speech" / "speech.json", {**head, "database": empty.name, "sha256": sha256_file(empty)})
    assert SpeechStore.open(films / "speech") is None
    assert found(made(films), "elephant") == [("a.mp4", 0.0)]
    assert sum(path.suffix == ".sqlite" for path in (films / "speech").iterdir()) == 2  # and one with a name of ours


@pytest.mark.parametrize("note", ["my own notes", '{"kind": "notes"}', "[]"])
def test_what_is_no_speech_store_is_left_alone(films: Path, note: str) -> None:
    (films / "speech").mkdir()
    (films / "speech" / "speech.json").write_text(note)
    srt(films / "a.srt", "an elephant")
    with pytest.raises(DataError, match="nothing was replaced"):
        made(films)
    assert (films / "speech" / "speech.json").read_text() == note


def test_words_outside_of_a_video_are_left_out(films: Path) -> None:
    srt(films / "a.srt", "an elephant", "a walrus")
    assert found(made(films, until=5.0), "walrus") == []


# -------------------------------------------------------------------------------------------------------- finding words


@pytest.mark.parametrize(
    ("query", "starts"),
    [
        ("朝の運用", [0.0]),
        ("運用", [0.0]),  # two characters have no trigram
        ("C++", [10.0]),
        ("c++ is", [10.0]),
        ('"', [20.0]),
        ('"quoted"', [20.0]),
        ("AND", [30.0]),  # and not of "band"
        ("OR", []),
        ("NOT AND", [30.0]),
        ("*", []),
        ("elephant's", [50.0]),
        ("ELEPHANT", [50.0]),
        ("ele", [50.0]),
        ("lephant", []),  # inside of a word
        ("ｃａｒ", [60.0]),  # full width
        ("car", [60.0]),
        ("scar", []),
        ("unheard", []),
        (" ", []),
    ],
)
def test_words_are_found_as_they_are_typed(films: Path, query: str, starts: list[float]) -> None:
    srt(
        films / "a.srt",
        "これは朝の運用です。", "C++ is old.", 'She said "quoted".', "one and not the other.", "A band of five.",
        "The elephant's ears.", "A car.",
    )  # fmt: skip
    assert sorted(start for _, start in found(made(films), query)) == starts


def test_a_rare_word_counts_for_more_and_what_nobody_says_for_most(films: Path) -> None:
    srt(films / "a.srt", *["what did he say about it?"] * 6, "The budget is late.")
    speech_store = made(films)
    assert found(speech_store, "what about the budget")[0] == ("a.mp4", 60.0)
    assert found(speech_store, "the submarine and the zeppelin") == []


def test_the_same_words_in_two_languages_files_are_one_answer(films: Path) -> None:
    srt(films / "a.en.srt", "Radio Berlin.")
    srt(films / "a.de.srt", "Radio Berlin.", "Berlin, Berlin.")
    assert found(made(films), "berlin") == [("a.mp4", 10.0), ("a.mp4", 0.0)]


# -------------------------------------------------------------------------------------------------------- two channels


def seen(rank: int, video: str, start: float, end: float) -> Hit:
    return Hit(rank, 0.3, video, f"/{video}", start, end, start)


def said(video: str, start: float, end: float) -> Said:
    return Said(video, f"/{video}", start, end, f"words of {video}", -1.0)


def test_channels_are_fused_by_reciprocal_rank_from_one_with_60() -> None:
    picture = [seen(1, "a", 0, 5), seen(2, "b", 0, 5), seen(3, "c", 0, 5)]
    words = [said("d", 0, 1), said("c", 4, 9), said("b", 5, 9)]  # the last only touches what is seen
    fused = channels.fused(picture, words)
    assert [(hit.video_id, hit.channel) for hit in fused] == [
        ("c", "both"), ("a", "picture"), ("d", "speech"), ("b", "picture"), ("b", "speech"),
    ]  # fmt: skip
    assert [hit.score for hit in fused] == pytest.approx([1 / 63 + 1 / 62, 1 / 61, 1 / 61, 1 / 62, 1 / 63])
    assert fused[0].said == "words of c" and (fused[0].start, fused[0].end) == (0, 5)
    assert fused[1].said is None and fused[2].said == "words of d"


def test_a_channel_that_finds_nothing_changes_no_order() -> None:
    picture = [seen(1, "a", 0, 5), seen(2, "b", 0, 5)]
    assert [hit.video_id for hit in channels.fused(picture, [])] == ["a", "b"]
    assert [hit.video_id for hit in channels.fused([], [said("d", 0, 1), said("e", 0, 1)])] == ["d", "e"]


def test_a_file_with_many_moments_crowds_out_no_other_in_either_channel(
    films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel is asked for so many moments of a file, too: all of its fifty may be of one."""
    srt(films / "a.srt", *["zeppelin."] * 60)
    srt(films / "b.srt", "A zeppelin, which is large and slow.")
    words = made(films)
    monkeypatch.setattr(speech, "up_to_date", lambda workspace: words)
    options = SearchOptions(k=2, per_file=1)
    seconds = [*(("a.mp4", 10.0 * i) for i in range(60)), ("a b.mp4", 0.0)]

    def picture(some: SearchOptions) -> QueryReport:
        found = Answering(some)
        for place, (name, start) in enumerate(seconds):
            found.take(-float(place), name, name, Moment(start, start + 2, start))
        return QueryReport([Answer.of("zeppelin", found.hits(), some.min_confidence)])

    workspace = Workspace(films)
    (alone,) = channels.answer(workspace, ["zeppelin"], options, None).results
    assert [hit.video_id for hit in alone.hits] == ["a.mp4", "b.mp4"]
    wide = SearchOptions(k=3, per_file=1)
    (both,) = channels.answer(workspace, ["zeppelin"], wide, picture).results
    assert [hit.video_id for hit in both.hits] == ["a.mp4", "a b.mp4", "b.mp4"] and both.hits[0].channel == "both"


def test_a_golden_video_is_copied_whole(tmp_path: Path) -> None:
    """Its stream is found by what the frame store says of its tracks."""
    shutil.copy(MKV, tmp_path / "said.mkv")
    video = Video("said.mkv", str(tmp_path / "said.mkv"), (1,), (0.0, 1.2))
    speech_store = store.refresh(tmp_path / "speech", [video], "content", {})
    assert speech_store.counts.streams == 1 and found(speech_store, "hippopotamus")[0][0] == "said.mkv"
