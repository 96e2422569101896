"""What `tvr evaluate` prints and keeps, and what comparing and auditing read of it. No torch here.

The numbers come from `referee.judge` (`Fair`, or `OldCounting` under its own label), what was scored from
`evaluate.describe`. A `Claim` is the reader's view: any result JSON says some of it, one of another tool less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tvr_cli.files import read_json
from tvr_cli.metrics import V2TProtocol
from tvr_cli.results.base import HIDDEN, INLINE, OPTIONAL, Result, check_schema, key, plain, read
from tvr_cli.results.metrics import Deviation, Pair


@dataclass(frozen=True, kw_only=True)
class Completeness:
    """How complete the candidates are; None where nobody knows. missing: ids that have no features."""

    expected: int | None = None
    scored: int | None = None
    missing: tuple[str, ...] | None = field(default=None, metadata=OPTIONAL)
    zero_filled: int | None = None


@dataclass(frozen=True)
class Intervals:
    """95 % bootstrap intervals of every mean metric. unit: what was drawn again. seed: of the bootstrap."""

    level: float
    unit: str
    seed: int
    t2v: Mapping[str, Pair]
    v2t: Mapping[str, Pair]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What was judged, by hash: sha256 of the ids of captions and of videos, in the order of rows and columns."""

    captions: str
    videos: str


@dataclass(frozen=True, kw_only=True)
class Hubness:
    """Videos that answer too much: the share of all first places, in percent, that `videos` of them take.

    videos: the top 1 %, at least one. A tied first place is shared.
    """

    videos: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """Judged by a file of relevance (`--qrels`): several right answers a query. queries: those that have one."""

    sha256: str
    t2v: Mapping[str, float]
    v2t: Mapping[str, float]
    queries: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class DualSoftmax:
    """The row of `--post dsl`. scale: what a cosine of one is in the scores. temperature: what multiplies them."""

    name: Literal["dsl"] = field(default="dsl", init=False)
    note: str
    t2v: Mapping[str, float]
    v2t: Mapping[str, float]
    rsum: float
    ties: Mapping[str, int]
    bounds: Mapping[str, Mapping[str, Pair]]
    transductive: bool = True
    scale: float | None = None  # None in results of 0.1
    temperature: float | None = None


@dataclass(frozen=True, kw_only=True)
class QbNorm:
    """The row of `--post qbnorm`, text to video alone. bank: captions in the query bank. Else as `DualSoftmax`."""

    name: Literal["qbnorm"] = field(default="qbnorm", init=False)
    note: str
    bank: int
    t2v: Mapping[str, float]
    transductive: bool = True
    scale: float | None = None
    temperature: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fair:
    """The fair counting of both directions. ties: tied queries. bounds: R@k -> [pessimistic, optimistic].

    queries: how many each direction has: captions, and videos with a caption (a video without asks nothing).
    hubness: of text to video. doubts: sentences that a reader must see beside the numbers (chance level, videos with
    identical scores). post: rows of scores after post-processing. qrels: judged by a file of relevance. Each None where
    there is none.
    """

    metrics: Literal["fair"] = field(default="fair", init=False)
    tie_rule: str
    v2t_protocol: V2TProtocol
    t2v: Mapping[str, float]
    v2t: Mapping[str, float]
    rsum: float
    ties: Mapping[str, int]
    bounds: Mapping[str, Mapping[str, Pair]]
    intervals: Intervals
    hubness: Hubness | None = None  # in results of 0.1
    queries: Mapping[str, int] | None = None  # in results of 0.1
    doubts: tuple[str, ...] | None = field(default=None, metadata=OPTIONAL)
    qrels: Relevance | None = field(default=None, metadata=OPTIONAL)
    post: tuple[DualSoftmax | QbNorm, ...] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class OldCounting:
    """The numbers of older code. rank_entries: what it averages, more than queries where scores tie."""

    metrics: Literal["clip4clip"] = field(default="clip4clip", init=False)
    v2t_protocol: Literal["max"] = field(default="max", init=False)
    t2v: Mapping[str, float]
    v2t: Mapping[str, float]
    rsum: float
    rank_entries: Mapping[str, int]
    ties: Mapping[str, int]


Judged = Fair | OldCounting


