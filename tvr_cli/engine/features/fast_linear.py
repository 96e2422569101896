"""Inference on a CPU: the linear layers of a tower through the faster fp32 GEMM of this machine.

A tower spends nearly all its time in linear layers, and on AMD processors oneDNN multiplies faster than the BLAS that
torch calls by default, up to twice as fast (`tvr_kernels.gemm` measures which is faster and remembers it). Results
agree to rounding. Only for towers without gradients: training keeps torch's own layers.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tvr_kernels import gemm


def use_fast_linear(model: nn.Module) -> bool:
    """Let the linear and self-attention layers of an fp32 CPU model use the chosen GEMM; returns whether it does.

    Changes this instance's forward methods, for inference only. Does nothing on other devices and in other types, or
    where torch's own GEMM is the faster one.
    """
    parameter = next(model.parameters(), None)
    if (
        parameter is None
        or parameter.device.type != "cpu"
        or parameter.dtype != torch.float32
        or gemm.setting() == "mkl"
    ):
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
    """Return x W^T + b for x [..., K] and W [N, K]."""
    if torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    out = gemm.matmul(x.reshape(-1, x.shape[-1]), weight.T).view(*x.shape[:-1], -1)
    return out if bias is None else out.add_(bias)


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
