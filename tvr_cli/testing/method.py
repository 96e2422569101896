"""What every method must hold, whatever it computes (`methods.base` says why). Each clause takes the method's name.

Sizes are small, features synthetic, captions and clips padded. Exactness is checked in float64.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from tvr_cli import config
from tvr_cli.engine.training.draws import SeededDraws
from tvr_cli.methods import base
from tvr_cli.testing.report import Check, require, run
from tvr_cli.types import Batch, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

SIZES = Sizes(dim=64, frames=5, words=20)
PATCHES = 6  # of a frame
FEATURES = frozenset({"frames", "video.pooled", "video.patches", "pooled", "tokens", "importance"})


def check(name: str) -> list[Check]:
    """Run every clause on a method. Raises ConfigError when there is no method of this name."""
    base.load_class(name)
    return run(CLAUSES, name)


# ------------------------------------------------------------------------------------------------------------- scores


def scores_have_a_row_a_caption_and_a_column_a_clip(name: str) -> None:
    """Shapes, precision and finiteness of scores, encodings, weights of frames and vectors of the coarse search."""
    for dtype in (torch.float32, torch.float64):
        method, text, video = make(name, dtype), text_features(7, dtype), video_features(4, dtype)
        with torch.no_grad():
            t, v = method.encode_text(text), method.encode_video(video)
            score, weight = method.score(t, v), method.explain(t, v)
            coarse_text, coarse_video = method.coarse(t), method.coarse(v)
        _shape("score of 7 captions and 4 clips", score, (7, 4))
        require(score.dtype == dtype, f"expected scores in {dtype} for features in {dtype}, found {score.dtype}")
        require(bool(score.isfinite().all()), "expected finite scores, found NaN or infinity")
        for side, encoding, of, rows in (("text", t, text, 7), ("video", v, video, 4)):
            uneven = [k for k, x in encoding.tensors.items() if len(x) != rows]
            require(not uneven, f"expected one row an item in the {side} encoding, found others in {', '.join(uneven)}")
            require(torch.equal(encoding.key, of.key), f"expected the keys of the features in the {side} encoding")
        _shape("explain", weight, (7, 4, SIZES.frames))
        _close("the weights of a pair's frames do not sum to one", weight.sum(-1), torch.ones_like(score), 1e-5)
        require(bool((weight >= 0).all()), "expected weights of frames that are not negative")
        require(bool((weight[:, ~video.mask()] == 0).all()), "expected no weight on missing frames")
        require(
            coarse_text.dim() == coarse_video.dim() == 2 and coarse_text.shape[1] == coarse_video.shape[1],
            f"expected coarse vectors of one size, found {list(coarse_text.shape)} and {list(coarse_video.shape)}",
        )
        for unit, rows in ((coarse_text, 7), (coarse_video, 4)):
            require(len(unit) == rows, f"expected {rows} coarse vectors, found {len(unit)}")
            _close("coarse vectors are not of length one", unit.norm(dim=-1), unit.new_ones(rows), 1e-5)


def a_rough_score_needs_what_it_says(name: str) -> str | None:
    """Search reads these tensors of every clip, as they lie in the index, and nothing else."""
    method, text, video = make(name, torch.float32), text_features(7, torch.float32), video_features(6, torch.float32)
    needs = method.rough_needs
    if not needs:
        return "left out: there is no rough score; coarse vectors find the candidates"
    with torch.no_grad():
        t, v = method.encode_text(text), method.encode_video(video)
        unknown = sorted(set(needs) - set(v.tensors))
        require(not unknown, f"expected `rough_needs` among the clip's tensors, found {', '.join(unknown)}")
        only = Encoding(v.key, {k: v[k] for k in needs})
        rough = method.rough(t, only)
        _shape("rough of 7 captions and 6 clips", rough, (7, 6))
        require(bool(rough.isfinite().all()), "expected finite rough scores, found NaN or infinity")
        one = method.rough(t.rows(slice(2, 3)), only.rows(slice(3, 5)))
        _close("a rough score depends on what else is scored", one, rough[2:3, 3:5], 1e-4)
        halved = Encoding(v.key, {k: _half(x) for k, x in only.tensors.items()})
        scale = rough.abs().max().clamp_min(1e-6)
        _close(
            "a rough score of what is kept in half precision is another",
            method.rough(t, halved) / scale,
            rough / scale,
            0.05,
        )
    return None


def half_precision_features_are_scored_in_fp32(name: str) -> None:
    """Stores keep fp16; rounding in a score is not the method's to add."""
    found = scores(make(name, torch.float32), text_features(3).map(_half), video_features(2).map(_half)).dtype
    require(found == torch.float32, f"expected float32 scores for float16 features, found {found}")


