"""Timelines for editors, read by parsers that share no code with the writers: seconds to the frame at every rate."""

from __future__ import annotations

import csv
import importlib
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

import av
import numpy as np
import pytest

from tvr_cli import api
from tvr_cli.engine.showing.timeline.media import read_media
from tvr_cli.engine.showing.timeline.timecode import from_timecode, known_rate, sequence_rate, to_timecode
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.results.found import Answer, Hit, QueryReport

OUT = api.open_workspace("nowhere")  # a rendering asks an answer alone


@pytest.fixture(autouse=True, scope="module")
def adapters() -> None:
    """The extra `timeline`; where tests run unseen it has to be there."""
    for name in ("opentimelineio", "otio_fcp_adapter", "otio_cmx3600_adapter"):
        importlib.import_module(name) if "CI" in os.environ else pytest.importorskip(name)


class Made(NamedTuple):
    """A rate with the timecode that a film begins at, and the number of that frame, counted by hand."""

    rate: Fraction
    timecode: str
    start: int


NTSC_24, NTSC_30, NTSC_60 = Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)
RATES = {
    "23.976": Made(NTSC_24, "01:00:00:00", 86_400),
    "24": Made(Fraction(24), "10:00:00:12", 864_012),
    "25": Made(Fraction(25), "00:59:59:24", 89_999),
    "29.97": Made(NTSC_30, "01:00:00;02", 107_894),
    "29.97 not dropping": Made(NTSC_30, "01:00:00:02", 108_002),
    "30": Made(Fraction(30), "00:00:10:00", 300),
    "50": Made(Fraction(50), "01:00:00:49", 180_049),
    "59.94": Made(NTSC_60, "01:00:00;04", 215_788),
    "60": Made(Fraction(60), "23:00:00:00", 4_968_000),
}


def make_film(path: Path, made: Made, seconds: float = 2.0, *, sound: str | None = "stereo") -> Path:
    with av.open(str(path), "w", format="mov") as out:
        picture = out.add_stream("mpeg4", rate=made.rate, options={"g": "12"})
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        if made.timecode:
            picture.metadata["timecode"] = made.timecode
        heard = out.add_stream("pcm_s16le", rate=48_000, layout=sound) if sound else None
        for i in range(round(seconds * made.rate)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), i % 255, dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, 1 / made.rate
            out.mux(picture.encode(frame))
        out.mux(picture.encode(None))
        if heard is not None:
            channels = 2 if sound == "stereo" else 1
            silence = np.zeros((1, round(seconds * 48_000) * channels), dtype=np.int16)
            samples = av.AudioFrame.from_ndarray(silence, format="s16", layout=str(sound))
            samples.sample_rate, samples.pts, samples.time_base = 48_000, 0, Fraction(1, 48_000)
            out.mux(heard.encode(samples))
            out.mux(heard.encode(None))
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, done = tmp_path_factory.mktemp("films"), dict[str, Path]()

    def film(name: str) -> Path:
        if name not in done:
            done[name] = make_film(folder / f"film {name}.mov", RATES[name])
        return done[name]

    return film


# Seconds of moments: between frames, and (at 25) on frames.
MOMENTS = ((0.5, 1.21, 0.73), (1.2, 1.6, 1.2), (0.0, 9.0, 1.9))


def answer(*films: Path, moments: Sequence[tuple[float, float, float]] = MOMENTS) -> QueryReport:
    hits = [
        Hit(i, 1.5, film.name, str(film), *span)
        for i, (film, span) in enumerate(((film, span) for film in films for span in moments), 1)
    ]
    return QueryReport([Answer.of("a dog & a <cat>", hits, None)])


def written(report: QueryReport, path: Path) -> tuple[QueryReport, Path]:
    done = OUT.export(report, path)
    assert done.timeline is not None and done.timeline.path == path
    return done, path


class Cut(NamedTuple):
    """A clip as a parser read it. Seconds: begins and ends in the file from its first frame on, at in the sequence."""

    file: str
    begins: Fraction
    ends: Fraction
    at: Fraction
    marked: Fraction | None = None


