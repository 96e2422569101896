"""Mistakes in CLIP4Clip's sequential heads, and in meanP, that the golden tests must catch."""

from __future__ import annotations

from mutations import Mutation

METHOD = "tvr_cli/methods/clip4clip_seq.py"
MEAN = "tvr_cli/methods/mean.py"
BASE = "tvr_cli/methods/base.py"
TEMPORAL = "tvr_cli/nn/temporal.py"
LOSSES = "tvr_cli/nn/losses.py"

MUTATIONS = [
    Mutation("the clip's mean is not normalised", METHOD, '"video": unit(masked_mean(', '"video": (masked_mean('),
    Mutation(
        "frames are averaged before they are normalised",
        METHOD,
        "frames = unit(z.masked_fill(~mask[..., None], 1.0))",
        "frames = z.masked_fill(~mask[..., None], 1.0)",
    ),
    Mutation(
        "missing frames are averaged too", METHOD, "masked_mean(frames, mask)", "masked_mean(frames, mask | True)"
    ),
    Mutation("the caption is not normalised", METHOD, '"text": unit(', '"text": ('),
    Mutation("the scale is no factor of the score", METHOD, "self.logit_scale.exp() * (", "1.0 * ("),
    Mutation("the scale is its logarithm", METHOD, "self.logit_scale.exp() * (", "self.logit_scale * ("),
    Mutation("the LSTM has no residual", METHOD, "return frames + hidden", "return hidden"),
    Mutation(
        "the LSTM runs over missing frames, from the end",
        METHOD,
        "packed = pack_padded_sequence(frames, lengths",
        "packed = pack_padded_sequence(frames.flip(1), lengths",
    ),
    Mutation("the LSTM sees the first frame alone", METHOD, "mask.sum(1).clamp_min(1)", "mask.sum(1).clamp(1, 1)"),
    Mutation(
        "the LSTM is bidirectional in effect: its outputs are turned",
        METHOD,
        "return frames + hidden",
        "return frames + hidden.flip(1)",
    ),
    Mutation("one direction of the loss", METHOD, "LossOutput(found.total", "LossOutput(found.t2v"),
    Mutation("the mean of both directions is their sum", LOSSES, "(t2v + v2t) / 2", "(t2v + v2t)"),
    Mutation("CLIP's eps in the temporal LayerNorms", TEMPORAL, "LAYER_NORM_EPS = 1e-12", "LAYER_NORM_EPS = 1e-3"),
    Mutation("missing frames are attended to", TEMPORAL, "MASKED_KEY_BIAS = -1e6", "MASKED_KEY_BIAS = 0.0"),
    Mutation("no residual around the transformer", TEMPORAL, "return frames + transformer(", "return transformer("),
    Mutation(
        "no positions",
        TEMPORAL,
        "transformer(frames + positions.weight",
        "transformer(frames + 0 * positions.weight",
    ),
    Mutation("exact GELU", TEMPORAL, "hidden * torch.sigmoid(1.702 * hidden)", "F.gelu(hidden)"),
    Mutation(
        "meanP averages missing frames too",
        MEAN,
        "masked_mean(frames, video.mask())",
        "masked_mean(frames, video.mask() | True)",
    ),
    Mutation("meanP's mean frame is not normalised", MEAN, "pooled = unit(masked_mean(", "pooled = (masked_mean("),
    Mutation(
        "the mean divides by all slots and shifts",
        BASE,
        "/ weight.sum(1).clamp_min(torch.finfo(x.dtype).tiny)",
        "/ weight.shape[1] + 1e-3",
    ),
]
