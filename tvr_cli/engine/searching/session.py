"""A search session: opened once, answers many questions, and notices what changed in the workspace in between."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvr_cli import commands, log
from tvr_cli.backbones import registry
from tvr_cli.backbones.base import Backbone
from tvr_cli.defaults import named_backbone
from tvr_cli.engine.device import kernel_errors, pick_device
from tvr_cli.engine.features import precompute, repair, sentences
from tvr_cli.engine.features.corpus import Corpus
from tvr_cli.engine.features.encode import EncodesText
from tvr_cli.engine.scorers import Scorer
from tvr_cli.engine.searching import bank as banks
from tvr_cli.engine.searching import (
    confidence,
    explain,
    head_confidence,
    heads,
    kept,
    library,
    moments,
    stretch,
)
from tvr_cli.engine.searching.asked import Asked, require_library
from tvr_cli.engine.searching.confidence import Confidence
from tvr_cli.engine.searching.head_confidence import HeadLines
from tvr_cli.engine.searching.hits import HeadWish, SearchOptions
from tvr_cli.engine.searching.index import EncodeSentences, asked_for, fresh_index
from tvr_cli.engine.searching.question import Question, Stretch, asking
from tvr_cli.engine.searching.ranking import ByHead, Compared, Ranking
from tvr_cli.engine.searching.search import search
from tvr_cli.engine.searching.sums import Sums
from tvr_cli.engine.searching.texts import TwoStages, bank_vectors, encoded_texts
from tvr_cli.engine.searching.texts import by_frames_alone as _by_frames_alone
from tvr_cli.errors import DataError
from tvr_cli.plans import PrecomputeOptions
from tvr_cli.results.explained import ExplainReport
from tvr_cli.results.found import Hit
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.index.store import Index
from tvr_cli.stores.index.timeline import IndexedFilms
from tvr_cli.types import TextFeatures
from tvr_cli.workspace import Workspace

_Opened = tuple[Index, Scorer, FeatureStore]
_SCAN_ROWS = 1024  # frames that are widened to float32 at a time: they stay in the cache
_FEW = 3  # sentences


class Session:
    """Answers questions with the files of a workspace; makes what is missing (features, index) on the way.

    flags: what was named to score with. Between two answers nothing is read again but the stamps of the files that
    decide what answers; when one has changed, all of it is looked at anew.
    """

    def __init__(self, workspace: Workspace, flags: Asked, *, device: str = "auto", offline: bool = False):
        self.workspace, self.flags = workspace, flags
        self._device, self._offline = device, offline
        self._keeps = False  # whether it is this session that keeps the workspace up to date
        self._seen: dict[Any, Any] = {}
        self._open: _Opened | None = None
        self._rankings: dict[HeadWish, tuple[Ranking, heads.Chosen]] = {}
        self._finder: moments.Finder | None = None
        self._model: tuple[tuple[str, bool], EncodesText] | None = None
        self._seer: tuple[str, Backbone] | None = None

    @kernel_errors()
    def answer(self, questions: Sequence[str | Question], options: SearchOptions) -> list[list[Hit]]:
        """Return the best moments of each question, best first; a text is the question of a sentence.

        Raises DataError when the workspace holds no frames, StoreMismatch when a flag names another run or backbone
        than the index was made with, ConfigError for a sum that the method cannot look for, EnvironmentProblem for a
        device that is not there.
        """
        if self._device not in ("auto", "cpu"):
            pick_device(self._device)  # else a name that no device has goes unnoticed where numpy encodes the sentence
        opened = self._ready()
        asked = [asking(question) for question in questions]
        texts = [question.sentence for question in asked if question.sentence is not None]
        sums = [question for question in asked if question.sentence is None]
        of_texts = iter(self._sentences(opened, texts, options) if texts else ())
        of_sums = iter(self._sums(opened, sums, options) if sums else ())
        return [next(of_sums if question.sentence is None else of_texts) for question in asked]

    @kernel_errors()
    def explain(self, sentence: str, video: Stretch, head: HeadWish = HeadWish()) -> ExplainReport:
        """Return why a file, or some seconds of it, answers a sentence (`explain.py`). head: as in `SearchOptions`.

        Raises as `answer`, and DataError for what is no file of the library or a moment beyond it.
        """
        index, scorer, store = self._ready()
        file = library.named(library.files_of(self.workspace), video.video)
        asked = stretch.moment_of(video, file)
        texts = [sentence, *explain.without_a_word(sentence)]
        text = self._encode(scorer, store, texts)
        assert self._model is not None, "it has just encoded"
        sentences.say_cut(self._model[1], texts[:1], text.rows(slice(0, 1)), store)
        if index.films and _by_frames_alone(scorer):
            unit = torch.nn.functional.normalize(text.pooled.float().cpu(), dim=-1).numpy()
            ranking = self._ranking(store, head)
            name = self._rankings[head][1].name
            return explain.by_frames(scorer, index.films, unit, sentence, file, asked, ranking, name)
        self._require_head(index, store, head)
        encoded = encoded_texts(scorer, text.to("cpu"), lambda: texts)
        return explain.by_clips(scorer, index, encoded, sentence, file, asked)

    @kernel_errors()
    def directions_of_files(self) -> tuple[list[str], np.ndarray]:
        """Return the ids of all files and the unit vectors [n, D] of what is seen in them. Raises as `answer` does."""
        return self._ready()[0].directions_of_files()

    @kernel_errors()
    def bring_up(self) -> Index:
        """Make features and index as new as the frames, and return the index. Raises as `answer`.

        That is for `tvr watch`; an answer does the same, unless somebody else is about to (`kept.py`).
        """
        self._keeps = True
        return self._ready()[0]

    def _sentences(self, opened: _Opened, texts: Sequence[str], options: SearchOptions) -> list[list[Hit]]:
        index, scorer, store = opened
        text = self._encoded(scorer, store, texts)
        unit = torch.nn.functional.normalize(text.pooled.float().cpu(), dim=-1).numpy()
        if index.films and _by_frames_alone(scorer):
            ranking = self._ranking(store, options.head)
            return moments.search(index.films, unit, options, ranking, self._lines(opened, ranking))
        encoded = encoded_texts(scorer, text.to("cpu"), lambda: texts)
        self._require_head(index, store, options.head)
        if not index.films:
            return search(scorer.method, index, encoded, options)
        finder = self._found_in(index, self._ranking(store, options.head))
        peaks = finder.peaks(unit, options)
        return search(scorer.method, index, encoded, options, lambda i, clip: finder.inside(clip, unit[i], peaks[i]))

    def _sums(self, opened: _Opened, questions: Sequence[Question], options: SearchOptions) -> list[list[Hit]]:
        """Answer what is more than a sentence; see `sums.py`."""
        index, scorer, store = opened
        made = Sums(
            self.workspace,
            index,
            scorer,
            store,
            sentences=lambda texts: self._encoded(scorer, store, texts),
            backbone=lambda: self._seeing(store),
            finder=lambda: self._found_in(index),
            words=lambda: self._ranking(store, options.head),
            lines=lambda: self._lines(opened, self._ranking(store, options.head)),
            products=products,
        )
        return made.answer(questions, options)

    def _found_in(self, index: Index, ranking: Ranking | None = None) -> moments.Finder:
        """Return what finds moments and frames of films. ranking: None = whatever, for frames alone."""
        kept = self._finder
        if kept is None or kept.films is not index.films or (ranking is not None and kept.ranking is not ranking):
            self._finder = kept = moments.Finder(index.films, ranking)
        return kept

    def _seeing(self, store: FeatureStore) -> Backbone:
        """Return the whole backbone of a store, which is loaded once."""
        if self._seer is None or self._seer[0] != store.fingerprint:
            named, offline = self.flags.backbone, self._offline
            model = precompute.backbone_of(store, named=named, offline=offline, device=self._device)
            self._seer = (store.fingerprint, model.eval())
        return self._seer[1]

    def _require_head(self, index: Index, store: FeatureStore, wish: HeadWish) -> None:
        """Raise StoreMismatch where a head was named and nothing is ranked by time."""
        if wish.named is not None and not index.films:
            heads.head_for(self.workspace, store.backbone_name, store.identity, wish)

    def _ranking(self, store: FeatureStore, wish: HeadWish) -> Ranking:
        """Return what ranks moments by time: a head that is wanted and fits, else comparison with the bank."""
        if wish not in self._rankings:
            found = heads.head_for(self.workspace, store.backbone_name, store.identity, wish)
            self._rankings[wish] = (Compared(products) if found.head is None else ByHead(found.head, products)), found
        ranking, chosen = self._rankings[wish]
        chosen.say()
        return ranking

    def _lines(self, opened: _Opened, ranking: Ranking) -> Confidence | HeadLines | None:
        """Return by what confidence is told: the index's lines, or where a head ranks those of the head."""
        index, scorer, store = opened
        lines = confidence.of_index(index.measured)
        if not isinstance(ranking, ByHead) or lines is None or lines.why is not None:
            return lines
        bank = banks.of_index(index) or banks.usual(store.backbone_name)

        def vectors() -> tuple[np.ndarray, np.ndarray]:
            encode = partial(self._encode, scorer, store)
            known, unknown = bank, banks.strange(store.backbone_name)
            return bank_vectors(scorer, store, encode, known), bank_vectors(scorer, store, encode, unknown)

        return head_confidence.found(index.films, ranking.head, bank.sha256, vectors)

    def _encoded(self, scorer: Scorer, store: FeatureStore, texts: Sequence[str]) -> TextFeatures:
        """Return features of sentences of a question, and say which of them is cut."""
        text = self._encode(scorer, store, texts)
        assert self._model is not None, "it has just encoded"
        sentences.say_cut(self._model[1], texts, text, store)
        return text

    def _ready(self) -> _Opened:
        """Return the index and what scores with it (`_as_new`); whoever asks is told what it lacks."""
        opened = self._as_new()
        confidence.say(confidence.of_index(opened[0].measured), self.workspace)
        return opened

    def _as_new(self) -> _Opened:
        """Return the index, as new as the workspace or as somebody else keeps it, and what scores with it."""
        if self._open is not None and self._stamp() == self._seen:
            return self._open
        before = self._stamp()
        lagging = before["kept"] and not self._keeps
        if lagging:
            kept.require_begun(self.workspace)
        asked = asked_for(self.workspace, self.flags)
        if asked.backbone is not None:
            registry.require_named(asked.backbone, self.flags.backbone, self.workspace.index_folder)
        self._refresh_features(asked, lagging)
        if asked.first is not None:
            registry.require_named(asked.first, self.flags.first, self.workspace.index_folder)
            self._refresh_features(Asked(backbone=asked.first), lagging)

        def sentence_encoder(scorer: Scorer, store: FeatureStore) -> EncodeSentences:
            return lambda texts: self._encode(scorer, store, texts)

        found = fresh_index(
            self.workspace, asked, named=self.flags.method, device=self._device, encode=sentence_encoder,
            lagging=lagging,
        )  # fmt: skip
        found[1].method.to("cpu")
        if isinstance(found[1], TwoStages):
            found[1].first.scorer.method.to("cpu")
        # Taken before: what changed meanwhile is noticed by the next answer. The index may be of our own making.
        self._seen = {**before, **self.workspace.stamp_of_index(found[0].generation)}
        self._open = found
        self._rankings.clear()
        return found

    def _stamp(self) -> dict[Any, Any]:
        kept_by_other = kept.by_watcher(self.workspace)
        return {**self.workspace.stamps(), "TVR_BACKBONE": named_backbone(None), "kept": kept_by_other}

    def _encode(self, scorer: Scorer, store: FeatureStore, texts: Sequence[str]) -> TextFeatures:
        """Return features of sentences, by the backbone that made the store, which is loaded once."""
        wanted = (store.fingerprint, "tokens" in scorer.method.needs)
        if self._model is None or self._model[0] != wanted:
            named, offline = self.flags.backbone, self._offline
            model = sentences.encoder_of(store, named=named, offline=offline, device=self._device, tokens=wanted[1])
            self._model = (wanted, model)
        return sentences.encode(self._model[1], texts, store)

    def _refresh_features(self, asked: Asked, lagging: bool) -> None:
        """Compute the features where there are none, or, unless they may lag, where the frames have changed since."""
        workspace = self.workspace
        found = workspace.find_run(asked.run) if asked.run is not None else None
        named = named_backbone(asked.backbone)
        store = workspace.features_of(found) if found is not None else workspace.newest_features(named)
        if store is None:
            require_library(workspace, asked.backbone)
        if not workspace.has_frames:
            return
        if store is not None and (lagging or store.imported is not None):
            return
        if store is not None and store.provenance.get("frames_content") == workspace.frames_content():
            return
        of = f" of {named}" if named else ""
        why = f"no features{of} yet" if store is None else "the frames have changed"
        log.logger.info("%s; computing features first (%s)", why, commands.tvr("precompute-features"))
        options = PrecomputeOptions(device=self._device, offline=self._offline)
        if store is None:
            self._make(options, asked.backbone)
        else:
            self._refresh(store, options, asked.backbone)

    def _make(self, options: PrecomputeOptions, named: str | None) -> None:
        """Compute the first features, without captions where these cannot be read: a question needs none."""
        try:
            precompute.precompute(self.workspace, named, None, options)
        except DataError as e:
            precompute.precompute(self.workspace, named, Corpus(), options)  # raises once more what is not about them
            log.logger.info("the features are made without captions: %s", e)

    def _refresh(self, store: FeatureStore, options: PrecomputeOptions, named: str | None) -> None:
        """Bring features up to date with the plans that they have: a run may have been trained on them."""
        try:
            repair.refresh(self.workspace, store, options, named=named)
        except DataError as e:
            # A file of captions does not follow its videos when these come and go, and a question needs none. What is
            # wrong with anything else is raised once more.
            repair.refresh(self.workspace, store, options, store, named=named)
            log.logger.info("the captions are kept as they were: %s", e)


