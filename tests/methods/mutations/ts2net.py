"""Mistakes in TS2-Net that its golden tests must catch."""

from __future__ import annotations

from mutations import Mutation

METHOD = "tvr_cli/methods/ts2net.py"
SELECTION = "tvr_cli/methods/_ts2net_selection.py"
TEMPORAL = "tvr_cli/nn/temporal.py"
SHIFT = "tvr_cli/backbones/openclip/temporal_shift.py"

MUTATIONS = [
    Mutation("the chosen patches stand by score, not by place", SELECTION, ".indices.sort(dim=-1).values", ".indices"),
    Mutation("a score knows nothing of its frame", SELECTION, "own[..., :1, :].expand_as(own)", "own"),
    Mutation("the class token stands before the token itself", SELECTION, "cat([own, whole]", "cat([whole, own]"),
    Mutation("the noise has deviation one", SELECTION, "+ std * noise", "+ noise"),
    Mutation("no noise", SELECTION, "+ std * noise.to(scores)", "+ 0 * noise.to(scores)"),
    Mutation("no gradient reaches the scores", SELECTION, "(grads[0] * estimate)", "(0 * grads[0] * estimate)"),
    Mutation("the gradient is not divided by the deviation", SELECTION, "/ (rows * std)", "/ rows"),
    Mutation("the class token can be chosen too", SELECTION, "(tokens)[:, :, 1:]", "(tokens)[:, :, :-1]"),
    Mutation("scores without the last tanh", SELECTION, ", nn.Tanh()", ""),
    Mutation(
        "only the class token is kept", SELECTION, "chosen.to(patches.dtype) @ patches", "0 * patches[:, :, :self.kept]"
    ),
    Mutation(
        "the mask of frames is aligned with their tokens", METHOD, "if self.config.mask_padding else", "if True else"
    ),
    Mutation("missing frames are weighed", METHOD, 'scaled.masked_fill(~seen, float("-inf"))', "scaled"),
    Mutation(
        "the last token of a frame stands for it",
        METHOD,
        "mixed[:, :: kept.shape[2]]",
        "mixed[:, kept.shape[2] - 1 :: kept.shape[2]]",
    ),
    Mutation(
        "cosines are not divided by their length",
        METHOD,
        "SHARPNESS * cosines / length.clamp_min",
        "SHARPNESS * cosines / torch.ones_like(length).clamp_min",
    ),
    Mutation("the length is of all slots", METHOD, "cosines.masked_fill(~seen, 0).norm", "cosines.norm"),
    Mutation("another sharpness", METHOD, "SHARPNESS = 4.0", "SHARPNESS = 5.0"),
    Mutation(
        "frames are weighed equally",
        METHOD,
        "(weights * cosines).sum(-1)",
        "(weights.gt(0) * cosines / weights.gt(0).sum(-1, keepdim=True)).sum(-1)",
    ),
    Mutation("scores without the logit scale", METHOD, "self.logit_scale.exp() * (weights", "(weights"),
    Mutation("frames keep their length", METHOD, "frames = unit(z", "frames = (z"),
    Mutation("no residual around the transformer", TEMPORAL, "return frames + transformer(", "return transformer("),
    Mutation("no positions", TEMPORAL, "frames + positions.weight[:slots]", "frames + 0 * positions.weight[:slots]"),
    Mutation(
        "the shift goes the other way",
        SHIFT,
        "torch.where(from_previous[:, None], previous, clips)",
        "torch.where(from_previous[:, None], following, clips)",
    ),
    Mutation("the class token moves too", SHIFT, "(index >= 1) & ((index - 1) % step == 0)", "(index % step == 0)"),
]