@dataclass(frozen=True)
class OverDraws:
    """Where a method's noise was drawn several times, the metrics are means; deviation: the standard deviation."""

    draws: int
    deviation: Deviation


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What was judged on. annotations: file name -> sha256. notes: sentences that every result must show."""

    name: str | None = field(default=None, metadata=OPTIONAL)
    variant: str | None = field(default=None, metadata=OPTIONAL)
    notes: tuple[str, ...] | None = field(default=None, metadata=OPTIONAL)
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class Cost:
    """Of scoring: wall time and pairs a second. Of the method: trained parameters, bytes of a clip in the index."""

    seconds: float
    pairs_per_second: float
    parameters: int
    index_bytes_per_clip: int


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is scored, with what, chosen how. run, seed, tune, validation, checkpoint: None without a trained run.

    rule: that of the authors' released test, where the scores follow it in place of the method's own. gradients: how
    they were averaged over devices, where that was not the gradient of the loss.
    """

    tvr: str
    commit: str | None
    method: str
    options: Mapping[str, Any]
    fidelity: str
    run: str | None
    seed: int | None
    tune: str | None
    selected_on: str
    validation: str | None
    backbone: str
    store: str
    word_importance: str
    checkpoint: str | None
    data: Corpus
    split: str
    captions: int
    videos: int
    identity: Identity | None = field(default=None, metadata=OPTIONAL)  # None in results of 0.1
    rule: str | None = field(default=None, metadata=OPTIONAL)
    gradients: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class EvaluateReport(Result):
    """A split, scored and judged. streamed: True where the score matrix was never held."""

    schema = "evaluate"
    subject: Subject = field(metadata=INLINE)
    gallery: Completeness
    judged: Judged = field(metadata=INLINE)
    draws: OverDraws | None = field(default=None, metadata=INLINE)
    streamed: bool | None = field(default=None, metadata=OPTIONAL)
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class EvaluatePreview(Result):
    """What an evaluation would do. pairs: to score. size_bytes: of the matrix. writes: the folder of the result."""

    schema = "evaluate"
    subject: Subject = field(metadata=INLINE)
    dry_run: Literal[True] = field(default=True, init=False)
    gallery: Completeness
    pairs: int
    streamed: bool
    size_bytes: int = field(metadata=key("bytes"))
    writes: Path


@dataclass(frozen=True, kw_only=True)
class ScoresReport(Result):
    """A score matrix of any tool, judged. method: the file's name. precision: the matrix's type.

    identity: where the file has ids, or a data set gave them; data: that data set.
    """

    schema = "evaluate"
    tvr: str
    method: str
    fidelity: Literal["scores of another tool"] = field(default="scores of another tool", init=False)
    run: None = field(default=None, init=False)
    split: None = field(default=None, init=False)
    captions: int
    videos: int
    identity: Identity | None = field(default=None, metadata=OPTIONAL)
    data: Corpus | None = field(default=None, metadata=OPTIONAL)
    gallery: Completeness
    precision: str
    scores_sha256: str
    v2t_protocol: V2TProtocol  # here as well, so that it stands before the numbers
    judged: Judged = field(metadata=INLINE)


@dataclass(frozen=True, kw_only=True)
class ClaimedCorpus:
    """What a claim says that it was judged on."""

    name: str | None = None
    variant: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClaimedIntervals:
    """The intervals of a claim."""

    t2v: Mapping[str, Pair] = field(default_factory=dict)
    v2t: Mapping[str, Pair] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a result says of itself, as far as it is compared and audited; None, or empty, where it does not say.

    said: every key that the result has, because null and silence are two things.
    """

    said: frozenset[str] = field(default=frozenset(), metadata=HIDDEN)
    method: str | None = None
    fidelity: str | None = None
    backbone: str | None = None
    tune: str | None = None
    split: str | None = None
    captions: int | None = None
    videos: int | None = None
    gallery: Completeness = Completeness()
    metrics: str = "fair"
    v2t_protocol: str | None = None
    rule: str | None = None
    selected_on: str | None = None
    data: ClaimedCorpus = ClaimedCorpus()
    identity: Identity | None = None
    queries: Mapping[str, int] | int | None = None  # another tool's may be a number
    ties: Mapping[str, int] = field(default_factory=dict)
    rank_entries: Mapping[str, int] = field(default_factory=dict)
    draws: int | None = None
    t2v: Mapping[str, float] | None = None
    v2t: Mapping[str, float] | None = None
    rsum: float | None = None
    intervals: ClaimedIntervals = ClaimedIntervals()
    cost: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def of(data: Any, where: str) -> Claim:
        """Return what the JSON of a result says; one of another tool has no schema. Raises DataError for other JSON."""
        if not isinstance(data, Mapping) or "schema" in data:
            check_schema(data, EvaluateReport.schema_line(), where)
        return dataclasses.replace(read(Claim, data, where), said=frozenset(data))

    @staticmethod
    def in_file(path: Path, fix: str = "") -> Claim:
        """Read the JSON of a result. Raises DataError as `of` does, and with the `fix` where the file has none."""
        return Claim.of(read_json(path, fix=fix), repr(str(path)))


def claim(result: EvaluateReport | ScoresReport) -> Claim:
    """Return what a result of ours says of itself."""
    return Claim.of(plain(result), "the result")
