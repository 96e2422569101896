"""Which calls of transformers' classes make features, by model_type: one row of `RECIPES` a family.

A class's own forward is never taken: it scores pairs (`logits_per_*`: VideoPrism's is a softmax over the batch,
X-CLIP's adds a prompt made of the video to each caption). A row says what stands before that: pooled text and tokens,
images or whole clips, each in the space that text and pictures share, as its class yields it.

Letters: T captions, L token slots, V clips, F frames, N images, P patches, S pixels, D features.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tvr_cli.backbones.base import VideoOut
from tvr_cli.backbones.hf.chat import Chat

Config = Mapping[str, Any]  # config.json, which leaves out what is its class's default
# What stands in the slots behind a caption, and whether the tower sees it: zeros, seen; the tokenizer's own pad, seen;
# that, masked; that, seen, up to the whole context, which the tower was trained with.
Pads = Literal["zero", "own", "masked", "full"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to call of one model_type.

    architecture: transformers' class. dim, context, size: D, the largest L and S, of a configuration (S None where it
    does not say). frames: the one number of frames a clip that it takes, None = any. canonical: how its authors write
    captions, of `CANONICAL`. text: (model, ids [T, L], mask [T, L] or None) to pooled [T, D] and tokens [T, L, D] or
    None. images: (model, pixels [N, 3, S, S]) to [N, D]. clips: (model, pixels [V, F, 3, S, S]) to `VideoOut`. chat: of
    a language model, which is asked for both sides instead of `text` and `clips`; a recipe has one of the three.
    provides: of `base.PROVIDES`. reads_at_end: whether it reads a caption at its end token. any_shape: whether the
    class's processor keeps a picture's shape, so that its configuration names no square: tvr makes that of `size`.
    """

    architecture: str
    provides: frozenset[str]
    dim: Callable[[Config], int]
    context: Callable[[Config], int]
    size: Callable[[Config], int | None]
    pads: Pads
    text: Callable[[Any, Tensor, Tensor | None], tuple[Tensor, Tensor | None]] | None = None
    images: Callable[[Any, Tensor], Tensor] | None = None
    clips: Callable[[Any, Tensor], VideoOut] | None = None
    chat: Chat | None = None
    frames: Callable[[Config], int | None] = lambda config: None
    canonical: str = "as it is"
    reads_at_end: bool = False
    any_shape: bool = False


def part(config: Config, name: str, key: str, default: Any) -> Any:
    """Return a value of a tower's configuration, the class's default where it is left out."""
    value = (config.get(name) or {}).get(key)
    return default if value is None else value


# ------------------------------------------------------------------------------------------------- how text is written


def _without_punctuation(text: str) -> str:
    """SigLIP's: lower case, no punctuation (as big_vision and open_clip, so `_` parts words)."""
    text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation))
    return " ".join(text.lower().split())


def _ending_in_a_stop(text: str) -> str:
    """VideoPrism's: punctuation becomes a space, lower case, one space between words, a full stop at the end."""
    spaced = text.translate(str.maketrans(string.punctuation, " " * len(string.punctuation)))
    return " ".join(spaced.lower().split()) + "."


CANONICAL: Mapping[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "lower case without punctuation": _without_punctuation,
    "lower case, punctuation to spaces, a full stop": _ending_in_a_stop,
    "without space around it, NULL for none": lambda text: text.strip() or "NULL",
}


# --------------------------------------------------------------------------------------------- CLIP and its relatives


