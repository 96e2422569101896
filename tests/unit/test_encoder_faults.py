"""Faults that a survey of encoders found (numbered there), each by what showed it."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_clip
import tiny_frames
import torch
from tvr_kernels import gemm, trials

from tvr_cli import log
from tvr_cli.backbones import load, registry
from tvr_cli.backbones.openclip.text import TextSide
from tvr_cli.engine import device as devices
from tvr_cli.engine.features import precision, sentences
from tvr_cli.engine.features import precompute as engine
from tvr_cli.engine.whole import doctor
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.plans import PrecomputeOptions
from tvr_cli.types import Caption, Clip, Manifest
from tvr_cli.workspace import Workspace

EXACT = PrecomputeOptions(dtype="fp32", device="cpu")


@pytest.fixture(autouse=True)
def _said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log._everybody, "repeats", Counter())
    logging.getLogger("tvr").propagate = True


def rewrite(folder: Path, **text: Any) -> str:
    """Change the text configuration of a folder; returns its name."""
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"].update(text)
    file.write_text(json.dumps(config))
    return f"local:{folder}"


# ------------------------------------------------------------ F4: pads of a causal tower with another pad id


def test_a_causal_tower_sees_its_own_pads_too() -> None:
    model = tiny_clip.model(tiny_clip.config(pool_type="argmax"))
    ids = tiny_clip.ids(3, 16)
    ids[:, 9:] = 0
    own = ids.masked_fill(torch.nn.functional.pad(ids[:, 1:], (1, 0), value=1) == 0, 7)
    with torch.no_grad():
        _, tokens = TextSide(model, pad_id=7).encode(ids)
        _, wanted = TextSide(model).encode(own)
    assert tokens is not None and wanted is not None
    torch.testing.assert_close(tokens, wanted)


def test_a_zero_within_a_caption_is_no_pad() -> None:
    model = tiny_clip.model(tiny_clip.config(no_causal_mask=True, pool_type="first"))
    ids = torch.tensor([[5, 0, 6, 0]])
    expected = torch.nn.functional.pad(torch.tensor([[5, 0, 6, 1]]), (0, 12), value=1)
    with torch.no_grad():
        got, _ = TextSide(model, pad_id=1).encode(ids)
        torch.testing.assert_close(got, model.encode_text(expected), rtol=0, atol=1e-5)  # type: ignore[operator]


# ------------------------------------------------------------ F8: number of heads


@pytest.mark.parametrize(("heads", "starts"), [(1, True), (2, True), (4, True)])
def test_a_tower_whose_heads_fit_gives_its_tensors(tmp_path: Path, heads: int, starts: bool) -> None:
    assert bool(load(f"local:{tiny_clip.folder(tmp_path, tiny_clip.config(heads=heads))}").text_tower()) == starts


def test_a_tower_of_other_heads_is_no_start_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SigLIP 2 SO400M has 16 heads of 72: the shapes of its tensors are those of 18 heads of 64."""
    wide = {**tiny_clip.config(width=64), "text_cfg": {**tiny_clip.config()["text_cfg"], "width": 144, "heads": 2}}
    folder = tiny_clip.folder(tmp_path, wide)
    backbone = load(f"local:{folder}")
    with caplog.at_level(logging.INFO, "tvr"):
        assert backbone.text_tower() == {}
    assert "heads of 72 numbers, not of 64: nothing starts from it" in caplog.text
    card = backbone.text_card()
    assert card is not None and card.open()[1].parameters() == {}


# ------------------------------------------------------------------------------------------- F10: a mask of pads


def test_a_tower_that_masks_its_pads_masks_them(tmp_path: Path) -> None:
    model: Any = tiny_clip.model(tiny_clip.config(no_causal_mask=True, pool_type="first"))
    model.text.use_pad_mask = True
    ids = tiny_clip.ids(3, 16)
    ids[:, 9:] = 0
    with torch.no_grad():
        pooled, _ = TextSide(model).encode(ids[:, :9])
        torch.testing.assert_close(pooled, model.encode_text(ids), rtol=0, atol=1e-5)


