"""The compiled CPU tier: the folded formulas in one pass, chosen where it pays, absent without numba."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import tvr_kernels
from triton_cases import sides
from tvr_kernels import _dispatch, _payoff, text_pooling, trials
from tvr_kernels._testing import ODD_SHAPES, Shape, features, max_error, poisoned

pytest.importorskip("numba")

# Several blocks of 64 captions, the last one not full.
SHAPES = (*ODD_SHAPES, Shape(150, 4, 12, 1, 24))
COMPILED = [op for op in tvr_kernels.OPS if "compiled" in _dispatch.implementations(op)]
# One of them in the default suite: they are slow to compile.
# EagleNet's heads must be whole vectors wide, TC-MGC takes no word masks: they have tests of their own.
OTHERS = ("eaglenet", "tcmgc")
OPS = [pytest.param(op, marks=() if op == "text_pooling" else pytest.mark.slow) for op in COMPILED if op not in OTHERS]


@pytest.mark.parametrize("op", OPS)
def test_compiled_equals_the_reference(op):
    package = importlib.import_module(f"tvr_kernels.{op}")
    for shape in SHAPES:
        exact = package.score(*sides(op, shape, torch.float64), implementation="reference")
        text, video, weights = sides(op, shape)
        text, video = ({k: poisoned(v) if v.is_floating_point() else v for k, v in d.items()} for d in (text, video))
        got = package.score(text, video, weights, implementation="compiled")

        assert got.dtype == torch.float32 and got.shape == (shape.T, shape.V)
        assert max_error(got, exact) < 2e-6, shape


def test_exp_is_exact_to_a_unit_in_the_last_place_and_ends_in_zero():
    import numpy as np
    from tvr_kernels.compiled import exp_below_max
    from tvr_kernels.vectors import LANES

    x = np.linspace(-90.0, 0.0, 40 * LANES, dtype=np.float32).reshape(40, LANES)
    x[0] = 0.0  # the maximum of every lane
    e = x.copy()
    exp_below_max(e, np.ones((1, 40), bool), 0, np.float32(1.0))

    exact = np.exp(x.astype(np.float64))
    above = x > -87.0
    assert np.all(np.abs(e[above] / exact[above] - 1) < 2.4e-7)
    assert np.all(e[~above] < 2e-38)


def test_exp2_is_exact_to_a_unit_in_the_last_place_and_four_sums_are_written_in_their_order():
    import numpy as np
    from tvr_kernels.vectors import LANES, exp2, jit, load, store, store_totals

    @jit
    def run(x, sums):
        for i in range(0, len(x), 4):
            store_totals(sums, (i,), load(x, (i, 0)), load(x, (i + 1, 0)), load(x, (i + 2, 0)), load(x, (i + 3, 0)))
        for i in range(len(x)):
            store(x, (i, 0), exp2(load(x, (i, 0))))

    x = np.linspace(-130.0, 126.0, 40 * LANES, dtype=np.float32).reshape(40, LANES)
    e, sums = x.copy(), np.zeros(40, np.float32)
    run(e, sums)

    exact = np.exp2(x.astype(np.float64))
    above = x > -126.0
    assert np.all(np.abs(e[above] / exact[above] - 1) < 2.4e-7)
    assert np.all(e[~above] < 2e-38)
    assert np.allclose(sums, x.astype(np.float64).sum(1), rtol=1e-5)


@pytest.fixture
def memory(monkeypatch):
    """A memory of trials that begins empty, and a process that has measured nothing."""
    kept = {}

    class Memory:
        recall = staticmethod(lambda kind, name: kept.get(name))
        keep = staticmethod(lambda kind, name, value: kept.update({name: value}))

    monkeypatch.setattr(trials, "_memory", Memory)
    monkeypatch.setattr(_payoff, "_found", {})
    monkeypatch.setattr(_payoff, "_recalled", {})
    monkeypatch.setattr(_payoff, "_folded_s", {"text_pooling 2x4": 1e-6})
    monkeypatch.setattr(_dispatch, "_broken", {})
    monkeypatch.setattr(_payoff, "_compiled_anew", lambda module: False)
    return kept


def race_won_by(name, seconds, sure=True):
    return lambda ways, default, **_: trials.Finding(name if sure else default, seconds, sure)


FEW = Shape(8, 8, 2, 1, 4)


def chosen(pairs=0, case=None):
    with _dispatch.job(pairs):
        return _dispatch.select("score", "text_pooling", *(case or sides("text_pooling", FEW)), None)[0]


def test_a_job_takes_it_from_the_measured_number_of_pairs_on(memory, monkeypatch):
    races = []
    won = race_won_by("compiled", {"folded": 64 * 9e-7, "compiled": 64 * 4e-7})
    monkeypatch.setattr(trials, "race", lambda *a, **k: races.append(a[1]) or won(*a, **k))

    assert chosen(10**6) == "folded" and "folded" not in races  # too small to measure in
    assert chosen(10**12) == "compiled"
    (found,) = next(iter(memory.values()))["cases"].values()
    assert found["from_pairs"] == pytest.approx(2 * found["load_s"] / 5e-7, abs=1)
    assert chosen(found["from_pairs"] - 1) == "folded" and chosen(found["from_pairs"]) == "compiled"
    _payoff._found.clear(), _payoff._recalled.clear()  # another process
    assert chosen(found["from_pairs"] - 1) == "folded" and chosen(found["from_pairs"]) == "compiled"
    assert races.count("folded") == 1  # the GEMM has a race of its own


def test_what_was_kept_is_asked_for_once_a_process_in_a_job_of_many_small_tiles(memory, monkeypatch):
    asked = []
    recall = trials._memory.recall
    monkeypatch.setattr(trials._memory, "recall", lambda kind, name: asked.append(name) or recall(kind, name))

    for _ in range(5):
        assert chosen(10**6) == "folded"
    assert len([name for name in asked if "compiled" in name]) == 1


def test_the_slower_a_pair_is_the_fewer_make_a_job_in_which_a_trial_is_worth_its_time(memory, monkeypatch):
    monkeypatch.setattr(trials, "race", race_won_by("compiled", {"folded": 1.0, "compiled": 1e-9}))
    monkeypatch.setattr(_payoff, "_folded_s", {"text_pooling 2x4": _payoff.TRIAL_S / 50_000})

    assert chosen(49_000) == "folded" and chosen(51_000) == "compiled"


def test_what_a_pair_takes_is_measured_where_a_job_is_not_short(memory, monkeypatch):
    monkeypatch.setattr(_payoff, "_folded_s", {})

    chosen(_payoff._LEAST_PAIRS - 1)
    assert not _payoff._folded_s
    chosen(_payoff._LEAST_PAIRS)
    assert 0 <= _payoff._folded_s["text_pooling 2x4"] < 1


def test_where_it_gains_nothing_it_is_never_taken_and_the_report_says_so(memory, monkeypatch):
    monkeypatch.setattr(trials, "race", race_won_by("folded", {"folded": 1.0, "compiled": 1.0}))

    assert chosen(10**12) == "folded" and chosen(10**15) == "folded"
    assert ("text_pooling", "folded", "CPU; compiled pays never (2x4)") in _dispatch.report()


def test_an_unsure_trial_is_not_kept(memory, monkeypatch):
    monkeypatch.setattr(trials, "race", race_won_by("compiled", {"folded": 1.0, "compiled": 0.5}, sure=False))

    assert chosen(10**12) == "folded" and not memory


def test_what_numba_compiled_first_is_measured_again(memory, monkeypatch):
    won = race_won_by("compiled", {"folded": 64 * 9e-7, "compiled": 64 * 4e-7})
    races = []
    monkeypatch.setattr(trials, "race", lambda *a, **k: races.append(a[1]) or won(*a, **k))
    monkeypatch.setattr(_payoff, "_compiled_anew", lambda module: True)
    for _ in range(2):
        _payoff._found.clear(), _payoff._recalled.clear()
        chosen(10**12)

    assert races.count("folded") == 2  # the GEMM has a race of its own


@pytest.mark.parametrize("damage", [{"cases": 3}, {"cases": {"text_pooling 2x4": {"from_pairs": "few"}}}, {}])
def test_a_kept_trial_that_does_not_read_counts_as_none(memory, damage):
    trials.keep(_payoff._what(), damage)

    assert chosen(10**6) == "folded"
    assert _payoff.said("text_pooling").startswith("compiled: it pays from a number")


def test_a_broken_compiler_is_said_in_one_line_and_the_folded_form_gives_its_numbers(memory, monkeypatch, caplog):
    from tvr_kernels.text_pooling import compiled

    text, video, weights = sides("text_pooling", FEW)
    expected = text_pooling.score(text, video, weights, implementation="folded")
    trials.keep(_payoff._what(), {"cases": {"text_pooling 2x4": {"from_pairs": 0, "load_s": 1.0, "final": True}}})
    calls = []

    def broken(*_):
        calls.append(1)
        raise RuntimeError("cannot cache function '_epilogue':\nno locator available")

    monkeypatch.setattr(compiled, "score", broken)
    for _ in range(2):
        assert torch.equal(text_pooling.score(text, video, weights), expected)

    assert len(calls) == 1  # not tried again
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line == (
        "text_pooling: the compiled form is left out: it failed here (RuntimeError: cannot cache function '_epilogue':)"
    )
    with pytest.raises(_dispatch.KernelUnavailable, match=r"asks for 'compiled', but it failed here \(RuntimeError"):
        text_pooling.score(text, video, weights, implementation="compiled")


_CODE = """
import logging, sys, torch
from triton_cases import sides
from tvr_kernels import _payoff, text_pooling
from tvr_kernels._testing import Shape
logging.basicConfig(stream=sys.stdout, level="WARNING", format="%(message)s")
case = sides("text_pooling", Shape(70, 9, 3, 1, 8))
_payoff._found[_payoff._case("text_pooling", case[1])] = 0
torch.testing.assert_close(text_pooling.score(*case), text_pooling.score(*case, implementation="folded"))
"""


@pytest.mark.slow
def test_a_damaged_cache_of_numba_is_named_and_the_folded_form_runs(tmp_path):
    paths = os.pathsep.join([*(p for p in sys.path if p), str(Path(__file__).parent)])
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths}

    def run():
        return subprocess.run([sys.executable, "-c", _CODE], env=env, check=True, capture_output=True, text=True).stdout

    assert run() == ""
    damaged = list(tmp_path.rglob("*.nbc"))
    for file in damaged:
        file.write_bytes(file.read_bytes()[:100])
    said = run()

    assert damaged and said.startswith("text_pooling: the compiled form is left out: it failed here (")
    assert said.endswith(f"numba's cache is damaged, delete the *.nbi and *.nbc files below {tmp_path}\n")


def test_a_numba_that_cannot_be_imported_is_left_out_too(memory, monkeypatch):
    def broken(op, name):
        raise ImportError("Numba needs NumPy 2.2 or less")

    monkeypatch.setattr(_dispatch, "load", broken)

    assert chosen(10**12) == "folded"
    with pytest.raises(_dispatch.KernelUnavailable, match=r"Numba needs NumPy 2\.2 or less"):
        _dispatch.select("score", "text_pooling", *sides("text_pooling", FEW), "compiled")


def test_memory_that_is_not_there_is_no_broken_compiler(memory, monkeypatch):
    from tvr_kernels.text_pooling import folded

    monkeypatch.setattr(folded, "score", lambda *_: (_ for _ in ()).throw(MemoryError))

    with pytest.raises(MemoryError):
        text_pooling.score(*sides("text_pooling", FEW))


def test_clips_beyond_its_limit_are_refused_by_name_and_folded_by_auto(memory):
    case = sides("text_pooling", Shape(2, 2, 200, 1, 4))

    assert chosen(10**12, case) == "folded"
    with pytest.raises(_dispatch.KernelUnavailable, match="a clip has 200 frame slots, it takes at most 128"):
        text_pooling.score(*case, implementation="compiled")
    torch.testing.assert_close(text_pooling.score(*case), text_pooling.score(*case, implementation="reference"))


def test_gradients_and_fp64_are_left_to_the_folded_form():
    text, video, weights = sides("text_pooling", Shape(256, 256, 2, 1, 4))
    text["text"].requires_grad_()

    assert _dispatch.select("score", "text_pooling", text, video, weights, None)[0] == "folded"
    with pytest.raises(_dispatch.KernelUnavailable, match="no backward pass"):
        text_pooling.score(text, video, weights, implementation="compiled")
    exact = sides("text_pooling", Shape(256, 256, 2, 1, 4), torch.float64)
    assert _dispatch.select("score", "text_pooling", *exact, None)[0] == "folded"


def _in_doubles(text, video, weights):
    cast = (x.double() if isinstance(x, torch.Tensor) else x for x in weights)
    sides = ({k: x.double() if x.is_floating_point() else x for k, x in side.items()} for side in (text, video))
    return *sides, type(weights)._make(cast)


@pytest.mark.slow
@pytest.mark.parametrize("op", ["glccl", "tcmgc"])
@pytest.mark.parametrize("masked", [False, True], ids=["all-slots", "real-slots"])
@pytest.mark.parametrize("spread", [1.0, 40.0], ids=["cosines", "wide"])
def test_similarities_of_words_equal_the_reference(op, masked, spread):
    """`wide` maps spread M so far that one exponential for rows and columns would vanish in some of them.

    They make M's rounding larger, and the difference that a wrong weight makes.
    """
    package = importlib.import_module(f"tvr_kernels.{op}")
    shapes = (*SHAPES, Shape(35, 3, 12, 32, 64), Shape(2, 3, 5, 77, 16), Shape(2, 2, 3, 4, 16))
    for shape in (s for s in shapes if op == "glccl" or s.L >= 3):  # TC-MGC keeps three ranks
        drawn, (word_mask, frame_mask) = features(shape, unit=False, ragged=False), features(shape, unit=False)[3:]
        weights = importlib.import_module(f"tvr_kernels.{op}.bench")._weights(shape, "cpu", torch.float32)
        weights = weights._replace(local_map=weights.local_map * spread)
        masks = (word_mask if op == "glccl" else None, frame_mask) if masked else (None, None)
        text = package.text_side(drawn.text, drawn.words, weights, masks[0])
        video = package.video_side(drawn.frames, weights, masks[1])
        exact = package.similarities(*_in_doubles(text, video, weights), implementation="reference")
        folded = package.similarities(text, video, weights, implementation="folded")
        got = package.similarities(text, video, weights, implementation="compiled")

        assert got.shape == (4, shape.T, shape.V)
        assert max_error(got, exact) <= max(2e-6 * spread**2, 2 * max_error(folded, exact)), shape
        scores = [package.score(text, video, weights, implementation=name) for name in ("compiled", "folded")]
        assert max_error(*scores) <= 4e-6 * spread**2, shape


EAGLENET = {
    "published": {},
    "masked": {"options": {"mask_padding": True}},
    "another draw": {"draw": 3},
    "normal noise": {"options": {"prior": "normal", "prior_std": 0.7, "candidates": 6}},
    "injected": {"sigma": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("change", EAGLENET.values(), ids=EAGLENET)
def test_eaglenet_compiled_equals_the_reference(change):
    from tvr_kernels import eaglenet
    from tvr_kernels.eaglenet.bench import draw_weights

    for shape in (Shape(1, 1, 1, 1, 128), Shape(3, 15, 7, 1, 256), Shape(45, 9, 12, 1, 128)):
        x = features(shape, unit=False)
        text_key, video_key = torch.arange(shape.T) * 10**13 - 5, torch.arange(shape.V) + 2**40
        sigma = torch.rand(20, shape.T, shape.V, shape.D, generator=torch.Generator().manual_seed(2))

        def case(dtype, shape=shape, x=x, text_key=text_key, video_key=video_key, sigma=sigma):
            drawn = draw_weights(shape, "cpu", dtype)
            options = drawn.options._replace(**change.get("options", {}))
            given = sigma.to(dtype) if "sigma" in change else None
            weights = drawn._replace(options=options, draw=change.get("draw", 0), sigma=given)
            text = eaglenet.text_side(x.text.to(dtype), text_key, weights)
            return text, eaglenet.video_side(x.frames.to(dtype), x.frame_mask, video_key, weights), weights

        exact = eaglenet.score(*case(torch.float64), implementation="reference")
        got = eaglenet.score(*case(torch.float32), implementation="compiled")
        assert got.shape == (shape.T, shape.V)
        assert max_error(got, exact) < 2e-6, shape


@pytest.mark.slow
def test_eaglenet_noise_is_that_of_the_torch_form_to_the_bit():
    from tvr_kernels.eaglenet import compiled, noise
    from tvr_kernels.eaglenet.bench import draw_weights

    weights = draw_weights(Shape(1, 1, 2, 1, 128), "cpu", torch.float32)._replace(draw=2**31)
    text, video = torch.tensor([-1, 2**62 + 7, 0]), torch.tensor([2**40, -(2**63)])
    got = compiled.draw_noise({"key": text}, {"key": video}, weights, slice(0), slice(0))
    assert torch.equal(got, noise.uniform(text, video[:, None], 20, 128, draw=2**31))


def test_eaglenet_with_narrow_heads_is_left_to_the_folded_form():
    from tvr_kernels import eaglenet
    from tvr_kernels.eaglenet.bench import draw_weights

    shape = Shape(2, 2, 3, 1, 20)
    x, weights, key = features(shape), draw_weights(shape, "cpu", torch.float32), torch.arange(2)
    text, video = eaglenet.text_side(x.text, key, weights), eaglenet.video_side(x.frames, x.frame_mask, key, weights)
    with pytest.raises(_dispatch.KernelUnavailable, match="a head has 5 features"):
        eaglenet.score(text, video, weights, implementation="compiled")


def test_tcmgc_with_masked_words_is_left_to_the_folded_form():
    text, video, weights = sides("tcmgc", Shape(3, 2, 3, 6, 16))
    assert "mask" in text
    assert _dispatch.supports("score", "tcmgc", "compiled", text, video, weights) == (
        False,
        "it takes all word slots, and some are masked",
    )


@pytest.mark.slow
@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("branches", [(True, True), (True, False), (False, True)], ids=["both", "words", "sentence"])
def test_dmae_compiled_equals_the_reference_with_every_option(branches, neighbours, mask_padding):
    from tvr_kernels import dmae

    words, sentence = branches
    options = dmae.DmaeOptions(words, neighbours, mask_padding, sentence)
    for shape in (Shape(3, 15, 7, 5, 20), Shape(70, 9, 12, 6, 24)):
        x = features(shape)
        clips = torch.where(x.frame_mask[..., None], x.frames, 7.0)  # what a mask hides must not count

        def case(dtype, x=x, clips=clips):
            spoken = x.text.to(dtype) if sentence else None
            text = dmae.text_side(spoken, x.words.to(dtype), x.word_mask.long(), options)
            return text, dmae.video_side(clips.to(dtype), x.frame_mask, options), options

        exact = dmae.score(*case(torch.float64), implementation="reference")
        assert max_error(dmae.score(*case(torch.float32), implementation="compiled"), exact) < 2e-6, shape
