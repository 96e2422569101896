"""Plausible mistakes in DMAE, NegNCE and TPM-CL."""

from __future__ import annotations

from mutations import Mutation

OP = "kernels/tvr_kernels/dmae/__init__.py"
FOLDED = "kernels/tvr_kernels/dmae/folded.py"
REFERENCE = "kernels/tvr_kernels/dmae/reference.py"
METHOD = "tvr_cli/methods/dmae.py"
TPM = "tvr_cli/methods/_dmae_tpm.py"
NEGNCE = "tvr_cli/nn/negnce.py"

MUTATIONS = [
    Mutation("pads keep their features", OP, old='"rows": words * real[..., None],', new='"rows": words,'),
    Mutation(
        "missing frames keep their features",
        OP,
        old="    frames = frames * mask[..., None]\n",
        new="    frames = frames * 1\n",
    ),
    Mutation("important words count once", OP, old="m = importance.to(words.dtype)", new="m = real.to(words.dtype)"),
    Mutation(
        "learned word weights are renormalised",
        OP,
        old='weight = m * logits.masked_fill(~real, float("-inf")).softmax(1)',
        new='weight = torch.nn.functional.normalize(m * logits.masked_fill(~real, float("-inf")).softmax(1), 1, dim=1)',
    ),
    Mutation("a frame is its own neighbour", OP, old="(frames @ frames.mT * others)", new="(frames @ frames.mT)"),
    Mutation(
        "the neighbour counts in full",
        FOLDED,
        old='closeness = video["closeness"].gather(1, frame) / 2',
        new='closeness = video["closeness"].gather(1, frame)',
    ),
    Mutation(
        "the neighbour's closeness is not trained",
        OP,
        old="return closeness, neighbour\n",
        new="return closeness.detach(), neighbour\n",
    ),
    Mutation(
        "words are summed, frames are not halved", FOLDED, old="(2 * (options.words + options.sentence))", new="2"
    ),
    Mutation(
        "the frame side looks at the sentence twice",
        FOLDED,
        old="        words = table[:, :, first:]\n",
        new="        words = table[:, :, :1]\n",
    ),
    Mutation(
        "the reference takes the mean of the words for each frame",
        REFERENCE,
        old="per_frame.max(-2).values",
        new="per_frame.mean(-2)",
    ),
    Mutation(
        "words are not normalised",
        METHOD,
        old="        words = unit_or_zero(words)\n",
        new="        words = words * 1\n",
    ),
    Mutation(
        "the frame weights ignore the mask",
        OP,
        old='weight = shapes.check("logits", logits, "V F").masked_fill(~mask, float("-inf")).softmax(1)',
        new='weight = shapes.check("logits", logits, "V F").softmax(1)',
    ),
    Mutation(
        "hard negatives are looked for in rows only",
        NEGNCE,
        old="(scores > own[:, None]) | (scores > own[None, :])",
        new="scores > own[:, None]",
    ),
    Mutation("the hard negatives are summed", NEGNCE, old="* hard).sum() / count", new="* hard).sum()"),
    Mutation("probabilities are not clamped", NEGNCE, old=".clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)", new=""),
    Mutation(
        "both terms of NegNCE weigh the same",
        NEGNCE,
        old="t2v = positive_t2v + negative_weight * negative_t2v",
        new="t2v = positive_t2v + negative_t2v",
    ),
    Mutation("the token predictor's GELU is the tanh one", TPM, old="nn.GELU()", new='nn.GELU("tanh")'),
    Mutation("the query comes second", TPM, old="torch.cat([mixed, key], -1)", new="torch.cat([key, mixed], -1)"),
    Mutation("token weights are a softmax", TPM, old="[..., 0].sigmoid()\n", new="[..., 0].exp()\n"),
    Mutation("the crossing token is erased too", TPM, old="ordered.cumsum(1) >=", new="ordered.cumsum(1) - ordered >="),
    Mutation("the least important tokens are erased", TPM, old="descending=True", new="descending=False"),
    Mutation(
        "the erased caption is normalised",
        TPM,
        old="(keep_word[..., None] * weighted).sum(1),",
        new="unit((keep_word[..., None] * weighted).sum(1)),",
    ),
    Mutation(
        "pooled words keep their length",
        TPM,
        old="            unit(weighted.sum(1)),",
        new="            weighted.sum(1),",
    ),
    Mutation(
        "term b takes the sentence",
        TPM,
        old="(whole[0], erased[0]), (whole[1], erased[1]), (whole[1], whole[2])",
        new="(whole[0], erased[0]), (whole[0], erased[0]), (whole[1], whole[2])",
    ),
    Mutation(
        "the margin is doubled",
        TPM,
        old="(self.margin - (positive - negative))",
        new="(2 * self.margin - (positive - negative))",
    ),
]
