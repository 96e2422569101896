"""Weights files: finding them on this machine, and the sizes inside.

Nothing here touches the network (`backbones/hub.py` does). open_clip knows where each `ARCH/TAG` comes from: a file of
a repository on the Hugging Face hub, kept in its cache; some are at an address as well, and lie in `~/.cache/clip`
where it was open_clip that got them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli import commands
from tvr_cli.errors import DataError, EnvironmentProblem, advises_to_trust

_CLIP_CACHE = Path("~/.cache/clip")
_FOLDER_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)


@dataclass(frozen=True)
class Origin:
    """Where open_clip gets the weights of an `ARCH/TAG` from: an address, a hub repository, or both."""

    arch: str
    tag: str
    settings: Mapping[str, Any]

    @property
    def hub(self) -> tuple[str, list[str]] | None:
        """The repository and the file names it may hold, the one that open_clip takes first in front."""
        from open_clip import constants

        if not (place := self.settings.get("hf_hub", "")):
            return None
        repository, name = os.path.split(place)
        name = name or constants.HF_WEIGHTS_NAME
        safe = constants.HF_SAFE_WEIGHTS_NAME if name == constants.HF_WEIGHTS_NAME else Path(name).stem + ".safetensors"
        return repository, [safe] if safe == name else [safe, name]

    @property
    def address_file(self) -> Path | None:
        """The file in `~/.cache/clip` that weights from an address become."""
        url = self.settings.get("url", "")
        return _CLIP_CACHE.expanduser() / os.path.basename(url) if url else None

    def find(self) -> Path | None:
        """Return the weights file on this machine, or None. Looks in both caches, never on the network."""
        if self.hub is not None:
            from huggingface_hub import try_to_load_from_cache

            repository, names = self.hub
            for name in names:
                if isinstance(path := try_to_load_from_cache(repository, name), str):
                    return Path(path)
        return self.address_file if self.address_file is not None and self.address_file.is_file() else None

    def places(self) -> str:
        """Say which file is expected where, for people."""
        said = []
        if self.address_file is not None:
            said.append(f"{self.address_file.name!r} in {str(_CLIP_CACHE)!r}")
        if self.hub is not None:
            from huggingface_hub import constants

            repository, names = self.hub
            said.append(f"{names[0]!r} of the hub repository {repository!r} in {constants.HF_HUB_CACHE!r}")
        return " or ".join(said)

    def missing(self, why: str) -> EnvironmentProblem:
        return EnvironmentProblem(
            f"the weights of {self.arch}/{self.tag} are not on this machine {why}: expected {self.places()}. "
            f"Put the file there, get it on a machine with a network "
            f"({commands.tvr('backbones', 'get', f'{self.arch}/{self.tag}')}), or name any copy of the file with "
            f"--backbone {self.arch}@FILE"
        )


@contextlib.contextmanager
def no_remote_code(model: Mapping[str, Any]) -> Iterator[None]:
    """Refuse, where transformers would ask on the terminal, to run code that comes with a model or a tokenizer.

    model: open_clip's configuration. Raises DataError when there is such code and nothing else to load.
    """
    named = [name for key in ("hf_model_name", "hf_tokenizer_name") if (name := model["text_cfg"].get(key))]
    if not named:
        yield
        return
    try:
        from transformers import dynamic_module_utils as remote  # heavy: only where open_clip is going to import it
    except ImportError:
        yield
        return
    was, remote.TIME_OUT_REMOTE_CODE = remote.TIME_OUT_REMOTE_CODE, 0  # seconds that it waits for an answer
    try:
        yield
    except ValueError as e:
        if not advises_to_trust(e):
            raise
        raise DataError(
            f"the text model or tokenizer {' or '.join(map(repr, named))} brings code of its own, and tvr runs none "
            "that comes with a model; choose a backbone whose parts open_clip and transformers know by themselves"
        ) from e
    finally:
        remote.TIME_OUT_REMOTE_CODE = was


def folder_weights(folder: Path) -> Path:
    """Return the weights file of a folder with an `open_clip_config.json`, as open_clip would choose it.

    Raises EnvironmentProblem when there is none.
    """
    for name in _FOLDER_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    others = sorted(p for end in ("*.safetensors", "*.bin", "*.pth", "*.pt") for p in folder.glob(end))
    if others:
        return others[0]
    raise EnvironmentProblem(
        f"no weights in {str(folder)!r}: expected a file like {_FOLDER_WEIGHTS[0]!r} beside 'open_clip_config.json'"
    )


def openai_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer open_clip's model configuration from CLIP weights under OpenAI's names.

    Heads are width / 64 and the activation is QuickGELU: both are facts of OpenAI's releases, not of the file.
    Raises DataError when the names are not OpenAI's.
    """
    try:
        return {
            "embed_dim": state["text_projection"].shape[1],
            "quick_gelu": True,
            "vision_cfg": _vision_config(state),
            "text_cfg": {
                "context_length": state["positional_embedding"].shape[0],
                "vocab_size": state["token_embedding.weight"].shape[0],
                "width": state["ln_final.weight"].shape[0],
                "heads": max(1, state["ln_final.weight"].shape[0] // 64),
                "layers": _count(r"transformer\.resblocks\.(\d+)\.", state),
            },
        }
    except (KeyError, IndexError) as e:
        raise DataError(
            f"these are not CLIP weights under OpenAI's names ({e} is missing); say which architecture they are: "
            "--backbone ARCH@FILE, or local:FOLDER with an 'open_clip_config.json'"
        ) from e


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return a sha256 of tensors in memory: names, shapes, types and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tuple(value.shape)}:{value.dtype};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def _vision_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    if "visual.proj" in state:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        layers = _count(r"visual\.transformer\.resblocks\.(\d+)\.", state)
        return {
            "layers": layers,
            "width": width,
            "patch_size": patch,
            "image_size": patch * grid,
            "head_width": min(64, width),
        }
    grid = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    stages = [_count(rf"visual\.layer{i}\.(\d+)\.", state) for i in (1, 2, 3, 4)]
    width = state["visual.layer1.0.conv1.weight"].shape[0]
    return {"layers": stages, "width": width, "patch_size": None, "image_size": 32 * grid, "head_width": 64}


def _count(pattern: str, state: Mapping[str, Tensor]) -> int:
    return len({m.group(1) for name in state if (m := re.match(pattern, name))})
