"""Sentences for an index: those that it is measured with, and those that it is asked, as its method takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tvr_cli.engine import scorers
from tvr_cli.engine.scorers import Scorer
from tvr_cli.engine.searching import bank as banks
from tvr_cli.engine.searching import two_stores
from tvr_cli.engine.searching.bank import Bank, EncodeSentences
from tvr_cli.engine.searching.two_stores import First
from tvr_cli.errors import TvrError
from tvr_cli.methods import _light
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import Encoding, TextFeatures

_SENTENCES = 50  # that precision is measured with


@dataclass(frozen=True)
class TwoStages(Scorer):
    """A scorer whose candidates come from another store. encode: makes features of sentences by that one's encoder."""

    first: First
    encode: EncodeSentences


def by_frames_alone(scorer: Scorer) -> bool:
    """Whether nothing but single frames decides, so that moments are ranked and no windows before them."""
    return scorer.run is None and scorer.name in _light.METHODS and not isinstance(scorer, TwoStages)


def bank_features(scorer: Scorer, store: FeatureStore, encode: EncodeSentences, bank: Bank) -> TextFeatures:
    """Return features of a bank's sentences as a store has those of its captions. Raises TvrError where that fails."""
    about = (store.identity["backbone"], store.word_plan, store.word_importance)
    return banks.features(bank, encode, *about, tokens="tokens" in scorer.method.needs)


def bank_vectors(scorer: Scorer, store: FeatureStore, encode: EncodeSentences, bank: Bank) -> np.ndarray:
    """Return the unit vectors [n, D] of a bank's sentences. Raises as `bank_features`."""
    text = bank_features(scorer, store, encode, bank)
    return torch.nn.functional.normalize(text.pooled.float(), dim=-1).numpy()


def encoded_bank(scorer: Scorer, store: FeatureStore, encode: EncodeSentences, bank: Bank) -> Encoding:
    """Return a bank's sentences as a method, which is on the CPU, takes them. Raises as `bank_features`."""
    text = bank_features(scorer, store, encode, bank)
    return encoded_texts(scorer, text.to("cpu"), lambda: bank.sentences)


def to_measure_with(
    scorer: Scorer, store: FeatureStore, encode: EncodeSentences | None, bank: Bank
) -> tuple[Encoding | None, str]:
    """Return sentences to measure with and what they are: captions of the store, best of its test split, else the
    bank's; None and why where there are none.
    """
    rows = next((held for name in ("test", "val", "train") if len(held := store.split(name))), None)
    if rows is not None:
        some = rows[:: max(1, -(-len(rows) // _SENTENCES))]
        texts = lambda: store.captions.texts(some)  # noqa: E731 - read only where two encoders need them
        try:
            return encoded_texts(scorer, store.text(some), texts), "captions"
        except TvrError as e:
            return None, f"no sentence could be encoded to measure with ({e})"
    if encode is None:
        return None, "there was no sentence to measure with"
    try:
        tokens = "tokens" in scorer.method.needs
        about = (store.identity["backbone"], store.word_plan, store.word_importance)
        text = banks.features(bank, encode, *about, tokens=tokens)
    except TvrError as e:
        return None, f"no sentence could be encoded to measure with ({e})"
    some = torch.arange(0, len(text), max(1, len(text) // _SENTENCES))[:_SENTENCES]
    try:
        said = [bank.sentences[i] for i in some.tolist()]
        return encoded_texts(scorer, text.rows(some), lambda: said), bank.of
    except TvrError as e:
        return None, f"no sentence could be encoded to measure with ({e})"


def encoded_texts(scorer: Scorer, text: TextFeatures, said: Callable[[], Sequence[str]]) -> Encoding:
    """Encode sentences by their features. said: the sentences, for the first of two encoders."""
    encoded = scorers.encode_texts(scorer.method, text)
    if isinstance(scorer, TwoStages):
        encoded = two_stores.with_vectors(encoded, scorer.first.sentences(scorer.encode(said())))
    return encoded


def on_cpu(texts: Encoding | None, of: str) -> tuple[Encoding | None, str]:
    """Return sentences and what they are where queries are answered."""
    return (texts.to("cpu") if texts is not None else None), of
