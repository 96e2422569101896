"""Published zero-shot retrieval, and a measured result beside it: PASS only where the protocols agree as well.

Rows have a source and the line there; the tolerance is the sampling error of the result, its 95 % interval over videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tvr_cli.engine.evaluation.evaluate_result import Fair
from tvr_cli.errors import ConfigError
from tvr_cli.results.card import Value
from tvr_cli.results.metrics import Pair
from tvr_cli.verify.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """Text to video as somebody reports it. recalls: R@k in percent. backbones: names of the same weights.

    variants: of the data set, with this test set. frames: a video, None where the source does not say. method, options:
    how frames become a score. captions, videos: of the test set. by: who measured it.
    """

    name: str
    dataset: str
    variants: tuple[str, ...]
    captions: int
    videos: int
    backbones: tuple[str, ...]
    frames: int | None
    method: str
    options: Mapping[str, object] = field(default_factory=dict)
    recalls: Mapping[str, float]
    by: str
    source: str
    line: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A result of ours, with what its protocol is. frames: a video, None where videos have different numbers."""

    dataset: str
    variant: str | None
    captions: int
    videos: int
    backbone: str
    frames: int | None
    method: str
    recalls: Mapping[str, float]
    intervals: Mapping[str, Pair]

    @staticmethod
    def numbers(judged: Fair) -> dict[str, Mapping[str, object]]:
        """Return the recalls and intervals of a judged matrix, text to video."""
        names = ("R@1", "R@5", "R@10")
        return {
            "recalls": {name: judged.t2v[name] for name in names},
            "intervals": {name: judged.intervals.t2v[name] for name in names},
        }


_1K_A = {"dataset": "msrvtt", "variants": ("9k", "7k"), "captions": 1000, "videos": 1000}
_B32 = ("clip-vit-b32", "ViT-B-32-quickgelu/openai")
_B16 = ("clip-vit-b16", "ViT-B-16-quickgelu/openai")
ROWS: tuple[ScoreRow, ...] = (
    ScoreRow(
        **_1K_A,  # type: ignore[arg-type]
        name="clip4clip-zero-shot",
        backbones=_B32,
        frames=12,
        method="mean",
        recalls={"R@1": 30.6},
        by="the authors of CLIP4Clip",
        source="arXiv 2104.08860",
        line="table 7, zero-shot, MSR-VTT",
    ),
    ScoreRow(
        **_1K_A,  # type: ignore[arg-type]
        name="drl-zero-shot",
        backbones=_B32,
        frames=None,
        method="mean",
        recalls={"R@1": 31.1, "R@5": 53.7, "R@10": 63.4},
        by="the authors of DRL",
        source="https://github.com/foolwood/DRL (README)",
        line="the row of zero-shot CLIP, ViT-B/32",
    ),
    ScoreRow(
        **_1K_A,  # type: ignore[arg-type]
        name="hitchhiker-mean",
        backbones=_B16,
        frames=16,
        method="mean",
        recalls={"R@1": 33.3, "R@5": 55.0, "R@10": 65.2},
        by="the authors of CLIP-Hitchhiker",
        source="their README, of arXiv 2205.08508",
        line="zero-shot MSR-VTT 1k-A, CLIP B/16, mean pooling",
    ),
    ScoreRow(
        **_1K_A,  # type: ignore[arg-type]
        name="hitchhiker-query-scoring",
        backbones=_B16,
        frames=16,
        method="text_guided",
        options={"temperature": 0.1, "normalize": True},
        recalls={"R@1": 34.4, "R@5": 56.1, "R@10": 65.3},
        by="the authors of CLIP-Hitchhiker",
        source="their README, of arXiv 2205.08508",
        line="zero-shot MSR-VTT 1k-A, CLIP B/16, query-scoring",
    ),
    ScoreRow(
        **_1K_A,  # type: ignore[arg-type]
        name="pe-core-b16",
        backbones=("pe-core-b16", "PE-Core-B-16/meta"),
        frames=8,
        method="mean",
        recalls={"R@1": 47.6},
        by="its vendor; nobody that we know of has reproduced it",
        source="https://github.com/facebookresearch/perception_models (README)",
        line="PE-Core B16-224, MSR-VTT; protocol in its issue 74",
    ),
    ScoreRow(
        **_1K_A,  # type: ignore[arg-type]
        name="videoprism-lvt-b",
        backbones=(
            "videoprism-lvt-b",
            "hf:google/videoprism-lvt-base-f16r288@fb6de9f0eb7bc285be86bdca1cf7daa3e3ef51ff",
        ),
        frames=16,
        method="one_vector",
        recalls={"R@1": 50.1},
        by="its authors",
        source="https://huggingface.co/google/videoprism-lvt-base-f16r288 (model card)",
        line="MSR-VTT text to video, LvT-B",
    ),
)


