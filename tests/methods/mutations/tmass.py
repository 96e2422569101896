"""Mistakes in T-MASS that its golden tests must catch."""

from __future__ import annotations

from mutations import Mutation

METHOD = "tvr_cli/methods/tmass.py"
TRIALS = "tvr_cli/methods/_tmass_trials.py"
RADIUS = "kernels/tvr_kernels/eaglenet/reference.py"
BLOCK = "tvr_cli/nn/xpool.py"
FOLDED = "kernels/tvr_kernels/xpool/folded.py"

MUTATIONS = [
    Mutation("the mean of the trials in place of the best", TRIALS, "head, s).amax(-1)", "head, s).mean(-1)"),
    Mutation("the cross term of the length is counted once", TRIALS, "+ 2 * across + squares", "+ across + squares"),
    Mutation("the draw's square is left out of the length", TRIALS, "+ 2 * across + squares", "+ 2 * across"),
    Mutation("the radius is its logarithm", TRIALS, ", *head.radius).exp()", ", *head.radius)"),
    Mutation(
        "the radius sees dot products", TRIALS, '(text["unit"] @ video["frames"]', '(text["text"] @ video["frames"]'
    ),
    Mutation(
        "the pooled vector is not normalised",
        TRIALS,
        "unit(xpool.pooled(text, video, head.pool))",
        "xpool.pooled(text, video, head.pool)",
    ),
    Mutation(
        "both rules are one", TRIALS, "trials(t, v, head, drawn, target).gather", "trials(t, v, head, drawn).gather"
    ),
    Mutation(
        "by the released rule the best trial is chosen against the clip's own caption",
        TRIALS,
        "chosen = trials(t, v, head, drawn).argmax",
        "chosen = trials(t, v, head, drawn, target).argmax",
    ),
    Mutation(
        "a clip's own caption is another's",
        METHOD,
        'self.pool_frames(own["text"][None]',
        'self.pool_frames(own["text"].flip(0)[None]',
    ),
    Mutation("the candidate leaves the caption out", METHOD, "candidate = text + self", "candidate = 0 * text + self"),
    Mutation("the normal prior has deviation one", METHOD, "self.config.prior_std * share.own", "1.0 * share.own"),
    Mutation(
        "the middle is of unit vectors, as EagleNet has it",
        METHOD,
        "share.own(share.sum(pooled.sum(0)))",
        "share.own(share.sum(unit(pooled).sum(0)))",
    ),
    Mutation("the support text points away", METHOD, "unit(middle - text)", "unit(text - middle)"),
    Mutation("the support text has no radius", METHOD, "support = text + around * unit", "support = text + unit"),
    Mutation(
        "no gradient reaches the radius",
        METHOD,
        "self.stochastic.tensors()).exp()",
        "self.stochastic.tensors()).exp().detach()",
    ),
    Mutation("the middle is detached", METHOD, "unit(middle - text)", "unit(middle.detach() - text)"),
    Mutation("the support loss has full weight", METHOD, "sim + self.config.support_weight * edge", "sim + edge"),
    Mutation(
        "the radius has no bias in training",
        RADIUS,
        "F.linear(cosines.masked_fill(~real, 0.0), *weights)",
        "F.linear(cosines.masked_fill(~real, 0.0), weights[0])",
    ),
    Mutation(
        "the pooled vector misses the last shift",
        FOLDED,
        "* inverse3[..., None] + weights.norm3_bias",
        "* inverse3[..., None]",
    ),
    Mutation("kept values are not scaled up", BLOCK, ".to(frames) / (1 - drop)", ".to(frames)"),
]
