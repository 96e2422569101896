"""Moments as files of their own: to the frame by numbers that are read from the pixels, in step by flash and beep."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from videos import (
    barcode,
    cut_with_edit_list,
    decode_all,
    make_open_gop,
    make_two_streams,
    make_video,
    read_barcode,
    truncate,
)

from tvr_cli import api
from tvr_cli.engine.showing.clips import clip_name
from tvr_cli.engine.showing.cutting.film import Film, Part
from tvr_cli.errors import ConfigError, EnvironmentProblem
from tvr_cli.results.found import Answer, Hit, QueryReport
from tvr_cli.results.shown import SavedClip
from tvr_cli.stores.decoding.pyav import PyavDecoder
from tvr_cli.stores.decoding.types import unheard

OUT = api.open_workspace("nowhere")  # a rendering asks an answer alone


def hit(path: Path | str, start: float, end: float, *, rank: int = 1, missing: bool = False, file_id: str = "") -> Hit:
    return Hit(rank, 1.0, file_id or Path(path).name, str(path), start, end, start, missing=missing)


def answers(*hits: Hit) -> QueryReport:
    return QueryReport([Answer.of("a dog", list(hits), None)])


def shown(path: Path) -> list[int]:
    """The numbers of the frames as players show them: edit lists and rotation applied."""
    film = PyavDecoder(path, unheard)
    numbers = [read_barcode(pixels) for _, pixels in film.frames(range(len(film.timeline)))]
    film.close()
    return numbers


def cut(path: Path, start: float, end: float, target: Path, track: int | None = None) -> Part:
    with Film(path, track) as film:
        return film.write(film.part(start, end), target)


FILMS: dict[str, Callable[[Path], Path]] = {
    "closed": lambda p: make_video(p / "a.mp4", 90),
    "of B-frames": lambda p: make_video(p / "a.mp4", 90, bframes=3),
    "of open groups": lambda p: make_open_gop(p / "a.mp4", 90),
    "that starts late": lambda p: make_video(p / "a.ts", 90, bframes=2, muxer={"output_ts_offset": "7.3"}),
    "in Matroska": lambda p: make_video(p / "a.mkv", 90, bframes=2),
    "in AVI": lambda p: make_video(p / "a.avi", 90, codec="mpeg4", bframes=2),
    "with an edit list": lambda p: cut_with_edit_list(make_video(p / "whole.mp4", 100), p / "a.mp4", 10),
}
OFTEN = ("of B-frames", "that starts late")


class Films(dict[str, tuple[Path, list[int], list[float]]]):
    """Films by name, each made when it is asked for: its path, the numbers that it shows and their seconds.

    Both are read by decoding it from the start.
    """

    def __init__(self, folder: Callable[[], Path]):
        self._folder = folder

    def __missing__(self, name: str) -> tuple[Path, list[int], list[float]]:
        path = FILMS[name](self._folder())
        film = PyavDecoder(path, unheard)
        self[name] = (path, [read_barcode(pixels) for pixels in decode_all(path)], film.timeline.ts.tolist())
        film.close()
        return self[name]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films(lambda: tmp_path_factory.mktemp("film"))


# Seconds from frame to frame: two keyframes (0.8 and 1.6 s), neither, one only, the whole film, its last frames.
SPANS = ((0.8, 1.6), (0.55, 1.31), (0.8, 1.23), (0.0, 99.0), (2.9, 99.0))


@pytest.mark.parametrize("name", [*OFTEN, *(pytest.param(n, marks=pytest.mark.slow) for n in FILMS if n not in OFTEN)])
@pytest.mark.parametrize("span", SPANS)
def test_a_part_shows_the_frames_on_the_screen_between_its_seconds_and_no_other(
    name: str, span: tuple[float, float], films: Films, tmp_path: Path
) -> None:
    path, numbers, ts = films[name]
    part = cut(path, *span, tmp_path / "part.mp4")
    ends = [*ts[1:], ts[-1] + 1 / 30]
    wanted = [
        n for n, at, until in zip(numbers, ts, ends, strict=True) if until > span[0] + 1e-3 and at < span[1] - 1e-3
    ]
    assert shown(tmp_path / "part.mp4") == wanted
    assert part.frames == len(wanted)


@pytest.mark.parametrize(("span", "copied"), zip(SPANS, (True, False, True, True, False), strict=True))
def test_what_falls_on_key_frames_is_copied(
    span: tuple[float, float], copied: bool, films: Films, tmp_path: Path
) -> None:
    path = films["closed"][0]
    assert cut(path, *span, tmp_path / "part.mp4").copied is copied
    packets = [bytes(p) for p in av.open(str(path)).demux(video=0) if p.size]
    written = [bytes(p) for p in av.open(str(tmp_path / "part.mp4")).demux(video=0) if p.size]
    assert all(p in packets for p in written) is copied


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "name", "tag"),
    [
        ("libx265", "a.mkv", "hvc1"),
        ("libvpx-vp9", "a.webm", "vp09"),
        ("libsvtav1", "a.mkv", "av01"),
        ("mpeg4", "a.mkv", "mp4v"),
    ],
)
def test_what_an_mp4_may_hold_is_copied(codec: str, name: str, tag: str, tmp_path: Path) -> None:
    path = make_video(tmp_path / name, 60, codec=codec)
    part = cut(path, 0.8, 1.6, tmp_path / "part.mp4")
    assert part.copied and shown(tmp_path / "part.mp4") == list(range(24, 48))
    with av.open(str(tmp_path / "part.mp4")) as film:
        assert film.streams.video[0].codec_context.codec_tag == tag


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "pix_fmt", "name"),
    [
        *(("prores_ks", "yuv422p10le", "a.mov"), ("libx264", "yuv422p10le", "a.mkv"), ("png", "rgb24", "a.mov")),
        *(("qtrle", "argb", "a.mov"), ("mpeg2video", "yuv420p", "a.mpg"), ("libvpx", "yuv420p", "a.webm")),
    ],
)
def test_what_is_encoded_again_may_have_any_kind_of_pixels(codec: str, pix_fmt: str, name: str, tmp_path: Path) -> None:
    path = make_video(tmp_path / name, 60, codec=codec, pix_fmt=pix_fmt)
    assert not cut(path, 0.5, 1.3, tmp_path / "part.mp4").copied
    assert shown(tmp_path / "part.mp4") == list(range(15, 39))


def test_a_copy_with_b_frames_is_made_only_where_no_later_frame_is_needed(films: Films, tmp_path: Path) -> None:
    path = films["of B-frames"][0]
    assert cut(path, 0.8, 1.6, tmp_path / "a.mp4").copied
    # Frame 26 refers to frame 28, which is not to be shown.
    assert not cut(path, 0.8, 27 / 30, tmp_path / "b.mp4").copied
    assert shown(tmp_path / "b.mp4") == [24, 25, 26]


def test_a_copy_that_would_show_something_else_is_encoded_again(
    films: Films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a header changes within a film: what was copied is decoded before it counts."""
    copied = PyavDecoder.copied
    monkeypatch.setattr(PyavDecoder, "copied", lambda *a: iter(list(copied(*a) or ())[:-1]))
    part = cut(films["closed"][0], 0.8, 1.6, tmp_path / "part.mp4")
    assert (part.copied, shown(tmp_path / "part.mp4")) == (False, list(range(24, 48)))


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("start", [0.4, 0.5])
def test_a_part_is_shown_upright(degrees: int, start: float, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 36, turned=degrees, size=(160, 96))
    part = cut(path, start, 0.8, tmp_path / "part.mp4")
    film = PyavDecoder(tmp_path / "part.mp4", unheard)
    ((_, pixels),) = film.frames([0])
    assert part.copied is (start == 0.4)
    assert pixels.shape == (96, 160, 3)
    assert np.abs(pixels.astype(int) - barcode(part.first, 160, 96)).mean() < 12
    assert read_barcode(pixels) == part.first


