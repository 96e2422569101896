"""Tiny transformers models as folders: what a user would download, in a few hundred kilobytes and with random weights.

Each has the classes, configurations and files of its family, two layers, and a tokenizer of the same class with pieces
of its own. `make(kind, folder)` writes one of `KINDS`; `videoprism(folder)` is the clip encoder of other tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIZE, FRAMES, DIM, CONTEXT, VOCABULARY = 36, 4, 32, 16, 400
CLIP_STATISTICS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_WORDS = ("▁a", "▁dog", "▁on", "▁the", "▁red", "▁circle", "▁two", "surf", "ing", "▁wave", "▁rain", "▁")
_ATTENTION = {"hidden_size": DIM, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def make(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write a folder of one of `KINDS`."""
    return KINDS[kind](folder, seed)


def videoprism(folder: Path, seed: int = 0) -> Path:
    """A clip encoder of 4 frames of 36 pixels, squashed: one vector a clip, and contextual frames; D = 32."""
    import transformers as t

    config = t.VideoPrismConfig(
        vision_config={
            "image_size": SIZE, "num_frames": FRAMES, "tubelet_size": [1, 18, 18], "hidden_size": DIM,
            "intermediate_size": 48, "num_attention_heads": 2, "num_spatial_layers": 2, "num_temporal_layers": 1,
            "num_auxiliary_layers": 1,
        },
        text_config={**_ATTENTION, "max_position_embeddings": CONTEXT, "vocab_size": VOCABULARY},
    )  # fmt: skip
    tokenizer = t.VideoPrismTokenizer(vocab=_pieces(("<pad>", "</s>", "<unk>")), extra_ids=0)
    picture = {
        "video_processor_type": "LlavaOnevisionVideoProcessor", "size": {"height": SIZE, "width": SIZE},
        "resample": 3, "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False,
    }  # fmt: skip
    model = _drawn(t.VideoPrismClipModel, config, seed)
    return _write(folder, model, tokenizer, {"video_preprocessor_config.json": picture})


def siglip(folder: Path, seed: int = 0) -> Path:
    """SigLIP: squash, lower case without punctuation, padded to its context always."""
    return _siglip(folder, _t5(), seed)


def siglip_2(folder: Path, seed: int = 0) -> Path:
    """SigLIP 2 of a fixed size: SigLIP's class, Gemma's pieces."""
    import transformers as t

    names = [piece for piece, _ in _pieces(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))]
    made = t.Siglip2Tokenizer(vocab={piece: i for i, piece in enumerate(names)}, merges=[])
    from tokenizers import processors

    made._tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return _siglip(folder, made, seed)


def clip(folder: Path, seed: int = 0) -> Path:
    """CLIP: crop, byte pairs, causal."""
    import transformers as t

    config = t.CLIPConfig(text_config=_clip_text(), vision_config=_vision(), projection_dim=24)
    return _write(folder, _drawn(t.CLIPModel, config, seed), _byte_pairs(), {"preprocessor_config.json": _crop()})


def metaclip_2(folder: Path, seed: int = 0) -> Path:
    """MetaCLIP 2: CLIP's towers, the pieces of XLM-RoBERTa, whose pad is 1."""
    import transformers as t

    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    text = {**_clip_text(), "vocab_size": VOCABULARY, **ends}
    config = t.MetaClip2Config(text_config=text, vision_config=_vision(), projection_dim=24)
    tokenizer = t.XLMRobertaTokenizer(vocab=_pieces(("<s>", "<pad>", "</s>", "<unk>"), VOCABULARY - 1))
    return _write(folder, _drawn(t.MetaClip2Model, config, seed), tokenizer, {"preprocessor_config.json": _crop()})


def chinese_clip(folder: Path, seed: int = 0) -> Path:
    """Chinese-CLIP: a BERT that masks its pads."""
    import transformers as t

    text = {**_ATTENTION, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
    config = t.ChineseCLIPConfig(text_config=text, vision_config=_vision(), projection_dim=24)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "on", "the", "red", "circle", "rain", "狗", "雨"]
    vocab = [*words, *(f"[unused{i}]" for i in range(VOCABULARY - len(words)))]
    tokenizer = t.BertTokenizer(vocab={word: i for i, word in enumerate(vocab)})
    picture = {"image_processor_type": "ChineseCLIPImageProcessor", **_squash(CLIP_STATISTICS)}
    return _write(folder, _drawn(t.ChineseCLIPModel, config, seed), tokenizer, {"preprocessor_config.json": picture})


def xclip(folder: Path, seed: int = 0) -> Path:
    """X-CLIP: a clip encoder of 4 frames over CLIP's towers."""
    import transformers as t

    mixing = {"mit_hidden_size": 24, "mit_intermediate_size": 48, "mit_num_hidden_layers": 1}
    vision = {**_vision(), **mixing, "mit_num_attention_heads": 2, "num_frames": FRAMES}
    config = t.XCLIPConfig(
        text_config=_clip_text(), vision_config=vision, projection_dim=24, prompt_layers=1, prompt_num_attention_heads=2
    )
    return _write(folder, _drawn(t.XCLIPModel, config, seed), _byte_pairs(), {"preprocessor_config.json": _crop()})


