"""The per-caption and per-clip parts of X-Pool: everything that the D x D matrices touch.

Written for a clip with frames z_f, kappa_f = LN1(z_f) and the centring P = I - 11^T / D:
  K_f = W_q^T (W_k kappa_f + b_k)                 logits_f = (<LN1(t), K_f> + <b_q, W_k kappa_f + b_k>) / sqrt(D)
  A_f = P (W_o (W_v kappa_f + b_v) + b_o)         LN2's input, centred, is sum_f w_f A_f (the biases fold: sum w = 1)
  B_f = P (I + W_l)(g2 * A_f),  e = P ((I + W_l) b2 + b_l)
                                                  LN3's input, centred, is sum_f u_f B_f + e with u = w / sigma2
  R_f = g3 * B_f,  r = g3 * e                     y = (sum_f u_f R_f + r) / sigma3 + b3
The D x D products are formed once a call, so a frame costs three matrix-vector products (K, A, B) instead of five.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, normalize

from tvr_kernels.gemm import matmul

if TYPE_CHECKING:
    from tvr_kernels.xpool import XPoolWeights


def text_side(text: Tensor, w: XPoolWeights) -> dict[str, Tensor]:
    """Return text [T, D] raw, query [T, D] = LN1(t), unit [T, D], offset [T] = <unit, r>, bias [T] = <unit, b3>."""
    unit = normalize(text, dim=-1)
    shift = _centred((w.linear_weight @ w.norm2_bias) + w.norm2_bias + w.linear_bias)
    return {
        "text": text,
        "query": layer_norm(text, text.shape[-1:], w.norm1_weight, w.norm1_bias, w.eps),
        "unit": unit,
        "offset": unit @ (w.norm3_weight * shift),
        "bias": unit @ w.norm3_bias,
    }


def video_side(frames: Tensor, w: XPoolWeights, frame_mask: Tensor) -> dict[str, Tensor]:
    """Return frames and frame_mask as given, key [V, F, D] = K / sqrt(D), key_bias [V, F] (-inf where missing),
    value [V, F, D] = R, forms [V, 3 F + 3, F] and constants [V, 4].

    forms: the Gram matrices of A / sqrt(D) (LN2's variance), B / sqrt(D) (LN3's) and R (the output's length), then one
    row each: <B_f, e> / D, <R_f, r>, <R_f, b3>. constants: |e|^2 / D, |r|^2, <r, b3>, |b3|^2 (the same for all clips).
    """
    V, F, D = frames.shape
    kappa = layer_norm(frames, (D,), w.norm1_weight, w.norm1_bias, w.eps).reshape(V * F, D)
    to_key = matmul(w.query_weight.T, w.key_weight)
    to_a = _centred(matmul(w.out_weight, w.value_weight).T)  # [in, out]: A = kappa @ to_a + of_a
    of_a = _centred(w.out_weight @ w.value_bias + w.out_bias)
    residual = _centred((w.linear_weight * w.norm2_weight + torch.diag(w.norm2_weight)).T)  # g2 * x -> P (I + W_l) x
    e = _centred((w.linear_weight @ w.norm2_bias) + w.norm2_bias + w.linear_bias)
    key = (matmul(kappa, to_key.T) + w.key_bias @ w.query_weight).view(V, F, D) * D**-0.5
    key_bias = ((kappa @ (w.query_bias @ w.key_weight) + w.query_bias @ w.key_bias) * D**-0.5).view(V, F)
    a = (matmul(kappa, to_a) + of_a).view(V, F, D)
    b = (matmul(kappa, matmul(to_a, residual)) + of_a @ residual).view(V, F, D)
    value, r = b * w.norm3_weight, e * w.norm3_weight
    rows = torch.stack([b @ (e / D), value @ r, value @ w.norm3_bias], dim=1)  # [V, 3, F]
    forms = torch.cat([a @ a.mT / D, b @ b.mT / D, value @ value.mT, rows], dim=1)
    constants = torch.stack([e @ e / D, r @ r, r @ w.norm3_bias, w.norm3_bias @ w.norm3_bias])
    return {
        "frames": frames,
        "frame_mask": frame_mask,
        "key": key,
        "key_bias": key_bias.masked_fill(~frame_mask, -torch.inf),
        "value": value,
        "forms": forms,
        "constants": constants.expand(V, 4),
    }


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)
