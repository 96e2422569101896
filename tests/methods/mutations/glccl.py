"""Mistakes in GLCCL that its golden tests must catch."""

from __future__ import annotations

from mutations import Mutation

INIT = "kernels/tvr_kernels/glccl/__init__.py"
REFERENCE = "kernels/tvr_kernels/glccl/reference.py"
FOLDED = "kernels/tvr_kernels/glccl/folded.py"
METHOD = "tvr_cli/methods/glccl.py"
TEMPORAL = "tvr_cli/nn/temporal.py"
LOSSES = "tvr_cli/nn/losses.py"

MUTATIONS = [
    Mutation(
        "sentence map transposed", INIT, "query[:, -1] @ weights.global_map", "query[:, -1] @ weights.global_map.T"
    ),
    Mutation(
        "word map transposed in the folded form", INIT, "frames @ weights.local_map.T", "frames @ weights.local_map"
    ),
    Mutation(
        "word map transposed in the reference", REFERENCE, "words @ weights.local_map", "words @ weights.local_map.T"
    ),
    Mutation(
        "frames normalised before pooling",
        REFERENCE,
        "    logits = torch.einsum(",
        "    frames = normalize(frames, dim=-1)\n    logits = torch.einsum(",
    ),
    Mutation(
        "pooling softmax on unit words",
        FOLDED,
        'text["norm"] / weights.temperature',
        '1.0 / weights.temperature * torch.ones_like(text["norm"])',
    ),
    Mutation(
        "pooled vectors not normalised",
        FOLDED,
        "return (flat / length).view_as(weight)",
        "return (flat / flat.sum(1, keepdim=True)).view_as(weight)",
    ),
    Mutation(
        "Gram matrix detached", FOLDED, 'torch.bmm(video["gram"], flat)', 'torch.bmm(video["gram"].detach(), flat)'
    ),
    Mutation(
        "isa weights transposed matrix",
        REFERENCE,
        "return (((m / temperature).softmax(-1) @ mixing) * m).sum(-1)",
        "return (((m / temperature).softmax(-1) @ mixing.T) * m).sum(-1)",
    ),
    Mutation(
        "attention over words and frame slots swapped",
        FOLDED,
        "frame_left = (attention(matrix, -2, temperature, rows) * mixed).sum(-2)",
        "frame_left = (attention(matrix, -1, temperature, rows) * mixed).sum(-1)",
    ),
    Mutation(
        "second softmax added to isa",
        REFERENCE,
        "return (((m / temperature).softmax(-1) @ mixing) * m).sum(-1)",
        "return ((((m / temperature).softmax(-1) @ mixing) / temperature).softmax(-1) * m).sum(-1)",
    ),
    Mutation(
        "last two matrices swapped",
        METHOD,
        "then_frames=self.word_frame_mat_weight2,\n            then_words=self.word_mat_weight2,",
        "then_frames=self.word_mat_weight2,\n            then_words=self.word_frame_mat_weight2,",
    ),
    Mutation("frame-word not halved", FOLDED, "(over_frames + over_words) / 2", "(over_frames + over_words)"),
    Mutation(
        "missing frames masked by default",
        METHOD,
        "mask if self.config.mask_padding else None)\n        return Encoding(key",
        "mask)\n        return Encoding(key",
    ),
    Mutation(
        "logit scale detached",
        METHOD,
        "return self.logit_scale.exp() * kernel.similarities(",
        "return self.logit_scale.exp().detach() * kernel.similarities(",
    ),
    Mutation("biased variance", METHOD, "variance = scaled.var(0)", "variance = scaled.var(0, correction=0)"),
    Mutation(
        "negatives averaged over negatives only",
        METHOD,
        "(variance * others).sum() / share.size**2",
        "(variance * others).sum() / others.sum()",
    ),
    Mutation(
        "gradient through the negatives cut",
        METHOD,
        "ratio = above / below if",
        "ratio = above / below.detach() if",
    ),
    Mutation(
        "csc left out of the total",
        METHOD,
        'contrastive.total + self.config.csc_weight * consistency["csc"]',
        "contrastive.total",
    ),
    Mutation("one direction of the contrastive loss", LOSSES, "(t2v + v2t) / 2", "t2v"),
    Mutation(
        "CLIP's LayerNorm eps in the temporal transformer", TEMPORAL, "LAYER_NORM_EPS = 1e-12", "LAYER_NORM_EPS = 1e-5"
    ),
    Mutation("exact GELU", TEMPORAL, "hidden * torch.sigmoid(1.702 * hidden)", "F.gelu(hidden)"),
    Mutation(
        "missing frames not masked in the temporal transformer",
        TEMPORAL,
        "MASKED_KEY_BIAS = -1e6",
        "MASKED_KEY_BIAS = 0.0",
    ),
    Mutation(
        "residual around the temporal transformer left out",
        TEMPORAL,
        "return frames + transformer(",
        "return transformer(",
    ),
]
