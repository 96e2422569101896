"""DMAE against the authors' outputs: scores, NegNCE, TPM-CL and gradients of every variant in a file.

The authors' code ran in float64 on float32 inputs. Two of its bugs are in the TPM-CL values: pairs mixed within blocks
of 8 x 16 (Q1, only above 8 pairs) and weights summed over pairs (Q2, only with learned weights); they are behind
`reference_bugs`, and everything that they do not touch must hold without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

import pytest
import torch
from golden import Closeness, RecordedDraws, cases, load, params, require_grad
from torch import Tensor
from tvr_kernels.dmae import reference

from tvr_cli.methods.dmae import Method
from tvr_cli.nn.losses import info_nce
from tvr_cli.nn.negnce import hard_negatives
from tvr_cli.nn.temporal import frame_positions
from tvr_cli.types import Batch, Sizes, TextFeatures, VideoFeatures

INTERACTION = {"interaction": "att_ti", "nfc": True, "twm": True, "partial": 4, "loss": "negNCE", "sim_header": "meanP"}


def variants(golden):
    """Return name -> options of the file's variants; those of other sizes (`b12.in.*`) have the primary's options."""
    named = {k: {**INTERACTION, **v} for k, v in golden.config["variants"].items()}
    own = {k.split(".")[0] for k in golden if ".in." in k and not k.startswith("grad") and ".grad." not in k}
    return {k: v for k, v in {**named, **{k: INTERACTION for k in own}}.items() if f"{k}.sim_eval" in golden}


def all_variants():
    """Return pytest params (path, variant, dtype)."""
    out = []
    for (name, path), dtype in ((c, d) for c in cases("dmae") for d in (torch.float32, torch.float64)):
        label = "fp64" if dtype == torch.float64 else "fp32"
        out += [pytest.param(path, v, dtype, id=f"{name}-{v}-{label}") for v in sorted(variants(load(path, dtype)))]
    return out


@dataclass(frozen=True)
class Inputs:
    sentence: Tensor
    words: Tensor
    importance: Tensor
    frames: Tensor
    mask: Tensor


def read_inputs(golden, variant, options):
    prefix = f"{variant}.in." if f"{variant}.in.text_feat" in golden else "in."
    importance = golden[prefix + ("twm_mask" if options["twm"] else "word_mask")]
    names = ("text_feat", "word_feat", "video_feat")
    sentence, words, frames = require_grad(*(golden[prefix + n] for n in names))
    return Inputs(sentence, words, importance, frames, golden[prefix + "video_mask"].bool())


def build(golden, options, inputs, *, reference_bugs=False):
    state = golden.under("param.")
    layers = 1 + max((int(k.split(".")[2]) for k in state if k.startswith("transformerClip.")), default=0)
    config = Method.Config(
        interaction=options["interaction"],
        neighbours=options["nfc"],
        word_importance=options["twm"],
        loss=options["loss"].lower(),
        partial_type=options["partial"],
        temporal=options["sim_header"],
        temporal_layers=layers,
        reference_bugs=reference_bugs,
    )
    sizes = Sizes(inputs.sentence.shape[1], inputs.frames.shape[1], inputs.words.shape[1])
    method = Method(config, sizes)
    if options["sim_header"] == "seqTransf":
        rows = len(state["frame_position_embeddings.weight"])
        method.frame_position_embeddings = frame_positions(sizes.dim, rows)
    wanted = set(method.state_dict())
    left = {k for k in state if k not in wanted and not any(fnmatch(k, p) for p in Method.ignored_keys)}
    assert all(k.split(".")[0] in OPTIONAL for k in left), left
    method.load_state_dict({k: v for k, v in state.items() if k in wanted})
    return method.to(golden.dtype)


# Modules that a variant may do without.
OPTIONAL = {
    "text_weight_fc", "video_weight_fc", "transformerClip", "frame_position_embeddings",
    "v2t_linear_xwp", "t2v_linear_xwp", "tis_selector",
}  # fmt: skip


def objective(method, x):
    return method.objective(x.sentence, x.words, x.importance, x.frames, x.mask)


def has_bugs(options, pairs):
    """Whether the reference's TPM-CL values differ from the method's."""
    return options["partial"] > 0 and (options["interaction"].endswith("wti") or pairs > 8)


@torch.no_grad()
@pytest.mark.parametrize("form", ["reference", "folded"])
@pytest.mark.parametrize(("path", "variant", "dtype"), all_variants())
def test_golden_scores(path, variant, dtype, form, monkeypatch):
    monkeypatch.setenv("TVR_KERNELS", form)
    golden = load(path, dtype)
    options = variants(golden)[variant]
    inputs = read_inputs(golden, variant, options)
    method = build(golden, options, inputs)
    text = method.text_side(inputs.sentence, inputs.words, inputs.importance)
    video = method.video_side(inputs.frames, inputs.mask)
    got = reference.score(text, video, method._options) if form == "reference" else None
    close = Closeness("dmae", dtype)
    for name in ("sim_eval", "sim_train"):
        if f"{variant}.{name}" in golden:
            scores = encoded_scores(method, inputs) if got is None else got
            close.value(f"{variant}.{name}", scores, golden[f"{variant}.{name}"])
    if f"{variant}.sim_sent2frames" in golden:
        sentence = reference.branch(slice(0, 1), text, video, method._options)
        words = reference.branch(slice(1, None), text, video, method._options)
        close.value(f"{variant}.sim_sent2frames", sentence, golden[f"{variant}.sim_sent2frames"])
        close.value(f"{variant}.sim_word2frames", words, golden[f"{variant}.sim_word2frames"])


@torch.no_grad()
@pytest.mark.parametrize(("path", "dtype"), params("dmae", needs="rect.sim_eval"))
def test_golden_rectangular_scores(path, dtype):
    golden = load(path, dtype)
    inputs = read_inputs(golden, "rect", INTERACTION)
    method = build(golden, INTERACTION, inputs)
    clips = golden["rect.sim_eval"].shape[1]
    got = encoded_scores(method, inputs, clips)
    Closeness("dmae", dtype).value("rect.sim_eval", got, golden["rect.sim_eval"])


@pytest.mark.parametrize(("path", "variant", "dtype"), all_variants())
def test_golden_losses(path, variant, dtype):
    golden, close = load(path, dtype), Closeness("dmae", dtype)
    options = variants(golden)[variant]
    inputs = read_inputs(golden, variant, options)
    method = build(golden, options, inputs, reference_bugs=has_bugs(options, len(inputs.sentence)))
    out = objective(method, inputs)
    parts = out.parts
    got = {
        "loss_main": parts["contrastive"],
        "loss_main_t2v": parts["t2v"],
        "loss_main_v2t": parts["v2t"],
        "loss_total": out.total,
    }
    if options["loss"] == "negNCE":
        got |= {f"loss_negnce_pos_{d}": parts[f"positive_{d}"] for d in ("t2v", "v2t")}
        got |= {f"loss_negnce_neg_{d}": parts[f"negative_{d}"] for d in ("t2v", "v2t")}
    if options["partial"] > 0:
        got |= {"loss_tpm": parts["tpm"]}
        got |= {f"tpm_{t}_loss": parts[f"tpm_{t}"] for t in "abc" if f"tpm_{t}" in parts}
    expected = [k for k in golden.under(f"{variant}.") if k.startswith("loss_") or k.endswith("_loss")]
    assert set(got) <= set(expected)
    for name in got:
        close.value(f"{variant}.{name}", got[name], golden[f"{variant}.{name}"])
    if f"{variant}.loss_infonce_t2v" in golden:
        plain = info_nce(100.0 * encoded_scores(method, inputs))
        close.value(f"{variant}.loss_infonce_t2v", plain.t2v, golden[f"{variant}.loss_infonce_t2v"])
        close.value(f"{variant}.loss_infonce_v2t", plain.v2t, golden[f"{variant}.loss_infonce_v2t"])
    if f"{variant}.hard_mask" in golden:
        hard = hard_negatives(golden[f"{variant}.sim_train"])
        assert torch.equal(hard.long(), golden[f"{variant}.hard_mask"])


@torch.no_grad()
@pytest.mark.parametrize(("path", "variant", "dtype"), all_variants())
def test_golden_partial_scores(path, variant, dtype):
    golden, close = load(path, dtype), Closeness("dmae", dtype)
    options = variants(golden)[variant]
    if options["partial"] < 0:
        assert not golden.has(f"{variant}.tpm_")
        return
    inputs = read_inputs(golden, variant, options)
    buggy = has_bugs(options, len(inputs.sentence))
    for bugs in (True, False):
        method = build(golden, options, inputs, reference_bugs=bugs)
        tokens = method.tokens(inputs.sentence, inputs.words, inputs.frames, inputs.mask)
        for name, (positive, negative) in zip("abc", method.partial_margin().matched(tokens), strict=True):
            for sign, got in (("pos", positive), ("neg", negative)):
                key = f"{variant}.tpm_{name}_{sign}_diag"
                assert (got is not None) == (key in golden), key
                # Q1 reaches the positive of a and the negative of b only; Q2 reaches everything.
                touched = buggy and (options["interaction"].endswith("wti") or f"{name}_{sign}" in ("a_pos", "b_neg"))
                if got is not None and (bugs or not touched):
                    close.value(key, got, golden[key])


@torch.no_grad()
@pytest.mark.parametrize(("path", "variant", "dtype"), [p for p in all_variants() if "twm" in p.values[1]])
def test_golden_token_weights_and_matrices(path, variant, dtype):
    golden, close = load(path, dtype), Closeness("dmae", dtype)
    if f"{variant}.t_token_w" not in golden:
        pytest.skip("only the primary variant has them")
    options = variants(golden)[variant]
    inputs = read_inputs(golden, variant, options)
    method = build(golden, options, inputs, reference_bugs=True)
    tokens = method.tokens(inputs.sentence, inputs.words, inputs.frames, inputs.mask)
    margin, pairs = method.partial_margin(), len(inputs.sentence)
    first = torch.arange(pairs).repeat_interleave(pairs)
    second = torch.arange(pairs).repeat(pairs)
    by_text = margin.partials(tokens, first, second)  # row i * B + j = (text i, video j)
    by_clip = margin.partials(tokens, second, first)  # row j * B + i
    close.value(f"{variant}.t_token_w", by_text.word_weight, golden[f"{variant}.t_token_w"])
    close.value(f"{variant}.keep_word", by_text.keep_word, golden[f"{variant}.keep_word"])
    close.value(f"{variant}.v_token_w", by_clip.frame_weight, golden[f"{variant}.v_token_w"])
    close.value(f"{variant}.keep_frame", by_clip.keep_frame, golden[f"{variant}.keep_frame"])
    for name, (positive, negative) in zip("abc", margin.reference_matrices(tokens), strict=True):
        close.value(f"{variant}.tpm_{name}_pos_matrix", positive, golden[f"{variant}.tpm_{name}_pos_matrix"])
        close.value(f"{variant}.tpm_{name}_neg_matrix", negative, golden[f"{variant}.tpm_{name}_neg_matrix"])


@pytest.mark.parametrize(("path", "variant", "dtype"), all_variants())
def test_golden_gradients(path, variant, dtype):
    golden, close = load(path, dtype), Closeness("dmae", dtype)
    expected = golden.under(f"{variant}.grad.")
    if not expected:
        pytest.skip("this variant has no gradients")
    options = variants(golden)[variant]
    inputs = read_inputs(golden, variant, options)
    buggy = has_bugs(options, len(inputs.sentence))
    for bugs in {True, buggy}:
        for x in (inputs.sentence, inputs.words, inputs.frames):
            x.grad = None
        method = build(golden, options, inputs, reference_bugs=bugs)
        objective(method, inputs).total.backward()
        leaves = {"in.text_feat": inputs.sentence, "in.word_feat": inputs.words, "in.video_feat": inputs.frames}
        leaves |= dict(method.named_parameters())
        for name, ref in expected.items():
            close.grad(f"{variant}.grad.{name}", leaves[name].grad, ref)


def encoded_scores(method, inputs, clips=None):
    """Score through the protocol: encodings of features whose mask is the file's, not a prefix."""
    count, slots = inputs.frames.shape[:2]
    text = TextFeatures(
        torch.arange(len(inputs.sentence)),
        inputs.sentence,
        inputs.words,
        (inputs.importance > 0).sum(1),
        inputs.importance,
    )
    video = MaskedFeatures(
        torch.arange(count), inputs.frames, inputs.mask.sum(1), torch.zeros(count, slots), real=inputs.mask
    )
    return method.score(method.encode_text(text), method.encode_video(video).rows(slice(0, clips)))


@dataclass(frozen=True)
class MaskedFeatures(VideoFeatures):
    """The reference's last frame token is always real (its [SEP]), so its masks are no prefixes."""

    real: Tensor | None = None

    def mask(self):
        return self.real


@pytest.mark.parametrize(("path", "dtype"), params("dmae", needs="in."))
def test_golden_loss_through_the_protocol(path, dtype):
    """`loss` on a batch of features is `objective` on the same tensors, and draws nothing."""
    golden = load(path, dtype)
    inputs = read_inputs(golden, "", INTERACTION)
    method = build(golden, INTERACTION, inputs)
    count, slots = inputs.frames.shape[:2]
    text = TextFeatures(
        torch.arange(count), inputs.sentence, inputs.words, (inputs.importance > 0).sum(1), inputs.importance
    )
    video = MaskedFeatures(
        torch.arange(count), inputs.frames, inputs.mask.sum(1), torch.zeros(count, slots), real=inputs.mask
    )
    got = method.loss(Batch(text, video), step=0, draws=RecordedDraws())
    close = Closeness("dmae", dtype)
    close.value("loss", got.total, objective(method, inputs).total)
