"""What one can ask with: sums of sentences, pictures and moments; how each is said, and what it finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.data.demo_world.corpus import WorldOptions, make
from tvr_cli.engine.searching import light
from tvr_cli.engine.searching.asked import Asked
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.engine.searching.question import Part, Picture, Question, Sentence, Stretch, asking, features_of
from tvr_cli.engine.searching.session import Session
from tvr_cli.errors import ConfigError
from tvr_cli.workspace import Workspace


def tvr(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def of(*parts: tuple[float, str]) -> Question:
    return Question(tuple(Part(Sentence(text), weight) for weight, text in parts))


@pytest.fixture(scope="module", params=["clips", "films"])
def out(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of small films, by clips of twelve frames, or by time."""
    folder = tmp_path_factory.mktemp("asked")
    make(folder / "videos", WorldOptions(train=4, val=2, test=4, captions=1))
    rate = ["--fps", 4] if request.param == "films" else []
    tvr("extract-frames", folder / "videos", "-o", folder / "out", "--size", 64, "--workers", 1, *rate)
    tvr("precompute-features", "-o", folder / "out", "--backbone", "demo-tiny")
    tvr("index", "-o", folder / "out")
    return folder / "out"


# ---------------------------------------------------------------------------------------------------- how it is said


def test_a_text_is_the_question_of_a_sentence():
    assert asking("a dog") == of((1, "a dog")) and asking("a dog").sentence == "a dog" == asking("a dog").text
    assert of((2, "a dog")).sentence == "a dog"  # a weight alone changes no direction


def test_a_sum_is_said_as_it_may_be_typed():
    parts = (
        Part(Sentence("a dog")), Part(Picture(Path("beach.jpg")), 2), Part(Stretch("a.mp4", 3, 4.5), -0.5),
        Part(Stretch("b.mp4"), -1),
    )  # fmt: skip
    asked = Question(parts)
    assert asked.text == "a dog + 2:image:beach.jpg - 0.5:like:a.mp4@3-4.5 - like:b.mp4"
    assert asked.sentence is None and not asked.of_words and of((1, "a"), (-1, "b")).of_words


# ---------------------------------------------------------------------------------------------------- what a sum is


def test_a_sum_is_that_of_unit_vectors_and_as_long_as_its_parts_on_average():
    known = {"a": np.array([3.0, 0.0]), "b": np.array([0.0, 1.0])}
    found = features_of(of((2, "a"), (-1, "b")), lambda what: known[str(what)])
    assert found / np.linalg.norm(found) == pytest.approx(np.array([2, -1]) / 5**0.5)
    assert np.linalg.norm(found) == pytest.approx((2 * 3 + 1 * 1) / 3)
    assert features_of(of((2, "a")), lambda what: known[str(what)]) is known["a"]


@pytest.mark.parametrize("parts", [[(1, "a"), (-1, "a")], [(1, "a"), (0.5, "c"), (0.5, "c")]])
def test_a_sum_of_which_nothing_is_left_is_refused(parts):
    known = {"a": np.array([1.0, 0.0]), "c": np.array([-2.0, 0.0])}
    with pytest.raises(ConfigError, match="a sum of which nothing is left: a "):
        features_of(of(*parts), lambda what: known[str(what)])


# ------------------------------------------------------------------------------------------------------ what it finds


def spans(hits):
    return [(hit.video_id, hit.start, hit.end, hit.peak) for hit in hits]


def test_sums_of_sentences_are_answered_alike_with_torch_and_without(out):
    asked = [
        "a red circle", of((1, "a red circle"), (1, "a star moves left")), of((1, "a star"), (-0.5, "a red circle")),
        of((3, "a red circle"))
    ]  # fmt: skip
    options = SearchOptions(k=5, per_file=0)
    session = Session(Workspace(out), Asked(), offline=True).answer(asked, options)
    lightly = light.answer(Workspace(out), Asked(), asked, options)
    assert lightly is not None and all(session)
    for one, other in zip(session, lightly, strict=True):
        assert spans(one) == spans(other)
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=1e-3)
    assert spans(session[0]) == spans(session[3]) and session[1] != session[0] != session[2]
