"""The bank: sentences that are about nothing in a library in particular, to measure with and to compare answers with.

Some 500 everyday and meaningless sentences ship with tvr (`sentences.txt`); for the toy world's encoders, which know no
other words, it is what its grammar says. `tvr index --null FILE` puts a user's own in their place, and an index keeps
those. Features of a bank are encoded once an encoder and remembered in the user's cache: 500 sentences cost more than a
small library.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from tvr_cli import user_cache
from tvr_cli.backbones.toy import is_toy
from tvr_cli.data.demo_world import grammar
from tvr_cli.errors import DataError
from tvr_cli.files import is_text
from tvr_cli.plans import WordPlan
from tvr_cli.stores.index.store import Index
from tvr_cli.types import TextFeatures, caption_key

_KIND = "bank"
_TOY_SEED = 20_13
_STRANGE = 240
_ONSETS = (
    "b",
    "bl",
    "ch",
    "d",
    "f",
    "g",
    "gl",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "q",
    "r",
    "s",
    "sk",
    "t",
    "v",
    "w",
    "z",
)
_VOWELS = ("a", "e", "i", "o", "u", "ar", "en", "ix", "ol", "um")
_NOUNS = (
    "premise", "footnote", "clause", "tariff", "axiom", "deadline", "grammar", "budget", "hypothesis", "statute",
    "vowel", "quotient", "subsidy", "preface", "theorem", "proxy", "synonym", "warranty", "paradox", "mandate",
    "dividend", "exception", "opinion", "variance", "licence", "century", "proof", "semester", "metaphor",
    "interest rate", "formula",
)  # fmt: skip
_VERBS = (
    "follows from",
    "is older than",
    "contradicts",
    "depends on",
    "was repealed by",
    "rhymes with",
    "implies",
    "outweighs",
)
_ABSTRACT = (
    "the {0} of the {1} {3} the {2}", "no {0} {3} a {1}", "every {0} {3} its {1}, but not the {2}",
    "whether the {0} {3} the {1} is a {2}", "in theory the {0} {3} the {1}",
)  # fmt: skip
_LOOKS = tuple(itertools.product(grammar.SHAPES, grammar.COLOURS))
_MOST_BYTES = 16 * 2**20  # of a file of sentences; more is no such file

EncodeSentences = Callable[[Sequence[str]], TextFeatures]


@dataclass(frozen=True)
class Bank:
    """Sentences, each once. of: what they are, for people. own: whether a user named them."""

    sentences: tuple[str, ...]
    of: str
    own: bool = False

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256("\n".join(self.sentences).encode("utf-8")).hexdigest()

    def about(self) -> dict[str, Any]:
        """Return what the head of an index says of it."""
        return {"of": self.of, "sentences": len(self.sentences), "sha256": self.sha256, "own": self.own}


def usual(backbone: str) -> Bank:
    """Return the bank for an encoder by its name: the shipped one, or what the toy world's grammar says."""
    return _grammar() if is_toy(backbone) else _shipped()


def strange(backbone: str) -> Bank:
    """Return sentences about nothing that an encoder knows, by its name: of the toy world's all that is of the real
    one, of others what is about nothing that can be seen.
    """
    return _shipped() if is_toy(backbone) else _meaningless()


def read(path: Path) -> Bank:
    """Read a user's bank, a sentence a line; empty lines and repetitions are left out. Raises DataError."""
    where = f"expected sentences, one a line, in {str(path)!r}"
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{where}, found {path.stat().st_size} bytes; give a file of some hundred sentences")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise DataError(f"{where}, found what is no UTF-8 ({e.reason} at byte {e.start}); convert it with iconv") from e
    except OSError as e:
        raise DataError(f"{where}, which cannot be read ({e.strerror})") from e
    sentences = tuple(dict.fromkeys(" ".join(line.split()) for line in text.splitlines() if line.strip()))
    if not sentences:
        raise DataError(f"{where}, found none; leave --null out for those that ship with tvr")
    if not all(is_text(sentence) and sentence.isprintable() for sentence in sentences):
        raise DataError(f"{where}, found characters that no text has; is it a text file?")
    return Bank(sentences, f"sentences of {path.name}", own=True)


