"""`tvr verify published`: from videos to a zero-shot result, by the ordinary commands, beside the published one.

Training rows are `tvr reproduce RECIPE`, which shows the published number; here a recipe's is judged as the others are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_cli import api, data
from tvr_cli.backbones import registry
from tvr_cli.engine.device import pick_device
from tvr_cli.engine.evaluation.evaluate_result import EvaluateReport, Fair
from tvr_cli.errors import ConfigError
from tvr_cli.results.card import Value
from tvr_cli.verify import scores
from tvr_cli.verify.backbone import read_of
from tvr_cli.verify.outcome import Outcome, VerifyReport, report
from tvr_cli.verify.scores import Measured, ScoreRow
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.whole.reproduce import ReproduceReport

_MOST_WORDS = 77  # no test caption of a row's data set is longer, and nothing is cut where CLIP would not cut it


def verify(
    spec: str,
    backbone: str,
    workspace: Path,
    *,
    device: str = "auto",
    offline: bool = False,
    allow_missing: bool = False,
    who: str | None = None,
    known: Sequence[ScoreRow] | None = None,
) -> VerifyReport:
    """Extract, encode and evaluate a data set once for each number of frames that rows have, and compare.

    workspace: where it is done, a folder below it for each number of frames; done again, it goes on. Raises what these
    steps raise, and ConfigError where no row of the encoder says its frames.
    """
    manifest = data.load(spec)
    rows = scores.of(manifest.name, backbone, known)
    told = [row for row in rows if row.frames is not None]
    if not told:
        raise ConfigError(f"no published row of {backbone!r} says how many frames a video it takes: nothing to compare")
    outcomes, hashes = [], dict[str, str]()
    for row in rows:
        frames = row.frames or told[0].frames or 0
        result = _result(row, frames, spec, backbone, workspace, device, offline, allow_missing)
        judged, subject = result.judged, result.subject
        assert isinstance(judged, Fair), "as was asked"
        measured = Measured(
            dataset=manifest.name,
            variant=manifest.variant,
            captions=subject.captions,
            videos=subject.videos,
            backbone=backbone,
            frames=frames,
            method=row.method,
            **Measured.numbers(judged),  # type: ignore[arg-type]
        )
        cause = scores.likely_cause(measured.recalls, measured.captions, measured.videos, {})
        outcome = scores.against(row, measured, cause)
        outcomes.append(replace(outcome, detail=f"{outcome.detail}; {read_of(registry.resolve(backbone))}"))
        hashes |= dict(subject.data.annotations)
        if subject.identity is not None:
            hashes |= {"caption ids": subject.identity.captions, "gallery": subject.identity.videos}
    protocol = {"data set": manifest.name, "variant": manifest.variant or "default", "backbone": backbone}
    return report(
        ["published", spec, backbone],
        outcomes,
        protocol=protocol,
        hashes=hashes,
        device=pick_device(device),
        who=who,
    )


def verify_recipe(
    recipe: str,
    spec: str,
    workspace: Path,
    *,
    device: str = "auto",
    offline: bool = False,
    allow_missing: bool = False,
    who: str | None = None,
) -> VerifyReport:
    """Run every step of a recipe and set its result beside the number that its authors published.

    Raises what `tvr reproduce` raises.
    """
    from tvr_cli.engine.whole import recipes
    from tvr_cli.engine.whole.reproduce import ReproduceReport

    found = recipes.follow(
        recipe, spec, Workspace(workspace), device=device, offline=offline, allow_missing=allow_missing
    )
    assert isinstance(found, ReproduceReport), "no list and no dry run was asked for"
    subject, outcome = found.result.subject, of_recipe(found)
    read = read_of(registry.resolve(found.experiment.backbone or subject.backbone))
    hashes = dict(subject.data.annotations)
    if subject.identity is not None:
        hashes |= {"caption ids": subject.identity.captions, "gallery": subject.identity.videos}
    return report(
        ["published", spec, f"recipe:{recipe}"],
        [replace(outcome, detail=f"{outcome.detail}; {read}")],
        protocol={"recipe": recipe, "data set": found.experiment.data.name, "selected on": subject.selected_on},
        hashes=hashes,
        device=pick_device(device),
        who=who,
    )


def of_recipe(found: ReproduceReport) -> Outcome:
    """Set the result of a recipe beside the published one, where there is one of the same experiment and protocol."""
    judged, name, published = found.result.judged, f"t2v R@1 of {found.experiment.recipe}", found.published
    assert isinstance(judged, Fair), "as `tvr reproduce` evaluates"
    ours, (low, high) = judged.t2v["R@1"], judged.intervals.t2v["R@1"]
    shown = f"R@1 {ours:.1f} [{low:.1f}, {high:.1f}]"
    source = f"presets/recipes/{found.experiment.recipe}.yaml, recipe.sources"
    if published is None:
        changed = f"changed: {', '.join(found.changed)}" if found.changed else ""
        why = changed or "no published number of this experiment is known, or videos are missing"
        return Outcome(name=name, status="NOT COMPARABLE", detail=f"{shown}; {why}", source=source)
    told = f"{shown}, published {published.t2v_r1:g}"
    selected = found.result.subject.selected_on
    if not published.exact or selected != published.selected_on:
        why = "the revision of their code is not known" if not published.exact else f"selected on {selected} here"
        detail = f"{told} (selected on {published.selected_on} there); {why}"
        return Outcome(name=name, status="NOT COMPARABLE", detail=detail, source=source)
    inside = low <= published.t2v_r1 <= high
    value = Value(name=name, found=ours, expected=published.t2v_r1, allowed=max(high - ours, ours - low))
    return Outcome(name=name, status="PASS" if inside else "FAIL", detail=told, source=source, values=(value,))


def _result(
    row: ScoreRow, frames: int, spec: str, backbone: str, workspace: Path, device: str, offline: bool, missing: bool
) -> EvaluateReport:
    """Run the ordinary commands: they skip what is done."""
    out = api.open_workspace(workspace / f"{frames}-frames")
    out.extract(data=spec, num_frames=frames, for_backbone=backbone)
    words = min(_MOST_WORDS, registry.resolve(backbone).context_length)
    out.features(data=spec, backbone=backbone, max_words=words, device=device, offline=offline)
    options = [f"method.{row.method}.{name}={_spelt(value)}" for name, value in row.options.items()]
    result = out.evaluate(method=row.method, backbone=backbone, device=device, allow_missing=missing, set=options)
    assert isinstance(result, EvaluateReport), "no dry run was asked for"
    return result


def _spelt(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
