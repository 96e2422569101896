"""Tiny weights in the file formats of the real ones, with expected values that transformers itself computes.

Nothing here calls tvr: pictures are made by the library's own processor, scores by the class's own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hf_folders
import numpy as np
import torch
from PIL import Image

from tvr_cli.verify.rows import Asset, BackboneRow, Quantity, Shows

SENTENCES = ("a dog on the red circle", "rain", "a surfing dog")


@dataclass(frozen=True)
class StandIn:
    """A row of a tiny encoder, and the file that it is about."""

    row: BackboneRow
    asset: Path
    folder: Path


def make(kind: str, root: Path, seed: int = 0) -> StandIn:
    """Write the weights and the asset of a kind, and compute its row by the library."""
    folder = hf_folders.make(kind, root / kind, seed)
    shows, quantity, expect = KINDS[kind]
    asset = root / f"{kind}.{'png' if shows == 'picture' else 'npy'}"
    frames = draw(shows)
    if shows == "picture":
        Image.fromarray(frames[0]).save(asset)
    else:
        np.save(asset, frames)
    with torch.no_grad():
        expected, first = expect(folder, frames)
    row = BackboneRow(
        backbone=f"hf:{folder}",
        asset=Asset(address=asset.name, shows=shows),
        sentences=SENTENCES,
        quantity=quantity,
        expected=tuple(expected.flatten().tolist()),
        first=first,
        atol=1e-3 if quantity != "features" else 1e-5,
        rtol=1e-3 if quantity != "features" else 1e-5,
        tolerance_by="as of the real row",
        source="transformers, on tiny weights",
        line=f"{type(expected).__name__} of {kind}",
    )
    return StandIn(row, asset, folder)


def perception(root: Path) -> StandIn:
    """Write PE-Core B/16 in two layers, as open_clip builds it, and what open_clip makes of the picture."""
    import families

    family = next(f for f in families.FAMILIES if f.name == "PE-Core B")
    with families.two_layers():
        oracle, settings = families.write(family, root / "pe")
    frame, asset = draw("picture")[0], root / "picture.png"
    Image.fromarray(frame).save(asset)
    ids = families.open_clips_tokenizer(family, root / "pe", oracle)(list(SENTENCES))
    with torch.no_grad():
        seen = oracle.encode_image(families.transformed(frame, settings)[None], normalize=True)
        logits = oracle.logit_scale.exp() * seen @ oracle.encode_text(ids, normalize=True).T
    row = BackboneRow(
        backbone=f"local:{root / 'pe'}",
        asset=Asset(address=asset.name, shows="picture"),
        sentences=SENTENCES,
        quantity="logits",
        expected=tuple(logits.flatten().tolist()),
        atol=1e-3,
        rtol=1e-3,
        tolerance_by="as of other rows of logits",
        source="open_clip, on random weights of two layers",
        line="encode_image, encode_text",
    )
    return StandIn(row, asset, root / "pe")


def draw(shows: Shows) -> np.ndarray:
    """Return frames in which no two colours, places or times are alike: [F, H, W, 3]."""
    rng = np.random.default_rng(5)
    count = 1 if shows == "picture" else hf_folders.FRAMES
    size = (hf_folders.SIZE, hf_folders.SIZE) if shows == "pixels" else (48, 80)
    noise = rng.integers(0, 256, (count, 6, 10, 3), dtype=np.uint8)
    rows, columns = (np.arange(n) * k // n for n, k in zip(size, noise.shape[1:3], strict=True))
    frames = noise[:, rows][:, :, columns]
    return (frames / 255).astype(np.float32) if shows == "pixels" else frames


Expect = Callable[[Path, np.ndarray], tuple[torch.Tensor, tuple[int, int]]]


def _texts(folder: Path, length: int, **how: Any) -> dict[str, torch.Tensor]:
    import transformers as t

    tokenizer = t.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    return dict(tokenizer(list(SENTENCES), return_tensors="pt", max_length=length, truncation=True, **how))


def _pixels(folder: Path, frames: np.ndarray) -> torch.Tensor:
    import transformers as t

    processor = t.AutoImageProcessor.from_pretrained(str(folder), local_files_only=True, backend="pil")
    found: torch.Tensor = processor(images=[Image.fromarray(f) for f in frames], return_tensors="pt")["pixel_values"]
    return found


def _clip(folder: Path, frames: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
    import transformers as t

    model = t.CLIPModel.from_pretrained(str(folder)).eval()
    texts = _texts(folder, hf_folders.CONTEXT, padding=True)
    return model(**texts, pixel_values=_pixels(folder, frames)).logits_per_image, (0, 0)


def _siglip(folder: Path, frames: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
    import transformers as t

    model = t.SiglipModel.from_pretrained(str(folder)).eval()
    texts = _texts(folder, hf_folders.CONTEXT, padding="max_length")
    return model(input_ids=texts["input_ids"], pixel_values=_pixels(folder, frames)).logits_per_image, (0, 0)


def _xclip(folder: Path, frames: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
    import transformers as t

    model = t.XCLIPModel.from_pretrained(str(folder)).eval()
    texts = _texts(folder, hf_folders.CONTEXT, padding=True)
    return model(**texts, pixel_values=_pixels(folder, frames)[None]).logits_per_video, (0, 0)


def _videoprism(folder: Path, frames: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
    import transformers as t

    model = t.VideoPrismClipModel.from_pretrained(str(folder)).eval()
    sentences = [s + "." for s in SENTENCES]  # as its authors write them
    tokenizer = t.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    texts = tokenizer(sentences, return_tensors="pt", max_length=hf_folders.CONTEXT, padding="max_length")
    out = model(torch.from_numpy(frames).permute(0, 3, 1, 2)[None], **texts)
    return torch.cat([out.video_embeds.flatten()[:9], out.text_embeds[:, :3].flatten()]), (9, 3)


KINDS: dict[str, tuple[Shows, Quantity, Expect]] = {
    "clip": ("picture", "logits", _clip),
    "siglip": ("picture", "logits", _siglip),
    "xclip": ("frames", "prompted logits", _xclip),
    "videoprism": ("pixels", "features", _videoprism),
}