def a_score_depends_on_its_caption_and_clip_only(name: str) -> None:
    """Tile invariance, the law: not the tile, the batch, nor a global generator."""
    method, text, video = make(name), text_features(7), video_features(6)
    whole = scores(method, text, video)
    for rows, columns in ((1, 1), (3, 4), (7, 1), (1, 6)):
        for i in range(0, 7, rows):
            for j in range(0, 6, columns):
                tile = scores(method, text.rows(slice(i, i + rows)), video.rows(slice(j, j + columns)))
                which = f"{len(tile)} captions from {i} and {tile.shape[-1]} clips from {j} alone have other scores"
                problem = f"{which} than among all (a score may not look at its neighbours)"
                _close(problem, tile, whole[i : i + rows, j : j + columns])
    torch.manual_seed(1)
    again = scores(method, text, video)
    require(torch.equal(again, whole), "expected the same scores a second time, found others (a global generator?)")


def permuted_items_have_permuted_scores(name: str) -> None:
    """The order of captions and clips means nothing."""
    method, text, video = make(name), text_features(7), video_features(6)
    of_text, of_video = torch.tensor([3, 0, 6, 2, 5, 1, 4]), torch.tensor([5, 2, 0, 4, 1, 3])
    expected = scores(method, text, video)[of_text][:, of_video]
    _close("scores change with the order", scores(method, text.rows(of_text), video.rows(of_video)), expected)


