"""Truth about moments, answers to it, and the numbers that a person works out of them: one folder a protocol.

Each is small enough to be counted with pencil and paper; `how` says where the numbers come from. The values are of no
code, tvr's or another's: what others' code decides is the rule that was followed by hand, which `source` names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Miniature:
    """A file of truth in `folder`, `answers.jsonl` beside it, and what they come to.

    expected: number -> value, in percent or (`edge`) seconds. priors: the same of answers that look at no query, by the
    prior's name. source: whose rule was followed. how: the working.
    """

    folder: str
    truth: str
    expected: Mapping[str, float]
    source: str
    how: str
    priors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def truth_file(self) -> Path:
        return FOLDER / self.folder / self.truth

    @property
    def answers_file(self) -> Path:
        return FOLDER / self.folder / "answers.jsonl"


_GRADES = 15 + 1 / math.log2(3)  # TVR-Ranking's best: gains 2^4 - 1 and 2^1 - 1 at the places 1 and 2
_DIDEMO = {"Rank@1": 25.0, "Rank@5": 75.0, "mIoU": 100 / 3}

ALL: tuple[Miniature, ...] = (
    Miniature(
        folder="qvhighlights",
        truth="truth.jsonl",
        expected={
            **{"R1@0.5": 50, "R1@0.7": 50, "mAP@0.5": 75, "mAP@0.75": 75},
            **{"mAP": 67.5, "mAP short": 67.5, "mAP middle": 50},
        },
        source="standalone_eval/eval.py of jayleicn/moment_detr",
        how="R1 takes the first listed, AP the order of scores; the dog's second window overlaps by 0.8, so that at "
        "seven of ten levels its precision is 1/2; 10 s is short, and the cat's long one comes second by score",
    ),
    Miniature(
        folder="qvhighlights-ten",
        truth="truth.jsonl",
        expected={"R1@0.5": 0, "mAP": 50},
        source="standalone_eval/eval.py of jayleicn/moment_detr",
        how="the right window is listed eleventh and does not count, or tenth with the best score and comes first",
    ),
    Miniature(
        folder="generalized",
        truth="truth.jsonl",
        expected={
            **{"AUROC": 75, "Rej-F1@0.4": 50, "Rej-F1@0.6": 80, "G-mIoU@1": 50, "G-mIoU@3": 50},
            **{"mR@1": 75, "mR+@3": 0, "mIoU@1": 100, "mIoU@3": 100 * (1 + 2 / 3) / 2},
        },
        source="arXiv 2605.02623",
        how="of four pairs of a query that is there and one that is not, three are in order; at 0.4 one is rejected "
        "rightly, one wrongly, one wrongly not; at 0.6 two rightly, one wrongly; the two moments overlap by 1 and 1/3",
    ),
    Miniature(
        folder="own",
        truth="truth.jsonl",
        expected={
            **{"R1@0.5": 50, "edge": 0.5, "refused": 50, "answered": 100, "Rej-F1": 200 / 3, "AUROC": 75},
            **{"mR@1": 22.5, "mR@3": 47.5, "G-mIoU@3": 48.75},
        },
        source="tvr (docs/evaluation.md, moments) and, over a library, arXiv 2605.02623",
        how="the dog was found in another video at the same seconds; the car's first moment overlaps by 9/10, its "
        "second fits; of two absent queries one is refused",
    ),
    Miniature(
        folder="charades-sta",
        truth="truth.txt",
        expected={"R@1, IoU=0.5": 100, "R@1, IoU=0.7": 0, "R@5, IoU=0.7": 50, "mIoU": 50},
        source="main.py of jiyanggao/TALL",
        how="both first moments overlap by exactly a half, which counts; one second moment fits; "
        "a line that ends before it starts is left out",
    ),
    Miniature(
        folder="activitynet-captions",
        truth="truth.json",
        expected={"R@1, IoU=0.5": 0, "R@1, IoU=0.3": 100, "R@5, IoU=0.7": 50, "mIoU": 50},
        source="2D-TAN",
        how="the answers of charades-sta: an overlap of exactly a half is not more than a half",
    ),
    Miniature(
        folder="didemo",
        truth="val_data.json",
        expected=_DIDEMO,
        source="utils/eval.py of LisaAnne/LocalizingMoments",
        how="training marks (0, 0) three times, (1, 1) twice, (0, 1) once, and its ranking is the answer: the three "
        "best ranks are 2, 2, 1 of the first query, then all 1, all 15, all 2; (0, 0) overlaps by 1/3, 1, 0 and 0",
        priors={"frequency": _DIDEMO},
    ),
    Miniature(
        folder="tvr-ranking",
        truth="truth.json",
        expected={
            **{f"NDCG@{k}, IoU>0.3": 100 * (1 / math.log2(3) + 15 / math.log2(4)) / _GRADES for k in (10, 20, 40)},
            **{f"NDCG@{k}, IoU>0.5": 100 * (1 / math.log2(3) + 15 / math.log2(5)) / _GRADES for k in (10, 20, 40)},
        },
        source="modules/ndcg_iou.py of Ranking-VMR/TVR-Ranking, arXiv 2407.06597",
        how="the first found has grade 0, the second 1; the third overlaps the best by exactly a half, which counts "
        "above 0.3 alone, and the fourth fits it",
    ),
)  # fmt: skip
