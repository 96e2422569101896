"""Published values of encoders, on tiny stand-ins: they pass, and what goes wrong fails and is named."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import hf_folders
import stand_ins
from stand_ins import StandIn
from torch import nn
from typer.testing import CliRunner

from tvr_cli.backbones import registry
from tvr_cli.backbones.base import Backbone
from tvr_cli.cli import app
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.types import View
from tvr_cli.verify import assets, backbone, rows
from tvr_cli.verify.outcome import Outcome

KINDS = sorted(stand_ins.KINDS)
pytestmark = pytest.mark.xdist_group("hf")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StandIn]:
    root = tmp_path_factory.mktemp("stand-ins")
    return {kind: stand_ins.make(kind, root) for kind in KINDS}


def load(stand_in: StandIn) -> Backbone:
    return registry.load(stand_in.row.backbone, offline=True)


def check(stand_in: StandIn, loaded: Backbone | None = None, **changed: Any) -> Outcome:
    return backbone.check(dataclasses.replace(stand_in.row, **changed), loaded or load(stand_in), stand_in.asset)


# ------------------------------------------------------------------------------------------------------------ the rows


def test_every_row_has_a_source_a_line_and_a_tolerance() -> None:
    for row in rows.BACKBONES:
        assert row.source.startswith("https://") and row.line and row.tolerance_by
        assert row.atol > 0 and row.rtol >= 0
        assert any(f"{value:.9g}" in row.line or f"{value}" in row.line for value in row.expected)
        told = len(row.sentences) if row.quantity != "features" else row.first[0] + len(row.sentences) * row.first[1]
        assert len(row.expected) == told
        assert row.backbone in registry.names() or re.fullmatch(r"hf:[\w-]+/[\w.-]+(@[0-9a-f]{40})?", row.backbone)


@pytest.mark.parametrize("field", ["source", "line", "tolerance_by"])
def test_a_row_without_one_of_them_does_not_exist(field: str) -> None:
    said = {f.name: getattr(rows.BACKBONES[0], f.name) for f in dataclasses.fields(rows.BACKBONES[0])}
    del said[field]
    with pytest.raises(TypeError, match=field):
        rows.BackboneRow(**said)


def test_the_values_of_the_issue_are_pinned() -> None:
    pinned = {row.expected[:3] for row in rows.BACKBONES}
    assert pinned == {
        (0.9927937, 0.00421068, 0.00299572),
        (24.5701, 19.3049),
        (-0.7567, -10.3354),
        (14.0181, 20.2771, 14.4776),
        (-0.01940615, -0.04830061, 0.0069022),
    }


def test_every_model_of_the_hub_is_pinned_to_a_commit() -> None:
    hub = [row for row in rows.BACKBONES if row.backbone.startswith("hf:")]
    assert len(hub) == 3 and all(re.search("@[0-9a-f]{40}$", row.backbone) for row in hub)


def test_verification_knows_no_expected_value_of_its_own() -> None:
    """Expected values stand in `rows.py` and the vectors; what computes holds none."""
    folder = Path(backbone.__file__).parent
    for name in ("backbone.py", "outcome.py", "assets.py", "rerun.py"):
        assert not re.search(r"\d\.\d{4,}", (folder / name).read_text()), name


# -------------------------------------------------------------------------------------------------------------- passes


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_the_library_computes_pass(kind: str, made: dict[str, StandIn]) -> None:
    found = check(made[kind])
    assert found.status == "PASS" and found.cause is None, found


# ------------------------------------------------------------------------------------------------- fails, and says why


@pytest.mark.parametrize("kind", KINDS)
def test_red_and_blue_swapped_fails_and_is_named(kind: str, made: dict[str, StandIn], monkeypatch: Any) -> None:
    plain = backbone.Shown.pixels
    monkeypatch.setattr(backbone.Shown, "pixels", lambda self, device: plain(self, device).flip(2))
    found = check(made[kind])
    assert found.status == "FAIL" and found.cause == "the values equal the published ones with red and blue swapped"


@pytest.mark.parametrize("kind", ["clip", "xclip"])
def test_gelu_in_place_of_quickgelu_fails_and_is_named(kind: str, made: dict[str, StandIn]) -> None:
    loaded = load(made[kind])
    for module in loaded.modules():
        for name, child in module.named_children():
            if type(child).__name__ == "QuickGELUActivation":
                setattr(module, name, nn.GELU())
    found = check(made[kind], loaded)
    assert found.status == "FAIL" and found.cause == "the values equal the published ones with QuickGELU"
    assert not any(isinstance(m, backbone._QuickGelu) for m in loaded.modules()), "the towers are as they were"


@pytest.mark.parametrize(("kind", "fit"), [("siglip", "crop"), ("clip", "squash")])
def test_another_fit_of_the_picture_fails_and_is_named(kind: str, fit: Any, made: dict[str, StandIn]) -> None:
    loaded = load(made[kind])
    loaded.about = dataclasses.replace(loaded.about, fit=fit)
    found = check(made[kind], loaded)
    named = {"crop": "squashed, not cropped", "squash": "cropped, not squashed"}[fit]
    assert found.status == "FAIL" and found.cause is not None and named in found.cause


@pytest.mark.slow
def test_pe_squashes_and_a_crop_fails_and_is_named(tmp_path: Path) -> None:
    """The architecture of PE-Core B/16 in two layers; the values are open_clip's own, by its own transform."""
    import families

    perception = stand_ins.perception(tmp_path)
    with families.two_layers():
        loaded = load(perception)
    assert loaded.about.fit == "squash"
    found = check(perception, loaded)
    assert found.status == "PASS", found
    loaded.about = dataclasses.replace(loaded.about, fit="crop")
    found = check(perception, loaded)
    assert found.status == "FAIL", found
    assert found.cause == "the values equal the published ones with a picture that is squashed, not cropped"


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_moved_by_one_fail_and_are_named(kind: str, made: dict[str, StandIn]) -> None:
    row = made[kind].row
    found = check(made[kind], sentences=(row.sentences[-1], *row.sentences[:-1]))
    assert found.status == "FAIL" and found.cause == "the values equal the published ones with the sentences moved by 1"


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_neighbour_fail(kind: str, made: dict[str, StandIn], tmp_path: Path) -> None:
    other = registry.load(f"hf:{hf_folders.make(kind, tmp_path / kind, seed=1)}", offline=True)
    found = check(made[kind], other)
    assert found.status == "FAIL" and found.cause is not None and "other weights" in found.cause


