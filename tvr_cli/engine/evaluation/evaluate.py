"""Evaluating a method on a split: score T captions x V videos, let the referee judge, keep the result and the ranks."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from tvr_cli import commands, log
from tvr_cli.engine import scorers, suggest
from tvr_cli.engine.device import DEFAULT_BUDGET, kernel_errors, pick_device
from tvr_cli.engine.evaluation import ground
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.evaluation.evaluate_result import (
    Completeness,
    Corpus,
    Cost,
    EvaluatePreview,
    EvaluateReport,
    Judged,
    OverDraws,
    Subject,
)
from tvr_cli.engine.evaluation.gallery import Gallery, gallery_of, scores_by_rule, streamed_ranks, video_scores
from tvr_cli.engine.evaluation.judge import JudgeOptions
from tvr_cli.engine.evaluation.score_file import Ids
from tvr_cli.engine.scorers import Scorer
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.files import lock, read_json, sha256_file, write_bytes, write_json
from tvr_cli.metrics import Ranks
from tvr_cli.results.metrics import mean_and_deviation
from tvr_cli.runs import RunDir, git_state
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.version import __version__
from tvr_cli.workspace import Workspace

_BANK = 5000  # training captions in QB-Norm's query bank, as its authors found enough
_COPIES = 2  # of the score matrix at a time while it is made and judged


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """noise_seeds: draws of a method that samples at evaluation (EagleNet); their mean and deviation are reported.

    allow_missing: judge an incomplete gallery too; the count is in every output. stream: never hold [T, V] (None = when
    it does not fit the budget). rule: score as the authors' released test does, by this name, not by the method's own.
    under: the name under which the result of a method without a run is kept, None = the method's.
    """

    split: str = "test"
    memory_budget: int = DEFAULT_BUDGET
    device: str = "auto"
    noise_seeds: int = 1
    save_scores: Path | None = None
    allow_missing: bool = False
    stream: bool | None = None
    rule: str | None = None
    under: str | None = None
    judge: JudgeOptions = field(default_factory=JudgeOptions)


@dataclass(frozen=True)
class Measured:
    """A split, scored and judged, nothing kept. ranks: None of old counting. scores: None where streamed."""

    report: EvaluateReport
    ranks: tuple[Ranks, Ranks] | None
    gallery: Gallery
    scores: np.ndarray | None


def evaluate(scorer: Scorer, store: FeatureStore, workspace: Workspace, options: EvaluateOptions) -> EvaluateReport:
    """Score a split, store the result and per-query ranks in the run's folder, and return the result.

    Raises DataError when the split is empty, its gallery is incomplete, a score is NaN, or something else than a run or
    a result would be written over.
    """
    _refuse_other_files(options.save_scores)
    run = scorer.run or workspace.run(options.under or scorer.name)
    _require_own(run, options.split)
    found = measure(scorer, store, options)
    _keep(run, options.split, found.report, found.ranks, found.gallery, store)
    if options.save_scores is not None and found.scores is not None:
        write_scores(options.save_scores, found.scores, found.gallery, store, scale=scorer.method.score_scale())
    return found.report


@kernel_errors()
def measure(scorer: Scorer, store: FeatureStore, options: EvaluateOptions) -> Measured:
    """Score and judge a split, writing nothing. Raises DataError when it is empty or incomplete, or a score is NaN."""
    gallery = gallery_of(store, options.split)
    completeness = _complete(store, gallery, options)
    _check_rule(scorer, gallery, options)
    scorer.method.to(pick_device(options.device))
    started = time.perf_counter()
    scores: np.ndarray | None = None
    ranks: tuple[Ranks, Ranks] | None
    streams, draws = _streams(gallery, options), None
    if streams:
        judged, ranks = _judge_streamed(scorer, store, gallery, options)
    else:
        judged, draws, ranks, scores = _judge_whole(scorer, store, gallery, options)
    seconds = time.perf_counter() - started
    pairs = len(gallery.captions) * len(gallery.videos) * options.noise_seeds
    result = EvaluateReport(
        subject=replace(describe(scorer, store, gallery, options.split), rule=options.rule),
        gallery=completeness,
        judged=judged,
        draws=draws,
        streamed=True if streams else None,
        cost=Cost(seconds, pairs / seconds, **_sizes(scorer, store, gallery)),
    )
    return Measured(result, ranks, gallery, scores)


def dry_run(scorer: Scorer, store: FeatureStore, workspace: Workspace, options: EvaluateOptions) -> EvaluatePreview:
    """Return what `evaluate` would do, writing nothing. Raises DataError for what it would refuse."""
    gallery = gallery_of(store, options.split)
    completeness = _complete(store, gallery, options)
    _check_rule(scorer, gallery, options)
    run = scorer.run or workspace.run(options.under or scorer.name)
    _require_own(run, options.split)
    return EvaluatePreview(
        subject=replace(describe(scorer, store, gallery, options.split), rule=options.rule),
        gallery=completeness,
        pairs=len(gallery.captions) * len(gallery.clips) * options.noise_seeds,
        streamed=_streams(gallery, options),
        size_bytes=_matrix_bytes(gallery),
        writes=run.results,
    )


def describe(scorer: Scorer, store: FeatureStore, gallery: Gallery, split: str) -> Subject:
    """Return the head of a result: what was scored, with what, chosen how."""
    train = scorer.experiment.train
    return Subject(
        tvr=__version__,
        commit=git_state()["commit"],
        method=scorer.name,
        options=dict(scorer.experiment.options),
        fidelity=scorer.method.fidelity,
        run=scorer.run.name if scorer.run else None,
        seed=train.seed if scorer.run else None,
        tune=train.tune if scorer.run else None,
        selected_on=_selected_on(scorer),
        validation=scorer.run.env().get("validation") if scorer.run else None,
        backbone=store.backbone_name,
        store=store.fingerprint,
        word_importance=store.word_importance,
        checkpoint=scorer.checkpoint,
        data=_data_of(store),
        split=split,
        captions=len(gallery.captions),
        videos=len(gallery.videos),
        identity=ground.identity_of(**_ids(gallery, store)),
        gradients=_gradients(scorer),
    )


def _gradients(scorer: Scorer) -> str | None:
    """Return in words how a run averaged its gradients over devices, None where they were those of the loss."""
    if scorer.run is None or scorer.experiment.train.gradients == "exact":
        return None
    return f"authors, over {scorer.run.env().get('devices', 1)} devices"


def _selected_on(scorer: Scorer) -> str:
    """Return the split on which the weights were chosen, in words where it is none of ours."""
    if scorer.run is None:
        return "nothing (no training)"
    if "imported" in scorer.run.env():
        return "unknown (imported weights)"
    return scorer.experiment.train.select_on


def write_scores(path: Path, scores: np.ndarray, gallery: Gallery, store: FeatureStore, *, scale: float) -> None:
    """Write `scores` [T, V], `video_of_caption` [T] and `scale` as safetensors or npz, the ids as JSON beside them."""
    arrays = {
        "scores": np.ascontiguousarray(scores),
        "video_of_caption": gallery.video_of_caption,
        "scale": np.array([scale], dtype=np.float32),
    }
    if path.suffix == ".npz":
        packed = io.BytesIO()
        np.savez(packed, **arrays)  # type: ignore[arg-type]
        write_bytes(path, packed.getvalue())
    else:
        write_bytes(path, save(arrays))
    write_json(path.with_suffix(".ids.json"), _ids(gallery, store))


def load(
    workspace: Workspace, *, run: str | None, method: str | None, backbone: str | None, assignments: Sequence[str] = ()
) -> tuple[Scorer, FeatureStore]:
    """Find what `evaluate` was asked for: a run, an untrained method, or the newest run of the newest features.

    A run and its own method at a time are the run: so is a method named that is not built in.
    """
    scorers.check_named(workspace, run, method)
    if assignments and (method is None or run is not None):
        raise ConfigError("--set changes a method without training (--method); a run is scored as it was trained")
    found = workspace.find_run(run) if run is not None else None
    store = scorers.store_for(workspace, found, backbone)
    if found is None and method is None:
        found = workspace.newest_run_on(store)
        if found is None:
            untrained = suggest.without_training(store.provides, scorers.DEFAULT_METHOD)
            raise DataError(
                f"no run in {str(workspace.runs_folder)!r} was trained on the features {store.fingerprint}; train one"
                + (
                    f", or evaluate a method without training: "
                    f"{commands.tvr('evaluate', method=untrained, workspace=workspace)}"
                    if untrained
                    else f": {commands.tvr('train', workspace=workspace)}"
                )
            )
    scorer = (
        scorers.trained(found, store, method) if found else scorers.untrained(method or "", store, list(assignments))
    )
    scorers.announce(scorer, store)
    if store.captions and (why := workspace.outdated(store)):
        log.warn_once(
            f"{why} since the features were computed; this judges what was there then. Take up the changes with: "
            + commands.tvr("precompute-features", repair=store.fingerprint, workspace=workspace)
        )
    return scorer, store


# ------------------------------------------------------------------------------------------------------------ private


def _refuse_other_files(scores: Path | None) -> None:
    if scores is not None and scores.suffix not in (".safetensors", ".npz"):
        raise ConfigError(f"--save-scores: expected a file ending in .safetensors or .npz, found {str(scores)!r}")


def _judge_whole(
    scorer: Scorer, store: FeatureStore, gallery: Gallery, options: EvaluateOptions
) -> tuple[Judged, OverDraws | None, tuple[Ranks, Ranks] | None, np.ndarray]:
    """Judge the first draw; of several, the metrics are the mean."""
    bank = _bank(scorer, store, gallery, options) if "qbnorm" in options.judge.post else None
    draws = []
    for draw in range(options.noise_seeds):
        _use_draw(scorer, draw)
        if options.rule is None:
            scores = video_scores(scorer.method, store, gallery, _for_tiles(gallery, options))
        else:
            scores = scores_by_rule(scorer.method, store, gallery, options.rule)
        draws.append(scores.numpy())
    named = _ids(gallery, store)
    ids = Ids(tuple(named["captions"]), tuple(named["videos"]))
    judge = replace(options.judge, scale=options.judge.scale or scorer.method.score_scale())
    judged = [referee.judge(s, gallery.video_of_caption, judge, bank=bank, ids=ids) for s in draws]
    first, ranks = judged[0]
    if len(judged) == 1:
        return first, None, ranks, draws[0]
    mean, deviation = mean_and_deviation([result for result, _ in judged])
    first = replace(first, t2v=mean.t2v, v2t=mean.v2t, rsum=mean.rsum)
    return first, OverDraws(len(judged), deviation), ranks, draws[0]


def _judge_streamed(
    scorer: Scorer, store: FeatureStore, gallery: Gallery, options: EvaluateOptions
) -> tuple[Judged, tuple[Ranks, Ranks]]:
    judge = options.judge
    whole = judge.post or judge.qrels or options.save_scores or options.noise_seeds > 1
    if whole or judge.counting != "fair" or judge.v2t != "max":
        raise ConfigError(
            "the score matrix does not fit the memory budget, and only the fair counting with the v2t protocol max can "
            "be streamed (no --post, --metrics, --qrels, --save-scores, --noise-seeds); raise --memory-budget"
        )
    log.logger.info("the score matrix does not fit the memory budget: ranks are streamed in two passes")
    found = streamed_ranks(scorer.method, store, gallery, options.memory_budget)
    ranks = found.forward, found.backward
    return referee.judge_ranks(*ranks, judge, len(gallery.videos), found.first_places), ranks


def _streams(gallery: Gallery, options: EvaluateOptions) -> bool:
    if options.rule is not None:
        return False
    if options.stream is not None:
        return options.stream
    return _matrix_bytes(gallery) > options.memory_budget


def _matrix_bytes(gallery: Gallery) -> int:
    return _COPIES * 4 * len(gallery.captions) * len(gallery.clips)


def _for_tiles(gallery: Gallery, options: EvaluateOptions) -> int:
    """Return what the matrix leaves of the budget for tiles: at least a quarter, also where `stream` is off."""
    return max(options.memory_budget - _matrix_bytes(gallery), options.memory_budget // 4)


def _use_draw(scorer: Scorer, draw: int) -> None:
    if hasattr(scorer.method, "noise_draw"):
        scorer.method.noise_draw = draw  # type: ignore[assignment]


def _bank(scorer: Scorer, store: FeatureStore, gallery: Gallery, options: EvaluateOptions) -> np.ndarray | None:
    """Score up to _BANK training captions, evenly spread, against the gallery."""
    train = store.split("train")
    if len(train) == 0:
        return None
    chosen = train[torch.linspace(0, len(train) - 1, min(_BANK, len(train))).long()]
    bank = Gallery(chosen, gallery.clips, gallery.file_of_clip, np.zeros(len(chosen), np.int64), gallery.videos)
    return video_scores(scorer.method, store, bank, options.memory_budget).numpy()


def _data_of(store: FeatureStore) -> Corpus:
    """Return name, variant and notes of the corpus, and the sha256 of its annotation files that are as they were."""
    about = store.provenance
    files = [Path(p) for p in about.get("annotations", [about["captions"]] if about.get("captions") else [])]
    hashes = {path.name: sha256_file(path) for path in files if path.is_file() and not store.has_changed(path)}
    name, variant, notes = (about.get(k) or None for k in ("name", "variant", "notes"))
    return Corpus(name=name, variant=variant, notes=tuple(notes) if notes else None, annotations=hashes)


def _check_rule(scorer: Scorer, gallery: Gallery, options: EvaluateOptions) -> None:
    """Raise ConfigError for a rule that the method has not, or that the gallery or another option does not allow."""
    if options.rule is None:
        return
    rules = scorer.method.rules
    if options.rule not in rules:
        known = f"its rules are {', '.join(rules)}" if rules else "it has none but its own"
        raise ConfigError(f"--rule: {scorer.name} has no rule {options.rule!r}; {known}")
    captions, videos, clips = len(gallery.captions), len(gallery.videos), len(gallery.clips)
    if not captions == videos == clips:
        raise ConfigError(
            f"--rule {options.rule} takes each video for its own caption, so it needs one caption and one clip a "
            f"video; found {captions} captions, {clips} clips of {videos} videos"
        )
    if options.judge.post or options.judge.qrels or options.save_scores or options.stream:
        raise ConfigError(
            f"--rule {options.rule} reproduces a published number and nothing else; leave out --post, --qrels, "
            "--save-scores and --stream"
        )


def _complete(store: FeatureStore, gallery: Gallery, options: EvaluateOptions) -> Completeness:
    """Return the gallery's completeness. Raises DataError when videos are missing, unless that was allowed."""
    lost = store.provenance.get("missing", {}).get(options.split, [])
    expected = store.provenance.get("expected", {}).get(options.split) or len(gallery.videos) + len(lost)
    scored = len(gallery.videos)
    if scored < expected and not options.allow_missing:
        named = f" (missing: {', '.join(map(repr, lost[:5]))}{' …' if len(lost) > 5 else ''})" if lost else ""
        raise DataError(
            f"the gallery is incomplete: {scored} of {expected} videos of the split {options.split!r} have "
            f"features{named}. A smaller gallery makes every recall higher; complete it, or say --allow-missing: the "
            "result will carry the count"
        )
    return Completeness(expected=expected, scored=scored, missing=tuple(lost), zero_filled=0)


