"""EagleNet's energy-aware matching (EAM): an energy of text and frames, trained against in-batch and sampled pairs.

E(t, V) pools e(t, v_f) over the frames; matching pairs are to have low energy. Negatives are the other pairs of the
batch and the end points of a Langevin sampler that walks down the energy from a replay buffer. Used in training only.
Source: EagleNet (arXiv 2603.25267) and the authors' code at 193feac; the sampler follows Du and Mordatch (arXiv
1903.08689).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tvr_cli.types import BatchShare, Draws

Kind = Literal["mlp", "bilinear", "cosine"]
Pool = Literal["mean", "max", "min"]
ReplayStart = Literal["uniform", "zeros"]

REPLAYED = 0.95  # share of the chains that continue from the buffer
_HIDDEN_BYTES = 64 * 2**20  # of the mlp's pair tensor that exist at once


class Half(NamedTuple):
    """One half of the loss. positive: [n] energies of the matching pairs; negative: energies they are set against."""

    loss: Tensor
    positive: Tensor
    negative: Tensor


class Matching(NamedTuple):
    """L_eam and what it is made of. frames: [n, F, D] and text: [n, D] are the sampler's end points."""

    loss: Tensor
    batch: Half
    sampled: Half
    frames: Tensor
    text: Tensor


class EnergyMatching(nn.Module):
    """The energy, its sampler and their loss; parameters and buffers under the authors' names.

    steps, step_size, noise: of the Langevin walk. regularizer: weight of the squared energies. buffer_rows: R.
    """

    replay_buffer_vid: Tensor  # [R, F, D]
    replay_buffer_txt: Tensor  # [R, D]
    sampling: Tensor  # [] bool: whether the sampler has run before (an attribute in the authors' code, lost on resume)

    def __init__(
        self,
        dim: int,
        frames: int,
        *,
        kind: Kind,
        pool: Pool,
        steps: int,
        step_size: float,
        noise: float,
        regularizer: float,
        buffer_rows: int,
        replay_start: ReplayStart,
    ):
        super().__init__()
        self.kind, self.pool = kind, pool
        self.steps, self.step_size, self.noise, self.regularizer = steps, step_size, noise, regularizer
        if kind == "mlp":
            self.energy_net: nn.Module = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, 1))
        elif kind == "bilinear":
            self.energy_net = nn.Linear(dim, dim)
        # Deviation: the authors start from zeros. Whatever the first calls do not overwrite is replayed as zero pairs,
        # where the bilinear energy's gradient through a norm of 1e-12 throws the chain to 1e10, and it stays there.
        start = torch.zeros if replay_start == "zeros" else _uniform_start
        self.register_buffer("replay_buffer_vid", start(buffer_rows, frames, dim))
        self.register_buffer("replay_buffer_txt", start(buffer_rows, dim))
        self.register_buffer("sampling", torch.zeros((), dtype=torch.bool))

    def forward(
        self,
        text: Tensor,
        frames: Tensor,
        real: Tensor | None,
        negatives: Tensor,
        draws: Draws,
        name: str,
        share: BatchShare,
    ) -> Matching:
        """Return L_eam of n matching pairs: text [n, D], frames [n, F, D], both un-normalised or not.

        real: [n, F] bool, frames that the energy pools, None = all. negatives: [n, n] bool, cells (caption, clip) that
        do not match. name: prefix of the sampler's draws. The sampled pairs reach the energy's parameters only.
        share: where other processes have other captions, text and negatives are those of the own ones, and so are the
        energies returned; every process walks all chains, so that their buffers stay equal without being sent.
        """
        energies = self.pairwise(text, frames, real)
        positive = energies.diagonal(share.first)
        batch = self._half(positive, energies[negatives], share, share.sum(negatives.sum()).clamp_min(1))
        sampled_frames, sampled_text = self.sample(share.size, draws, name)
        walked = self.paired(share.own(sampled_text), share.own(sampled_frames))
        sampled = self._half(positive, walked, share, share.size)
        return Matching((batch.loss + sampled.loss) / 2, batch, sampled, sampled_frames, sampled_text)

    # -------------------------------------------------------------------------------------------------------- energy

    def paired(self, text: Tensor, frames: Tensor, real: Tensor | None = None) -> Tensor:
        """Return E(t_i, V_i), [n]."""
        if self.kind == "mlp":
            on_frames, on_text = self._mlp_parts(text, frames)
            energies = self._mlp_top(on_frames + on_text[:, None])
        else:
            energies = -torch.einsum("nd,nfd->nf", self._direction(text), F.normalize(frames, dim=-1))
        return self._pool(energies, real)

    def pairwise(self, text: Tensor, frames: Tensor, real: Tensor | None = None) -> Tensor:
        """Return E(t_i, V_j), [A, B], of every caption with every clip; no tensor of A x B x F x 2D exists."""
        if self.kind != "mlp":
            energies = -(self._direction(text) @ F.normalize(frames, dim=-1).flatten(0, 1).T)
            return self._pool(energies.unflatten(1, frames.shape[:2]), real)
        on_frames, on_text = self._mlp_parts(text, frames)

        def rows(some_text: Tensor, all_frames: Tensor) -> Tensor:
            return self._pool(self._mlp_top(all_frames + some_text[:, None, None]), real)

        at_once = max(1, _HIDDEN_BYTES // (on_frames.numel() * on_frames.element_size()))
        if at_once >= len(text):
            return rows(on_text, on_frames)
        chunks = on_text.split(at_once)
        return torch.cat([checkpoint(rows, chunk, on_frames, use_reentrant=False) for chunk in chunks])

    def _direction(self, text: Tensor) -> Tensor:
        unit = F.normalize(text, dim=-1)
        return self.energy_net(unit) if self.kind == "bilinear" else unit

    def _mlp_parts(self, text: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """W_1 [v; t] + b_1 is a frame part [.., F, D] plus a text part [.., D]."""
        first: nn.Linear = self.energy_net[0]  # type: ignore[index]
        dim = text.shape[-1]
        return F.linear(frames, first.weight[:, :dim]), F.linear(text, first.weight[:, dim:], first.bias)

    def _mlp_top(self, hidden: Tensor) -> Tensor:
        return self.energy_net[2](hidden.relu())[..., 0]  # type: ignore[index]

    def _pool(self, energies: Tensor, real: Tensor | None) -> Tensor:
        """[.., F] -> [..]."""
        if self.pool == "mean":
            if real is None:
                return energies.mean(-1)
            return (energies * real).sum(-1) / real.sum(-1)
        if self.pool == "max":
            return (energies if real is None else energies.masked_fill(~real, -torch.inf)).amax(-1)
        return (energies if real is None else energies.masked_fill(~real, torch.inf)).amin(-1)

    def _half(self, positive: Tensor, negative: Tensor, share: BatchShare, negatives: Tensor | int) -> Half:
        """l(P, N) = mean P - mean N + c (mean P^2 + mean N^2); no negatives (a batch of one pair) count as zero.

        negatives: how many there are in all processes, at least 1.
        """
        contrast = positive.sum() / share.size - negative.sum() / negatives
        squares = positive.square().sum() / share.size + negative.square().sum() / negatives
        return Half(contrast + self.regularizer * squares, positive, negative)

    # ------------------------------------------------------------------------------------------------------- sampler

    def sample(self, n: int, draws: Draws, name: str) -> tuple[Tensor, Tensor]:
        """Walk n chains and return their end points, frames [n, F, D] and text [n, D], detached; fills the buffers."""
        frames, text = (x.requires_grad_() for x in self._starts(n, draws, name))
        with torch.enable_grad():
            frame_noise = self._normal(draws, f"{name}/langevin_vid_n01", (self.steps, *frames.shape))
            text_noise = self._normal(draws, f"{name}/langevin_txt_n01", (self.steps, *text.shape))
            for step in range(self.steps):
                energy = self.paired(text, frames).sum()
                slopes = torch.autograd.grad(energy, (frames, text))
                with torch.no_grad():
                    frames -= self.step_size * slopes[0] - self.noise * frame_noise[step]
                    text -= self.step_size * slopes[1] - self.noise * text_noise[step]
        frames, text = frames.detach(), text.detach()
        with torch.no_grad():
            for buffer, new in ((self.replay_buffer_vid, frames), (self.replay_buffer_txt, text)):
                buffer.copy_(torch.cat([new, buffer])[: len(buffer)])
            self.sampling.fill_(True)
        return frames, text

    def _starts(self, n: int, draws: Draws, name: str) -> tuple[Tensor, Tensor]:
        buffers = {"vid": self.replay_buffer_vid, "txt": self.replay_buffer_txt}
        if not self.sampling:
            u01 = {key: self._uniform(draws, f"{name}/fresh_{key}_u01", n, rows) for key, rows in buffers.items()}
            return 2 * u01["vid"] - 1, 2 * u01["txt"] - 1
        kept = min(int(REPLAYED * n), len(self.replay_buffer_txt))
        which = draws.permutation(f"{name}/perm", len(self.replay_buffer_txt))[:kept]
        starts = {}
        for key, rows in buffers.items():
            # U(0, 1) here, unlike U(-1, 1) on the first call: so in the authors' code
            fresh = self._uniform(draws, f"{name}/fresh_{key}_u01", n - kept, rows)
            starts[key] = torch.cat([rows[which.to(rows.device)], fresh])
        return starts["vid"], starts["txt"]

    def _uniform(self, draws: Draws, name: str, n: int, rows: Tensor) -> Tensor:
        return draws.uniform(name, (n, *rows.shape[1:])).to(rows)

    def _normal(self, draws: Draws, name: str, shape: tuple[int, ...]) -> Tensor:
        return draws.normal(name, shape).to(self.replay_buffer_txt)


def _uniform_start(*shape: int) -> Tensor:
    return torch.empty(shape).uniform_(-1.0, 1.0)
