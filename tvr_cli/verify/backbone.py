"""`tvr verify backbone NAME`: real weights against what their authors, or their library, publish on one picture.

The picture goes the way of every frame (`stores/frames/picture.py`), the sentences that of every caption. Where values
are off, what usually goes wrong is tried in turn, and named where it gives the published values.

Letters: T sentences, F frames, S pixels, D features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tvr_cli import user_cache
from tvr_cli.backbones import registry
from tvr_cli.backbones.base import Backbone, Description
from tvr_cli.engine.device import pick_device
from tvr_cli.errors import ConfigError, DataError, did_you_mean
from tvr_cli.files import sha256_file
from tvr_cli.stores.frames.picture import see
from tvr_cli.types import Filter, SquareFit, View
from tvr_cli.verify import assets, rows
from tvr_cli.verify.outcome import NOT_PINNED, Outcome, VerifyReport, compared, report
from tvr_cli.verify.rows import BackboneRow


@dataclass(frozen=True)
class Shown:
    """What an encoder is shown: frames [F, H, W, 3], uint8 or float32 in 0…1, and sentences.

    view: how a frame becomes its square, None where it is one already.
    """

    frames: np.ndarray
    sentences: tuple[str, ...]
    view: View | None

    def pixels(self, device: torch.device) -> Tensor:
        """Return [1, F, 3, S, S], of the type of the frames."""
        squares = [see(frame, self.view) if self.view else frame for frame in self.frames]
        return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)[None].to(device)


def verify(
    name: str,
    *,
    asset: Path | None = None,
    device: str = "auto",
    offline: bool = False,
    who: str | None = None,
    known: Sequence[BackboneRow] | None = None,
) -> VerifyReport:
    """Load weights and hold them against every row that is known of them.

    asset: the picture or clip, where the encoder has one row or all have one asset. known: rows in place of the shipped
    ones. Raises ConfigError for an encoder of which nothing is known, and what loading and fetching raise.
    """
    found = rows.of(name) if known is None else tuple(known)
    if not found:
        near = did_you_mean(name, rows.names()) or f"; there are some of: {', '.join(rows.names())}"
        raise ConfigError(f"no published values of the backbone {name!r} are known here{near}")
    if asset is not None and len({row.asset for row in found}) > 1:
        found = tuple(row for row in found if Path(row.asset.address).name == asset.name)
        if not found:
            raise ConfigError(
                f"--asset: {name!r} has values on several pictures, and the file's name says which: "
                + ", ".join(dict.fromkeys(Path(row.asset.address).name for row in rows.of(name)))
            )
    pinned = found[0].backbone
    places = [assets.locate(row.asset, asset, name, offline=offline) for row in found]
    where = pick_device(device)
    loaded = registry.load(pinned, offline=offline, device=where)
    outcomes = [check(row, loaded, path) for row, path in zip(found, places, strict=True)]
    hashes = {path.name: sha256_file(path) for path in places}
    if (file := loaded.about.weights) is not None:
        hashes[f"weights {file.name}"] = user_cache.sha256_of(file)
    revision = loaded.about.commit or loaded.about.revision
    outcomes = [replace(outcome, detail=f"{outcome.detail}; {read_of(loaded.about)}") for outcome in outcomes]
    protocol = {
        "what": f"values of {pinned} as published",
        "weights": loaded.about.source,
        "revision": revision or NOT_PINNED,
        "picture": f"{loaded.about.view}",
        "sentences": "; ".join(dict.fromkeys(sentence for row in found for sentence in row.sentences)),
    }
    packages = [loaded.library] if loaded.library else []
    return report(
        ["backbone", name], outcomes, protocol=protocol, hashes=hashes, device=where, who=who, packages=packages
    )


def read_of(about: Description) -> str:
    """Say which weights were read: nothing is called PASS without."""
    if commit := about.commit or about.revision:
        return f"weights of the revision {commit}"
    if about.weights is None:
        return "revision not pinned: weights that are in no file"
    return f"revision not pinned: weights of sha256 {user_cache.sha256_of(about.weights)[:16]}…"


def check(row: BackboneRow, backbone: Backbone, asset: Path) -> Outcome:
    """Hold one row against loaded weights, and look for the cause where it is off.

    Raises DataError for a file that is no such asset, or a clip of another shape than the encoder takes.
    """
    frames, about = assets.read(asset, row.asset.shows), backbone.about
    if row.asset.shows != "picture" and about.frames not in (None, len(frames)):
        raise DataError(f"{str(asset)!r} has {len(frames)} frames, and {about.name} takes {about.frames}: another clip")
    if row.asset.shows == "pixels" and frames.shape[1:3] != (about.image_size, about.image_size):
        size = " x ".join(map(str, frames.shape[1:3]))
        raise DataError(f"{str(asset)!r} has frames of {size} pixels, and {about.name} takes {about.image_size}")
    shown = Shown(frames, row.sentences, None if row.asset.shows == "pixels" else about.view)
    outcome = _compare(row, backbone, shown)
    if outcome.status == "PASS":
        return outcome
    return replace(outcome, cause=_cause(row, backbone, shown))


def _compare(row: BackboneRow, backbone: Backbone, shown: Shown) -> Outcome:
    with torch.no_grad():
        found = _QUANTITIES[row.quantity](backbone, shown, row)
    expected = torch.tensor(row.expected, dtype=torch.float64)
    allowed = row.atol + row.rtol * expected.abs()
    name = f"{row.quantity} of {row.backbone} on {Path(row.asset.address).name}"
    return compared(name, found, expected, allowed, f"{row.source}: {row.line} (tolerance: {row.tolerance_by})")


# ---------------------------------------------------------------------------------------------------------- quantities


def _encoded(backbone: Backbone, shown: Shown) -> tuple[Tensor, Tensor]:
    """Return the vector of what is shown [D], and those of the sentences [T, D]."""
    ids, _ = backbone.tokenize(shown.sentences, backbone.context_length)
    text = backbone.encode_text(ids.to(backbone.device))[0]
    pixels = shown.pixels(backbone.device)
    if pixels.is_floating_point():
        tower: Any = backbone  # of transformers: no other row shows pixels that are numbers
        return tower.recipe.clips(tower.model, pixels.to(backbone.dtype)).pooled[0], text
    real = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device)
    if "video.pooled" in backbone.provides:
        pooled = backbone.encode_video(pixels, real).pooled
        assert pooled is not None, "it provides one vector a clip"
        return pooled[0], text
    return backbone.encode_frames(pixels, real)[0, 0], text


def _logits(backbone: Backbone, shown: Shown, row: BackboneRow) -> Tensor:
    seen, text = _encoded(backbone, shown)
    cosines = normalize(text, dim=-1) @ normalize(seen, dim=-1)
    bias = getattr(getattr(backbone, "model", None), "logit_bias", None)
    return cosines * backbone.logit_scale.exp() + (0.0 if bias is None else bias)


def _probabilities(backbone: Backbone, shown: Shown, row: BackboneRow) -> Tensor:
    return _logits(backbone, shown, row).softmax(-1)


def _features(backbone: Backbone, shown: Shown, row: BackboneRow) -> Tensor:
    seen, text = _encoded(backbone, shown)
    clip, sentence = row.first
    return torch.cat([seen[:clip], text[:, :sentence].flatten()])


def _prompted_logits(backbone: Backbone, shown: Shown, row: BackboneRow) -> Tensor:
    """X-CLIP's: to each sentence its class adds a prompt that is made of the clip, which tvr's features leave out."""
    model: Any = backbone.model
    patches: list[Tensor] = []
    hook = model.vision_model.register_forward_hook(lambda module, given, out: patches.append(out[0][:, 1:]))
    try:
        seen, text = _encoded(backbone, shown)
    finally:
        hook.remove()
    content = model.prompts_visual_layernorm(patches[0]) @ model.prompts_visual_projection  # [F, P, D]
    prompted = text[None] + model.prompts_generator(text[None], content.mean(0, keepdim=True))
    return normalize(prompted[0], dim=-1) @ normalize(seen, dim=-1) * backbone.logit_scale.exp()


_QUANTITIES: dict[str, Callable[[Backbone, Shown, BackboneRow], Tensor]] = {
    "logits": _logits,
    "probabilities": _probabilities,
    "prompted logits": _prompted_logits,
    "features": _features,
}


# -------------------------------------------------------------------------------------------------------------- causes


def _cause(row: BackboneRow, backbone: Backbone, shown: Shown) -> str:
    """Try what usually goes wrong, and name what gives the published values."""
    for what, change in _mistakes(shown):
        if _compare(row, backbone, change).status == "PASS":
            return f"the values equal the published ones with {what}"
    with _other_activation(backbone) as name:
        if name and _compare(row, backbone, shown).status == "PASS":
            return f"the values equal the published ones with {name}"
    with torch.no_grad():
        seen, text = _encoded(backbone, shown)
    if float(seen.std()) == 0.0 or float((text - text[0]).abs().max()) == 0.0:
        return "the encoder gives a constant: weights that were not loaded"
    return "no usual mistake gives the published values: other weights, or a picture that is not the authors'"


def _mistakes(shown: Shown) -> Iterator[tuple[str, Shown]]:
    """Return what may be wrong with the picture or the sentences, by name, each put right."""
    yield "red and blue swapped", replace(shown, frames=np.ascontiguousarray(shown.frames[..., ::-1]))
    if shown.view is not None:
        fit: SquareFit = "squash" if shown.view.fit == "crop" else "crop"
        does = {"squash": "a picture that is squashed, not cropped", "crop": "a picture that is cropped, not squashed"}
        yield does[fit], replace(shown, view=replace(shown.view, fit=fit))
        other: Filter = "bilinear" if shown.view.filter == "bicubic" else "bicubic"
        yield f"the {other} filter", replace(shown, view=replace(shown.view, filter=other))
    for step in range(1, len(shown.sentences)):
        moved = shown.sentences[step:] + shown.sentences[:step]
        yield f"the sentences moved by {step}", replace(shown, sentences=moved)
    if len(shown.frames) > 1:
        yield "the frames in reverse", replace(shown, frames=np.ascontiguousarray(shown.frames[::-1]))


class _QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


@contextlib.contextmanager
def _other_activation(backbone: Backbone) -> Iterator[str]:
    """Exchange QuickGELU and GELU in the towers for a while; gives what was put in, empty where there is neither."""
    put: list[tuple[nn.Module, str, nn.Module]] = []
    names = set()
    for module in backbone.modules():
        for name, child in module.named_children():
            kind = type(child).__name__.lower()
            if "gelu" not in kind or isinstance(child, _QuickGelu):
                continue
            quick = "quick" in kind
            put.append((module, name, child))
            setattr(module, name, nn.GELU() if quick else _QuickGelu())
            names.add("GELU" if quick else "QuickGELU")
    try:
        yield " and ".join(sorted(names))
    finally:
        for module, name, child in put:
            setattr(module, name, child)
