"""Mistakes in X-Pool that its golden tests must catch."""

from __future__ import annotations

from mutations import Mutation

METHOD = "tvr_cli/methods/xpool.py"
BLOCK = "tvr_cli/nn/xpool.py"
SIDES = "kernels/tvr_kernels/xpool/_sides.py"
FOLDED = "kernels/tvr_kernels/xpool/folded.py"
REFERENCE = "kernels/tvr_kernels/xpool/reference.py"
LOSSES = "tvr_cli/nn/losses.py"
OPTIMISERS = "tvr_cli/engine/training/optimisers.py"

MUTATIONS = [
    Mutation("the caption misses the LayerNorm", BLOCK, "(self.layer_norm1(text))", "(text)"),
    Mutation("the values miss the LayerNorm", BLOCK, '["v_proj"](self.layer_norm1(frames))', '["v_proj"](frames)'),
    Mutation(
        "attention is scaled for the whole width whatever the heads",
        BLOCK,
        "query, keys) / keys.shape[-1] ** 0.5",
        "query, keys) / text.shape[-1] ** 0.5",
    ),
    Mutation("the linear branch has no residual", BLOCK, "self.layer_norm3(out + (", "self.layer_norm3(0 * out + ("),
    Mutation(
        "dropout falls on the sum",
        BLOCK,
        "self.layer_norm3(out + (branch if linear_keep is None else branch * linear_keep))",
        "self.layer_norm3((out + branch) * (1.0 if linear_keep is None else linear_keep))",
    ),
    Mutation("kept values are not scaled up", BLOCK, ".to(frames) / (1 - drop)", ".to(frames)"),
    Mutation(
        "the mask belongs to clip and caption",
        BLOCK,
        "branch if linear_keep is None else branch * linear_keep)",
        "branch if linear_keep is None else branch * linear_keep.transpose(0, 1))",
    ),
    Mutation("CLIP4Clip's eps", BLOCK, "LAYER_NORM_EPS = 1e-5", "LAYER_NORM_EPS = 1e-2"),
    Mutation(
        "the query is mapped by the key's matrix",
        BLOCK,
        'query_weight=own["cross_attn.q_proj.weight"]',
        'query_weight=own["cross_attn.k_proj.weight"]',
    ),
    Mutation(
        "the second LayerNorm has the third one's gain",
        BLOCK,
        'norm2_weight=own["layer_norm2.weight"]',
        'norm2_weight=own["layer_norm3.weight"]',
    ),
    Mutation(
        "the key map is transposed",
        SIDES,
        "matmul(w.query_weight.T, w.key_weight)",
        "matmul(w.query_weight, w.key_weight)",
    ),
    Mutation(
        "the query bias is forgotten",
        SIDES,
        "((kappa @ (w.query_bias @ w.key_weight)",
        "((0 * kappa @ (w.query_bias @ w.key_weight)",
    ),
    Mutation("the last LayerNorm has no shift", FOLDED, '* inverse3 + text["bias"]', "* inverse3"),
    Mutation(
        "the reference's values are unmapped",
        REFERENCE,
        "v = linear(normed, w.value_weight, w.value_bias)",
        "v = normed",
    ),
    Mutation("the pooled vector is not normalised", METHOD, "unit(text), unit(pooled)", "unit(text), pooled"),
    Mutation(
        "the scale is left out of the loss", METHOD, "self.logit_scale.exp() * self.cosines", "1.0 * self.cosines"
    ),
    Mutation("one direction of the loss", LOSSES, "(t2v + v2t) / 2", "t2v"),
]
