"""`tvr mteb`: a run, or a method without training, on tasks of MTEB, through its SearchProtocol.

The one file that imports the extra `mteb`, and only when it is asked for: it brings sentence-transformers along. MTEB
ranks and counts; tvr decodes (its own sampler on the bytes that a task has, no torchcodec), encodes and scores. Beside
MTEB's numbers stand tvr's of the same matrix, which differ where right answers are tied.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli import log, relevance
from tvr_cli.engine.evaluation import evaluate
from tvr_cli.engine.features import precompute
from tvr_cli.engine.scorers import Scorer
from tvr_cli.engine.whole.mteb_corpus import Encoder, GivenVideo, Videos
from tvr_cli.engine.whole.mteb_result import Direction, MtebPreview, MtebReport, MtebScores, MtebTask
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import TextFeatures
from tvr_cli.workspace import Workspace

# MTEB's name of a metric -> tvr's of the same.
COMPARED = {"ndcg_at_10": "nDCG@10", "recall_at_1": "recall@1", "recall_at_5": "recall@5", "recall_at_10": "recall@10"}
_DIRECTIONS: tuple[Direction, ...] = ("t2v", "v2t")
_WANTED = "tvr ranks videos for a sentence and sentences for a video: take a task of that kind, such as MSRVTTT2V"


@dataclass(frozen=True)
class MtebOptions:
    """device, workers (readers of videos), offline: as everywhere."""

    device: str = "auto"
    workers: int | None = None
    offline: bool = False


class SearchModel:
    """What MTEB's SearchProtocol asks for. It has neither `encode` nor `predict`: MTEB goes by names, and would take it
    for a model of one vector, or for one that ranks again what others found.
    """

    def __init__(self, encoder: Encoder, meta: Any, workspace: Workspace):
        self._encoder, self._meta, self._workspace = encoder, meta, workspace
        self._corpus: tuple[list[str], Videos | TextFeatures] | None = None
        self.matrices: dict[tuple[str, str, str], Matrix] = {}

    @property
    def mteb_model_meta(self) -> Any:
        return self._meta

    def index(
        self, corpus: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, encode_kwargs: Any, num_proc: Any
    ) -> None:
        """Encode the documents of a task."""
        self._corpus = _ids(corpus), self._encoded(corpus, task_metadata, hf_split, hf_subset)

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Any,
        top_ranked: Any = None,
        num_proc: Any,
    ) -> dict[str, dict[str, float]]:
        """Return the best documents of each query; a query in a task's prompt is the bare sentence here."""
        assert self._corpus is not None, "MTEB indexes before it searches"
        documents, corpus = self._corpus
        asked = self._encoded(queries, task_metadata, hf_split, hf_subset)
        if isinstance(corpus, Videos):
            assert isinstance(asked, TextFeatures), "a task of two modalities was checked for"
            scores, unread = self._encoder.scores(asked, corpus), corpus.unread
        else:
            assert isinstance(asked, Videos), "a task of two modalities was checked for"
            scores, unread = self._encoder.scores(corpus, asked).T, asked.unread
        matrix = Matrix(_ids(queries), documents, scores, unread)
        self.matrices[task_metadata.name, hf_split, hf_subset] = matrix
        return matrix.best(top_k)

    def _encoded(self, rows: Any, task_metadata: Any, split: str, subset: str) -> Videos | TextFeatures:
        if "video" not in rows.column_names:
            return self._encoder.captions(list(rows["text"]))
        about = task_metadata.dataset
        parts = (about["path"], about["revision"][:12], split, subset)
        name = re.sub(r"[^A-Za-z0-9._+]+", "-", "-".join(parts)).strip("-.")
        return self._encoder.videos(_videos(rows), self._workspace.mteb_corpus(name))


