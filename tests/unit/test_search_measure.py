"""How an index finds out how it is best searched, and what that misses."""

from __future__ import annotations

import math

import indexes
import pytest

from tvr_cli.engine.searching import measure
from tvr_cli.engine.searching.search import SearchOptions, search
from tvr_cli.engine.searching.way import Way, unmeasured, way_of

CLIPS = 600


def sentences(model, count=40):
    return lambda: (model.encode_text(indexes.captions(list(range(count)))), "captions")


@pytest.fixture
def costs(monkeypatch):
    """Sets what a sentence may cost before another stage is taken."""

    def set_costs(every, rough=0.0):
        monkeypatch.setattr(measure, "EVERY_S", every)
        monkeypatch.setattr(measure, "ROUGH_S", rough)

    return set_costs


def test_where_every_clip_can_be_scored_no_sentence_is_needed(tmp_path, costs):
    costs(every=math.inf)
    model = indexes.method()
    made = indexes.make(tmp_path / "index", CLIPS, CLIPS)
    way, recall = measure.measured(model, made, lambda: pytest.fail("asked for sentences"), seconds=60)
    assert way == Way("every", CLIPS, CLIPS) and recall.best == 1 and recall.of == "every clip is scored"


@pytest.mark.parametrize(("rough", "first"), [(math.inf, "rough"), (0.0, "coarse")])
def test_stages_are_as_wide_as_it_takes(tmp_path, costs, monkeypatch, rough, first):
    costs(0.0, rough)
    monkeypatch.setattr(measure, "LEAST", 10)
    model = indexes.method("gare")
    made = indexes.make(tmp_path / "index", CLIPS, CLIPS, name="gare")
    way, recall = measure.measured(model, made, sentences(model), seconds=math.inf)
    assert way.first in (first, "every") and (recall.best >= 0.995 or way.first == "every")
    # What is said of it is what a search does.
    asked = sentences(model)()[0]
    found = search(model, _with(made, way), asked, SearchOptions())
    exact = search(model, made, asked, SearchOptions(exhaustive=True))
    same = sum(len({h.video_id for h in a} & {h.video_id for h in b}) for a, b in zip(found, exact, strict=True))
    assert same / (10 * len(exact)) == pytest.approx(recall.best)


def _with(index, way):
    from dataclasses import asdict, replace

    return type(index)(index.folder, index.generation, replace(index.head, measured={"way": asdict(way)}))


def test_little_time_measures_on_a_sample_and_says_so(tmp_path, costs, monkeypatch):
    costs(0.0)
    monkeypatch.setattr(measure, "_FEWEST_CLIPS", 100)
    model = indexes.method("gare")
    made = indexes.make(tmp_path / "index", CLIPS, CLIPS, name="gare")
    _, recall = measure.measured(model, made, sentences(model), seconds=0)
    assert recall.clips in (100, CLIPS) and (recall.sentences in (12, 0))


class Unlike:
    """A method whose coarse vectors tell nothing of its score."""

    def __new__(cls):
        model = indexes.method("mean")
        model.score = lambda text, video: -(text["text"] @ video["video"].T)
        return model


def test_where_coarse_vectors_are_no_guide_every_clip_is_scored(tmp_path, costs):
    costs(0.0)
    made = indexes.make(tmp_path / "index", CLIPS, CLIPS)
    way, recall = measure.measured(Unlike(), made, sentences(indexes.method()), seconds=math.inf)
    assert way.first == "every" and recall.best == 1


def test_without_a_sentence_the_stages_are_as_ever_and_nothing_is_said(tmp_path, costs):
    costs(0.0)
    model = indexes.method()
    made = indexes.make(tmp_path / "index", CLIPS, CLIPS)
    way, recall = measure.measured(model, made, lambda: (None, "no sentence"), seconds=60)
    assert way == unmeasured(CLIPS) == Way("coarse", CLIPS, 200) and recall is None


def test_an_index_without_clips_has_nothing_to_measure(tmp_path):
    made = indexes.make(tmp_path / "index", 0)
    assert measure.measured(indexes.method(), made, lambda: pytest.fail("asked"), seconds=1)[1] is None


def test_an_index_that_grew_has_wider_stages():
    kept = {"way": {"first": "coarse", "clips": 1000, "shortlist": 200, "prefilter": 500}}
    assert way_of(kept, 1500) == Way("coarse", 1500, 300, 750)
    assert way_of(kept, 900) == Way("coarse", 1000, 200, 500)
    assert way_of({}, 1_000_000) == Way("coarse", 1_000_000, 2000)
