"""Look-alikes of a file or a moment, and which of them are the same pictures again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import pytest
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.data.demo_world import encode, grammar, render


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def done(*args: object) -> str:
    result = tvr(*args)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def encode_again(source: Path, target: Path) -> None:
    """Write a film with another size, rate and quality."""
    with av.open(str(source)) as film:
        frames = [frame.to_image().resize((96, 96)) for frame in film.decode(video=0)]
    with av.open(str(target), "w") as out:
        stream = out.add_stream(encode.find_encoder(), rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 96, "yuv420p", 60_000
        for k in range(len(frames) * 10 // render.FPS):
            out.mux(stream.encode(av.VideoFrame.from_image(frames[k * render.FPS // 10])))
        out.mux(stream.encode())


@pytest.fixture(scope="module", params=["clips", "films"])
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films of two scenes; the first is there a second time, encoded again, and a third, by another name."""
    folder = tmp_path_factory.mktemp("similar")
    (videos := folder / "videos").mkdir()
    draw = grammar.Draw(7, unseen_pairs=False)
    for name in "abc":
        frames = [frame for _ in range(2) for frame in render.scene_frames(draw.scene([]))]
        encode.write_video(videos / f"{name}.mp4", frames, encoder=encode.find_encoder(), fps=render.FPS)
    encode_again(videos / "a.mp4", videos / "again.mp4")
    shutil.copy(videos / "a.mp4", videos / "copy.mp4")
    rate = ["--fps", 4] if request.param == "films" else []
    done("extract-frames", videos, "-o", folder / "out", "--size", 64, "--workers", 1, *rate)
    done("precompute-features", "-o", folder / "out", "--backbone", "demo-tiny")
    return folder / "out"


def similar(out: Path, *words: object) -> dict[str, Any]:
    return json.loads(done("similar", *words, "-o", out, "--json"))


@pytest.mark.parametrize("what", ["a.mp4", "a.mp4@0-1"])
def test_near_duplicates_stand_first_and_are_marked(out, what):
    found = similar(out, what)
    assert (found["video_id"], found["start"], found["whole"]) == ("a.mp4", 0.0, "@" not in what)
    shown = [(one["video_id"], one["duplicate"]) for one in found["results"]]
    assert shown[:2] == [("copy.mp4", True), ("again.mp4", True)]
    others = [one for one in shown[2:] if one[0] != "a.mp4"]  # of which another moment may look alike
    assert sorted(others) == [("b.mp4", False), ("c.mp4", False)]
    assert [one["cosine"] for one in found["results"]] == sorted((o["cosine"] for o in found["results"]), reverse=True)
    first = found["results"][0]
    assert first["cosine"] > 0.999 and first["difference"] < 0.5


def test_the_table_says_which_are_near_duplicates(out):
    shown = done("similar", "a.mp4", "-o", out, "-k", 2).splitlines()
    assert len(shown) == 4 and all("near-duplicate" in line for line in shown[2:])
    assert "0:00.0–0:0" in done("similar", "a.mp4@0-1", "-o", out, "-k", 1)


def test_what_has_no_frames_any_more_may_be_a_near_duplicate(out, tmp_path):
    done("similar", "b.mp4", "-o", out)
    shutil.copytree(out, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "frames")
    found = similar(tmp_path / "out", "a.mp4")["results"]
    assert [one["duplicate"] for one in found] == [None, None, False, False]
    assert "perhaps a near-duplicate (its frames are gone)" in done("similar", "a.mp4", "-o", tmp_path / "out")


def test_what_is_not_in_the_library_is_told(out, tmp_path):
    for words, said in [(["d.mp4"], "none of its 5"), (["a.mp4@7-9"], "of which the library has 2.0 s, found 7-9")]:
        result = tvr("similar", *words, "-o", out)
        assert result.exit_code == 3 and said in result.stderr and not result.stdout
    result = tvr("similar", "a.mp4", "-o", tmp_path / "none")
    assert result.exit_code == 3 and "start with: tvr extract-frames" in result.stderr
