"""Answering a query without importing torch, which takes most of an ordinary one's time.

This is for the usual case alone: the index is as new as the workspace, a method of a few matrix products made it
(`methods/_light.py`), and the text tower of its backbone is known (`backbones/text_tower`). Everything else, and
whatever is wrong, is the business of a `Session`, which finds out again; so both say and answer the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvr_cli import log
from tvr_cli.backbones import registry
from tvr_cli.backbones.text_tower import card as text_card
from tvr_cli.backbones.text_tower.card import TextCard
from tvr_cli.defaults import DEFAULT_METHOD, is_one_of, named_backbone
from tvr_cli.engine.features import cut
from tvr_cli.engine.searching import confidence, light_search
from tvr_cli.engine.searching.asked import Asked
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.engine.searching.options import PresetOptions, of_preset
from tvr_cli.engine.searching.question import Question, asking, features_of, sentences_of
from tvr_cli.errors import TvrError
from tvr_cli.methods import _light
from tvr_cli.methods._light import LightMethod
from tvr_cli.results.found import Hit
from tvr_cli.scale import Scale
from tvr_cli.stores.features.head import Head
from tvr_cli.stores.features.scale import scale_of
from tvr_cli.stores.index import place
from tvr_cli.stores.index.arrays import ArrayIndex
from tvr_cli.stores.index.place import Standing
from tvr_cli.workspace import Workspace

# Numpy scans half precision a tenth as fast as torch does, 1.8 s for a million clips: about what importing it takes.
MOST_CLIPS = 500_000


@dataclass(frozen=True)
class Light:
    """What answers without torch. identity: of the features. length: token slots of a sentence. scale: factor of its
    features.
    """

    index: ArrayIndex
    method: LightMethod
    card: TextCard
    backbone: str
    identity: Mapping[str, Any]
    length: int
    scale: float


class Ordinary(Exception):
    """What makes it a query for a `Session`, in words."""


def answer(
    workspace: Workspace,
    flags: Asked,
    questions: Sequence[str | Question],
    options: SearchOptions,
    *,
    device: str = "auto",
) -> list[list[Hit]] | None:
    """Return what `Session.answer` would, None where that has to do it; `tvr query --verbose` says which and why."""
    asked = [asking(question) for question in questions]
    texts = sentences_of(asked)
    try:
        if not all(question.of_words for question in asked):
            raise Ordinary("a picture or a moment is looked for")
        light = ready(workspace, flags, device)
        if options.head.named is not None and not light.index.films:
            raise Ordinary("a moment head was named, and nothing is ranked by time")
        tokenizer, tower = light.card.open()
        ids, n_tokens = tokenizer.encode(texts, light.length)
        said = dict(zip(texts, tower.encode_pooled(ids), strict=True))
        pooled = np.stack([features_of(question, lambda what: said[str(what)]) for question in asked])
        if light.index.films:
            found = _by_time(workspace, light, pooled, options)
        else:
            found = light_search.search(light.method, light.index, light.scale * pooled, options)
    except (Ordinary, TvrError, FileNotFoundError) as e:
        log.logger.debug("answered with torch: %s", e)
        return None
    log.logger.debug("answered without torch: the text tower of %s alone, in numpy", light.backbone)
    confidence.say(confidence.of_index(light.index.measured), workspace)
    cut.say_cut(
        texts, n_tokens.tolist(), light.length, light.backbone,
        lambda some: [len(tokenizer.words(text)) + 2 for text in some],
    )  # fmt: skip
    return found


def ready(workspace: Workspace, flags: Asked, device: str) -> Light:
    """Return what answers. Raises Ordinary where a session has to, TvrError for what is wrong in the workspace."""
    found = place.standing(workspace.index_folder)
    if flags.first is not None or (found is not None and "first" in found.identity):
        raise Ordinary("the index is of two stores")
    if device not in ("auto", "cpu") or flags.run is not None:
        raise Ordinary("a run or a device was named")
    if found is None or found.head is None:
        raise Ordinary("there is no index of this format yet")
    made = found.identity
    name = _method_named(workspace, flags, found)
    if name not in _light.METHODS or made.get("method") != name:
        raise Ordinary(f"the method {name} needs it")
    if flags.backbone is not None and not is_one_of(flags.backbone, (made.get("backbone"), made.get("architecture"))):
        raise Ordinary("another backbone was named than that of the index")
    if flags.backbone is None and named_backbone(None) not in (made.get("backbone"), made.get("architecture")):
        registry.require_known_variable()
    features = _features(workspace, flags.backbone or found.asked.get("backbone"))
    options = of_preset(name)
    if differing := [key for key, value in _identity(features, name, options).items() if made.get(key) != value]:
        raise Ordinary(f"the index is out of date ({', '.join(differing)})")
    card = text_card.recall(features.made.backbone)
    if card is None or card.identity != features.made.identity["backbone"]:
        raise Ordinary(f"no text tower of {features.made.backbone} is known")
    if found.head.rows > MOST_CLIPS:
        raise Ordinary("the index is so large that torch is faster")
    if not ArrayIndex.holds(found.head):
        raise Ordinary("the index has bfloat16")
    index = ArrayIndex.open(workspace.index_folder)
    if sum(len(part.array("ts")) for part in index.films) > MOST_CLIPS:
        raise Ordinary("the index has so many frames that torch is faster")
    if dict(index.identity) != dict(made):
        raise Ordinary("another process replaced the index")
    method = _light.METHODS[name](**options.values)
    identity = features.made.identity
    length = identity["words"]["length"]
    return Light(index, method, card, features.made.backbone, identity, length, _scale(features, name).text)


def _by_time(workspace: Workspace, light: Light, pooled: np.ndarray, options: SearchOptions) -> list[list[Hit]]:
    """Return moments of frames that are kept by time, for the features [T, D] of what is asked."""
    # Which an index of windows does without.
    from tvr_cli.engine.searching import head_confidence, heads, moments
    from tvr_cli.engine.searching.ranking import ByHead

    chosen = heads.head_for(workspace, light.backbone, light.identity, options.head)
    films, unit = light.index.films, pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)
    lines = confidence.of_index(light.index.measured)
    if chosen.head is None or lines is None or lines.why is not None:
        chosen.say()
        return moments.search(films, unit, options, None if chosen.head is None else ByHead(chosen.head), lines)
    by_head = head_confidence.recalled(films, chosen.head, light.index.measured["bank"]["sha256"])
    if by_head is None:
        raise Ordinary("what the head reads of sentences that are not there was never found out for this index")
    chosen.say()
    return moments.search(films, unit, options, ByHead(chosen.head), by_head)


def _method_named(workspace: Workspace, flags: Asked, found: Standing) -> str:
    """Return the method that answers. Raises Ordinary where a run does, or may."""
    if found.asked.get("run") is not None or found.identity.get("run") is not None:
        raise Ordinary("the index is of a run")
    name = flags.method or found.asked.get("method")
    if name is None and workspace.newest_run() is not None:
        raise Ordinary("there are runs, of which one may answer")
    return name or DEFAULT_METHOD


def _features(workspace: Workspace, backbone: str | None) -> Head:
    """Return the head of the features that answer. Raises Ordinary where they have to be made or refreshed first."""
    head = workspace.newest_features_head(named_backbone(backbone))
    if head is None or head.finished is None:
        raise Ordinary("there are no features yet")
    said = {**head.made.provenance, **head.finished.corpus}
    old = workspace.has_frames and said.get("frames_content") != workspace.frames_content()
    if old and head.made.imported is None:
        raise Ordinary("the frames have changed")
    if head.finished.frameless or not {"video.frames", "text.pooled"} <= set(head.made.tensors):
        raise Ordinary("the features lack what the method needs")
    # No such method looks at the importance of words; but spaCy may be another one by now, as a session finds out.
    if head.made.identity["importance"] not in ("none", "stopwords") or registry.must_be_named(head.made.backbone):
        raise Ordinary(f"the sentences need the whole backbone {head.made.backbone}")
    return head


def _identity(features: Head, name: str, options: PresetOptions) -> dict[str, object]:
    """Return what an index of the features is made from (`index.identity_of`); the sizes are those of the features."""
    assert features.finished is not None, "features that answer are finished"
    return {
        "backbone": features.made.backbone,
        "architecture": features.made.identity["backbone"]["name"],
        "store": features.made.fingerprint,
        "content": features.finished.content,
        "method": name,
        "run": None,
        "options": options.hash,
        "checkpoint": None,
        **({} if (scale := _scale(features, name)) == Scale() else {"scale": dataclasses.asdict(scale)}),
    }


def _scale(features: Head, name: str) -> Scale:
    """Return the factors that a method multiplies features with."""
    if not _light.METHODS[name].counts_on_length:
        return Scale()
    made = features.made
    return scale_of(made.identity["backbone"]["name"], features.norms, made.provenance)