def test_a_causal_tower_that_is_read_in_its_last_slot_gets_all_of_them(tmp_path: Path) -> None:
    model: Any = tiny_clip.model(tiny_clip.config(pool_type="last"))
    ids = tiny_clip.ids(3, 16)
    ids[:, 9:] = 0
    with torch.no_grad():
        pooled, _ = TextSide(model).encode(ids[:, :9])
        torch.testing.assert_close(pooled, model.encode_text(ids), rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------------------- F12: half precision on a CPU


@pytest.fixture
def trials_memory() -> Iterator[dict[tuple[str, str], Any]]:
    """What trials keep, in place of the user's folder for caches."""
    kept: dict[tuple[str, str], Any] = {}

    class Memory:
        recall = staticmethod(lambda kind, name: kept.get((kind, name)))
        keep = staticmethod(lambda kind, name, value: kept.update({(kind, name): value}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "user_cache", Memory)
        patch.setattr(trials, "_memory", None)
        yield kept


@pytest.mark.parametrize(("half_s", "sure", "computes"), [(0.9, True, "fp32"), (0.05, True, "bf16"), (0.9, False, "")])
def test_half_precision_that_is_slower_here_gives_way_to_fp32(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trials_memory: dict[tuple[str, str], Any],
    half_s: float,
    sure: bool,
    computes: str,
) -> None:
    faster = "fp32" if half_s > 0.1 else "bf16"
    found = trials.Finding(faster, {"fp32": 0.1, "bf16": half_s}, sure)
    runs: list[object] = []

    def race(ways: object, default: str) -> trials.Finding:
        runs.append(default)
        return found

    monkeypatch.setattr(trials, "race", race)
    monkeypatch.setattr(precision, "computes_in_half", lambda half: half_s < 0.1)
    options = PrecomputeOptions(device="cpu", precision="bf16", max_words=9)
    for _ in range(2):
        assert precision.settled(options).precision == faster
    assert runs[0] == ("bf16" if half_s < 0.1 else "fp32") and len(runs) == (1 if sure else 2)  # what is sure is kept
    assert ("--precision bf16 takes 9.0 times as long as fp32 on this processor" in caplog.text) == (faster == "fp32")
    if computes:
        tiny_frames.simple(tmp_path / "out", {"a.mp4": 1})
        made = engine.precompute(
            Workspace.at(tmp_path / "out"), f"local:{tiny_clip.folder(tmp_path / 'w')}", None, options
        )
        assert made.store.provenance["precision"] == computes


def test_a_gpu_and_fp32_need_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "race", lambda *_: pytest.fail("a trial"))
    plain = PrecomputeOptions(device="cpu")
    assert precision.settled(plain) is plain
    monkeypatch.setattr(precision, "pick_device", lambda name: torch.device("cuda"))
    half = PrecomputeOptions(precision="bf16")
    assert precision.settled(half) is half


def test_doctor_shows_what_was_measured(trials_memory: dict[tuple[str, str], Any]) -> None:
    devices.remember_trials()
    trials.keep("precision bf16", {"faster": "fp32", "times": 8.0})
    checks = {check.name: check.detail for check in doctor.environment_checks(Workspace.at(Path("nowhere")))}
    assert "takes 8 times as long as fp32" in checks["precision bf16"] and "fp32 is taken" in checks["precision bf16"]
    assert checks["gemm"].startswith(gemm.setting())


def test_a_processor_is_asked_and_one_that_cannot_tell_is_no_reason_to_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert devices.computes_in_half("bf16") is False
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert devices.computes_in_half("bf16") is True
    monkeypatch.setattr(devices.platform, "machine", lambda: "arm64")
    assert devices.computes_in_half("bf16") is None


# ------------------------------------------------------------ F15: re-parameterised towers


def test_towers_are_merged_for_encoding_and_never_for_tuning(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    vision = {"timm_model_name": "fastvit_mci0", "timm_pool": "avg", "timm_proj": None, "image_size": 64}
    cfg = {**tiny_clip.config(pool_type="argmax"), "vision_cfg": vision}
    backbone = load(f"local:{tiny_clip.folder(tmp_path, cfg)}")
    pixels, real = tiny_clip.pixels(1, 2, 64), torch.ones(1, 2, dtype=torch.bool)
    parts = sum(1 for _ in backbone.modules())
    with torch.no_grad():
        before = backbone.encode_frames(pixels, real)
        backbone.merge_for_inference()
        after = backbone.encode_frames(pixels, real)
    assert sum(1 for _ in backbone.modules()) < 0.8 * parts
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


def test_only_precomputing_merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged: list[str] = []
    monkeypatch.setattr(
        "tvr_cli.backbones.openclip.OpenClipBackbone.merge_for_inference", lambda self: merged.append(self.name)
    )
    tiny_frames.simple(tmp_path / "out", {"a.mp4": 1})
    name = f"local:{tiny_clip.folder(tmp_path / 'w')}"
    store = engine.precompute(
        Workspace.at(tmp_path / "out"), name, None, PrecomputeOptions(device="cpu", max_words=9)
    ).store
    assert merged == [name]
    engine.backbone_of(store, device="cpu")  # what `--tune full` trains
    assert merged == [name]


# ------------------------------------------------------------------------------------- sentences that are too long


def world(folder: Path, text: str) -> Manifest:
    tiny_frames.simple(folder, {"a.mp4": 1})
    return Manifest("mine", folder, (Clip("a.mp4", Path("/videos/a.mp4")),), (Caption("0", "a.mp4", text),))


@pytest.mark.parametrize(("words", "why"), [(9, "--max-words"), (16, "local:.* reads no more")])
def test_captions_that_are_cut_are_counted_with_what_can_be_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, words: int, why: str
) -> None:
    name = f"local:{tiny_clip.folder(tmp_path / 'w')}"
    options = PrecomputeOptions(device="cpu", max_words=words)
    report = engine.precompute(Workspace.at(tmp_path / "out"), name, world(tmp_path / "out", "a dog " * 20), options)
    assert report.captions.truncated == 1
    assert re.search(rf"1 caption longer than {words} tokens was truncated \({why}\)", caplog.text)


def test_a_query_that_is_cut_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = f"local:{tiny_clip.folder(tmp_path / 'w')}"
    out = Workspace.at(tmp_path / "out")
    store = engine.precompute(out, name, world(out.root, "a dog"), PrecomputeOptions(device="cpu", max_words=9)).store
    light = sentences.encoder_of(store, device="cpu")
    whole = load(name)
    texts = ["a dog", "a dog and a cat " * 9]
    assert light.count_tokens(texts).tolist() == whole.count_tokens(texts).tolist()
    for model in (light, whole):
        caplog.clear()
        sentences.say_cut(model, texts, sentences.encode(model, texts, store), store)
        (said,) = [r.getMessage() for r in caplog.records if "is read up to" in r.getMessage()]
        assert "read up to the first 9" in said and "a dog and a cat" in said


# ------------------------------------------------------------ folders that are no backbone


def test_a_way_to_resize_that_tvr_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    for pixels, said in (
        ({"resize_mode": "longest"}, "resize_mode 'longest', and tvr makes shortest and squash only"),
        ({"interpolation": "nearest"}, "interpolation 'nearest', and tvr makes bicubic and bilinear only"),
        ({"mean": [0.5, 0.5]}, "expected three numbers as mean and std of its pixels, found"),
        ({"std": "wide"}, "expected three numbers as mean and std of its pixels, found 'wide'"),
    ):
        folder = tiny_clip.folder(tmp_path / "w", pixels=pixels)
        with pytest.raises(DataError, match=said):
            registry.resolve(f"local:{folder}")


def test_a_file_of_weights_that_were_resized_in_two_ways_asks_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"different pixel statistics or ways to resize.*resize_mode, interpolation"):
        registry.resolve(f"ViT-H-14-quickgelu@{tmp_path / 'w.pt'}")
    assert registry.resolve(f"PE-Core-B-16@{tmp_path / 'w.pt'}").fit == "squash"


def test_a_saved_backbone_sees_pictures_as_before(tmp_path: Path) -> None:
    pixels = {"resize_mode": "squash", "interpolation": "bilinear"}
    backbone = load(f"local:{tiny_clip.folder(tmp_path / 'w', pixels=pixels)}")
    again = registry.resolve(registry.save(backbone, tmp_path / "saved"))
    assert again.view == backbone.about.view and again.detail.pixels == backbone.about.detail.pixels


def test_a_transformers_folder_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError, match=r"expected 'open_clip_config\.json' in .*, found the config.json of a bert"):
        registry.resolve(f"local:{tmp_path}")


def test_numbers_that_an_image_size_cannot_be_are_refused(tmp_path: Path) -> None:
    folder = tiny_clip.folder(tmp_path)
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["vision_cfg"]["image_size"] = [32, 48]
    file.write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"takes pictures of 32 x 48 pixels, and tvr makes squares only"):
        registry.resolve(f"local:{folder}")
