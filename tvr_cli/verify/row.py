"""`tvr verify --card FILE` of a row of a table: its runs scored again on this machine and compared with the card.

Trained weights are scored, not trained again: the card's `command` does that.
"""

from __future__ import annotations

from dataclasses import replace

from tvr_cli import config
from tvr_cli.engine import scorers
from tvr_cli.engine.device import pick_device
from tvr_cli.engine.evaluation import evaluate
from tvr_cli.engine.evaluation.evaluate_result import EvaluateReport
from tvr_cli.engine.scorers import Scorer
from tvr_cli.engine.whole import sweep_plan, table_card
from tvr_cli.engine.whole.table_card import Scored
from tvr_cli.errors import DataError
from tvr_cli.results.card import Card
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.verify import outcome, rerun
from tvr_cli.verify.outcome import Outcome, VerifyReport
from tvr_cli.workspace import Workspace


def again(card: Card, out: Workspace, *, device: str = "auto", who: str | None = None) -> VerifyReport:
    """Score the runs of a card's row again, writing nothing, and compare their numbers and files with the card's.

    out: the workspace with the sweep. Raises DataError where the sweep or one of the runs is not there.
    """
    if len(card.of) < 4:
        raise DataError(f"the card is of {' '.join(card.of)!r}; expected a sweep, a data set and the runs of a row")
    _, sweep, data, *runs = card.of
    folder = out.sweep_folder(sweep)
    if sweep_plan.kept_plan(folder) is None:
        raise DataError(
            f"the card is of the sweep {sweep!r}, and {str(folder)!r} holds none; say with -o which workspace has it, "
            f"or make it: {card.command}"
        )
    workspace = sweep_plan.workspace_of(folder, data)
    here = table_card.numbers_of(
        card.of, [_scored(workspace, name, device) for name in runs], seed=table_card.seed_of(card)
    )
    found = {value.name: value.found for value in here.values}
    outcomes = [_outcome(value.name, found.get(value.name), value.found, value.allowed or 0.0) for value in card.values]
    report = outcome.report(
        card.of, outcomes, protocol=here.protocol, hashes=here.hashes, device=pick_device(device), who=who
    )
    return replace(
        report,
        card=replace(report.card, values=here.values, command=card.command),
        changes=tuple(rerun.other_files(card, here)),
    )


def _scored(workspace: Workspace, name: str, device: str) -> Scored:
    scorer, store = _scorer(workspace, name)
    found = evaluate.measure(scorer, store, evaluate.EvaluateOptions(device=device))
    if found.ranks is None:
        raise DataError(f"the run {name!r} was judged by old counting, which has no ranks to compare")
    return Scored(found.report, found.ranks)


def _scorer(workspace: Workspace, name: str) -> tuple[Scorer, FeatureStore]:
    """Return a run of a sweep with the features that it goes with; of what was not trained as its result says."""
    run = workspace.run(name)
    if run.begun:
        return evaluate.load(workspace, run=name, method=None, backbone=None)
    if not (run.results / "test.json").is_file():
        raise DataError(f"the card is of {name!r}, and {str(workspace)!r} holds no result of it; sweep again")
    said = EvaluateReport.from_file(run.results / "test.json").subject
    options = config.Layer({"method": {said.method: dict(said.options)}}, f"the result of {name}")
    resolved = config.resolve([*scorers.method_layers(said.method), options], scorers.options_schema)
    store = workspace.features_for(said.backbone)
    return scorers.untrained_as(resolved, store), store


def _outcome(name: str, found: float | None, expected: float, allowed: float) -> Outcome:
    if found is None:
        return Outcome(name=name, status="FAIL", detail="on the card, not counted here")
    off = not abs(found - expected) <= allowed + 1e-9
    return Outcome(
        name=name,
        status="FAIL" if off else "PASS",
        detail=f"{found:.2f} here, {expected:.2f} on the card, which may differ by {allowed:.2g}",
    )
