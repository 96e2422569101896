"""Inference on a CPU: a tower's linear layers through the faster fp32 GEMM of this machine, its activations in place.

A tower spends nearly all its time in linear layers, and on AMD processors oneDNN multiplies faster than the BLAS that
torch calls by default, up to twice as fast (`tvr_kernels.gemm` measures which is faster and remembers it). Results
agree to rounding. What is left is mostly the activation of the MLPs: one that makes a tensor of its own for every step
takes a fifth of CLIP's time, for memory that is new to the processor each time; a block of rows at a time, written
where it was read, takes a fiftieth. Only for towers without gradients: training keeps torch's own layers.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tvr_kernels import gemm

_ROWS = 128  # of an MLP's hidden layer: 1.5 MB at 3 072 numbers, which stays in the second-level cache


def use_fast_linear(model: nn.Module) -> bool:
    """Let the linear and self-attention layers of an fp32 CPU model use the chosen GEMM; returns whether it does.

    Changes this instance's forward methods, for inference only. Does nothing on other devices and in other types, or
    where torch's own GEMM is the faster one. The activations of its MLPs work in place on any CPU and in any type.
    """
    parameter = next(model.parameters(), None)
    if parameter is None or parameter.device.type != "cpu":
        return False
    for activation in _activations(model):
        activation.forward = functools.partial(_in_place, activation)
    if parameter.dtype != torch.float32 or gemm.setting() == "mkl":
        return False
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None and module.batch_first:
            module.forward = functools.partial(_self_attention, module)  # type: ignore[method-assign]
        elif type(module) is nn.Linear:
            module.forward = functools.partial(_linear, module)  # type: ignore[method-assign]
    return True


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    return _product(x, module.weight, module.bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias) if torch.is_grad_enabled() else gemm.linear(x, weight, bias)


def _activations(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the activations that a linear layer hands its own result to, which nothing else will read."""
    for module in model.modules():
        named = f"{type(module).__module__}.{type(module).__name__}"
        if isinstance(module, nn.Sequential) or named == "timm.layers.mlp.Mlp":  # their children run in their order
            for before, after in itertools.pairwise(module.children()):
                if type(before) is nn.Linear and type(after).__name__ in ("GELU", "QuickGELU") and _is_known(after):
                    yield after


@torch.no_grad()
def _is_known(activation: nn.Module) -> bool:
    """Whether the activation is, to the bit, what is written here."""
    x = torch.linspace(-8, 8, 256)[None]
    return torch.equal(type(activation).forward(activation, x), _in_place(activation, x.clone()))


def _in_place(module: nn.Module, x: Tensor) -> Tensor:
    """What the activation returns for x [..., K], written over x."""
    if torch.is_grad_enabled() or not x.is_contiguous():
        return type(module).forward(module, x)
    for block in x.view(-1, x.shape[-1]).split(_ROWS):
        if isinstance(module, nn.GELU):
            torch.ops.aten.gelu_(block, approximate=module.approximate)
        else:
            block.mul_(torch.sigmoid(1.702 * block))  # QuickGELU
    return x


def _self_attention(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """What nn.MultiheadAttention computes for q = k = v, [N, L, width], without weights.

    attn_mask: additive, [L, L], or [N * H, L, L] (CoCa masks its class token's pads caption by caption).
    """
    if query is not key or key is not value or need_weights or options:
        return nn.MultiheadAttention.forward(
            module, query, key, value, need_weights=need_weights, attn_mask=attn_mask, **options
        )
    packed = _product(query, module.in_proj_weight, module.in_proj_bias)  # [N, L, 3 width]
    q, k, v = packed.unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [N, H, L, width / H] each
    if attn_mask is not None and attn_mask.dim() == 3:
        attn_mask = attn_mask.unflatten(0, (-1, module.num_heads))  # [N, H, L, L]
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
    return _product(mixed.transpose(1, 2).flatten(2), module.out_proj.weight, module.out_proj.bias), None
