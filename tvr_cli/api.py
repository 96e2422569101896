"""The verbs of the pipeline for programs: what `tvr extract-frames`, …, `tvr query` call too (docs/api.md).

    out = tvr_cli.open_workspace("out")
    out.extract("videos/")
    out.search("a dog surfing").results[0].hits

Arguments have the names and defaults of the command's flags (`--num-frames` is `num_frames`); where a text such as
"512MB" is short for a value, that text is taken here as well. A verb returns a frozen dataclass beside its engine
function, with `dry_run=True` the one that says what would be done, and writes nothing then. Nothing is printed: what
the commands say on stderr goes to the logger "tvr", progress to the callback. Errors are those of `tvr_cli.errors`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_cli import commands, log
from tvr_cli.api_flags import (
    at_least,
    judge_options,
    kind_of_index,
    no_dry_repair,
    one_of,
    path_of,
    pool_of,
    several,
    shard_of,
    train_flags,
    train_options,
)
from tvr_cli.api_scores import judge_scores, protocol_card
from tvr_cli.api_showing import Showing
from tvr_cli.api_sweeping import Sweeping
from tvr_cli.defaults import FOUND
from tvr_cli.errors import ConfigError
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.config import Resolved
    from tvr_cli.engine.evaluation.evaluate_result import EvaluatePreview, EvaluateReport
    from tvr_cli.engine.extraction.estimate import ExtractEstimate
    from tvr_cli.engine.extraction.extract import ExtractReport
    from tvr_cli.engine.extraction.part_list import PartListReport
    from tvr_cli.engine.features.precompute import PrecomputePreview, PrecomputeReport
    from tvr_cli.engine.searching.asked import Asked
    from tvr_cli.engine.searching.head_training import HeadPreview, HeadReport
    from tvr_cli.engine.searching.hits import SearchOptions
    from tvr_cli.engine.searching.index import IndexReport
    from tvr_cli.engine.searching.question import Question
    from tvr_cli.engine.searching.session import Session
    from tvr_cli.engine.training.train_result import SeedsPreview, SeedsReport, TrainPreview, TrainSummary
    from tvr_cli.results.found import QueryReport

__all__ = ["OpenWorkspace", "judge_scores", "open_workspace", "protocol_card"]

PathLike = str | os.PathLike[str]
_SPLITS = ("train", "val", "test")


def open_workspace(path: PathLike, *, progress: log.Watcher | None = None) -> OpenWorkspace:
    """Return the workspace at `path`, a folder that need not exist yet, with the pipeline's verbs as methods.

    progress: called with what is being done, how much of it is done, and of how much (None where that is not known),
    in the thread that called the verb; an error that it raises ends the verb, as Ctrl-C does. Raises DataError when a
    file stands there.
    """
    return OpenWorkspace(path if isinstance(path, Workspace) else Workspace.at(path), progress)


@dataclass(frozen=True)
class OpenWorkspace(Showing, Sweeping):
    """A workspace and who is told of its progress. Made by `open_workspace`."""

    workspace: Workspace
    progress: log.Watcher | None = None
    _sessions: dict[Any, Session | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def root(self) -> Path:
        """The folder."""
        return self.workspace.root

    def extract(
        self,
        videos: PathLike | Sequence[PathLike] = (),
        *,
        data: str | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        detail: float | None = None,
        max_frames: int | None = None,
        size: int | None = None,
        fit: str | None = None,
        for_backbone: str | None = None,
        quality: int = 90,
        keep_all: bool = False,
        segment: str = "auto",
        include: str | Sequence[str] = (),
        exclude: str | Sequence[str] = (),
        decoder: str = "auto",
        workers: int | None = None,
        timeout: float = 120.0,
        shard: str = "1/1",
        retry_failed: bool = False,
        overwrite: bool = False,
        keep_truncated: bool = True,
        forget: bool = False,
        follow: bool = False,
        tracks: str = "default",
        memory_budget: str | None = None,
        repair: str | None = None,
        plan_parts: int | None = None,
        engine: str = "local",
        address: str | None = None,
        dry_run: bool = False,
        again: str = "",
    ) -> ExtractReport | ExtractEstimate | PartListReport:
        """Read videos and store a few frames of each; videos that fail are in the report and raise nothing.

        videos: folders, files, or manifests; or a list of parts, of which `shard` names one. data:
        `NAME:ROOT[:VARIANT]` instead. for_backbone: the flag `--for`. plan_parts: read nothing, and write the list of
        so many parts. engine: "ray" reads all parts of a list on a cluster (at `address`, else one of this machine).
        again: what people type to go on, for the message of Interrupted. Raises DataError when there are no videos,
        StoreMismatch when the store has another plan, ConfigError, EnvironmentProblem and Interrupted.
        """
        from tvr_cli import plans
        from tvr_cli.engine import dataset
        from tvr_cli.engine.device import parse_bytes
        from tvr_cli.engine.extraction import estimate, extract, part_list

        sources = [Path(p) for p in ([videos] if isinstance(videos, str | os.PathLike) else videos)]
        at_least("--workers", workers, 1)
        at_least("--timeout", timeout, 0.1)
        options = extract.ExtractOptions(
            decoder=decoder,  # type: ignore[arg-type]  # checked by the engine
            segment=segment,
            include=tuple(several(include)),
            exclude=tuple(several(exclude)),
            workers=workers,
            timeout_s=timeout,
            shard=shard_of(shard),
            retry_failed=retry_failed,
            overwrite=overwrite,
            keep_truncated=keep_truncated,
            forget=forget,
            follow=follow,
            tracks=tracks,  # type: ignore[arg-type]  # checked by the engine
            memory_bytes=None if memory_budget is None else parse_bytes(memory_budget),
            command=again,
        )
        if repair is not None:
            if sources or data is not None:
                raise ConfigError("--repair reads the videos that the store names; leave out VIDEOS")
            no_dry_repair(dry_run)
            with self._watched():
                return extract.repair(self.workspace, repair, options)
        if fit is not None:
            one_of("--fit", fit, ("crop", "squash", "whole"))
        if bool(sources) == (data is not None):
            raise ConfigError(
                f"name the videos: {commands.tvr('extract-frames', 'videos/')} (a folder, files, or a manifest.jsonl), "
                "or --data NAME:ROOT"
            )
        manifest, preset = dataset.named(data)[:2] if data is not None else (None, None)
        if plan_parts is not None:
            from tvr_cli.engine.whole import parts

            at_least("--plan-parts", plan_parts, 1)
            with self._watched():
                return parts.plan_parts(manifest or sources, self.workspace, plan_parts, options, dry_run=dry_run)
        pool = pool_of(engine, address, None, dry_run, options.shard)
        if (listed := part_list.find(sources)) is not None and listed.dataset is not None:
            preset = plans.of_dataset(listed.dataset)[0]
        asked = plans.AskedFrames(
            num_frames=num_frames,
            fps=fps,
            detail=detail,
            max_frames=max_frames,
            size=size,
            fit=fit,  # type: ignore[arg-type]
            quality=quality,
            keep_all=keep_all,
        )
        verb = estimate.estimate if dry_run else extract.extract
        with self._watched():
            plan = extract.frame_plan(self.workspace, asked, options, preset=preset, backbone=for_backbone)
            if pool is not None:
                from tvr_cli.engine.whole import parts

                return parts.extract_parts(manifest or sources, self.workspace, plan, options, pool)
            return verb(manifest or sources, self.workspace, plan, options)

    def features(
        self,
        *,
        captions: PathLike | None = None,
        columns: str | None = None,
        data: str | None = None,
        backbone: str | None = None,
        dtype: str = "fp16",
        shape: str = "fixed",
        word_shape: str | None = None,
        max_words: int | None = None,
        temporal_shift: bool = False,
        patches: bool = False,
        word_importance: str = "none",
        precision: str = "fp32",
        batch: int | None = None,
        repair: str | None = None,
        shard: str = "1/1",
        engine: str = "local",
        address: str | None = None,
        device: str = "auto",
        offline: bool = False,
        dry_run: bool = False,
    ) -> PrecomputeReport | PrecomputePreview:
        """Compute features of the frames and of captions about them; only what is new is encoded.

        columns: which columns of the captions file are what, `video=COLUMN,caption=COLUMN`. shard: of the clips, and no
        captions. engine, address: as of `extract`, of the parts that it read.
        Raises DataError for bad captions or without frames, ConfigError, EnvironmentProblem for missing weights.
        """
        one_of("--dtype", dtype, ("fp16", "bf16", "fp32"))
        one_of("--shape", shape, ("fixed", "ragged"))
        one_of("--precision", precision, ("fp32", "bf16", "fp16"))
        if word_shape is not None:
            one_of("--word-shape", word_shape, ("fixed", "ragged"))
        at_least("--max-words", max_words, 1)
        at_least("--batch", batch, 1)
        if captions is not None and data is not None:
            raise ConfigError("give --captions or --data, not both")
        if columns is not None and captions is None:
            raise ConfigError("--columns names columns of a file: give it with --captions FILE")
        if repair is not None:
            no_dry_repair(dry_run)
        part = shard_of(shard)
        if part[1] > 1 and (captions is not None or data is not None or repair is not None):
            raise ConfigError(
                "--shard encodes clips alone: captions are encoded once, where parts are merged, and a repair takes no "
                "part; leave out --captions, --data and --repair"
            )
        from tvr_cli.engine import dataset
        from tvr_cli.engine.features import precompute
        from tvr_cli.engine.features.repair import repair as repair_features

        corpus: Any = path_of(captions)
        if columns is not None and corpus is not None:
            corpus = dataset.captions_file(corpus, columns)
        if data is not None:
            corpus, _, plan = dataset.named(data)
            max_words = max_words or plan.length
        options = precompute.PrecomputeOptions(
            dtype=dtype,  # type: ignore[arg-type]
            shape=shape,  # type: ignore[arg-type]
            words=word_shape,  # type: ignore[arg-type]
            max_words=max_words,
            temporal_shift=temporal_shift,
            patches=patches,
            word_importance=word_importance,
            precision=precision,  # type: ignore[arg-type]
            batch=batch,
            device=device,
            offline=offline,
            shard=part,
        )
        with self._watched():
            if repair is not None:
                return repair_features(self.workspace, repair, options, corpus, named=backbone)
            if (pool := pool_of(engine, address, repair, dry_run, part)) is not None:
                from tvr_cli.engine.whole import parts

                return parts.encode_parts(self.workspace, backbone, corpus, options, pool)
            if dry_run:
                return precompute.dry_run(self.workspace, backbone, corpus, options)
            return precompute.precompute(self.workspace, backbone, corpus, options)

    def train(
        self,
        method: str | None = None,
        *,
        recipe: str | None = None,
        config: PathLike | None = None,
        set: str | Sequence[str] = (),
        run: str | None = None,
        resume: bool = False,
        captions: PathLike | None = None,
        backbone: str | None = None,
        seed: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        tune: str | None = None,
        select_on: str | None = None,
        gradients: str | None = None,
        device: str = "auto",
        threads: int | None = None,
        workers: int | None = None,
        memory_budget: str = "512MB",
        devices: int | None = None,
        offline: bool = False,
        dry_run: bool = False,
    ) -> TrainSummary | TrainPreview:
        """Train a method, or continue a run (resume); the best weights on validation are kept.

        set: changes of the configuration, each `PATH=VALUE`. devices: of this machine, each in a process of its own,
        of which the first tells of its progress; where torchrun started this process it is one of its ranks.
        Raises ConfigError, DataError without captions, StoreMismatch, EnvironmentProblem when such a process ended, and
        Interrupted when Ctrl-C stopped it.
        """
        from tvr_cli.engine.training import train

        options = train_options(run, resume, captions, device, offline, threads, workers, memory_budget, devices)
        flags = train_flags(seed, epochs, batch_size, tune, select_on, gradients, backbone)
        with self._watched():
            resolved, options = train.experiment_of(
                self.workspace, options, method=method, recipe=recipe, config_file=path_of(config),
                assignments=several(set), flags=flags,
            )  # fmt: skip
            return (train.dry_run if dry_run else train.train)(resolved, self.workspace, options)

    @property
    def speaks(self) -> bool:
        """Whether results of this process are to be shown: not where torchrun started it as another rank than 0."""
        from tvr_cli.engine.training import presence

        place = presence.this_environment()
        return place is None or place.rank == 0

    def train_moments(
        self,
        *,
        run: str | None = None,
        captions: PathLike | None = None,
        backbone: str | None = None,
        seed: int = 0,
        device: str = "auto",
        offline: bool = False,
        dry_run: bool = False,
    ) -> HeadReport | HeadPreview:
        """Train a moment head on captions with times (`tvr train --moments`); searches use it where it fits.

        run: its name, None = the first free one of `moments`, `moments-2`, … Raises ConfigError where it is there,
        DataError without such captions or without frames by time.
        """
        from tvr_cli.engine.searching import head_training

        options = head_training.HeadOptions(run, path_of(captions), backbone, seed, device, offline)
        with self._watched():
            verb = head_training.dry_run if dry_run else head_training.train
            return verb(self.workspace, options)

    def train_seeds(
        self,
        seeds: str | Sequence[int],
        method: str | None = None,
        *,
        recipe: str | None = None,
        config: PathLike | None = None,
        set: str | Sequence[str] = (),
        run: str | None = None,
        captions: PathLike | None = None,
        backbone: str | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        tune: str | None = None,
        select_on: str | None = None,
        gradients: str | None = None,
        device: str = "auto",
        threads: int | None = None,
        workers: int | None = None,
        memory_budget: str = "512MB",
        devices: int | None = None,
        offline: bool = False,
        dry_run: bool = False,
    ) -> SeedsReport | SeedsPreview:
        """Train a run of each seed and evaluate it on test (`tvr train --seeds`); finished seeds are kept.

        seeds: numbers, or "0,1,2". run: what the runs' names begin with. Otherwise as `train`.
        """
        from tvr_cli.engine.training import train, train_seeds
        from tvr_cli.engine.training.seeds import check_seeds

        options = train_options(run, False, captions, device, offline, threads, workers, memory_budget, devices)

        def resolve(seed: int) -> Resolved:
            return train.experiment_of(
                self.workspace, options, method=method, recipe=recipe, config_file=path_of(config),
                assignments=several(set),
                flags=train_flags(seed, epochs, batch_size, tune, select_on, gradients, backbone),
            )[0]  # fmt: skip

        if options.place is not None:
            raise ConfigError("--seeds also evaluates, which one process does; use --devices in place of torchrun")
        words = seeds.split(",") if isinstance(seeds, str) else map(str, seeds)
        wanted = check_seeds([word.strip() for word in words if word.strip()])
        with self._watched():
            verb = train_seeds.dry_run if dry_run else train_seeds.train_seeds
            return verb(resolve, wanted, self.workspace, options)

    def evaluate(
        self,
        run: str | None = None,
        *,
        method: str | None = None,
        split: str = "test",
        v2t_protocol: str = "max",
        metrics: str = "fair",
        post: str | Sequence[str] = (),
        scale: str | None = None,
        qrels: PathLike | None = None,
        allow_missing: bool = False,
        noise_seeds: int = 1,
        rule: str | None = None,
        seed: int = 0,
        save_scores: PathLike | None = None,
        backbone: str | None = None,
        device: str = "auto",
        memory_budget: str = "512MB",
        stream: bool | None = None,
        set: str | Sequence[str] = (),
        dry_run: bool = False,
    ) -> EvaluateReport | EvaluatePreview:
        """Score every caption against every video of a split and keep the result in the run's folder.

        run: its name or path, None = the newest. method: one that needs no training instead. rule: score as its
        authors' released test does, to reproduce their number and nothing else. Raises DataError when the split is
        empty or its gallery incomplete, ConfigError and StoreMismatch.
        """
        one_of("--split", split, _SPLITS)
        at_least("--noise-seeds", noise_seeds, 1)
        judge = judge_options(v2t_protocol, metrics, post, seed, scale, qrels)
        from tvr_cli.engine.device import parse_bytes
        from tvr_cli.engine.evaluation import evaluate

        options = evaluate.EvaluateOptions(
            split=split,
            memory_budget=parse_bytes(memory_budget),
            device=device,
            noise_seeds=noise_seeds,
            save_scores=path_of(save_scores),
            allow_missing=allow_missing,
            stream=stream,
            rule=rule,
            judge=judge,
        )
        with self._watched():
            scorer, store = evaluate.load(
                self.workspace, run=run, method=method, backbone=backbone, assignments=several(set)
            )
            return (evaluate.dry_run if dry_run else evaluate.evaluate)(scorer, store, self.workspace, options)

    def index(
        self,
        *,
        run: str | None = None,
        method: str | None = None,
        backbone: str | None = None,
        first: str | None = None,
        then: str | None = None,
        bank: PathLike | None = None,
        store: str | None = None,
        coarse_memory: str | None = None,
        device: str = "auto",
        overwrite: bool = False,
        dry_run: bool = False,
    ) -> IndexReport:
        """Encode every clip once, so that a search only combines; an index that is up to date is kept.

        first, then: two backbones; the clip vectors of the first find the candidates, and the method ranks them on the
        features of the second. bank: a file of sentences about nothing in the library, in place of those that ship
        with tvr. store: "file", "lance" or "lance:URI", None = as the one that stands. coarse_memory: with lance, bytes
        above which clips are found by cells. Raises DataError when something else than an index stands in its place,
        StoreMismatch without features, ConfigError for one of two backbones alone.
        """
        from tvr_cli.engine.searching import index

        if (first is None) != (then is None) or (then is not None and backbone not in (None, then)):
            raise ConfigError(
                "--first and --then go together, and without --backbone: the clip vectors of the first backbone find "
                "the candidates, a method on the features of the second ranks them"
            )
        asked = index.Asked(run, method, then or backbone, first)
        with self._watched():
            return index.index(
                self.workspace, asked, null=path_of(bank), kind=kind_of_index(store, coarse_memory), device=device,
                overwrite=overwrite, dry_run=dry_run,
            )  # fmt: skip

    def search(
        self,
        sentences: str | Sequence[str] = (),
        *,
        k: int = 10,
        per_file: int = 3,
        run: str | None = None,
        method: str | None = None,
        backbone: str | None = None,
        first: str | None = None,
        shortlist: int | None = None,
        exhaustive: bool = False,
        min_score: float | None = None,
        min_confidence: float | None = FOUND,
        channel: str | None = None,
        no_head: bool = False,
        curves: bool = False,
        image: PathLike | Sequence[PathLike] = (),
        like: str | Sequence[str] = (),
        plus: str | Sequence[str] = (),
        minus: str | Sequence[str] = (),
        inside: str | Sequence[str] = (),
        newer: str | None = None,
        older: str | None = None,
        longer: float | None = None,
        shorter: float | None = None,
        not_in: PathLike | None = None,
        device: str = "auto",
        offline: bool = False,
    ) -> QueryReport:
        """Find the moments that match each sentence; what is missing is made on the way.

        image, like, plus, minus: pictures, moments of the library (`PATH@START-END`) and sentences (or `image:FILE`,
        `like:PATH@START-END`) that are added to each sentence, or taken off it, `2:` before one for its weight; without
        a sentence they are asked alone. inside, newer, older, longer, shorter, not_in: which files are searched; the
        first is the flag `--in`, for Python reserves the word.
        k: moments an answer. per_file: of one file at most, 0 = all.
        run: whose scores rank; a moment head ranks moments by time, whatever the method. no_head: leave out the one
        that fits. min_confidence: what has less is no hit, but one of the nearest; None = every moment is a hit.
        channel: "picture", "speech" (subtitles beside videos and text streams inside) or "both", fused by rank; None =
        both where the words of the workspace have been read before, else the picture. curves: whether a hit has the
        curve of its file, which a page shows.
        The index and the backbone stay open for the next search that names the same; what changed since is noticed.
        Raises ConfigError for nothing to look for, an empty sentence or a least score of what is said, DataError
        without frames, for what is no picture and where no file is left to search, StoreMismatch when another run or
        backbone is named than the index was made with.
        """
        if min_score is not None and math.isnan(min_score):
            raise ConfigError("--min-score: expected a number such as 0.2, found nan: no score is above or below it")
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            raise ConfigError(
                f"--min-confidence: expected a number from 0 to 1, found {min_confidence}; every answer carries its own"
            )
        at_least("-k", k, 1)
        at_least("--per-file", per_file, 0)
        at_least("--shortlist", shortlist, 1)
        from tvr_cli.engine.searching import filters, query, typed
        from tvr_cli.engine.searching.asked import Asked
        from tvr_cli.engine.searching.heads import split
        from tvr_cli.engine.searching.hits import SearchOptions

        texts, pictures = several(sentences), [image] if isinstance(image, str | os.PathLike) else image
        wanted = typed.questions(texts, images=pictures, likes=several(like), plus=several(plus), minus=several(minus))
        asked = filters.Filters(tuple(several(inside)), newer, older, longer, shorter, path_of(not_in))
        run, head = split(self.workspace, run, use=not no_head)
        flags = Asked(run, method, backbone, first)
        found = query.channel_of(self.workspace, channel, wanted, min_score)
        with self._watched():
            only = filters.chosen(self.workspace, asked)
            options = SearchOptions(
                k,
                shortlist,
                exhaustive,
                min_score,
                per_file,
                min_confidence=min_confidence,
                only=only,
                curves=curves,
                head=head,
            )
            if found == "picture":
                return self._by_picture(wanted, flags, options, device, offline)
            from tvr_cli.engine.searching import channels

            def picture(some: SearchOptions) -> QueryReport:
                return self._by_picture(wanted, flags, some, device, offline)

            of_picture = picture if found == "both" else None
            return channels.answer(self.workspace, texts, options, of_picture, named=channel is not None)

    def ask(self, sentences: str | Sequence[str] = (), **asked: Any) -> QueryReport:
        """Answer as `search` does, by the server of the workspace where one runs (`tvr serve`), which has all open."""
        found: QueryReport = self.ask_for("search", sentences=several(sentences), **asked)
        return found

    def _by_picture(
        self, wanted: Sequence[Question], flags: Asked, options: SearchOptions, device: str, offline: bool
    ) -> QueryReport:
        from tvr_cli.engine.searching import query

        named = (flags, device, offline)
        if not self._sessions:  # who asks once has an answer before torch would be imported; who goes on, a session
            self._sessions[named] = None
            if (found := query.ask_lightly(self.workspace, flags, wanted, options, device=device)) is not None:
                return found
        return query.ask(self._session(flags, device, offline), wanted, options)
