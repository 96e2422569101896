"""What is known of published weights of transformers before they are on this machine: sizes, picture, licence.

Plans and lists need no more. Of weights that are here their own files count; where those say something else, that is
refused (`backbone.py`). Licences are read from model cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvr_cli.backbones.hf.preprocessing import Preprocessing
from tvr_cli.backbones.published import Licence


@dataclass(frozen=True)
class Published:
    """config: what `config.json` says beside its class's defaults. pixels: what its processor makes of a picture."""

    config: Mapping[str, Any]
    pixels: Preprocessing


OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_VIDEOPRISM_PIXELS = Preprocessing(288, (0.0,) * 3, (1.0,) * 3, "squash", "bicubic")
# Qwen3-VL 2B's; the square is that of `recipes.py`.
_QWEN_TEXT = {
    "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 262144,
}  # fmt: skip
_QWEN_VISION = {
    "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048,
    "deepstack_visual_indexes": [5, 11, 17],
}  # fmt: skip
_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
PUBLISHED: Mapping[str, Published] = {
    "google/videoprism-lvt-base-f16r288": Published({"model_type": "videoprism"}, _VIDEOPRISM_PIXELS),
    "google/videoprism-lvt-large-f8r288": Published(
        {
            "model_type": "videoprism",
            "vision_config": {**_LARGE, "num_frames": 8, "num_spatial_layers": 24},
            "text_config": dict(_LARGE),
        },
        _VIDEOPRISM_PIXELS,
    ),
    "OFA-Sys/chinese-clip-vit-base-patch16": Published(
        {
            "model_type": "chinese_clip",
            "text_config": {"vocab_size": 21128},
            "vision_config": {"patch_size": 16},
        },
        Preprocessing(224, OPENAI_MEAN, OPENAI_STD, "squash", "bicubic"),
    ),
    "Qwen/Qwen3-VL-Embedding-2B": Published(
        {"model_type": "qwen3_vl", "text_config": _QWEN_TEXT, "vision_config": _QWEN_VISION},
        Preprocessing(384, (0.5,) * 3, (0.5,) * 3, "squash", "bicubic"),
    ),
}

_APACHE, _MIT = Licence("Apache-2.0"), Licence("MIT")
# The first pattern that is found in `ORG/NAME` counts.
_LICENCES = (
    (r"^facebook/metaclip", Licence("CC-BY-NC-4.0", non_commercial=True)),
    (r"^google/videoprism", Licence("Apache-2.0, other material CC-BY-4.0")),
    (r"^google/siglip", _APACHE),
    (r"^OFA-Sys/chinese-clip", _APACHE),
    (r"^facebook/pe-", _APACHE),
    (r"^Qwen/Qwen3-VL-Embedding", _APACHE),
    (r"^(openai/clip|laion/CLIP|microsoft/xclip)", _MIT),
)


def licence_of(repository: str) -> Licence:
    """Return the licence of published weights, `ORG/NAME`."""
    return next((found for pattern, found in _LICENCES if re.search(pattern, repository)), Licence())
