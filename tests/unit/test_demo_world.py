"""The toy world: unique captions, honest ground truth, no hint of order in a bag of frames, the same files twice."""

import dataclasses
import json
from collections import Counter
from random import Random

import numpy as np
import pytest

from tvr_cli.data import demo
from tvr_cli.data.demo_world import corpus, encode, grammar, render
from tvr_cli.data.demo_world.grammar import REVERSED, Scene, Thing, Video
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem

TINY = corpus.WorldOptions(seed=3, train=16, val=8, test=16)


@pytest.fixture(scope="module")
def split():
    return grammar.make_split(seed=5, n=400, unseen_pairs=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, corpus.make(folder, TINY)


def sampled(n_frames, slots=12):
    """Frames that the uniform plan takes."""
    return [int((i + 0.5) * n_frames / slots) for i in range(slots)]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------------ grammar


def test_every_caption_is_true_of_exactly_one_video(split):
    for video in split:
        assert sum(video.named() in other.events() for other in split) == 1


def test_half_of_a_split_are_families_of_four(split):
    kinds = Counter(v.kind for v in split)
    assert kinds == {"random": 200, "base": 50, "order": 50, "motion": 50, "binding": 50}
    families = Counter(v.family for v in split if v.family is not None)
    assert set(families.values()) == {4}


def test_members_of_a_family_differ_from_the_base_in_one_thing(split):
    family = {v.kind: v for v in split if v.family == 0}
    base = family["base"]
    i, j = base.pair
    a, b = base.scenes[i], base.scenes[j]

    def events(video):
        return [s.event for s in video.scenes]

    assert events(family["order"])[i] == b.event and events(family["order"])[j] == a.event
    assert Counter(events(family["order"])) == Counter(events(base))
    turned = [k for k in range(len(base.scenes)) if events(family["motion"])[k] != events(base)[k]]
    assert len(turned) == 1
    assert family["motion"].scenes[turned[0]].action == REVERSED[base.scenes[turned[0]].action]
    assert family["binding"].scenes[i].thing == dataclasses.replace(a.thing, colour=b.thing.colour)
    assert family["binding"].scenes[j].thing == dataclasses.replace(b.thing, colour=a.thing.colour)


def test_members_of_a_family_share_no_look(split):
    seeds = [s.seed for v in split for s in v.scenes]
    assert len(set(seeds)) == len(seeds)


def test_some_shape_colour_pairs_appear_in_the_test_split_only():
    def looks(videos):
        things = [t for v in videos for s in v.scenes for t in (s.thing, s.bystander) if t is not None]
        return {t.look for t in things}

    train = looks(grammar.make_split(1, 800, unseen_pairs=False))
    test = looks(grammar.make_split(2, 800, unseen_pairs=True))
    assert len(grammar.TEST_ONLY) == 8
    assert train.isdisjoint(grammar.TEST_ONLY)
    assert test >= grammar.TEST_ONLY


def test_a_caption_says_what_the_video_shows():
    scenes = (
        Scene(Thing("star", "red", "striped"), "left", None, 1),
        Scene(Thing("square", "orange"), "grow", None, 2),
    )
    said = {grammar.caption(Random(i), Video(scenes, (0, 1))) for i in range(4000)}
    assert "a striped red star moves left, then an orange box gets bigger" in said
    assert "an orange square grows after a red star with stripes slides to the left" in said
    star_first = {
        sentence.index("star") < sentence.index("orange")
        for sentence in said
        if " after a red" not in sentence and " after a striped" not in sentence
    }
    orange_first = {
        sentence.index("star") > sentence.index("orange") for sentence in said if " after a red" in sentence
    }
    assert star_first == orange_first == {True}


def test_round_shapes_never_spin(split):
    assert not [s for v in split for s in v.scenes if s.action == "spin" and s.thing.shape in ("circle", "ring")]


# ------------------------------------------------------------------------------------- what a bag of frames can tell


@pytest.mark.parametrize("n_scenes", [2, 3, 4])
def test_the_sampler_sees_a_motion_and_its_reverse_in_the_same_poses(n_scenes):
    frames = sampled(n_scenes * render.SCENE_FRAMES)
    for scene in range(n_scenes):
        seen = [k % render.SCENE_FRAMES for k in frames if k // render.SCENE_FRAMES == scene]
        poses = Counter(render.HELD[k] for k in seen)
        assert poses == Counter(1 - p for p in poses.elements())
        assert {0.0, 0.5, 1.0} == set(poses)


def test_ends_of_a_motion_are_spread_evenly_round_the_middle():
    there = [render.pose(Scene(Thing("star", "red"), "right", None, seed), 0).x for seed in range(4000)]
    back = [render.pose(Scene(Thing("star", "red"), "left", None, seed), 0).x for seed in range(4000)]
    # Standard error of each mean: 0.12 / sqrt(12) / sqrt(4000) = 0.0006.
    assert np.mean(there) + np.mean(back) == pytest.approx(1.0, abs=0.004)


def test_a_scorer_blind_to_order_is_right_once_in_three_on_base_order_motion(split):
    """It knows everything about every sampled frame but when it came; only binding stands out."""

    def bag(video):
        seen = Counter()
        for k in sampled(len(video.scenes) * render.SCENE_FRAMES):
            scene, frame = video.scenes[k // render.SCENE_FRAMES], k % render.SCENE_FRAMES
            axis = {"left": "x", "right": "x", "up": "y", "down": "y", "grow": "r", "shrink": "r"}.get(scene.action)
            place = render.HELD[frame] if scene.action in ("right", "down", "grow") else 1 - render.HELD[frame]
            seen[scene.thing, axis or scene.action, place if axis else None] += 1
        return frozenset(seen.items())

    for family in {v.family for v in split if v.family is not None}:
        bags = {v.kind: bag(v) for v in split if v.family == family}
        assert bags["base"] == bags["order"] == bags["motion"]
        assert bags["base"] != bags["binding"]


# ------------------------------------------------------------------------------------------------------------- pixels


def test_a_thing_is_drawn_where_its_pose_says():
    scene = Scene(Thing("circle", "white"), "right", None, seed=11)
    for k in (0, 4, 7):
        frame = render.scene_frames(scene)[k].astype(float)
        pose = render.pose(scene, k)
        y, x = np.nonzero(frame.min(-1) > 230)
        assert (x.mean() + 0.5) / render.SIZE == pytest.approx(pose.x, abs=0.01)
        assert (y.mean() + 0.5) / render.SIZE == pytest.approx(pose.y, abs=0.01)
        assert len(x) / render.SIZE**2 == pytest.approx(np.pi * pose.radius**2, rel=0.12)


@pytest.mark.parametrize("shape", grammar.SHAPES)
def test_every_shape_fills_its_radius_and_no_more(shape):
    image = np.zeros((200, 200, 3), np.float32)
    render.paint(image, Thing(shape, "white"), render.Pose(0.5, 0.5, 0.3, 0.0))
    y, x = np.nonzero(image[..., 0] > 120)
    reach = np.hypot(x - 99.5, y - 99.5).max() / 200
    assert 0.75 * 0.3 < reach < 1.25 * 0.3
    assert abs((x.min() + x.max()) / 2 - 99.5) < 1.5  # all are symmetric left and right


def test_shapes_look_different():
    images = []
    for shape in grammar.SHAPES:
        image = np.zeros((64, 64, 3), np.float32)
        render.paint(image, Thing(shape, "white"), render.Pose(0.5, 0.5, 0.3, 0.0))
        images.append(image[..., 0] / 245)
    for i, a in enumerate(images):
        for b in images[:i]:
            assert np.abs(a - b).sum() > 0.1 * max(a.sum(), b.sum())


def test_blinking_things_come_and_go():
    scene = Scene(Thing("circle", "white"), "blink", None, seed=4)
    seen = [render.pose(scene, k).visible for k in range(render.SCENE_FRAMES)]
    assert seen in ([True, True, False, False] * 2, [False, False, True, True] * 2)


# ------------------------------------------------------------------------------------------------------------- corpus


def test_the_corpus_is_what_the_plan_says(made):
    folder, report = made
    assert (report.made, report.kept, report.captions) == (40, 0, 5 * 24 + 16)
    captions = lines(folder / "captions.jsonl")
    assert Counter(c["split"] for c in captions) == {"train": 80, "val": 40, "test": 16}
    assert {c["video"] for c in captions} == {p.relative_to(folder).as_posix() for p in folder.rglob("*.mp4")}
    assert len({c["id"] for c in captions}) == len(captions)
    assert set(captions[0]) == {"video", "id", "caption", "split"}


def test_events_carry_exact_times(made):
    folder, _ = made
    for record in lines(folder / "events.jsonl"):
        i, j = record["named"]
        assert record["span"] == [record["scenes"][i]["start"], record["scenes"][j]["end"]] == [float(i), float(j + 1)]
    truth = corpus.read_truth(folder)
    assert len(truth) == 40 and {t.split for t in truth.values()} == {"train", "val", "test"}
    name, _, video = next(corpus.world(TINY))
    i, j = video.pair
    assert truth[name].events == ((i, i + 1), (j, j + 1)) and truth[name].span == (i, j + 1)


def test_videos_decode_to_what_was_drawn(made):
    import av

    folder, _ = made
    name, _, video = next(corpus.world(TINY))
    with av.open(str(folder / name)) as container:
        assert container.streams.video[0].average_rate == render.FPS
        decoded = [f.to_ndarray(format="rgb24").astype(float) for f in container.decode(video=0)]
    drawn = render.video_frames(video)
    assert len(decoded) == len(drawn) == len(video.scenes) * render.SCENE_FRAMES
    assert max(np.abs(a - b).mean() for a, b in zip(decoded, drawn, strict=True)) < 8


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    folder, _ = made
    corpus.make(tmp_path / "again", TINY, workers=2)
    first = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
    again = tmp_path / "again"
    second = {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file() and p.name != ".lock"}
    assert first == second


def test_only_what_is_missing_is_made_again(tmp_path):
    plan = dataclasses.replace(TINY, train=8, val=8, test=8)
    corpus.make(tmp_path, plan)
    (tmp_path / "val" / "00003.mp4").unlink()
    report = corpus.make(tmp_path, plan)
    assert (report.made, report.kept) == (1, 23)


def test_another_seed_replaces_the_videos_where_they_may_go(tmp_path):
    plan = dataclasses.replace(TINY, train=8, val=8, test=8)
    corpus.make(tmp_path, plan)
    before = (tmp_path / "test" / "00000.mp4").read_bytes()
    report = corpus.make(tmp_path, dataclasses.replace(plan, seed=4), replaceable=lambda path: True)
    assert report.made == 24
    assert (tmp_path / "test" / "00000.mp4").read_bytes() != before


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_another_seed_replaces_nothing_while_one_file_must_stay(tmp_path):
    plan = dataclasses.replace(TINY, train=8, val=8, test=8)
    corpus.make(tmp_path, plan)
    (tmp_path / "test" / "holiday.mp4").write_bytes(b"mine")
    before = tree(tmp_path)
    with pytest.raises(DataError, match=r"another toy corpus.*'test/holiday\.mp4'; nothing was replaced"):
        corpus.make(tmp_path, dataclasses.replace(plan, seed=4), replaceable=lambda path: path.name != "holiday.mp4")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["world.json", "captions.jsonl", "train/game.dat", "holiday.mov"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, name):
    path = tmp_path / "videos" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"map": "level 1"}')
    with pytest.raises(DataError, match=f"did not make: '{name}'"):
        corpus.make(tmp_path / "videos", TINY)
    assert tree(tmp_path) == {f"videos/{name}": b'{"map": "level 1"}'}


def test_captions_that_were_changed_are_not_written_over(tmp_path):
    plan = dataclasses.replace(TINY, train=8, val=8, test=8)
    corpus.make(tmp_path, plan)
    (tmp_path / "captions.jsonl").write_text("mine")
    with pytest.raises(DataError, match=r"captions\.jsonl' is not what `tvr demo` wrote"):
        corpus.make(tmp_path, plan)
    assert (tmp_path / "captions.jsonl").read_text() == "mine"


def test_a_folder_of_other_videos_is_refused(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(DataError, match="did not make"):
        corpus.make(tmp_path, TINY)
    assert (tmp_path / "holiday.mp4").read_bytes() == b"mine"


def test_a_folder_without_events_is_no_toy_corpus(tmp_path):
    with pytest.raises(DataError, match=r"events\.jsonl"):
        corpus.read_truth(tmp_path)


def test_the_next_encoder_is_taken_where_the_first_is_missing(monkeypatch):
    monkeypatch.setattr(encode, "ENCODERS", {"no_such_encoder": {}, "mpeg4": encode.ENCODERS["mpeg4"]})
    encode.find_encoder.cache_clear()
    assert encode.find_encoder() == "mpeg4"
    encode.find_encoder.cache_clear()


def test_no_encoder_at_all_is_said(monkeypatch):
    monkeypatch.setattr(encode, "ENCODERS", {"no_such_encoder": {}})
    encode.find_encoder.cache_clear()
    with pytest.raises(EnvironmentProblem, match=r"no_such_encoder.*pip install"):
        encode.find_encoder()
    encode.find_encoder.cache_clear()


def test_the_corpus_loads_as_a_data_set(made, tmp_path):
    folder, _ = made
    manifest = demo.load(folder)
    assert (len(manifest.clips), len(manifest.captions)) == (40, 136)
    assert manifest.expected == {"train": 16, "val": 8, "test": 16} and manifest.missing == ()
    assert {c.video for c in manifest.captions} == {c.id for c in manifest.clips}
    assert "says nothing about which method is better" in manifest.notes[0]
    with pytest.raises(ConfigError, match="no variants"):
        demo.load(folder, "small")
    with pytest.raises(DataError, match=r"events\.jsonl"):
        demo.load(tmp_path)
