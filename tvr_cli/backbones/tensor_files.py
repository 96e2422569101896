"""Reading weights files of any library as data: safetensors, torch files and TorchScript archives, tensors only.

Nothing in a file is run, whatever it asks for (`torchscript.py`, docs/errors.md).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli.backbones import torchscript
from tvr_cli.errors import DataError, EnvironmentProblem, TvrError, reason

# What OpenAI's archives hold beside the parameters.
_NOT_PARAMETERS = ("input_resolution", "context_length", "vocab_size")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a weights file, see `read_tensors`; `module.` prefixes are dropped.

    Raises EnvironmentProblem when there is no such file, DataError when it holds no state dict.
    """
    if not path.is_file():
        raise EnvironmentProblem(f"no weights file at {str(path)!r}; give an existing one with --backbone")
    state = read_tensors(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DataError(f"{str(path)!r} holds no state dict; expected tensors by name")
    return {k.removeprefix("module."): v for k, v in state.items() if k not in _NOT_PARAMETERS}


def read_tensors(path: Path) -> Any:
    """Read what a safetensors file, a torch file or a TorchScript archive holds: the one place that opens them.

    Nothing in the file is run, so a torch file may hold tensors, containers, text and numbers only. Raises DataError,
    with what to do, for any other file.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if torchscript.is_archive(path):
            return torchscript.read(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's talk of pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except TvrError:
        raise
    except Exception as e:
        # Readers of two formats, and of whatever a pickle holds, raise what they like.
        refused = re.search(r"GLOBAL (\S+)", str(e))  # what torch would have had to import
        why = f"it holds more than tensors, and reading it would run {refused[1]}" if refused else reason(e)
        raise DataError(
            f"{str(path)!r} is not a readable weights file (safetensors, torch, or OpenAI's archive): {why}; "
            "expected model.state_dict(), written with torch.save or as safetensors"
        ) from e
