"""TPM-CL: triplet partial margin contrastive learning, DMAE's second loss.

For a matched pair, token weights given by the other modality say which words and frames matter. Erasing the most
important ones makes partial negatives, and a pair must score above its partial ones by a margin.
Source: arXiv 2309.11082 and the authors' port at e7b7dc7 (spec section 6; Q1-Q5 are its numbered quirks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tvr_cli.methods.base import unit

# The authors' loop runs over blocks of so many captions and clips; with `reference_bugs` pairs mix within a block.
BLOCK_TEXTS, BLOCK_CLIPS = 8, 16


class TokenWeights(nn.Module):
    """Weigh the tokens of one modality given those of the other: [P, n_query, D], [P, n_key, D] -> [P, n_key].

    The numbers of tokens are parameters' sizes: pads count and take weight, as in the authors' code. Keys are the
    authors'; their `q_proj` and `k_proj` are never used and left out.
    """

    def __init__(self, queries: int, keys: int, size: int):
        super().__init__()
        self.qk_proj = nn.Linear(queries, keys, bias=False)
        self.attn_proj = nn.Sequential(
            nn.LayerNorm((keys, 2 * size)),
            nn.Linear(2 * size, size // 2, bias=False),
            nn.GELU(),
            nn.Linear(size // 2, 1, bias=False),
        )

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        mixed = self.qk_proj(query.mT).mT  # [P, n_key, D], along the token axis
        gate = self.attn_proj(torch.cat([mixed, key], -1))[..., 0].sigmoid()
        return gate / gate.sum(1, keepdim=True)


class Eraser(nn.Module):
    """Keeps the tokens that remain once the most important ones, up to a share `thresh` of the weight, are erased."""

    thresh: Tensor

    def __init__(self, thresh: float):
        super().__init__()
        self.register_buffer("thresh", torch.tensor([thresh]))

    @torch.no_grad()
    def forward(self, weight: Tensor) -> Tensor:
        """Return keep [P, n] in {0, 1}: a token goes if the running sum, in falling order, is below thresh with it."""
        ordered, order = weight.sort(dim=1, descending=True)
        kept = ordered.cumsum(1) >= self.thresh
        return torch.zeros_like(weight).scatter_(1, order, kept.to(weight.dtype))


class Tokens(NamedTuple):
    """A batch of B pairs: unit vectors, and the mask of real frames."""

    sentence: Tensor  # [B, D]
    words: Tensor  # [B, L, D]
    frames: Tensor  # [B, F, D], before any temporal head
    mask: Tensor  # [B, F] bool


class Partials(NamedTuple):
    """What erasing leaves of P pairs."""

    word_weight: Tensor  # [P, L]
    keep_word: Tensor  # [P, L]
    frame_weight: Tensor  # [P, F]
    keep_frame: Tensor  # [P, F]
    pooled: Tensor  # [P, D], words by weight, unit length
    erased_pooled: Tensor  # [P, D], the same without the erased words, not normalised (Q7)
    erased_frames: Tensor  # [P, F, D], behind the temporal head if there is one (Q5: other frames never pass it)


class Terms(NamedTuple):
    """Positive and negative scores of each margin term that the partial type uses, None for the others."""

    a: tuple[Tensor, Tensor] | None
    b: tuple[Tensor, Tensor] | None
    c: tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class PartialMargin:
    """The loss. head: temporal head of erased frames, (frames, mask) -> frames. frame_logits: [P, F] from frames, or
    None for means. partial_type: 2 = terms a and b, 3 = c, 4 = all."""

    word_weights: TokenWeights
    frame_weights: TokenWeights
    eraser: Eraser
    head: Callable[[Tensor, Tensor], Tensor]
    frame_logits: Callable[[Tensor], Tensor] | None
    partial_type: int
    margin: float
    reference_bugs: bool

    def loss(self, tokens: Tokens) -> dict[str, Tensor]:
        """Return the mean margin loss of each term, by name."""
        return {
            f"tpm_{name}": (self.margin - (positive - negative)).clamp_min(0).mean()
            for name, (positive, negative) in zip("abc", self.matched(tokens), strict=True)
            if positive is not None and negative is not None
        }

    def matched(self, tokens: Tokens) -> list[tuple[Tensor, Tensor] | tuple[None, None]]:
        """Return (positive, negative) [B] of the terms a, b and c for the matched pairs."""
        if self.reference_bugs:
            return [_diagonals(term) for term in self.reference_matrices(tokens)]
        pairs = torch.arange(len(tokens.sentence), device=tokens.sentence.device)
        return [term or (None, None) for term in self._clean(tokens, self.partials(tokens, pairs, pairs))]

    def partials(self, tokens: Tokens, texts: Tensor, clips: Tensor) -> Partials:
        """Erase in the pairs (texts[k], clips[k]); [P] indices into the batch."""
        words, frames = tokens.words[texts], tokens.frames[clips]
        word_weight = self.word_weights(frames, words)
        with torch.no_grad():  # its only use is the choice of frames, which has no gradient (Q3)
            frame_weight = self.frame_weights(tokens.sentence[texts][:, None], frames)
        keep_word, keep_frame = self.eraser(word_weight), self.eraser(frame_weight)
        weighted = word_weight[..., None] * words
        erased_frames = self.head(keep_frame[..., None] * frames, tokens.mask[clips])
        return Partials(
            word_weight,
            keep_word,
            frame_weight,
            keep_frame,
            unit(weighted.sum(1)),
            (keep_word[..., None] * weighted).sum(1),
            erased_frames,
        )

    def _clean(self, tokens: Tokens, p: Partials) -> Terms:
        whole = self._scores((tokens.sentence, p.pooled, p.erased_pooled), tokens.frames, tokens.mask)
        erased = self._scores((tokens.sentence, p.pooled), p.erased_frames, tokens.mask)
        return self._terms((whole[0], erased[0]), (whole[1], erased[1]), (whole[1], whole[2]))

    def _terms(self, *pairs: tuple[Tensor, Tensor]) -> Terms:
        used = {2: "ab", 3: "c", 4: "abc"}[self.partial_type]
        return Terms(*(pair if name in used else None for name, pair in zip("abc", pairs, strict=True)))

    def _scores(self, queries: tuple[Tensor, ...], frames: Tensor, mask: Tensor) -> list[Tensor]:
        """Return R [P] of each query [P, D] with frames [P, F, D]: half the best frame, half the weighted mean."""
        if self.frame_logits is None:
            weight = mask.to(frames.dtype) / mask.sum(1, keepdim=True)
        else:
            weight = self.frame_logits(frames).masked_fill(~mask, float("-inf")).softmax(1)
        return _partial_scores(queries, frames, mask, weight, 1)

    # ------------------------------------------------------------------------------- the authors' loop, bugs included

    def reference_matrices(self, tokens: Tokens) -> Terms:
        """Return the [B, B] matrices that the authors' code builds; their diagonals enter its loss.

        Q1: within a block two of the scores combine a caption-major with a clip-major order. Q2: with learned frame
        weights, token weights are summed over all pairs of a block.
        """
        texts, clips = len(tokens.sentence), len(tokens.frames)
        rows = [
            [
                self._block(tokens, range(i, min(i + BLOCK_TEXTS, texts)), range(j, min(j + BLOCK_CLIPS, clips)))
                for j in range(0, clips, BLOCK_CLIPS)
            ]
            for i in range(0, texts, BLOCK_TEXTS)
        ]

        def whole(term: int, side: int) -> Tensor:
            return torch.cat([torch.cat([block[term][side] for block in row], 1) for row in rows])

        return self._terms(*((whole(term, 0), whole(term, 1)) for term in range(3)))

    def _block(self, tokens: Tokens, texts: range, clips: range) -> list[tuple[Tensor, Tensor]]:
        n_texts, n_clips = len(texts), len(clips)
        i = torch.arange(n_texts).repeat_interleave(n_clips)  # the pair (i, j) of row i * n_clips + j
        j = torch.arange(n_clips).repeat(n_texts)
        p = self.partials(tokens, texts[0] + i, clips[0] + j)
        frames, mask = tokens.frames[clips[0] + j], tokens.mask[clips[0] + j]
        mixed_text = tokens.sentence[texts[0] + (i * n_clips + j) % n_texts]  # Q1, positive of a
        mixed_pooled = p.pooled[j * n_texts + i]  # Q1, negative of b
        sentence = tokens.sentence[texts[0] + i]
        whole = self._summed_scores((mixed_text, p.pooled, p.erased_pooled), frames, mask)
        erased = self._summed_scores((sentence, mixed_pooled), p.erased_frames, mask)
        matrices = [x.view(n_texts, n_clips) for x in (*whole, *erased)]
        return [(matrices[0], matrices[3]), (matrices[1], matrices[4]), (matrices[1], matrices[2])]

    def _summed_scores(self, queries: tuple[Tensor, ...], frames: Tensor, mask: Tensor) -> list[Tensor]:
        if self.frame_logits is None:
            return self._scores(queries, frames, mask)
        weight = self.frame_logits(frames).masked_fill(~mask, float("-inf")).softmax(1)
        return _partial_scores(queries, frames, mask, weight.sum(0).expand_as(weight), len(frames))  # Q2


def _partial_scores(
    queries: tuple[Tensor, ...], frames: Tensor, mask: Tensor, weight: Tensor, text_weight: int
) -> list[Tensor]:
    table = torch.stack(queries, 1) @ (frames * mask[..., None]).mT  # [P, queries, F]; a missing frame scores 0
    scores = (text_weight * table.amax(-1) + (table * weight[:, None]).sum(-1)) / 2
    return list(scores.unbind(1))


def _diagonals(term: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | tuple[None, None]:
    return (None, None) if term is None else (term[0].diagonal(), term[1].diagonal())
