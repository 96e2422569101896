"""What each family of transformers' encoders is worth here: tvr against the class's own processor, tokenizer and calls.

`measure` takes one of `hf_folders.KINDS`; `table` is the one in docs/backbones.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import families
import torch
from parity_table import ParityTable, cosine_text, error_text
from torch import Tensor

from tvr_cli.backbones import registry
from tvr_cli.backbones.base import Backbone, VideoOut
from tvr_cli.stores.frames.picture import see

TEXTS = ("a dog", "A red Circle, on the wave!", "rain", "", "two dogs surfing on the red wave " * 4)
# What the page calls each.
NAMES = {
    "clip": "CLIP",
    "metaclip_2": "MetaCLIP 2",
    "chinese_clip": "Chinese-CLIP",
    "siglip": "SigLIP",
    "siglip_2": "SigLIP 2 (fixed size)",
    "xclip": "X-CLIP",
    "videoprism": "VideoPrism-LvT",
    "pe_video": "PE-Video",
    "qwen3_vl": "Qwen3-VL-Embedding",
}
# Each clip's frames are a third of a second apart; those of the second begin later.
TIMES = torch.arange(4) / 3 + torch.tensor([[0.0], [60.0], [0.5]])


@dataclass(frozen=True)
class Measured:
    """How far tvr is from a class's own calls: errors as in `families.Measured`, None where there is no such feature.

    ids_equal: the real tokens of captions. decoded: the lowest cosine of `families.SHAPES`, each seen by tvr's own
    picture and by the class's processor.
    """

    about: Any
    text: float
    tokens: float | None
    frames: float | None
    clip: float | None
    ids_equal: bool
    decoded: float


def measure(kind: str, folder: Path) -> Measured:
    """Compare a family with its class."""
    backbone, model = registry.load(f"hf:{folder}", offline=True), own_model(folder)
    wanted_text, wanted_tokens, mask, wanted_ids = own_text(kind, folder, model)
    with torch.no_grad():
        ids, n_tokens = backbone.tokenize(TEXTS, mask.shape[1])
        text, tokens = backbone.encode_text(ids)
        real = torch.arange(mask.shape[1]) < n_tokens[:, None]
        pixels = torch.randint(
            0, 256, (3, 4, 3, backbone.image_size, backbone.image_size), generator=torch.Generator().manual_seed(0)
        ).to(torch.uint8)
        found = seen(backbone, pixels)
        wanted = own_video(kind, folder, model, list(pixels))
    return Measured(
        about=backbone.about,
        text=error(text, wanted_text),
        tokens=None if tokens is None or wanted_tokens is None else error(tokens[real], wanted_tokens[real]),
        frames=_error_of(found.frames, wanted.frames),
        clip=_error_of(found.pooled, wanted.pooled),
        ids_equal=bool((ids == wanted_ids)[real].all()),
        decoded=_decoded(kind, folder, backbone, model),
    )


def own_model(folder: Path) -> Any:
    """The model as a user of transformers loads it."""
    import transformers

    return transformers.AutoModel.from_pretrained(str(folder), local_files_only=True).eval()


def seen(backbone: Backbone, pixels: Tensor) -> VideoOut:
    """What tvr makes of full clips, at `TIMES` where it has to know when their frames stand."""
    real = torch.ones(pixels.shape[:2], dtype=torch.bool)
    timed = backbone.about.timed
    return backbone.encode_video(pixels, real, TIMES[: len(real)]) if timed else backbone.encode_video(pixels, real)


def written(kind: str, texts: tuple[str, ...]) -> list[str]:
    """What the authors' own pipelines make of captions, written down by hand."""
    if kind == "videoprism":
        return [
            "a dog.",
            "a red circle on the wave.",
            "rain.",
            ".",
            "two dogs surfing on the red wave " * 3 + "two dogs surfing on the red wave.",
        ]
    if kind.startswith("siglip"):
        return ["a dog", "a red circle on the wave", "rain", "", ("two dogs surfing on the red wave " * 4).strip()]
    if kind == "qwen3_vl":
        return [text.strip() or "NULL" for text in texts]
    return list(texts)


def own_text(kind: str, folder: Path, model: Any) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Pooled text and tokens by the class's own calls, and mask and ids of its tokenizer [T, L]."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    context = 16 if kind not in ("chinese_clip", "pe_video") else 52
    padding = {"padding": "max_length", "max_length": context, "truncation": True, "padding_side": "right"}
    said = tokenizer(written(kind, TEXTS), return_tensors="pt", **padding)
    ids, mask = said.input_ids, said.attention_mask
    if kind == "qwen3_vl":
        asked, ends = "Find a video that contains the following visual content.", "<|im_end|>"
        right = {"return_tensors": "pt", "padding": True, "padding_side": "right"}
        said = tokenizer([_chat(asked, text) for text in written(kind, TEXTS)], **right)
        bare = tokenizer([text + ends for text in written(kind, TEXTS)], **right)
        with torch.no_grad():
            states = model(**said).last_hidden_state
        return states[range(len(TEXTS)), said.attention_mask.sum(1) - 1], None, bare.attention_mask, bare.input_ids
    with torch.no_grad():
        if kind == "pe_video":
            pixels = torch.zeros(len(TEXTS), 1, 3, 36, 36)
            return model(ids, pixels, attention_mask=mask).text_video_embeds, None, mask, ids
        if kind.startswith("siglip"):
            out = model.get_text_features(input_ids=ids)
            return out.pooler_output, model.text_model.head(out.last_hidden_state), mask, ids
        out = model.get_text_features(input_ids=ids, attention_mask=mask)
        if kind == "videoprism":
            return out.pooler_output, out.last_hidden_state[:, :-1], mask, ids
        return out.pooler_output, model.text_projection(out.last_hidden_state), mask, ids