def test_weights_of_another_architecture_are_refused_when_they_are_loaded(
    made: dict[str, StandIn], tmp_path: Path
) -> None:
    folder = hf_folders.make("clip", tmp_path / "mixed")
    (folder / "model.safetensors").write_bytes((made["siglip"].folder / "model.safetensors").read_bytes())
    row = dataclasses.replace(made["clip"].row, backbone=f"hf:{folder}")
    with pytest.raises(DataError):
        backbone.verify("stand-in", asset=made["clip"].asset, device="cpu", offline=True, known=[row])


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_that_gives_a_constant_fails(kind: str, made: dict[str, StandIn], monkeypatch: Any) -> None:
    def constant(encoder: Backbone, shown: backbone.Shown) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(encoder.dim), torch.ones(len(shown.sentences), encoder.dim)

    monkeypatch.setattr(backbone, "_encoded", constant)
    if kind == "xclip":  # its prompts are made of patches, which a constant encoder has none of
        monkeypatch.setitem(backbone._QUANTITIES, "prompted logits", backbone._logits)
    found = check(made[kind])
    assert found.status == "FAIL" and found.cause == "the encoder gives a constant: weights that were not loaded"


def test_values_that_are_not_finite_fail(made: dict[str, StandIn]) -> None:
    loaded = load(made["clip"])
    with torch.no_grad():
        next(p for name, p in loaded.named_parameters() if "visual_projection" in name).fill_(float("nan"))
    assert check(made["clip"], loaded).status == "FAIL"


# ---------------------------------------------------------------------------------------------------------- bad input


def test_an_unknown_encoder_is_a_sentence_with_those_that_are_known() -> None:
    with pytest.raises(
        ConfigError, match=r"of the backbone 'clip-vit-b3' are known here; did you mean clip-vit-b32\?$"
    ):
        backbone.verify("clip-vit-b3", offline=True)


def test_without_the_network_and_without_the_picture_it_says_how_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"not on this machine; give it: tvr verify backbone .* --asset "):
        assets.locate(rows.BACKBONES[1].asset, None, "clip-vit-b32", offline=True)
    with pytest.raises(DataError, match="--asset: expected a file"):
        assets.locate(rows.BACKBONES[1].asset, tmp_path / "none.png", "clip-vit-b32", offline=True)


@pytest.mark.parametrize(
    ("shows", "write", "words"),
    [
        ("picture", lambda p: p.write_bytes(b"\x89PNG, half of it"), "is no picture"),
        ("frames", lambda p: p.write_bytes(b"\x93NUMPY half"), "is no npy file of numbers"),
        ("frames", lambda p: np.save(p.open("wb"), np.zeros((2, 3))), r"expected frames \[F, H, W, 3\]"),
        ("pixels", lambda p: np.save(p.open("wb"), np.full((1, 2, 2, 3), 7.0)), "between 0 and 1"),
        ("frames", lambda p: np.save(p.open("wb"), np.array([{}]), allow_pickle=True), "is no npy file of numbers"),
    ],
)
def test_a_file_that_is_not_the_asset_is_a_sentence(tmp_path: Path, shows: Any, write: Any, words: str) -> None:
    write(tmp_path / "asset.bin")
    with pytest.raises(DataError, match=words):
        assets.read(tmp_path / "asset.bin", shows)


