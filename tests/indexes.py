"""Small indexes for tests, and their heads changed as a vandal would, with a checksum that fits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tvr_cli.files import read_json, write_json
from tvr_cli.methods import base
from tvr_cli.methods.base import Method
from tvr_cli.stores.index.store import ENCODING_ROWS, Index, IndexBlock, IndexedClip, write_index
from tvr_cli.types import Sizes, TextFeatures, VideoFeatures

DIM, FRAMES = 16, 5


def method(name: str = "mean", dim: int = DIM) -> Method:
    return base.build(name, Sizes(dim, FRAMES, 8))


def videos(clips: int, first: int = 0, dim: int = DIM) -> VideoFeatures:
    """Clips number `first` and on; each has the same features whatever else is asked for."""
    frames = torch.stack(
        [torch.randn(FRAMES, dim, generator=torch.Generator().manual_seed(i)) for i in range(first, first + clips)]
    )
    ts = torch.arange(FRAMES).double().expand(clips, -1) + 0.5
    n_frames = torch.tensor([1 + i % FRAMES for i in range(first, first + clips)])
    return VideoFeatures(torch.arange(first, first + clips), frames, n_frames, ts)


def captions(clips: list[int], dim: int = DIM) -> TextFeatures:
    """One caption a clip, that points at its first frame."""
    pooled = torch.cat([videos(1, i, dim).frames[:, 0] for i in clips])
    return TextFeatures(torch.tensor(clips), pooled, None, torch.full((len(clips),), 3))


def indexed(number: int, files: int) -> IndexedClip:
    file = f"{number % files}.mp4"
    return IndexedClip(f"{file}#{number:04d}", file, f"/films/{file}", 0.0, 5.0)


def blocks(model: Method, clips: int, *, first: int = 0, files: int = 10) -> Iterator[IndexBlock]:
    for start in range(first, first + clips, ENCODING_ROWS):
        video = videos(min(ENCODING_ROWS, first + clips - start), start, model.sizes.dim)
        encoded = model.encode_video(video)
        listed = [indexed(start + i, files) for i in range(len(video))]
        yield IndexBlock(listed, encoded, model.coarse(encoded), video.ts, video.n_frames)


def make(
    folder: Path, clips: int = 40, files: int = 10, *, name: str = "mean", dim: int = DIM, **options: Any
) -> Index:
    return write_index(folder, {"method": name}, blocks(method(name, dim), clips, files=files), **options)


def head_path(folder: Path) -> Path:
    """The head of the generation that counts of the index in `folder`."""
    return folder / read_json(folder / "current")["generation"] / "store.json"


def head(folder: Path) -> dict[str, Any]:
    return read_json(head_path(folder))


def edit_head(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the head of an index in place and give `current` the checksum of it."""
    path = head_path(folder)
    found = read_json(path)
    change(found)
    path.write_text(json.dumps(found))
    seal(folder)


def seal(folder: Path) -> None:
    """Give `current` the checksum of the head as it is."""
    sha256 = hashlib.sha256(head_path(folder).read_bytes()).hexdigest()
    write_json(folder / "current", {**read_json(folder / "current"), "sha256": sha256})


def write_old(folder: Path, identity: dict[str, Any], asked: dict[str, str] | None = None, kind: bool = True) -> None:
    """Leave the files of an index of tvr 0.1.0 in `folder`: known by their head, of no further use."""
    folder.mkdir(parents=True)
    names = ("coarse.safetensors", "clips.jsonl", "encoding-00000.safetensors")
    for name in names:
        (folder / name).write_bytes(b"of format 1")
    coarse, clips, encoding = ({"name": name, "sha256": "0" * 64} for name in names)
    about = {"format": 1, "identity": identity, "asked": asked or {}}
    found = {**about, "encodings": [encoding], "coarse": coarse, "clips": clips}
    write_json(folder / "store.json", {"kind": "index", **found} if kind else found)