def test_frames_keep_their_own_times(tmp_path: Path) -> None:
    times = [i / 30 + (i % 3) * 0.012 for i in range(60)]
    path = make_video(tmp_path / "a.mp4", 60, times=times)
    part = cut(path, times[7], times[31], tmp_path / "part.mp4")
    film = PyavDecoder(tmp_path / "part.mp4", unheard)
    assert not part.copied
    assert film.timeline.ts == pytest.approx(np.array(times[7:31]) - times[7], abs=1e-3)


def test_colours_are_those_of_the_film(tmp_path: Path) -> None:
    """Full range, tagged BT.709, chroma of every pixel, and an odd size: what is encoded again looks alike."""
    path = make_video(tmp_path / "a.mkv", 10, fps=10, size=(121, 91), codec="mjpeg", pix_fmt="yuvj444p")
    part = cut(path, 0.2, 0.5, tmp_path / "part.mp4")
    film, whole = PyavDecoder(tmp_path / "part.mp4", unheard), decode_all(path)[2]
    ((_, pixels),) = film.frames([0])
    assert not part.copied and pixels.shape == (90, 120, 3)
    assert np.abs(pixels.astype(int) - whole[:90, :120]).mean() < 4


def test_a_part_is_of_the_track_that_was_found(tmp_path: Path) -> None:
    path = make_two_streams(tmp_path / "a.mkv")
    assert set(cut_and_read(path, tmp_path / "one.mp4", 0)) == {4095}
    assert cut_and_read(path, tmp_path / "two.mp4", 1) == list(range(9, 24))
    report = OUT.save_clips(answers(hit(path, 0.3, 0.8, file_id="a.mkv#track=0")), tmp_path / "clips")
    assert report.clips is not None
    assert set(shown(report.clips.clips[0].path)) == {4095}