def wanted(film: Path, rate: Fraction) -> list[Cut]:
    """What an editor is to show, by the times of the film's frames as they are decoded."""
    with av.open(str(film)) as container:
        ts = [Fraction(f.pts * f.time_base) for f in container.decode(video=0)]
    cuts, at = [], Fraction(0)
    for start, end, peak in MOMENTS:
        shown = [t for t in ts if t + 1 / rate > start + 0.001 and t < end - 0.001]
        marked = next(t for t in reversed(ts) if t <= peak + 0.001)
        cuts.append(Cut(film.name, shown[0], shown[-1] + 1 / rate, at, marked))
        at += cuts[-1].ends - cuts[-1].begins
    return cuts


# ------------------------------------------------------------------------------------------------------------- parsers


def read_otio(path: Path, made: Made) -> list[Cut]:
    data = json.loads(path.read_text())
    assert data["global_start_time"]["rate"] == float(made.rate)

    def frames(time: dict[str, Any]) -> int:
        assert time["rate"] == float(made.rate) and time["value"] == int(time["value"])
        return int(time["value"])

    cuts, at = [], 0
    (track,) = [t for t in data["tracks"]["children"] if t["kind"] == "Video"]
    for clip in track["children"]:
        of, media = clip["source_range"], next(iter(clip["media_references"].values()))
        assert frames(media["available_range"]["start_time"]) == made.start
        first, count = frames(of["start_time"]) - made.start, frames(of["duration"])
        (marker,) = clip["markers"]
        assert marker["name"] == "a dog & a <cat>"
        marked = frames(marker["marked_range"]["start_time"]) - made.start
        cuts.append(Cut(name_of(media["target_url"]), *(n / made.rate for n in (first, first + count, at, marked))))
        at += count
    return cuts


def read_fcp7(path: Path, made: Made, of_files: Made | None = None) -> list[Cut]:
    """made: of the sequence."""
    files = of_files or made
    (sequence,) = ET.parse(path).getroot().iter("sequence")
    assert rate_of(sequence) == rate_of(sequence.find("timecode")) == made.rate
    urls = {f.get("id"): f for f in sequence.iter("file") if f.find("pathurl") is not None}
    for file in urls.values():
        assert rate_of(file) == rate_of(file.find("timecode")) == files.rate
        assert (file.findtext("timecode/frame"), file.findtext("timecode/string")) == (str(files.start), files.timecode)
        assert file.findtext("timecode/displayformat") == ("DF" if ";" in files.timecode else "NDF")
        assert file.findtext("media/audio/channelcount") == "2"
    cuts = []
    tracks = [*sequence.findall("media/video/track"), *sequence.findall("media/audio/track")]
    assert len(tracks) == 3
    for item in tracks[0].findall("clipitem"):
        assert rate_of(item) == made.rate
        at, until, begins, ends = (int(item.findtext(name) or "") for name in ("start", "end", "in", "out"))
        assert until - at == ends - begins == int(item.findtext("duration") or "")
        assert item.findtext("marker/name") == "a dog & a <cat>"
        marked = int(item.findtext("marker/in") or "")
        name = name_of(urls[item.find("file").get("id")].findtext("pathurl"))  # type: ignore[union-attr]
        cuts.append(Cut(name, *(n / made.rate for n in (begins, ends, at, marked))))
    items = {item.get("id"): item for item in sequence.iter("clipitem")}
    for track in tracks[1:]:
        said = [tuple(item.findtext(n) for n in ("start", "end", "in", "out")) for item in track.findall("clipitem")]
        assert said == [tuple(i.findtext(n) for n in ("start", "end", "in", "out")) for i in tracks[0].iter("clipitem")]
    for item in items.values():
        linked = [items[link.findtext("linkclipref")] for link in item.findall("link")]
        assert len(linked) == 3 and len({i.findtext("start") for i in linked}) == 1
    return cuts


