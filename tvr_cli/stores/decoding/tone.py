"""HDR pictures as a screen of the usual range shows them. Arithmetic on arrays only; no FFmpeg here.

PQ (SMPTE ST 2084) and HLG (ITU-R BT.2100) become light in units of reference white (203 cd/m2, BT.2408), BT.2020
colours become BT.709 ones, what is brighter than the knee is bent together (Mobius curve), and a display of gamma 2.4
(BT.1886) gets the rest. It is what `zscale=t=linear:npl=203,zscale=p=bt709,tonemap=mobius:desat=0,zscale=t=bt709`
gives, also in that the system gamma of HLG is applied to each colour and not, as in BT.2100, to the luma of all three.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np

Transfer = Literal["pq", "hlg"]

_WHITE = 203.0  # cd/m2 of reference white
_KNEE, _PEAK = 0.3, 10.0  # of reference white: from where on light is bent, and what becomes the brightest
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2  # cd/m2 of the nominal HLG display, and its system gamma
_LUMA = (0.2627, 0.6780, 0.0593)  # of red, green and blue in BT.2020
_TO_709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
    dtype=np.float32,
)  # ITU-R BT.2087
_STEPS = 4096  # of the table of the display's gamma
_BLOCK = 1 << 18  # pixels worked on at once: 3 MB a temporary array, whatever the size of a frame


def to_sdr(luma: np.ndarray, blue: np.ndarray, red: np.ndarray, transfer: Transfer, *, full: bool) -> np.ndarray:
    """Bring an HDR picture to BT.709: [H, W, 3] uint8 RGB.

    luma, blue, red: the planes Y, Cb and Cr of BT.2020, each [H, W] uint16. full: they use the full range.
    """
    height, width = luma.shape
    shown = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _BLOCK // width)
    for first in range(0, height, rows):
        part = slice(first, first + rows)
        shown[part] = _shown(_rgb(luma[part], blue[part], red[part], full), transfer)
    return shown


def _rgb(luma: np.ndarray, blue: np.ndarray, red: np.ndarray, full: bool) -> np.ndarray:
    """Return the code values [h, W, 3] uint16 of red, green and blue; what lies outside of the range is cut off."""
    black, white, chroma = (0, 65535, 65535) if full else (16 << 8, 235 << 8, 224 << 8)
    y = (luma.astype(np.float32) - black) / (white - black)
    cb, cr = ((plane.astype(np.float32) - (1 << 15)) / chroma for plane in (blue, red))
    kr, kg, kb = _LUMA
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    g = (y - kr * r - kb * b) / kg
    return np.rint(np.clip(np.stack([r, g, b], axis=-1), 0, 1) * 65535).astype(np.uint16)


def _shown(coded: np.ndarray, transfer: Transfer) -> np.ndarray:
    """Map code values [h, W, 3] uint16 -> [h, W, 3] uint8."""
    light = _linear(transfer)[coded]  # [h, W, 3] float32, 1 = reference white
    light = light @ _TO_709.T
    red, green, blue = np.moveaxis(light, -1, 0)
    brightest = np.maximum(np.maximum(red, green), np.maximum(blue, 1e-6))  # ten times as fast as max(axis=1)
    light *= (_bent(brightest) / brightest)[..., None]
    # By the square root, so that the steps are fine where the gamma is steep.
    return _displayed()[np.rint(np.sqrt(np.clip(light, 0, 1)) * (_STEPS - 1)).astype(np.int32)]


def _bent(light: np.ndarray) -> np.ndarray:
    """Leave light up to the knee as it is, and bend what is above so that `_PEAK` becomes 1."""
    a = -_KNEE * _KNEE * (_PEAK - 1) / (_KNEE * _KNEE - 2 * _KNEE + _PEAK)
    b = (_KNEE * _KNEE - 2 * _KNEE * _PEAK + _PEAK) / (_PEAK - 1)
    above = (b * b + 2 * b * _KNEE + _KNEE * _KNEE) / (b - a) * (light + a) / (light + b)
    return np.where(light <= _KNEE, light, np.minimum(above, 1))


@cache
def _linear(transfer: Transfer) -> np.ndarray:
    """Return the light of each of the 65 536 code values, float32, 1 = reference white."""
    curves: dict[Transfer, Callable[[np.ndarray], np.ndarray]] = {"pq": _pq, "hlg": _hlg}
    return curves[transfer](np.arange(1 << 16) / 65535.0).astype(np.float32)


@cache
def _displayed() -> np.ndarray:
    """Return the uint8 code value of light (i / (steps - 1)) squared on a display of gamma 2.4."""
    light = (np.arange(_STEPS) / (_STEPS - 1)) ** 2
    return np.rint(255 * light ** (1 / 2.4)).astype(np.uint8)


def _pq(code: np.ndarray) -> np.ndarray:
    """Light by SMPTE ST 2084."""
    m1, m2 = 2610 / 16384, 2523 / 32
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    power = code ** (1 / m2)
    light: np.ndarray = 10_000 / _WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    return light


def _hlg(code: np.ndarray) -> np.ndarray:
    """Light by BT.2100 HLG: that of the scene, where 1 is the peak, to the power that a display gives it."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    scene = np.where(code <= 0.5, code * code / 3, (np.exp((code - c) / a) + b) / 12)
    light: np.ndarray = _HLG_PEAK / _WHITE * scene**_HLG_GAMMA
    return light
