"""The authors' training loops, restated from the specs in the plainest form: pair tensors, no folding, no modules.

A loss is a function of named parameters, a batch and the draws; `train` is the loop around it: global clip, BertAdam
(or AdamW) written out per tensor, logit scale clamped. Nothing here imports the code that it checks, except the draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = Mapping[str, Tensor]
State = dict[str, Any]


@dataclass
class Batch:
    """t: [B, D] captions. w: [B, L, D] words. marks: [B, L] importance. x: [B, F, D] frames. m: [B, F] 0/1 mask."""

    t: Tensor
    w: Tensor
    marks: Tensor
    x: Tensor
    m: Tensor


Loss = Callable[[Parameters, Batch, Any, State], Tensor]


# ------------------------------------------------------------------------------------------------------------- pieces


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def norm(p: Parameters, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def block(p: Parameters, name: str, x: Tensor, bias: Tensor | float, eps: float) -> Tensor:
    """CLIP's residual block on [N, tokens, width]; bias is added to the attention logits [N, heads, query, key]."""
    n, tokens, width = x.shape
    heads = width // 64
    h = norm(p, f"{name}.ln_1", x, eps)
    qkv = h @ p[f"{name}.attn.in_proj_weight"].T + p[f"{name}.attn.in_proj_bias"]
    q, k, v = (part.view(n, tokens, heads, 64).transpose(1, 2) for part in qkv.split(width, dim=-1))
    attention = (q @ k.transpose(-1, -2) / 8.0 + bias).softmax(-1)
    x = x + linear(p, f"{name}.attn.out_proj", (attention @ v).transpose(1, 2).reshape(n, tokens, width))
    hidden = linear(p, f"{name}.mlp.c_fc", norm(p, f"{name}.ln_2", x, eps))
    return x + linear(p, f"{name}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))


def temporal(p: Parameters, x: Tensor, m: Tensor) -> Tensor:
    """z = x + Blocks(x + E), missing frames masked as keys by -1e6; layer norms with epsilon 1e-12."""
    h = x + p["frame_position_embeddings.weight"][: x.shape[1]]
    bias = (-1e6 * (1 - m))[:, None, None, :]
    layers = 1 + max(int(n.split(".")[2]) for n in p if n.startswith("transformerClip.resblocks."))
    for layer in range(layers):
        h = block(p, f"transformerClip.resblocks.{layer}", h, bias, 1e-12)
    return x + h


def nce(s: Tensor) -> Tensor:
    return -0.5 * (s.log_softmax(1).diagonal().mean() + s.log_softmax(0).diagonal().mean())


# ---------------------------------------------------------------------------------------------------------- the losses


def gare(p: Parameters, b: Batch, draws: Any, state: State) -> Tensor:
    """Specification of GARE, sections 2.4, 3, 4, 5; tau 3, dropout 0.3, official weights."""
    t, v, n, d = b.t, temporal(p, b.x, b.m), len(b.t), b.t.shape[1]
    layer = "psi.layers.0"
    gap = v.mean(1)[None] - t[:, None]  # [T, V, D], padding included in the mean
    q = linear(p, f"{layer}.cross_attn.q_proj", norm(p, f"{layer}.layer_norm1", gap))
    seen = norm(p, f"{layer}.layer_norm1", v)
    k, h = linear(p, f"{layer}.cross_attn.k_proj", seen), linear(p, f"{layer}.cross_attn.v_proj", seen)
    attention = (torch.einsum("ijd,jfd->ijf", q, k) / math.sqrt(d)).softmax(-1)
    o = linear(p, f"{layer}.cross_attn.out_proj", torch.einsum("ijf,jfd->ijd", attention, h))
    o = norm(p, f"{layer}.layer_norm2", o)
    keep = draws.keep("increment", (n, n, d), 0.3).to(t) / 0.7
    delta = linear(p, "psi.mean_proj", norm(p, f"{layer}.layer_norm3", o + keep * linear(p, f"{layer}.linear1", o)))
    weights = (torch.einsum("id,jfd->ijf", t, v) / 3.0).softmax(-1) * b.m[None]
    pooled = torch.einsum("ijf,jfd->ijd", weights, v)
    s = (unit(t[:, None] + delta) * unit(pooled)).sum(-1)
    contrastive = nce(p["logit_scale"].exp() * s)
    mean, std = delta.mean(0), delta.std(0) + 1e-6
    kl = (0.5 * (std**2 + mean**2 - 1 - (std**2).log())).sum(-1).mean()
    u = delta / delta.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    similar = torch.einsum("ijd,ikd->ijk", u, u)
    direction = ((-2.0 * (1 - similar)).exp().sum((1, 2)) / n**2 + 1e-8).log().mean()
    spread = -delta.norm(dim=-1).var(1).mean()
    gated = spread if spread >= -0.5 else 0.0 * spread
    return contrastive + 1e-4 * kl + 0.01 * direction + 0.01 * gated


def glccl(p: Parameters, b: Batch, draws: Any, state: State) -> Tensor:
    """Specification of GLCCL, sections 3 to 7; lambda 0.5."""
    z, n = temporal(p, b.x, b.m), len(b.t)

    def pool(q: Tensor) -> Tensor:  # [..., D] -> [..., V, D]
        weights = (torch.einsum("...d,vfd->...vf", q, z) / 5.0).softmax(-1)
        return unit(torch.einsum("...vf,vfd->...vd", weights, z))

    def attend(c: Tensor, a: Tensor) -> Tensor:  # B(c; A) over the last axis
        return torch.einsum("...j,...i,ij->...", c, (c / 0.01).softmax(-1), a)

    s, w, g, f = unit(b.t), unit(b.w), pool(b.t), pool(b.w)  # g: [T, V, D], f: [T, L, V, D]
    vs = torch.einsum("td,tvd->tv", s @ p["global_mat_weight"], g)
    vw = attend(torch.einsum("tld,tvd->tvl", w, g), p["word_logit_weight"])
    sf = attend(torch.einsum("td,tlvd->tvl", s, f), p["word_frame_logit_weight"])
    table = torch.einsum("tid,tjvd->tvij", w @ p["local_mat_weight"], f)
    r = attend(table.transpose(-1, -2), p["word_mat_weight"])
    q = attend(table, p["word_frame_mat_weight"])
    fw = 0.5 * (attend(r, p["word_frame_mat_weight2"]) + attend(q, p["word_mat_weight2"]))
    scaled = p["logit_scale"].exp() * torch.stack([vs, vw, sf, fw])
    variance = scaled.var(0)
    apart = 1 - torch.eye(n, dtype=b.t.dtype)
    csc = variance.diagonal().mean() / ((variance * apart).sum() / n**2)
    return nce(scaled.mean(0)) + 0.5 * csc


def tcmgc(p: Parameters, b: Batch, draws: Any, state: State) -> Tensor:
    """Specification of TC-MGC, sections 2 to 5; keep rate from the size of A, lambda 100, dropout 0.3, SDR 0.5."""
    z, n, (words, d) = temporal(p, b.x, b.m), len(b.t), b.w.shape[1:]
    pooling = "conditional_transformer.pool_frames"
    kappa = norm(p, f"{pooling}.layer_norm1", z)

    def pool(q: Tensor, keep: Tensor) -> Tensor:  # q: [T, Q, D], keep: [T, V, Q, D] -> [T, V, Q, D]
        q = norm(p, f"{pooling}.layer_norm1", q)
        attention = (torch.einsum("tqd,vfd->tvqf", q, kappa) / math.sqrt(d)).softmax(-1)
        u = norm(p, f"{pooling}.layer_norm2", torch.einsum("tvqf,vfd->tvqd", attention, kappa))
        return unit(norm(p, f"{pooling}.layer_norm3", u + keep / 0.7 * linear(p, f"{pooling}.linear_proj", u)))

    def attend(c: Tensor, a: Tensor) -> Tensor:
        return ((100.0 * ((100.0 * c).softmax(-1) @ a)).softmax(-1) * c).sum(-1)

    for_words = [draws.keep(f"dropout_frame.{i}", (n, words, d), 0.3) for i in range(n)]
    for_sentence = [draws.keep(f"dropout_video.{i}", (n, d), 0.3) for i in range(n)]
    f = pool(b.w, torch.stack(for_words).to(b.t))  # [T, V, L, D]
    g = pool(b.t[:, None], torch.stack(for_sentence)[:, :, None].to(b.t))[:, :, 0]  # [T, V, D]
    s, w = unit(b.t), unit(b.w)
    kept = len(p["attentive_word_logit_weight"])
    vs = torch.einsum("td,tvd->tv", s @ p["global_mat_weight"], g)
    c = torch.einsum("tld,tvd->tvl", w, g)
    vw = attend(c.topk(kept).values, p["attentive_word_logit_weight"])
    e = torch.einsum("td,tvld->tvl", s, f).sort(-1, descending=True).values
    rest = (e[..., kept:].softmax(-1) * e[..., kept:]).sum(-1, keepdim=True)
    sf = attend(torch.cat([e[..., :kept], rest], -1), p["concat_frame_word_logit_weight"])
    table = torch.einsum("tid,tvjd->tvij", w @ p["local_mat_weight"], f)
    ranked = table.topk(kept, dim=2).values.topk(kept, dim=3).values
    r = attend(ranked.transpose(-1, -2), p["attentive_word_mat_weight"])
    q = attend(ranked, p["attentive_frame_word_mat_weight"])
    fw = 0.5 * (attend(r, p["attentive_frame_word_mat_weight2"]) + attend(q, p["attentive_word_mat_weight2"]))
    scaled = p["logit_scale"].exp() * torch.stack([vs, vw, sf, fw], -1)  # [T, V, 4]
    fused = ((scaled @ p["logit_weight"]).softmax(-1) * scaled).sum(-1)
    return nce(fused) + 0.5 * scaled.var(-1).diagonal().mean()


def dmae(p: Parameters, b: Batch, draws: Any, state: State) -> Tensor:
    """Specification of DMAE, sections 3, 5, 6: att_wti with the temporal head, NFC, TWM, NegNCE, partial type 4."""
    t, w, v, m = unit(b.t), unit(b.w), unit(b.x), b.m
    marks, seen = b.marks.to(t), (b.marks > 0).to(t)
    z = temporal(p, v, m)
    beta = linear(p, "video_weight_fc", z)[..., 0].masked_fill(m == 0, -torch.inf).softmax(-1)
    alpha = linear(p, "text_weight_fc", w)[..., 0].masked_fill(marks == 0, -torch.inf).softmax(-1)
    gram = torch.einsum("vfd,vgd->vfg", z, z) * m[:, :, None] * m[:, None, :] * (1 - torch.eye(z.shape[1]).to(t))
    near, neighbour = gram.max(-1)

    def branch(q: Tensor, importance: Tensor, clamped: Tensor, share: Tensor) -> Tensor:
        table = torch.einsum("ald,bfd->ablf", q, z) * clamped[:, None, :, None] * m[None, :, None, :]
        best = table.argmax(-1)  # [A, B, L]
        clip = torch.arange(len(z))[None, :, None].expand_as(best)
        second = table.gather(-1, neighbour[clip, best][..., None])[..., 0]
        score = table.gather(-1, best[..., None])[..., 0] + 0.5 * near[clip, best] * second
        text_side = (share * importance)[:, None] * score
        video_side = (beta * m)[None] * table.max(2).values
        return 0.5 * (text_side.sum(-1) + video_side.sum(-1))

    first = marks[:, :1].clamp(max=1)
    sentence = branch(t[:, None], first, first, torch.ones_like(first))
    scores = 0.5 * (sentence + branch(w, marks, seen, alpha))

    def direction(s: Tensor) -> Tensor:
        prob = (100.0 * s).softmax(1).clamp(1e-6, 1 - 1e-6)
        own = s.diagonal()
        hard = ((s > own[:, None]) | (s > own[None, :])) & ~torch.eye(len(s), dtype=torch.bool)
        positive = -prob.diagonal().log().mean()
        return positive + (0.5 * -(1 - prob[hard]).log().mean() if hard.any() else 0.0)

    main = 0.5 * (direction(scores) + direction(scores.T))
    return main + _partial_margin(p, t, w, v, m)


def _partial_margin(p: Parameters, t: Tensor, w: Tensor, v: Tensor, m: Tensor) -> Tensor:
    def weigh(name: str, q: Tensor, k: Tensor) -> Tensor:
        h = torch.cat([torch.einsum("kq,bqd->bkd", p[f"{name}.qk_proj.weight"], q), k], -1)
        flat = h.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        h = (centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()).view_as(h)
        h = h * p[f"{name}.attn_proj.0.weight"] + p[f"{name}.attn_proj.0.bias"]
        gate = torch.sigmoid(F.gelu(h @ p[f"{name}.attn_proj.1.weight"].T) @ p[f"{name}.attn_proj.3.weight"].T)[..., 0]
        return gate / gate.sum(1, keepdim=True)

    def keep(weight: Tensor) -> Tensor:
        out = torch.ones_like(weight)
        for row in range(len(weight)):
            total = 0.0
            for i in weight[row].argsort(descending=True).tolist():
                total += weight[row, i].item()
                if total < 0.6:
                    out[row, i] = 0.0
        return out

    word, frame = weigh("v2t_linear_xwp", v, w), weigh("t2v_linear_xwp", t[:, None], v)
    g = unit(torch.einsum("bl,bld->bd", word, w))
    erased_g = torch.einsum("bl,bld->bd", word * keep(word), w)
    erased_v = temporal(p, keep(frame)[..., None] * v, m)

    def partial(x: Tensor, y: Tensor) -> Tensor:
        table = torch.einsum("bd,bfd->bf", x, y) * m
        share = linear(p, "video_weight_fc", y)[..., 0].masked_fill(m == 0, -torch.inf).softmax(-1)
        return 0.5 * (table.max(1).values + (share * table).sum(1))

    whole = partial(g, v)
    terms = (
        (partial(t, v), partial(t, erased_v)),
        (whole, partial(g, erased_v)),
        (whole, partial(erased_g, v)),
    )
    return sum((0.6 - (positive - negative)).clamp_min(0).mean() for positive, negative in terms)  # type: ignore[return-value]


def eaglenet(p: Parameters, b: Batch, draws: Any, state: State) -> Tensor:
    """Specification of EagleNet, sections 4 to 7: rgat, bilinear energy, support weight 0.8, both energies with 1.

    state: `candidates` S, `langevin` K, `heads` H, and the replay buffers `vid`, `txt` with the flag `sampled`.
    """
    t, v, (n, f, d), s = b.t, b.x, b.x.shape, state["candidates"]
    cosine = torch.einsum("ad,bfd->abf", unit(t), unit(v))
    log_radius = linear(p, "stochastic.std_branch.linear_proj", cosine)  # [A, B, D]
    sigma = torch.stack([draws.uniform(f"sigma.{a}", (s, n, d)) for a in range(n)]).to(t)  # [A, S, B, D]
    texts = t[:, None, None] + torch.cat(
        [torch.zeros(n, n, 1, d).to(t), sigma.transpose(1, 2) * log_radius.exp()[:, :, None]], 2
    )  # [A, B, 1 + S, D]
    frames = (v + p["frame_pe"])[None].expand(n, n, f, d)
    nodes = torch.cat([frames, texts], 2).flatten(0, 1)  # [A B, N, D]
    is_frame = torch.arange(f + 1 + s) < f
    masks = [~is_frame[:, None] & ~is_frame, is_frame[:, None] & is_frame, is_frame[:, None] ^ is_frame]
    heads = state["heads"]

    def logits(layer: int, relation: int, h: Tensor) -> tuple[Tensor, Tensor]:
        name = f"gnn.layers.{layer}"
        messages = (h @ p[f"{name}.lin_rels.{relation}.weight"].T).unflatten(-1, (heads, -1)).transpose(1, 2)
        receive = messages @ p[f"{name}.att_l_rels.{relation}.weight"].T
        send = messages @ p[f"{name}.att_r_rels.{relation}.weight"].T
        return F.leaky_relu(receive + send.transpose(-1, -2), 0.1), messages  # [P, H, N, N], [P, H, N, k]

    out = (nodes @ p["gnn.layers.0.lin_out.weight"].T)[:, None]
    for relation, mask in enumerate(masks):
        e, messages = logits(0, relation, nodes)
        alpha = e.masked_fill(~mask, -torch.inf).softmax(-1)
        out = out + torch.where(mask.any(-1)[:, None], alpha, torch.zeros_like(alpha)).nan_to_num() @ messages
    keep = torch.stack([draws.keep(f"gnn_dropout_keep.0.{a}", (n, f + 1 + s, d), 0.5) for a in range(n)])
    hidden = out.transpose(1, 2).flatten(2).relu() * keep.flatten(0, 1).to(t) / 0.5
    e, _ = logits(1, 2, hidden)
    share = e[:, :, :f, f:].mean((1, 2)).softmax(-1).view(n, n, 1 + s)
    enriched = torch.einsum("abs,absd->abd", share, texts)

    q = linear(p, "pool_frames.cross_attn.q_proj", norm(p, "pool_frames.layer_norm1", enriched))
    seen = norm(p, "pool_frames.layer_norm1", v)
    k, value = (linear(p, f"pool_frames.cross_attn.{name}_proj", seen) for name in ("k", "v"))
    attention = (torch.einsum("abd,bfd->abf", q, k) / math.sqrt(d)).softmax(-1)
    o = linear(p, "pool_frames.cross_attn.out_proj", torch.einsum("abf,bfd->abd", attention, value))
    o = norm(p, "pool_frames.layer_norm2", o)
    keep = torch.stack([draws.keep(f"pool_dropout_keep.{a}", (n, d), 0.3) for a in range(n)]).to(t) / 0.7
    y = unit(norm(p, "pool_frames.layer_norm3", o + keep * linear(p, "pool_frames.linear_proj", o)))
    scores = (unit(enriched) * y).sum(-1)
    toward = unit(y.mean(0)[None] - t[:, None])
    support = unit(toward * log_radius.exp() + t[:, None])

    def sigmoid(table: Tensor) -> Tensor:
        sign = 2 * torch.eye(n).to(t) - 1
        logit = p["loss_fct.temp_prior"].exp() * table + p["loss_fct.bias"]
        return -torch.sigmoid(sign * logit).log().sum() / n

    total = sigmoid(scores) + 0.8 * sigmoid((support * y).sum(-1))
    total = total + _match_energy(p, t, v, draws, "ebm0", state)
    return total + _match_energy(p, support[torch.arange(n), torch.arange(n)], v, draws, "ebm1", state)


def _match_energy(p: Parameters, t: Tensor, v: Tensor, draws: Any, name: str, state: State) -> Tensor:
    n = len(t)

    def energy(text: Tensor, frames: Tensor) -> Tensor:
        return (
            -(linear(p, "ebm.energy_net", F.normalize(text, dim=-1))[:, None] * F.normalize(frames, dim=-1))
            .sum(-1)
            .mean(1)
        )

    def half(positive: Tensor, negative: Tensor) -> Tensor:
        return positive.mean() - negative.mean() + positive.square().mean() + negative.square().mean()

    positive = energy(t, v)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    inside = energy(t[[i for i, _ in pairs]], v[[j for _, j in pairs]])
    buffers = state["vid"], state["txt"]
    kept = min(int(0.95 * n), len(buffers[0])) if state["sampled"] else 0
    starts = []
    order = draws.permutation(f"{name}/perm", len(buffers[0])) if state["sampled"] else None
    for key, rows in zip(("vid", "txt"), buffers, strict=True):
        fresh = draws.uniform(f"{name}/fresh_{key}_u01", (n - kept, *rows.shape[1:])).to(t)
        starts.append(torch.cat([rows[order[:kept]], fresh]) if order is not None else 2 * fresh - 1)
    frames, text = starts
    noise = [draws.normal(f"{name}/langevin_{k}_n01", (state["langevin"], *x.shape)).to(t) for k, x in
             (("vid", frames), ("txt", text))]  # fmt: skip
    for step in range(state["langevin"]):
        frames, text = frames.detach().requires_grad_(), text.detach().requires_grad_()
        slopes = torch.autograd.grad(energy(text, frames).sum(), (frames, text))
        frames = frames - slopes[0] + 0.005 * noise[0][step]
        text = text - slopes[1] + 0.005 * noise[1][step]
    frames, text = frames.detach(), text.detach()
    state["vid"] = torch.cat([frames, state["vid"]])[: len(state["vid"])]
    state["txt"] = torch.cat([text, state["txt"]])[: len(state["txt"])]
    state["sampled"] = True
    return 0.5 * (half(positive, inside) + half(positive, energy(text, frames)))


LOSSES: dict[str, Loss] = {"gare": gare, "glccl": glccl, "tcmgc": tcmgc, "dmae": dmae, "eaglenet": eaglenet}


# ------------------------------------------------------------------------------------------------------ CLIP, the loop


def clip_text(p: Parameters, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return pooled [T, D] and tokens [T, L, D] of OpenAI's text tower, parameters under `clip.`."""
    length = ids.shape[1]
    x = p["clip.token_embedding.weight"][ids] + p["clip.positional_embedding"][:length]
    causal = torch.full((length, length), -torch.inf).triu(1).to(x)
    layer = 0
    while f"clip.transformer.resblocks.{layer}.ln_1.weight" in p:
        x = block(p, f"clip.transformer.resblocks.{layer}", x, causal, 1e-5)
        layer += 1
    tokens = norm(p, "clip.ln_final", x) @ p["clip.text_projection"]
    return tokens[torch.arange(len(ids)), ids.argmax(1)], tokens


def clip_frames(p: Parameters, pixels: Tensor) -> Tensor:
    """Return [V, F, D] of normalised pixels [V, F, 3, S, S]: class tokens of OpenAI's ViT, projected."""
    flat = pixels.flatten(0, 1)
    patches = F.conv2d(flat, p["clip.visual.conv1.weight"], stride=p["clip.visual.conv1.weight"].shape[-1])
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([p["clip.visual.class_embedding"].expand(len(x), 1, -1), x], 1)
    x = norm(p, "clip.visual.ln_pre", x + p["clip.visual.positional_embedding"])
    layer = 0
    while f"clip.visual.transformer.resblocks.{layer}.ln_1.weight" in p:
        x = block(p, f"clip.visual.transformer.resblocks.{layer}", x, 0.0, 1e-5)
        layer += 1
    out = norm(p, "clip.visual.ln_post", x[:, 0]) @ p["clip.visual.proj"]
    return out.unflatten(0, pixels.shape[:2])


@dataclass
class Optimizer:
    """BertAdam (no bias correction, warm-up to 0.1, clip per tensor) or AdamW at a constant rate, tensor by tensor."""

    kind: str
    lr: float
    backbone_lr: float
    weight_decay: float
    total: int
    moments: dict[str, list[Any]] = field(default_factory=dict)

    def update(self, name: str, value: Tensor, gradient: Tensor) -> None:
        lr = self.backbone_lr if name.startswith("clip.") or (name == "logit_scale" and self.backbone_lr) else self.lr
        decay = 0.0 if "bias" in name else self.weight_decay
        state = self.moments.setdefault(name, [torch.zeros_like(value), torch.zeros_like(value), 0])
        if self.kind == "bertadam":
            gradient = gradient * min(1.0, 1.0 / (gradient.norm().item() + 1e-6))
        state[0] = 0.9 * state[0] + 0.1 * gradient
        state[1] = 0.98 * state[1] + 0.02 * gradient**2
        if self.kind == "bertadam":
            x = state[2] / self.total
            rate = lr * (x / 0.1 if x < 0.1 else 0.5 * (1 + math.cos(math.pi * x)))
            value -= rate * (state[0] / (state[1].sqrt() + 1e-6) + decay * value)
        else:
            steps = state[2] + 1
            value *= 1 - lr * decay
            value -= lr * (state[0] / (1 - 0.9**steps)) / ((state[1] / (1 - 0.98**steps)).sqrt() + 1e-6)
        state[2] += 1


def train(
    loss: Loss,
    parameters: dict[str, Tensor],
    batches: Sequence[Callable[[Parameters], Batch]],
    draws: Callable[[int], Any],
    optimizer: Optimizer,
    state: State,
    max_norm: float,
) -> list[float]:
    """Train and return the loss of every step. A parameter without a gradient is left as it is."""
    losses = []
    for step, batch in enumerate(batches):
        for value in parameters.values():
            value.requires_grad_()
        total = loss(parameters, batch(parameters), draws(step), state)
        found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        gradients = {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
        size = math.sqrt(sum(g.square().sum().item() for g in gradients.values()))
        factor = min(1.0, max_norm / (size + 1e-6))
        with torch.no_grad():
            for name, gradient in gradients.items():
                optimizer.update(name, parameters[name], gradient * factor)
            if "logit_scale" in parameters:
                parameters["logit_scale"].clamp_(max=math.log(100.0))
        losses.append(total.item())
    return losses