def _sizes(scorer: Scorer, store: FeatureStore, gallery: Gallery) -> dict[str, int]:
    """Return the trained parameters and the bytes that an index holds for one video."""
    one = scorers.encode_videos(scorer.method, store.video(gallery.clips[:1], patches=scorer.method.reads_patches))
    return {
        "parameters": sum(p.numel() for p in scorer.method.parameters()),
        "index_bytes_per_clip": sum(x.numel() * x.element_size() for x in one.tensors.values()),
    }


def _keep(
    run: RunDir,
    split: str,
    result: EvaluateReport,
    ranks: tuple[Ranks, Ranks] | None,
    gallery: Gallery,
    store: FeatureStore,
) -> None:
    """Write the result. Its files belong together, so one process writes them at a time; old counting has its own."""
    with lock(run.results):
        if result.subject.rule is not None:  # beside no other number, so `compare` never finds it
            write_json(run.results / f"{split}.rule-{result.subject.rule}.json", result.to_json())
            return
        if ranks is None:
            write_json(run.results / f"{split}.{result.judged.metrics}.json", result.to_json())
            return
        write_bytes(run.results / f"{split}.ranks.safetensors", save(referee.rank_tensors(ranks)))
        write_json(run.results / f"{split}.ids.json", _ids(gallery, store))
        write_json(run.results / f"{split}.json", result.to_json())


def _require_own(run: RunDir, split: str) -> None:
    """Raise DataError when a folder that is not a run, or a file that is not a result, stands where one is to be."""
    run.require_own()
    for path in [*run.results.glob(f"{split}.json"), *run.results.glob(f"{split}.*.json")]:
        if path.name == f"{split}.ids.json":
            continue
        found = read_json(path, fix="nothing of it was changed: move it elsewhere")
        if not isinstance(found, dict) or not str(found.get("schema")).startswith("tvr/"):
            raise DataError(f"{str(path)!r} is no result of tvr evaluate; nothing of it was changed: move it elsewhere")


def _ids(gallery: Gallery, store: FeatureStore) -> dict[str, Any]:
    return {"captions": store.captions.ids(gallery.captions), "videos": list(gallery.videos)}