def a_pair_keeps_its_score_whatever_captions_are_asked(name: str) -> None:
    """Captions permuted, removed and regrouped, with as many captions as clips, fewer and more.

    Code that pools a clip with its own caption, in place of the query, needs as many captions as clips to run at all.
    """
    method, text, video = make(name), text_features(7), video_features(6)
    alone = torch.cat([scores(method, text.rows(slice(i, i + 1)), video) for i in range(7)])
    require(bool(alone.std() > 0), "expected scores that differ from pair to pair, found one value for all")
    for what, rows, columns in (
        ("as many captions as clips", [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
        ("captions shifted by one", [1, 2, 3, 4, 5, 0], [0, 1, 2, 3, 4, 5]),
        ("captions permuted", [3, 0, 6, 2, 5, 1], [0, 1, 2, 3, 4, 5]),
        ("captions removed", [1, 4], [0, 1, 2, 3, 4, 5]),
        ("captions and clips regrouped", [6, 2, 0, 3], [5, 1, 4, 2]),
        ("fewer clips than captions", [0, 1, 2, 3, 4, 5, 6], [2, 0]),
    ):
        of_text, of_video = torch.tensor(rows), torch.tensor(columns)
        found = scores(method, text.rows(of_text), video.rows(of_video))
        _close(f"a pair's score changes with the other captions ({what})", found, alone[of_text][:, of_video])


def saved_parameters_and_encodings_give_the_same_scores(name: str) -> None:
    """A run is read back from its weights, an index from its encodings."""
    method, text, video = make(name), text_features(5), video_features(4)
    other = base.build(name, SIZES).double().eval()
    other.load_state_dict(method.state_dict())
    before = scores(method, text, video)
    require(
        torch.equal(scores(other, text, video), before),
        "expected the same scores from a state_dict in a new object, found others (what is not a parameter or a "
        "registered buffer is lost)",
    )
    with torch.no_grad():
        t, v = method.encode_text(text), method.encode_video(video)
        again = method.score(Encoding.load(t.save()), Encoding.load(v.save()))
        require(torch.equal(again, before), "expected the same scores from encodings written and read")
        joined = Encoding.cat([v.rows(slice(0, 1)), v.rows(slice(1, 4))])
        require(torch.equal(method.score(t, joined), before), "expected the same scores from encodings put together")


def with_mask_padding_what_is_missing_has_no_effect(name: str) -> str | None:
    """Where the option `mask_padding` exists: pad tokens and missing frames change nothing."""
    if not _masks(name):
        return "there is no option mask_padding"
    method, text, video = make(name, mask_padding=True), text_features(6), video_features(5)
    noise = torch.Generator().manual_seed(9)
    assert text.tokens is not None and video.patches is not None, "made so above"
    pad = (torch.arange(SIZES.words) >= text.n_tokens[:, None])[..., None]
    gone = ~video.mask()[..., None]
    expected = scores(method, text, video)
    require(bool(expected.isfinite().all()), "expected finite scores with mask_padding, found NaN or infinity")
    held = text.tokens, video.frames, video.patches
    random = (5 * torch.randn(x.shape, generator=noise).double() for x in held)
    for tokens, frames, patches in (tuple(random), tuple(torch.zeros_like(x) for x in held)):
        changed = dataclasses.replace(text, tokens=torch.where(pad, tokens, text.tokens))
        other = dataclasses.replace(
            video,
            frames=torch.where(gone, frames, video.frames),
            patches=torch.where(gone[..., None], patches, video.patches),
        )
        _close("pad tokens or missing frames change scores with mask_padding", scores(method, changed, other), expected)
    return None


def scores_on_cpu_and_gpu_agree(name: str) -> str | None:
    """Within 1e-4 of the largest score, in float32; left out where there is no GPU."""
    if not torch.cuda.is_available():
        return "left out: there is no CUDA device here"
    method, text, video = make(name, torch.float32), text_features(7, torch.float32), video_features(6, torch.float32)
    expected = scores(method, text, video)
    got = scores(method.cuda(), text.to("cuda"), video.to("cuda")).cpu()
    scale = expected.abs().max().clamp_min(1.0)
    _close("a GPU gives other scores than the CPU", got / scale, expected / scale, 1e-4)
    return None


# ----------------------------------------------------------------------------------------------------------- training


def every_parameter_gets_a_gradient_or_is_declared_dead(name: str) -> str | None:
    """What never learns is named by `dead()`, and nothing else is."""
    method = make(name)
    if not list(method.parameters()):
        require(not method.trains, "expected that `trains` is false without parameters")
        return "there are no parameters"
    loss(method.train()).total.backward()
    names = {k for k, _ in method.named_parameters()}
    reached = {k for k, p in method.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-14}
    unknown, still, live = method.dead() - names, names - method.dead() - reached, method.dead() & reached
    require(not unknown, f"dead() names what is no parameter: {_some(unknown)}")
    require(not still, f"these parameters have no gradient and are not in dead(): {_some(still)}")
    require(not live, f"these parameters are in dead(), but have a gradient: {_some(live)}")
    return None


def gradients_with_mask_padding_are_finite(name: str) -> str | None:
    """A mask of -inf before a softmax is where NaN comes from."""
    if not _masks(name):
        return "there is no option mask_padding"
    method = make(name, mask_padding=True)
    if not method.trains:
        return _UNTRAINED
    loss(method.train()).total.backward()
    wrong = {k for k, p in method.named_parameters() if p.grad is not None and not p.grad.isfinite().all()}
    require(not wrong, f"expected finite gradients with mask_padding, found others in {_some(wrong)}")
    return None


def a_loss_draws_from_draws_alone(name: str) -> str | None:
    """The same draws give the same loss, whatever the global generator: a run is resumed to the bit."""
    method = make(name)
    if not method.trains:
        return _UNTRAINED
    method.train()
    totals = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        totals.append(loss(copy.deepcopy(method)).total)
    require(
        torch.equal(*totals), "expected the same loss for the same draws, found another (use `draws`, not torch.rand)"
    )
    return None


def a_loss_is_a_scalar_with_named_parts(name: str) -> str | None:
    """Every part is logged; videos that are told to be distinct are what no telling means."""
    method, pairs = make(name), batch()
    if not method.trains:
        return _UNTRAINED
    told = dataclasses.replace(pairs, video_id=torch.arange(len(pairs)))
    plain, distinct = (loss(copy.deepcopy(method), b) for b in (pairs, told))
    require(plain.total.dim() == 0, f"expected a total that is one number, found the shape {list(plain.total.shape)}")
    require(plain.parts, "expected named parts of the loss, found none")
    wrong = [k for k, part in plain.parts.items() if not part.isfinite().all()]
    require(not wrong, f"expected finite parts of the loss, found others in {', '.join(wrong)}")
    _close("telling that all videos are distinct changes the loss", distinct.total, plain.total)
    return None


def eight_pairs_are_overfitted(name: str) -> str | None:
    """200 steps of Adam bring eight pairs to R@1 100 % in both directions."""
    method, pairs = make(name, torch.float32, moved=False), batch(8, torch.float32)
    if not method.trains:
        return _UNTRAINED
    method.init_from_backbone({}, torch.tensor(math.log(20.0)))
    require(not _perfect(method, pairs), "the pairs are matched without training; they prove nothing")
    optimizer = torch.optim.Adam((p for p in method.parameters() if p.requires_grad), lr=2e-3)
    for step in range(200):
        optimizer.zero_grad()
        loss(method.train(), pairs, step).total.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
        if step % 5 == 4 and _perfect(method.eval(), pairs):
            return None
    score, own = scores(method.eval(), pairs.text, pairs.video), torch.arange(len(pairs))
    right = int((score.argmax(1) == own).sum()), int((score.argmax(0) == own).sum())
    require(
        False,
        f"after 200 steps {right[0]} of 8 captions find their clip and {right[1]} of 8 clips their caption; expected "
        "all (does every gradient point down, and does loss train what score uses?)",
    )
    return None


# ------------------------------------------------------------------------------------------------------ configuration


def a_configuration_survives_being_written_and_read(name: str) -> None:
    """`config.json` of a run gives back its options."""
    cls = base.load_class(name)
    require(dataclasses.is_dataclass(cls.Config), "expected that Config is a dataclass (frozen, keywords only)")
    options = dataclasses.asdict(cls.Config())
    read = config.from_tree({"method": {name: options}}, lambda _: cls.Config, "config.json", named=name)
    require(cls.Config(**read.experiment.options) == cls.Config(), "expected the same options when they are read again")
    again = config.from_tree(read.tree(), lambda _: cls.Config, "config.json", named=name)
    require(again.experiment == read.experiment, "expected the same experiment when it is read again")


def a_method_says_what_it_is(name: str) -> None:
    """`tvr methods` and every result show it: summary, fidelity, the source of each default, what a pair costs."""
    cls = base.load_class(name)
    require(cls.summary, "expected a `summary` in one line")
    require(cls.fidelity, 'expected a `fidelity`: "ours", or where the code comes from ("authors-code@sha")')
    require(cls.fidelity == "ours" or (cls.paper and cls.bibtex), "expected `paper` and `bibtex` of a published method")
    unsourced = [f.name for f in dataclasses.fields(cls.Config) if not f.metadata.get("source")]
    require(
        not unsourced, f"these options do not say where their default comes from (source=…): {', '.join(unsourced)}"
    )
    method = base.build(name, SIZES)
    unknown = method.needs - FEATURES
    require(not unknown, f"expected `needs` among {', '.join(sorted(FEATURES))}, found {', '.join(sorted(unknown))}")
    require(method.cost_per_pair(), "expected `cost_per_pair()` in words")
    size = method.pair_bytes()
    require(isinstance(size, int) and size > 0, f"expected that `pair_bytes()` is a number of bytes, found {size!r}")


CLAUSES = (
    scores_have_a_row_a_caption_and_a_column_a_clip,
    a_rough_score_needs_what_it_says,
    half_precision_features_are_scored_in_fp32,
    a_score_depends_on_its_caption_and_clip_only,
    permuted_items_have_permuted_scores,
    a_pair_keeps_its_score_whatever_captions_are_asked,
    saved_parameters_and_encodings_give_the_same_scores,
    with_mask_padding_what_is_missing_has_no_effect,
    scores_on_cpu_and_gpu_agree,
    every_parameter_gets_a_gradient_or_is_declared_dead,
    gradients_with_mask_padding_are_finite,
    a_loss_draws_from_draws_alone,
    a_loss_is_a_scalar_with_named_parts,
    eight_pairs_are_overfitted,
    a_configuration_survives_being_written_and_read,
    a_method_says_what_it_is,
)


# ------------------------------------------------------------------------------------------------------- what is used


def make(name: str, dtype: torch.dtype = torch.float64, *, moved: bool = True, **options: Any) -> base.Method:
    """Build a method; `moved` shifts every parameter off its initial value, where gradients may vanish."""
    torch.manual_seed(0)
    method = base.build(name, SIZES, options).to(dtype)
    if moved:
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.dim():
                    parameter.add_(0.05 * torch.randn_like(parameter))
    return method.eval()


def text_features(count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> TextFeatures:
    """Return captions of 4 to L tokens, pads included, with words and content words."""
    generator = torch.Generator().manual_seed(seed)
    n_tokens = torch.randint(4, SIZES.words + 1, (count,), generator=generator)
    tokens = 0.9 * torch.randn(count, SIZES.words, SIZES.dim, generator=generator, dtype=torch.float64) + 0.5
    position = torch.arange(SIZES.words)
    content = torch.randint(1, 3, (count, SIZES.words), generator=generator)
    return TextFeatures(
        key=torch.randint(-(2**62), 2**62, (count,), generator=generator),
        pooled=tokens[torch.arange(count), n_tokens - 1].to(dtype),
        tokens=tokens.to(dtype),
        n_tokens=n_tokens,
        importance=(content * (position < n_tokens[:, None])).to(torch.uint8),
    )


def video_features(count: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> VideoFeatures:
    """Return clips of 1 to F frames, what is missing filled with numbers; the first clip has all.

    Each has a vector of its own, and each frame its patches.
    """
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(count, 1, SIZES.dim, generator=generator, dtype=torch.float64) + 0.5
    frames = frames + 0.6 * torch.randn(count, SIZES.frames, SIZES.dim, generator=generator, dtype=torch.float64)
    n_frames = torch.randint(1, SIZES.frames + 1, (count,), generator=generator)
    n_frames[0] = SIZES.frames
    ts = torch.arange(SIZES.frames, dtype=dtype).expand(count, -1)
    key = torch.randint(-(2**62), 2**62, (count,), generator=generator)
    pooled = frames[:, 0] + 0.3 * torch.randn(count, SIZES.dim, generator=generator, dtype=torch.float64)
    patches = 0.5 * torch.randn(count, SIZES.frames, PATCHES, SIZES.dim, generator=generator, dtype=torch.float64)
    patches = frames[:, :, None] + patches
    return VideoFeatures(key, frames.to(dtype), n_frames, ts, pooled.to(dtype), patches.to(dtype))


def batch(count: int = 6, dtype: torch.dtype = torch.float64) -> Batch:
    """Return matching pairs."""
    return Batch(text_features(count, dtype), video_features(count, dtype))


def scores(method: base.Method, text: TextFeatures, video: VideoFeatures) -> Tensor:
    """Encode and score, without gradients."""
    with torch.no_grad():
        return method.score(method.encode_text(text), method.encode_video(video))


def loss(method: base.Method, pairs: Batch | None = None, step: int = 0) -> LossOutput:
    """Return the loss of a step, its draws fixed by the step."""
    return method.loss(batch() if pairs is None else pairs, step=step, draws=SeededDraws(seed=0, step=step))


_UNTRAINED = "left out: no trainable parameter reaches the score on frozen features in the default configuration"


def _masks(name: str) -> bool:
    return "mask_padding" in {f.name for f in dataclasses.fields(base.load_class(name).Config)}


def _perfect(method: base.Method, pairs: Batch) -> bool:
    """Whether every caption finds its clip first, and every clip its caption."""
    score, own = scores(method, pairs.text, pairs.video), torch.arange(len(pairs))
    return torch.equal(score.argmax(1), own) and torch.equal(score.argmax(0), own)


def _half(x: Tensor) -> Tensor:
    return x.half() if x.is_floating_point() else x


def _shape(what: str, found: Tensor, expected: tuple[int, ...]) -> None:
    require(tuple(found.shape) == expected, f"{what}: expected the shape {list(expected)}, found {list(found.shape)}")


def _close(problem: str, got: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Require |got - expected| <= tolerance + tolerance |expected|, entry by entry."""
    require(got.shape == expected.shape, f"{problem}: shapes {list(got.shape)} and {list(expected.shape)}")
    got, expected = got.detach().double(), expected.detach().double()
    error = (got - expected).abs()
    within = error <= tolerance * (1 + expected.abs())
    require(bool(within.all()), f"{problem}: off by up to {float(error.max()):.3g}, {tolerance:g} is allowed")


def _some(names: set[str] | frozenset[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
