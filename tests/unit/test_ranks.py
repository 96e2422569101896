"""Ranks train as one process does: the loss, every gradient, the state after three steps, and the validation."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rank_cases
import torch
from rank_cases import Case, as_ranks, run_case
from synthetic import write_backbone, write_frames

from tvr_cli.config import TrainConfig
from tvr_cli.engine.features.precompute import precompute
from tvr_cli.engine.training import resume
from tvr_cli.engine.training.draws import SeededDraws
from tvr_cli.engine.training.launch import launch
from tvr_cli.engine.training.ranks import ALONE, Ranks
from tvr_cli.engine.training.shares import Share
from tvr_cli.errors import DataError
from tvr_cli.methods import base, eaglenet
from tvr_cli.plans import PrecomputeOptions
from tvr_cli.types import Batch, BatchShare, Draws, LossOutput, Sizes
from tvr_cli.workspace import Workspace

UNEVEN = {2: (7, 5), 3: (0, 8, 4), 4: (5, 0, 4, 3)}
BY_ROWS = {"eaglenet", "gare", "glccl", "tcmgc", "tmass", "xclip", "xpool"}
ALL = [Case(name, tune) for tune in ("head", "full") for name in rank_cases.methods(tune)]


def require_equal(found: dict[str, Any], wanted: dict[str, Any], what: object, tolerance: float = 1e-10) -> None:
    for kind in ("gradients", "state"):
        assert found[kind].keys() == wanted[kind].keys() != set(), what
        for name, value in wanted[kind].items():
            got, want = np.asarray(found[kind][name], dtype=np.float64), np.asarray(value, dtype=np.float64)
            error = np.abs(got - want).max(initial=0.0)
            assert error <= tolerance * max(1.0, np.abs(want).max(initial=0.0)), (what, kind, name, error)
    np.testing.assert_allclose(found["reports"], wanted["reports"], rtol=tolerance, atol=tolerance, err_msg=str(what))
    np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-5, atol=1e-5, err_msg=str(what))
    assert found["metrics"] == wanted["metrics"], what
    assert np.array_equal(found["untrained"], wanted["untrained"]), what  # of equal weights to the bit


def test_two_ranks_train_as_one_process_does() -> None:
    whole = [
        Case("clip4clip_seq", "full", (7, 5)),
        Case("clip4clip_seq", "full", accumulate=2, grad_cache=2),
        Case("clip4clip_seq", "head"),
    ]
    by_rows = Case("eaglenet", "full", (12, 0), accumulate=2, grad_cache=2, rows=True)
    cases = [*whole, by_rows]
    for case, found in zip(cases, launch(2, partial(as_ranks, cases)), strict=True):
        require_equal(found, run_case(case.alone()), case)
        assert found["by_rows"] == (case == by_rows)


@pytest.fixture(scope="module")
def alone() -> dict[Case, dict[str, Any]]:
    return {case: run_case(case) for case in ALL}


class Together(Ranks):
    """A rank of several that are threads of this process. said: what each of them gives, by rank."""

    def __init__(self, rank: int, said: list[torch.Tensor | None], barrier: threading.Barrier):
        self.rank, self.world, self._said, self._barrier = rank, len(said), said, barrier

    def _of_all(self, x: torch.Tensor) -> list[torch.Tensor]:
        self._said[self.rank] = x.detach().clone()
        self._barrier.wait(60)
        found = [x for x in self._said if x is not None]
        self._barrier.wait(60)  # all have read
        return found

    def join(self, x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        return torch.cat(self._of_all(x))

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._of_all(x)).sum(0)

    def max(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._of_all(x)).amax(0)


@pytest.mark.parametrize("counts", [(7, 5), (5, 0, 4, 3)])
@pytest.mark.parametrize("name", sorted(BY_ROWS))
def test_terms_of_a_loss_add_up_to_it(name: str, counts: tuple[int, ...], tmp_path: Path) -> None:
    """And so do their gradients; two pairs are of one video."""
    loop, _ = rank_cases.loop_of(Case(name, "head"), ALONE, tmp_path)
    inputs = next(iter(loop.source.stream(loop._steps(0))))
    text, video = loop.source.encode(inputs, slice(0, rank_cases.BATCH))
    video_id = torch.arange(rank_cases.BATCH)
    video_id[9] = 2
    method = loop.learner.method
    names = [n for n, p in method.named_parameters() if p.requires_grad]
    said: list[torch.Tensor | None] = [None] * len(counts)
    barrier = threading.Barrier(len(counts))
    models = [copy.deepcopy(method) for _ in counts]

    def gradients(model: base.Method, found: LossOutput) -> list[torch.Tensor]:
        of = dict(model.named_parameters())
        return list(torch.autograd.grad(found.total, [of[n] for n in names], allow_unused=True, materialize_grads=True))

    def at(rank: int) -> tuple[LossOutput, list[torch.Tensor]]:
        share = Share(Together(rank, said, barrier), counts)
        own = slice(share.first, share.first + counts[rank])
        batch = Batch(text.rows(own), video.rows(own), video_id[own])
        try:
            term = share.tied(models[rank].loss_rows(batch, share, step=0, draws=SeededDraws(1, 0)))
            return share.together(term), gradients(models[rank], term)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(len(counts)) as threads:
        found = list(threads.map(at, range(len(counts))))
    whole = method.loss(Batch(text, video, video_id), step=0, draws=SeededDraws(1, 0))
    wanted = gradients(method, whole)
    for output, _ in found:
        assert output.parts.keys() == whole.parts.keys()
        for got, want in zip((output.total, *output.parts.values()), (whole.total, *whole.parts.values()), strict=True):
            torch.testing.assert_close(got, want.detach(), rtol=1e-10, atol=1e-10)
    for i, n in enumerate(names):
        summed = sum((own[i] for _, own in found), torch.zeros_like(wanted[i]))
        error = (summed - wanted[i]).abs().max().item()
        assert error <= 1e-10 * max(1.0, wanted[i].abs().max().item()), (n, error)


@pytest.mark.slow
def test_other_forms_of_a_method_train_so_too() -> None:
    forms: list[tuple[str, dict[str, Any]]] = [
        ("eaglenet", {"graph": "gat", "energy": "mlp", "loss": "softmax", "mask_padding": True}),
        ("eaglenet", {"graph_dropout": 0.0, "pool_dropout": 0.0, "energy_support_weight": 0.0, "prior": "normal"}),
        ("tcmgc", {"dropout": 0.0, "mask_padding": True}),
        ("gare", {"dropout": 0.0, "norm_limit": 1e-9}),
        ("gare", {"norm_limit": 1e9}),
        ("xpool", {"dropout": 0.0, "heads": 2}),
        ("xclip", {"temporal": "none", "mask_padding": True}),
        ("glccl", {"temporal": "none", "mask_padding": True}),
    ]
    cases = [Case(name, "full", (0, 8, 4), options=tuple(options.items()), rows=True) for name, options in forms]
    for case, found in zip(cases, launch(3, partial(as_ranks, cases)), strict=True):
        assert found["by_rows"], case
        require_equal(found, run_case(case.alone()), case)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_method_trains_so_frozen_and_full(alone: dict[Case, dict[str, Any]], world: int) -> None:
    even = [Case(c.method, c.tune) for c in ALL]
    uneven = [Case(c.method, c.tune, UNEVEN[world]) for c in ALL] if world > 1 else []
    rows = [dataclasses.replace(c, rows=True) for c in uneven if c.method in BY_ROWS]
    cases = [*even, *uneven, *rows]
    for case, found in zip(cases, launch(world, partial(as_ranks, cases)), strict=True):
        require_equal(found, alone[case.alone()], case)
        assert found["by_rows"] == case.rows, case


def test_rows_are_those_of_the_loss_that_a_method_has() -> None:
    class OtherLoss(eaglenet.Method):
        def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
            raise NotImplementedError

    class OtherRows(OtherLoss):
        def loss_rows(self, batch: Batch, share: BatchShare, *, step: int, draws: Draws) -> LossOutput:
            raise NotImplementedError

    config, sizes = eaglenet.Method.Config(replay_rows=2), Sizes(8, 2, 4)
    found = [kind(config, sizes).splits_loss for kind in (eaglenet.Method, OtherLoss, OtherRows)]
    assert found == [True, False, True]
    names = rank_cases.methods("full")
    assert {n for n in names if base.build(n, Sizes(64, 2, 10), rank_cases.OPTIONS.get(n, {})).splits_loss} == BY_ROWS


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_a_validation_encodes_on_all_ranks_what_one_process_encodes_to_the_bit(tmp_path: Path, world: int) -> None:
    backbone = write_backbone(tmp_path / "clip")
    write_frames(tmp_path / "out", videos=8)
    precompute(Workspace(tmp_path / "out"), backbone, None, PrecomputeOptions(max_words=12, device="cpu"))
    alone = rank_cases.live_features(tmp_path / "out", backbone, None)
    together = launch(world, partial(rank_cases.live_features, tmp_path / "out", backbone))
    for found, wanted in zip(together, alone, strict=True):
        assert found.keys() == wanted.keys() and len(wanted) >= 3
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_gradients_of_the_authors_are_the_mean_of_what_each_process_keeps(tmp_path: Path, world: int) -> None:
    """DDP over a gather whose backward keeps own rows: CLIP4Clip gathers behind its temporal transformer."""
    case = Case("clip4clip_seq", "full", gradients="authors")
    (found,) = launch(world, partial(as_ranks, [case]))
    wanted = mean_of_own_rows(world, tmp_path)
    got = {name.removeprefix("0 "): g for name, g in found["gradients"].items() if name.startswith("0 ")}
    assert got.keys() == wanted.keys() and {"clip.words.weight", "logit_scale"} <= wanted.keys()
    for name, gradient in wanted.items():
        assert np.abs(got[name] - gradient).max() <= 1e-10 * max(1.0, np.abs(gradient).max()), name
    exact = run_case(Case("clip4clip_seq", "full"))["gradients"]["0 clip.words.weight"]
    assert not np.allclose(exact, wanted["clip.words.weight"], rtol=0.01)  # another norm to clip by


def mean_of_own_rows(world: int, folder: Path) -> dict[str, np.ndarray]:
    """Return the clipped gradients of the first step as DDP has them of CLIP4Clip, one process after the other."""
    loop, _ = rank_cases.loop_of(Case("clip4clip_seq", "full"), ALONE, folder)
    method, named = loop.learner.method, loop.groups.named()
    inputs = next(iter(loop.source.stream(loop._steps(0))))
    loop.learner.train()
    total = {name: torch.zeros_like(p) for name, p in named}
    whole = method.encode_video
    for process in range(world):
        rows = torch.tensor_split(torch.arange(rank_cases.BATCH), world)[process]
        own = torch.zeros(rank_cases.BATCH, dtype=torch.bool).index_fill(0, rows, True)

        def kept(x: torch.Tensor, own: torch.Tensor = own) -> torch.Tensor:
            return torch.where(own.view(-1, *[1] * (x.dim() - 1)), x, x.detach())

        method.encode_video = lambda video, kept=kept: whole(video).map(kept)  # type: ignore[method-assign]
        loop.optimizer.zero_grad()
        text, video = loop.source.encode(inputs, slice(0, rank_cases.BATCH))
        video_id = loop.names.video_of_clip[torch.from_numpy(inputs.pairs[:, 1])]
        batch = Batch(text.map(kept), video, video_id)
        method.loss(batch, step=0, draws=SeededDraws(1, 0)).total.backward()
        for name, p in named:
            total[name] += 0 if p.grad is None else p.grad / world
    for name, p in named:
        p.grad = total[name]
    torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
    return {name: p.grad.numpy() for name, p in named if p.grad is not None}


@pytest.mark.slow
def test_what_goes_wrong_in_a_rank_is_raised_where_ranks_were_started() -> None:
    with pytest.raises(DataError, match="what rank 1 found"):
        launch(2, rank_cases.wrong_at_rank_1)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_shares_of_a_step_are_all_its_pairs_once_and_in_order(world: int) -> None:
    for pairs, batch in ((12, 12), (7, 12), (24, 12), (3, 3), (2, 2), (33, 11)):
        ranks = [Ranks() for _ in range(world)]
        for number, rank in enumerate(ranks):
            rank.rank, rank.world = number, world
        size = min(pairs, batch)
        assert [i for rank in ranks for i in range(size)[rank.share(size)]] == list(range(size))
        mine = [rank.own(pairs, batch) for rank in ranks if rank.counts(size)[rank.rank]]
        assert sorted(np.concatenate(mine)) == list(range(pairs))
        assert all(len(rank.own(pairs, batch)) >= pairs // size for rank in ranks)  # one to look at, where it has none


def test_a_run_of_a_version_without_gradients_is_the_same_experiment() -> None:
    tree = {"train": {"lr": 1.0, "gradients": "exact"}}
    older = {"train": {"lr": 1.0}}
    resume.require_same_config("mine", older, tree)
    assert resume.config_hash(older) == resume.config_hash(tree)
    authors = {"train": {"lr": 1.0, "gradients": "authors"}}
    assert resume.config_hash(authors) != resume.config_hash(tree)
    with pytest.raises(DataError, match=r"train\.gradients was 'exact', now 'authors'"):
        resume.require_same_config("mine", older, authors)


def test_gradients_of_the_authors_go_on_with_as_many_devices() -> None:
    resume.require_same_world("mine", TrainConfig(), 2, 1)
    resume.require_same_world("mine", TrainConfig(gradients="authors"), 2, 2)
    with pytest.raises(DataError, match=r"over 2 devices .* give --devices 2"):
        resume.require_same_world("mine", TrainConfig(gradients="authors"), 2, 1)
