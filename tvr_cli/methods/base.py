"""The protocol of a retrieval method, and how one is found by name.

A method turns backbone features into encodings (`encode_text`, `encode_video`: one item at a time, no pair involved),
scores every pair (`score`) and says how wrong it is on a batch (`loss`). The law is tile invariance:
`score(t, v)[i, j]` depends only on caption i and clip j, never on the tile, the batch or a global generator.

The file name is the registry: `load_class("glccl")` imports `tvr_cli.methods.glccl` and takes its `Method`; a dotted
name (`mypackage.mymethod`) and an entry point of the group `tvr.methods` load somebody else's.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tvr_cli import plugins
from tvr_cli.errors import ConfigError
from tvr_cli.scale import Scale
from tvr_cli.types import Batch, BatchShare, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

# Softmax temperature of the cosines in `frame_cosines`.
EXPLAIN_TEMPERATURE = 0.01


def setting(default: Any, *, symbol: str = "", source: str = "", note: str = "") -> Any:
    """Declare one field of a method's `Config`: its paper symbol, and where its default comes from."""
    return dataclasses.field(default=default, metadata={"symbol": symbol, "source": source, "note": note})


class Method(nn.Module):
    """Base class of every method; see the module docstring for the contract.

    needs: features among {"frames", "video.pooled", "video.patches", "pooled", "tokens", "importance"}. fidelity:
    where the code comes from ("authors-code@sha", "authors-port@sha", "patched-release@sha", "ours"), printed wherever
    results are. summary: one line for `tvr methods`. trainable_preset: the preset to train on frozen features where the
    default one cannot be.
    """

    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """No options."""

    needs: ClassVar[frozenset[str]] = frozenset({"frames", "pooled"})
    fidelity: ClassVar[str] = "ours"
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    bibtex: ClassVar[str] = ""
    # Patterns of names in the authors' checkpoints that nothing reads, and the prefix that their wrapper puts in front.
    ignored_keys: ClassVar[tuple[str, ...]] = ()
    checkpoint_prefix: ClassVar[str] = ""
    # Whether the authors' CLIP shifts patches between frames whatever the options (EagleNet).
    shifts_patches: ClassVar[bool] = False
    trainable_preset: ClassVar[str] = ""
    # Rules of the authors' released tests that no score of a pair alone can follow: see `score_by_rule`.
    rules: ClassVar[tuple[str, ...]] = ()
    # Whether a temperature divides raw dot products, and so counts on the length of CLIP's features: see `scaled_text`.
    counts_on_length: ClassVar[bool] = False

    def __init__(self, config: Any, sizes: Sizes):
        super().__init__()
        self.config = config
        self.sizes = sizes
        self.scale = Scale()  # what the features at hand are multiplied with; whoever builds it for a store says it

    @property
    def trains(self) -> bool:
        """Whether any trainable parameter reaches the score in this configuration."""
        dead = self.dead()
        return any(name not in dead for name, p in self.named_parameters() if p.requires_grad)

    @property
    def reads_patches(self) -> bool:
        """Whether it has to be given the patches of frames, which are most of a store's bytes."""
        return "video.patches" in self.needs

    def dead(self) -> frozenset[str]:
        """Names of parameters that this configuration of the paper's model never trains."""
        return frozenset()

    def init_from_backbone(self, text_tower: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        """Start what the paper starts from CLIP: temporal blocks and positions, and the logit scale.

        text_tower: CLIP's text side under OpenAI's names (`transformer.resblocks.N.*`, `positional_embedding`), empty
        for a backbone without one. logit_scale: scalar, the natural logarithm of the scale. Default: do nothing.
        """

    @classmethod
    def read_checkpoint(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Sizes]:
        """Infer options and sizes from the authors' head weights; a size that they do not fix is 0.

        state: the authors' names, without the prefix of a wrapper. Raises ConfigError where the authors have none.
        """
        raise ConfigError("there is no checkpoint format of authors to import for this method")

    def scaled_text(self, text: TextFeatures) -> TextFeatures:
        """Return captions with the length of CLIP's features, sentence and words alike; CLIP's own as they are."""
        factor = self.scale.text
        if factor == 1.0:
            return text
        words = None if text.tokens is None else factor * text.tokens
        return dataclasses.replace(text, pooled=factor * text.pooled, tokens=words)

    def scaled_video(self, video: VideoFeatures) -> VideoFeatures:
        """Return clips whose frames have the length of CLIP's; CLIP's own as they are."""
        factor = self.scale.frames
        return video if factor == 1.0 else dataclasses.replace(video, frames=factor * video.frames)

    def encode_text(self, text: TextFeatures) -> Encoding:
        """Encode captions, no video involved. Tensors have T rows."""
        raise NotImplementedError

    def encode_video(self, video: VideoFeatures) -> Encoding:
        """Encode clips, no text involved: everything that can be computed once a clip. Tensors have V rows."""
        raise NotImplementedError

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        """Return [T, V] scores, larger = more similar, float32 (float64 for float64 encodings)."""
        raise NotImplementedError

    def score_by_rule(self, rule: str, text: Encoding, video: Encoding, own: Encoding) -> Tensor:
        """Return [T, V] as the authors' released test scores, by one of `rules`: to reproduce its numbers alone.

        own: [V], the encoding of the caption that belongs to each clip. It holds the right answers, so such a score can
        answer no query, and no number of it may be compared with another's.
        """
        raise NotImplementedError

    def score_scale(self) -> float:
        """Return what a cosine of one is in `score`: 1, or the logit scale where the score has it as a factor.

        Dual softmax and QB-Norm were made for cosines; their temperature is divided by this.
        """
        return 1.0

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        """Return the training loss of B matching pairs; all randomness comes from `draws`."""
        raise NotImplementedError

    def loss_rows(self, batch: Batch, share: BatchShare, *, step: int, draws: Draws) -> LossOutput:
        """Return one process' term of `loss`, where several hold a batch's pairs and each scores its own captions.

        Optional, for a method whose pairs cost more than what processes tell each other of them; without it every
        process computes the whole loss. batch: own pairs, b >= 0 of them; `share` gathers the clips of all. The sum
        over processes of `total` is the loss, that of each of `parts` its part, and that of the gradients the
        gradient: so what all processes compute alike has to count 1 / world. Draws are those of `loss`, under the
        numbers that captions have in the whole batch.
        """
        raise NotImplementedError

    @property
    def splits_loss(self) -> bool:
        """Whether `loss_rows` is there for this configuration: by default, where it was written for this `loss`."""
        classes = type(self).__mro__
        loss, rows = (next(i for i, c in enumerate(classes) if name in vars(c)) for name in ("loss", "loss_rows"))
        return rows <= loss and classes[rows] is not Method

    def coarse(self, e: Encoding) -> Tensor:
        """Return [N, D] unit vectors for the first stage of search, from a text or a video encoding."""
        raise NotImplementedError

    @property
    def rough_needs(self) -> tuple[str, ...]:
        """Names of the tensors of a clip's encoding that `rough` reads; none = coarse vectors alone find candidates."""
        return ()

    def rough(self, text: Encoding, video: Encoding) -> Tensor:
        """Return [T, V], larger = more similar: a stand-in for `score` that is cheap enough to be taken of every clip.

        Search lets `score` look at the clips that stand first here; a method whose own score is cheap needs none.
        video: has the tensors that `rough_needs` names, as an index maps them: perhaps in half precision.
        """
        raise NotImplementedError

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        """Return [T, V, F] weights over frame slots, zero on missing frames, summing to one a pair."""
        raise NotImplementedError

    def pair_bytes(self) -> int:
        """Return about how many bytes `score` works with a pair, so that the engine can size its tiles."""
        return 64 * self.sizes.frames

    def cost_per_pair(self) -> str:
        """Return the arithmetic of one pair in words, for `tvr methods` (MAC = multiply-add)."""
        return ""


def names() -> list[str]:
    """Return the names of the methods, sorted: the shipped ones and those of installed packages."""
    return KIND.names()


def shipped() -> list[str]:
    """Return the names of the shipped methods, sorted: the modules of this package but this one."""
    import tvr_cli.methods as package

    return sorted(
        m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base" and not m.name.startswith("_")
    )


def load_class(name: str) -> type[Method]:
    """Return the class of a method by file name, entry point, or dotted name of a module with a `Method` or of a class.

    A dotted name imports that module, so it must come from the command line or the caller, never from a file alone
    (`config.resolve` sees to it). Raises ConfigError, with the nearest name, where there is none, and for what is no
    subclass of `Method`.
    """
    return KIND.subclass(name, KIND.find(name), "Method", Method)


def third_party(name: str) -> bool:
    """Whether a name means somebody else's method: a dotted one, or that of an installed package."""
    return KIND.third_party(name)


def build(name: str, sizes: Sizes, options: Mapping[str, Any] | None = None) -> Method:
    """Make a method with its defaults changed by `options` (already checked against its `Config`)."""
    cls = load_class(name)
    return cls(cls.Config(**(options or {})), sizes)


KIND = plugins.Kind("method", "tvr_cli.methods", "tvr.methods", shipped)


def frame_cosines(text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    """Return [T, V, F] weights: a softmax of unit captions' [T, D] cosines with unit frames [V, F, D], real ones only.

    What stands for frame weights in a method that pools frames without looking at the caption.
    """
    cosines = (text @ frames.flatten(0, 1).T).unflatten(1, frames.shape[:2])
    return (cosines / EXPLAIN_TEMPERATURE).masked_fill(~mask, float("-inf")).softmax(-1)


def temporal_layers(state: Mapping[str, Tensor]) -> int:
    """Count the blocks of the temporal transformer in a checkpoint."""
    return len({name.split(".")[2] for name in state if name.startswith("transformerClip.resblocks.")})


def unit(x: Tensor) -> Tensor:
    """Divide by the Euclidean norm over the last dimension, without an epsilon, as the papers do."""
    return x / x.norm(dim=-1, keepdim=True)


def unit_or_zero(x: Tensor) -> Tensor:
    """Divide by the Euclidean norm over the last dimension; the zero rows of a ragged store stay zero."""
    length = x.norm(dim=-1, keepdim=True)
    return x / length.masked_fill(length == 0, 1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Average [N, F, D] over real frames, mask [N, F] bool, to [N, D]."""
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(1) / weight.sum(1).clamp_min(torch.finfo(x.dtype).tiny)


def full_precision(x: Tensor) -> Tensor:
    """Cast half precision to float32, as the papers do behind CLIP; float32 and float64 stay."""
    return x.float() if x.dtype.itemsize < 4 else x


def mean_direction(frames: Tensor, mask: Tensor) -> Tensor:
    """Return [N, D] unit vectors: the mean of the real frames' directions. frames: [N, F, D]; mask: [N, F] bool."""
    directions = unit(frames.masked_fill(~mask[..., None], 1.0))  # a missing slot must not divide by zero
    return unit(masked_mean(directions, mask))
