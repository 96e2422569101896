"""The data that the parts of tvr hand to each other. No behaviour beyond selecting rows; no torch at import.

Letters: T captions, V videos (clips), B pairs, F frame slots, L token slots, D features.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_R = TypeVar("_R", bound="Rows")


# How a picture becomes a square: its short side and then the centre of it, or both sides; and how Pillow resizes.
SquareFit = Literal["crop", "squash"]
Filter = Literal["bicubic", "bilinear"]
# What the pixels of a stored frame are: as they are coded, or as players show them (`stores/decoding/look.py`).
Look = Literal["coded", "shown"]


@dataclass(frozen=True, slots=True)
class View:
    """The square of `size` pixels that an encoder sees of a picture (`stores/frames/picture.py` makes it)."""

    size: int
    fit: SquareFit = "crop"
    filter: Filter = "bicubic"


# --------------------------------------------------------------------------------------------- what a corpus contains


@dataclass(frozen=True, slots=True)
class Clip:
    """The unit of stores, index and scores: a file, or a span of one.

    id: POSIX path below the given root, extension included, with `#t=start,end` (W3C media fragment) for a span; a
    manifest may set it. path: the file. start, end: seconds, None = from the beginning / to the end of the file.
    """

    id: str
    path: Path
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence about a clip or a file.

    video: id of a clip, of a file that was cut into clips, or a unique stem. source: where it was read, `file:line`.
    start, end: seconds of the file that it describes, None = all of it. path: the video's file, where it is named.
    """

    id: str
    video: str
    text: str
    split: Split | None = None
    start: float | None = None
    end: float | None = None
    source: str = ""
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A corpus as its annotation files describe it: every clip and caption, nothing decoded, nothing tokenised.

    expected: official number of videos of each split (for completeness). missing: ids that the annotations name and
    no file was found for. annotations: the files read. notes: sentences that every result made from it must show.
    listed: the file that lists the test videos, where the user gave one in place of a variant's name.
    """

    name: str
    root: Path
    clips: tuple[Clip, ...]
    captions: tuple[Caption, ...]
    variant: str | None = None
    expected: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    annotations: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    listed: Path | None = None


# ----------------------------------------------------------------------------------------------------------- features


@dataclass(frozen=True)
class Rows:
    """Tensors that share their first dimension, one row an item."""

    def __len__(self) -> int:
        return len(self.key)  # type: ignore[attr-defined]

    def map(self: _R, change: Callable[[Tensor], Tensor]) -> _R:
        """Apply `change` to every tensor that is present."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{k: None if v is None else change(v) for k, v in values.items()})

    def rows(self: _R, index: Tensor | slice) -> _R:
        """Select items: a slice, or an index or mask tensor over the first dimension."""
        return self.map(lambda x: x[index])

    def to(self: _R, device: torch.device | str) -> _R:
        return self.map(lambda x: x.to(device))


@dataclass(frozen=True)
class TextFeatures(Rows):
    """Backbone features of T captions, un-normalised.

    key: [T] int64, `caption_key` of the text. pooled: [T, D]. tokens: [T, L, D] or None. n_tokens: [T] int64, real
    tokens incl. start and end. importance: [T, L] uint8 (0 pad, 1 word, 2 content word) or None.
    """

    key: Tensor
    pooled: Tensor
    tokens: Tensor | None
    n_tokens: Tensor
    importance: Tensor | None = None


@dataclass(frozen=True)
class VideoFeatures(Rows):
    """Backbone features of V clips, un-normalised.

    key: [V] int64, `clip_key`. frames: [V, F, D]; slots beyond n_frames hold the feature of the all-zero normalised
    image (plan `fixed`) or zeros (plan `ragged`); F is 0 where a backbone gives no frames. n_frames: [V] int64. ts:
    [V, F] seconds. pooled: [V, D'] one vector a clip, or None. patches: [V, F, P, D''] tokens of each frame, or None.
    """

    key: Tensor
    frames: Tensor
    n_frames: Tensor
    ts: Tensor
    pooled: Tensor | None = None
    patches: Tensor | None = None

    def mask(self) -> Tensor:
        """[V, F] bool, True = a real frame."""
        import torch

        return torch.arange(self.frames.shape[1], device=self.frames.device)[None] < self.n_frames[:, None]


