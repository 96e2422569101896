"""From questions to answers: what `tvr query` reports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tvr_cli.backbones import registry
from tvr_cli.engine.searching import light
from tvr_cli.engine.searching.asked import Asked, require_library
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.engine.searching.question import Question, asking
from tvr_cli.errors import ConfigError, did_you_mean
from tvr_cli.methods import _light
from tvr_cli.results.found import Answer, Hit, QueryReport
from tvr_cli.stores.index import place
from tvr_cli.stores.speech.place import is_speech
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.searching.session import Session


CHANNELS = ("picture", "speech", "both")


def query(
    questions: Sequence[str | Question],
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
    """Answer each question with its best moments. Raises as `Session.answer`."""
    flags = Asked(run, method, backbone, first)
    report = ask_lightly(workspace, flags, questions, options, device=device)
    return report or ask(session(workspace, flags, device=device, offline=offline), questions, options)


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
    workspace: Workspace,
    flags: Asked,
    questions: Sequence[str | Question],
    options: SearchOptions,
    *,
    device: str = "auto",
) -> QueryReport | None:
    """Answer each question without torch, None where it takes a session (`light.answer`)."""
    found = light.answer(workspace, flags, questions, options, device=device)
    return None if found is None else _report(questions, found, options)


def ask(session: Session, questions: Sequence[str | Question], options: SearchOptions) -> QueryReport:
    """Answer each question in a session. Raises as `Session.answer`."""
    return _report(questions, session.answer(questions, options), options)


def _report(questions: Sequence[str | Question], found: Sequence[Sequence[Hit]], options: SearchOptions) -> QueryReport:
    there: dict[str, bool] = {}
    return QueryReport(
        [
            Answer.of(asking(asked).text, looked_for(hits, there), options.min_confidence)
            for asked, hits in zip(questions, found, strict=True)
        ]
    )


def channel_of(
    workspace: Workspace, named: str | None, questions: Sequence[Question], min_score: float | None = None
) -> str:
    """Return the channel that answers: the one that was named, else both where words have been read before.

    What is more than a sentence is looked for in the picture. Raises ConfigError for a channel that there is not, and
    where what is said is asked for such, or for a least score.
    """
    if named is not None and named not in CHANNELS:
        near = did_you_mean(named, CHANNELS) or f"; there are {', '.join(CHANNELS)}"
        raise ConfigError(f"--channel: unknown {named!r}{near}")
    if named == "speech" and min_score is not None:
        raise ConfigError(
            "--min-score is about scores of the picture, and with --channel speech words are looked for, which are "
            "found or not; leave one of them out"
        )
    if all(question.sentence is not None for question in questions):
        return named or ("both" if has_words(workspace) else "picture")
    if named in ("speech", "both"):
        raise ConfigError(
            f"--channel {named} looks for the words of a sentence in what is said, and a sum, a picture or a moment "
            "has none; leave one of them out"
        )
    return "picture"


def has_words(workspace: Workspace) -> bool:
    """Return whether the words of a workspace have been read before (`channels.py`)."""
    return is_speech(workspace.speech_folder)


def looked_for(hits: Sequence[Hit], there: dict[str, bool]) -> list[Hit]:
    """Mark the hits whose file is not at its place any more. there: what is known of paths, and what is found out."""
    for path in {hit.path for hit in hits} - there.keys():
        there[path] = os.path.isabs(path) and os.path.exists(path)  # else it is an id alone (`why_missing`)
    return [hit if there[hit.path] else replace(hit, missing=True) for hit in hits]
