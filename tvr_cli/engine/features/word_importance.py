"""Which tokens of a caption carry content: DMAE's textual clue, one mark a token (0 pad, 1 word, 2 content word).

DMAE (spec section 4) marks nouns, adjectives and verbs that are not stop words. `spacy` does that with a part-of-speech
tagger. `stopwords` needs no model: every word counts as content that is not in the list below, has a letter, and is not
a single letter. A content word marks all of its BPE pieces; the start and end tokens are words. (The authors' released
mask compares characters with tokens and therefore misses on English; see docs/methods/dmae.md.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tvr_cli import commands
from tvr_cli.backbones.base import Backbone
from tvr_cli.errors import ConfigError, EnvironmentProblem, StoreMismatch, did_you_mean

RULES = ("none", "stopwords", "spacy")
SPACY_MODEL = "en_core_web_sm"
_CONTENT_TAGS = frozenset({"NOUN", "PROPN", "ADJ", "VERB"})

# Function words of English: articles, pronouns, prepositions, conjunctions, auxiliaries, adverbs that only bind.
STOP_WORDS = frozenset(
    """
    a an the this that these those some any each every either neither no none both all another other others such same
    own i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves one someone somebody something anyone anybody anything
    everyone everybody everything nobody nothing who whom whose which what whatever whoever
    about above across after against along alongside among amid around as at before behind below beneath beside besides
    between beyond by despite down during except for from in inside into like near of off on onto opposite out outside
    over past per since than through throughout till to toward towards under underneath until unto up upon via versus
    with within without
    and but or nor so yet if then else because while whereas whether though although unless once when whenever where
    wherever how why
    am is are was were be been being do does did doing done have has had having can could may might must shall should
    will would ought get gets got getting
    not n't 's 're 've 'm 'll 'd s t
    again also away back even ever here there just more most much many few less least only quite rather really still too
    very almost always never often sometimes together apart
    """.split()  # noqa: SIM905 - a list of words reads as one
)


def rule_identity(rule: str) -> str:
    """Return what a store records of a rule: its name, for spacy with the model's version.

    Raises ConfigError for an unknown rule, EnvironmentProblem when spacy or its model is not installed.
    """
    name = rule.partition(":")[0]
    if name not in RULES:
        raise ConfigError(f"unknown word importance {rule!r}{did_you_mean(rule, RULES)}; expected {', '.join(RULES)}")
    if name != "spacy":
        return name
    meta = _spacy().meta
    installed = f"spacy:{meta['lang']}_{meta['name']}-{meta['version']}"
    if rule not in ("spacy", installed):
        raise StoreMismatch(
            f"the feature store's word importance was made by {rule.partition(':')[2]}, but "
            f"{installed.partition(':')[2]} is installed; install that version, or run: "
            + commands.tvr("precompute-features", word_importance="spacy")
        )
    return installed


def mark(backbone: Backbone, texts: Sequence[str], n_tokens: Tensor, length: int, rule: str) -> Tensor | None:
    """Return marks [T, L] uint8 of captions that `backbone` tokenises to `n_tokens` [T] of `length` slots.

    None for the rule `none`. A caption that was cut keeps the marks of the tokens that are left; its last one is the
    end token.
    """
    if rule == "none":
        return None
    content = _spacy_words(_spacy()) if rule.startswith("spacy") else None
    marks = torch.zeros(len(texts), length, dtype=torch.uint8)
    for row, text, n in zip(marks, texts, n_tokens.tolist(), strict=True):
        row[:n] = 1
        at = backbone.first_word_token
        words = backbone.word_pieces(text)
        flags = [is_content(w) for w, _ in words] if content is None else content([w for w, _ in words])
        for (_, pieces), flag in zip(words, flags, strict=True):
            if flag:
                row[at : min(at + pieces, n - 1)] = 2
            at += pieces
    return marks


def is_content(word: str) -> bool:
    """Whether a word counts as content under the rule `stopwords`."""
    word = word.lower()
    return word not in STOP_WORDS and len(word) > 1 and any(c.isalpha() for c in word)


def _spacy() -> Any:
    try:
        import spacy
    except ImportError as e:
        raise EnvironmentProblem(
            "--word-importance spacy needs the package spacy: pip install 'tvr-cli[spacy]', then "
            f"python -m spacy download {SPACY_MODEL}"
        ) from e
    if "pipeline" not in _LOADED:
        try:
            _LOADED["pipeline"] = spacy.load(SPACY_MODEL, disable=["parser", "ner"])
        except OSError as e:
            raise EnvironmentProblem(
                f"--word-importance spacy needs the model {SPACY_MODEL}: python -m spacy download {SPACY_MODEL}"
            ) from e
    return _LOADED["pipeline"]


_LOADED: dict[str, Any] = {}


def _spacy_words(pipeline: Any) -> Callable[[list[str]], list[bool]]:
    def content(words: list[str]) -> list[bool]:
        from spacy.tokens import Doc

        tagged = pipeline(Doc(pipeline.vocab, words=words)) if words else []
        return [t.pos_ in _CONTENT_TAGS and not t.is_stop for t in tagged]

    return content