def of_index(index: Index) -> Bank | None:
    """Return the user's bank that an index keeps, None where it keeps none. Raises DataError where it is damaged."""
    about = index.measured.get("bank")
    kept = index.null_sentences() if about and about["own"] else None
    return Bank(tuple(kept), about["of"], own=True) if kept and about else None


def features(
    bank: Bank, encode: EncodeSentences, identity: Mapping[str, Any], plan: WordPlan, importance: str, *, tokens: bool
) -> TextFeatures:
    """Return features of a bank's sentences, from the cache where this encoder has encoded them before.

    identity: the backbone's, with the hash of its weights. tokens: whether those of single words are needed too. They
    are kept, and so given, in half precision.
    """
    about = [identity, plan.length, plan.shape, importance, tokens, bank.sha256]
    name = json.dumps(about, sort_keys=True, default=str)
    if (kept := _recalled(name, bank)) is not None:
        return kept
    found = encode(bank.sentences)
    tensors = {"pooled": found.pooled.half(), "n_tokens": found.n_tokens}
    if tokens and found.tokens is not None:
        tensors["tokens"] = found.tokens.half()
    if found.importance is not None:
        tensors["importance"] = found.importance
    _keep(name, tensors)
    return _features(tensors, bank)


def _recalled(name: str, bank: Bank) -> TextFeatures | None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = user_cache.recall_bytes(_KIND, name)
    if data is None:
        return None
    try:
        tensors = load(data)
        fits = {"pooled", "n_tokens"} <= tensors.keys() <= {"pooled", "n_tokens", "tokens", "importance"}
    except (SafetensorError, ValueError, KeyError):
        return None
    if not fits or any(len(x) != len(bank.sentences) for x in tensors.values()):
        return None
    return _features(tensors, bank)


def _keep(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save

    user_cache.keep_bytes(_KIND, name, save({k: x.contiguous() for k, x in tensors.items()}))


def _features(tensors: Mapping[str, torch.Tensor], bank: Bank) -> TextFeatures:
    key = torch.tensor([caption_key(sentence) for sentence in bank.sentences], dtype=torch.int64)
    words = tensors.get("tokens")
    return TextFeatures(
        key,
        tensors["pooled"].float(),
        None if words is None else words.float(),
        tensors["n_tokens"],
        tensors.get("importance"),
    )


@functools.cache
def _shipped() -> Bank:
    lines = (Path(__file__).parent / "sentences.txt").read_text("utf-8").splitlines()
    return Bank(tuple(lines), "everyday sentences")


@functools.cache
def _meaningless() -> Bank:
    said = Random(_TOY_SEED)

    def word() -> str:
        return "".join(said.choice(_ONSETS) + said.choice(_VOWELS) for _ in range(said.choice((1, 2, 2, 3))))

    invented = [" ".join(word() for _ in range(said.choice((3, 4, 5, 6)))) for _ in range(_STRANGE // 2)]
    abstract = [
        said.choice(_ABSTRACT).format(*said.sample(_NOUNS, 3), said.choice(_VERBS)) for _ in range(_STRANGE // 2)
    ]
    return Bank(tuple(dict.fromkeys([*invented, *abstract])), "sentences about nothing that can be seen")


@functools.cache
def _grammar() -> Bank:
    said = Random(_TOY_SEED)
    things = [grammar.Thing(shape, colour, said.choice(grammar.TEXTURES)) for shape, colour in _LOOKS]
    scenes = [grammar.Scene(thing, action, None, 0) for thing in things for action in grammar.ACTIONS]
    # One event each, as people ask for it and a moment shows it, and each there is once: no sample is better.
    sentences = [grammar.clause(said, scene) for scene in scenes if grammar.possible(scene.thing.shape, scene.action)]
    return Bank(tuple(dict.fromkeys(sentences)), "sentences of the toy world")