def cut_and_read(path: Path, target: Path, track: int) -> list[int]:
    cut(path, 0.3, 0.8, target, track)
    return shown(target)


# ------------------------------------------------------------------------------------------------------------- sound

RATE, FLASHES = 48_000, (2.0, 3.0)


def make_flashes(path: Path, codec: str, *, late: float = 0.0) -> Path:
    """Write 5 s of 25 frames a second: at each of FLASHES one white frame, and 40 ms of a beep.

    late: seconds after which the sound begins.
    """
    with av.open(str(path), "w") as out:
        picture = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "25", "bf": "2"})
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        sound = out.add_stream(codec, rate=RATE, layout="stereo")
        for i in range(125):
            pixels = np.full((64, 64, 3), 255 if i / 25 in FLASHES else 0, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(picture.encode(frame))
        out.mux(picture.encode(None))
        t = np.arange(5 * RATE) / RATE
        beeps = sum(((t >= at) & (t < at + 0.04)) * np.sin(2 * np.pi * 1000 * t) for at in FLASHES)
        wave = np.ascontiguousarray(np.tile(np.asarray(beeps * 0.8, dtype=np.float32), (2, 1)))
        for at in range(round(late * RATE), 5 * RATE, 960):
            heard = av.AudioFrame.from_ndarray(wave[:, at : at + 960], format="fltp", layout="stereo")
            heard.sample_rate, heard.pts, heard.time_base = RATE, at, Fraction(1, RATE)
            out.mux(sound.encode(heard))
        out.mux(sound.encode(None))
    return path


def flashes_and_beeps(path: Path) -> tuple[list[float], list[float], float]:
    """When a film flashes and when its beeps begin, seconds by its own clock, and how long its sound is."""
    with av.open(str(path)) as film:
        bright = [f.time for f in film.decode(video=0) if f.to_ndarray(format="gray").mean() > 128]
    with av.open(str(path)) as film:
        heard = [(f.time, f.to_ndarray()[0]) for f in film.decode(audio=0)]
    wave = np.concatenate([samples for _, samples in heard])
    times = np.concatenate([at + np.arange(len(samples)) / RATE for at, samples in heard])
    loud = times[np.abs(wave) > 0.2]
    begins = [float(at) for at, before in zip(loud, [-1.0, *loud[:-1]], strict=True) if at - before > 0.5]
    return bright, begins, float(times[-1] - max(0.0, times[0]))


SOUNDS = {"mp4 aac": ("a.mp4", "aac"), "Matroska pcm": ("a.mkv", "pcm_s16le"), "Matroska opus": ("a.mkv", "libopus")}
SOUNDS |= {"Matroska mp3": ("a.mkv", "libmp3lame"), "Matroska ac3": ("a.mkv", "ac3")}


@pytest.mark.parametrize("late", [0.0, 1.7])
@pytest.mark.parametrize("span", [(1.0, 4.0), (1.52, 3.6)])
@pytest.mark.parametrize(
    "kind", [*list(SOUNDS)[:2], *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(SOUNDS)[2:])]
)
def test_sound_stays_in_step_with_the_picture(
    kind: str, span: tuple[float, float], late: float, tmp_path: Path
) -> None:
    """Copied or encoded again, and where sound begins within the moment."""
    name, codec = SOUNDS[kind]
    path = make_flashes(tmp_path / name, codec, late=late)
    before, beeped, _ = flashes_and_beeps(path)
    assert np.abs(np.array(before) - beeped).max() < 0.01  # the film itself is in step
    part = cut(path, *span, tmp_path / "part.mp4")
    bright, beeps, seconds = flashes_and_beeps(tmp_path / "part.mp4")
    assert part.copied is (span[0] == 1.0)
    assert bright == pytest.approx([at - span[0] for at in FLASHES], abs=1e-3)
    assert np.abs(np.array(bright) - beeps).max() < 0.01
    begins = span[0] if codec == "pcm_s16le" else max(span[0], late)  # what is encoded again begins with silence
    assert seconds == pytest.approx(span[1] - begins, abs=0.06)


