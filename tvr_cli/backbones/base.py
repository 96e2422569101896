"""The protocol of a backbone: the model that turns frames and captions into features.

A class is asked in this order, and nothing later before it must: `describe` (what a name means, no weights, no
network), `skeleton` (its parameters' names and shapes, no values), `load`. A backbone yields features, un-normalised;
what a method makes of them is an encoding. How one is found by name is in `registry.py`; `openclip/` implements it for
everything that open_clip builds, docs/add-a-backbone.md shows how another library's model does.

Letters: T captions, V clips, F frame slots, L token slots, S pixels, D features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tvr_cli import commands, user_cache
from tvr_cli.backbones.published import Card
from tvr_cli.errors import ConfigError
from tvr_cli.types import Filter, SquareFit, View

if TYPE_CHECKING:
    from tvr_cli.backbones.hub import Wanted
    from tvr_cli.backbones.text_tower.card import TextCard

# What a backbone may provide. Features of a store: frames, video.pooled (one vector a clip), pooled (text), tokens; and
# what is made only where it is asked for: video.patches are large, temporal_shift changes what frames are.
ON_DEMAND = frozenset({"video.patches", "temporal_shift"})
PROVIDES = frozenset({"frames", "video.pooled", "pooled", "tokens"}) | ON_DEMAND


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a backbone's name means: all that plans, dry runs and lists need before its weights are there.

    name: what `registry.load` takes. kind: the class that loads it. dim: D. image_size: S, the side of its input in
    pixels. context_length: the largest L. provides: of `PROVIDES`. frames: the one number of frames a clip that it
    takes, None = any. patches: P of a frame, 0 where it provides none. timed: whether it has to know when frames stand.
    source: what its weights are called where they come from. weights: their file on this machine, None while they are
    not here; a backbone without weights names its own source file, which then takes their place in the identity.
    expected_at: where they are looked for, for people.
    licence: of the weights, empty where it is not known; non_commercial: whether it forbids commercial use. fit,
    filter: how a picture becomes its square, as it was trained (`types.View`). revision: the commit that its name pins,
    None = the hub's newest. commit: the one that the weights on this machine are of, None where they are of no
    repository. card: what its preset says about the weights, for people. detail: what `kind` needs to load it, of no
    concern to others.
    """

    name: str
    kind: type[Backbone]
    dim: int
    image_size: int
    context_length: int
    provides: frozenset[str]
    source: str
    weights: Path | None
    expected_at: str = ""
    licence: str = ""
    non_commercial: bool = False
    fit: SquareFit = "crop"
    filter: Filter = "bicubic"
    frames: int | None = None
    patches: int = 0
    timed: bool = False
    revision: str | None = None
    commit: str | None = None
    card: Card = field(default_factory=Card)
    detail: Any = None

    @property
    def view(self) -> View:
        """What it sees of a picture."""
        return View(self.image_size, self.fit, self.filter)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What its identity says of a picture: what tvr 0.1.0 always did is left out, so that its fingerprints stay."""
        usual = View(self.image_size)
        chosen = {
            name: getattr(self, name) for name in ("fit", "filter") if getattr(self, name) != getattr(usual, name)
        }
        return {"size": self.image_size, **chosen}


@dataclass(frozen=True, slots=True)
class VideoOut:
    """What a backbone makes of V clips. frames: [V, F, D], pooled: [V, D]; None where it does not provide them.

    patches: [V, F, P, D], None where nobody asked for them.
    """

    frames: Tensor | None
    pooled: Tensor | None
    patches: Tensor | None = None


class Backbone(nn.Module):
    """Base class of every backbone.

    library: the package that its models come from, as pip calls it. folder_mark: the file by which `local:FOLDER` is
    told to be of its library, where tvr ships it; somebody else's folder is named `NAME@FOLDER` (`saved_folder`).
    about: its description, whose fields `name`, `provides`, `dim`, `image_size` and `context_length` it has too.
    shifts_patches: see `shift_patches`.
    """

    library: ClassVar[str] = ""
    folder_mark: ClassVar[str] = ""

    def __init__(self, about: Description):
        super().__init__()
        self.about = about
        self.name, self.provides = about.name, about.provides
        self.dim, self.image_size, self.context_length = about.dim, about.image_size, about.context_length
        self.shifts_patches = False

    # ------------------------------------------------------------------------------------- before the weights are there

    @classmethod
    def describe(cls, name: str) -> Description:
        """Return what a name means, without weights and without the network.

        Raises ConfigError for a name that means nothing, DataError or EnvironmentProblem for files that are damaged or
        not there.
        """
        raise NotImplementedError

    @classmethod
    def holds(cls, folder: Path) -> bool:
        """Whether a folder that is named by `local:FOLDER` is of this class. Here: whether `folder_mark` is in it."""
        return bool(cls.folder_mark) and (folder / cls.folder_mark).is_file()

    @classmethod
    def identify(cls, about: Description, *, temporal_shift: bool) -> dict[str, Any]:
        """Return what decides the values of the features, as JSON: `name`, `temporal_shift`, weights, preprocessing.

        The name is the model's, never a place on this machine. Here: the class, and the sha256 of the weights file.
        """
        return {
            "name": f"{cls.__module__}.{cls.__qualname__}",
            "weights": user_cache.sha256_of(about.weights) if about.weights is not None else None,
            "preprocessing": about.preprocessing,
            "temporal_shift": temporal_shift,
        }

    @classmethod
    def skeleton(cls, about: Description) -> Backbone:
        """Return the backbone without values, its parameters named and shaped like the loaded one's.

        On the device `meta` where that is possible. Here: the class, made of nothing but its description.
        """
        with torch.device("meta"):
            return cls(about)

    @classmethod
    def load(cls, about: Description, *, offline: bool) -> Backbone:
        """Return the backbone with its weights, on the CPU, its parameters requiring gradients.

        offline: never touch the network. Raises EnvironmentProblem for weights that cannot be had, DataError for those
        that do not fit.
        """
        raise NotImplementedError

    @classmethod
    def remote_files(cls, about: Description) -> Sequence[Wanted]:
        """Return the files of the Hugging Face hub that loading needs (`tvr backbones get`). Here: none."""
        return ()

    @classmethod
    def cannot_save(cls, about: Description) -> str:
        """Return in a few words why `save` could not write this backbone, empty if it can: `--tune full` asks first."""
        return "" if cls.save is not Backbone.save else f"{cls.__module__}.{cls.__qualname__} has no `save`"

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Return the versions of what computes its features, for a store's provenance."""
        try:
            return {cls.library: metadata.version(cls.library)} if cls.library else {}
        except metadata.PackageNotFoundError:
            return {}

    # -------------------------------------------------------------------------------------------- loaded, or a skeleton

    def cost(self, words: int) -> tuple[int, int]:
        """Return the floating-point operations of (one frame, one caption of `words` slots), of a skeleton too."""
        raise NotImplementedError

    def merge_for_inference(self) -> None:
        """Merge what is kept apart for training alone, for good: asked before frames are encoded, never for tuning.

        Features stay the same to rounding. Here: nothing.
        """

    def shift_patches(self) -> None:
        """Mix the frames of a clip by EagleNet's temporal patch shift from now on. Raises ConfigError if it cannot."""
        raise ConfigError(
            f"the backbone {self.name!r} cannot shift patches between frames; leave out --temporal-shift, or take one "
            f"that provides temporal_shift ({commands.tvr('backbones')})"
        )

    # ----------------------------------------------------------------------------------------------------------- loaded

    def identity(self) -> dict[str, Any]:
        """Return what decides the values of its features; see `identify`."""
        return self.identify(self.about, temporal_shift=self.shifts_patches)

    def text_card(self) -> TextCard | None:
        """Return what encodes sentences as it does without loading it, None where nothing does. Here: None.

        A query then starts in a fraction of a second (`text_tower`); whoever gives one has compared the two.
        """
        return None

    def save(self, folder: Path) -> None:
        """Write everything that `describe` and `load` of `NAME@FOLDER` need into a folder that exists."""
        raise NotImplementedError

    def tokenize(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Return ids [T, L] int64, zero-padded and cut to `length`, and n_tokens [T] int64 incl. start and end."""
        raise NotImplementedError

    def count_tokens(self, texts: Sequence[str]) -> Tensor:
        """Return how many tokens [T] int64 each caption has before any cut, start and end included."""
        raise NotImplementedError

    def word_pieces(self, text: str) -> list[tuple[str, int]]:
        """Return the words of a caption in order, each with the number of tokens it is made of.

        Raises ConfigError where the tokenizer does not know.
        """
        raise ConfigError(
            f"the backbone {self.name!r} cannot say which tokens belong to a word; use --word-importance none"
        )

    @property
    def first_word_token(self) -> int:
        """How many tokens stand before the first word (CLIP: the start token)."""
        return 0

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode ids [T, L], L at most the context, to pooled [T, D] and tokens [T, L, D] (None if not provided).

        Un-normalised; gradients flow. Pads are encoded like any other token (their features leak in some papers), and
        pooled does not depend on their number.
        """
        raise NotImplementedError

    def encode_frames(self, pixels: Tensor, real: Tensor) -> Tensor:
        """Encode uint8 frames [V, F, 3, S, S] to [V, F, D]; real: [V, F] bool, True = a real frame.

        A missing frame counts as the all-zero *normalised* image, whatever its pixels hold. Gradients flow.
        Raises ValueError for another shape or type. Who provides no frames leaves it out.
        """
        raise NotImplementedError

    def encode_patches(self, pixels: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Encode frames as `encode_frames` does, to frames [V, F, D] and the patches of each [V, F, P, D].

        Patches are in the space of frames and go the way of the token that stands for the whole picture. Who does not
        provide video.patches leaves it out.
        """
        raise NotImplementedError

    def encode_video(self, pixels: Tensor, real: Tensor, times: Tensor | None = None) -> VideoOut:
        """Encode uint8 clips [V, F, 3, S, S] to frames and one vector a clip, as far as it provides them.

        real: as in `encode_frames`. Here: `encode_frames`, and no vector a clip. Who provides video.pooled mixes the
        frames of a clip and says how itself: he is given clips that are full, all frames real and as many as
        `about.frames` says, since a shorter one is repeated in time: black frames would move its vector. Both outputs
        are un-normalised and in the space of pooled text. Gradients flow. Raises ValueError for another shape or type.

        times: [V, F] seconds since the clip begins, given where `about.timed` asks for them, and only there.
        """
        return VideoOut(self.encode_frames(pixels, real), None)

    def text_tower(self) -> Mapping[str, Tensor]:
        """Return the text transformer's tensors under OpenAI's names, or an empty mapping if it has no such tower.

        Such a tower's heads have 64 numbers, or a part of it that divides 64: a copy then never cuts through a head.
        """
        return {}

    @property
    def logit_scale(self) -> Tensor:
        """Scalar: the natural logarithm of the scale it was trained with. Here: what CLIP's training starts at."""
        return torch.tensor(math.log(1 / 0.07))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the towers' activations in the backward pass instead of keeping them."""
        raise ConfigError(
            f"the backbone {self.name!r} cannot recompute its activations; leave train.grad_checkpointing at false"
        )

    def to_half(self) -> None:
        """Store in fp16 what the authors' runs store so: linear and convolution weights, attention, projections."""
        raise ConfigError(f"the backbone {self.name!r} has no half-precision form; set train.clip_precision=fp32")

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of its towers."""
        tensor = self._any_tensor()
        return torch.float32 if tensor is None else tensor.dtype

    @property
    def device(self) -> torch.device:
        tensor = self._any_tensor()
        return torch.device("cpu") if tensor is None else tensor.device

    def check_frames(self, pixels: Tensor, dtype: torch.dtype | None = torch.uint8) -> None:
        """Raise ValueError unless pixels are [V, F, 3, S, S] of a type (None = any floating-point one).

        F is any, or what `about.frames` says.
        """
        size, frames = self.image_size, self.about.frames
        if pixels.dim() != 5 or pixels.shape[2:] != (3, size, size) or frames not in (None, pixels.shape[1]):
            raise ValueError(f"expected frames [V, {frames or 'F'}, 3, {size}, {size}], got {list(pixels.shape)}")
        if (dtype is None and not pixels.is_floating_point()) or (dtype is not None and pixels.dtype != dtype):
            raise ValueError(f"expected {dtype or 'floating-point'} pixels, got {pixels.dtype}")

    def _any_tensor(self) -> Tensor | None:
        return next(itertools.chain(self.parameters(), self.buffers()), None)


def saved_folder(name: str) -> Path | None:
    """Return the folder of a name `NAME@FOLDER`, None of a name without one."""
    folder = name.partition("@")[2]
    return Path(folder) if folder else None


def count_flops(run: Callable[[], object]) -> int:
    """Return the floating-point operations of matrix products and convolutions while `run` is called."""
    from torch.utils.flop_counter import FlopCounterMode  # brings triton along

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
