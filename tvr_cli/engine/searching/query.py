"""From sentences to answers: what `tvr query` reports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvr_cli.engine.searching.index import Asked
from tvr_cli.engine.searching.search import Hit, SearchOptions
from tvr_cli.engine.searching.session import Session
from tvr_cli.results.base import Result
from tvr_cli.workspace import Workspace


@dataclass(frozen=True)
class Answer:
    """The best files of one sentence, best first."""

    query: str
    hits: Sequence[Hit]


@dataclass(frozen=True)
class QueryReport(Result):
    """An answer to each sentence, in the order asked."""

    schema = "query"
    results: Sequence[Answer]

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
    device: str = "auto",
    offline: bool = False,
) -> QueryReport:
    """Answer each sentence with its best files. Raises as `Session.answer`."""
    return ask(Session(workspace, Asked(run, method, backbone), device=device, offline=offline), texts, options)


def ask(session: Session, texts: Sequence[str], options: SearchOptions) -> QueryReport:
    """Answer each sentence in a session. Raises as `Session.answer`."""
    found = session.answer(texts, options)
    there: dict[str, bool] = {}
    return QueryReport([Answer(text, looked_for(hits, there)) for text, hits in zip(texts, found, strict=True)])


def looked_for(hits: Sequence[Hit], there: dict[str, bool]) -> list[Hit]:
    """Mark the hits whose file is not at its place any more. there: what is known of paths, and what is found out."""
    for path in {hit.path for hit in hits} - there.keys():
        there[path] = os.path.exists(path)
    return [hit if there[hit.path] else replace(hit, missing=True) for hit in hits]
