"""Plausible mistakes in WTI and its decorrelation."""

from __future__ import annotations

from mutations import Mutation

OP = "kernels/tvr_kernels/dmae/__init__.py"
FOLDED = "kernels/tvr_kernels/dmae/folded.py"
REFERENCE = "kernels/tvr_kernels/dmae/reference.py"
WTI = "kernels/tvr_kernels/wti/__init__.py"
METHOD = "tvr_cli/methods/wti.py"
CDCR = "tvr_cli/methods/_wti_decorrelation.py"

MUTATIONS = [
    Mutation("pads keep their features", OP, old='"rows": words * real[..., None],', new='"rows": words,'),
    Mutation(
        "word weights take pads in",
        OP,
        old='weight = m * logits.masked_fill(~real, float("-inf")).softmax(1)',
        new="weight = m * logits.softmax(1)",
    ),
    Mutation(
        "frame weights take missing frames in",
        OP,
        old='weight = shapes.check("logits", logits, "V F").masked_fill(~mask, float("-inf")).softmax(1)',
        new='weight = shapes.check("logits", logits, "V F").softmax(1)',
    ),
    Mutation(
        "both branches are divided by four",
        FOLDED,
        old="(2 * (options.words + options.sentence))",
        new="4",
    ),
    Mutation(
        "the reference takes the first word for a sentence",
        REFERENCE,
        old="return branch(slice(None), text, video, weights)",
        new="return branch(slice(1, None), text, video, weights)",
    ),
    Mutation("neighbours count", WTI, old="neighbours=False, mask_padding", new="neighbours=True, mask_padding"),
    Mutation(
        "the scorer of words sees unit vectors",
        METHOD,
        old="logits = self.text_weight_fc(words)[..., 0]",
        new="logits = self.text_weight_fc(unit_or_zero(words))[..., 0]",
    ),
    Mutation(
        "the scorer of frames sees unit vectors",
        METHOD,
        old="logits = self.video_weight_fc(frames)[..., 0]",
        new="logits = self.video_weight_fc(directions)[..., 0]",
    ),
    Mutation(
        "the dot product averages frames of any length",
        METHOD,
        old="unit(masked_mean(directions, mask))",
        new="unit(masked_mean(frames, mask))",
    ),
    Mutation(
        "training has no scale",
        METHOD,
        old="info_nce(self.logit_scale.exp() * self.score(text, video)",
        new="info_nce(self.score(text, video)",
    ),
    Mutation(
        "evaluation has the scale",
        METHOD,
        old="return kernel.score(text.tensors, video.tensors, self._options)",
        new="return self.logit_scale.exp() * kernel.score(text.tensors, video.tensors, self._options)",
    ),
    Mutation(
        "decorrelation's weights are not divided by the pairs",
        METHOD,
        old="weight[there] / pairs if weighted",
        new="weight[there] if weighted",
    ),
    Mutation(
        "decorrelation's weights get no gradient",
        METHOD,
        old="weight[there] / pairs if weighted",
        new="weight[there].detach() / pairs if weighted",
    ),
    Mutation(
        "a masked cosine is never matched",
        METHOD,
        old="pads_win = not self.config.mask_padding",
        new="pads_win = False",
    ),
    Mutation(
        "each word is matched with a frame's word", CDCR, old="return table.argmax(2)", new="return table.argmin(2)"
    ),
    Mutation("deviations are biased", CDCR, old="x.std(0)", new="x.std(0, correction=0)"),
    Mutation("columns keep their mean", CDCR, old="(x - x.mean(0))", new="x"),
    Mutation(
        "both sides are summed",
        CDCR,
        old="[(a * b).sum(0) for a, b in standard]).mean(0)",
        new="[(a * b).sum(0) for a, b in standard]).sum(0)",
    ),
    Mutation(
        "the diagonal should be zero",
        CDCR,
        old="    diagonal = whole.diagonal()\n    beside",
        new="    diagonal = whole.diagonal() + 1\n    beside",
    ),
    Mutation("the diagonal counts beside itself", CDCR, old=" - diagonal.square().sum()\n", new="\n"),
]
