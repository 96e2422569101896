"""The sweep and the table of `api.OpenWorkspace`: a part of that class in a file of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from tvr_cli import log
from tvr_cli.api_flags import at_least, listed, path_of, several, shard_of
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.whole.search_result import OptimisePreview, OptimiseReport
    from tvr_cli.engine.whole.sweep_result import SweepPreview, SweepReport
    from tvr_cli.engine.whole.table_result import TableReport

PathLike = str | os.PathLike[str]


class Sweeping:
    """Many experiments as one, and what they come to."""

    workspace: Workspace
    progress: log.Watcher | None

    def sweep(
        self,
        file: PathLike | None = None,
        *,
        methods: str | Sequence[str] = (),
        encoders: str | Sequence[str] = (),
        data: str | Sequence[str] = (),
        seeds: str | Sequence[int] = (),
        set: str | Sequence[str] = (),
        tuned: str | None = None,
        name: str | None = None,
        jobs: int = 1,
        shard: str = "1/1",
        workers: int | None = None,
        device: str = "auto",
        threads: int | None = None,
        offline: bool = False,
        dry_run: bool = False,
    ) -> SweepReport | SweepPreview:
        """Train and evaluate every method with every encoder on every data set, a run a seed; finished cells are kept.

        file: YAML, or the name of a shipped sweep; what else is given takes the place of what it says. methods,
        encoders, seeds: a list, or a text with commas. tuned: a search (`optimise`) whose best settings count. Failed
        cells are in the report and raise nothing. Raises ConfigError for what cannot be swept, DataError for a data set
        that cannot be read, EnvironmentProblem while another sweep works there, Interrupted.
        """
        from tvr_cli.engine.whole import sweep

        at_least("--workers", workers, 1)
        options = sweep.SweepOptions(name, jobs, shard_of(shard), device, threads, workers, offline)
        with self._watched():
            return sweep.sweep(
                path_of(file),
                self.workspace,
                methods=listed(methods),
                encoders=listed(encoders),
                data=several(data),
                seeds=listed(seeds if isinstance(seeds, str) else [str(seed) for seed in seeds]),
                assignments=several(set),
                tuned=tuned,
                options=options,
                dry_run=dry_run,
            )

    def optimise(
        self,
        methods: str | Sequence[str],
        *,
        encoders: str | Sequence[str] = (),
        data: str | Sequence[str] = (),
        trials: int = 16,
        seed: int = 0,
        ranges: PathLike | None = None,
        config: PathLike | None = None,
        set: str | Sequence[str] = (),
        name: str | None = None,
        jobs: int = 1,
        shard: str = "1/1",
        workers: int | None = None,
        device: str = "auto",
        threads: int | None = None,
        offline: bool = False,
        dry_run: bool = False,
    ) -> OptimiseReport | OptimisePreview:
        """Search settings of methods at random, on validation alone, with the same number of trials for each.

        ranges: YAML in place of the shipped ranges. config: YAML as of `sweep`, for encoders, data and the rest. Raises
        as `sweep` does, and ConfigError for a method that has no ranges or nothing to train.
        """
        from tvr_cli.engine.whole import optimise
        from tvr_cli.engine.whole.sweep import SweepOptions
        from tvr_cli.engine.whole.sweep_plan import Search

        at_least("--workers", workers, 1)
        at_least("--trials", trials, 1)
        named = name if name is not None or config is not None else optimise.DEFAULT_NAME
        with self._watched():
            return optimise.optimise(
                listed(methods),
                self.workspace,
                search=Search(trials, seed, path_of(ranges)),
                file=path_of(config),
                encoders=listed(encoders),
                data=several(data),
                assignments=several(set),
                options=SweepOptions(named, jobs, shard_of(shard), device, threads, workers, offline),
                dry_run=dry_run,
            )

    def table(
        self,
        sweep: PathLike,
        *,
        baseline: str | None = None,
        plot: PathLike | None = None,
        cards: PathLike | None = None,
        seed: int = 0,
    ) -> TableReport:
        """Return the table of a sweep: means over seeds, intervals over videos, tests against a baseline.

        sweep: its name in the workspace, or its folder. baseline: a method, or METHOD-ENCODER. plot: draw recall
        against cost. cards: write a card of each row into this folder. Raises DataError where there is no sweep or
        nothing of it is done, ConfigError for another baseline, EnvironmentProblem without matplotlib.
        """
        from tvr_cli.engine.whole import table

        with self._watched():
            return table.table(
                os.fspath(sweep), self.workspace, baseline=baseline, seed=seed, plot=path_of(plot), cards=path_of(cards)
            )

    def _watched(self) -> AbstractContextManager[None]:
        return log.watched(self.progress)
