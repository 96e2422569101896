"""Answering what is more than a sentence: sums, pictures and moments, by what frames show alone.

There every part is a direction. Sums of sentences score as sentences do; whatever has a picture or a moment in it
scores by the cosine, because what a bank of sentences says of frames says nothing of how near frames are to each other.
No answer is what was asked with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from tvr_cli import commands
from tvr_cli.backbones.base import Backbone
from tvr_cli.engine.features import still
from tvr_cli.engine.scorers import Scorer
from tvr_cli.engine.searching import library, moments, stretch
from tvr_cli.engine.searching.confidence import Confidence
from tvr_cli.engine.searching.head_confidence import HeadLines
from tvr_cli.engine.searching.hits import Moment, SearchOptions
from tvr_cli.engine.searching.library import LibraryFile
from tvr_cli.engine.searching.moments import Finder
from tvr_cli.engine.searching.question import (
    Picture,
    Question,
    Sentence,
    Stretch,
    What,
    features_of,
    sentences_of,
)
from tvr_cli.engine.searching.ranking import Alike, Products, Ranking
from tvr_cli.engine.searching.search import search
from tvr_cli.engine.searching.texts import TwoStages, by_frames_alone, encoded_texts
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.methods import _light
from tvr_cli.results.found import Hit
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.index.store import Index
from tvr_cli.types import TextFeatures, caption_key
from tvr_cli.workspace import Workspace

Without = tuple[tuple[str, Moment], ...]


@dataclass(frozen=True)
class Sums:
    """What answers questions that are more than a sentence, from what a session has opened.

    sentences: makes features of sentences. backbone: gives the whole of it, which pictures need. finder: gives what
    finds the frames of films. words: gives what ranks moments for sums of sentences; lines: by which confidence is
    told of these. products: as in `ranking.Alike`.
    """

    workspace: Workspace
    index: Index
    scorer: Scorer
    store: FeatureStore
    sentences: Callable[[Sequence[str]], TextFeatures]
    backbone: Callable[[], Backbone]
    finder: Callable[[], Finder]
    words: Callable[[], Ranking]
    lines: Callable[[], Confidence | HeadLines | None]
    products: Products
    _spans: dict[Stretch, tuple[LibraryFile, Moment]] = field(default_factory=dict, init=False)

    def answer(self, questions: Sequence[Question], options: SearchOptions) -> list[list[Hit]]:
        """Return the best moments of each question, best first.

        Raises ConfigError where the method compares clips by more than their frames, and for a sum of which nothing is
        left; DataError for what is no picture, and for a moment that is not in the library.
        """
        self._require_directions()
        self._find([what for question in questions for what in question.whats() if isinstance(what, Stretch)])
        features = self._features(questions)
        pooled = np.stack([features_of(question, features) for question in questions])
        alike: dict[tuple[bool, Without], list[int]] = {}  # questions that are answered together
        for i, question in enumerate(questions):
            alike.setdefault((question.of_words, self._without(question)), []).append(i)
        found: dict[int, list[Hit]] = {}
        for (of_words, without), some in alike.items():
            own = replace(options, without=(*options.without, *without))
            asked = [questions[i] for i in some]
            found.update(zip(some, self._search(asked, pooled[some], own, of_words), strict=True))
        return [found[i] for i in range(len(questions))]

    def _search(
        self, questions: Sequence[Question], pooled: np.ndarray, options: SearchOptions, of_words: bool
    ) -> list[list[Hit]]:
        """Answer questions by their features [T, D]."""
        if self.index.films:
            unit = pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)
            if not of_words:
                return moments.search(self.index.films, unit, options, Alike(self.products))
            # Of any other method the index knows what windows score.
            lines = self.lines() if by_frames_alone(self.scorer) else None
            return moments.search(self.index.films, unit, options, self.words(), lines)
        key = torch.tensor([caption_key(question.text) for question in questions], dtype=torch.int64)
        text = TextFeatures(key, torch.from_numpy(pooled), None, torch.zeros_like(key))
        found = search(self.scorer.method, self.index, encoded_texts(self.scorer, text, lambda: []), options)
        # What sentences score that are not there says nothing of what a picture does.
        return found if of_words else [[replace(hit, confidence=None) for hit in hits] for hits in found]

    def _features(self, questions: Sequence[Question]) -> Callable[[What], np.ndarray]:
        """Return what gives the features [D] of each part of some questions."""
        texts = sentences_of(questions)
        pooled = self.sentences(texts).pooled.float().cpu().numpy() if texts else ()
        said = dict(zip(texts, pooled, strict=True))
        # Temperatures count on the length of sentences, so what is no sentence is given the length of one.
        as_long = self.scorer.method.scale.frames / self.scorer.method.scale.text

        @functools.cache
        def features(what: What) -> np.ndarray:
            if isinstance(what, Sentence):
                return said[what.text]
            if isinstance(what, Picture):
                seen = still.encode(self.backbone(), what.path, self.store, whole=self._whole)
                return np.asarray(as_long * seen.numpy())
            file, moment = self._spans[what]
            if not self.index.films:
                return as_long * stretch.of_clips(self.store, file, moment, whole=self._whole)
            mean = self.finder().mean_between(file.id, moment.start, moment.end)
            if mean is None:
                raise DataError(f"the index has nothing of {file.id!r} from {moment.start:g} to {moment.end:g} s")
            return mean

        return features

    def _find(self, stretches: Sequence[Stretch]) -> None:
        files = library.files_of(self.workspace) if stretches else []
        for what in stretches:
            file = library.named(files, what.video)
            self._spans[what] = file, stretch.moment_of(what, file)

    def _without(self, question: Question) -> Without:
        """Return the moments that a question is asked with."""
        spans = [self._spans[what] for what in question.whats() if isinstance(what, Stretch)]
        return tuple((file.id, moment) for file, moment in spans)

    @property
    def _whole(self) -> bool:
        """Whether clips are compared by a vector of their own."""
        return not self.index.films and "video.pooled" in self.scorer.method.needs

    def _require_directions(self) -> None:
        """Raise ConfigError unless what is compared is one vector with what the backbone made of clips."""
        scorer = self.scorer
        untrained = scorer.run is None and scorer.name in (*_light.METHODS, "one_vector")
        if self.index.films or (untrained and not isinstance(scorer, TwoStages)):
            return
        raise ConfigError(
            "a sum, a picture or a moment is looked for by what frames show alone, and this index is of "
            f"{scorer.name if scorer.run is None else scorer.run.name}, which ranks by more; make one that does not: "
            f"{commands.tvr('index', method='text_guided', workspace=self.workspace)}"
        )
