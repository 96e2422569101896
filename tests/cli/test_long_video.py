"""One second in a film of 40 minutes is found, and the answer says where it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from videos import make_video

from tvr_cli.cli import app
from tvr_cli.data.demo_world.grammar import Scene, Thing
from tvr_cli.data.demo_world.render import SIZE, scene_frames
from tvr_cli.methods import base
from tvr_cli.types import Sizes

FPS = 4  # of the film
LENGTH_S = 2400
EVENT_S = 1503  # when the event begins; it lasts a second
EVENT = Scene(Thing("star", "red"), "left", None, seed=7)
CAPTION = "a red star moves left"
SLACK_S = 2.0

pytestmark = pytest.mark.slow


def tvr(*args: object) -> dict:
    result = CliRunner().invoke(app, [*map(str, args), "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def quiet(second: int) -> np.ndarray:
    """A dim, plain picture, [SIZE, SIZE, 3] uint8, whose brightness drifts with a period of five minutes."""
    light = 45 + 15 * np.sin(2 * np.pi * second / 300)
    ramp = np.linspace(0.8, 1.2, SIZE)[:, None, None] * np.array([1.0, 1.05, 1.1])
    return np.broadcast_to(light * ramp, (SIZE, SIZE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the film, and three short clips of other events beside it."""
    folder = tmp_path_factory.mktemp("videos")
    event = scene_frames(EVENT, at=(0, 2, 4, 6))  # a scene has 8 frames a second
    pictures = [p for s in range(LENGTH_S) for p in (event if s == EVENT_S else [quiet(s)] * FPS)]
    make_video(
        folder / "film.mp4", len(pictures), fps=FPS, size=(SIZE, SIZE), gop=40, options={"preset": "ultrafast"},
        pictures=pictures,
    )  # fmt: skip
    for i, (thing, action) in enumerate(
        [(Thing("square", "blue"), "up"), (Thing("ring", "yellow"), "grow"), (Thing("heart", "green"), "down")]
    ):
        shown = scene_frames(Scene(thing, action, None, seed=i))
        make_video(folder / f"clip{i}.mp4", len(shown), fps=8, size=(SIZE, SIZE), pictures=shown)
    return folder


@pytest.fixture(scope="module")
def workspace(film: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the film at two frames a second."""
    out = tmp_path_factory.mktemp("work") / "out"
    made = tvr("extract-frames", film, "--fps", 2, "--max-frames", 64, "--size", 64, "--workers", 1, "-o", out)
    assert made["ok"] == 4 and made["clips"] == LENGTH_S // 25 + 3  # a window of 30 s begins every 25 s
    tvr("precompute-features", "--backbone", "demo-tiny", "-o", out)
    return out


WITHOUT_PARAMETERS = [
    name
    for name in base.shipped()
    if "frames" in base.load_class(name).needs and not list(base.build(name, Sizes(64, 12, 32)).parameters())
]


@pytest.mark.parametrize("method", WITHOUT_PARAMETERS)
def test_a_second_in_forty_minutes_is_found(workspace: Path, method: str) -> None:
    tvr("index", "--method", method, "-o", workspace)
    found = tvr("query", CAPTION, "-k", 3, "--all", "--method", method, "-o", workspace)
    hit = found["results"][0]["hits"][0]
    assert hit["video_id"] == "film.mp4"
    assert hit["start"] < EVENT_S + 1 and hit["end"] > EVENT_S  # it holds some of the event
    assert hit["start"] >= EVENT_S - SLACK_S and hit["end"] <= EVENT_S + 1 + SLACK_S