def rate_of(of: ET.Element | None) -> Fraction:
    assert of is not None and len(of.findall("rate")) == 1
    base = Fraction(of.findtext("rate/timebase") or "")
    return base * 1000 / 1001 if of.findtext("rate/ntsc") == "TRUE" else base


def read_fcpxml(path: Path, made: Made, of_files: Made | None = None) -> list[Cut]:
    files, root = of_files or made, ET.parse(path).getroot()

    def seconds(text: str | None, rate: Fraction) -> Fraction:
        assert text is not None and re.fullmatch(r"\d+/\d+s", text)
        value = Fraction(text[:-1])
        assert (value * rate).denominator == 1, "not on a frame"
        return value

    lengths = {f.get("id"): Fraction(str(f.get("frameDuration"))[:-1]) for f in root.iter("format")}
    assets = {a.get("id"): a for a in root.iter("asset")}
    for asset in assets.values():
        assert lengths[asset.get("format")] == 1 / files.rate
        assert seconds(asset.get("start"), files.rate) == files.start / files.rate
    (sequence,) = root.iter("sequence")
    assert lengths[sequence.get("format")] == 1 / made.rate
    begins_at = seconds(sequence.get("tcStart"), made.rate)
    cuts = []
    for clip in sequence.iter("asset-clip"):
        asset = assets[clip.get("ref")]
        start = seconds(clip.get("start"), files.rate) - files.start / files.rate
        length = seconds(clip.get("duration"), made.rate)
        (marker,) = clip.findall("marker")
        assert marker.get("value") == "a dog & a <cat>"
        marked = seconds(marker.get("start"), files.rate) - files.start / files.rate
        at = seconds(clip.get("offset"), made.rate) - begins_at
        cuts.append(Cut(name_of(asset.find("media-rep").get("src")), start, start + length, at, marked))  # type: ignore[union-attr]
    return cuts


EVENT = re.compile(r"(\d{3})  (\S+) +V     C        (\S{11}) (\S{11}) (\S{11}) (\S{11})")


def read_edl(path: Path, made: Made) -> list[Cut]:
    cuts, dropping, reels = [], None, set()
    for line in path.read_text().splitlines():
        if line.startswith("FCM: "):
            dropping = line == "FCM: DROP FRAME"
        elif found := EVENT.fullmatch(line):
            assert dropping == (";" in found[3])
            reels.add(found[2])
            begins, ends, at, until = (count(found[i], made.rate) for i in (3, 4, 5, 6))
            assert until - at == ends - begins
            zero = count("01:00:00;00" if ";" in found[5] else "01:00:00:00", made.rate)
            cuts.append([begins - made.start, ends - made.start, at - zero])
            assert int(found[1]) == len(cuts)
        elif line.startswith("* FROM CLIP NAME:  "):
            cuts[-1].insert(0, line.removeprefix("* FROM CLIP NAME:  "))
        elif line.startswith("* LOC: "):
            code, color, said = line.removeprefix("* LOC: ").split(maxsplit=2)
            assert (color, said) == ("RED", "a dog & a <cat>")
            cuts[-1].append(count(code, made.rate) - zero - cuts[-1][3] + cuts[-1][1])
    assert all(re.fullmatch("[A-Z0-9]{1,8}", reel) for reel in reels)
    return [Cut(name, *(n / made.rate for n in numbers)) for name, *numbers in cuts]


