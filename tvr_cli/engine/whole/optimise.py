"""`tvr optimise`: a random search of settings, on validation alone, with the same number of trials for every method.

A trial is a cell of a sweep (`sweep.py`), so it is kept, resumed, retried, sharded and done side by side as cells are.
`tvr sweep --tuned NAME` takes the best settings of each method, and its table says of how many they are the best.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tvr_cli.engine.whole import sweep as sweeping
from tvr_cli.engine.whole.search_result import OptimisePreview, OptimiseReport, PlannedTrials, rows_of
from tvr_cli.engine.whole.sweep import SweepOptions
from tvr_cli.engine.whole.sweep_plan import Asked, Search, require_plan, table_of
from tvr_cli.errors import ConfigError
from tvr_cli.workspace import Workspace

DEFAULT_NAME = "search"
_SHOWN = 3  # draws of a method that a dry run shows


def optimise(
    methods: Sequence[str],
    out: Workspace,
    *,
    search: Search,
    file: Path | None = None,
    encoders: Sequence[str] = (),
    data: Sequence[str] = (),
    assignments: Sequence[str] = (),
    options: SweepOptions | None = None,
    dry_run: bool = False,
) -> OptimiseReport | OptimisePreview:
    """Try settings of methods and return what they reached on validation, or (dry_run) what would be tried.

    file: YAML, whose section `sweep` may say encoders and data, and the rest holds for every trial. Raises as
    `sweep.sweep` does, and ConfigError for a method without ranges or without anything to train.
    """
    if not methods:
        raise ConfigError("expected a method to search settings of, such as xpool or xpool,wti; found none")
    started = time.monotonic()
    options = options or SweepOptions(DEFAULT_NAME if file is None else None)
    found = sweeping.sweep(
        file, out, methods=methods, encoders=encoders, data=data, seeds=("0",), assignments=assignments,
        options=options, search=search, dry_run=dry_run,
    )  # fmt: skip
    if found.dry_run:
        head = table_of(Asked(file, methods, encoders, data, ("0",), assignments, search)).search
        assert head is not None, "a search was asked for"
        return OptimisePreview(
            folder=found.folder,
            trials=search.trials,
            seed=search.seed,
            methods=[
                PlannedTrials(method=m, ranges=r, first=head.settings[m][1 : 1 + _SHOWN])
                for m, r in head.ranges.items()
            ],
            empty=tuple(dict.fromkeys(s.reason or "" for s in found.cells if s.state == "empty")),
            todo=found.todo,
            steps=found.steps,
            hours=found.hours,
            unknown=found.unknown,
        )
    return OptimiseReport(
        folder=found.folder,
        trials=search.trials,
        seed=search.seed,
        rows=rows_of(found.folder, require_plan(found.folder)),
        failures=[f"{s.cell.run} on {s.cell.data}: {s.reason}" for s in found.cells if s.state == "failed"],
        seconds=time.monotonic() - started,
    )