def test_half_a_download_and_another_file_are_refused(monkeypatch: Any) -> None:
    class Reply:
        headers = {"Content-Length": "10"}

        def __enter__(self) -> Reply:
            return self

        def __exit__(self, *_: object) -> None: ...

        def read(self, most: int) -> bytes:
            return b"12345"

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Reply())
    known = rows.BACKBONES[0].asset
    with pytest.raises(EnvironmentProblem, match="5 of 10 bytes came"):
        assets.locate(known, None, "clip-vit-b32", offline=False)
    Reply.headers = {"Content-Length": "5"}
    with pytest.raises(EnvironmentProblem, match="is another file than the published values are about"):
        assets.locate(known, None, "clip-vit-b32", offline=False)

    def down(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", down)
    with pytest.raises(EnvironmentProblem, match="cannot be had: no route to host; give it"):
        assets.locate(known, None, "clip-vit-b32", offline=False)


@pytest.mark.parametrize(
    ("kind", "frames", "words"),
    [
        ("xclip", np.zeros((3, 8, 8, 3), np.uint8), "has 3 frames, and .* takes 4: another clip"),
        ("videoprism", np.zeros((4, 8, 8, 3), np.float32), "has frames of 8 x 8 pixels, and .* takes 36"),
    ],
)
def test_a_clip_of_another_shape_is_a_sentence(
    kind: str, frames: np.ndarray, words: str, made: dict[str, StandIn], tmp_path: Path
) -> None:
    np.save(tmp_path / "clip.npy", frames)
    with pytest.raises(DataError, match=words):
        backbone.check(made[kind].row, load(made[kind]), tmp_path / "clip.npy")


# ---------------------------------------------------------------------------------------------------- the whole command


def test_of_values_on_several_pictures_the_name_of_the_given_one_says_which(
    made: dict[str, StandIn], monkeypatch: Any, tmp_path: Path
) -> None:
    mine = dataclasses.replace(made["clip"].row, known_as=("tiny",))
    other = dataclasses.replace(mine, asset=dataclasses.replace(mine.asset, address="another.png"))
    monkeypatch.setattr(rows, "BACKBONES", (other, mine))
    found = backbone.verify("tiny", asset=made["clip"].asset, device="cpu", offline=True)
    assert found.status == "PASS" and len(found.outcomes) == 1
    with pytest.raises(ConfigError, match=r"has values on several pictures, .*: another\.png, clip\.png"):
        backbone.verify("tiny", asset=tmp_path / "third.png", device="cpu", offline=True)


def test_the_report_has_weights_and_picture_by_hash(made: dict[str, StandIn]) -> None:
    stand_in = made["clip"]
    report = backbone.verify("stand-in", asset=stand_in.asset, device="cpu", offline=True, known=[stand_in.row])
    assert report.status == "PASS"
    assert {"clip.png", "weights model.safetensors"} <= report.card.hashes.keys()
    assert "revision not pinned: weights of sha256 " in report.outcomes[0].detail
    assert report.card.protocol["revision"] == "not pinned"
    assert report.card.of == ("backbone", "stand-in") and report.card.versions["transformers"]


def test_the_command_prints_the_source_and_ends_with_5_where_values_are_off(
    made: dict[str, StandIn], monkeypatch: Any
) -> None:
    stand_in = made["clip"]
    row = dataclasses.replace(stand_in.row, known_as=("tiny",))
    monkeypatch.setattr(rows, "BACKBONES", (row,))
    words = ["verify", "backbone", "tiny", "--asset", str(stand_in.asset), "--device", "cpu", "--offline"]
    passed = CliRunner().invoke(app, words)
    assert passed.exit_code == 0 and "source: transformers, on tiny weights" in passed.stdout
    monkeypatch.setattr(
        rows, "BACKBONES", (dataclasses.replace(stand_in.row, known_as=("tiny",), expected=(9.0,) * 3),)
    )
    failed = CliRunner().invoke(app, words)
    assert failed.exit_code == 5 and "FAIL" in failed.stdout and "likely cause: no usual mistake" in failed.stdout
    assert "PASS" not in failed.stdout and "expected 9" in failed.stdout


def test_views_are_of_the_encoder() -> None:
    shown = backbone.Shown(np.zeros((1, 4, 8, 3), np.uint8), ("a",), View(4))
    assert shown.pixels(torch.device("cpu")).shape == (1, 1, 3, 4, 4)
