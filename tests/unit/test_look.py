"""The pixels of a frame as players show them: square, HDR on a usual screen, BT.709 for HD that names no matrix."""

from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tvr_cli.errors import DecodeError
from tvr_cli.plans import AskedFrames, FramePlan
from tvr_cli.stores.decoding.choose import open_video
from tvr_cli.stores.decoding.look import stretched
from tvr_cli.stores.decoding.sample import Task, sample
from tvr_cli.stores.decoding.tone import to_sdr
from tvr_cli.stores.frames.store import decode_jpeg
from tvr_cli.types import Look

PQ, HLG = 16, 18
WHITE = {PQ: 0.5807, HLG: 0.75}  # code value of a grey of 203 cd/m2


def write(
    path: Path, picture: np.ndarray, *, pix_fmt: str, matrix: int, transfer: int = 2, aspect: Fraction | None = None
) -> Path:
    """Write two frames of one picture [H, W, 3], uint8 or uint16, without loss where its pixels are square.

    matrix: the one that is used; it is named only where the picture is HDR.
    """
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1" if aspect is None else "libx264", rate=10)
        context = stream.codec_context
        context.height, context.width = picture.shape[:2]
        context.pix_fmt = pix_fmt
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if transfer != 2:
            context.color_trc, context.color_primaries, context.colorspace, context.color_range = transfer, 9, 9, 1
        for i in range(2):
            rgb = av.VideoFrame.from_ndarray(picture, format="rgb24" if picture.dtype == np.uint8 else "rgb48le")
            frame = rgb.reformat(format=pix_fmt, dst_colorspace=matrix)
            frame.colorspace, frame.color_trc = 9 if transfer != 2 else 2, transfer
            frame.pts, frame.time_base = i, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def first(path: Path, look: Look, decoder: str = "auto") -> np.ndarray:
    video = open_video(path, decoder, look=look)  # type: ignore[arg-type]
    try:
        return next(iter(video.frames([0])))[1]
    finally:
        video.close()


# --------------------------------------------------------------------------------------------------------- the pixels


