"""Plausible mistakes in EagleNet; see the package for the rules."""

from __future__ import annotations

from mutations import Mutation

FOLDED = "kernels/tvr_kernels/eaglenet/folded.py"
POOLED = "kernels/tvr_kernels/eaglenet/pooled.py"
TRAINING = "tvr_cli/methods/_eaglenet_training.py"
ENERGY = "tvr_cli/methods/_eaglenet_energy.py"
XPOOL = "tvr_cli/nn/xpool.py"

MUTATIONS = [
    Mutation(
        "the radius is not exponentiated",
        FOLDED,
        old='radius = log_radius(text, video["frames"], video["real"], weights).exp()[:, :, None]',
        new='radius = log_radius(text, video["frames"], video["real"], weights)[:, :, None]',
    ),
    Mutation(
        "the radius sees frames of any length",
        FOLDED,
        old="unit_text, unit_frames = unit_or_zero(text), unit_or_zero(frames)",
        new="unit_text, unit_frames = unit_or_zero(text), frames",
    ),
    Mutation(
        "the graph forgets the frame positions",
        FOLDED,
        old="    nodes = frames if weights.frame_positions is None else frames + weights.frame_positions",
        new="    nodes = frames",
    ),
    Mutation(
        "attention logits are not leaky",
        FOLDED,
        old="logits = F.leaky_relu(receiver[..., :, None] + sender[..., None, :], options.slope)",
        new="logits = receiver[..., :, None] + sender[..., None, :]",
    ),
    Mutation(
        "candidates lose their own term",
        FOLDED,
        old="    return torch.cat(texts, -1).add_(own[:, None]).add_(out).relu_()",
        new="    return torch.cat(texts, -1).add_(own[:, None]).relu_()",
    ),
    Mutation(
        "frames read the text-text values",
        FOLDED,
        old="frames.append(_product(to_frames[:, :, q, :, 1:], sent_ft[..., head]))",
        new="frames.append(_product(to_frames[:, :, q, :, 1:], sent_tt[..., head]))",
    ),
    Mutation(
        "the caption itself sends nothing in GAT",
        FOLDED,
        old="base + rows[..., slots:].sum(-1, keepdim=True)",
        new="base + rows[..., slots + 1 :].sum(-1, keepdim=True)",
    ),
    Mutation(
        "the caption itself has no share in the mix",
        FOLDED,
        old="share = logits.softmax(-1)[..., 1:]",
        new="share = logits[..., 1:].softmax(-1)",
    ),
    Mutation(
        "the last logits are summed over heads",
        FOLDED,
        old="_mean_over_frames(frame_text.mean(2)",
        new="_mean_over_frames(frame_text.sum(2)",
    ),
    Mutation(
        "receiver and sender change places in the last layer",
        FOLDED,
        old="_logit_rows(last.value, last.receiver, heads), _logit_rows(last.value, last.sender, heads)",
        new="_logit_rows(last.value, last.sender, heads), _logit_rows(last.value, last.receiver, heads)",
    ),
    Mutation(
        "the folded LayerNorm has an unbiased variance",
        POOLED,
        old="torch.var_mean(query, dim=-1, correction=0, keepdim=True)",
        new="torch.var_mean(query, dim=-1, correction=1, keepdim=True)",
    ),
    Mutation(
        "the output bias counts once a head",
        POOLED,
        old="+ weights.out.bias / heads",
        new="+ weights.out.bias",
    ),
    Mutation(
        "attention is scaled by the whole width",
        POOLED,
        old="(query.shape[-1] // heads) ** 0.5",
        new="query.shape[-1] ** 0.5",
    ),
    Mutation(
        "the linear branch replaces what it is added to",
        XPOOL,
        old="self.layer_norm3(out + (branch if linear_keep is None else branch * linear_keep))",
        new="self.layer_norm3(branch if linear_keep is None else branch * linear_keep)",
    ),
    Mutation(
        "kept nodes are not scaled up",
        TRAINING,
        old="return _stack(keep, shape, frames, 1).to(frames) / (1 - drop)",
        new="return _stack(keep, shape, frames, 1).to(frames)",
    ),
    Mutation(
        "the support text starts from a unit mean",
        TRAINING,
        old="mean_pooled = share.sum(F.normalize(pooled, dim=-1).sum(0)) / share.size",
        new="mean_pooled = F.normalize(share.sum(F.normalize(pooled, dim=-1).sum(0)), dim=-1)",
    ),
    Mutation(
        "the support text averages over clips",
        TRAINING,
        old="mean_pooled = share.sum(F.normalize(pooled, dim=-1).sum(0))",
        new="mean_pooled = share.sum(F.normalize(pooled, dim=-1).sum(1))",
    ),
    Mutation(
        "the sigmoid loss averages over pairs",
        TRAINING,
        old="return -terms.sum() / scores.shape[1]",
        new="return -terms.mean()",
    ),
    Mutation(
        "the scale is not exponentiated",
        TRAINING,
        old="(temp_prior.exp() * scores + bias)",
        new="(temp_prior * scores + bias)",
    ),
    Mutation(
        "only matching energies are regularized",
        ENERGY,
        old="squares = positive.square().sum() / share.size + negative.square().sum() / negatives",
        new="squares = positive.square().sum() / share.size",
    ),
    Mutation(
        "the halves of the energy loss are added up",
        ENERGY,
        old="Matching((batch.loss + sampled.loss) / 2,",
        new="Matching(batch.loss + sampled.loss,",
    ),
    Mutation(
        "matching energies are detached from the text",
        ENERGY,
        old="positive = energies.diagonal(share.first)",
        new="positive = energies.diagonal(share.first).detach()",
    ),
    Mutation(
        "the first chains start in U(0, 1)",
        ENERGY,
        old='return 2 * u01["vid"] - 1, 2 * u01["txt"] - 1',
        new='return u01["vid"], u01["txt"]',
    ),
    Mutation(
        "the walk follows the mean energy",
        ENERGY,
        old="energy = self.paired(text, frames).sum()",
        new="energy = self.paired(text, frames).mean()",
    ),
    Mutation(
        "the buffer keeps its oldest rows",
        ENERGY,
        old="buffer.copy_(torch.cat([new, buffer])[: len(buffer)])",
        new="buffer.copy_(torch.cat([buffer, new])[-len(buffer) :].flip(0))",
    ),
    Mutation(
        "energies are averaged over frames instead of their largest",
        ENERGY,
        old='if self.pool == "max":\n            return (',
        new='if self.pool == "max":\n            return energies.mean(-1)\n            return (',
    ),
    Mutation(
        "the support energy takes the caption",
        "tvr_cli/methods/eaglenet.py",
        old="self.match_energy(matching_text, frames",
        new="self.match_energy(text, frames",
    ),
]
