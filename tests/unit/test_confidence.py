"""How sure an answer is: the two lines, what they are made of, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from indexes import captions, make, method

from tvr_cli.engine.searching import bank as banks
from tvr_cli.engine.searching import calibrate, confidence, moments, ranking
from tvr_cli.engine.searching.confidence import Confidence, Tops
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.engine.searching.search import search
from tvr_cli.engine.searching.way import Way
from tvr_cli.results.found import Answer, Hit
from tvr_cli.stores.index.store import Index, IndexBlock, IndexedClip, write_index
from tvr_cli.stores.index.timeline import FilmBlock
from tvr_cli.types import Encoding
from tvr_cli.workspace import Workspace

FILMS, FRAMES, DIM = 3, 12, 32


def unit(draw: np.random.Generator, n: int) -> np.ndarray:
    found = draw.standard_normal((n, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def filmed(folder: Path, turned: np.ndarray, bank: np.ndarray) -> Index:
    """An index of films of random frames, each a moment of its own, all of it turned by an orthogonal matrix."""
    clips = [IndexedClip(f"{i}.mp4", f"{i}.mp4", f"/{i}.mp4", 0.0, float(FRAMES)) for i in range(FILMS)]
    encoding = Encoding(torch.arange(FILMS), {"none": torch.zeros(FILMS, 1)})
    one = torch.ones(FILMS, dtype=torch.int64)
    block = IndexBlock(clips, encoding, torch.ones(FILMS, 1), torch.zeros(FILMS, 1), one)
    draw, ts = np.random.default_rng(0), np.arange(FRAMES, dtype=np.float64)
    alone = np.stack([np.arange(FRAMES), np.arange(FRAMES) + 1], 1)
    films = []
    for clip in clips:
        frames = unit(draw, FRAMES) @ turned
        null, mild = ranking.null_of(frames, bank)
        films.append(FilmBlock(clip.id, clip.path, frames, ts, ts + 1, ts, alone, np.ones(FRAMES), null, mild))
    return write_index(folder, {}, [block], films=films)


def told(folder: Path, turned: np.ndarray) -> list[list[Hit]]:
    """The answers to some sentences in a turned world."""
    draw = np.random.default_rng(1)
    bank, strange, asked = (unit(draw, n) @ turned for n in (500, 500, 8))
    index = filmed(folder, turned, bank)
    lines = calibrate.of_films(index.films, bank, strange, seconds=60.0)
    assert lines.why is None and lines.moments == FILMS * FRAMES
    return moments.search(index.films, asked.astype(np.float32), SearchOptions(k=3), lines=lines)


def test_a_world_that_is_turned_gives_the_same_moments_and_is_as_sure(tmp_path):
    turned = np.linalg.qr(np.random.default_rng(2).standard_normal((DIM, DIM)))[0].astype(np.float32)
    one, other = told(tmp_path / "straight", np.eye(DIM, dtype=np.float32)), told(tmp_path / "turned", turned)
    for hits, again in zip(one, other, strict=True):
        assert [(h.video_id, h.start, h.end) for h in hits] == [(h.video_id, h.start, h.end) for h in again]
        # The index keeps frames in half precision, and a score is 50 cosines.
        assert [h.score for h in hits] == pytest.approx([h.score for h in again], abs=5e-3)
    straight, sure = (np.array([[h.confidence for h in hits] for hits in answers]) for answers in (one, other))
    np.testing.assert_allclose(sure, straight, atol=1e-3)
    assert straight.std() > 0.1  # not all of one mind


def test_of_the_bank_a_sentence_counts_without_the_moments_that_it_fits_best():
    # Thirty sentences, each of them true of one moment (1) and seen a little in the next (its number / 100).
    bank = np.eye(30)
    bank[np.arange(30), (np.arange(30) + 1) % 30] = np.arange(30) / 100
    strange = np.tile(np.linspace(0, 1, 30), (20, 1)) * np.arange(1, 21)[:, None]
    tops = Tops(30, 20)
    tops.add(np.concatenate([bank, strange]))
    lines = tops.lines()
    assert lines.best is not None and lines.best[0] == 0 and lines.best[-1] == pytest.approx(0.29)
    assert lines.apart is not None and lines.apart[-1] == pytest.approx(10)  # 20 at best, 10 on average


def test_a_sentence_about_something_else_is_among_the_best_by_chance():
    vectors = np.repeat(np.eye(5, dtype=np.float32), 62, 0)  # five subjects, 62 sentences of each
    near = confidence.near_of(vectors)
    assert near.sum() == 5 * 62 * 62, "what is equally near is near, and no other subject"
    bank = np.zeros((310, 2))
    bank[0, 0], bank[5, 1], bank[100, 1] = 1.0, 0.9, 0.8  # the last is second best of a moment, by chance
    assert confidence.may_be_true(bank)[[5, 100], 1].all()
    found = confidence.may_be_true(bank, near)
    assert found[0, 0] and found[5, 1] and not found[100, 1]


def test_what_is_near_to_the_best_one_is_left_out_of_the_line():
    vectors = np.repeat(np.eye(5, dtype=np.float32), 62, 0)
    draw = np.random.default_rng(0)
    scores = draw.random((330, 40)) / 10
    scores[100] = 0.0
    scores[0, 0], scores[100, 0], scores[1, 1], scores[62, 2] = 1.0, 0.9, 1.0, 1.0
    plain, kept = Tops(310, 20), Tops(310, 20, confidence.near_of(vectors))
    for tops in (plain, kept):
        tops.add(scores)
    best_of = {name: tops.lines().best[-1] for name, tops in (("plain", plain), ("kept", kept))}
    assert best_of["plain"] < 0.2 and best_of["kept"] == 0.9


def test_a_small_bank_has_sentences_that_are_near_to_themselves():
    near = confidence.near_of(unit(np.random.default_rng(0), 20))
    assert np.array_equal(near, np.eye(20, dtype=bool))


def test_of_a_long_bank_no_more_are_asked_than_can_be_compared_with_each_other():
    assert len(confidence.some_of(300_000, 0.0, 60.0)) == confidence.MOST
    assert len(confidence.some_of(500, 0.0, 60.0)) == 500


def test_moments_that_come_in_parts_tell_the_same():
    scores = np.random.default_rng(0).standard_normal((90, 40))
    whole, parts = Tops(60, 30), Tops(60, 30)
    whole.add(scores, against=True)
    for part in np.array_split(scores, 7, axis=1):
        parts.add(part, against=True)
    assert whole.lines().best == pytest.approx(parts.lines().best)
    assert whole.lines().apart == pytest.approx(parts.lines().apart)


def test_a_moment_is_as_sure_as_the_worse_of_both_lines_says():
    lines = Confidence(100, 20, 20, [float(i) for i in range(101)], [i / 10 for i in range(101)], None)
    assert lines.of(95, 10) == pytest.approx(0.95) and lines.of(100, 9.5) == pytest.approx(0.95)
    assert lines.of(200, 200) == 1 and lines.of(-1, 200) == 0 and lines.of(float("nan"), 200) == 0


@pytest.mark.parametrize(
    ("sentences", "moments_", "why"),
    [(20, 29, "it takes 30 moments or windows"), (19, 40, "it takes 20 sentences"), (20, 30, None)],
)
def test_what_is_too_little_to_tell_is_said(sentences, moments_, why):
    tops = Tops(sentences, 20)
    tops.add(np.random.default_rng(0).standard_normal((sentences + 20, moments_)))
    found = tops.lines()
    assert (found.why or "").startswith(why or "") and (found.best is None) == (why is not None)
    assert (found.of(1.0, 1.0) is None) == (why is not None)


def test_videos_that_are_all_the_same_tell_nothing():
    tops = Tops(30, 30)
    tops.add(np.repeat(np.random.default_rng(0).standard_normal((60, 1)), 50, axis=1))
    assert tops.lines().why == "all of the index looks alike"


def test_what_is_asked_of_windows_is_calibrated_the_way_it_is_searched(tmp_path):
    index, mean = make(tmp_path / "index"), method()
    known, unknown = (mean.encode_text(captions(range(a, a + 60))) for a in (100, 300))
    every, some = (
        calibrate.of_windows(mean, index, known, unknown, way, seconds=60.0)
        for way in (Way("every", len(index), len(index)), Way("coarse", len(index), len(index) // 2))
    )
    assert every.why is None and some.why is None and every.moments == some.moments == len(index)
    # The best of all is among the nearer half, so the lines hardly move.
    assert some.best is not None and every.best is not None
    assert some.best[50] == pytest.approx(every.best[50], abs=0.05)


def test_an_index_without_lines_has_answers_without_confidence(tmp_path):
    index, mean = make(tmp_path / "index"), method()
    (hits,) = search(mean, index, mean.encode_text(captions([20])), SearchOptions(k=3))
    assert hits and all(hit.confidence is None for hit in hits)
    answer = Answer.of("a", hits, 0.95)
    assert answer.found and answer.confidence is None and list(answer.hits) == hits and not answer.nearest


def test_what_is_to_be_typed_for_an_index_without_lines_names_its_workspace(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(confidence.log, "say_once", said.append)
    confidence.say(None, Workspace(tmp_path / "my films"))
    assert said[0].endswith(f'made without; tvr index --overwrite -o "{tmp_path / "my films"}" makes it again')


def hit(rank: int, confidence: float | None, channel: str = "picture") -> Hit:
    return Hit(rank, 1.0 / rank, f"{rank}", f"/{rank}", 0.0, 1.0, 0.5, confidence=confidence, channel=channel)


def test_an_answer_holds_apart_what_was_found_and_what_is_only_nearest():
    shown = [hit(1, 0.5), hit(2, 0.97), hit(3, None, "speech"), hit(4, 0.0)]
    answer = Answer.of("a", shown, 0.95)
    assert [h.video_id for h in answer.hits] == ["2", "3"] and [h.video_id for h in answer.nearest] == ["1", "4"]
    assert [h.rank for h in (*answer.hits, *answer.nearest)] == [1, 2, 3, 4] and answer.confidence == 0.97
    nothing = Answer.of("a", [hit(1, 0.5), hit(2, 0.0)], 0.95)
    assert not nothing.found and not nothing.hits and len(nothing.nearest) == 2
    assert [h.video_id for h in Answer.of("a", shown, None).hits] == ["1", "2", "3", "4"]


def test_sentences_from_outside_are_not_those_of_the_bank():
    for name in ("demo-tiny", "clip-vit-b32"):
        outside, bank = banks.strange(name), banks.usual(name)
        assert len(outside.sentences) >= confidence.FEWEST and len(set(outside.sentences)) == len(outside.sentences)
        assert not set(outside.sentences) & set(bank.sentences)
