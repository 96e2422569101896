"""Films of the toy world: what they say of themselves, and what they replace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tvr_cli.data.demo_world import corpus, films
from tvr_cli.data.demo_world.corpus import WorldOptions
from tvr_cli.data.demo_world.films import FilmOptions
from tvr_cli.errors import DataError

WORLD = WorldOptions(train=8, val=0, test=8)
OPTIONS = FilmOptions(WORLD, train=3, test=2)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, films.FilmsReport]:
    folder = tmp_path_factory.mktemp("films") / "videos"
    return folder, films.make(folder, OPTIONS)


def test_every_scene_of_the_videos_has_its_second_and_its_sentence(made):
    folder, report = made
    videos = {split: [v for _, of, v in corpus.world(WORLD) if of == split] for split in ("train", "test")}
    scenes = [s for split, n in (("train", 3), ("test", 2)) for v in videos[split][:n] for s in v.scenes]
    said = lines(folder / "captions.jsonl")
    assert (report.made, report.kept, report.scenes, report.seconds) == (2, 0, len(scenes), len(scenes))
    assert [line["end"] - line["start"] for line in said] == [1.0] * len(scenes)
    assert {line["video"]: line["split"] for line in said} == {"train/000.mp4": "train", "test/000.mp4": "test"}
    for scene, line in zip(scenes, said, strict=True):
        assert any(word in line["caption"] for word in films.grammar.COLOUR_WORDS[scene.thing.colour])


def test_the_truth_has_every_moment_of_what_films_of_the_test_split_show(made):
    folder, report = made
    shown = [
        (record["video"], scene["start"], (scene["shape"], scene["colour"], scene["action"]))
        for record in lines(folder / "events.jsonl")
        for scene in record["scenes"]
    ]
    asked = {event for video, _, event in shown if video == "test/000.mp4"}
    truth = lines(folder / "truth.jsonl")
    assert len({line["query"] for line in truth}) == len(asked) == report.queries
    true = sorted((line["video"], line["start"]) for line in truth)
    assert true == sorted((video, start) for video, start, event in shown if event in asked)


def test_what_is_there_is_kept_and_what_is_missing_made(made):
    folder, _ = made
    (folder / "train" / "000.mp4").unlink()
    again = films.make(folder, OPTIONS)
    assert (again.made, again.kept) == (1, 1) and films.are_of(folder, OPTIONS)


@pytest.mark.parametrize("name", ["truth.jsonl", "events.jsonl"])
def test_what_somebody_wrote_into_it_is_replaced_only_where_it_may_be(made, name):
    folder, _ = made
    before = (folder / name).read_text()
    (folder / name).write_text("mine\n")
    with pytest.raises(DataError, match=f"holds '{name}'.*nothing was replaced"):
        films.make(folder, OPTIONS)
    assert (folder / name).read_text() == "mine\n"
    films.make(folder, OPTIONS, replaceable=lambda path: path.name == name)
    assert (folder / name).read_text() == before


def test_other_films_are_replaced_only_where_they_may_be(made):
    folder, _ = made
    other = FilmOptions(WORLD, train=2, test=2)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert not films.are_of(folder, other)
    with pytest.raises(DataError, match="nothing was replaced"):
        films.make(folder, other)
    with pytest.raises(DataError, match=r"holds 'events.jsonl'"):
        films.make(folder, other, replaceable=lambda path: path.name != "events.jsonl")
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert films.make(folder, other, replaceable=lambda path: True).made == 2 and films.are_of(folder, other)
