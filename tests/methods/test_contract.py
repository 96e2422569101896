"""What every method must hold, whatever it computes: run for each name in `methods.base.names()`.

A new method needs no edit here. Sizes are small, features synthetic, captions and clips padded. Exactness is checked in
float64.
"""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch

from tvr_cli import config
from tvr_cli.engine.training.draws import SeededDraws
from tvr_cli.methods import base
from tvr_cli.types import Batch, Encoding, Sizes, TextFeatures, VideoFeatures

SIZES = Sizes(dim=64, frames=5, words=20)
NAMES = base.names()
PADDED = [
    name for name in NAMES if "mask_padding" in {f.name for f in dataclasses.fields(base.load_class(name).Config)}
]


def text_features(count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> TextFeatures:
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
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(count, 1, SIZES.dim, generator=generator, dtype=torch.float64) + 0.5
    frames = frames + 0.6 * torch.randn(count, SIZES.frames, SIZES.dim, generator=generator, dtype=torch.float64)
    n_frames = torch.randint(1, SIZES.frames + 1, (count,), generator=generator)
    n_frames[0] = SIZES.frames
    ts = torch.arange(SIZES.frames, dtype=dtype).expand(count, -1)
    return VideoFeatures(torch.randint(-(2**62), 2**62, (count,), generator=generator), frames.to(dtype), n_frames, ts)


def make(name: str, dtype: torch.dtype = torch.float64, *, moved: bool = True, **options) -> base.Method:
    """Build a method; `moved` shifts every parameter off its initial value, where gradients may vanish."""
    torch.manual_seed(0)
    method = base.build(name, SIZES, options).to(dtype)
    if moved:
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.dim():
                    parameter.add_(0.05 * torch.randn_like(parameter))
    return method.eval()


def scores(method: base.Method, text: TextFeatures, video: VideoFeatures) -> torch.Tensor:
    with torch.no_grad():
        return method.score(method.encode_text(text), method.encode_video(video))


def close(got: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def batch(count: int = 6, dtype: torch.dtype = torch.float64) -> Batch:
    return Batch(text_features(count, dtype), video_features(count, dtype))


# ------------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_scores_have_a_row_a_caption_a_column_a_clip_and_the_dtype_of_the_features(name, dtype):
    method = make(name, dtype)
    text, video = text_features(7, dtype), video_features(4, dtype)
    with torch.no_grad():
        t, v = method.encode_text(text), method.encode_video(video)
        score, weight = method.score(t, v), method.explain(t, v)
        coarse_text, coarse_video = method.coarse(t), method.coarse(v)
    assert score.shape == (7, 4) and score.dtype == dtype and score.isfinite().all()
    assert all(len(x) == 7 for x in t.tensors.values()) and all(len(x) == 4 for x in v.tensors.values())
    assert torch.equal(t.key, text.key) and torch.equal(v.key, video.key)

    assert weight.shape == (7, 4, SIZES.frames)
    close(weight.double().sum(-1), torch.ones(7, 4, dtype=torch.float64), 1e-5)
    assert (weight >= 0).all() and (weight[:, ~video.mask()] == 0).all()

    assert coarse_text.shape[0] == 7 and coarse_video.shape[0] == 4 and coarse_text.shape[1] == coarse_video.shape[1]
    for unit in (coarse_text, coarse_video):
        close(unit.double().norm(dim=-1), torch.ones(len(unit), dtype=torch.float64), 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_features_are_scored_in_fp32(name):
    half = [f.map(lambda x: x.half() if x.is_floating_point() else x) for f in (text_features(3), video_features(2))]
    assert scores(make(name, torch.float32), *half).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_a_score_depends_on_its_caption_and_clip_only(name):
    method, text, video = make(name), text_features(7), video_features(6)
    whole = scores(method, text, video)
    for rows, columns in ((1, 1), (3, 4), (7, 1), (1, 6)):
        for i in range(0, 7, rows):
            for j in range(0, 6, columns):
                tile = scores(method, text.rows(slice(i, i + rows)), video.rows(slice(j, j + columns)))
                close(tile, whole[i : i + rows, j : j + columns])
    assert torch.equal(scores(method, text, video), whole)


@pytest.mark.parametrize("name", NAMES)
def test_permuted_items_have_permuted_scores(name):
    method, text, video = make(name), text_features(7), video_features(6)
    of_text, of_video = torch.tensor([3, 0, 6, 2, 5, 1, 4]), torch.tensor([5, 2, 0, 4, 1, 3])
    close(scores(method, text.rows(of_text), video.rows(of_video)), scores(method, text, video)[of_text][:, of_video])


@pytest.mark.parametrize("name", NAMES)
def test_saved_parameters_and_encodings_give_the_same_scores(name, tmp_path):
    method, text, video = make(name), text_features(5), video_features(4)
    torch.save(method.state_dict(), tmp_path / "state.pt")
    other = base.build(name, SIZES).double().eval()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(scores(other, text, video), scores(method, text, video))
    with torch.no_grad():
        t, v = method.encode_text(text), method.encode_video(video)
        again = method.score(Encoding.load(t.save()), Encoding.load(v.save()))
        assert torch.equal(again, method.score(t, v))
        joined = Encoding.cat([v.rows(slice(0, 1)), v.rows(slice(1, 4))])
        assert torch.equal(method.score(t, joined), method.score(t, v))


@pytest.mark.parametrize("name", PADDED)
def test_with_mask_padding_missing_frames_and_pad_tokens_have_no_effect(name):
    method, text, video = make(name, mask_padding=True), text_features(6), video_features(5)
    noise = torch.Generator().manual_seed(9)
    assert text.tokens is not None and not video.mask().all()
    pad = torch.arange(SIZES.words) >= text.n_tokens[:, None]
    tokens = torch.where(pad[..., None], 5 * torch.randn(text.tokens.shape, generator=noise).double(), text.tokens)
    frames = torch.randn(video.frames.shape, generator=noise).double() * 5
    frames = torch.where(video.mask()[..., None], video.frames, frames)
    expected = scores(method, text, video)
    assert expected.isfinite().all()
    changed = dataclasses.replace(text, tokens=tokens), dataclasses.replace(video, frames=frames)
    close(scores(method, *changed), expected)
    absent = torch.where(pad[..., None], 0.0, text.tokens), torch.where(video.mask()[..., None], video.frames, 0.0)
    zeroed = dataclasses.replace(text, tokens=absent[0]), dataclasses.replace(video, frames=absent[1])
    close(scores(method, *zeroed), expected)  # what a ragged store holds in empty slots


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_scores_on_cpu_and_gpu_agree(name):
    method, text, video = make(name, torch.float32), text_features(7, torch.float32), video_features(6, torch.float32)
    expected = scores(method, text, video)
    got = scores(method.cuda(), text.to("cuda"), video.to("cuda")).cpu()
    scale = expected.abs().max().clamp_min(1.0)
    close(got / scale, expected / scale, 1e-4)


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient_or_is_declared_dead(name):
    method = make(name)
    if not list(method.parameters()):
        assert not method.trains
        return
    method.train().loss(batch(), step=0, draws=SeededDraws(seed=0, step=0)).total.backward()
    names = {k for k, _ in method.named_parameters()}
    assert method.dead() <= names, f"dead() names no parameter: {sorted(method.dead() - names)}"
    reached = {k for k, p in method.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-14}
    assert names - method.dead() - reached == set(), "these have no gradient and are not in dead()"
    assert method.dead() & reached == set(), "these are in dead(), but have a gradient"


@pytest.mark.parametrize("name", PADDED)
def test_gradients_with_mask_padding_are_finite(name):
    method = make(name, mask_padding=True)
    if not method.trains:
        return
    method.train().loss(batch(), step=0, draws=SeededDraws(seed=0, step=0)).total.backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_distinct_videos_are_the_papers_loss(name):
    method, pairs = make(name), batch()
    if not method.trains:
        return
    told = dataclasses.replace(pairs, video_id=torch.arange(len(pairs)))
    losses = [copy.deepcopy(method).loss(b, step=0, draws=SeededDraws(seed=0, step=0)) for b in (pairs, told)]
    close(losses[0].total, losses[1].total)
    assert losses[0].parts and all(part.isfinite().all() for part in losses[0].parts.values())
    assert losses[0].total.dim() == 0


@pytest.mark.parametrize("name", NAMES)
def test_eight_pairs_are_overfitted(name):
    method, pairs = make(name, torch.float32, moved=False), batch(8, torch.float32)
    if not method.trains:
        pytest.skip(f"{name}: no trainable parameter reaches the score on frozen features in the default configuration")
    method.init_from_backbone({}, torch.tensor(math.log(20.0)))
    before = perfect(method, pairs)
    optimizer = torch.optim.Adam((p for p in method.parameters() if p.requires_grad), lr=2e-3)
    for step in range(200):
        optimizer.zero_grad()
        method.train().loss(pairs, step=step, draws=SeededDraws(seed=0, step=step)).total.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
        if step % 5 == 4 and perfect(method.eval(), pairs):
            break
    assert not before, "the pairs are too easy to prove anything"
    assert perfect(method.eval(), pairs)


def perfect(method: base.Method, pairs: Batch) -> bool:
    """Whether every caption finds its clip first, and every clip its caption."""
    score, own = scores(method, pairs.text, pairs.video), torch.arange(len(pairs))
    return torch.equal(score.argmax(1), own) and torch.equal(score.argmax(0), own)


# ------------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_survives_being_written_and_read(name):
    cls = base.load_class(name)
    options = dataclasses.asdict(cls.Config())
    read = config.from_tree({"method": {name: options}}, lambda n: base.load_class(n).Config, "here")
    assert cls.Config(**read.experiment.options) == cls.Config()
    again = config.from_tree(read.tree(), lambda n: base.load_class(n).Config, "here")
    assert again.experiment == read.experiment


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_where_it_comes_from(name):
    cls = base.load_class(name)
    assert cls.fidelity and cls.summary and cls.paper
    assert cls.fidelity == "ours" or cls.bibtex, f"{name} has a paper, but no BibTeX"
    for field in dataclasses.fields(cls.Config):
        assert field.metadata.get("source"), f"{name}.{field.name} does not say where its default comes from"
    assert base.build(name, SIZES).cost_per_pair()


@pytest.mark.parametrize("name", NAMES)
def test_the_preset_builds_the_method(name):
    resolved = config.resolve(config.preset_layers("methods", name), lambda n: base.load_class(n).Config)
    assert resolved.experiment.method == name
    assert base.build(name, SIZES, resolved.experiment.options).config == base.load_class(name).Config()