@dataclass(frozen=True)
class Matrix:
    """Scores [Q, D] of a task's queries and documents, by their ids."""

    queries: list[str]
    documents: list[str]
    scores: np.ndarray
    unread: int

    def best(self, count: int) -> dict[str, dict[str, float]]:
        """Return the best documents of each query, as many as MTEB counts; one that could not be read is in none."""
        out = {}
        for query, row in zip(self.queries, self.scores, strict=True):
            chosen = np.argsort(-row, kind="stable")[:count]
            out[query] = {self.documents[i]: float(row[i]) for i in chosen.tolist() if np.isfinite(row[i])}
        return out

    def judged(self, right: Mapping[str, Mapping[str, int]]) -> tuple[dict[str, float], int]:
        """Return tvr's numbers of these scores, by MTEB's names, and how many queries have a right answer in a tie.

        right: query -> document -> grade, as a task has them. A document that is not in the corpus counts as MTEB
        counts it: as an answer that was not found.
        """
        known = dict.fromkeys(self.documents)
        lost = dict.fromkeys(d for query in self.queries for d in right.get(query, {}) if d not in known)
        if lost:
            log.logger.warning(
                "warning: the right answers name %d documents that are not in the corpus (first: %r); they count as "
                "not found, in MTEB's numbers as in tvr's", len(lost), next(iter(lost)),
            )  # fmt: skip
        column = {name: i for i, name in enumerate([*self.documents, *lost])}
        grades = np.zeros((len(self.queries), len(column)))
        scores = np.full(grades.shape, -np.inf)
        scores[:, : len(self.documents)] = self.scores
        for number, query in enumerate(self.queries):
            for document, grade in right.get(query, {}).items():
                grades[number, column[document]] = grade
        found, _ = relevance.judged(scores, grades)
        tied = sum(
            bool(np.isin(row[g <= 0], row[(g > 0) & np.isfinite(row)]).any())
            for row, g in zip(scores, grades, strict=True)
        )
        return {theirs: found[ours] / 100 for theirs, ours in COMPARED.items() if ours in found}, tied


def run_tasks(
    workspace: Workspace,
    tasks: Sequence[str],
    *,
    run: str | None = None,
    method: str | None = None,
    options: MtebOptions | None = None,
    dry_run: bool = False,
) -> MtebReport | MtebPreview:
    """Run tasks and write MTEB's own folder of results, or (dry_run) say what that would be.

    tasks: MTEB's names, or a dotted name of a class of one's own. Raises EnvironmentProblem without the extra,
    ConfigError for an unknown task and one that is not of text and video, and as `evaluate.load` does.
    """
    mteb, options, started = _library(), options or MtebOptions(), time.monotonic()
    found = [_task(mteb, name) for name in tasks]
    scorer, store = evaluate.load(workspace, run=run, method=method, backbone=None)
    meta = _meta(mteb, scorer, store)
    trained_on = None if meta.training_datasets is None else sorted(meta.training_datasets)
    folder, about = workspace.mteb_folder, {"model": meta.name, "revision": meta.revision, "trained_on": trained_on}
    if dry_run:
        return MtebPreview(folder=folder, tasks=[_said(task) for task in found], **about)
    backbone = precompute.backbone_of(store, offline=options.offline, device=options.device)
    encoder = Encoder(scorer, store, backbone, options.device, options.workers, options.offline)
    model, cache = SearchModel(encoder, meta, workspace), mteb.ResultCache(folder)
    scores = [one for task in found for one in _done(mteb, model, task, cache)]
    return MtebReport(folder=folder, scores=scores, seconds=time.monotonic() - started, **about)


# ------------------------------------------------------------------------------------------------------------ private


def _library() -> Any:
    try:
        return importlib.import_module("mteb")
    except ImportError as e:
        raise EnvironmentProblem("tvr mteb needs MTEB; install the extra: pip install 'tvr-cli[mteb]'") from e


def _task(mteb: Any, name: str) -> Any:
    """Return a task by name. Raises ConfigError for one that tvr cannot take, before anything is loaded."""
    try:
        if "." in name:
            module, _, cls = name.rpartition(".")
            task = getattr(importlib.import_module(module), cls)()
        else:
            task = mteb.get_task(name)
    except (KeyError, ImportError, AttributeError) as e:
        told = str(e.args[0]) if e.args else name
        told = told.removeprefix("KeyError: ").strip('"')
        raise ConfigError(f"--tasks: expected tasks of MTEB or a dotted class of one; {told}") from e
    about = task.metadata
    if about.category not in _DIRECTIONS or set(about.modalities) != {"text", "video"}:
        raise ConfigError(f"--tasks: {name} is {about.category} ({', '.join(about.modalities)}); {_WANTED}")
    if about.type != "Any2AnyRetrieval":
        raise ConfigError(f"--tasks: {name} is of the type {about.type}, which is no search; {_WANTED}")
    return task