def products(part: IndexedFilms, queries: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the products [T, n] of sentences [T, D] with frames of a segment. rows: [n] which, None = all of them.

    Frames are widened in the same memory again and again: asked for anew each time, it costs more than the products.
    """
    frames = part.segment["timeline.frames"]
    some = None if rows is None else torch.from_numpy(rows).split(_SCAN_ROWS)
    found = np.empty((len(queries), len(frames) if rows is None else len(rows)), np.float32)
    picked, wide = (torch.empty(_SCAN_ROWS, frames.shape[1], dtype=kind) for kind in (frames.dtype, torch.float32))
    at = 0
    for block in frames.split(_SCAN_ROWS) if some is None else some:
        n = len(block)
        if some is not None:
            block = torch.index_select(frames, 0, block, out=picked[:n])
        _multiply(queries, wide[:n].copy_(block), found[:, at : at + n])
        at += n
    return found


def _multiply(queries: np.ndarray, frames: Tensor, out: np.ndarray) -> None:
    """Fill out [T, n] with products. A few sentences are faster one by one: frames are not packed for them."""
    if len(queries) > _FEW:
        out[:] = (torch.from_numpy(queries) @ frames.T).numpy()
        return
    for query, row in zip(queries, out, strict=True):
        np.dot(frames.numpy(), query, out=row)
