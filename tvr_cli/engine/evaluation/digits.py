"""What the digits of a row of recalls say about the number of queries behind it. numpy and integers only.

A recall is a count of hits over a number of queries, so a row with enough decimals betrays its denominator: 49.1071 /
76.1905 / 84.0278 is 495, 768 and 847 of 1008. A row with few decimals betrays nothing: any digits fit many numbers, and
who tries many numbers finds one that fits. So every search says how many counts it tried, and how often digits that
have nothing to do with them would have fitted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np

from tvr_cli.metrics import Ints

LIMIT = 70_000  # the largest test set in use: MSR-VTT full has 59 800 queries
NAMED_BELOW = 0.01  # a cause is named when chance alone explains the fit less often
TIE_SLACK = 0.05  # tie inflation adds a few entries, not half a test set
_TYPED_DIGITS = 10  # more decimals than that nobody types; int64 holds them all

# Test sizes that people report on (docs/datasets.md): queries of text-to-video, videos of video-to-text.
KNOWN: dict[int, str] = {
    27763: "MSVD (captions)",
    59800: "MSR-VTT full (captions)",
    15000: "VATEX HGR (captions)",
    1000: "MSR-VTT 1k-A, LSMDC",
    2990: "MSR-VTT full (videos)",
    670: "MSVD (videos)",
    1004: "DiDeMo",
    1003: "DiDeMo, one file missing",
    1036: "DiDeMo, videos named twice, all but one",
    1037: "DiDeMo, 33 videos named twice",
    999: "LSMDC, one clip left out",
    4917: "ActivityNet val_1",
    4885: "ActivityNet val_2",
    4884: "ActivityNet val_2, one missing",
    1500: "VATEX HGR (videos)",
}
# Where every video has several captions, text-to-video has as many queries as captions: videos -> captions.
QUERIES_OF_VIDEOS = {670: 27763, 2990: 59800, 1500: 15000}
VIDEOS_OF_QUERIES = {queries: videos for videos, queries in QUERIES_OF_VIDEOS.items()}
# One query a video: here a query is independent of the others as far as anybody knows.
SINGLE = frozenset({1000, 1004, 1003, 1036, 1037, 999, 4917, 4885, 4884})
# What rows of a test set were seen to be made of instead, by the size that they claim (docs/evaluation.md).
SEEN_INSTEAD: dict[int, dict[int, str]] = {
    1000: {
        1008: "rank entries in published logs of MSR-VTT 1k-A, tied ranks counted twice",
        1012: "rank entries of MSR-VTT 1k-A, ties of its equal captions counted twice",
        879: "videos of MSR-VTT 1k-A with sound",
        884: "videos of MSR-VTT 1k-A with sound",
        999: "clips of LSMDC, one left out",
    },
    1004: {
        1037: "names of DiDeMo, 33 videos named twice",
        1036: "names of DiDeMo, 33 videos named twice, one missing",
        1003: "videos of DiDeMo, one missing",
        979: "videos of DiDeMo, 25 missing",
        913: "videos of DiDeMo, 91 missing",
        824: "videos of DiDeMo, 180 missing",
    },
    4917: {4885: "videos of ActivityNet val_2", 4884: "videos of ActivityNet val_2, one missing"},
    4885: {4884: "videos of ActivityNet val_2, one missing", 4917: "videos of ActivityNet val_1"},
    1500: {1335: "videos of VATEX, 165 missing"},
}


@dataclass(frozen=True)
class Tried:
    """A search for another number of queries behind a row: how many were tried, and which of them fit.

    what: `known` numbers that were seen in place of the claimed one, the claim and a few more as `ties` counted twice
    make, or `fewer` as missing videos make. tried: so many numbers by now, those of earlier searches included.
    chance: how often digits that have nothing to do with any of them fit one.
    """

    what: Literal["known", "ties", "fewer"]
    tried: int
    fit: Sequence[int]
    chance: float

    @property
    def tells(self) -> bool:
        """Whether something fits that chance alone does not explain."""
        return bool(self.fit) and self.chance < NAMED_BELOW


def possible_counts(recalls: Mapping[int, Decimal]) -> list[int]:
    """Return every number of queries up to LIMIT for which all R@k are a count over it, rounded to the digits typed."""
    queries = np.arange(1, LIMIT + 1, dtype=np.int64)
    fits = np.ones(LIMIT, dtype=bool)
    for value in recalls.values():
        fits &= hits(value, queries) >= 0
    return queries[fits].tolist()


def counts_of(recalls: Mapping[int, Decimal], queries: int) -> dict[int, int] | None:
    """Return the hits that a row means over `queries`, None where they are no counts. A row is rounded, or cut, whole.

    People round and people cut; whoever claims a number has the benefit of the doubt.
    """
    asked = np.array([queries], dtype=np.int64)
    for cut in (False, True):
        found = {k: int(hits(value, asked, cut=cut)[0]) for k, value in recalls.items()}
        if min(found.values()) >= 0:
            return found
    return None


def chance_of(recalls: Mapping[int, Decimal], queries: int) -> float:
    """Return the share of all rows with these decimals that are rounded counts over `queries`."""
    share = 1.0
    for value in recalls.values():
        typed = min(decimals(value), _TYPED_DIGITS)
        share *= min(1.0, (queries + 1) / (10 ** (typed + 2) + 1))
    return share


def tries(recalls: Mapping[int, Decimal], queries: int, possible: Sequence[int]) -> tuple[Tried, ...]:
    """Search other numbers of queries behind a row that is no count over the `queries` that it claims.

    Those that were seen are tried first. A row has to fit one whole: all of R@k, rounded.
    """
    known = sorted(SEEN_INSTEAD.get(queries, {}))
    above = range(queries + 1, int(queries * (1 + TIE_SLACK)) + 1)
    below = range((queries + 1) // 2, queries)
    fitting = set(possible)
    searched: list[tuple[Literal["known", "ties", "fewer"], Sequence[int]]] = [
        ("known", known), ("ties", above), ("fewer", below),
    ]  # fmt: skip
    done: list[Tried] = []
    tried: list[int] = []
    for what, numbers in searched:
        tried += numbers
        if numbers:
            done.append(Tried(what, len(tried), [n for n in numbers if n in fitting], _any_fits(recalls, tried)))
    return tuple(done)


def hits(value: Decimal, queries: Ints, *, cut: bool = False) -> Ints:
    """Return [N] the count of hits that gives `value` percent over each number of queries, -1 where none does.

    Rounded to the digits of `value` (half a unit of the last one, ends included), or `cut` after them.
    """
    places = decimals(value)
    if places > _TYPED_DIGITS:  # an unrounded binary float, from a JSON
        exact = np.rint(float(value) * queries / 100.0).astype(np.int64)
        return np.where(np.abs(100.0 * exact / np.maximum(queries, 1) - float(value)) < 1e-9, exact, -1)
    # In half units of the last digit: a value v is a count h over n where low <= h / n < high, or <= where rounded.
    scaled, scale = 2 * int(value.scaleb(places)), 200 * 10**places
    if cut:
        least = -(-scaled * queries // scale)
        return np.where((least * scale < (scaled + 2) * queries) & (least <= queries), least, -1)
    most = np.minimum((scaled + 1) * queries // scale, queries)
    return np.where(most * scale >= (scaled - 1) * queries, most, -1)


def decimals(value: Decimal) -> int:
    """Return how many digits after the point were typed."""
    exponent = value.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _any_fits(recalls: Mapping[int, Decimal], numbers: Sequence[int]) -> float:
    misses = np.prod([1.0 - chance_of(recalls, n) for n in numbers])
    # Where single chances are below 1e-16 the product is 1: their sum is the chance then.
    return float(min(sum(chance_of(recalls, n) for n in numbers), 1.0) if misses > 1 - 1e-9 else 1.0 - misses)
