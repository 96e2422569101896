"""Features as other programs write them, around the vectors that a backbone gives to their captions."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tvr_cli.backbones import registry

NOW = 1_700_000_000  # a year after clip-video-encode read colours right


def write_tar(path: Path, videos: Mapping[str, np.ndarray], *, with_json: bool = True, **about: Any) -> Path:
    """Write features as clip-video-encode does: KEY.npy, KEY.txt and KEY.json, keys that are numbers.

    about: what else the JSON says; `written` is the time of the samples.
    """
    written = about.pop("written", NOW)
    with tarfile.open(path, "w") as tar:
        for i, (video, frames) in enumerate(videos.items()):
            held = io.BytesIO()
            np.save(held, frames)
            key = f"{i:09d}" if with_json else video
            parts = {"npy": held.getvalue(), "txt": b"a caption"}
            if with_json:
                parts["json"] = json.dumps({"videoID": video, "fps": 25, **about}).encode()
            for kind, data in parts.items():
                info = tarfile.TarInfo(f"{key}.{kind}")
                info.size, info.mtime = len(data), written
                tar.addfile(info, io.BytesIO(data))
    return path


def text_vectors(texts: list[str], backbone: str = "demo-tiny") -> np.ndarray:
    """Return the vectors [T, D] that a backbone gives to sentences."""
    loaded = registry.load(backbone, offline=True)
    ids, _ = loaded.tokenize(texts, loaded.context_length)
    with torch.no_grad():
        return np.asarray(loaded.encode_text(ids)[0])


def around(vectors: np.ndarray, lengths: list[int], noise: float = 0.3) -> list[np.ndarray]:
    """Return frames [F, D] around each vector, in float16, so that R@1 is high but not all is alike."""
    rng = np.random.default_rng(0)
    return [
        (v + noise * np.abs(v).mean() * rng.standard_normal((n, len(v)))).astype(np.float16)
        for v, n in zip(vectors, lengths, strict=True)
    ]