@dataclass(frozen=True)
class Encoding:
    """What a method keeps of N captions or clips: named tensors whose dimension 0 is the item. key: [N] int64."""

    key: Tensor
    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def map(self, change: Callable[[Tensor], Tensor]) -> Encoding:
        return Encoding(change(self.key), {k: change(v) for k, v in self.tensors.items()})

    def rows(self, index: Tensor | slice) -> Encoding:
        """Select items: a slice, or an index or mask tensor over the first dimension."""
        return self.map(lambda x: x[index])

    def to(self, device: torch.device | str) -> Encoding:
        return self.map(lambda x: x.to(device))

    @staticmethod
    def cat(parts: Sequence[Encoding]) -> Encoding:
        """Concatenate along the items. All parts must come from the same method."""
        import torch

        names = parts[0].tensors
        return Encoding(torch.cat([p.key for p in parts]), {k: torch.cat([p.tensors[k] for p in parts]) for k in names})

    def save(self) -> bytes:
        """Serialise as safetensors bytes."""
        from safetensors.torch import save

        return save({"key": self.key.contiguous(), **{f"t.{k}": v.contiguous() for k, v in self.tensors.items()}})

    @staticmethod
    def load(data: bytes) -> Encoding:
        """Read what `save` wrote."""
        from safetensors.torch import load

        tensors = load(data)
        return Encoding(tensors.pop("key"), {k.removeprefix("t."): v for k, v in tensors.items()})


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes that a method's parameters may be tied to: D, F frame slots, L token slots."""

    dim: int
    frames: int
    words: int


@dataclass(frozen=True)
class Batch:
    """B matching pairs: caption i describes clip i.

    video_id: [B] int64, equal where two clips belong to one video, so that its other captions are not negatives; None
    for the papers' diagonal-only losses, which treat them as negatives.
    """

    text: TextFeatures
    video: VideoFeatures
    video_id: Tensor | None = None

    def __len__(self) -> int:
        return len(self.text)

    def positives(self) -> Tensor:
        """[B, B] bool: True where caption i describes clip j (the diagonal, and other captions of its video)."""
        import torch

        n = len(self)
        if self.video_id is None:
            return torch.eye(n, dtype=torch.bool, device=self.text.pooled.device)
        return self.video_id[:, None] == self.video_id[None, :]


@dataclass(frozen=True)
class LossOutput:
    """The loss to minimise and its named parts (unweighted scalars, detached or not; all of them are logged)."""

    total: Tensor
    parts: dict[str, Tensor]


class Draws(Protocol):
    """The only source of randomness in a loss. Every draw has a name, unique within one loss, and a shape.

    Draws come in float32 on the method's device. `keep` is a bool mask: True (kept) with probability 1 - drop.
    """

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor: ...
    def normal(self, name: str, shape: Sequence[int]) -> Tensor: ...
    def keep(self, name: str, shape: Sequence[int], drop: float) -> Tensor: ...
    def permutation(self, name: str, n: int) -> Tensor: ...


class BatchShare(Protocol):
    """The pairs of a batch that one process holds, where several hold them together, and what these do together.

    size: B, pairs of all processes, which lie one after the other in the order of the processes. first: where this
    one's begin; it may have none. world: number of processes. All of them have to call the same of these methods in the
    same order (but for `own`), never inside of what is computed again (`torch.utils.checkpoint`).
    """

    @property
    def size(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def world(self) -> int: ...

    def own(self, x: Tensor) -> Tensor:
        """Return this process' rows of those of all, [B, ...] -> [b, ...]."""

    def gather(self, x: Tensor) -> Tensor:
        """Return the rows of all processes [B, ...] from own ones [b, ...]; differentiable."""

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of what all processes give, of one shape; differentiable."""

    def max(self, x: Tensor) -> Tensor:
        """Return the largest of what all processes give, number by number; without a gradient."""


# --------------------------------------------------------------------------------------------------------------- keys


def caption_key(text: str) -> int:
    """Return the signed 64-bit key of a caption: the same in query and evaluation, whatever its spacing or case."""
    return _key(" ".join(text.lower().split()).encode("utf-8"))


def clip_key(content_sha256: str, start: float | None, end: float | None) -> int:
    """Return the signed 64-bit key of a clip: its file's content and its span in seconds, not its name."""
    return _key(f"{content_sha256}#{start},{end}".encode())


def timeline_key(content_sha256: str, spans: Sequence[tuple[float, float]]) -> int:
    """Return the signed 64-bit key of the frames of a file by time: its content and the seconds of it, not its name."""
    return _key(f"{content_sha256}#timeline:{list(spans)}".encode())


def _key(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)