def disc(width: int, height: int, aspect: float) -> np.ndarray:
    """Draw a disc that is round where a pixel is `aspect` times as wide as high."""
    y, x = np.mgrid[0:height, 0:width]
    inside = np.hypot((x - width / 2) * max(aspect, 1), (y - height / 2) * max(1 / aspect, 1)) < 50
    return np.repeat(np.where(inside, 235, 16)[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize(("size", "aspect"), [((90, 160), Fraction(16, 9)), ((160, 90), Fraction(9, 16))])
def test_a_round_disc_stays_round(tmp_path: Path, size: tuple[int, int], aspect: Fraction) -> None:
    path = write(tmp_path / "disc.mp4", disc(*size, float(aspect)), pix_fmt="yuv444p", matrix=5, aspect=aspect)
    for look, shape in (("coded", size[::-1]), ("shown", (160, 160))):
        plan = FramePlan(num_frames=1, size=224, fit="whole", short_side=224, look=look)  # type: ignore[arg-type]
        read = sample(Task(path, plan))
        picture = decode_jpeg(read.clips[0].jpegs[0])
        assert picture.shape[:2] == shape
    bright = np.argwhere(picture[..., 0] > 125)
    height, width = np.ptp(bright, axis=0) + 1
    assert width / height == pytest.approx(1, abs=0.05)


def test_a_pixel_of_a_broken_header_stretches_nothing() -> None:
    picture = np.zeros((20, 30, 3), dtype=np.uint8)
    assert stretched(picture, (1, 1)).shape == stretched(picture, None).shape == (20, 30, 3)
    assert stretched(picture, (65535, 1)).shape == stretched(picture, (0, 1)).shape == (20, 30, 3)
    assert stretched(picture, (4, 3)).shape == (20, 40, 3) and stretched(picture, (1, 2)).shape == (40, 30, 3)


@pytest.mark.parametrize(("transfer", "coded", "shown"), [(PQ, 146, 214), (HLG, 189, 215)])
def test_a_grey_of_203_nits_is_as_bright_as_players_show_it(
    tmp_path: Path, transfer: int, coded: int, shown: int
) -> None:
    grey = np.full((64, 64, 3), round(WHITE[transfer] * 65535), dtype=np.uint16)
    path = write(tmp_path / "grey.mkv", grey, pix_fmt="yuv420p10le", matrix=9, transfer=transfer)
    assert first(path, "coded").mean() == pytest.approx(coded, abs=3)
    assert first(path, "shown").mean() == pytest.approx(shown, abs=2.5)


def test_tone_mapping_keeps_black_white_and_the_order_of_greys() -> None:
    for transfer in ("pq", "hlg"):
        ramp = np.arange(0, 65536, 5, dtype=np.uint16)[None]
        grey = np.full_like(ramp, 1 << 15)
        shown = to_sdr(ramp, grey, grey, transfer, full=True)[0].astype(int)  # type: ignore[arg-type]
        assert shown[0].tolist() == [0, 0, 0] and np.ptp(shown, axis=1).max() <= 1
        assert (np.diff(shown[:, 1]) >= 0).all() and shown[-1].min() >= 248


@pytest.mark.parametrize(("lines", "matrix"), [(720, 1), (576, 5)])
def test_hd_that_names_no_matrix_is_bt709_and_less_is_bt601(tmp_path: Path, lines: int, matrix: int) -> None:
    colour = np.full((lines, 64, 3), (180, 60, 40), dtype=np.uint8)
    path = write(tmp_path / "c.mkv", colour, pix_fmt="yuv420p", matrix=matrix)
    off = {look: np.abs(first(path, look).astype(int) - colour).max() for look in ("coded", "shown")}  # type: ignore[arg-type]
    assert off["shown"] <= 2 and bool(off["coded"] > 8) == (lines == 720)


def test_decord_is_refused_where_it_does_not_know_the_colours(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    colour = np.full((720, 64, 3), 90, dtype=np.uint8)
    path = write(tmp_path / "c.mkv", colour, pix_fmt="yuv420p", matrix=1)
    with pytest.raises(DecodeError, match=r"HD that names no colour matrix; use --decoder auto"):
        first(path, "shown", "decord")
    assert first(path, "coded", "decord").shape == (720, 64, 3)


# ---------------------------------------------------------------------------------------------------------- the plan


def test_own_folders_are_shown_and_data_sets_stay_as_they_are_coded() -> None:
    from tvr_cli import plans

    assert AskedFrames().plan().look == "shown"
    preset = plans.of_dataset("msrvtt")[0]
    assert AskedFrames().plan(preset).look == "coded" and "look" not in AskedFrames().plan(preset).identity()
    there = FramePlan(size=96)
    assert AskedFrames().plan(None, there).look == AskedFrames(fit="whole").plan(None, there).look == "coded"
    shown = FramePlan(look="shown")
    assert FramePlan.from_identity(shown.identity()) == shown and shown.identity()["look"] == "shown"
    assert "look = 'dreamt'" in FramePlan(look="dreamt").unsupported()  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- the oracle


def _oracle() -> str:
    """Return the path of an FFmpeg that can tone-map, or skip and say why."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("no ffmpeg on this machine: tone mapping is not compared with zscale and tonemap")
    filters = subprocess.run([ffmpeg, "-hide_banner", "-filters"], capture_output=True, text=True, check=True).stdout
    if not all(f" {name} " in filters for name in ("zscale", "tonemap")):
        pytest.skip("this ffmpeg was built without zscale or tonemap: tone mapping is not compared with them")
    return ffmpeg


@pytest.mark.slow
@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_tone_mapping_is_within_six_levels_of_zscale_and_tonemap(tmp_path: Path, transfer: int) -> None:
    ffmpeg = _oracle()
    # Patches of one colour each, so that chroma subsampling plays no part; the first row is grey.
    rng, side, rows, columns = np.random.default_rng(3), 16, 12, 16
    colours = rng.integers(0, 65536, (rows, columns, 3)).astype(np.uint16)
    colours[0] = np.linspace(0, 65535, columns).astype(np.uint16)[:, None]
    chart = np.repeat(np.repeat(colours, side, axis=0), side, axis=1)
    path = write(tmp_path / "chart.mkv", chart, pix_fmt="yuv420p10le", matrix=9, transfer=transfer)
    chain = (
        "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:desat=0,"
        "zscale=t=bt709:m=bt709:r=full,format=gbrp"
    )
    command = [ffmpeg, "-v", "error", "-i", path, "-vf", chain, "-frames:v", "1", "-pix_fmt", "rgb24", "-f", "rawvideo"]
    raw = subprocess.run([*command, "-"], capture_output=True, check=True).stdout
    wanted = np.frombuffer(raw, dtype=np.uint8).reshape(chart.shape).astype(int)
    centres = np.s_[side // 2 :: side, side // 2 :: side]
    off = np.abs(first(path, "shown").astype(int) - wanted)[centres]
    print(f"transfer {transfer}: at most {off.max()} levels from the oracle, {off.mean():.2f} in the mean")
    assert off.max() <= 6
