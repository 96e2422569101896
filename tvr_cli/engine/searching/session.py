"""A search session: opened once, answers many questions, and notices what changed in the workspace in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tvr_cli import commands, log
from tvr_cli.backbones import registry
from tvr_cli.defaults import named_backbone
from tvr_cli.engine.device import kernel_errors
from tvr_cli.engine.features import precompute, repair, sentences
from tvr_cli.engine.features.encode import EncodesText
from tvr_cli.engine.scorers import Scorer
from tvr_cli.engine.searching import heads, moments
from tvr_cli.engine.searching.asked import Asked, require_library
from tvr_cli.engine.searching.hits import HeadWish, Hit, SearchOptions
from tvr_cli.engine.searching.index import EncodeSentences, TwoStages, asked_for, encoded_texts, fresh_index
from tvr_cli.engine.searching.question import Question, asking, features_of, sentences_of
from tvr_cli.engine.searching.ranking import ByHead, Compared, Ranking
from tvr_cli.engine.searching.search import search
from tvr_cli.errors import ConfigError
from tvr_cli.methods import _light
from tvr_cli.plans import PrecomputeOptions
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.index.store import Index
from tvr_cli.stores.index.timeline import IndexedFilms
from tvr_cli.types import TextFeatures, caption_key
from tvr_cli.workspace import Workspace

_Opened = tuple[Index, Scorer, FeatureStore]
_SCAN_ROWS = 1024  # frames that are widened to float32 at a time: they stay in the cache


class Session:
    """Answers questions with the files of a workspace; makes what is missing (features, index) on the way.

    flags: what was named to score with. Between two answers nothing is read again but the stamps of the files that
    decide what answers; when one has changed, all of it is looked at anew.
    """

    def __init__(self, workspace: Workspace, flags: Asked, *, device: str = "auto", offline: bool = False):
        self.workspace, self.flags = workspace, flags
        self._device, self._offline = device, offline
        self._seen: dict[Any, Any] = {}
        self._open: _Opened | None = None
        self._rankings: dict[HeadWish, Ranking] = {}
        self._finder: moments.Finder | None = None
        self._model: tuple[tuple[str, bool], EncodesText] | None = None

    @kernel_errors()
    def answer(self, questions: Sequence[str | Question], options: SearchOptions) -> list[list[Hit]]:
        """Return the best moments of each question, best first; a text is the question of a sentence.

        Raises DataError when the workspace holds no frames, StoreMismatch when a flag names another run or backbone
        than the index was made with, ConfigError for a sum that the method cannot look for.
        """
        opened = self._ready()
        asked = [asking(question) for question in questions]
        plain = [i for i, question in enumerate(asked) if question.sentence is not None]
        found: dict[int, list[Hit]] = {}
        if plain:
            answers = self._sentences(opened, sentences_of([asked[i] for i in plain]), options)
            said = dict(zip(sentences_of([asked[i] for i in plain]), answers, strict=True))
            found.update((i, said[asked[i].text]) for i in plain)
        sums = [i for i in range(len(asked)) if i not in found]
        if sums:
            found.update(zip(sums, self._sums(opened, [asked[i] for i in sums], options), strict=True))
        return [found[i] for i in range(len(asked))]

    def _sentences(self, opened: _Opened, texts: Sequence[str], options: SearchOptions) -> list[list[Hit]]:
        index, scorer, store = opened
        text = self._encoded(scorer, store, texts)
        unit = torch.nn.functional.normalize(text.pooled.float().cpu(), dim=-1).numpy()
        if index.films and _by_frames_alone(scorer):
            return moments.search(index.films, unit, options, self._ranking(store, options.head))
        encoded = encoded_texts(scorer, text.to("cpu"), lambda: texts)
        if not index.films:
            return search(scorer.method, index, encoded, options)
        ranking = self._ranking(store, options.head)
        if self._finder is None or self._finder.films is not index.films or self._finder.ranking is not ranking:
            self._finder = moments.Finder(index.films, ranking)
        best = self._finder.best
        return search(
            scorer.method, index, encoded, options, lambda i, clip: best(clip.file_id, clip.start, clip.end, unit[i])
        )

    def _sums(self, opened: _Opened, questions: Sequence[Question], options: SearchOptions) -> list[list[Hit]]:
        """Answer what is more than a sentence by the features of frames alone, in which every part is a direction."""
        index, scorer, store = opened
        if not index.films and not _by_frames_alone(scorer):
            raise ConfigError(
                f"a sum, a picture or a moment is looked for by single frames, and this index is of "
                f"{scorer.run.name if scorer.run is not None else scorer.name}, which ranks by more than these; make "
                f"one that does not: {commands.tvr('index', method='text_guided', workspace=self.workspace)}"
            )
        texts = sentences_of(questions)
        said = dict(zip(texts, self._encoded(scorer, store, texts).pooled.float().cpu().numpy(), strict=True))
        pooled = np.stack([features_of(question, lambda what: said[str(what)]) for question in questions])
        if index.films:
            unit = pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)
            # What is no sentence is nothing that a head has learned to read.
            each = [self._ranking(store, options.head) if q.of_words else Compared(products) for q in questions]
            return [moments.search(index.films, one[None], options, by)[0] for one, by in zip(unit, each, strict=True)]
        key = torch.tensor([caption_key(question.text) for question in questions], dtype=torch.int64)
        text = TextFeatures(key, torch.from_numpy(pooled), None, torch.zeros_like(key))
        return search(scorer.method, index, encoded_texts(scorer, text, lambda: []), options)

    def _ranking(self, store: FeatureStore, wish: HeadWish) -> Ranking:
        """Return what ranks moments by time: a head that is wanted and fits, else comparison with the bank."""
        if wish not in self._rankings:
            head = heads.head_for(self.workspace, store.backbone_name, store.identity, wish)
            self._rankings[wish] = Compared(products) if head is None else ByHead(head, products)
        return self._rankings[wish]

    def _encoded(self, scorer: Scorer, store: FeatureStore, texts: Sequence[str]) -> TextFeatures:
        """Return features of sentences of a question, and say which of them is cut."""
        text = self._encode(scorer, store, texts)
        assert self._model is not None, "it has just encoded"
        sentences.say_cut(self._model[1], texts, text, store)
        return text

    def _ready(self) -> _Opened:
        """Return the index, as new as the workspace, and what scores with it."""
        if self._open is not None and self._stamp() == self._seen:
            return self._open
        before = self._stamp()
        asked = asked_for(self.workspace, self.flags)
        if asked.backbone is not None:
            registry.require_named(asked.backbone, self.flags.backbone, self.workspace.index_folder)
        self._refresh_features(asked)
        if asked.first is not None:
            registry.require_named(asked.first, self.flags.first, self.workspace.index_folder)
            self._refresh_features(Asked(backbone=asked.first))

        def sentence_encoder(scorer: Scorer, store: FeatureStore) -> EncodeSentences:
            return lambda texts: self._encode(scorer, store, texts)

        found = fresh_index(
            self.workspace, asked, named=self.flags.method, device=self._device, encode=sentence_encoder
        )
        found[1].method.to("cpu")
        if isinstance(found[1], TwoStages):
            found[1].first.scorer.method.to("cpu")
        # Taken before: what changed meanwhile is noticed by the next answer. The index may be of our own making.
        self._seen = {**before, **self.workspace.stamp_of_index(found[0].generation)}
        self._open = found
        self._rankings.clear()
        return found

    def _stamp(self) -> dict[Any, Any]:
        return {**self.workspace.stamps(), "TVR_BACKBONE": named_backbone(None)}

    def _encode(self, scorer: Scorer, store: FeatureStore, texts: Sequence[str]) -> TextFeatures:
        """Return features of sentences, by the backbone that made the store, which is loaded once."""
        wanted = (store.fingerprint, "tokens" in scorer.method.needs)
        if self._model is None or self._model[0] != wanted:
            named, offline = self.flags.backbone, self._offline
            model = sentences.encoder_of(store, named=named, offline=offline, device=self._device, tokens=wanted[1])
            self._model = (wanted, model)
        return sentences.encode(self._model[1], texts, store)

    def _refresh_features(self, asked: Asked) -> None:
        """Compute the features where there are none, or where the frames have changed since."""
        workspace = self.workspace
        found = workspace.find_run(asked.run) if asked.run is not None else None
        named = named_backbone(asked.backbone)
        store = workspace.features_of(found) if found is not None else workspace.newest_features(named)
        if store is None:
            require_library(workspace, asked.backbone)
        if not workspace.has_frames:
            return
        if store is not None and store.provenance.get("frames_content") == workspace.frames().content_hash():
            return
        of = f" of {named}" if named else ""
        why = f"no features{of} yet" if store is None else "the frames have changed"
        log.logger.info("%s; computing features first (%s)", why, commands.tvr("precompute-features"))
        options = PrecomputeOptions(device=self._device, offline=self._offline)
        if store is None:
            precompute.precompute(workspace, asked.backbone, None, options)
        else:  # with the plans that it was made with: a run may have been trained on them
            repair.refresh(workspace, store, options, named=asked.backbone)


def products(part: IndexedFilms, queries: np.ndarray) -> np.ndarray:
    """Return the products [T, N] of sentences [T, D] with all frames of a segment."""
    asked = torch.from_numpy(queries)
    found = [asked @ block.float().T for block in part.segment["timeline.frames"].split(_SCAN_ROWS)]
    return torch.cat(found, 1).numpy()


def _by_frames_alone(scorer: Scorer) -> bool:
    """Whether nothing but single frames decides, so that moments are ranked and no windows before them."""
    return scorer.run is None and scorer.name in _light.METHODS and not isinstance(scorer, TwoStages)
