"""What DMAE's golden vectors do not reach: its options on CLIP features, frozen training, NegNCE by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from golden import RecordedDraws

from tvr_cli import config
from tvr_cli.config import TrainConfig
from tvr_cli.engine.training.assemble import require_trainable
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.methods import base
from tvr_cli.methods._dmae_tpm import Eraser
from tvr_cli.methods.dmae import Method
from tvr_cli.nn.negnce import hard_negatives, neg_nce
from tvr_cli.types import Batch, Sizes, TextFeatures, VideoFeatures

SIZES = Sizes(dim=64, frames=5, words=7)


def make(**options):
    torch.manual_seed(0)
    return Method(Method.Config(**options), SIZES).double()


def batch(count=8, words=7, frames=5, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    content = draw(count, 1, 64)
    n_tokens = torch.randint(3, words + 1, (count,), generator=generator)
    n_frames = torch.randint(1, frames + 1, (count,), generator=generator)
    real = torch.arange(words) < n_tokens[:, None]
    importance = real.long() * torch.randint(1, 3, (count, words), generator=generator)
    importance[:, 0] = 1
    tokens = 0.3 * content + draw(count, words, 64)
    text = TextFeatures(torch.arange(count), tokens[:, 0], tokens, n_tokens, importance.to(torch.uint8))
    video = VideoFeatures(
        torch.arange(count), 0.3 * content + draw(count, frames, 64), n_frames, torch.zeros(count, frames)
    )
    return Batch(text, video)


OPTIONS = [
    {"interaction": i, "temporal": t, "partial_type": p, "weight_layers": w}
    for i, t, p, w in itertools.product(
        ["ti", "wti", "att_ti", "att_wti"], ["meanP", "seqTransf"], [-1, 2, 3, 4], [1, 3]
    )
    if w == 1 or i.endswith("wti")
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_every_parameter_has_a_gradient_or_is_dead(options):
    # Scores that leave the clamp of NegNCE have no gradient (Q6); a small scale keeps them inside.
    method = make(temporal_layers=1, temporal_init="backbone", normalize="behind-head", scale=5.0, **options)
    out = method.loss(batch(), step=0, draws=RecordedDraws())
    assert ("tpm" in out.parts) == (options["partial_type"] > 0)
    if list(method.parameters()) and out.total.requires_grad:
        out.total.backward()
    reached = {k for k, p in method.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-14}
    assert {k for k, _ in method.named_parameters()} - reached == method.dead()
    assert method.trains == (options["interaction"].endswith("wti") or options["temporal"] == "seqTransf")


def test_features_needed_follow_the_options():
    assert make().needs == {"frames", "pooled", "tokens", "importance"}
    assert make(word_importance=False).needs == {"frames", "pooled", "tokens"}
    assert make(interaction="ti", partial_type=-1).needs == {"frames", "pooled"}
    assert make(interaction="ti").needs == {"frames", "pooled", "tokens", "importance"}  # TPM-CL pools words


def test_pooled_captions_alone_suffice_for_the_sentence_branch():
    method, pairs = make(interaction="ti", partial_type=-1), batch()
    bare = TextFeatures(pairs.text.key, pairs.text.pooled, None, pairs.text.n_tokens)
    got = method.score(method.encode_text(bare), method.encode_video(pairs.video))
    expected = method.score(method.encode_text(pairs.text), method.encode_video(pairs.video))
    torch.testing.assert_close(got, expected)


def test_important_words_count_double():
    pairs = batch()
    with_clue, without = make(), make(word_importance=False)
    video = with_clue.encode_video(pairs.video)
    a, b = with_clue.encode_text(pairs.text), without.encode_text(pairs.text)
    ratio = a["weight"][:, 1:] / b["weight"][:, 1:]
    importance = pairs.text.importance
    assert any({1, 2} <= set(row.tolist()) for row in importance), "no caption has words of both kinds"
    for found, marks in zip(ratio, importance, strict=True):
        share = found[marks > 0] / marks[marks > 0]  # what is left of 1 and 2: the sum that the row was divided by
        torch.testing.assert_close(share, share[:1].expand_as(share))
    assert not torch.equal(with_clue.score(a, video), without.score(b, video))


def test_the_frozen_preset_overfits_eight_pairs():
    resolved = config.resolve(config.preset_layers("methods", "dmae-frozen"), lambda n: base.load_class(n).Config)
    torch.manual_seed(0)
    method = Method(Method.Config(**resolved.experiment.options), SIZES)
    assert method.trains and method.needs == {"frames", "pooled", "tokens"}
    pairs = batch(seed=3)
    text, video = (f.map(lambda x: x.float() if x.is_floating_point() else x) for f in (pairs.text, pairs.video))
    pairs = Batch(text, video)
    optimizer = torch.optim.Adam(method.parameters(), lr=2e-3)

    def perfect():
        with torch.no_grad():
            score = method.score(method.encode_text(text), method.encode_video(video))
        own = torch.arange(len(pairs))
        return torch.equal(score.argmax(1), own) and torch.equal(score.argmax(0), own)

    assert not perfect()
    for step in range(200):
        optimizer.zero_grad()
        method.loss(pairs, step=step, draws=RecordedDraws()).total.backward()
        optimizer.step()
        if perfect():
            return
    raise AssertionError("200 steps do not fit 8 pairs")


def test_short_features_are_padded_for_the_predictors_and_long_ones_refused():
    method = make()
    short, padded = batch(words=5, frames=3), batch(words=5, frames=3)
    out = method.loss(short, step=0, draws=RecordedDraws())
    pad = torch.nn.functional.pad
    text = TextFeatures(
        padded.text.key, padded.text.pooled, pad(padded.text.tokens, (0, 0, 0, 2)), padded.text.n_tokens,
        pad(padded.text.importance, (0, 2)),
    )  # fmt: skip
    frames = pad(padded.video.frames, (0, 0, 0, 2))
    video = VideoFeatures(padded.video.key, frames, padded.video.n_frames, torch.zeros(frames.shape[:2]))
    same = method.loss(Batch(text, video), step=0, draws=RecordedDraws())
    torch.testing.assert_close(out.parts["tpm"], same.parts["tpm"])
    with pytest.raises(DataError, match="built for 7 words and 5 frames, the batch has 9 and 5"):
        method.loss(batch(words=9), step=0, draws=RecordedDraws())


def test_eraser_keeps_the_token_that_crosses_the_share():
    weight = torch.tensor([[0.1, 0.5, 0.15, 0.25], [0.7, 0.1, 0.1, 0.1]])
    assert Eraser(0.6)(weight).tolist() == [[1, 0, 1, 1], [1, 1, 1, 1]]


def test_negnce_of_a_matrix_that_a_reader_can_check():
    """Scale 1: row 1 and column 0 are beaten by the cell (1, 0)."""
    scores = torch.tensor([[0.0, -1.0], [0.5, 0.0]], dtype=torch.float64)
    assert hard_negatives(scores).tolist() == [[False, False], [True, False]]
    found = neg_nce(scores, scale=1.0)

    def p(own, other):
        return math.exp(own) / (math.exp(own) + math.exp(other))

    t2v = -(math.log(p(0, -1)) + math.log(p(0, 0.5))) / 2 - 0.5 * math.log(1 - p(0.5, 0))
    v2t = -(math.log(p(0, 0.5)) + math.log(p(0, -1))) / 2 - 0.5 * math.log(1 - p(0.5, 0))
    assert found.t2v.item() == pytest.approx(t2v) and found.v2t.item() == pytest.approx(v2t)
    assert found.total.item() == pytest.approx((t2v + v2t) / 2)


def test_without_hard_negatives_negnce_is_infonce():
    scores = torch.eye(4, dtype=torch.float64)
    found = neg_nce(scores, scale=3.0)
    assert found.negative_t2v.item() == 0 and found.negative_v2t.item() == 0
    assert found.total.item() == pytest.approx(-math.log(math.exp(3) / (math.exp(3) + 3)))


def test_other_captions_of_a_video_are_no_hard_negatives():
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 0.5]], dtype=torch.float64)
    same = torch.tensor([0, 0, 1])
    positives = same[:, None] == same
    assert hard_negatives(scores).any() and not hard_negatives(scores, positives).any()
    told, papers = neg_nce(scores, positives=positives), neg_nce(scores)
    assert told.total < papers.total and told.negative_t2v.item() == 0


def test_training_the_papers_form_on_frozen_features_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"dmae has nothing to train .* tvr train --method dmae-frozen"):
        require_trainable("dmae", {}, TrainConfig(tune="head"))
    require_trainable("dmae", {}, TrainConfig(tune="full"))
    require_trainable("dmae", {"interaction": "att_wti"}, TrainConfig(tune="head"))
