"""A query takes the text tower alone, and answers without torch, where that is the same, and says so."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_clip
from typer.testing import CliRunner

from tvr_cli import config
from tvr_cli.api import open_workspace
from tvr_cli.backbones.text_tower import card as text_card
from tvr_cli.cli import app
from tvr_cli.data.demo_world.corpus import WorldOptions, make
from tvr_cli.engine.features import sentences
from tvr_cli.engine.searching import confidence, query
from tvr_cli.engine.searching import light as light_module
from tvr_cli.engine.searching import options as preset_options
from tvr_cli.engine.searching.asked import Asked
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.preset_loader import preset_path
from tvr_cli.stores.index.store import Index
from tvr_cli.workspace import Workspace

METHODS = ("text_guided", "mean")
HEAVY = {"torch", "open_clip", "timm", "torchvision", "safetensors.torch", "triton", "tvr_kernels"}
# What a sentence about the pictures of windows, with no filter and no server, does without.
NOT_ASKED = {
    *("tvr_cli.types", "tvr_cli.plans", "tvr_cli.config", "tvr_cli.data", "tvr_cli.engine.searching.resident"),
    *("tvr_cli.engine.searching.library", "tvr_cli.engine.searching.moments", "tvr_cli.engine.searching.ranking"),
    *("socket", "html", "fractions", "yaml", "pydantic", "rich"),
}
NOTHING_ASKED = Asked()
SENTENCE = "a red circle moves to the left"


def tvr(*args: object) -> dict:
    result = CliRunner().invoke(app, [*(str(a) for a in args), "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light")
    make(folder / "videos", WorldOptions(train=4, val=2, test=4, captions=1))
    tvr("extract-frames", folder / "videos", "-o", folder / "out", "--num-frames", 12, "--size", 64, "--workers", 1)
    tvr("precompute-features", "-o", folder / "out", "--backbone", "demo-tiny")
    return folder / "out"


def in_a_process(out: Path, *flags: str) -> tuple[str, set[str], str]:
    """What a query prints, which heavy libraries its process has imported, and what it says on stderr."""
    code = (
        "import sys\nfrom tvr_cli.cli import main\n"
        f"sys.argv = {['tvr', 'query', SENTENCE, '-o', str(out), '--verbose', *flags]!r}\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY | NOT_ASKED!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answer, _, imported = done.stdout.rstrip().rpartition("\n")
    return answer, set(ast.literal_eval(imported)), done.stderr


@pytest.mark.parametrize("method", METHODS)
def test_the_answers_are_those_of_a_session(method, out, monkeypatch):
    tvr("index", "--method", method, "-o", out)
    monkeypatch.setattr(query, "session", lambda *_, **__: pytest.fail("it took a session"))
    light = tvr("query", SENTENCE, "-o", out)["results"][0]["hits"]
    monkeypatch.undo()
    monkeypatch.setattr(light_module, "answer", lambda *_, **__: None)
    whole = tvr("query", SENTENCE, "-o", out)["results"][0]["hits"]

    require_same(light, whole)


@pytest.mark.parametrize("method", METHODS)
def test_both_ways_are_as_sure_and_what_is_not_found_is_nearest(method, out, tmp_path, monkeypatch):
    other = Path(shutil.copytree(out, tmp_path / "out"))
    monkeypatch.setattr(confidence, "FEWEST_MOMENTS", 5)
    tvr("index", "--method", method, "-o", other, "--overwrite")
    light = tvr("query", "an invoice", "-o", other, "--all")["results"][0]
    refused = tvr("query", "an invoice", "-o", other, "--min-confidence", "1")["results"][0]
    said = CliRunner().invoke(app, ["query", "an invoice", "-o", str(other), "--min-confidence", "1"])
    paths = CliRunner().invoke(app, ["query", "an invoice", "-o", str(other), "--min-confidence", "1", "--paths"])
    monkeypatch.setattr(light_module, "answer", lambda *_, **__: None)
    whole = tvr("query", "an invoice", "-o", other, "--all")["results"][0]

    require_same(light["hits"], whole["hits"])
    assert light["confidence"] == max(hit["confidence"] for hit in light["hits"]) < 1 and not light["nearest"]
    assert not refused["found"] and not refused["hits"] and refused["nearest"] == light["hits"]
    assert said.exit_code == paths.exit_code == 0 and not paths.stdout
    assert "nothing found with confidence; nearest:" in said.stdout and ".mp4" in said.stdout


@pytest.mark.parametrize("method", METHODS)
def test_the_light_tower_gives_the_answers_of_the_backbone(method, out, monkeypatch):
    tvr("index", "--method", method, "-o", out)
    assert text_card.recall("demo-tiny") is not None
    light = tvr("query", SENTENCE, "-o", out)["results"][0]["hits"]
    monkeypatch.setattr(text_card, "recall", lambda name: None)
    whole = tvr("query", SENTENCE, "-o", out)["results"][0]["hits"]

    require_same(light, whole)


def require_same(light: list[dict], whole: list[dict]) -> None:
    assert light and [h["video_id"] for h in light] == [h["video_id"] for h in whole]
    for a, b in zip(light, whole, strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
        assert a["confidence"] == (None if b["confidence"] is None else pytest.approx(b["confidence"], abs=1e-3))
        assert {**a, "score": 0, "confidence": 0} == {**b, "score": 0, "confidence": 0}


@pytest.mark.parametrize(("method", "flags"), [("mean", []), ("text_guided", ["--json"]), ("text_guided", ["--paths"])])
def test_it_imports_no_torch_and_nothing_that_was_not_asked_for(method, flags, out):
    tvr("index", "--method", method, "-o", out)
    answer, imported, said = in_a_process(out, *flags)

    assert not imported and ".mp4" in answer
    assert "answered without torch: the text tower of demo-tiny alone" in said


@pytest.mark.parametrize(
    ("why", "flags"),
    [("a run or a device was named", {"device": "cuda"}), ("a run or a device was named", {"run": "mine"})],
)
def test_what_is_asked_beyond_the_usual_takes_a_session(why, flags, out):
    assert reason_of(out, Asked(run=flags.get("run")), flags.get("device", "auto")) == why


def reason_of(out: Path, asked: Asked = NOTHING_ASKED, device: str = "auto") -> str:
    """Why a query is not answered without torch."""
    assert light_module.answer(Workspace(out), asked, [SENTENCE], SearchOptions(), device=device) is None
    with pytest.raises(light_module.Ordinary) as why:
        light_module.ready(Workspace(out), asked, device)
    return str(why.value)


def test_a_device_that_is_not_there_is_refused_though_numpy_would_encode_the_sentence(out):
    done = CliRunner().invoke(app, ["query", "a red circle", "-o", str(out), "--device", "nowhere"])
    assert done.exit_code == 4 and "device 'nowhere' cannot be used here" in done.stderr


def test_what_has_changed_takes_a_session(out, tmp_path, monkeypatch):
    tvr("index", "--method", "text_guided", "-o", out)
    other = tmp_path / "out"
    shutil.copytree(out, other)
    assert light_module.answer(Workspace(other), NOTHING_ASKED, [SENTENCE], SearchOptions()) is not None

    assert reason_of(other, Asked(method="mean")) == "the method mean needs it"
    assert reason_of(other, Asked(method="glccl")) == "the method glccl needs it"
    assert reason_of(other, Asked(backbone="another")).startswith("another backbone was named")
    with monkeypatch.context() as changed:
        changed.setattr(Workspace, "frames_content", lambda self: "another")
        assert reason_of(other) == "the frames have changed"
    with monkeypatch.context() as changed:
        changed.setattr(text_card, "recall", lambda name: None)
        assert reason_of(other) == "no text tower of demo-tiny is known"
    with monkeypatch.context() as changed:
        preset = tmp_path / "text_guided.yaml"
        preset.write_text(
            preset_path("methods", "text_guided").read_text().replace("temperature: 5.0", "temperature: 4.0")
        )
        for module in (config, preset_options):  # one reads it, the other remembers what was read
            changed.setattr(module, "preset_path", lambda kind, name: preset)
        for _ in range(2):
            assert reason_of(other) == "the index is out of date (options)"
    with monkeypatch.context() as changed:
        changed.setattr(light_module, "MOST_CLIPS", 9)
        assert reason_of(other) == "the index is so large that torch is faster"
    shutil.rmtree(other / "index")
    assert reason_of(other) == "there is no index of this format yet"
    shutil.rmtree(other / "features")
    shutil.copytree(out / "index", other / "index")
    assert reason_of(other) == "there are no features yet"


def test_a_damaged_hit_is_refused_as_in_a_session(out, tmp_path):
    tvr("index", "--method", "text_guided", "-o", out)
    other = tmp_path / "out"
    shutil.copytree(out, other)
    part = next(p for p in Index.open(other / "index").head.segments[0].parts if p.name == "t.frames")
    path = Index.open(other / "index").generation / part.file
    path.write_bytes(bytes(b ^ 1 for b in path.read_bytes()))
    result = CliRunner().invoke(app, ["query", SENTENCE, "-o", str(other)])

    assert result.exit_code == 3 and "the index is damaged" in result.stderr


def test_who_asks_twice_gets_a_session(out, monkeypatch):
    tvr("index", "--method", "text_guided", "-o", out)
    opened: list[object] = []
    real = query.session
    monkeypatch.setattr(query, "session", lambda *a, **k: opened.append(a) or real(*a, **k))
    workspace = open_workspace(out)
    first, again, third = (workspace.search(SENTENCE) for _ in range(3))

    assert len(opened) == 1 and again == third
    require_same(first.to_json()["results"][0]["hits"], again.to_json()["results"][0]["hits"])


def test_a_sentence_that_is_cut_is_said_to_be(out):
    tvr("index", "--method", "text_guided", "-o", out)
    result = CliRunner().invoke(app, ["query", "a red circle " * 40, "-o", str(out)])
    assert result.exit_code == 0 and result.stderr.count("is read up to the first") == 1


def test_marks_of_stop_words_do_not_take_a_session(out, tmp_path, monkeypatch):
    other = tmp_path / "out"
    shutil.copytree(out / "frames", other / "frames")
    tvr("precompute-features", "-o", other, "--backbone", "demo-tiny", "--word-importance", "stopwords")
    tvr("index", "--method", "text_guided", "-o", other)
    light = tvr("query", SENTENCE, "-o", other)["results"][0]["hits"]
    assert light_module.ready(Workspace(other), NOTHING_ASKED, "auto").backbone == "demo-tiny"
    monkeypatch.setattr(light_module, "answer", lambda *_, **__: None)

    require_same(light, tvr("query", SENTENCE, "-o", other)["results"][0]["hits"])


def test_weights_that_changed_since_the_index_are_refused(out, tmp_path):
    other, weights = tmp_path / "out", tiny_clip.folder(tmp_path / "weights")
    shutil.copytree(out / "frames", other / "frames")
    tvr("precompute-features", "-o", other, "--backbone", f"local:{weights}")
    tvr("index", "--method", "text_guided", "-o", other)
    tiny_clip.folder(weights, seed=1)

    result = CliRunner().invoke(app, ["query", SENTENCE, "-o", str(other)])
    assert result.exit_code == 3 and "weights" in result.stderr and not result.stdout


def test_word_importance_needs_the_whole_backbone(out):
    store = Workspace(out).newest_features()
    assert store is not None
    assert isinstance(sentences.encoder_of(store), sentences.LightText)
    store.word_importance = "stopwords"

    assert not isinstance(sentences.encoder_of(store), sentences.LightText)
