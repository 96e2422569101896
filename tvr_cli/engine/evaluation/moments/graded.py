"""TVR-Ranking's counting: NDCG@k of moments of a whole corpus, where one counts that overlaps a true one. numpy only.

As `modules/ndcg_iou.py` of Ranking-VMR/TVR-Ranking counts (arXiv 2407.06597): a found moment takes the true moment of
its video that it overlaps most, when that is more than μ, with the gain 2^relevance − 1; a true moment is taken once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvr_cli.data.truth.question import Moment
from tvr_cli.engine.evaluation.moments.spans import overlaps

CUTOFFS = (10, 20, 40)
OVERLAPS = (0.3, 0.5, 0.7)


def ndcg(found: Sequence[Moment], true: Sequence[Moment], least: float) -> list[float]:
    """Return NDCG at each of CUTOFFS, in 0..1. least: μ, which an overlap has to exceed. Without a gain it is 0.

    The best true moment stands first: of two that a found one overlaps equally it takes the more relevant.
    """
    ordered = sorted(true, key=lambda moment: -moment.grade)
    table = overlaps(found[: CUTOFFS[-1]], ordered)
    gains = np.zeros(CUTOFFS[-1])
    free = np.ones(len(ordered), dtype=bool)
    for place, (row, moment) in enumerate(zip(table, found, strict=False)):
        own = free & np.array([other.video == moment.video for other in ordered], dtype=bool)
        if not own.any():
            continue
        best = int(np.argmax(np.where(own, row, -1.0)))
        if row[best] > least:
            free[best] = False
            gains[place] = 2.0 ** ordered[best].grade - 1.0
    ideal = np.array([2.0**moment.grade - 1.0 for moment in ordered[: CUTOFFS[-1]]])
    discount = np.log2(np.arange(2, CUTOFFS[-1] + 2))
    reached, most = gains / discount, ideal / discount[: len(ideal)]
    return [float(reached[:k].sum() / most[:k].sum()) if most[:k].sum() > 0 else 0.0 for k in CUTOFFS]
