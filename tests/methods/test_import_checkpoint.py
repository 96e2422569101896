"""Golden parameters, written under the authors' names as their checkpoints are, become runs that give golden scores."""

from __future__ import annotations

import pytest
import torch
from golden import Closeness, cases, load, params
from synthetic import tiny_clip_state

from tvr_cli import config
from tvr_cli.backbones.openclip import OpenClipBackbone
from tvr_cli.engine import scorers
from tvr_cli.engine.training import checkpoint
from tvr_cli.engine.whole import importer
from tvr_cli.errors import ConfigError, DataError, StoreMismatch
from tvr_cli.methods import base
from tvr_cli.runs import RunDir
from tvr_cli.types import Sizes, TextFeatures, VideoFeatures
from tvr_cli.workspace import Workspace


def text_of(pooled, tokens=None, importance=None):
    n = torch.full((len(pooled),), 3) if importance is None else (importance > 0).sum(1)
    return TextFeatures(torch.arange(len(pooled)), pooled, tokens, n, importance)


def video_of(frames, mask):
    return VideoFeatures(torch.arange(len(frames)), frames, mask.sum(1).long(), torch.zeros(frames.shape[:2]))


def imported(tmp_path, method, state, sizes, assignments=()):
    """Write a state dict, import it, and load the method as `evaluate` does."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    file = tmp_path / "pytorch_model.bin.4"
    torch.save({k: v.clone() for k, v in state.items()}, file)
    report = importer.import_checkpoint(
        file, method, Workspace(tmp_path / "out"), run="authors", assignments=assignments
    )
    run = RunDir.open(tmp_path / "out" / "runs" / "authors")
    resolved = config.from_tree(run.config(), scorers.options_schema, "config.json")
    built = base.build(resolved.experiment.method, sizes, resolved.experiment.options)
    checkpoint.load_model(built, checkpoint.read(checkpoint.best_path(run.checkpoints)))
    return built.eval(), report, run


@torch.no_grad()
@pytest.mark.parametrize(
    ("path", "dtype"), [p for p in params("gare", needs="param.clip.visual.proj") if "fp32" in p.id]
)
def test_gare_gives_golden_scores(path, dtype, tmp_path):
    golden = load(path, dtype)
    state = golden.under("param.")
    state |= {f"agent.{k}": v for k, v in state.items() if k.startswith("psi.")}  # stored twice by the authors
    frames = golden["feat.video_feat"]
    raw = golden["feat.frames_raw"]
    method, report, run = imported(
        tmp_path, "gare", state, Sizes(frames.shape[2], frames.shape[1], 8), ("method.gare.temperature=3",)
    )
    scores = method.score(
        method.encode_text(text_of(golden["feat.cls"])), method.encode_video(video_of(raw, golden["in.video_mask"]))
    )
    Closeness("gare", dtype, reference="fp32").value("eval_sq.sim", scores, golden["eval_sq.sim"])
    assert any("log_std_proj" in name for name in report.dropped)
    assert report.options["temporal_layers"] == 2 and report.backbone.startswith("local:")
    backbone = OpenClipBackbone.from_state_dict(
        {k: v for k, v in state.items() if k.startswith("clip.")}, name="golden"
    )
    saved = importer.read_state(run.path / "backbone" / "open_clip_model.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in backbone.model.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("name", ["glccl", "tcmgc"])
def test_grains_give_golden_scores(name, tmp_path):
    for param in params(name, needs="param.clip.visual.proj"):
        path, dtype = param.values
        if dtype != torch.float32:
            continue
        golden = load(path, dtype)
        words, frames = golden["eval.in.seq_features"], golden["eval.in.visual_output"]
        sizes = Sizes(frames.shape[-1], frames.shape[1], words.shape[1])
        rate = golden.config.get("keep_rate")
        chosen = (f"method.tcmgc.keep_rate={rate}", f"words.length={words.shape[1]}") if name == "tcmgc" else ()
        method, report, _ = imported(tmp_path / path.stem, name, golden.under("param."), sizes, chosen)
        text = method.encode_text(text_of(golden["eval.in.sequence_output"].flatten(0, 1), words))
        scores = method.score(text, method.encode_video(video_of(frames, golden["eval.in.video_mask"])))
        Closeness(name, dtype).value("eval.out.sim", scores, golden["eval.out.sim"])
        assert report.dropped


@torch.no_grad()
@pytest.mark.parametrize(("path", "dtype"), [p for p in params("eaglenet", needs="A/eval/sim") if "fp32" in p.id])
def test_eaglenet_gives_golden_scores(path, dtype, tmp_path):
    golden = load(path, dtype)
    head = golden.under("A/param/")
    if not any(k.startswith("pool_frames.") for k in head):
        pytest.skip("a compact file without the whole head")
    clip = {f"clip.{k}": v for k, v in golden.under("clip_param/").items()}
    clip = clip if "clip.text_projection" in clip else {}  # compact files hold parts of CLIP
    text, frames = golden["A/eval/text_feat"], golden["A/eval/video_feat"]
    method, report, _ = imported(tmp_path, "eaglenet", {**head, **clip}, Sizes(text.shape[1], frames.shape[1], 8))
    sigma = golden["A/eval/noise/sigma"].unflatten(1, (len(text), len(frames)))
    encoded = method.encode_video(video_of(frames, torch.ones(frames.shape[:2])))
    scores = method.score_with(method.encode_text(text_of(text)), encoded, sigma)
    Closeness("eaglenet", dtype).value("A/eval/sim", scores, golden["A/eval/sim"])
    assert report.options["energy"] == "bilinear" and report.options["frame_positions"]


@torch.no_grad()
@pytest.mark.parametrize(
    ("path", "dtype"), [p for p in params("dmae", needs="att_ti_nfc_twm.sim_eval") if "fp32" in p.id]
)
def test_dmae_gives_golden_scores(path, dtype, tmp_path):
    golden = load(path, dtype)
    keep = ("v2t_linear_xwp", "t2v_linear_xwp", "tis_selector")
    state = {f"model.dmae_utils.{k}": v for k, v in golden.under("param.").items() if k.startswith(keep)}
    if len(state) < 11:
        pytest.skip("a compact file without the whole head")
    state["model.module.text_encoder.embeddings.weight"] = torch.zeros(2, 2)
    frames, words = golden["in.video_feat"], golden["in.word_feat"]
    sizes = Sizes(frames.shape[2], frames.shape[1], words.shape[1])
    method, report, _ = imported(tmp_path, "dmae", state, sizes)
    text = text_of(golden["in.text_feat"], words, golden["in.twm_mask"].to(torch.uint8))
    mask = golden["in.video_mask"]
    whole = (mask.cumprod(1) == mask).all(1)  # the authors' [SEP] stands behind missing frames; a count cannot say that
    video = method.encode_video(video_of(frames, mask).rows(whole))
    Closeness("dmae", dtype).value(
        "sim_eval", method.score(method.encode_text(text), video), golden["att_ti_nfc_twm.sim_eval"][:, whole]
    )
    assert whole.sum() >= 3
    unread = {k for k in state if "linear_xwp.q_proj" in k or "linear_xwp.k_proj" in k}
    assert set(report.dropped) == {"model.module.text_encoder.embeddings.weight", *unread}
    assert report.backbone is None


@torch.no_grad()
@pytest.mark.parametrize("variant", ["primary", "wti1", "ti", "dp"])
def test_wti_gives_golden_scores(variant, tmp_path):
    for number, (name, path) in enumerate(cases("wti")):
        golden = load(path, torch.float32)
        options, state = golden.config["variants"][variant], golden.under("param.")
        own = golden.under(f"param.arch{options['arch']}.") or {
            k: v for k, v in state.items() if k.startswith(("text_weight_fc.", "video_weight_fc."))
        }
        state = {k: v for k, v in state.items() if k.startswith(("transformerClip.", "frame_position", "clip."))}
        clip = tiny_clip_state(golden.config["D"], 16, 8, 64, 16, 0)  # the authors' files hold all of CLIP
        state = {f"clip.{k}": v for k, v in clip.items()} | state | (own if options["arch"] else {})
        whole = "transformerClip.resblocks.0.ln_1.bias" in state
        if options["agg"] == "None":
            state = {k: v for k, v in state.items() if not k.startswith(("transformerClip.", "frame_position"))}
        elif not options["arch"] and not whole:
            continue  # a compact file has none of the parameters that this variant has
        frames = golden["eval.in.video_feat" if whole or options["agg"] == "None" else "eval.out.frames_temporal"]
        words, mask = golden["eval.in.text_feat"], golden["eval.in.text_mask"]
        chosen = (f"method.wti.interaction={options['interaction']}",)
        sizes = Sizes(frames.shape[2], frames.shape[1], words.shape[1])
        method, report, _ = imported(tmp_path / str(number), "wti", state, sizes, chosen)
        for block in method.transformerClip.resblocks if method.config.temporal == "transformer" else ():
            block.attn.heads = golden.config["heads_temporal"]
        text = text_of(words[torch.arange(len(words)), mask.sum(1) - 1], words, mask)
        scores = method.score(
            method.encode_text(text), method.encode_video(video_of(frames, golden["eval.in.video_mask"]))
        )
        expected = f"{'' if variant == 'primary' else variant + '.'}eval.out.sim"
        Closeness("wti", torch.float32, file=golden).value(f"{name} {expected}", scores, golden[expected])
        assert report.options["weight_layers"] == (options["arch"] or 2) and not report.dropped


@torch.no_grad()
def test_xclip_gives_golden_scores(tmp_path):
    for number, (name, path) in enumerate(cases("xclip")):
        golden = load(path, torch.float32)
        words, frames = golden["eval.in.seq_features"], golden["eval.in.visual_output"]
        sizes = Sizes(frames.shape[2], frames.shape[1], words.shape[1])
        clip = tiny_clip_state(sizes.dim, 16, 8, 64, 16, 0)  # the authors' files hold all of CLIP
        state = {f"clip.{k}": v for k, v in clip.items()} | golden.under("param.")
        temporal = any(k.startswith("transformerClip.") for k in state)
        chosen = f"words.length={words.shape[1]}"
        method, report, _ = imported(tmp_path / str(number), "xclip", state, sizes, (chosen,))
        for block in method.transformerClip.resblocks if temporal else ():
            block.attn.heads = golden.config["heads_temporal"]
        text = method.encode_text(text_of(golden["eval.in.sequence_output"].flatten(0, 1), words))
        scores = method.score(text, method.encode_video(video_of(frames, golden["eval.in.video_mask"])))
        expected = "eval.out.sim" if temporal else "meanP.eval.out.sim"  # a compact file has no transformer
        Closeness("xclip", torch.float32, file=golden).value(f"{name} {expected}", scores, golden[expected])
        assert (report.options["temporal"] == "transformer") == temporal and report.sizes == sizes
        assert not report.dropped


def importable() -> list[str]:
    """The methods whose authors have a format of checkpoints."""
    own = base.Method.read_checkpoint.__func__
    return [name for name in base.shipped() if base.load_class(name).read_checkpoint.__func__ is not own]


@pytest.mark.parametrize("name", importable())
def test_our_own_weights_survive_the_way_there_and_back(name, tmp_path):
    torch.manual_seed(0)
    sizes = Sizes(64, 6, 32)
    made = base.build(name, sizes)
    state = {k: v for k, v in made.state_dict().items() if k != "ebm.sampling"}
    prefix = base.load_class(name).checkpoint_prefix and f"model.{base.load_class(name).checkpoint_prefix}"
    method, report, _ = imported(tmp_path, name, {prefix + k: v for k, v in state.items()}, sizes)
    got = method.state_dict()
    assert all(torch.equal(got[k], v) for k, v in state.items())
    assert report.schema_line() == "tvr/import-checkpoint@1" and report.parameters > 0


def test_wrong_files_are_sentences(tmp_path):
    with pytest.raises(DataError, match="found none"):
        importer.import_checkpoint(tmp_path / "none.bin", "gare", Workspace(tmp_path))
    (tmp_path / "text.bin").write_text("hello")
    with pytest.raises(DataError, match="is not a readable weights file"):
        importer.import_checkpoint(tmp_path / "text.bin", "gare", Workspace(tmp_path))
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(DataError, match="no state dict"):
        importer.import_checkpoint(tmp_path / "list.bin", "gare", Workspace(tmp_path))
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "other.bin")
    with pytest.raises(DataError, match=r"no 'psi\.mean_proj\.weight'"):
        importer.import_checkpoint(tmp_path / "other.bin", "gare", Workspace(tmp_path))
    with pytest.raises(ConfigError, match="no checkpoint format"):
        importer.import_checkpoint(tmp_path / "other.bin", "mean", Workspace(tmp_path))


def test_unknown_and_missing_names_are_errors(tmp_path):
    state = dict(base.build("gare", Sizes(64, 6, 8)).state_dict())
    torch.save({**state, "psi.extra.weight": torch.zeros(2)}, tmp_path / "more.bin")
    with pytest.raises(DataError, match=r"unknown psi\.extra\.weight"):
        importer.import_checkpoint(tmp_path / "more.bin", "gare", Workspace(tmp_path))
    del state["psi.mean_proj.bias"]
    torch.save(state, tmp_path / "less.bin")
    with pytest.raises(DataError, match=r"lacks psi\.mean_proj\.bias"):
        importer.import_checkpoint(tmp_path / "less.bin", "gare", Workspace(tmp_path))


def test_a_dry_run_checks_the_file_and_writes_nothing(tmp_path):
    state = dict(base.build("gare", Sizes(64, 6, 8)).state_dict())
    torch.save(state, tmp_path / "a.bin")
    report = importer.import_checkpoint(tmp_path / "a.bin", "gare", Workspace(tmp_path / "out"), dry_run=True)
    assert report.dry_run and report.run == "a" and not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"no 'psi"):
        torch.save({k: v for k, v in state.items() if "psi" not in k}, tmp_path / "b.bin")
        importer.import_checkpoint(tmp_path / "b.bin", "gare", Workspace(tmp_path / "out"), dry_run=True)


def test_an_imported_run_wants_features_of_its_own_clip(tmp_path):
    state = dict(base.build("gare", Sizes(64, 6, 8)).state_dict())
    torch.save(state, tmp_path / "a.bin")
    importer.import_checkpoint(tmp_path / "a.bin", "gare", Workspace(tmp_path), run="a")
    with pytest.raises(ConfigError, match="exists"):
        importer.import_checkpoint(tmp_path / "a.bin", "gare", Workspace(tmp_path), run="a")
    run = RunDir.open(tmp_path / "runs" / "a")
    with pytest.raises((DataError, StoreMismatch), match="tvr "):
        scorers.store_for(Workspace(tmp_path), run, None)
