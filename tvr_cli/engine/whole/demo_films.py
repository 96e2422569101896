"""The films of `tvr demo`: a library by time in a workspace of its own, and a moment head that ranks its moments.

Clips of so many frames, which the demo compares methods on, have no rate, and a head looks at one. So scenes of some of
the demo's videos are joined to films, of whose training split a head is trained; what `tvr query` answers with it, and
without, is judged on those of the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvr_cli.data.demo_world import films
from tvr_cli.data.demo_world.films import FilmOptions, FilmsReport
from tvr_cli.data.truth import own
from tvr_cli.data.truth.question import Question
from tvr_cli.engine.extraction.extract import ExtractOptions, extract
from tvr_cli.engine.features.precompute import precompute
from tvr_cli.engine.searching import head_training, index, query
from tvr_cli.engine.searching.head_training import HeadOptions
from tvr_cli.engine.searching.hits import HeadWish, SearchOptions
from tvr_cli.engine.whole.demo_results import HIT, overlap
from tvr_cli.plans import AskedFrames, PrecomputeOptions
from tvr_cli.results.found import Hit
from tvr_cli.runs import RunDir
from tvr_cli.stores import moment_head, run_header
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.moment_head import MadeFor
from tvr_cli.workspace import Workspace

FPS = 4.0
HEAD = head_training.STEM
_SIZE = 64  # pixels, as the toy world's encoder sees them
_METHOD = "text_guided"  # ranks moments by their frames, so that a head can


@dataclass(frozen=True)
class HeadRow:
    """How a moment head does on films. workspace: theirs. run: the head's. trained_on: moments of its captions.

    queries: of the test split's films, which are asked alone. first, first_without: percent of the queries whose first
    answer is a true moment (IoU of at least 0.5), with the head and without. example: a query that it answers.
    """

    workspace: Path
    run: str
    films: int
    trained_on: int
    queries: int
    first: float
    first_without: float
    example: str


@dataclass(frozen=True)
class DemoFilms:
    """The films of a demo. videos: their folder. backbone: what sees them."""

    workspace: Workspace
    videos: Path
    options: FilmOptions
    backbone: str
    workers: int | None
    device: str

    @property
    def head(self) -> RunDir:
        return self.workspace.run(HEAD)

    def make(self, replaceable: Callable[[Path], bool], remove: Callable[[RunDir], None]) -> FilmsReport:
        """Make the films, or what is missing of them. remove: takes a head of other films away. Raises as `films.make`
        and as `remove`.
        """
        if self.has_head and not films.are_of(self.videos, self.options):
            remove(self.head)
        return films.make(self.videos, self.options, replaceable=replaceable)

    def encode(self) -> FeatureStore:
        """Bring frames and features up to date."""
        plan = AskedFrames(fps=FPS, size=_SIZE).plan()
        extract([self.videos], self.workspace, plan, ExtractOptions(workers=self.workers))
        return precompute(
            self.workspace, self.backbone, None, PrecomputeOptions(device=self.device, offline=True)
        ).store

    def train(self, store: FeatureStore, remove: Callable[[RunDir], None]) -> tuple[int, bool]:
        """Train the head, or keep the one that fits; return its moments, and whether it was there. remove: as
        `make`.
        """
        path = run_header.head_path(self.head.path)
        made = MadeFor.of(store.backbone_name, store.identity)
        assert made is not None, "the films' frames are kept by time"
        if self.has_head and not moment_head.made_for(path).unlike(made):
            return int(moment_head.read_about(path)["moments"]), True
        if self.has_head:
            remove(self.head)
        options = HeadOptions(self.head.name, backbone=self.backbone, device=self.device, offline=True)
        return head_training.train(self.workspace, options).moments, False

    @property
    def has_head(self) -> bool:
        return run_header.head_path(self.head.path).is_file()

    def judge(self, made: FilmsReport, trained_on: int) -> HeadRow:
        """Index the films, and ask what those of the test split show, with the head and without."""
        index.index(self.workspace, index.Asked(method=_METHOD, backbone=self.backbone), device=self.device)
        truth = own.read(self.videos / films.TRUTH).questions
        right = {use: self._right(truth, use=use) for use in (True, False)}
        first, without = (100 * sum(some) / len(some) for some in (right[True], right[False]))
        only_so = (q.text for q, by_head, by_none in zip(truth, right[True], right[False], strict=True) if by_head)
        return HeadRow(
            self.workspace.root, self.head.name, made.made + made.kept, trained_on, len(truth), first, without,
            next(only_so, truth[0].text),
        )  # fmt: skip

    def _right(self, truth: Sequence[Question], *, use: bool) -> list[bool]:
        """Return for each question whether the first answer is a true moment. use: whether the head ranks."""
        named = (moment.video for question in truth for moment in question.moments)
        asked = frozenset(name for name in named if films.is_test(name))
        options = SearchOptions(k=1, only=asked, head=HeadWish(use=use))
        texts = [question.text for question in truth]
        answers = query.query(texts, self.workspace, options, method=_METHOD, backbone=self.backbone, offline=True)
        return [
            any(_true(hit, question) for hit in answer.hits)
            for question, answer in zip(truth, answers.results, strict=True)
        ]


def _true(hit: Hit, question: Question) -> bool:
    return any(
        hit.video_id == moment.video and overlap((hit.start, hit.end), (moment.start, moment.end)) >= HIT
        for moment in question.moments
    )
