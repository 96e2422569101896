"""How weights of open_clip were trained to see a picture, as its tables and a folder's `preprocess_cfg` say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvr_cli.errors import ConfigError, DataError
from tvr_cli.types import Filter, SquareFit

# OpenAI's pixel statistics, open_clip's default where a configuration names none.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_FITS: dict[str, SquareFit] = {"shortest": "crop", "squash": "squash"}  # by open_clip's resize_mode
_FILTERS: dict[str, Filter] = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}  # as open_clip does


@dataclass(frozen=True)
class Preprocessing:
    """mean, std: of red, green and blue, of pixels from 0 to 1. fit, filter: see `types.View`."""

    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    fit: SquareFit = "crop"
    filter: Filter = "bicubic"

    @classmethod
    def read(cls, settings: Mapping[str, Any], whose: str) -> Preprocessing:
        """Read open_clip's settings of a tag, or a folder's `preprocess_cfg`. whose: for the message.

        Raises DataError for a way to resize that tvr does not know.
        """
        mode, name = settings.get("resize_mode") or "shortest", settings.get("interpolation") or "bicubic"
        if mode not in _FITS:
            raise DataError(
                f"{whose} was trained on pictures of resize_mode {mode!r}, and tvr makes {' and '.join(_FITS)} only; "
                "choose another backbone"
            )
        if name not in _FILTERS:
            raise DataError(
                f"{whose} was trained on pictures of interpolation {name!r}, and tvr makes bicubic and bilinear only; "
                "choose another backbone"
            )
        return cls(
            _triple(settings.get("mean") or _MEAN, whose),
            _triple(settings.get("std") or _STD, whose),
            _FITS[mode],
            _FILTERS[name],
        )

    @classmethod
    def usual(cls, architecture: str) -> Preprocessing:
        """Return what all published weights of an architecture agree on: a weights file does not say it.

        Raises ConfigError where they do not agree.
        """
        from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

        known = {
            cls.read(settings, f"{architecture}/{tag}")
            for tag in list_pretrained_tags_by_model(architecture)
            if (settings := get_pretrained_cfg(architecture, tag))
        }
        if len(known) > 1:
            raise ConfigError(
                f"weights of {architecture} were published with different pixel statistics or ways to resize; put the "
                "file into a folder with an 'open_clip_config.json' that has `preprocess_cfg: {mean, std, resize_mode, "
                "interpolation}` and say --backbone local:FOLDER"
            )
        return next(iter(known), cls())

    def settings(self) -> dict[str, Any]:
        """Return the `preprocess_cfg` that says so."""
        mode = next(mode for mode, fit in _FITS.items() if fit == self.fit)
        return {"mean": list(self.mean), "std": list(self.std), "interpolation": self.filter, "resize_mode": mode}


def _triple(value: Any, whose: str) -> tuple[float, ...]:
    try:
        found = (float(value),) * 3 if isinstance(value, int | float) else tuple(float(v) for v in value)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3:
        raise DataError(f"{whose}: expected three numbers as mean and std of its pixels, found {value!r}")
    return found
