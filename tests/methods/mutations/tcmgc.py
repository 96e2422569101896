"""Mistakes in TC-MGC that its golden tests must catch."""

from __future__ import annotations

from mutations import Mutation

INIT = "kernels/tvr_kernels/tcmgc/__init__.py"
REFERENCE = "kernels/tvr_kernels/tcmgc/reference.py"
FOLDED = "kernels/tvr_kernels/tcmgc/folded.py"
DROPOUT = "kernels/tvr_kernels/tcmgc/dropout.py"
RANKS = "kernels/tvr_kernels/tcmgc/ranks.py"
METHOD = "tvr_cli/methods/tcmgc.py"

MUTATIONS = [
    Mutation("text left out of the first LayerNorm", INIT, '"query": norm1(stacked, weights)', '"query": stacked'),
    Mutation("temporal LayerNorm eps in LVA", INIT, "LAYER_NORM_EPS = 1e-5", "LAYER_NORM_EPS = 1e-12"),
    Mutation(
        "linear layer transposed in the folded form",
        INIT,
        "scaled + scaled @ w.linear_weight.T",
        "scaled + scaled @ w.linear_weight",
    ),
    Mutation("residual of LVA left out", REFERENCE, "layer_norm(u + branch,", "layer_norm(branch,"),
    Mutation(
        "third LayerNorm left out",
        REFERENCE,
        "return layer_norm(u + branch, (size,), w.norm3_weight, w.norm3_bias, LAYER_NORM_EPS)",
        "return u + branch",
    ),
    Mutation("attention scaled by the whole width", REFERENCE, "/ (size // w.heads) ** 0.5", "/ size**0.5"),
    Mutation("attention scaled by the whole width, folded", FOLDED, "(size // weights.heads) ** 0.5", "size**0.5"),
    Mutation("shared shift dropped", FOLDED, "inverse2 * squares[:, 1] + 2 * linear[:, 0]", "inverse2 * squares[:, 1]"),
    Mutation("length without the bias", FOLDED, "+ bias_square", "+ 0 * bias_square"),
    Mutation("shared vectors not through the word map", INIT, "constant @ weights.local_map.T", "constant"),
    Mutation(
        "rows before columns",
        RANKS,
        'by_column = descending(_filled(dots.frame_word, slots, float("-inf")), kept, -2)',
        'by_column = descending(_filled(dots.frame_word, slots, float("-inf")).mT, kept, -2)',
    ),
    Mutation(
        "second softmax of isa left out",
        RANKS,
        'alpha = _filled((first @ mixing) * sharpness, real, float("-inf")).softmax(-1)',
        "alpha = first @ mixing",
    ),
    Mutation("mixing transposed", RANKS, "(first @ mixing) * sharpness", "(first @ mixing.T) * sharpness"),
    Mutation(
        "the rest sharpened",
        RANKS,
        "weight = rest.clamp_min(lowest).softmax(-1)",
        "weight = (100 * rest.clamp_min(lowest)).softmax(-1)",
    ),
    Mutation("the rest averaged with the best in it", RANKS, "rest = ordered[..., kept:]", "rest = ordered"),
    Mutation(
        "ranks in ascending order",
        RANKS,
        "return ranked\n\n    @staticmethod",
        "return ranked.flip(dim)\n\n    @staticmethod",
    ),
    Mutation(
        "frame-word not halved",
        RANKS,
        "w.then_words, w.sharpness, rank)\n    ) / 2",
        "w.then_words, w.sharpness, rank)\n    )",
    ),
    Mutation("fusion matrix transposed", INIT, '"mtv,mn->ntv"', '"mtv,nm->ntv"'),
    Mutation(
        "fusion on unscaled similarities",
        FOLDED,
        "fuse(similarities(text, video, weights) * weights.scale, weights.fusion)",
        "weights.scale * fuse(similarities(text, video, weights), weights.fusion)",
    ),
    Mutation("variance biased", METHOD, "scaled.var(0).diagonal(", "scaled.var(0, correction=0).diagonal("),
    Mutation(
        "variance over all pairs",
        METHOD,
        "scaled.var(0).diagonal(share.first).sum() / share.size",
        "scaled.var(0).mean()",
    ),
    Mutation(
        "variance on unscaled similarities",
        METHOD,
        "scaled.var(0).diagonal(share.first)",
        "(scaled / self.logit_scale.exp()).var(0).diagonal(share.first)",
    ),
    Mutation(
        "kept entries not divided", DROPOUT, "@ weights.linear_weight.T / (1 - rate)", "@ weights.linear_weight.T"
    ),
    Mutation(
        "dropout on the sum",
        DROPOUT,
        "u + w.norm2_bias + (branch + constant) * kept",
        "(u + w.norm2_bias + branch + constant) * kept",
    ),
    Mutation(
        "biases of the linear branch not dropped",
        DROPOUT,
        "(branch + constant) * kept",
        "branch * kept + constant * (1 - rate)",
    ),
    Mutation(
        "missing frames masked by default",
        METHOD,
        "mask if self.config.mask_padding else None)\n        return Encoding(key",
        "mask)\n        return Encoding(key",
    ),
    Mutation(
        "scale detached",
        METHOD,
        "return self.logit_scale.exp() * kernel.similarities(",
        "return self.logit_scale.exp().detach() * kernel.similarities(",
    ),
]
