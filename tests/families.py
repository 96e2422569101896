"""Families of encoders, each as open_clip builds it from the real configuration, small enough to be made by a test.

Towers have two layers, vocabularies at most 8 000 tokens, weights are random; everything else is the family's own: the
configuration, how its published weights were shown pictures (from open_clip's table of tags), and a tokenizer of the
same class with pieces of its own. `measure` compares what tvr makes of pictures and captions with open_clip's calls.
"""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from open_clip.tokenizer import default_bpe
from parity_table import ParityTable, cosine_text, error_text
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from tvr_cli.backbones import load
from tvr_cli.backbones.base import Backbone
from tvr_cli.plans import FramePlan
from tvr_cli.stores.decoding.sample import encode_jpeg
from tvr_cli.stores.frames.picture import see, to_store
from tvr_cli.stores.frames.store import decode_jpeg

LAYERS, VOCABULARY = 2, 8000
SHAPES = {"16:9": (360, 640), "9:16": (640, 360), "4:3": (480, 640), "tiny": (72, 96)}  # height, width
TEXTS = ("a dog surfing on a small wave", "", "Two people, and a very very long line of words " * 12)


@dataclass(frozen=True)
class Family:
    """arch, tag: open_clip's. tokenizer: of `STAND_INS`, None = CLIP's byte pairs. text_model: of `TEXT_MODELS`."""

    name: str
    arch: str
    tag: str
    tokenizer: str | None = None
    text_model: str | None = None


