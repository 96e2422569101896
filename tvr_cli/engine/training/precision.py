"""Low precision, where a GPU gains from it, and the authors' half-precision towers, where a recipe asks for them."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from tvr_cli.backbones.base import Backbone
from tvr_cli.config import TrainConfig
from tvr_cli.errors import EnvironmentProblem


def towers(train: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which the backbone runs: bf16 autocast over fp32 weights, or nothing.

    The method is never inside: scores and losses are fp32. Raises EnvironmentProblem for bf16 without a GPU, where it
    would be slower (the weights are cast again in every call).
    """
    if train.precision == "fp32":
        return contextlib.nullcontext()
    if device.type != "cuda":
        raise EnvironmentProblem(
            f"train.precision: bf16 needs a CUDA device, this run uses {device.type}; leave it at fp32"
        )
    return torch.autocast("cuda", torch.bfloat16)


def to_half_towers(backbone: Backbone) -> None:
    """Store what the authors' runs store in fp16: linear and convolution weights, attention, projections.

    Layer norms, embeddings and the logit scale stay fp32, layer norms compute in fp32, and the optimizer's moments take
    the parameters' type: at small rates they under- and overflow (docs/training.md). Source: OpenAI's convert_weights.
    """
    backbone.to_half()
    for module in backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.float()
            module.register_forward_pre_hook(_to_fp32)
            module.register_forward_hook(_to_fp16)


def _to_fp32(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x.float() for x in args)


def _to_fp16(module: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
    return out.half()
