"""What is trained: the method, and with `--tune full` the backbone beside it, under the names of the authors' files.

The method's parameters carry the authors' names already; the backbone's come under `clip.`. These names are what rules
(`freeze`, parameter groups) and checkpoints speak of.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from tvr_cli.backbones.base import Backbone
from tvr_cli.engine.training.optimisers import BACKBONE_PREFIX
from tvr_cli.methods.base import Method

_TEMPORAL = ("transformerClip.", "frame_position_embeddings.", "lstm_visual.")


class Learner(nn.Module):
    """A method, and the backbone when it is tuned too (None otherwise).

    The backbone stays in evaluation mode: CLIP has no dropout, and the batch norms of a ResNet keep their statistics,
    so that features never depend on the batch (which GradCache and scoring rely on).
    """

    def __init__(self, method: Method, backbone: Backbone | None = None):
        super().__init__()
        self.method = method
        self.clip = backbone

    def train(self, mode: bool = True) -> Learner:
        super().train(mode)
        if self.clip is not None:
            self.clip.eval()
        return self

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter under its name in the authors' files."""
        yield from self.method.named_parameters()
        if self.clip is not None:
            for name, p in self.clip.named_parameters():
                yield BACKBONE_PREFIX + public_name(name), p

    def encoders(self) -> list[nn.Parameter]:
        """Return the parameters that features are made with: the backbone's, none where it is frozen."""
        return [] if self.clip is None else list(self.clip.parameters())

    def before_gather(self) -> list[nn.Parameter]:
        """Return the parameters that the CLIP4Clip family runs before features are gathered.

        Each process gets the gradient of its own rows alone there, and DDP averages those: a sum over the number of
        processes. They are CLIP and what mixes frames behind it.
        Source: ArrowLuo/CLIP4Clip@85cf908, `_loose_similarity`; foolwood/DRL@696c75c, `agg_video_feat`.
        """
        temporal = [p for name, p in self.method.named_parameters() if name.startswith(_TEMPORAL)]
        return [*self.encoders(), *temporal]

    def modules_with_weights(self) -> list[nn.Module]:
        """Return the method, and the backbone if it is tuned."""
        return [self.method] if self.clip is None else [self.method, self.clip]

    def dead(self) -> frozenset[str]:
        """Return the names of parameters that this configuration never trains.

        The scale of the logits is the method's parameter, so the backbone's own copy of it is dead.
        """
        dead = set(self.method.dead())
        if self.clip is not None:
            own = {BACKBONE_PREFIX + public_name(name) for name, _ in self.clip.named_parameters()}
            dead |= own & {BACKBONE_PREFIX + "logit_scale", BACKBONE_PREFIX + "logit_bias"}
        return frozenset(dead)

    @torch.no_grad()
    def clamp_scale(self, maximum: float) -> float | None:
        """Keep the natural logarithm of the logit scale at or below `maximum`; return it, None if there is none."""
        scale = getattr(self.method, "logit_scale", None)
        if not isinstance(scale, torch.Tensor):
            return None
        return scale.clamp_(max=maximum).item()


def public_name(name: str) -> str:
    """Return a backbone parameter's name without the wrapper's own `model.` in front."""
    return name.removeprefix("model.")
