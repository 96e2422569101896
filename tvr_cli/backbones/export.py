"""Writing a backbone as a folder that `local:FOLDER` (and open_clip's `local-dir:`) loads again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save

from tvr_cli import files
from tvr_cli.backbones.openclip import OpenClipBackbone
from tvr_cli.errors import EnvironmentProblem

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"


def save_folder(backbone: OpenClipBackbone, folder: Path) -> str:
    """Write configuration, weights (fp32) and tokenizer into `folder`; return the name that loads it.

    The configuration is written last, so a folder that has one is whole. Raises EnvironmentProblem for a tokenizer that
    cannot be written.
    """
    source = backbone.source
    folder.mkdir(parents=True, exist_ok=True)
    model = dict(source.model)
    tensors = {k: v.detach().float().cpu().contiguous() for k, v in backbone.model.state_dict().items()}
    files.write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    _write_tokenizer(backbone, folder, model)
    pixels = {"mean": list(source.mean), "std": list(source.std), "interpolation": "bicubic"}
    files.write_json(folder / CONFIG, {"model_cfg": model, "preprocess_cfg": pixels})
    return f"local:{folder.resolve()}"


def _write_tokenizer(backbone: OpenClipBackbone, folder: Path, model: dict[str, Any]) -> None:
    source = backbone.source
    if merges := source.tokenizer_options.get("bpe_path"):
        files.write_bytes(folder / "bpe.txt.gz", Path(merges).read_bytes())
        return
    if "hf_tokenizer_name" not in json.dumps(model.get("text_cfg", {})):
        return  # CLIP's own merges, which open_clip ships
    from open_clip import get_tokenizer

    tokenizer = get_tokenizer(source.tokenizer_name, **source.tokenizer_options)
    if not hasattr(tokenizer, "save_pretrained"):
        raise EnvironmentProblem(f"the tokenizer of {source.name!r} cannot be written to {str(folder)!r}")
    tokenizer.save_pretrained(str(folder))
