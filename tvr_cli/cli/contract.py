"""How `check` of a method or a data set of one's own is printed: a line a clause, and the exit code of a broken one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvr_cli.cli import render
from tvr_cli.errors import PartialFailure

if TYPE_CHECKING:
    from tvr_cli.testing.report import Check


def report(kind: str, name: str, checks: Sequence[Check], as_json: bool) -> None:
    """Print what the clauses of a contract gave. Raises PartialFailure when one does not hold."""
    from tvr_cli.testing.report import CheckReport

    broken = [check for check in checks if not check.passed]
    render.result(CheckReport(kind, name, not broken, checks), as_json, lambda: _show(checks))
    if broken:
        raise PartialFailure(
            f"the {kind} {name} does not hold {render.count(len(broken), 'clause')} of {len(checks)}: "
            f"{'; '.join(check.name for check in broken)}"
        )


def _show(checks: Sequence[Check]) -> None:
    for check in checks:
        about = f": {render.printable(check.message)}" if check.message else ""
        render.line(f"{'ok ' if check.passed else 'no '} {check.name}{about}")
