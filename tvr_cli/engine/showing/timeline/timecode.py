"""Timecode: how frames are named, and the rates that editors know (SMPTE ST 12-1). No floating point."""

from __future__ import annotations

import re
from fractions import Fraction

NTSC = Fraction(1000, 1001)
RATES = (24 * NTSC, Fraction(24), Fraction(25), 30 * NTSC, Fraction(30), Fraction(50), 60 * NTSC, Fraction(60))
# Files say 23.98 or 359/15 of what is 24000/1001: closer than a third of the way to 24.
_NEAR = Fraction(1, 3000)
_TIMECODE = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")
_DAY_S = 24 * 3600


def known_rate(rate: Fraction) -> Fraction:
    """Return the rate of an editor that a file means by its own, or that rate where it is near none."""
    nearest = min(RATES, key=lambda known: abs(rate / known - 1))
    return nearest if abs(rate / nearest - 1) < _NEAR else rate


def sequence_rate(rate: Fraction) -> Fraction:
    """Return the rate of an editor for clips of some rate: the same, one that it goes into, or the nearest."""
    whole = [r for r in RATES if (r / rate).denominator == 1 or (rate / r).denominator == 1]
    return min(whole or RATES, key=lambda known: abs(known - rate))


def nominal(rate: Fraction) -> int:
    """Return how many numbers a second of timecode has: 30 at 29.97."""
    return max(1, round(rate))


def may_drop(rate: Fraction) -> bool:
    """Return whether timecode may leave out numbers at a rate, so that it keeps the clock's time."""
    return rate in (30 * NTSC, 60 * NTSC)


def to_timecode(frame: int, rate: Fraction, *, drop: bool = False) -> str:
    """Name a frame, counted from 00:00:00:00; after a day names begin again. drop: numbers are left out."""
    per = nominal(rate)
    if drop:
        frame += _left_out(frame, per)
    frame %= _DAY_S * per
    seconds, frames = divmod(frame, per)
    mark = ";" if drop else ":"
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{mark}{frames:02d}"


def from_timecode(text: str, rate: Fraction) -> tuple[int, bool] | None:
    """Return the frame that a timecode names, and whether it leaves out numbers; None where it is no timecode."""
    found = _TIMECODE.fullmatch(text.strip())
    if found is None:
        return None
    hours, minutes, seconds, frames = (int(found[i]) for i in (1, 2, 3, 5))
    per = nominal(rate)
    drop = found[4] != ":" and may_drop(rate)
    number = ((hours * 60 + minutes) * 60 + seconds) * per + frames
    if drop:  # two numbers (four at 59.94) a minute, except in each tenth one
        minute = hours * 60 + minutes
        number -= per // 15 * (minute - minute // 10)
    return number, drop


def _left_out(frame: int, per: int) -> int:
    """Return how many numbers were left out before a frame."""
    a_minute = per // 15
    of_ten = 600 * per - 9 * a_minute
    tens, rest = divmod(frame, of_ten)
    first = 60 * per  # the first minute of ten leaves out none
    more = 0 if rest < first else 1 + (rest - first) // (first - a_minute)
    return a_minute * (9 * tens + more)
