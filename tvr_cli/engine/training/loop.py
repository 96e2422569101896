"""The training loop: one step is a pure function of (global batch, parameters, draws), the rest is bookkeeping.

A run can be killed at any moment: it goes on from its last checkpoint to the same numbers, because the order of samples
and all random draws depend on (seed, step) alone and everything else that matters is in the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tvr_cli import log
from tvr_cli.config import TrainConfig
from tvr_cli.engine.training import checkpoint, gradcache, guards
from tvr_cli.engine.training import optimisers as optim
from tvr_cli.engine.training.checkpoint import Best, Checkpoint
from tvr_cli.engine.training.draws import SeededDraws
from tvr_cli.engine.training.journal import Journal
from tvr_cli.engine.training.learner import Learner
from tvr_cli.engine.training.ranks import ALONE, Ranks
from tvr_cli.engine.training.sampling import PairSampler
from tvr_cli.engine.training.shares import Share
from tvr_cli.engine.training.sources import Features, FeatureSource, Inputs
from tvr_cli.errors import Interrupted
from tvr_cli.runs import RunDir
from tvr_cli.types import Batch, LossOutput

# Pairs of a batch from which on a rank scores its own captions only. Below, there is little to save, and where every
# rank scores all captions, the loss rounds as that of one process does.
ROWS_FROM = 32
_SHOWN_PARTS = 4  # parts of the loss in the live line; metrics.jsonl has all
_FIRST = 5  # steps at the beginning, and
_LOOK_AFTER = 20  # steps after the warm-up whose mean losses are compared with guessing


@dataclass(frozen=True)
class Names:
    """Ids for messages, and for every clip the number of its video. captions: by row. clips: by row."""

    captions: Callable[[int], str]
    clips: Callable[[int], str]
    video_of_clip: Tensor  # [clips] int64


@dataclass(frozen=True)
class Outcome:
    """How a run ended. steps: done in all, earlier sessions included. stopped: why. peak: of the process or the GPU."""

    steps: int
    best: Best | None
    seconds: float
    samples_per_s: float
    stopped: str  # "finished" or "early"
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class StepReport:
    """What one step showed, as plain numbers. rates: learning rate of each group."""

    loss: float
    parts: dict[str, float]
    grad_norm: float
    logit_scale: float | None
    rates: dict[str, float]


class Loop:
    """Trains `learner` on `source`; `validate` returns metrics as `metrics.evaluate` does, or is None.

    ranks: the processes that do so together; the source has to give this one's rows (`Ranks.own`).
    """

    def __init__(
        self,
        learner: Learner,
        source: FeatureSource,
        sampler: PairSampler,
        names: Names,
        train: TrainConfig,
        run: RunDir,
        *,
        device: torch.device,
        validate: Callable[[], dict[str, Any]] | None = None,
        about: Mapping[str, Any] | None = None,
        watch: Callable[[Mapping[str, Any]], None] | None = None,
        ranks: Ranks = ALONE,
    ):
        self.learner, self.source, self.sampler, self.names = learner, source, sampler, names
        self.settings, self.run_dir, self.device = train, run, device
        self.validate, self.about, self.watch = validate, dict(about or {}), watch
        self.ranks = ranks
        self.total = train.steps or train.epochs * sampler.steps
        self.schedule_total = (train.schedule_epochs or 0) * sampler.steps or self.total
        self.groups = optim.group_parameters(learner.named(), train, learner.dead())
        for _, p in (*self.groups.frozen, *self.groups.dead):
            p.requires_grad_(False)
        self.optimizer = optim.build(self.groups, train, self.schedule_total)
        self.step, self.waited = 0, 0
        self.best: Best | None = None
        self._parameters = [p for _, p in self.groups.named()]
        self._journal = Journal(run.metrics_path)
        self._first: list[dict[str, float]] = []
        self._after_warm_up: list[dict[str, float]] = []

    def resume(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint of this run."""
        checkpoint.restore(saved, self.learner.method, self.optimizer, self.groups.named(), self.learner.clip)
        self.step, self.best, self.waited = saved.step, saved.best, saved.about["waited"]

    def run(self) -> Outcome:
        """Train to the last step. Raises Interrupted after saving when the user stops it, DataError for a NaN."""
        started, first = time.monotonic(), self.step
        if self.ranks.first:
            self._journal.cut(self.step)
            checkpoint.require_space(
                self.run_dir.checkpoints, self.learner.modules_with_weights(), keep=self.settings.keep_checkpoints
            )
        stopped = "early" if self._impatient() else "finished"
        with _stop_signals() as stop, log.progress("training", total=self.total - first, unit="steps") as bar:
            clock = time.monotonic()
            for inputs in self.source.stream(self._steps(first)):
                report = self.train_step(inputs)
                self.step += 1
                now = time.monotonic()
                self._note_step(report, len(inputs) / max(now - clock, 1e-9))
                bar.advance(note=self._status(report, len(inputs) * (self.step - first) / (now - started)))
                if self._due():
                    impatient = self._validate(report)
                    self._save()
                    if impatient:
                        stopped = "early"
                        break
                elif self.settings.checkpoint_every and self.step % self.settings.checkpoint_every == 0:
                    self._save()
                clock = time.monotonic()
                if self.ranks.any(stop.is_set()) and self.step < self.total:
                    self._save()
                    raise Interrupted(f"stopped after step {self.step} of {self.total}; the state is saved")
        seconds = time.monotonic() - started
        samples = (self.step - first) * min(self.sampler.batch_size, len(self.sampler))
        return Outcome(
            self.step, self.best, seconds, samples / max(seconds, 1e-9), stopped, peak_memory_bytes(self.device)
        )

    def train_step(self, inputs: Inputs) -> StepReport:
        """Do one step: loss, gradients, guards, update, clamp of the logit scale."""
        train = self.settings
        self.learner.train()
        self.optimizer.zero_grad(set_to_none=True)
        output = self._backward(inputs)
        encoders, heads = self.learner.encoders(), list(self.learner.method.parameters())
        if self.by_rows(self._batch_size(inputs)):
            self.ranks.sum_gradients([*encoders, *heads], [])
        else:
            self.ranks.sum_gradients(encoders, heads)
        if train.gradients == "authors":
            for p in self.learner.before_gather():
                if p.grad is not None:
                    p.grad /= self.ranks.world
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, train.grad_clip or math.inf)
        loss, grad_norm = output.total.item(), norm.item()
        parts = {name: value.item() for name, value in output.parts.items()}
        guards.require_finite(
            self.run_dir.path,
            step=inputs.step + 1,
            loss=loss,
            parts=parts,
            grad_norm=grad_norm,
            captions=[self.names.captions(i) for i in inputs.pairs[:, 0].tolist()],
            clips=[self.names.clips(i) for i in inputs.pairs[:, 1].tolist()],
            keep=self.ranks.first,
        )
        factor = optim.multiplier(train.schedule, inputs.step, self.schedule_total, train.warmup)
        optim.set_rates(self.optimizer, self.groups, factor)
        self.optimizer.step()
        scale = self.learner.clamp_scale(train.max_logit_scale)
        return StepReport(loss, parts, grad_norm, scale, {g.side: g.lr * factor for g in self.groups.trained})

    def by_rows(self, size: int) -> bool:
        """Whether each rank scores its own captions only, in a batch of `size` pairs; else all ranks score all."""
        return self.ranks.world > 1 and size >= ROWS_FROM and self.learner.method.splits_loss

    def _batch_size(self, inputs: Inputs) -> int:
        """Return how many pairs of a step are contrasted with each other; a short epoch has a batch of its own."""
        return self.settings.batch_size if len(inputs) >= 2 * self.settings.batch_size else len(inputs)

    def _backward(self, inputs: Inputs) -> LossOutput:
        """Add the gradients of the mean loss over the step's batches; return that loss, detached."""
        size = self._batch_size(inputs)
        n = len(inputs) // size
        outputs = [self._backward_batch(inputs, i, n, size) for i in range(n)]
        parts = {name: sum((o.parts[name] for o in outputs), torch.zeros(())) / n for name in outputs[0].parts}
        return LossOutput(sum((o.total for o in outputs), torch.zeros(())) / n, parts)

    def _backward_batch(self, inputs: Inputs, i: int, n: int, size: int) -> LossOutput:
        """Add 1/n of the gradients of the loss on batch `i` of a step's `n`."""
        rows = slice(i * size, (i + 1) * size)
        share, counts = self.ranks.share(size), self.ranks.counts(size)
        own = share.stop - share.start
        draws = SeededDraws(self.settings.seed, inputs.step * self.settings.accumulate + i, self.device)
        video_id = None
        if self.settings.negatives == "other-videos":
            video_id = self.names.video_of_clip[torch.from_numpy(inputs.pairs[rows, 1])].to(self.device)

        def loss(features: Features) -> LossOutput:
            found = self.learner.method.loss(Batch(*features, video_id), step=inputs.step, draws=draws)
            return found if n == 1 else LossOutput(found.total / n, found.parts)

        part = Share(self.ranks, counts)

        def term(features: Features) -> LossOutput:
            batch = Batch(*features, None if video_id is None else part.own(video_id))
            found = part.tied(self.learner.method.loss_rows(batch, part, step=inputs.step, draws=draws))
            return LossOutput(found.total / n, found.parts)

        def encode(block: slice) -> Features:
            first = i * max(own, 1)  # of the rows of this batch among those that the source has
            return self.source.encode(inputs, slice(first + block.start, first + block.stop))

        def gather(features: Features) -> Features:
            text, video = features
            return self.ranks.gather(text, counts), self.ranks.gather(video, counts)

        chunk = self.settings.grad_cache or max(own, 1)
        if self.by_rows(size):
            output = part.together(gradcache.backward(encode, term, own, chunk))
        elif self.settings.grad_cache or self.ranks.world > 1:
            output = gradcache.backward(encode, loss, own, chunk, gather=gather, first=share.start)
        else:
            output = loss(encode(slice(0, size)))
            output.total.backward()
        parts = {name: value.detach().cpu() for name, value in output.parts.items()}
        return LossOutput(output.total.detach().cpu() * n, parts)

    def _steps(self, first: int) -> Iterator[tuple[int, Any]]:
        step = first
        while step < self.total and not self._impatient():
            epoch, within = divmod(step, self.sampler.steps)
            for pairs in self.sampler.batches(epoch)[within:][: self.total - step]:
                yield step, pairs
                step += 1

    def _due(self) -> bool:
        every = self.settings.validate_every or self.sampler.steps
        return self.step % every == 0 or self.step == self.total

    def _validate(self, report: StepReport) -> bool:
        """Measure, keep the best (the last, if nothing is measured), return whether patience is at its end."""
        if self.validate is None:
            if self.step == self.total:
                self._save_best(Best(self.step, (0.0, 0.0)))
            return False
        self.learner.eval()
        result = self.validate()
        key = (result["t2v"]["R@1"], result["rsum"])
        better = self.best is None or key > self.best.key
        if better:
            self.best = Best(self.step, key, {k: result[k] for k in ("t2v", "v2t", "rsum")})
            self._save_best(self.best)
        self.waited = 0 if better else self.waited + 1
        self._record({"event": "validation", **{k: result[k] for k in ("t2v", "v2t", "rsum")}, "best": better})
        log.logger.info(
            "epoch %s, step %d of %d: loss %.3f, validation R@1 %.1f, rsum %.1f%s",
            f"{self.step / self.sampler.steps:.3g}", self.step, self.total, report.loss, *key,
            " (best so far)" if better else "",
        )  # fmt: skip
        return self._impatient()

    def _impatient(self) -> bool:
        return self.settings.patience is not None and self.waited >= self.settings.patience

    def _save(self) -> None:
        if not self.ranks.first:
            return
        self._journal.flush()
        checkpoint.write(
            self.run_dir.checkpoints,
            step=self.step,
            model=self.learner.method,
            backbone=self.learner.clip,
            optimizer=self.optimizer,
            named=self.groups.named(),
            about={**self.about, "waited": self.waited},
            best=self.best,
            keep=self.settings.keep_checkpoints,
        )

    def _save_best(self, best: Best) -> None:
        if not self.ranks.first:
            return
        checkpoint.write_best(
            self.run_dir.checkpoints,
            model=self.learner.method,
            backbone=self.learner.clip,
            about=self.about,
            best=best,
        )

    def _note_step(self, report: StepReport, rate: float) -> None:
        self._record(
            {
                "event": "step", "loss": report.loss, "parts": report.parts, "grad_norm": report.grad_norm,
                "logit_scale": report.logit_scale, "lr": report.rates, "samples_per_s": rate,
            }
        )  # fmt: skip
        if self.step <= _FIRST:
            self._first.append(report.parts)
        warm = math.ceil(self.settings.warmup * self.schedule_total)
        if warm < self.step <= warm + _LOOK_AFTER:
            self._after_warm_up.append(report.parts)
            if self.step in (warm + _LOOK_AFTER, self.total):
                size = min(self.settings.batch_size, len(self.sampler))
                guards.say_if_at_chance(self._after_warm_up, size, self._first)

    def _record(self, record: Mapping[str, Any]) -> None:
        if not self.ranks.first:
            return
        full = {"event": record["event"], "step": self.step, "epoch": self.step / self.sampler.steps, **record}
        self._journal.add(full)
        if self.watch is not None:
            self.watch(full)

    def _status(self, report: StepReport, rate: float) -> str:
        parts = ", ".join(f"{name} {value:.3g}" for name, value in list(report.parts.items())[:_SHOWN_PARTS])
        shown = [f"loss {report.loss:.3f} ({parts})" if len(report.parts) > 1 else f"loss {report.loss:.3f}"]
        if self.best is not None:
            shown.append(f"best R@1 {self.best.key[0]:.1f}")
        shown.append(f"{rate:.0f} pairs/s")
        if self.device.type == "cuda":
            shown.append(f"{torch.cuda.max_memory_allocated(self.device) / 1e9:.1f} GB")
        return " · ".join(shown)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Return the most memory so far: allocated on a CUDA device, else resident in this process; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event that the loop looks at between steps; a second is immediate."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.getsignal(s) for s in wanted}

    def ask(number: int, frame: Any) -> None:
        stop.set()
        for s in wanted:
            signal.signal(s, signal.default_int_handler)
        log.logger.info("stopping after this step; press Ctrl-C again to stop at once, without saving")

    for s in wanted:
        signal.signal(s, ask)
    try:
        yield stop
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
