"""The backbones that ship: size, vocabulary, lengths, what they tell apart; and the script that trains them."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tvr_cli.backbones
from tvr_cli.backbones import registry, toy
from tvr_cli.data.demo_world import grammar, render
from tvr_cli.scale import Scale
from tvr_cli.stores.features.scale import scale_of

LENGTHS = {"demo-tiny": (10.0, 10.0), "demo-tiny-siglip": (4.0, 2.0)}  # of frames and captions: CLIP's, and others
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_demo_backbone.py"


@pytest.fixture(scope="module", params=sorted(LENGTHS))
def backbone(request):
    return tvr_cli.backbones.load(request.param, offline=True, device="cpu")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec = importlib.util.spec_from_file_location("train_demo_backbone", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def encode_texts(backbone, texts):
    ids, _ = backbone.tokenize(texts, 32)
    with torch.no_grad():
        return backbone.encode_text(ids)[0]


def encode_scenes(backbone, scenes):
    """Return [scenes, 3, D]: one frame of each pose, shrunk as the frame store does."""
    frames = [
        np.asarray(Image.fromarray(f).resize((64, 64), Image.Resampling.BICUBIC))
        for scene in scenes
        for f in render.scene_frames(scene, at=(1, 4, 7))
    ]
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).unflatten(0, (len(scenes), 3))
    with torch.no_grad():
        return backbone.encode_frames(pixels, torch.ones(len(scenes), 3, dtype=torch.bool))


def test_these_two_ship():
    assert sorted(toy.folders()) == sorted(LENGTHS)


@pytest.mark.parametrize("name", sorted(LENGTHS))
def test_it_is_small_and_in_half_precision(name):
    folder = toy.folders()[name]
    assert sum(p.stat().st_size for p in folder.iterdir() if p.is_file()) <= 4_000_000
    state = load_file(folder / "open_clip_model.safetensors")
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float16}
    assert sum(v.numel() for v in state.values()) < 2_000_000


def test_open_clip_loads_the_folder_as_it_is(backbone):
    folder = toy.folders()[backbone.name]
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = open_clip.tokenizer.SimpleTokenizer(bpe_path=str(folder / "bpe.txt.gz"), context_length=32)
    texts = ["a red star moves left, then a blue box grows", "first a disc rises, after that an orange hoop spins"]
    with torch.no_grad():
        torch.testing.assert_close(encode_texts(backbone, texts), model.encode_text(tokenizer(texts)))


def test_captions_of_the_world_fit_its_words_and_context(backbone):
    videos = grammar.make_split(9, 200, unseen_pairs=True)
    captions = [grammar.caption(Random(i), v) for i, v in enumerate(videos)]
    _, n_tokens = backbone.tokenize(captions, 32)
    assert int(n_tokens.max()) <= 32 and int((n_tokens > 24).sum()) <= 10
    words = sorted({w.strip(",") for c in captions for w in c.split()})
    full = open_clip.tokenizer.SimpleTokenizer()
    _, pieces = backbone.tokenize(words, 32)
    assert (pieces - 2).tolist() == [len(full.encode(w)) for w in words]  # cut as CLIP's whole vocabulary cuts them


def test_features_have_the_lengths_that_were_folded_in(backbone):
    draw = grammar.Draw(3, unseen_pairs=True)
    frames = encode_scenes(backbone, [draw.scene([]) for _ in range(64)])
    texts = encode_texts(backbone, [grammar.caption(draw.rng, draw.video(2)) for _ in range(64)])
    for features, length in zip((frames, texts), LENGTHS[backbone.name], strict=True):
        assert float(features.norm(dim=-1).mean()) == pytest.approx(length, rel=0.1)
    assert float(frames.norm(dim=-1).std() / frames.norm(dim=-1).mean()) < 0.25  # GLIM's temperature acts on raw dots


def test_text_tells_order_and_direction_apart(backbone):
    said = [
        "a red star moves left, then a blue box grows",
        "a red star moves right, then a blue box grows",
        "a blue box grows, then a red star moves left",
        "a red star slides to the left before a blue square expands",  # a paraphrase of the first
    ]
    unit = torch.nn.functional.normalize(encode_texts(backbone, said), dim=-1)
    direction, order, paraphrase = (unit[0] @ unit[1:].T).tolist()
    assert paraphrase > direction and paraphrase > order
    assert direction < 0.98 and order < 0.98


def test_a_frame_is_nearest_to_the_name_of_its_thing(backbone):
    rng, hits, n = Random(5), 0, 0
    things = [grammar.Thing(s, c) for s in grammar.SHAPES for c in grammar.COLOURS if (s, c) not in grammar.TEST_ONLY]
    names = torch.nn.functional.normalize(encode_texts(backbone, [f"a {t.colour} {t.shape}" for t in things]), dim=-1)
    scenes = [grammar.Scene(t, "left", None, rng.randrange(1 << 30)) for t in things]
    frames = torch.nn.functional.normalize(encode_scenes(backbone, scenes).flatten(0, 1), dim=-1)
    best = (frames @ names.T).argmax(1)
    hits, n = int((best == torch.arange(len(things)).repeat_interleave(3)).sum()), len(best)
    assert hits / n > 0.5  # chance: 1 of 56


def test_the_script_cuts_the_shipped_vocabulary(script, tmp_path):
    script.cut_vocabulary(tmp_path / "bpe.txt.gz")
    for folder in toy.folders().values():
        assert (tmp_path / "bpe.txt.gz").read_bytes() == (folder / "bpe.txt.gz").read_bytes()


def test_the_second_one_is_another_kind_of_encoder():
    clip, siglip = (registry.resolve(name) for name in sorted(LENGTHS))
    assert (clip.fit, siglip.fit) == ("crop", "squash")
    assert scale_of("demo-tiny", {}, {"text_norm": 2.0}) == Scale()
    assert scale_of("demo-tiny-siglip", {"video.frames": 4.0}, {"text_norm": 2.0}) == Scale(text=5.0, frames=2.5)
    towers = [tvr_cli.backbones.load(name, offline=True, device="cpu").model for name in sorted(LENGTHS)]
    assert [getattr(tower, "logit_bias", None) is None for tower in towers] == [True, False]
    short, long = (torch.tensor([[49, 50, *pads]]) for pads in ([0] * 30, [0] * 29 + [51]))
    with torch.no_grad():  # a tower that looks both ways sees what comes after a word
        assert not torch.allclose(towers[1].encode_text(short), towers[1].encode_text(long))


def test_the_script_trains_on_no_pair_of_the_test_split(script):
    pool = script.Pool(7, 300)
    assert not [s for s in pool.shots if s.scene.thing.look in grammar.TEST_ONLY]
    batch = script.clip_batch(Random(1), pool, 12)
    assert batch.frames.shape == (12, 4, 64, 64, 3) and batch.says.shape == (12, 6)
    assert len(batch.captions) == len(batch.names) == 12 and batch.twins.shape == (6,)


@pytest.mark.slow
def test_a_vit_that_the_first_one_taught_has_its_words_and_patches_that_move(script, tmp_path):
    script.cut_vocabulary(tmp_path / "bpe.txt.gz")
    settings = script.Settings(make="demo-tiny-vit", bf16=0, taught_steps=60, frames=32, pool=60)
    run = script.Run(tmp_path, settings)
    run.taught(run.kind.teacher)
    script.export(run, tmp_path / "vit")
    vit, teacher = registry.load(f"local:{tmp_path / 'vit'}", offline=True), registry.load("demo-tiny", offline=True)
    assert {"video.patches", "temporal_shift"} <= vit.provides
    texts = ["a red star moves left, then a blue box grows", "an orange hoop spins"]
    same = torch.nn.functional.cosine_similarity(encode_texts(vit, texts), encode_texts(teacher, texts))
    assert float(same.min()) > 0.9999  # half precision, and a length that was folded in anew
    draw = grammar.Draw(3, unseen_pairs=False)
    scenes = [draw.scene([]) for _ in range(16)]
    seen = [encode_scenes(backbone, scenes).flatten(0, 1) for backbone in (vit, teacher)]
    assert float(torch.nn.functional.cosine_similarity(*seen).mean()) > 0.2  # of an untrained tower: about 0


def test_what_does_not_ship_is_not_installed(script, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["train", "--make", "demo-tiny-vit", "--install", "--work", str(tmp_path / "work")]
    )
    with pytest.raises(SystemExit, match="demo-tiny-vit does not ship with tvr; leave out --install"):
        script.main()
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_the_script_continues_to_the_same_bytes(tmp_path):
    def train(work, *more):
        steps = ["--text-steps", "4", "--vision-steps", "4", "--joint-steps", "4", "--pool", "100", "--clips", "8"]
        command = [sys.executable, str(SCRIPT), "--work", str(work), "--save-every", "2", *steps, *more]
        return subprocess.run(command, capture_output=True, text=True)

    assert train(tmp_path / "whole").returncode == 0
    first = subprocess.Popen(
        [sys.executable, "-c", _STOP_AT_3.format(script=str(SCRIPT), work=str(tmp_path / "cut"))],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert first.wait() == 17
    assert (tmp_path / "cut" / "joint.partial.pt").exists() and not (tmp_path / "cut" / "joint.pt").exists()
    assert train(tmp_path / "cut").returncode == 0
    whole, cut = (load_file(tmp_path / p / "demo_tiny" / "open_clip_model.safetensors") for p in ("whole", "cut"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)


# Runs the script, but dies in the third step of the joint stage, after the checkpoint of the second.
_STOP_AT_3 = """
import os, sys
sys.path.insert(0, os.path.dirname({script!r}))
import train_demo_backbone as script
real = script.clip_batch
calls = []
def clip_batch(*args):
    calls.append(1)
    if len(calls) == 3:
        os._exit(17)
    return real(*args)
script.clip_batch = clip_batch
sys.argv = [{script!r}, "--work", {work!r}, "--save-every", "2", "--text-steps", "4", "--vision-steps", "4",
            "--joint-steps", "4", "--pool", "100", "--clips", "8"]
script.main()
"""
