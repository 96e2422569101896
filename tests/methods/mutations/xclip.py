"""Plausible mistakes in X-CLIP."""

from __future__ import annotations

from mutations import Mutation

INIT = "kernels/tvr_kernels/xclip/__init__.py"
REFERENCE = "kernels/tvr_kernels/xclip/reference.py"
FOLDED = "kernels/tvr_kernels/xclip/folded.py"
METHOD = "tvr_cli/methods/xclip.py"

MUTATIONS = [
    Mutation("sentence map transposed", INIT, "sentence @ weights.global_map", "sentence @ weights.global_map.T"),
    Mutation("word map transposed", INIT, "words @ weights.local_map", "words @ weights.local_map.T"),
    Mutation("frames keep their length", INIT, '"frames": _unit(frames)', '"frames": frames'),
    Mutation("words keep their length", INIT, "_unit(sentence), _unit(words)", "_unit(sentence), words"),
    Mutation(
        "matrix over words transposed",
        FOLDED,
        "mixed = (kept.flatten(0, -2) @ mixing.T).view(m.shape)",
        "mixed = (kept.flatten(0, -2) @ mixing).view(m.shape)",
    ),
    Mutation(
        "matrix over frames transposed",
        FOLDED,
        "torch.matmul(mixing, kept.flatten(2))",
        "torch.matmul(mixing.T, kept.flatten(2))",
    ),
    Mutation(
        "attention over frames runs over captions",
        FOLDED,
        "(attention(m, 1, temperature, shown) * mixed).sum(1)",
        "(attention(m, 2, temperature, shown) * mixed).sum(1)",
    ),
    Mutation("frame-word not halved", FOLDED, "(over_frames + over_words) / 2", "(over_frames + over_words)"),
    Mutation(
        "frame-word not halved in the reference",
        REFERENCE,
        "(over_frames + over_words) / 2",
        "(over_frames + over_words)",
    ),
    Mutation(
        "the reference swaps words and frames",
        REFERENCE,
        'matrix = torch.einsum("tld,vfd->tvlf", text["local"], frames)',
        'matrix = torch.einsum("tld,vfd->tvlf", text["words"], frames)',
    ),
    Mutation(
        "the first steps' matrices swapped",
        METHOD,
        "video_word=self.word_logit_weight",
        "video_word=self.word_mat_weight",
    ),
    Mutation(
        "the second steps' matrices swapped",
        METHOD,
        "then_frames=self.frame_mat_weight2",
        "then_frames=self.frame_mat_weight",
    ),
    Mutation(
        "frames behind the transformer are compared",
        METHOD,
        "side = kernel.video_side(whole, frames, mask",
        "side = kernel.video_side(whole, self.contextualize(frames, mask), mask",
    ),
    Mutation(
        "missing frames are in the clip's vector",
        METHOD,
        "mean_direction(self.contextualize(frames, mask), mask)",
        "mean_direction(self.contextualize(frames, mask), mask | True)",
    ),
    Mutation(
        "missing frames masked by default",
        METHOD,
        "mask if self.config.mask_padding else None)\n        return Encoding(key",
        "mask)\n        return Encoding(key",
    ),
    Mutation(
        "pads masked by default",
        METHOD,
        "real_words(text) if self.config.mask_padding else None",
        "real_words(text)",
    ),
    Mutation(
        "the score has no scale",
        METHOD,
        "return self.logit_scale.exp() * kernel.score(",
        "return kernel.score(",
    ),
]