def pe_video(folder: Path, seed: int = 0) -> Path:
    """PE-Video: any number of frames, one vector a clip and no frames, a ModernBERT that masks its pads."""
    import transformers as t

    vision = {
        "architecture": "vit_tiny_patch16_224", "num_classes": 24, "initializer_range": 0.02, "do_pooling": True,
        "model_args": {
            "img_size": SIZE, "patch_size": 18, "embed_dim": DIM, "depth": 1, "num_heads": 2, "dynamic_img_size": False,
        },
    }  # fmt: skip
    config = t.PeVideoConfig(
        text_config={
            **_ATTENTION, "model_type": "modernbert", "vocab_size": VOCABULARY, "max_position_embeddings": 64,
            "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
        },
        video_config={**_ATTENTION, "head_dim": 16, "vision_config": vision, "num_key_value_heads": 2},
    )  # fmt: skip
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "on", "the", "red", "circle", "rain"]
    vocab = [*words, *(f"[unused{i}]" for i in range(VOCABULARY - len(words)))]
    tokenizer = t.BertTokenizer(vocab={word: i for i, word in enumerate(vocab)})
    picture = {"video_processor_type": "PeVideoVideoProcessor", **_squash(HALVES), "resample": 2}
    return _write(folder, _drawn(t.PeVideoModel, config, seed), tokenizer, {"video_preprocessor_config.json": picture})


def qwen3_vl(folder: Path, seed: int = 0) -> Path:
    """Qwen3-VL-Embedding: a language model that is asked in a chat; any number of frames, a token of text a byte."""
    import transformers as t

    tokenizer = t.Qwen2Tokenizer(vocab={letter: i for i, letter in enumerate(_bytes())}, merges=[])
    marks = ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{mark}|>" for mark in marks]})
    ids = {mark: tokenizer.convert_tokens_to_ids(f"<|{mark}|>") for mark in marks}
    config = t.Qwen3VLConfig(
        text_config={
            **_ATTENTION, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 264, "max_position_embeddings": 256,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
        },
        vision_config={
            "depth": 2, "hidden_size": DIM, "intermediate_size": 48, "num_heads": 2, "patch_size": 6,
            "out_hidden_size": DIM, "num_position_embeddings": 144, "deepstack_visual_indexes": [0],
        },
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"], vision_end_token_id=ids["vision_end"],
    )  # fmt: skip
    picture = {
        "video_processor_type": "Qwen3VLVideoProcessor", "patch_size": 6, "merge_size": 2, "temporal_patch_size": 2,
        "size": {"shortest_edge": 4096, "longest_edge": 25165824}, **HALVES,
    }  # fmt: skip
    model = _drawn(t.Qwen3VLModel, config, seed)
    return _write(folder, model, tokenizer, {"video_preprocessor_config.json": picture})


KINDS: dict[str, Callable[[Path, int], Path]] = {
    "videoprism": videoprism,
    "siglip": siglip,
    "siglip_2": siglip_2,
    "clip": clip,
    "metaclip_2": metaclip_2,
    "chinese_clip": chinese_clip,
    "xclip": xclip,
    "pe_video": pe_video,
    "qwen3_vl": qwen3_vl,
}


def _siglip(folder: Path, tokenizer: Any, seed: int) -> Path:
    import transformers as t

    text = {**_ATTENTION, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "projection_size": DIM}
    config = t.SiglipConfig(text_config=text, vision_config={**_ATTENTION, "image_size": SIZE, "patch_size": 18})
    picture = {"image_processor_type": "SiglipImageProcessor", **_squash(HALVES)}
    return _write(folder, _drawn(t.SiglipModel, config, seed), tokenizer, {"preprocessor_config.json": picture})


def _vision() -> dict[str, Any]:
    return {**_ATTENTION, "image_size": SIZE, "patch_size": 18}


def _clip_text() -> dict[str, Any]:
    ends = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    return {**_ATTENTION, "vocab_size": 514, "max_position_embeddings": CONTEXT, **ends}


def _crop() -> dict[str, Any]:
    square = {"height": SIZE, "width": SIZE}
    return {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIZE}, "crop_size": square,
        "do_center_crop": True, "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "resample": 3, **CLIP_STATISTICS,
    }  # fmt: skip


def _squash(statistics: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "size": {"height": SIZE, "width": SIZE}, "do_center_crop": False, "do_resize": True, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "resample": 3, **statistics,
    }  # fmt: skip


def _pieces(special: tuple[str, ...], size: int = VOCABULARY) -> list[tuple[str, float]]:
    """Return a unigram vocabulary: the special tokens, a few words, letters, and unused ones up to the size."""
    letters = [*(chr(i) for i in range(ord("a"), ord("z") + 1)), *(chr(i) for i in range(ord("A"), ord("Z") + 1))]
    named = [*_WORDS, *letters, *",.!?'0123456789"]
    fill = [f"<unused{i}>" for i in range(size - len(special) - len(named))]
    scored = [(word, -1.0 - i / 100) for i, word in enumerate(named)]
    return [*((s, 0.0) for s in special), *scored, *((f, -99.0) for f in fill)]


def _t5() -> Any:
    import transformers as t

    return t.T5Tokenizer(vocab=_pieces(("<pad>", "</s>", "<unk>")), extra_ids=0, pad_token="</s>")


def _byte_pairs() -> Any:
    """CLIP's tokenizer without merges: 256 bytes, 256 that end a word, start and end."""
    import transformers as t

    letters = _bytes()
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return t.CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])


def _bytes() -> list[str]:
    """Return how byte pairs write each byte."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def _drawn(kind: Any, config: Any, seed: int) -> Any:
    """Return a model of random weights in which nothing is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "logit" not in name:
                value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model


def _write(folder: Path, model: Any, tokenizer: Any, pictures: dict[str, dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    for name, said in pictures.items():
        (folder / name).write_text(json.dumps(said))
    return folder
