"""Decoding: the frames asked for are the frames given, whatever the container, the codec or the damage."""

from __future__ import annotations

import enum
import io
import json
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import videos
from PIL import Image
from videos import read_barcode

from tvr_cli.errors import ConfigError, DecodeError
from tvr_cli.plans import FramePlan
from tvr_cli.stores.decoding.choose import open_video
from tvr_cli.stores.decoding.packets import video_streams
from tvr_cli.stores.decoding.sample import Task, encode_jpeg, sample
from tvr_cli.stores.decoding.types import upright
from tvr_cli.stores.frames.store import decode_jpeg
from tvr_cli.stores.frames.windows import Segmenting, Span

SHARED = Path(__file__).resolve().parents[3] / "shared" / "videos"
SLOWER = {"preset": "veryfast"}

# name -> what make_video needs beside the path
STREAMS: dict[str, dict[str, object]] = {
    "plain.mp4": {},
    "b_frames.mp4": {"bframes": 3, "options": SLOWER},
    "one_gop.mp4": {"frames": 90, "gop": 250, "bframes": 3, "options": SLOWER},
    "audio.mkv": {"bframes": 2, "audio": True},
    "stream.ts": {"bframes": 2},
    "flash.flv": {"bframes": 2},
    "raw.h264": {"bframes": 2},
    "hevc.mp4": {"codec": "libx265", "bframes": 3},
    "av1.mkv": {"codec": "libsvtav1"},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "bframes": 2},
    "mpeg4_b.mp4": {"codec": "mpeg4", "bframes": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "bframes": 2},
    "motion_jpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "windows.wmv": {"codec": "wmv2"},
    "phone.3gp": {"codec": "mpeg4", "size": (176, 144)},
    "picture.gif": {"codec": "gif", "pix_fmt": "rgb8", "frames": 20, "fps": 10},
}


def make(folder: Path, name: str) -> Path:
    settings = dict(STREAMS[name])
    codec = str(settings.get("codec", "libx264"))
    if not videos.can_encode(codec):
        pytest.skip(f"the installed PyAV cannot encode {codec}")
    return videos.make_video(folder / name, **settings)  # type: ignore[arg-type]


def numbers(path: Path, indices: list[int] | None = None, decoder: str = "auto") -> dict[int, int]:
    """Return frame number -> barcode of the frames that the decoder gives."""
    video = open_video(path, decoder)  # type: ignore[arg-type]
    try:
        wanted = indices if indices is not None else list(range(len(video.timeline)))
        return {i: read_barcode(pixels) for i, pixels in video.frames(wanted)}
    finally:
        video.close()


