"""What running a contract gives: one `Check` a clause. A clause is a function whose name is the sentence it proves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tvr_cli.results.base import Result


class BrokenContract(AssertionError):
    """A plug-in does not hold a clause; the message says what was expected and what was found."""


@dataclass(frozen=True)
class Check:
    """The outcome of one clause. name: the clause, in words. message: why it failed, or what was left out, or ''."""

    name: str
    passed: bool
    message: str = ""


@dataclass(frozen=True)
class CheckReport(Result):
    """What the clauses of a contract gave. kind: method, data set or backbone."""

    schema = "check"
    kind: str
    name: str
    passed: bool
    checks: Sequence[Check]


def require(condition: object, message: str) -> None:
    """Raise BrokenContract with a message unless a condition holds."""
    if not condition:
        raise BrokenContract(message)


def run(clauses: Iterable[Callable[..., str | None]], *args: Any) -> list[Check]:
    """Call each clause and note how it went; what a clause returns is the message of a check that passed."""
    checks = []
    for clause in clauses:
        name = clause.__name__.replace("_", " ")
        try:
            checks.append(Check(name, True, clause(*args) or ""))
        except BrokenContract as e:
            checks.append(Check(name, False, str(e)))
        except Exception as e:  # a plug-in may raise anything: it is counted, and the other clauses are run
            checks.append(Check(name, False, f"`{_raiser(e)}` raised {type(e).__name__}{f': {e}' if str(e) else ''}"))
    return checks


def _raiser(e: BaseException) -> str:
    """Return the name of the function that raised an exception: what a plug-in has left out, or where it went wrong."""
    at = e.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at.tb_frame.f_code.co_name if at is not None else "it"
