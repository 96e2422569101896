"""A film that is transcoded while it is watched: from the second asked for, upright, with its sound, to its end."""

from __future__ import annotations

import io
from pathlib import Path

import av
import pytest
from videos import can_encode, decode_all, make_audio, make_video, read_barcode

from tvr_cli.engine.showing.cutting.live import stream
from tvr_cli.errors import DecodeError


def watched(film: Path, at: float) -> Path:
    out = io.BytesIO()
    out.seekable = lambda: False  # type: ignore[method-assign]
    stream(film, at, out)
    made = film.with_suffix(".watched.mp4")
    made.write_bytes(out.getvalue())
    return made


@pytest.mark.parametrize(
    ("name", "codec", "more"),
    [
        ("a.mp4", "libx265", {}),
        ("a.mkv", "libx264", {"bframes": 2}),
        ("a.mpg", "mpeg2video", {}),
        ("a.webm", "libvpx", {}),
        ("deep.mp4", "libx265", {"pix_fmt": "yuv420p10le"}),
    ],
)
def test_it_begins_with_the_frame_on_the_screen_and_goes_on_to_the_end(tmp_path, name, codec, more):
    if not can_encode(codec):
        pytest.skip(f"the installed PyAV has no {codec}")
    film = make_video(tmp_path / name, 45, fps=30, codec=codec, **more)
    for at, first in ((0.0, 0), (1.0, 30), (1.05, 31)):
        assert [read_barcode(frame) for frame in decode_all(watched(film, at))] == list(range(first, 45))


def test_avi_which_keeps_no_times_is_as_late_as_its_decoder_at_most(tmp_path):
    film = make_video(tmp_path / "a.avi", 45, fps=30, codec="mpeg4", bframes=2)
    assert [read_barcode(frame) for frame in decode_all(watched(film, 0.0))] == list(range(45))
    numbers = [read_barcode(frame) for frame in decode_all(watched(film, 1.0))]
    assert abs(numbers[0] - 30) <= 3 and numbers == list(range(numbers[0], 45))


def test_a_turned_film_stands_upright_and_a_large_one_is_made_smaller(tmp_path):
    turned = decode_all(watched(make_video(tmp_path / "turned.mp4", 6, turned=90), 0.0))
    assert turned[0].shape == (120, 160, 3) and [read_barcode(frame) for frame in turned] == list(range(6))
    large = decode_all(watched(make_video(tmp_path / "large.mp4", 2, size=(1922, 1080)), 0.0))
    assert large[0].shape == (720, 1280, 3) and read_barcode(large[1]) == 1


def test_the_sound_goes_with_the_picture(tmp_path):
    film = make_video(tmp_path / "a.mkv", 60, fps=30, audio=True)
    with av.open(str(watched(film, 1.0))) as made:
        (sound,) = made.streams.audio
        assert sound.codec_context.name == "aac"
        seconds = sum(frame.samples for frame in made.decode(sound)) / sound.rate
    assert seconds == pytest.approx(1.0, abs=0.1)


def test_its_fragments_need_nothing_that_comes_later(tmp_path):
    data = watched(make_video(tmp_path / "a.mp4", 90, fps=30), 0.0).read_bytes()
    assert data.index(b"moov") < data.index(b"moof") and data.count(b"moof") >= 4


def test_what_cannot_be_shown_is_said(tmp_path):
    film = make_video(tmp_path / "a.mp4", 30)
    with pytest.raises(DecodeError, match=r"no picture at 5 s"):
        watched(film, 5.0)
    with pytest.raises(DecodeError, match="only audio"):
        watched(make_audio(tmp_path / "a.m4a"), 0.0)
    (tmp_path / "words.mp4").write_bytes(b"words" * 1000)
    with pytest.raises(DecodeError, match="not readable as a video"):
        watched(tmp_path / "words.mp4", 0.0)
