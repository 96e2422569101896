"""RandAugment on the frames of a clip, as GARE trains with: `rand-m7-n4-mstd0.5-inc1`, one transform for all frames.

Four operations are drawn with replacement from the fifteen whose strength grows with the magnitude; each is applied
with probability 1/2 at a magnitude drawn from N(7, 0.5), clipped to 0..10; signs are drawn. Source: RandAugment
(arXiv 1909.13719) in the variant of timm, which the video code bases took over; spec of GARE, section 6. No torch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageOps
from PIL.Image import Image as Picture

_FILL = (128, 128, 128)  # for what a rotation, shear or shift leaves empty
_MOST = 10.0  # the largest magnitude
_TRANSLATE = 0.45  # share of the side that a shift of the largest magnitude moves
_SHEAR, _ROTATE_DEGREES, _ENHANCE, _SOLARIZE_ADD = 0.3, 30.0, 0.9, 110

Operation = Callable[[Picture, float, float], Picture]  # image, strength in 0..1, sign


@dataclass(frozen=True)
class RandAugment:
    """magnitude m, deviation mstd, layers n of the name; probability of each layer."""

    magnitude: float = 7.0
    deviation: float = 0.5
    layers: int = 4
    probability: float = 0.5

    def __call__(self, frames: Sequence[Picture], seed: int) -> list[Picture]:
        """Return the RGB frames of one clip, all changed in the same way; a pure function of frames and seed."""
        draw = random.Random(seed)
        frames = list(frames)
        for _ in range(self.layers):
            operation = OPERATIONS[int(draw.random() * len(OPERATIONS))]
            applied = draw.random() < self.probability
            strength = min(max(draw.gauss(self.magnitude, self.deviation), 0.0), _MOST) / _MOST
            sign = -1.0 if draw.random() < 0.5 else 1.0
            if applied:
                frames = [operation(frame, strength, sign) for frame in frames]
        return frames


def _auto_contrast(image: Picture, strength: float, sign: float) -> Picture:
    return ImageOps.autocontrast(image)


def _equalize(image: Picture, strength: float, sign: float) -> Picture:
    return ImageOps.equalize(image)


def _invert(image: Picture, strength: float, sign: float) -> Picture:
    return ImageOps.invert(image)


def _rotate(image: Picture, strength: float, sign: float) -> Picture:
    return image.rotate(sign * strength * _ROTATE_DEGREES, Image.Resampling.BILINEAR, fillcolor=_FILL)


def _posterize(image: Picture, strength: float, sign: float) -> Picture:
    keep_bits = 4 - int(strength * 4)
    return image.point([value & ~((1 << (8 - keep_bits)) - 1) & 0xFF for value in range(256)] * 3)


def _solarize(image: Picture, strength: float, sign: float) -> Picture:
    threshold = 256 - min(256, int(strength * 256))
    return image.point([value if value < threshold else 255 - value for value in range(256)] * 3)


def _solarize_add(image: Picture, strength: float, sign: float) -> Picture:
    add = min(128, int(strength * _SOLARIZE_ADD))
    return image.point([min(255, value + add) if value < 128 else value for value in range(256)] * 3)


def _enhance(kind: Callable[[Picture], ImageEnhance._Enhance]) -> Operation:
    def operation(image: Picture, strength: float, sign: float) -> Picture:
        return kind(image).enhance(max(0.1, 1.0 + sign * strength * _ENHANCE))

    return operation


def _shear_x(image: Picture, strength: float, sign: float) -> Picture:
    return _affine(image, (1, sign * strength * _SHEAR, 0, 0, 1, 0))


def _shear_y(image: Picture, strength: float, sign: float) -> Picture:
    return _affine(image, (1, 0, 0, sign * strength * _SHEAR, 1, 0))


def _translate_x(image: Picture, strength: float, sign: float) -> Picture:
    return _affine(image, (1, 0, sign * strength * _TRANSLATE * image.size[0], 0, 1, 0))


def _translate_y(image: Picture, strength: float, sign: float) -> Picture:
    return _affine(image, (1, 0, 0, 0, 1, sign * strength * _TRANSLATE * image.size[1]))


def _affine(image: Picture, matrix: tuple[float, ...]) -> Picture:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR, fillcolor=_FILL
    )


OPERATIONS: tuple[Operation, ...] = (
    _auto_contrast,
    _equalize,
    _invert,
    _rotate,
    _posterize,
    _solarize,
    _solarize_add,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)
