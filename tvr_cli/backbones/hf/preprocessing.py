"""How weights of transformers were trained to see a picture, as their processor's configuration says it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli.errors import DataError
from tvr_cli.files import parse_json
from tvr_cli.types import Filter, SquareFit

# In this order: what is said of clips counts before what is said of pictures.
FILES = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
_PARTS = ("video_processor", "image_processor", "feature_extractor")  # of processor_config.json
_SQUASH: SquareFit = "squash"
_FILTERS: dict[Any, Filter] = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}


@dataclass(frozen=True)
class Preprocessing:
    """size: S. mean, std: of red, green and blue, of pixels from 0 to 1. fit, filter: see `types.View`."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: SquareFit
    filter: Filter

    @classmethod
    def of_folder(cls, folder: Path, square: int | None = None) -> Preprocessing:
        """Read the configuration of a folder's processor. Raises DataError where there is none that can be followed.

        square: the S that tvr makes where the processor keeps a picture's shape, which its configuration then names.
        """
        for name in FILES:
            try:
                said = parse_json((folder / name).read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as e:
                raise DataError(f"{str(folder / name)!r} is not a processor's configuration: {e}") from e
            if not isinstance(said, dict):
                raise DataError(f"{str(folder / name)!r} is not a processor's configuration: it is no object")
            nested = [said[key] for key in _PARTS if isinstance(said.get(key), dict)]
            if nested or "size" in said:
                return cls.read(nested[0] if nested else said, repr(str(folder / name)), square)
        raise DataError(
            f"{str(folder)!r} does not say how its model sees a picture; expected one of {', '.join(FILES)} beside "
            "'config.json'"
        )

    @classmethod
    def read(cls, said: Mapping[str, Any], whose: str, square: int | None = None) -> Preprocessing:
        """Read a processor's settings. whose: for the message. square: see `of_folder`.

        Raises DataError for a picture that tvr cannot make.
        """
        if said.get("do_resize", True) is False or said.get("do_rescale", True) is False:
            raise _cannot(whose, "pictures that are not resized or not brought to numbers from 0 to 1")
        factor = said.get("rescale_factor", 1 / 255)
        if not isinstance(factor, int | float) or not math.isclose(factor, 1 / 255, rel_tol=1e-3):
            raise _cannot(whose, f"a rescale_factor of {factor!r}")
        if (resample := said.get("resample", 3)) not in _FILTERS:
            raise _cannot(whose, f"the filter (resample) {resample!r}; it makes bicubic (3) and bilinear (2) ones")
        size, fit = _square(said, whose) if square is None else (square, _SQUASH)
        if said.get("do_normalize", True):
            mean, std = (
                _triple(said.get("image_mean"), "image_mean", whose),
                _triple(said.get("image_std"), "image_std", whose),
            )
        else:
            mean, std = (0.0,) * 3, (1.0,) * 3
        return cls(size, mean, std, fit, _FILTERS[resample])


def _square(said: Mapping[str, Any], whose: str) -> tuple[int, SquareFit]:
    """Return S and how a picture becomes a square of it."""
    size, crops = said.get("size"), bool(said.get("do_center_crop"))
    if isinstance(size, int):  # as older files have it: the short side where it is cropped, both otherwise
        size = {"shortest_edge": size} if crops else {"height": size, "width": size}
    crop = said.get("crop_size")
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    if isinstance(size, dict) and _is_square(size):
        if crops and crop != {key: size[key] for key in ("height", "width")}:
            raise _cannot(whose, f"the middle {crop} of a picture of {size}")
        return int(size["height"]), "squash"
    if isinstance(size, dict) and isinstance(short := size.get("shortest_edge"), int) and crops:
        if not isinstance(crop, dict) or not _is_square(crop) or crop["height"] != short:
            raise _cannot(whose, f"the middle {crop} of a picture whose short side has {short} pixels")
        return short, "crop"
    raise _cannot(whose, f"the size {size!r}{'' if crops else ' without a crop'}, which is no square")


def _is_square(size: Mapping[str, Any]) -> bool:
    return isinstance(size.get("height"), int) and size.get("height") == size.get("width")


def _cannot(whose: str, what: str) -> DataError:
    return DataError(f"{whose} asks for {what}, and tvr does not make such pictures; choose another backbone")


def _triple(value: Any, name: str, whose: str) -> tuple[float, ...]:
    try:
        found = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3:
        raise DataError(f"{whose}: expected three numbers as {name}, found {value!r}")
    return found