# ----------------------------------------------------------------------------------------------------- files and names


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("film") / "a dog.mp4", 60, audio=True)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def saved(report: QueryReport) -> Sequence[SavedClip]:
    assert report.clips is not None
    return report.clips.clips


def test_each_moment_is_a_file_that_says_where_it_comes_from(film: Path, tmp_path: Path) -> None:
    report = QueryReport(
        [
            Answer.of("one", [hit(film, 0.0, 0.5), hit(film, 1.0, 1.5)], None),
            Answer.of("two", [hit(film, 0.0, 0.5)], None),
        ]
    )
    done = OUT.save_clips(report, tmp_path / "new" / "clips")
    assert names(tmp_path / "new" / "clips") == ["001_a dog_0m00s.mp4", "002_a dog_0m01s.mp4", "003_a dog_0m00s.mp4"]
    assert [(c.number, c.query, c.start, c.end, c.frames, c.problem) for c in saved(done)] == [
        (1, "one", 0.0, 0.5, 15, None), (2, "one", 1.0, 1.5, 15, None), (3, "two", 0.0, 0.5, 15, None)]  # fmt: skip
    assert shown(saved(done)[1].path) == list(range(30, 45))
    assert done.results == report.results


def test_padding_is_added_on_both_sides_within_the_film(film: Path, tmp_path: Path) -> None:
    done = OUT.save_clips(answers(hit(film, 0.1, 0.5), hit(film, 1.0, 1.8)), tmp_path, pad=0.5)
    assert [shown(c.path) for c in saved(done)] == [list(range(30)), list(range(15, 60))]


@pytest.mark.parametrize("pad", [-1.0, float("nan")])
def test_padding_that_is_no_length_is_refused(pad: float, film: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--pad: expected seconds, 0 or more"):
        OUT.save_clips(answers(hit(film, 0, 1)), tmp_path / "clips", pad=pad)
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("日本の犬", "001_日本の犬_0m12s.mp4"),
        ("سگ\u200cها", "001_سگ\u200cها_0m12s.mp4"),
        ("Cafe\u0301", "001_Café_0m12s.mp4"),
        ('a:b*c?"<d>|\\e', "001_a_b_c___d___e_0m12s.mp4"),
        ("up\u202egnp\x1b\n", "001_up_gnp___0m12s.mp4"),
        ("bytes \udcff", "001_bytes __0m12s.mp4"),
        ("ends. .", "001_ends_0m12s.mp4"),
        ("...", "001___0m12s.mp4"),
        ("犬" * 80, "001_" + "犬" * 33 + "_0m12s.mp4"),
    ],
)
def test_names_are_what_every_file_system_takes(stem: str, name: str) -> None:
    assert clip_name(hit(f"/films/{stem}.mp4", 12.9, 20), 1) == name
    assert len(os.fsencode(name)) < 143