def own_video(kind: str, folder: Path, model: Any, clips: list[Tensor]) -> VideoOut:
    """Frames and one vector a clip by the class's own calls, of what its processor makes of clips [F, 3, H, W]."""
    import transformers

    if kind == "qwen3_vl":
        return VideoOut(None, _asked_of_qwen(folder, model, clips))
    if kind in ("videoprism", "pe_video"):
        processor = transformers.AutoVideoProcessor.from_pretrained(str(folder))
        x = processor(videos=clips, return_tensors="pt")["pixel_values_videos"]
    else:
        processor = transformers.AutoImageProcessor.from_pretrained(str(folder))
        frames = [frame for clip in clips for frame in clip]
        x = processor(images=frames, return_tensors="pt").pixel_values.unflatten(0, (len(clips), -1))
    with torch.no_grad():
        if kind == "pe_video":
            ids = torch.ones(len(x), 3, dtype=torch.int64)
            return VideoOut(None, model(ids, x).video_embeds)
        if kind == "videoprism":
            out = model.get_video_features(pixel_values_videos=x)
            by_frame = out.last_hidden_state.unflatten(1, (x.shape[1], -1))
            head = [model.video_model.head_layernorm(model.video_model.head(f)[0])[:, 0] for f in by_frame.unbind(1)]
            return VideoOut(torch.nn.functional.normalize(torch.stack(head, 1), dim=-1), out.pooler_output[:, 0])
        if kind == "xclip":
            vision = model.vision_model(x.flatten(0, 1)).pooler_output
            frames = model.visual_projection(vision).unflatten(0, x.shape[:2])
            return VideoOut(frames, model.get_video_features(pixel_values=x).pooler_output)
        return VideoOut(model.get_image_features(x.flatten(0, 1)).pooler_output.unflatten(0, x.shape[:2]), None)


def _chat(instruction: str, said: str) -> str:
    """What Qwen's template makes of an instruction and a user's turn."""
    turns = f"<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{said}<|im_end|>\n"
    return f"{turns}<|im_start|>assistant\n"


def _asked_of_qwen(folder: Path, model: Any, clips: list[Tensor]) -> Tensor:
    """The last state by the class's own processor and call, of clips [F, 3, H, W] squashed to squares, at `TIMES`."""
    import transformers
    from torchvision.transforms.v2 import InterpolationMode, functional

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    videos = transformers.AutoVideoProcessor.from_pretrained(str(folder))
    processor = transformers.Qwen3VLProcessor(transformers.Qwen2VLImageProcessor(), tokenizer, videos)
    square = [functional.resize(clip, [36, 36], InterpolationMode.BICUBIC, antialias=True) for clip in clips]
    # At 3000 frames a second each time is that of a whole frame.
    about = [
        {"total_num_frames": 10**6, "fps": 3000.0, "frames_indices": [round(3000 * t) for t in row.tolist()]}
        for row in TIMES[: len(clips)]
    ]
    # The processor writes a pair of marks around each pair of frames; a template's own would be one more.
    said = processor(
        text=[_chat("Represent the user's input.", "<|video_pad|>")] * len(clips), videos=square, video_metadata=about,
        do_resize=False, do_sample_frames=False, return_tensors="pt", padding=True, padding_side="right",
    )  # fmt: skip
    with torch.no_grad():
        states: Tensor = model(**said).last_hidden_state
    return states[range(len(clips)), said.attention_mask.sum(1) - 1]


def error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference of a value, as a share of the largest value where that is above one."""
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))


def _error_of(found: Tensor | None, wanted: Tensor | None) -> float | None:
    assert (found is None) == (wanted is None)
    return None if found is None or wanted is None else error(found, wanted)


@torch.no_grad()
def _decoded(kind: str, folder: Path, backbone: Backbone, model: Any) -> float:
    """Compare still clips of whole pictures of every shape."""
    lowest = 1.0
    for shape in families.SHAPES.values():
        picture = families.picture(shape, 3)
        square = torch.from_numpy(see(picture, backbone.about.view).copy()).permute(2, 0, 1)
        found = seen(backbone, square.expand(1, 4, -1, -1, -1))
        whole = torch.from_numpy(picture).permute(2, 0, 1)
        wanted = own_video(kind, folder, model, [whole.expand(4, -1, -1, -1)])
        for ours, theirs in ((found.frames, wanted.frames), (found.pooled, wanted.pooled)):
            if ours is not None and theirs is not None:
                lowest = min(lowest, float(torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min()))
    return lowest


# --------------------------------------------------------------------------------------------------------------- table

TABLE = ParityTable(
    ("family", "class", "fit, filter", "frames a clip", "text", "tokens", "frames", "clip", "decoded"),
    words=4,
    begin="<!-- parity of transformers: scripts/make_parity_table.py -->\n",
    end="<!-- end of it -->",
)


def table(rows: Mapping[str, Measured]) -> str:
    """Return the table of docs/backbones.md."""
    return TABLE.text([_row(kind, found) for kind, found in rows.items()])


def _row(kind: str, found: Measured) -> list[str]:
    return [
        NAMES[kind],
        f"`{found.about.detail.recipe.architecture}`",
        f"{found.about.fit}, {found.about.filter}",
        "its own number" if found.about.frames else "any",
        *(error_text(error) for error in (found.text, found.tokens, found.frames, found.clip)),
        cosine_text(found.decoded),
    ]