def count(code: str, rate: Fraction) -> int:
    """Count the frames before a timecode by its definition: names 0 and 1 of a minute are no frames where they drop."""
    hours, minutes, seconds, frames = (int(n) for n in re.split("[:;]", code))
    base = -(-rate.numerator // rate.denominator)
    total = frames + base * (seconds + 60 * (minutes + 60 * hours))
    if ";" in code:
        total -= (base // 15) * sum(1 for minute in range(1, hours * 60 + minutes + 1) if minute % 10)
    return total


def read_csv(path: Path, made: Made) -> list[Cut]:
    cuts, at = [], Fraction(0)
    for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
        assert Fraction(row["rate"]) == made.rate and row["query"] == "a dog & a <cat>"
        begins, ends, marked = (
            (count(row[f"timecode_{name}"], made.rate) - made.start) / made.rate for name in ("in", "out", "peak")
        )
        cuts.append(Cut(Path(row["file"]).name, begins, ends, at, marked))
        at += ends - begins
    return cuts


def name_of(url: str | None) -> str:
    return Path(unquote(urlsplit(str(url)).path)).name


READERS = {".otio": read_otio, ".xml": read_fcp7, ".fcpxml": read_fcpxml, ".edl": read_edl, ".csv": read_csv}
NO_EDL = ("50", "59.94", "60")


# --------------------------------------------------------------------------------------------------------------- rates


@pytest.mark.parametrize("name", RATES)
def test_rate_and_timecode_are_those_of_the_file(name: str, films: Callable[[str], Path]) -> None:
    media = read_media(films(name))
    assert (media.rate, media.start, media.drop) == (RATES[name].rate, RATES[name].start, ";" in RATES[name].timecode)
    assert (media.frames, media.varies, media.channels) == (round(2 * media.rate), False, 2)


@pytest.mark.parametrize("ending", READERS)
@pytest.mark.parametrize("name", RATES)
def test_moments_are_the_same_seconds_to_the_frame(
    name: str, ending: str, films: Callable[[str], Path], tmp_path: Path
) -> None:
    film, made = films(name), RATES[name]
    if ending == ".edl" and name in NO_EDL:
        with pytest.raises(ConfigError, match=r"an EDL \(CMX3600\) has no (50|59.94|60) frames a second"):
            OUT.export(answer(film), tmp_path / "cut.edl")
        assert not list(tmp_path.iterdir())
        return
    done, path = written(answer(film), tmp_path / f"cut{ending}")
    assert READERS[ending](path, made) == wanted(film, made.rate)
    assert done.timeline.notes == ()  # type: ignore[union-attr]
    assert done.timeline.rate == (None if ending == ".csv" else f"{made.rate.numerator}/{made.rate.denominator}")  # type: ignore[union-attr]


def test_a_file_without_timecode_begins_at_zero(tmp_path: Path) -> None:
    made = Made(Fraction(25), "", 0)
    film = make_film(tmp_path / "film.mov", made)
    for ending in (".otio", ".fcpxml", ".edl", ".csv"):
        assert READERS[ending](written(answer(film), tmp_path / f"cut{ending}")[1], made) == wanted(film, made.rate)


def test_a_sequence_of_several_rates_has_that_of_most_moments(films: Callable[[str], Path], tmp_path: Path) -> None:
    slow, fast = films("25"), films("29.97")
    done, _ = written(answer(slow, fast, moments=MOMENTS[:1]), tmp_path / "a.fcpxml")
    assert done.timeline.rate == "25/1"  # type: ignore[union-attr]  # of as many the first
    done, _ = written(answer(fast, slow, slow, moments=MOMENTS[:1]), tmp_path / "b.fcpxml")
    assert done.timeline.rate == "25/1"  # type: ignore[union-attr]
    assert "25 frames a second, as 2 of 3 moments have; of files at 29.97" in done.timeline.notes[0]  # type: ignore[union-attr]


@pytest.mark.parametrize("ending", [".xml", ".fcpxml"])
def test_clips_of_another_rate_lie_on_the_frames_of_the_sequence(
    ending: str, films: Callable[[str], Path], tmp_path: Path
) -> None:
    """In and out in frames of 25 a second, of a file at 29.97 with its own timecode: within a frame of the moment."""
    report = answer(films("29.97"))
    film25 = films("25")
    hits = [*report.results[0].hits, *answer(*[film25] * 2).results[0].hits]
    _, path = written(QueryReport([Answer.of("a dog & a <cat>", hits, None)]), tmp_path / f"cut{ending}")
    text = path.read_text()
    only = tmp_path / f"only{ending}"
    only.write_text(of_first_three(text, ending))
    read = read_fcp7 if ending == ".xml" else read_fcpxml
    cuts = read(only, Made(Fraction(25), "", 0), RATES["29.97"])
    frame = Fraction(1, 25)
    for cut, (start, end, peak) in zip(cuts, MOMENTS, strict=True):
        assert start - frame < cut.begins <= start + 0.001
        assert min(end, 2.002) - frame < cut.ends < min(end, 2.002) + 2 * frame
        assert cut.marked is not None and abs(cut.marked - Fraction(peak)) <= frame
    assert [b.at - a.at for a, b in itertools.pairwise(cuts)] == [c.ends - c.begins for c in cuts[:-1]]


def of_first_three(text: str, ending: str) -> str:
    """Take the clips of the other file out of a timeline, and what describes it."""
    root = ET.fromstring(text)
    for parent in list(root.iter()):
        if ending == ".xml" and parent.tag == "track":
            for item in parent.findall("clipitem")[3:]:
                parent.remove(item)
        if parent.tag == "spine":
            for clip in parent.findall("asset-clip")[3:]:
                parent.remove(clip)
        if parent.tag == "resources":
            parent.remove(parent.findall("asset")[1])
    return ET.tostring(root, encoding="unicode")


def test_a_rate_that_no_editor_has_lies_on_the_frames_of_one_that_has(tmp_path: Path) -> None:
    made = Made(Fraction(25, 2), "", 0)
    film = make_film(tmp_path / "film.mov", made)
    for ending in (".xml", ".edl"):
        _, path = written(answer(film), tmp_path / f"cut{ending}")
        cuts = READERS[ending](path, Made(Fraction(25), "00:00:00:00", 0))
        assert [(c.begins, c.ends) for c in cuts] == [
            (Fraction(12, 25), Fraction(31, 25)), (Fraction(30, 25), Fraction(40, 25)), (0, 2)]  # fmt: skip


@pytest.mark.parametrize("ending", [".otio", ".xml", ".edl"])
def test_the_adapters_read_what_was_put_right(ending: str, films: Callable[[str], Path], tmp_path: Path) -> None:
    otio = importlib.import_module("opentimelineio")
    _, path = written(answer(films("25")), tmp_path / f"cut{ending}")
    options = {"rate": 25} if ending == ".edl" else {}
    read = otio.adapters.read_from_file(str(path), **options)
    clips = list(read.video_tracks()[0].find_clips())
    assert [round(clip.source_range.duration.value) for clip in clips] == [19, 10, 50]
    assert [round(clip.source_range.start_time.value) - 89_999 for clip in clips] == [12, 30, 0]


def test_an_edl_counts_each_file_as_its_timecode_does(films: Callable[[str], Path], tmp_path: Path) -> None:
    """Dropping and not dropping in one list; the sequence drops, as one of the files does."""
    report = answer(films("29.97 not dropping"), films("29.97"), moments=MOMENTS[:1])
    lines = written(report, tmp_path / "cut.edl")[1].read_text().splitlines()
    assert [line for line in lines if line.startswith(("FCM", "0"))] == [
        "FCM: DROP FRAME",
        "FCM: NON-DROP FRAME",
        "001  FILM2997 V     C        01:00:00:17 01:00:01:09 01:00:00;00 01:00:00;22",
        "FCM: DROP FRAME",
        "002  FILM2992 V     C        01:00:00;17 01:00:01;09 01:00:00;22 01:00:01;14",
    ]


@pytest.mark.slow
def test_an_edl_holds_999_events(films: Callable[[str], Path], tmp_path: Path) -> None:
    many = answer(films("25"), moments=[(i / 1000, 1 + i / 1000, 0.99) for i in range(999)])
    assert len(read_edl(written(many, tmp_path / "cut.edl")[1], RATES["25"])) == 999


def test_an_edl_of_more_events_is_refused(films: Callable[[str], Path], tmp_path: Path) -> None:
    more = answer(films("25"), moments=[(0, 1, 0)] * 1000)
    with pytest.raises(ConfigError, match="999 events at most, and the answer has 1000 moments"):
        OUT.export(more, tmp_path / "more.edl")


def test_frames_that_do_not_follow_evenly_are_told(tmp_path: Path) -> None:
    from videos import make_video

    film = make_video(tmp_path / "a.mp4", 60, times=[i / 30 + (i // 20) * 0.4 for i in range(60)])
    done, _ = written(answer(film), tmp_path / "cut.fcpxml")
    assert "frames of 'a.mp4' do not follow each other evenly" in done.timeline.notes[-1]  # type: ignore[union-attr]


@pytest.mark.parametrize(("made", "drop"), [(NTSC_30, True), (NTSC_60, True), (NTSC_30, False), (Fraction(24), False)])
def test_timecode_names_every_frame_as_it_is_counted(made: Fraction, drop: bool) -> None:
    """Twelve minutes, one after another: in a minute that drops, names 0 and 1 (to 3 at 59.94) are no frame's."""
    base, frame = -(-made.numerator // made.denominator), 0
    for minute in range(12):
        for second in range(60):
            for number in range(base):
                if drop and minute % 10 and second == 0 and number < base // 15:
                    continue
                name = f"00:{minute:02d}:{second:02d}{';' if drop else ':'}{number:02d}"
                assert to_timecode(frame, made, drop=drop) == name
                frame += 1
    assert from_timecode("00:11:59;29" if drop else "00:11:59:23", made) is not None
    for n in (0, 17_981, 107_892, 2_589_407):
        assert from_timecode(to_timecode(n, made, drop=drop), made) == (n % (24 * 3600 * base), drop)


def test_rates_that_files_round_are_known() -> None:
    assert [known_rate(Fraction(r)) for r in ("23.98", "2997/100", "359/15", "25.0001", "12.5")] == [
        NTSC_24, NTSC_30, Fraction(359, 15), 25, Fraction(25, 2)]  # fmt: skip
    assert [sequence_rate(Fraction(r)) for r in ("12.5", "15", "120", "10", "27")] == [25, 30, 60, 30, Fraction(27) - 2]


# ----------------------------------------------------------------------------------------------------- files and names


@pytest.mark.parametrize("ending", [".otio", ".xml", ".edl", ".fcpxml", ".csv"])
def test_names_of_any_kind_stay_names(ending: str, tmp_path: Path) -> None:
    """Quotes, markup, line breaks, escapes, direction and bytes that are no UTF-8: in files and in sentences."""
    film = make_film(tmp_path / 'a"<b>&\n\x1b\u202e犬\udcff.mov', Made(Fraction(25), "", 0), 1.0)
    report = QueryReport([Answer.of("]]></name>\x00\n犬 \udcff", [Hit(1, 1.0, "a", str(film), 0.2, 0.6, 0.3)], None)])
    _, path = written(report, tmp_path / f"cut{ending}")
    text = path.read_text(encoding="utf-8")
    if ending in (".xml", ".fcpxml"):
        root = ET.fromstring(text)
        (url,) = [e.text or e.get("src") for e in root.iter() if e.tag in ("pathurl", "media-rep")]
        assert unquote(urlsplit(str(url)).path, errors="surrogateescape") == str(film)
    elif ending == ".otio":
        (clip,) = json.loads(text)["tracks"]["children"][0]["children"]
        url = clip["media_references"]["DEFAULT_MEDIA"]["target_url"]
        assert unquote(urlsplit(url).path, errors="surrogateescape") == str(film)
    elif ending == ".edl":
        assert len(text.splitlines()) == 7 and "\x1b" not in text
    else:
        (row,) = csv.DictReader(io.StringIO(text))
        assert row["file"].startswith(str(film)[:-6])


def test_two_files_of_one_name_have_reels_of_their_own(films: Callable[[str], Path], tmp_path: Path) -> None:
    names = ["Grünes Haus 1.mov", "Grünes Haus 2.mov", "犬.mov"]
    copies = []
    for name in names:
        (tmp_path / name).write_bytes(films("25").read_bytes())
        copies.append(tmp_path / name)
    text = written(answer(*copies, moments=MOMENTS[:1]), tmp_path / "cut.edl")[1].read_text()
    assert re.findall(r"^\d{3}  (\S+)", text, re.MULTILINE) == ["GRUNESHA", "GRUNESH2", "REEL"]


def test_what_cannot_be_read_is_left_out_and_told(films: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "text.mov").write_text("no film")
    gone = Hit(1, 1.0, "gone.mov", str(tmp_path / "gone.mov"), 0, 1, 0, missing=True)
    text = Hit(2, 1.0, "text.mov", str(tmp_path / "text.mov"), 0, 1, 0)
    whole = answer(films("25")).results[0].hits
    done = OUT.export(QueryReport([Answer.of("a dog & a <cat>", [gone, text, *whole], None)]), tmp_path / "cut.csv")
    assert done.timeline is not None and done.timeline.events == 3
    problems = [left.problem for left in done.timeline.left_out]
    assert "gone.mov' is not there any more" in problems[0] and "text.mov': not readable as a video" in problems[1]
    assert len(read_csv(tmp_path / "cut.csv", RATES["25"])) == 3
    with pytest.raises(DataError, match=r"expected moments to put into a timeline, found none: .*gone\.mov"):
        OUT.export(QueryReport([Answer.of("a", [gone], None)]), tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


def test_of_what_is_only_nearest_no_timeline_is_written(tmp_path: Path) -> None:
    near = Hit(1, 1.0, "film.mov", str(tmp_path / "film.mov"), 0, 1, 0, confidence=0.5)
    done = OUT.export(QueryReport([Answer.of("a", [near], 0.95)]), tmp_path / "none.csv")
    assert done.timeline is not None and (done.timeline.events, done.timeline.form) == (0, "csv")
    assert not (tmp_path / "none.csv").exists()


def test_silent_files_have_no_sound_in_a_timeline(films: Callable[[str], Path], tmp_path: Path) -> None:
    silent = make_film(tmp_path / "silent.mov", RATES["25"], sound=None)
    mono = make_film(tmp_path / "mono.mov", RATES["25"], sound="mono")
    report = answer(silent, mono, films("25"), moments=MOMENTS[:1])
    root = ET.parse(written(report, tmp_path / "cut.xml")[1]).getroot()
    counts = [len(track.findall("clipitem")) for track in root.iter("track")]
    assert counts == [3, 2, 1]
    assert [len(item.findall("link")) for item in root.find(".//video/track").findall("clipitem")] == [1, 2, 3]  # type: ignore[union-attr]
    tracks = json.loads(written(report, tmp_path / "cut.otio")[1].read_text())["tracks"]["children"]
    assert [[c["OTIO_SCHEMA"].split(".")[0] for c in t["children"]] for t in tracks] == [
        ["Clip", "Clip", "Clip"], ["Gap", "Clip", "Clip"]]  # fmt: skip


def test_nothing_is_replaced_unasked(films: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "cut.csv"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"cut\.csv' is there already"):
        OUT.export(answer(films("25")), path)
    assert OUT.export(answer(films("25")), path, overwrite=True, dry_run=True).timeline.dry_run  # type: ignore[union-attr]
    assert path.read_text() == "mine"
    OUT.export(answer(films("25")), path, overwrite=True)
    assert path.read_text() != "mine" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["cut", "cut.mp4", "cut.EDLX"])
def test_an_ending_that_says_no_format_is_refused(name: str, films: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a file ending in \.otio, \.xml, \.edl, \.fcpxml, \.csv"):
        OUT.require_exportable(tmp_path / name)


def test_without_the_extra_a_sentence_names_it(
    films: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    for ending in (".otio", ".xml", ".edl"):
        with pytest.raises(EnvironmentProblem, match=r"pip install 'tvr-cli\[timeline\]'"):
            OUT.require_exportable(tmp_path / f"cut{ending}")
    for ending in (".fcpxml", ".csv"):
        OUT.export(answer(films("25")), tmp_path / f"cut{ending}")


def test_a_place_that_cannot_be_written_is_a_sentence(films: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="choose another place with --export"):
        OUT.export(answer(films("25")), tmp_path / "file" / "cut.csv")