def test_names_tell_more_moments_than_three_digits_have() -> None:
    assert clip_name(hit("/a.mp4", 3723, 3724), 7, 4) == "0007_a_62m03s.mp4"


def test_nothing_is_replaced_unasked(film: Path, tmp_path: Path) -> None:
    (tmp_path / "002_a dog_0m01s.mp4").write_text("mine")
    report = answers(hit(film, 0.0, 0.5), hit(film, 1.0, 1.5))
    with pytest.raises(ConfigError, match=r"002_a dog_0m01s.mp4' is there already.*--overwrite"):
        OUT.save_clips(report, tmp_path)
    assert names(tmp_path) == ["002_a dog_0m01s.mp4"]
    assert [c.problem for c in saved(OUT.save_clips(report, tmp_path, overwrite=True))] == [None, None]
    assert shown(tmp_path / "002_a dog_0m01s.mp4") == list(range(30, 45))


def test_a_dry_run_says_the_same_and_writes_nothing(film: Path, tmp_path: Path) -> None:
    report = answers(hit(film, 0.0, 0.5), hit(film, 0.4, 0.8), hit(tmp_path / "gone.mp4", 0, 1, missing=True))
    dry = OUT.save_clips(report, tmp_path / "clips", dry_run=True)
    assert not (tmp_path / "clips").exists()
    wet = OUT.save_clips(report, tmp_path / "clips")
    assert saved(dry) == saved(wet)
    assert (dry.clips.dry_run, wet.clips.dry_run) == (True, False)  # type: ignore[union-attr]


def test_what_cannot_be_saved_is_told_and_the_others_are(film: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "empty.mp4").touch()
    broken = truncate(film, tmp_path / "cut.mp4", 0.3)
    wanted = answers(
        hit(tmp_path / "gone.mp4", 0, 1, missing=True), hit(tmp_path / "text.mp4", 0, 1),
        hit(tmp_path / "empty.mp4", 0, 1),
        hit(broken, 0, 1), hit(tmp_path / "went.mp4", 0, 1), hit(film, 1.0, 1.5),
    )  # fmt: skip
    problems = [c.problem for c in saved(OUT.save_clips(wanted, tmp_path / "clips"))]
    assert [p is None for p in problems] == [False, False, False, False, False, True]
    assert "gone.mp4' is not there any more" in str(problems[0])
    assert "text.mp4': not readable as a video" in str(problems[1])
    assert "the file is empty" in str(problems[2])
    assert "went.mp4': No such file" in str(problems[4])
    assert names(tmp_path / "clips") == ["006_a dog_0m01s.mp4"]


def test_a_full_disk_leaves_nothing_half_written(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each file 9 kB can be written; the second moment fits, and is saved."""
    from tvr_cli.engine.showing.cutting import film as cutting

    write = cutting._Written.write

    def full(self: Any, data: bytes) -> int:
        self._file.flush()
        if (room := 9000 - self._file.tell()) < len(data):
            self.refused = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file.write(data[: max(0, room)])
            raise self.refused
        return write(self, data)

    monkeypatch.setattr(cutting._Written, "write", full)
    done = OUT.save_clips(answers(hit(film, 0.0, 2.0), hit(film, 0.0, 0.1)), tmp_path)
    first, second = saved(done)
    assert "001_a dog_0m00s.mp4': No space left on device; free some space" in str(first.problem)
    assert second.problem is None
    assert names(tmp_path) == ["002_a dog_0m00s.mp4"]


def test_a_folder_that_cannot_be_made_ends_it_in_a_sentence(film: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*choose another place with --save-clips"):
        OUT.save_clips(answers(hit(film, 0, 1)), tmp_path / "file" / "clips")
