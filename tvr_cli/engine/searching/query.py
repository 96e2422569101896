"""From sentences to answers: what `tvr query` reports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tvr_cli.backbones import registry
from tvr_cli.engine.searching import light
from tvr_cli.engine.searching.asked import Asked, require_library
from tvr_cli.engine.searching.hits import Hit, SearchOptions
from tvr_cli.methods import _light
from tvr_cli.results.base import OPTIONAL, Result
from tvr_cli.results.shown import SavedClips
from tvr_cli.stores.index import place
from tvr_cli.stores.speech.place import is_speech
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.searching.session import Session


CHANNELS = ("picture", "speech", "both")


@dataclass(frozen=True)
class Answer:
    """The best moments of one sentence, best first."""

    query: str
    hits: Sequence[Hit]


@dataclass(frozen=True)
class QueryReport(Result):
    """An answer to each sentence, in the order asked. clips: what its moments were written as."""

    schema, version = "query", 2
    results: Sequence[Answer]
    clips: SavedClips | None = field(default=None, metadata=OPTIONAL)

    @property
    def missing(self) -> list[str]:
        """The paths among the hits that are no file any more, each once."""
        return list(dict.fromkeys(hit.path for answer in self.results for hit in answer.hits if hit.missing))


def query(
    texts: Sequence[str],
    workspace: Workspace,
    options: SearchOptions,
    *,
    run: str | None = None,
    method: str | None = None,
    backbone: str | None = None,
    first: str | None = None,
    device: str = "auto",
    offline: bool = False,
) -> QueryReport:
    """Answer each sentence with its best moments. Raises as `Session.answer`."""
    flags = Asked(run, method, backbone, first)
    report = ask_lightly(workspace, flags, texts, options, device=device)
    return report or ask(session(workspace, flags, device=device, offline=offline), texts, options)


def session(workspace: Workspace, flags: Asked, *, device: str = "auto", offline: bool = False) -> Session:
    """Open a session, which imports torch. Raises DataError before that where there is nothing to search."""
    _require_library(workspace, flags)
    from tvr_cli.engine.searching.session import Session

    return Session(workspace, flags, device=device, offline=offline)


def _require_library(workspace: Workspace, flags: Asked) -> None:
    """Raise as `require_library` does where nothing else could be wrong that a session would say before."""
    if flags.run is not None or flags.method not in (None, *_light.METHODS):
        return
    if place.standing(workspace.index_folder) is not None:
        return
    if flags.backbone is None:
        registry.require_known_variable()
    require_library(workspace, flags.backbone)


def ask_lightly(
    workspace: Workspace, flags: Asked, texts: Sequence[str], options: SearchOptions, *, device: str = "auto"
) -> QueryReport | None:
    """Answer each sentence without torch, None where it takes a session (`light.answer`)."""
    found = light.answer(workspace, flags, texts, options, device=device)
    return None if found is None else _report(texts, found)


def ask(session: Session, texts: Sequence[str], options: SearchOptions) -> QueryReport:
    """Answer each sentence in a session. Raises as `Session.answer`."""
    return _report(texts, session.answer(texts, options))


def _report(texts: Sequence[str], found: Sequence[Sequence[Hit]]) -> QueryReport:
    there: dict[str, bool] = {}
    return QueryReport([Answer(text, looked_for(hits, there)) for text, hits in zip(texts, found, strict=True)])


def has_words(workspace: Workspace) -> bool:
    """Return whether the words of a workspace have been read before (`channels.py`)."""
    return is_speech(workspace.speech_folder)


def looked_for(hits: Sequence[Hit], there: dict[str, bool]) -> list[Hit]:
    """Mark the hits whose file is not at its place any more. there: what is known of paths, and what is found out."""
    for path in {hit.path for hit in hits} - there.keys():
        there[path] = os.path.exists(path)
    return [hit if there[hit.path] else replace(hit, missing=True) for hit in hits]