def of(dataset: str, backbone: str, known: Sequence[ScoreRow] | None = None) -> tuple[ScoreRow, ...]:
    """Return the rows of a data set and an encoder. Raises ConfigError, with those there are, where none is known."""
    rows = ROWS if known is None else tuple(known)
    found = tuple(row for row in rows if row.dataset == dataset and backbone in row.backbones)
    if not found:
        there = ", ".join(dict.fromkeys(f"{row.backbones[0]} on {row.dataset}" for row in rows))
        raise ConfigError(
            f"no published zero-shot result of {backbone!r} on {dataset!r} is known here; there are {there}"
        )
    return found


def against(row: ScoreRow, measured: Measured, cause: str | None = None) -> Outcome:
    """Set a measured result beside a published one. cause: the likely one, where they differ on equal terms."""
    name = f"{row.name}, by {row.by}"
    source = f"{row.source}: {row.line}"
    values, inside = [], True
    for metric, published in row.recalls.items():
        found, (low, high) = measured.recalls[metric], measured.intervals[metric]
        values.append(
            Value(
                name=f"{row.name}, t2v {metric}",
                found=found,
                expected=published,
                allowed=max(high - found, found - low),
            )
        )
        inside = inside and low <= published <= high
    shown = "; ".join(
        f"{metric} {measured.recalls[metric]:.1f} [{measured.intervals[metric][0]:.1f}, "
        f"{measured.intervals[metric][1]:.1f}], published {published:g}"
        for metric, published in row.recalls.items()
    )
    if other := differences(row, measured):
        detail = f"{shown}; another protocol: {'; '.join(other)}"
        return Outcome(name=name, status="NOT COMPARABLE", detail=detail, source=source, values=tuple(values))
    if inside:
        detail = f"{shown}; inside the interval over {measured.videos} videos, and the protocols agree"
        return Outcome(name=name, status="PASS", detail=detail, source=source, values=tuple(values))
    detail = f"{shown}; outside of the interval over {measured.videos} videos, though the protocols agree"
    return Outcome(name=name, status="FAIL", detail=detail, cause=cause, source=source, values=tuple(values))


def differences(row: ScoreRow, measured: Measured) -> list[str]:
    """Name every part of the protocol in which a result is not the published one, or of which a source says nothing."""
    told = []
    for what, theirs, ours in (
        ("data set", row.dataset, measured.dataset),
        ("captions", row.captions, measured.captions),
        ("videos to choose from", row.videos, measured.videos),
        ("method", row.method, measured.method),
    ):
        if theirs != ours:
            told.append(f"{what}: {theirs} there, {ours} here")
    if measured.variant not in row.variants:
        told.append(f"variant: {' or '.join(row.variants)} there, {measured.variant or 'the default'} here")
    if measured.backbone not in row.backbones:
        told.append(f"weights: {row.backbones[0]} there, {measured.backbone} here")
    if row.frames is None:
        told.append("frames: the source does not say how many a video")
    elif measured.frames != row.frames:
        told.append(f"frames: {row.frames} a video there, {measured.frames or 'not one number'} here")
    return told


def likely_cause(recalls: Mapping[str, float], captions: int, videos: int, moved: Mapping[int, float]) -> str:
    """Name what most likely went wrong where a result is outside of its interval.

    moved: R@1 with the captions moved by so many.
    """
    best = max(moved, key=lambda step: moved[step], default=0)
    if moved and moved[best] > 2 * recalls["R@1"]:
        return f"R@1 is {moved[best]:.1f} with the captions moved by {best}: captions and videos out of step"
    if recalls["R@1"] <= 300.0 / videos:
        return f"R@1 is what guessing gives ({100 / videos:.2g}): features that are a constant, or of another encoder"
    return "no usual mistake gives the published values: other weights, frames or preprocessing"
