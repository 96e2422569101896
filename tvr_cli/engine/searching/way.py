"""How an index is searched: which stages a sentence goes through, and how wide each is. Decided when it is built.

every      the method scores every clip: nothing can be missed
rough      `Method.rough` of every clip, the method's score of the best
coarse     the cosine of coarse vectors, the method's score of the best; between them `rough`, where there is one
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

LEAST = 200  # clips of a shortlist
SHARE = 500  # one of so many clips, where nothing was measured


@dataclass(frozen=True, slots=True)
class Way:
    """The stages of a search. clips: of the index that it was made for; a grown one has wider stages.

    shortlist: clips that the method scores itself. prefilter: clips that coarse vectors leave for `rough`, 0 = none in
    between.
    """

    first: Literal["every", "rough", "coarse"]
    clips: int
    shortlist: int
    prefilter: int = 0

    def widened(self, clips: int) -> Way:
        """Return the way for an index of so many clips."""
        if clips <= self.clips:
            return self
        wider = clips / self.clips
        return Way(self.first, clips, math.ceil(self.shortlist * wider), math.ceil(self.prefilter * wider))


def unmeasured(clips: int) -> Way:
    """Return the way of an index that nothing was measured of: coarse vectors, and max(200, 0.2 %) of the clips."""
    return Way("coarse", clips, max(LEAST, clips // SHARE))


def way_of(measured: Mapping[str, Any], clips: int) -> Way:
    """Return the way that an index of so many clips keeps of itself, see `stores/index/head.py`."""
    kept = measured.get("way")
    return Way(**kept).widened(clips) if kept and kept["clips"] else unmeasured(clips)