def _text_of_clip(model: Any, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    out = model.get_text_features(input_ids=ids, attention_mask=mask)
    return out.pooler_output, model.text_projection(out.last_hidden_state)


def _text_of_siglip(model: Any, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    out = model.get_text_features(input_ids=ids, attention_mask=mask)
    return out.pooler_output, model.text_model.head(out.last_hidden_state)


def _images(model: Any, pixels: Tensor) -> Tensor:
    features: Tensor = model.get_image_features(pixel_values=pixels).pooler_output
    return features


def _clips_of_xclip(model: Any, pixels: Tensor) -> VideoOut:
    """As `get_video_features`, whose vectors of frames are not given back; its vision tower has mixed them already."""
    vision = model.vision_model(pixel_values=pixels.flatten(0, 1))
    frames = model.visual_projection(vision.pooler_output).unflatten(0, pixels.shape[:2])  # [V, F, D]
    return VideoOut(frames, model.mit(frames).pooler_output)


# ---------------------------------------------------------------------------------------------------------- VideoPrism


def _text_of_videoprism(model: Any, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Without the mask the tower would look both ways. The class token stands last."""
    out = model.get_text_features(input_ids=ids, attention_mask=mask)
    return out.pooler_output, out.last_hidden_state[:, :-1]


def _clips_of_videoprism(model: Any, pixels: Tensor) -> VideoOut:
    """The vector of a frame is what the pooling head makes of that frame's patches alone, which know all others."""
    out, tower = model.get_video_features(pixel_values_videos=pixels), model.video_model
    patches = out.last_hidden_state  # [V, F * P, D]
    head, _ = tower.head(patches.unflatten(1, (pixels.shape[1], -1)).flatten(0, 1))  # [V * F, 1, D]
    frames = tower.head_layernorm(head)[:, 0]
    if tower.config.apply_l2norm:
        frames = frames * torch.rsqrt(frames.square().sum(-1, keepdim=True) + 1e-6)  # as the class does
    return VideoOut(frames.unflatten(0, pixels.shape[:2]), out.pooler_output[:, 0])


# ------------------------------------------------------------------------------------------------------------ PE-Video


def _text_of_pe_video(model: Any, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """As the class's forward: it has no `get_text_features` that could be called. Its head is for the class token."""
    hidden = model.text_model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    return model.text_video_head(hidden[:, 0]), None


def _clips_of_pe_video(model: Any, pixels: Tensor) -> VideoOut:
    return VideoOut(None, model.video_head(model.video_encoder(pixels).pooler_output))


# ------------------------------------------------------------------------------------------------------------ Qwen3-VL


def _square_of_qwen(config: Config) -> int:
    """Return half the side of its table of positions, in pixels: 384, of which a pair of frames is 144 tokens."""
    patch, merge = (part(config, "vision_config", key, usual) for key, usual in
                    (("patch_size", 16), ("spatial_merge_size", 2)))  # fmt: skip
    side = math.isqrt(part(config, "vision_config", "num_position_embeddings", 2304))
    return int(side // 2 // merge * merge * patch)


# ----------------------------------------------------------------------------------------------------------- the table

_FRAMES_AND_TOKENS = frozenset({"frames", "pooled", "tokens"})
_ALL = _FRAMES_AND_TOKENS | {"video.pooled"}

_CLIP = Recipe(
    architecture="CLIPModel",
    provides=_FRAMES_AND_TOKENS,
    dim=lambda config: int(config.get("projection_dim", 512)),
    context=lambda config: int(part(config, "text_config", "max_position_embeddings", 77)),
    size=lambda config: int(part(config, "vision_config", "image_size", 224)),
    text=_text_of_clip,
    pads="zero",  # as OpenAI's; transformers' files of it say another one
    images=_images,
    reads_at_end=True,
)

RECIPES: Mapping[str, Recipe] = {
    "clip": _CLIP,
    "metaclip_2": Recipe(**{**vars(_CLIP), "architecture": "MetaClip2Model", "pads": "own"}),
    "chinese_clip": Recipe(
        architecture="ChineseCLIPModel",
        provides=_FRAMES_AND_TOKENS,
        dim=_CLIP.dim,
        context=lambda config: min(52, int(part(config, "text_config", "max_position_embeddings", 512))),  # authors' 52
        size=_CLIP.size,
        text=_text_of_clip,
        pads="masked",
        images=_images,
    ),
    "siglip": Recipe(  # and SigLIP 2 of a fixed size
        architecture="SiglipModel",
        provides=_FRAMES_AND_TOKENS,
        dim=lambda config: int(part(config, "vision_config", "hidden_size", 768)),
        context=lambda config: int(part(config, "text_config", "max_position_embeddings", 64)),
        size=_CLIP.size,
        text=_text_of_siglip,
        pads="full",
        images=_images,
        canonical="lower case without punctuation",
    ),
    "xclip": Recipe(
        architecture="XCLIPModel",
        provides=_ALL,
        dim=_CLIP.dim,
        context=_CLIP.context,
        size=_CLIP.size,
        frames=lambda config: int(part(config, "vision_config", "num_frames", 8)),
        text=_text_of_clip,
        pads="zero",
        clips=_clips_of_xclip,
        reads_at_end=True,
    ),
    "videoprism": Recipe(
        architecture="VideoPrismClipModel",
        provides=_ALL,
        dim=lambda config: int(part(config, "vision_config", "hidden_size", 768)),
        context=lambda config: int(part(config, "text_config", "max_position_embeddings", 64)),
        size=lambda config: int(part(config, "vision_config", "image_size", 288)),
        frames=lambda config: int(part(config, "vision_config", "num_frames", 16)),
        text=_text_of_videoprism,
        pads="masked",
        clips=_clips_of_videoprism,
        canonical="lower case, punctuation to spaces, a full stop",
    ),
    "pe_video": Recipe(
        architecture="PeVideoModel",
        provides=frozenset({"video.pooled", "pooled"}),
        dim=lambda config: int(part(config, "text_config", "hidden_size", 1024)),
        context=lambda config: min(512, int(part(config, "text_config", "max_position_embeddings", 8192))),
        size=lambda config: None,  # a configuration of timm's, which the picture's has to fit
        text=_text_of_pe_video,
        pads="masked",
        clips=_clips_of_pe_video,
    ),
    "qwen3_vl": Recipe(
        architecture="Qwen3VLModel",
        provides=frozenset({"video.pooled", "pooled"}),
        dim=lambda config: int(part(config, "text_config", "hidden_size", 4096)),
        context=lambda config: min(8192, int(part(config, "text_config", "max_position_embeddings", 128000))),
        size=_square_of_qwen,
        pads="masked",
        # As the authors evaluate on MSR-VTT (`src/evaluation/mmeb_v2/data/datasets/msrvtt_dataset.py`).
        chat=Chat("Find a video that contains the following visual content.", "Represent the user's input."),
        canonical="without space around it, NULL for none",
        any_shape=True,
    ),
}

# Families that people will name, and why tvr has no row for them.
REFUSED: Mapping[str, str] = {
    "siglip2": "NaFlex sees a picture in its own shape, and tvr makes squares; SigLIP 2 of a fixed size is served",
    "videoprism_vision_model": "it has no text side; the LvT weights have one",
    "pe_audio_video": "it wants sound beside pictures; PE-Video is served",
    "internvideo2": "its code comes with its weights, and tvr runs none of that kind",
    "jina_clip": "its code comes with its weights, and tvr runs none of that kind",
    "cosmos-embed1": "its code comes with its weights, and tvr runs none of that kind",
}
