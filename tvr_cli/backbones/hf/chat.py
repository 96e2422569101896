"""Qwen3-VL-Embedding: a language model as an encoder, asked in a chat, read at its last token.

What its authors write around a caption or a clip, by hand, for no template that comes with weights is run
(https://github.com/QwenLM/Qwen3-VL-Embedding, `src/models/qwen3_vl_embedding.py`): an instruction as the system's turn,
the caption or the clip as the user's, and the beginning of an answer. Frames go in pairs, each pair behind the time
between its two frames. Transformers from 5.24 on writes a second pair of marks around all pairs of a clip; 4.57, with
which the weights were published, does not, nor does tvr.

Letters: T captions, L token slots, V clips, F frames, S pixels, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tvr_cli.backbones.tokenizer import HuggingFaceTokenizer, pads

_START, _END, _PAIR_START, _PAIR_END, _PATCH = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|video_pad|>",
)
_ANSWER = f"\n{_START}assistant\n"
_OF_A_CLIP = 2  # what Qwen's classes call the type of a clip's tokens


class ChatTokenizer(HuggingFaceTokenizer):
    """Ids of captions, each with the end of the user's turn behind it; what stands around that is added by `Chat`."""

    def __init__(self, inner: Any, clean: Callable[[str], str]):
        super().__init__(inner, clean)
        self.end_id = int(inner.convert_tokens_to_ids(_END) or 0)

    @property
    def lead(self) -> int:
        return 0

    def misses(self, config: Any) -> str:
        """Return in words what it knows otherwise than a configuration; empty where it is the model's own."""
        wanted = {_PAIR_START: config.vision_start_token_id, _PAIR_END: config.vision_end_token_id}
        for mark, own in {**wanted, _PATCH: config.video_token_id, _START: None, _END: None}.items():
            ids = self.plain(mark)
            if len(ids) != 1 or own not in (None, ids[0]):
                return f"makes {ids} of the mark {mark!r}, where {'one token' if own is None else own} is expected"
        if self.plain("a") != self._both("a")[: len(self.plain("a"))]:
            return "puts a token before what it is given"
        return ""

    def plain(self, text: str) -> list[int]:
        """Return the ids of a text and of nothing else."""
        return list(self._inner(text, add_special_tokens=False).input_ids)

    def head(self, instruction: str) -> list[int]:
        """Return what stands before a caption or a clip."""
        return self.plain(f"{_START}system\n{instruction}{_END}\n{_START}user\n")

    def tail(self) -> list[int]:
        """Return what stands behind the end of the user's turn, with what the tokenizer itself puts at an end."""
        return [*self.plain(_ANSWER), *self._both("a")[len(self.plain("a")) :]]

    def clip(self, times: Sequence[float], tokens: int) -> list[int]:
        """Return the ids of a clip. times: in seconds, of each pair of frames. tokens: of a pair."""
        patches = self.plain(_PATCH) * tokens
        around = self.plain(_PAIR_START), self.plain(_PAIR_END)
        pairs = [[*self.plain(f"<{time:.1f} seconds>"), *around[0], *patches, *around[1]] for time in times]
        return [*(i for pair in pairs for i in pair), self.end_id]

    def _both(self, text: str) -> list[int]:
        return list(self._inner(text).input_ids)

    def _ids(self, text: str, length: int | None) -> list[int]:
        ids = self.plain(self._clean(text))
        return [*(ids if length is None else ids[: length - 1]), self.end_id]


@dataclass(frozen=True)
class Chat:
    """How a language model is asked for vectors. caption, clip: the instruction before each; part of the identity."""

    caption: str
    clip: str

    def text(self, model: Any, ids: Tensor, tokenizer: ChatTokenizer) -> Tensor:
        """Encode zero-padded captions [T, L] of `tokenizer` to pooled [T, D]."""
        head = torch.tensor(tokenizer.head(self.caption), device=ids.device)
        tail = torch.tensor(tokenizer.tail(), device=ids.device)
        length = (~pads(ids)).sum(1)
        ids = ids[:, : int(length.max())]
        whole = torch.cat([head.expand(len(ids), -1), ids, ids.new_zeros(len(ids), len(tail))], 1)
        end = len(head) + length  # of the user's turn
        place = end[:, None] + torch.arange(len(tail), device=ids.device)
        whole = whole.scatter(1, place, tail.expand(len(ids), -1))
        return _last(model, whole, end + len(tail))

    def clips(self, model: Any, pixels: Tensor, times: Tensor, tokenizer: ChatTokenizer) -> Tensor:
        """Encode clips of normalised frames [V, F, 3, S, S] at times [V, F], in seconds of the clip, to [V, D]."""
        vision = model.config.vision_config
        if pixels.shape[1] % 2:  # the last stands twice, as the class has it
            pixels, times = (torch.cat([x, x[:, -1:]], 1) for x in (pixels, times))
        side = pixels.shape[-1] // vision.patch_size
        between = times.double().unflatten(1, (-1, 2)).mean(2)  # [V, F / 2]
        tokens = (side // vision.spatial_merge_size) ** 2
        head, tail = tokenizer.head(self.clip), tokenizer.tail()
        rows = [[*head, *tokenizer.clip(each, tokens), *tail] for each in between.tolist()]
        length = torch.tensor([len(row) for row in rows], device=pixels.device)
        ids = torch.zeros(len(rows), int(length.max()), dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        ids = ids.to(pixels.device)
        grid = torch.tensor([[between.shape[1], side, side]] * len(rows), device=pixels.device)
        return _last(
            model,
            ids,
            length,
            pixel_values_videos=_patches(pixels, vision.patch_size, vision.spatial_merge_size),
            video_grid_thw=grid,
            mm_token_type_ids=(ids == model.config.video_token_id).int() * _OF_A_CLIP,
        )

    def cost(self, model: Any, size: int, words: int) -> tuple[int, int]:
        """Return the operations of (one frame, one caption), of products with matrices alone: a skeleton has no values.

        A caption stands among the some 30 tokens of a chat.
        """
        vision = model.config.vision_config
        a_patch, a_token = (
            2 * sum(m.weight.numel() for m in part.modules() if isinstance(m, nn.Linear))
            for part in (model.visual.blocks, model.language_model)
        )
        patches = (size // vision.patch_size) ** 2
        a_pair = patches * a_patch + patches // vision.spatial_merge_size**2 * a_token
        return a_pair // 2, (words + 30) * a_token


def _last(model: Any, ids: Tensor, length: Tensor, **seen: Tensor) -> Tensor:
    """Return the normed state of the last token of each row; behind `length` stands nothing."""
    mask = torch.arange(ids.shape[1], device=ids.device) < length[:, None]
    out = model(input_ids=ids, attention_mask=mask.long(), use_cache=False, **seen)
    states: Tensor = out.last_hidden_state
    return states[torch.arange(len(ids), device=ids.device), length - 1]


def _patches(pixels: Tensor, patch: int, merge: int) -> Tensor:
    """Return clips [V, F, 3, S, S] as flat patches of two frames, those that are merged beside each other."""
    side = pixels.shape[-1] // patch // merge
    cut = pixels.unflatten(4, (side, merge, patch)).unflatten(3, (side, merge, patch)).unflatten(1, (-1, 2))
    # [V, F / 2, 2, 3, side, merge, patch, side, merge, patch]
    return cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(-1, 3 * 2 * patch * patch)