# ---------------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("name", STREAMS)
def test_every_frame_is_the_one_that_decoding_from_the_start_gives(tmp_path: Path, name: str) -> None:
    path = make(tmp_path, name)
    truth = [read_barcode(frame) for frame in videos.decode_all(path)]
    assert truth == list(range(len(truth))) and len(truth) >= 20
    assert numbers(path) == dict(enumerate(truth))
    few = [1, 2, len(truth) // 2, len(truth) - 1]
    assert numbers(path, few) == {i: truth[i] for i in few}
    for i in (0, 7, 13, len(truth) - 2):
        assert numbers(path, [i]) == {i: truth[i]}


def test_an_open_gop_gives_exact_frames(tmp_path: Path) -> None:
    path = videos.make_open_gop(tmp_path / "open.mp4", 100)
    for i in range(0, 100, 3):
        assert numbers(path, [i]) == {i: i}


def test_frames_hidden_by_an_edit_list_are_not_counted(tmp_path: Path) -> None:
    whole = videos.make_video(tmp_path / "whole.mp4", 90, gop=24, bframes=3, options=SLOWER)
    path = videos.cut_with_edit_list(whole, tmp_path / "cut.mp4", 17)
    video = open_video(path)
    assert len(video.timeline) == 73
    assert video.timeline.ts[0] == pytest.approx(0, abs=1e-3) and video.timeline.end == pytest.approx(73 / 30, abs=0.01)
    assert numbers(path) == {i: i + 17 for i in range(73)}


def test_a_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [i * 0.05 for i in range(20)] + [1 + i * 0.25 for i in range(20)]
    path = videos.make_video(tmp_path / "vfr.mp4", 40, times=times, bframes=2)
    video = open_video(path)
    np.testing.assert_allclose(video.timeline.ts, times, atol=2e-3)
    assert numbers(path) == {i: i for i in range(40)}


def test_time_zero_is_where_players_start(tmp_path: Path) -> None:
    late = [2.0 + i / 30 for i in range(30)]
    path = videos.make_video(tmp_path / "late.mkv", 30, times=late)
    np.testing.assert_allclose(open_video(path).timeline.ts, np.arange(30) / 30, atol=2e-3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, degrees: int) -> None:
    path = videos.make_video(tmp_path / "turned.mp4", 30, turned=degrees)
    video = open_video(path)
    index, pixels = next(iter(video.frames([21])))
    assert (index, read_barcode(pixels)) == (21, 21)
    assert pixels.shape == (120, 160, 3)


def test_the_display_matrix_may_mirror() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    one = 1 << 16
    np.testing.assert_array_equal(upright(pixels, None), pixels)
    np.testing.assert_array_equal(upright(pixels, (one, 0, 0, 0, one, 0, 0, 0, 1)), pixels)
    np.testing.assert_array_equal(upright(pixels, (-one, 0, 0, 0, one, 0, 0, 0, 1)), pixels[:, ::-1])
    np.testing.assert_array_equal(upright(pixels, (0, one, 0, one, 0, 0, 0, 0, 1)), pixels.transpose(1, 0, 2))
    np.testing.assert_array_equal(upright(pixels, (0, one, 0, -one, 0, 0, 0, 0, 1)), np.rot90(pixels, -1))


def test_the_default_of_two_video_streams_is_read(tmp_path: Path) -> None:
    path = videos.make_two_streams(tmp_path / "two.mp4")
    assert numbers(path) == {i: i for i in range(30)}


def test_colours_follow_the_matrix_of_the_stream(tmp_path: Path) -> None:
    red = np.zeros((120, 160, 3), dtype=np.uint8)
    red[:] = (200, 30, 30)
    path = videos.make_video(tmp_path / "red.mp4", 2, pictures=[red, red], options={"crf": "1"})
    _, pixels = next(iter(open_video(path).frames([0])))
    assert np.abs(pixels.astype(int).mean((0, 1)) - [200, 30, 30]).max() < 4


# ------------------------------------------------------------------------------------------------------------- decord


@pytest.mark.parametrize("name", ["plain.mp4", "b_frames.mp4", "one_gop.mp4", "audio.mkv", "vp8.webm"])
def test_decord_gives_the_same_frames(tmp_path: Path, name: str) -> None:
    pytest.importorskip("decord")
    path = make(tmp_path, name)
    by_pyav, by_decord = open_video(path, "pyav"), open_video(path, "decord")
    np.testing.assert_allclose(by_decord.timeline.ts, by_pyav.timeline.ts, atol=1e-6)
    assert numbers(path, [0, 5, 29, 55], "decord") == {0: 0, 5: 5, 29: 29, 55: 55}


@pytest.mark.parametrize("name", ["mpeg4_b.avi", "stream.ts", "mpeg2.mpg", "hevc.mp4"])
def test_decord_is_refused_where_it_gives_wrong_frames(tmp_path: Path, name: str) -> None:
    pytest.importorskip("decord")
    path = make(tmp_path, name)
    with pytest.raises(DecodeError, match=r"decord gives wrong frames for .*--decoder auto"):
        open_video(path, "decord")


def test_decord_is_refused_on_edit_lists_and_open_gops(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    whole = videos.make_video(tmp_path / "whole.mp4", 60, gop=24)
    with pytest.raises(DecodeError, match=r"an edit list \(17 hidden frames\)"):
        open_video(videos.cut_with_edit_list(whole, tmp_path / "cut.mp4", 17), "decord")
    with pytest.raises(DecodeError, match="open groups of pictures"):
        open_video(videos.make_open_gop(tmp_path / "open.mp4", 60), "decord")


def test_an_unknown_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'pyva'; expected auto, pyav or decord; did you mean pyav"):
        open_video(tmp_path / "a.mp4", "pyva")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- bad files


def reason(path: Path, **options: object) -> str:
    with pytest.raises(DecodeError) as e:
        sample(Task(path, FramePlan(num_frames=8, size=64), **options))  # type: ignore[arg-type]
    return str(e.value)


def test_what_is_not_a_video_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    assert reason(tmp_path / "empty.mp4") == "the file is empty (0 bytes)"
    (tmp_path / "text.mp4").write_text("hello, this is not a video\n" * 50)
    assert "not readable as a video" in reason(tmp_path / "text.mp4")
    (tmp_path / "noise.avi").write_bytes(np.random.default_rng(0).bytes(50_000))
    assert "not readable as a video" in reason(tmp_path / "noise.avi")
    assert "only audio" in reason(videos.make_audio(tmp_path / "sound.mp4"))
    with pytest.raises(FileNotFoundError):
        sample(Task(tmp_path / "nothing.mp4", FramePlan()))


def test_metadata_in_another_encoding_is_no_obstacle(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "a.mkv", 10)
    data = path.read_bytes()
    assert data.count(b"Lavf") >= 1
    path.write_bytes(data.replace(b"Lavf", b"\xb3\xe9\xfc\xff"))
    assert numbers(path) == {i: i for i in range(10)}


def test_a_playlist_cannot_open_other_files(tmp_path: Path) -> None:
    videos.make_video(tmp_path / "real.mp4", 10)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile real.mp4\n")
    assert reason(tmp_path / "list.mp4") == "a playlist (concat), not a video"


def test_of_a_truncated_file_what_is_there_is_kept_with_a_note(tmp_path: Path) -> None:
    whole = videos.make_video(tmp_path / "whole.mp4", 90, muxer={"movflags": "+faststart"})
    half = videos.truncate(whole, tmp_path / "half.mp4", 0.6)
    refused = reason(half, keep_truncated=False)
    assert refused.startswith("truncated: the header declares 90 frames, the file holds ")
    read = sample(Task(half, FramePlan(num_frames=8, size=64)))
    assert read.truncated and read.note.startswith(refused.partition(";")[0]) and 1.0 < read.duration < 2.5
    shown = [read_barcode(decode_jpeg(j)) for j in read.clips[0].jpegs]
    assert shown == sorted(set(shown)) and len(shown) == 8
    np.testing.assert_allclose(read.clips[0].ts, np.array(shown) / 30, atol=1e-3)


def test_a_truncated_matroska_file_is_found_by_its_duration(tmp_path: Path) -> None:
    whole = videos.make_video(tmp_path / "whole.mkv", 90)
    half = videos.truncate(whole, tmp_path / "half.mkv", 0.5)
    assert "truncated: the header declares 3.0 s" in reason(half, keep_truncated=False)


@pytest.mark.parametrize("ending", ["mkv", "webm", "ts", "flv", "mp4", "mov", "avi"])
def test_a_segment_that_starts_late_is_whole(tmp_path: Path, ending: str) -> None:
    """Matroska says when it ends, counted from 0; the first frame of the second segment comes at 10 s."""
    codec = "libvpx" if ending == "webm" else "mpeg4" if ending == "avi" else "libx264"
    times = None if ending == "avi" else [10 + i / 10 for i in range(100)]
    path = videos.make_video(tmp_path / f"seg.{ending}", 100, fps=10, size=(64, 48), codec=codec, times=times)
    video = open_video(path)
    assert video.timeline.truncated is None and len(video.timeline) == 100
    assert video.timeline.ts[0] == pytest.approx(0, abs=0.11) and video.timeline.end == pytest.approx(10, abs=0.25)
    video.close()


def test_a_late_segment_that_was_cut_short_is_noticed(tmp_path: Path) -> None:
    times = [10 + i / 10 for i in range(100)]
    whole = videos.make_video(tmp_path / "seg.mkv", 100, fps=10, times=times)
    half = videos.truncate(whole, tmp_path / "half.mkv", 0.5)
    assert "truncated: the header declares 20.0 s" in reason(half, keep_truncated=False)


def test_a_header_that_promises_hours_is_a_note(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "a.mkv", 30)
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # EBML id of Duration, eight bytes of a float follow: milliseconds
    path.write_bytes(data[:at] + struct.pack(">d", 3 * 3600e3) + data[at + 8 :])
    read = sample(Task(path, FramePlan(num_frames=3, size=64)))
    assert read.note.startswith(
        "truncated: the header declares 10800.0 s, the file holds 1.0 s, or that header is wrong"
    )
    assert len(read.clips[0].jpegs) == 3 and read.duration == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("ending", "muxer"), [("mkv", {"live": "1"}), ("flv", {"flvflags": "no_duration_filesize"})])
def test_a_recording_that_broke_off_gets_a_note_whether_or_not_it_declares_a_length(
    tmp_path: Path, ending: str, muxer: dict[str, str]
) -> None:
    plan = FramePlan(num_frames=3, size=64)
    declared = videos.truncate(videos.make_video(tmp_path / "a.mkv", 90), tmp_path / "half.mkv", 0.5)
    whole = videos.make_video(tmp_path / f"live.{ending}", 90, muxer=muxer)
    cut = videos.truncate(whole, tmp_path / f"cut.{ending}", 0.5)
    assert sample(Task(cut, plan)).duration == pytest.approx(1.5, abs=0.4)
    for path, header in ((declared, "truncated: the header declares 3.0 s"), (cut, "the header declares no length")):
        note = sample(Task(path, plan)).note
        assert note.startswith(header) and ", the file holds 1." in note and note.endswith("; what is there is stored")


def test_sound_that_outlasts_the_picture_is_not_a_truncation(tmp_path: Path) -> None:
    path = tmp_path / "long_sound.mkv"
    videos.make_video(path, 30, audio=True, audio_s=6.0)
    video = open_video(path)
    assert video.timeline.truncated is None and video.timeline.end == pytest.approx(1.0, abs=0.05)


def test_a_file_without_its_index_is_unreadable(tmp_path: Path) -> None:
    whole = videos.make_video(tmp_path / "whole.mp4", 90)
    assert "not readable as a video" in reason(videos.truncate(whole, tmp_path / "no_moov.mp4", 0.6))


def test_a_corrupt_file_says_how_much_is_lost(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "a.mp4", 90, gop=250, muxer={"movflags": "+faststart"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    path.write_bytes(data)
    assert reason(path).startswith("corrupt: only ")


def test_a_little_damage_costs_only_the_frames_that_need_it(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "a.mp4", 120, gop=6, muxer={"movflags": "+faststart"})
    with videos.av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        at, size = packets[62].pos, packets[62].size  # frame 62 of the group 60 … 65
    data = bytearray(path.read_bytes())
    data[at : at + size] = b"\xff" * size
    path.write_bytes(data)
    read = sample(Task(path, FramePlan(num_frames=40, size=64)))
    shown = [read_barcode(decode_jpeg(j)) for j in read.clips[0].jpegs]
    assert shown == sorted(set(shown)) and not set(shown) & {62, 63, 64, 65}
    assert len(shown) == 40 and read.clips[0].damaged > 0
    np.testing.assert_allclose(read.clips[0].ts, np.array(shown) / 30, atol=1e-3)


# ------------------------------------------------------------------------------------------------------------- pixels


def test_jpegs_have_the_quality_asked_for() -> None:
    pixels = videos.barcode(77, 64, 64)
    small, large = encode_jpeg(pixels, 30), encode_jpeg(pixels, 95)
    assert len(small) < len(large)
    assert Image.open(io.BytesIO(large)).size == (64, 64)
    assert read_barcode(decode_jpeg(small)) == 77


# ---------------------------------------------------------------------------------------------- one video, many clips


def test_windows_share_frames_and_keep_the_times_of_the_file(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "long.mp4", 100, fps=10, bframes=2)
    read = sample(Task(path, FramePlan(num_frames=4, size=64), segmenting=Segmenting(4.0, 1.0, 6.0)))
    assert [(c.span.start, c.span.end) for c in read.clips] == [(0, 4), (3, 7), (6, 10)]
    for clip in read.clips:
        assert clip.span.start is not None
        want = [round(clip.span.start * 10) + k for k in (5, 15, 25, 35)]
        assert [read_barcode(decode_jpeg(j)) for j in clip.jpegs] == want
        np.testing.assert_allclose(clip.ts, np.array(want) / 10, atol=1e-3)


def test_a_single_frame_is_a_video(tmp_path: Path) -> None:
    for name in ("one.mp4", "one.wmv", "one.avi"):
        path = videos.make_video(tmp_path / name, 1, codec="wmv2" if name.endswith("wmv") else "mpeg4")
        read = sample(Task(path, FramePlan(num_frames=12, size=64)))
        assert [read_barcode(decode_jpeg(j)) for j in read.clips[0].jpegs] == [0] and read.duration > 0


def test_a_short_clip_keeps_its_few_frames(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "short.mp4", 3)
    read = sample(Task(path, FramePlan(num_frames=12, size=64)))
    assert [read_barcode(decode_jpeg(j)) for j in read.clips[0].jpegs] == [0, 1, 2]


def test_a_span_beyond_the_end_has_a_reason(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "a.mp4", 30)
    read = sample(Task(path, FramePlan(size=64), spans=(Span(0.5, 0.8), Span(5, 9))))
    assert len(read.clips[0].jpegs) == 9 and not read.clips[0].reason
    assert read.clips[1].reason == "no frame between 5 s and 9 s: it ends at 1.00 s"


def test_an_event_of_one_second_in_a_long_video_has_its_times(tmp_path: Path) -> None:
    fps, seconds, event = 2, 2400, 1500
    dark, flash = videos.barcode(0, 64, 48), videos.barcode(4095, 64, 48)
    pictures = [flash if event <= i / fps < event + 1 else dark for i in range(fps * seconds)]
    path = videos.make_video(tmp_path / "film.mp4", len(pictures), fps=fps, size=(64, 48), gop=100, pictures=pictures)
    plan = FramePlan(kind="fps", fps=2.0, max_frames=64, size=32)
    read = sample(Task(path, plan, segmenting=Segmenting(30.0, 5.0, 45.0)))
    assert len(read.clips) == 96 and max(len(c.jpegs) for c in read.clips) == 60
    found = [t for c in read.clips for j, t in zip(c.jpegs, c.ts, strict=True) if read_barcode(decode_jpeg(j)) == 4095]
    assert sorted(set(np.round(found, 3))) == [1500.0, 1500.5]


@pytest.mark.skipif(not SHARED.exists(), reason="the shared clips are not here")
@pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_shared_clips_are_read_exactly(large: bool) -> None:
    """Frames of every real clip equal those of decoding it from the start."""
    for entry in json.loads((SHARED / "manifest.json").read_text()):
        path, pixels_in_all = SHARED / entry["file"], entry["frames"] * entry["width"] * entry["height"]
        if entry["decode_error"] or large != (pixels_in_all > 40e6):
            continue
        video = open_video(path)
        wanted = sorted({(2 * k + 1) * len(video.timeline) // 12 for k in range(6)})
        got = dict(video.frames(wanted))
        with videos.av.open(str(path)) as container:
            stream, n = container.streams.best("video"), 0
            for n, frame in enumerate(container.decode(stream), start=1):
                if n - 1 in got and "rot90" not in entry["file"]:
                    np.testing.assert_array_equal(got.pop(n - 1), frame.to_ndarray(format="rgb24"), entry["file"])
        assert (len(video.timeline), list(got)) == (n, wanted if "rot90" in entry["file"] else []), entry["file"]


@pytest.mark.skipif(not SHARED.exists(), reason="the shared clips are not here")
def test_the_corrupt_shared_clip_is_refused() -> None:
    assert reason(SHARED / "decord_corrupted.mp4").startswith("corrupt: only 29 of 50 frames can be decoded")


def test_a_cover_is_known_whatever_kind_of_flags_pyav_has() -> None:
    """Up to PyAV 17 they are no numbers: `int` of one raised, and no video at all was read."""

    class Disposition(enum.Flag):
        default, attached_pic = 1, 0x400

    film, cover = (SimpleNamespace(disposition=mark) for mark in (Disposition.default, Disposition.attached_pic))
    container = SimpleNamespace(streams=SimpleNamespace(video=[cover, film], audio=[], best=lambda _: film))
    assert video_streams(container) == [film]