FAMILIES = (
    Family("CLIP (OpenAI)", "ViT-B-32-quickgelu", "openai"),
    Family("CLIP (LAION)", "ViT-B-32", "laion2b_s34b_b79k"),
    Family("CLIP (DataComp)", "ViT-L-14", "datacomp_xl_s13b_b90k"),
    Family("DFN-2B", "ViT-B-16", "dfn2b"),
    Family("DFN-5B", "ViT-H-14-quickgelu", "dfn5b"),
    Family("EVA02-CLIP", "EVA02-B-16", "merged2b_s8b_b131k"),
    Family("SigLIP", "ViT-B-16-SigLIP", "webli", "sentencepiece"),
    Family("SigLIP i18n", "ViT-B-16-SigLIP-i18n-256", "webli", "sentencepiece"),
    Family("SigLIP 2", "ViT-B-16-SigLIP2", "webli", "gemma"),
    Family("PE-Core T", "PE-Core-T-16-384", "meta"),
    Family("PE-Core S", "PE-Core-S-16-384", "meta"),
    Family("PE-Core B", "PE-Core-B-16", "meta"),
    Family("PE-Core L", "PE-Core-L-14-336", "meta"),
    Family("MobileCLIP2", "MobileCLIP2-S0", "dfndr2b"),
    Family("CoCa", "coca_ViT-B-32", "laion2b_s13b_b90k"),
    Family("CLIPA", "ViT-L-14-CLIPA", "datacomp1b", "bert"),
    Family("MetaCLIP 2", "ViT-H-14-worldwide-quickgelu", "metaclip2_worldwide", "xlm"),
    Family("xlm-roberta", "xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k", "xlm", "xlm-roberta"),
    Family("NLLB-CLIP", "nllb-clip-base", "v1", "nllb", "m2m_100"),
    Family("NLLB-CLIP (SigLIP)", "nllb-clip-base-siglip", "v1", "nllb", "m2m_100"),
    Family("mT5", "mt5-base-ViT-B-32", "", "sentencepiece-0", "mt5"),
)
# What the text models of Hugging Face are configured as, but for layers and vocabulary.
TEXT_MODELS: Mapping[str, dict[str, Any]] = {
    "xlm-roberta": {
        "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": LAYERS,
        "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
        "layer_norm_eps": 1e-5,
    },
    "m2m_100": {
        "d_model": 1024, "encoder_layers": LAYERS, "decoder_layers": 1, "encoder_attention_heads": 16,
        "decoder_attention_heads": 16, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 256, "pad_token_id": 1,
        "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 1024, "scale_embedding": True,
    },
    "mt5": {
        "d_model": 768, "d_ff": 2048, "d_kv": 64, "num_heads": 12, "num_layers": LAYERS, "num_decoder_layers": 1,
        "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """How far tvr is from open_clip. Errors are the largest difference of a value, as a share of the largest value.

    tokens: None where the family has none. ids_equal: real ids, and pads as the tower saw them. Cosines of a picture's
    vector with open_clip's: direct, the lowest of `SHAPES` from the decoded frame; stored, each of them from a whole
    store of JPEG 90; by_them, the same pictures of that store shown to open_clip's own transform and tower.
    """

    about: Any
    image: float
    text: float
    tokens: float | None
    ids_equal: bool
    direct: float
    stored: dict[str, float]
    by_them: dict[str, float]


def measure(family: Family, folder: Path) -> Measured:
    """Make a family in `folder`, load it by both and compare."""
    with two_layers():
        oracle, settings = write(family, folder)
        backbone = load(f"local:{folder}", offline=True)
    tokenizer = open_clips_tokenizer(family, folder, oracle)
    with torch.no_grad():
        image = _error(*_square(backbone, oracle, settings))
        text, tokens, ids_equal = _captions(backbone, oracle, tokenizer)
        direct, stored, by_them = _pictures(backbone, oracle, settings)
    return Measured(backbone.about, image, text, tokens, ids_equal, direct, stored, by_them)


@contextmanager
def two_layers() -> Iterator[None]:
    """Let timm build towers of two layers in the block, of those that are stacks of equal layers."""
    import timm

    whole = timm.create_model

    def small(name: str, *words: Any, **options: Any) -> nn.Module:
        stacked = name.startswith(("vit_", "eva02_"))
        return whole(name, *words, **({"depth": LAYERS} if stacked else {}), **options)

    with mock.patch.object(timm, "create_model", small):
        yield


def write(family: Family, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Write what `local:FOLDER` reads; returns open_clip's own model of it and its preprocessing."""
    import open_clip
    from open_clip.model import get_model_preprocess_cfg
    from open_clip.pretrained import get_pretrained_cfg

    folder.mkdir(parents=True, exist_ok=True)
    model = small_configuration(family)
    tag = get_pretrained_cfg(family.arch, family.tag) or get_pretrained_cfg(
        family.arch.removesuffix("-quickgelu"), family.tag
    )
    pixels = {k: tag[k] for k in ("mean", "std", "interpolation", "resize_mode")} if family.tag else {}
    if family.text_model is not None:
        about = {"model_type": family.text_model, "vocab_size": VOCABULARY, **TEXT_MODELS[family.text_model]}
        (folder / "config.json").write_text(json.dumps(about))
    if family.tokenizer is None:
        write_merges(folder / "bpe.txt.gz")
    else:
        STAND_INS[family.tokenizer]().save_pretrained(str(folder))
    own = copy.deepcopy(model)
    if family.text_model is not None:
        own["text_cfg"]["hf_model_name"] = str(folder)  # open_clip asks the hub for it otherwise
    config = folder / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": own, "preprocess_cfg": pixels}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        oracle = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False).eval()
        _leave_no_zeros(oracle)
    config.write_text(json.dumps({"model_cfg": model, "preprocess_cfg": pixels}))
    state = {name: value.contiguous() for name, value in oracle.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return oracle, get_model_preprocess_cfg(oracle)


def small_configuration(family: Family) -> dict[str, Any]:
    """Return open_clip's configuration of a family, cut to two layers and 8 000 tokens."""
    from open_clip import get_model_config

    model = copy.deepcopy(get_model_config(family.arch))
    vision, text = model["vision_cfg"], model["text_cfg"]
    if "timm_model_name" not in vision:
        vision["layers"] = LAYERS
    for part in [text, *([model["multimodal_cfg"]] if "multimodal_cfg" in model else [])]:
        part["vocab_size"] = min(VOCABULARY, part.get("vocab_size", 49408))
        if "hf_model_name" not in part:
            part["layers"] = LAYERS
    return model


def write_merges(path: Path) -> None:
    """Write the first of CLIP's merges, for a vocabulary of 8 000."""
    merges = gzip.decompress(Path(default_bpe()).read_bytes()).decode().split("\n")[1 : VOCABULARY - 512 - 2 + 1]
    path.write_bytes(gzip.compress(("#version: test\n" + "\n".join(merges)).encode(), mtime=0))


# ---------------------------------------------------------------------------------------------------------- tokenizers


def _pieces(special: tuple[str, ...], size: int = VOCABULARY) -> list[tuple[str, float]]:
    """Return a unigram vocabulary: the special tokens, a few words, letters, and unused ones up to the size."""
    words = ["▁a", "▁dog", "▁on", "▁small", "▁wave", "surf", "ing", "▁two", "▁people", "▁and", "▁very", "▁line", "▁"]
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    named = [*words, *letters, *(c.upper() for c in letters), *",.!?'0123456789"]
    fill = [f"<unused{i}>" for i in range(size - len(special) - len(named))]
    return [
        *((s, 0.0) for s in special),
        *((w, -1.0 - i / 100) for i, w in enumerate(named)),
        *((f, -99.0) for f in fill),
    ]


def _sentencepiece(pad: str = "</s>") -> Any:
    """SigLIP's: T5's class; its end token pads as well."""
    import transformers

    special = ("<pad>", "</s>", "<unk>")
    return transformers.T5Tokenizer(vocab=_pieces(special), extra_ids=0, pad_token=pad)


def _gemma() -> Any:
    """SigLIP 2's: byte pairs without a start token and with an end token."""
    from tokenizers import Tokenizer, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<eos>", "<bos>", "<unk>")
    vocab = {piece: i for i, (piece, _) in enumerate(_pieces(special))}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def _bert() -> Any:
    import transformers

    words = [
        "a",
        "dog",
        "surfing",
        "on",
        "small",
        "wave",
        "two",
        "people",
        ",",
        "and",
        "very",
        "long",
        "line",
        "of",
        "words",
    ]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    size = round(0.954 * VOCABULARY)  # the share of CLIPA's table that BERT fills
    fill = [f"[unused{i}]" for i in range(size - len(words) - len(special))]
    return transformers.BertTokenizer(vocab={w: i for i, w in enumerate([*special, *words, *fill])})


def _xlm() -> Any:
    import transformers

    vocab = _pieces(("<s>", "<pad>", "</s>", "<unk>"), VOCABULARY - 1)
    return transformers.XLMRobertaTokenizer(vocab=[*vocab, ("<mask>", 0.0)])


def _nllb() -> Any:
    """NLLB's: two tokens fewer than the tower's table."""
    import transformers

    pieces = [(p.replace("▁", "▁"), s) for p, s in _pieces(("<s>", "<pad>", "</s>", "<unk>"), VOCABULARY - 2 - 204)]
    made = transformers.NllbTokenizer(vocab={p: i for i, (p, _) in enumerate(pieces)}, merges=[], src_lang="eng_Latn")
    return made


STAND_INS: Mapping[str, Callable[[], Any]] = {
    "sentencepiece": _sentencepiece,
    "sentencepiece-0": lambda: _sentencepiece("<pad>"),
    "gemma": _gemma,
    "bert": _bert,
    "xlm": _xlm,
    "nllb": _nllb,
}


# ---------------------------------------------------------------------------------------------------------- comparisons


def picture(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return a picture like a decoded frame: smoother than a photograph (amplitude 1 / frequency), with a few edges."""
    rng = np.random.default_rng(seed)
    height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width)
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        phase = np.exp(2j * np.pi * rng.random(frequency.shape))
        plane = np.fft.irfft2(phase / frequency**1.5, s=shape)
        planes.append(plane / plane.std())
    grey, *colours = planes
    image = np.stack([grey + 0.3 * c for c in (colours[0], colours[1], -colours[0])], -1) * 45 + 120
    for _ in range(6):
        top, left = rng.integers(0, height * 3 // 4), rng.integers(0, width * 3 // 4)
        image[top : top + height // 5, left : left + width // 6] += rng.normal(0, 40, 3)
    return image.clip(0, 255).astype(np.uint8)


def _leave_no_zeros(model: nn.Module) -> None:
    """Move what starts at zero or one away from it, so that nothing is left out unseen and all depends on the input."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            size = value[0].numel() ** -0.5 if value.ndim else 1.0
            if value.ndim >= 2 and float(value.std()) < (0.5 * size if value.ndim == 4 else 1e-3):
                value.copy_(noise * size)  # what timm starts at (nearly) nothing
            elif value.ndim == 1 and "logit" not in name:
                value.add_(0.1 * noise)


def open_clips_tokenizer(family: Family, folder: Path, oracle: Any) -> Any:
    from open_clip import get_tokenizer
    from open_clip.tokenizer import SimpleTokenizer

    if family.tokenizer is None:
        return SimpleTokenizer(bpe_path=str(folder / "bpe.txt.gz"), context_length=oracle.context_length)
    return get_tokenizer(f"local-dir:{folder}")


def transformed(image: np.ndarray, settings: dict[str, Any]) -> Tensor:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(**settings), is_train=False)(Image.fromarray(image))


def _theirs(oracle: Any, images: Tensor) -> Tensor:
    out: Tensor = oracle.encode_image(images, normalize=False)
    return out


def _ours(backbone: Backbone, squares: list[np.ndarray]) -> Tensor:
    pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)[None]
    return backbone.encode_frames(pixels, torch.ones(1, len(squares), dtype=torch.bool))[0]


def _square(backbone: Backbone, oracle: Any, settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    images = [picture((backbone.image_size,) * 2, seed) for seed in (1, 2)]
    wanted = torch.stack([transformed(image, settings) for image in images])
    return _ours(backbone, images), _theirs(oracle, wanted)


def _captions(backbone: Any, oracle: Any, tokenizer: Any) -> tuple[float, float | None, bool]:
    """Compare captions of the full context: (error of pooled, of tokens, whether all ids are equal)."""
    wanted_ids = tokenizer(list(TEXTS))
    length = min(wanted_ids.shape[1], backbone.context_length)
    ids, n_tokens = backbone.tokenize(TEXTS, length)
    seen: list[Tensor] = []
    side = backbone._text
    tower = side._tower
    hook = (tower if side.masks_pads else tower.token_embedding).register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    pooled, tokens = backbone.encode_text(ids)
    hook.remove()
    real = torch.arange(length)[None] < n_tokens[:, None]
    ids_equal = bool((ids == wanted_ids[:, :length])[real].all())
    own = seen[0]
    ids_equal &= bool((own == wanted_ids[:, : own.shape[1]]).all())
    states: list[Tensor] = []
    theirs = getattr(oracle, "text", oracle)
    norm = getattr(theirs, "ln_final", None)
    if norm is not None:
        hook = norm.register_forward_hook(lambda module, args, out: states.append(out))
    wanted = oracle.encode_text(wanted_ids, normalize=False)
    if norm is not None:
        hook.remove()
    if tokens is None:
        return _error(pooled, wanted), None, ids_equal
    projection = theirs.text_projection
    projected = projection(states[0]) if isinstance(projection, nn.Linear) else states[0] @ projection
    return _error(pooled, wanted), _error(tokens, projected[:, :length]), ids_equal


def _pictures(
    backbone: Backbone, oracle: Any, settings: dict[str, Any]
) -> tuple[float, dict[str, float], dict[str, float]]:
    """Return `Measured.direct`, `stored` and `by_them`."""
    view, size = backbone.about.view, max(224, backbone.image_size)
    images = [picture(shape, 3) for shape in SHAPES.values()]
    plan = FramePlan(size=size, fit="whole", short_side=size)
    kept = [decode_jpeg(encode_jpeg(to_store(image, plan), plan.quality)) for image in images]

    def theirs(pictures: list[np.ndarray]) -> Tensor:
        return _theirs(oracle, torch.stack([transformed(image, settings) for image in pictures]))

    def ours(pictures: list[np.ndarray]) -> Tensor:
        return _ours(backbone, [see(image, view) for image in pictures])

    wanted = theirs(images)
    direct, stored, by_them = (
        [float(c) for c in torch.nn.functional.cosine_similarity(found, wanted, dim=-1)]
        for found in (ours(images), ours(kept), theirs(kept))
    )
    return min(direct), dict(zip(SHAPES, stored, strict=True)), dict(zip(SHAPES, by_them, strict=True))


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))


# --------------------------------------------------------------------------------------------------------------- table

TABLE = ParityTable(
    ("family", "configuration", "pixels, fit, filter; context, dim", "image", "text", "tokens", "decoded", *SHAPES),
    words=3,
    begin="<!-- parity: scripts/make_parity_table.py -->\n",
    end="<!-- end of parity -->",
)


def table(rows: Mapping[Family, Measured]) -> str:
    """Return the table of docs/backbones.md."""
    return TABLE.text([_row(family, found) for family, found in rows.items()])


def _row(family: Family, found: Measured) -> list[str]:
    about = found.about
    return [
        family.name,
        f"`{family.arch}{'/' if family.tag else ''}{family.tag}`",
        f"{about.image_size}, {about.fit}, {about.filter}; {about.context_length}, {about.dim}",
        *(error_text(error) for error in (found.image, found.text, found.tokens)),
        *(cosine_text(cosine) for cosine in (found.direct, *found.stored.values())),
    ]
