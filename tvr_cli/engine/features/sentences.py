"""What encodes the sentences of a query as a feature store's backbone does: its text tower alone, or all of it.

The tower on its own (`backbones/text_tower`) needs neither its library nor the weights of the vision side, which are
most of a query's time. It is taken where it was compared with the backbone and nothing has changed since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tvr_cli import log
from tvr_cli.backbones import registry
from tvr_cli.backbones.base import Backbone
from tvr_cli.backbones.text_tower import card as text_card
from tvr_cli.backbones.text_tower.card import TextCard
from tvr_cli.engine.features import cut, precompute
from tvr_cli.engine.features.encode import EncodesText
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import TextFeatures


class LightText:
    """The part of a `Backbone` that encodes sentences, on a text tower in numpy. tokens: whether words are wanted."""

    device = torch.device("cpu")

    def __init__(self, card: TextCard, tokens: bool = True):
        self._tokenizer, self._tower = card.open()
        self._tokens = tokens

    def tokenize(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Return ids [T, L] and n_tokens [T], as `Backbone.tokenize` does."""
        ids, n_tokens = self._tokenizer.encode(texts, length)
        return torch.from_numpy(ids), torch.from_numpy(n_tokens)

    def count_tokens(self, texts: Sequence[str]) -> Tensor:
        """Return how many tokens [T] each sentence has before any cut, as `Backbone.count_tokens` does."""
        return torch.tensor([len(self._tokenizer.words(text)) + 2 for text in texts], dtype=torch.int64)

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return pooled [T, D] and tokens [T, L, D], as `Backbone.encode_text` does; no tokens where none were wanted:
        then pads, which decide nothing of the sentence, are not computed.
        """
        if not self._tokens:
            return torch.from_numpy(self._tower.encode_pooled(ids.numpy())), None
        pooled, tokens = self._tower.encode(ids.numpy())
        return torch.from_numpy(pooled), torch.from_numpy(tokens)


def encoder_of(
    store: FeatureStore,
    *,
    named: str | None = None,
    offline: bool = False,
    device: str = "auto",
    tokens: bool = True,
) -> LightText | Backbone:
    """Return what encodes sentences for a store. named: what a person called its backbone (`registry.require_named`).
    tokens: whether the features of single words are needed.

    Raises what `precompute.backbone_of` raises.
    """
    store.require_encoder()
    registry.require_named(store.backbone_name, named, store.root)
    card = _card_of(store)
    if card is not None and store.word_importance == "none":
        log.logger.debug("sentences: the text tower of %s alone, without its library", store.backbone_name)
        return LightText(card, tokens)
    log.logger.debug("sentences: the backbone %s", store.backbone_name)
    return precompute.backbone_of(store, named=named, offline=offline, device=device)


def encode(model: EncodesText, texts: Sequence[str], store: FeatureStore) -> TextFeatures:
    """Encode sentences [T] as a store's captions were; what is too long for its plan is cut (`say_cut`)."""
    return precompute.encode_captions(model, list(texts), store.word_plan, store.word_importance)


def say_cut(model: EncodesText, texts: Sequence[str], found: TextFeatures, store: FeatureStore) -> None:
    """Warn of each sentence that `encode` has cut. found: what it returned for `texts`."""
    cut.say_cut(
        texts, found.n_tokens.tolist(), store.word_plan.length, store.backbone_name,
        lambda some: model.count_tokens(some).tolist(),
    )  # fmt: skip


def text_tensors_of(
    store: FeatureStore, *, named: str | None = None, offline: bool = False
) -> tuple[Mapping[str, Tensor], Tensor]:
    """Return the text tower's tensors under OpenAI's names, and the logit scale: what a head starts from.

    Raises what `precompute.backbone_of` raises.
    """
    store.require_encoder()
    registry.require_named(store.backbone_name, named, store.root)
    card = _card_of(store)
    if card is None:
        backbone = precompute.backbone_of(store, named=named, offline=offline, device="cpu")
        return backbone.text_tower(), backbone.logit_scale
    _, tower = card.open()
    tensors = {name: torch.from_numpy(array.copy()) for name, array in tower.parameters().items()}
    return tensors, torch.from_numpy(tower.logit_scale.copy())


def _card_of(store: FeatureStore) -> TextCard | None:
    card = text_card.recall(store.backbone_name)
    return card if card is not None and card.identity == store.identity["backbone"] else None
