"""Writing a backbone as a folder that `local:FOLDER` (and open_clip's `local-dir:`) loads again."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save
from torch import nn

from tvr_cli import files
from tvr_cli.backbones.openclip.source import CONFIG, Source

WEIGHTS = "open_clip_model.safetensors"


def write(model: nn.Module, source: Source, folder: Path) -> None:
    """Write configurations, weights (fp32) and tokenizer into `folder`.

    The configuration is written last, so a folder that has one is whole.
    """
    config = dict(source.model)
    tensors = {k: v.detach().float().cpu().contiguous() for k, v in model.state_dict().items()}
    files.write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    _write_tokenizer(source, folder)
    if (of_hugging_face := getattr(getattr(model, "text", None), "config", None)) is not None:
        of_hugging_face.save_pretrained(str(folder))
    files.write_json(folder / CONFIG, {"model_cfg": config, "preprocess_cfg": source.pixels.settings()})


def cannot_write(source: Source) -> str:
    """Return in a few words why a model of this source cannot be written, empty if it can."""
    if not _has_own_tokenizer(source):
        return ""
    from open_clip import tokenizer

    writes = hasattr(tokenizer.HFTokenizer, "save_pretrained")
    return "" if writes else "this version of open_clip cannot write its tokenizer"


def _write_tokenizer(source: Source, folder: Path) -> None:
    if merges := source.tokenizer_options.get("bpe_path"):
        files.write_bytes(folder / "bpe.txt.gz", Path(merges).read_bytes())
    elif _has_own_tokenizer(source):
        source.hugging_face_tokenizer(offline=True).save_pretrained(str(folder))


def _has_own_tokenizer(source: Source) -> bool:
    """Whether it is read from Hugging Face's files; all others are CLIP's own merges, which open_clip ships."""
    return "bpe_path" not in source.tokenizer_options and "hf_tokenizer_name" in source.model.get("text_cfg", {})