def _said(task: Any) -> MtebTask:
    about = task.metadata
    where = about.dataset
    return MtebTask(
        task=about.name,
        direction=about.category,
        dataset=where["path"],
        revision=where["revision"],
        splits=tuple(about.eval_splits),
    )


def _done(mteb: Any, model: SearchModel, task: Any, cache: Any) -> Iterator[MtebScores]:
    """Let MTEB run a task, and yield what it and tvr count of each split and subset."""
    task.load_data()  # MTEB then leaves it loaded, and its right answers are at hand
    result = mteb.evaluate(
        model, task, cache=cache, overwrite_strategy="always", encode_kwargs={"batch_size": 32}, co2_tracker=False,
        show_progress_bar=False,
    ).task_results[0]  # fmt: skip
    name = task.metadata.name
    file = cache.get_task_result_path(name, model.mteb_model_meta.name, model.mteb_model_meta.revision)
    for split, rows in result.scores.items():
        for row in rows:
            subset = row["hf_subset"]
            matrix = model.matrices.pop((name, split, subset))
            tvr, tied = matrix.judged(task.dataset[subset][split]["relevant_docs"])
            yield MtebScores(
                task=name,
                split=split,
                subset=subset,
                queries=len(matrix.queries),
                documents=len(matrix.documents),
                unread=matrix.unread,
                tied=tied,
                mteb={metric: float(row[metric]) for metric in tvr},
                tvr=tvr,
                file=Path(file),
            )
    task.unload_data()


def _meta(mteb: Any, scorer: Scorer, store: FeatureStore) -> Any:
    """Return what MTEB is told about a model. training_datasets: of the run; None where that is not known.

    What the backbone has seen is not known to tvr, so a method without training does not claim to have seen nothing.
    """
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    name = scorer.run.name if scorer.run else scorer.name
    trained = _trained_on(mteb, scorer, store)
    return ModelMeta(
        loader=None,
        name=f"tvr/{name}",
        revision=(scorer.checkpoint or store.fingerprint)[:16],
        release_date=None,
        languages=["eng-Latn"],
        n_parameters=sum(p.numel() for p in scorer.method.parameters()),
        memory_usage_mb=None,
        max_tokens=store.word_plan.length,
        embed_dim=store.sizes.dim,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.CUSTOM,
        use_instructions=False,
        training_datasets=trained,
        adapted_from=store.backbone_name,
        modalities=["text", "video"],
        model_type=["late-interaction"],
    )


def _trained_on(mteb: Any, scorer: Scorer, store: FeatureStore) -> set[str] | None:
    """Return MTEB's tasks on the data set that a run was trained on, {} where MTEB has none of it."""
    name = store.provenance.get("name")
    if scorer.run is None or not name:
        return None
    tasks = mteb.get_tasks(modalities=["video"], exclude_beta=False, exclude_superseded=False)
    return {task.metadata.name for task in tasks if task.metadata.name.lower().startswith(str(name).lower())}


def _ids(rows: Any) -> list[str]:
    return [str(value) for value in rows["id"]]


def _videos(rows: Any) -> Iterator[GivenVideo]:
    """Yield the videos of a data set's column undecoded, whatever it would decode them to."""
    from datasets import Video

    if isinstance(rows.features["video"], Video):
        rows = rows.cast_column("video", Video(decode=False))
    for value in rows["video"]:
        if isinstance(value, str):
            value = {"path": value}
        if not isinstance(value, Mapping) or not (value.get("bytes") or value.get("path")):
            raise DataError(f"expected a video with bytes or a path in the task's data, found {str(value)[:60]!r}")
        path = value.get("path")
        yield GivenVideo(value.get("bytes"), Path(path) if path else None)
