"""Plausible mistakes in GARE."""

from __future__ import annotations

from mutations import Mutation

SIDES = "kernels/tvr_kernels/gare/_sides.py"
OP = "kernels/tvr_kernels/gare/__init__.py"
FOLDED = "kernels/tvr_kernels/gare/folded.py"
INCREMENTS = "kernels/tvr_kernels/gare/increments.py"
REFERENCE = "kernels/tvr_kernels/gare/reference.py"
METHOD = "tvr_cli/methods/gare.py"
TERMS = "tvr_cli/methods/_gare_regularisers.py"

MUTATIONS = [
    Mutation(
        "the increment sees real frames only",
        METHOD,
        old="return mask if self.config.mask_padding else torch.ones_like(mask)",
        new="return mask",
    ),
    Mutation(
        "the gap is caption minus clip", REFERENCE, old="- text[:, None]  # [T, V, D]", new="* -1 + text[:, None]"
    ),
    Mutation(
        "the gap does not reach the caption's gradient",
        INCREMENTS,
        old="unflatten(0, columns.shape[:2])  # [V, F + 1, T]",
        new="detach().unflatten(0, columns.shape[:2])",
    ),
    Mutation(
        "the variance of the gap is the unbiased one",
        SIDES,
        old="variance=gap.square().mean(-1)",
        new="variance=gap.square().sum(-1) / (gap.shape[-1] - 1)",
    ),
    Mutation(
        "the frames miss the LayerNorm",
        SIDES,
        old="return layer_norm(frames, frames.shape[-1:], w.norm1_weight, w.norm1_bias, LAYER_NORM_EPS)",
        new="return frames",
    ),
    Mutation(
        "the query bias is forgotten",
        SIDES,
        old="(w.query_weight @ w.norm1_bias + w.query_bias)",
        new="(w.query_weight @ w.norm1_bias)",
    ),
    Mutation("the query map is transposed", SIDES, old="(keys @ w.query_weight)", new="(keys @ w.query_weight.T)"),
    Mutation("the output projection has no bias", SIDES, old="@ w.out_weight.T + w.out_bias)", new="@ w.out_weight.T)"),
    Mutation(
        "the residual is dropped",
        OP,
        old="centre(scaled + scaled @ w.linear_weight.T)",
        new="centre(scaled @ w.linear_weight.T)",
    ),
    Mutation(
        "the attention is scaled for eight heads",
        SIDES,
        old="kappa = centre(w.norm1_weight * (keys @ w.query_weight)) / size**0.5",
        new="kappa = centre(w.norm1_weight * (keys @ w.query_weight)) / (size / 8) ** 0.5",
    ),
    Mutation("the increment is not added", METHOD, old="(text[:, None] + delta)", new="(text[:, None] + 0 * delta)"),
    Mutation(
        "the pooling temperature is applied as a factor",
        FOLDED,
        old=".detach()) / temperature).exp()",
        new=".detach()) * temperature).exp()",
    ),
    Mutation(
        "missing frames are pooled",
        FOLDED,
        old='masked = logits.masked_fill(~mask[..., None], float("-inf"))',
        new="masked = logits",
    ),
    Mutation("dropout is not inverted", INCREMENTS, old=" / (1 - drop)\n", new="\n"),
    Mutation("LN3 comes before the dropout branch", INCREMENTS, old="layer_norm(n + residual,", new="layer_norm(n,"),
    Mutation("the deviation over captions is biased", TERMS, old="delta.std(0)", new="delta.std(0, correction=0)"),
    Mutation(
        "the folded deviation is biased",
        TERMS,
        old="share.sum(centred @ centred.mT) / (share.size - 1)",
        new="share.sum(centred @ centred.mT) / share.size",
    ),
    Mutation(
        "the bottleneck averages over features", TERMS, old="2 * std.log()).sum(-1)", new="2 * std.log()).mean(-1)"
    ),
    Mutation(
        "the diversity leaves the diagonal out",
        TERMS,
        old="(-sharpness * (1 - cosines)).exp().mean((1, 2))",
        new="((-sharpness * (1 - cosines)).exp().sum((1, 2)) - clips) / (clips * (clips - 1))",
    ),
    Mutation("the spread is over captions", TERMS, old="increments.radius.var(1)", new="increments.radius.var(0)"),
    Mutation(
        "the gate of the norm term is missing",
        TERMS,
        old="torch.where(value >= -lower, value,",
        new="torch.where(value <= 0, value,",
    ),
    Mutation(
        "only captions look for clips",
        METHOD,
        old="            contrastive.total\n",
        new="            contrastive.t2v\n",
    ),
    Mutation(
        "the bottleneck has the direction's weight",
        METHOD,
        old="+ config.bottleneck_weight * bottleneck",
        new="+ config.direction_weight * bottleneck",
    ),
    Mutation(
        "the scale is not exponentiated", METHOD, old="self.logit_scale.exp() * scores", new="self.logit_scale * scores"
    ),
]
