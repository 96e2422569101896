"""A query encodes its sentence by the text tower alone where that is the same, and says which it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tvr_cli.backbones.text_tower import card as text_card
from tvr_cli.cli import app
from tvr_cli.data.demo_world.corpus import WorldOptions, make
from tvr_cli.engine.features import sentences
from tvr_cli.workspace import Workspace

SENTENCE = "a red circle moves to the left"


def tvr(*args: object) -> dict:
    result = CliRunner().invoke(app, [*(str(a) for a in args), "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light")
    make(folder / "videos", WorldOptions(train=4, val=2, test=4, captions=1))
    tvr("extract-frames", folder / "videos", "-o", folder / "out", "--size", 64, "--workers", 1)
    tvr("precompute-features", "-o", folder / "out", "--backbone", "demo-tiny")
    return folder / "out"


@pytest.mark.parametrize("method", ["text_guided", "mean"])
def test_the_light_tower_gives_the_answers_of_the_backbone(method, out, monkeypatch):
    tvr("index", "--method", method, "-o", out)
    assert text_card.recall("demo-tiny") is not None
    light = tvr("query", SENTENCE, "-o", out)["results"][0]["hits"]
    monkeypatch.setattr(text_card, "recall", lambda name: None)
    whole = tvr("query", SENTENCE, "-o", out)["results"][0]["hits"]

    assert [h["video_id"] for h in light] == [h["video_id"] for h in whole]
    for a, b in zip(light, whole, strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
        assert (a["start"], a["end"]) == (b["start"], b["end"])


def test_it_imports_neither_the_library_of_the_towers_nor_their_vision(out):
    tvr("query", SENTENCE, "-o", out)
    code = (
        "import sys\nfrom tvr_cli.cli import main\n"
        f"sys.argv = ['tvr', 'query', {SENTENCE!r}, '-o', {str(out)!r}, '--verbose']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print({'open_clip', 'timm', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.rstrip().endswith("set()")
    assert "the text tower of demo-tiny alone" in done.stderr


def test_word_importance_needs_the_whole_backbone(out):
    store = Workspace(out).newest_features()
    assert store is not None
    assert isinstance(sentences.encoder_of(store), sentences.LightText)
    store.word_importance = "stopwords"

    assert not isinstance(sentences.encoder_of(store), sentences.LightText)
