"""Frames of a file by time: read once, stored once, encoded once; clips are views of them, and moments lie on them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from random import Random

import indexes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.data.demo_world import encode, grammar, render
from tvr_cli.engine.searching.asked import Asked
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.engine.searching.session import Session
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.plans import AskedFrames, FramePlan
from tvr_cli.stores.decoding.alike import Thinning
from tvr_cli.stores.decoding.sample import Task, sample
from tvr_cli.stores.features.films import film_row_key
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.stores.frames.windows import Segmenting, Span, timeline_frames, view
from tvr_cli.stores.index.store import Index
from tvr_cli.workspace import Workspace

pytestmark = pytest.mark.usefixtures("warm_readers")

PLAN = FramePlan("timeline", fps=4.0, num_frames=6, size=64, alike=5.0)
SCENES = {"a.mp4": 5, "b.mp4": 4}  # of a second each


def tvr(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def scenes(name: str) -> list[grammar.Scene]:
    draw = grammar.Draw(sum(map(ord, name)), unseen_pairs=False)
    return [draw.scene([]) for _ in range(SCENES[name])]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name in SCENES:
        frames = [frame for scene in scenes(name) for frame in render.scene_frames(scene)]
        encode.write_video(folder / name, frames, encoder=encode.find_encoder(), fps=render.FPS)
    return folder


@pytest.fixture(scope="module")
def made(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with frames and features of the films, cut into windows of 3 seconds that share one."""
    out = tmp_path_factory.mktemp("made") / "out"
    tvr("extract-frames", films, "-o", out, "--fps", 4, "--size", 64, "--segment", "3/1", "--workers", 1)
    tvr("precompute-features", "-o", out, "--backbone", "demo-tiny")
    return out


# ----------------------------------------------------------------------------------------------------------- the plan


def test_a_rate_alone_gives_folders_of_ones_own_a_timeline():
    plan = AskedFrames(fps=4.0).plan()
    assert (plan.kind, plan.slots, plan.alike) == ("timeline", 12, 5.0)
    assert FramePlan.from_identity(plan.identity()) == plan
    every = AskedFrames(fps=4.0, keep_all=True).plan()
    assert every.alike is None and "alike" not in every.identity()
    assert FramePlan.from_identity(every.identity()) == every
    assert AskedFrames(fps=4.0, max_frames=8).plan().kind == "fps"


def test_what_says_nothing_of_frames_goes_on_with_a_timeline():
    for there in (AskedFrames(fps=2.0).plan(), AskedFrames(fps=2.0, keep_all=True).plan()):
        assert AskedFrames().plan(None, there) == there
    assert AskedFrames(num_frames=8).plan(None, there).kind == "uniform"


def test_frames_at_a_rate_that_an_older_version_left_go_on_as_they_are():
    there = FramePlan("fps", fps=1.0)
    assert AskedFrames(fps=1.0).plan(None, there).kind == "fps"


def test_all_frames_are_kept_of_timelines_only():
    with pytest.raises(ConfigError, match="--keep-all is about the frames of a timeline"):
        AskedFrames(keep_all=True).plan()


def test_all_windows_share_one_grid():
    ts = np.arange(80) / 10
    found = timeline_frames(ts, 8.0, [Span(0.0, 3.0), Span(2.1, 5.0)], FramePlan("timeline", fps=4.0))
    assert ts[found[0]] == pytest.approx([0, 0.2, 0.5, 0.7, 1, 1.2, 1.5, 1.7, 2, 2.2, 2.5, 2.7])
    assert ts[found[1]][:3] == pytest.approx([2.0, 2.2, 2.5])  # what is on screen at its start, too
    assert not len(timeline_frames(ts, 8.0, [Span(9.0, 10.0)], FramePlan("timeline", fps=4.0))[0])


def test_a_view_has_what_is_on_screen_in_the_middle_of_equal_parts():
    assert view(np.array([0.0, 1.0, 2.0, 3.0]), (0.0, 4.0), 4) == (0, 1, 2, 3)
    assert view(np.array([0.0, 3.5]), (0.0, 4.0), 4) == (0, 1)
    assert view(np.array([5.0]), (0.0, 4.0), 4) == (0,)  # a timeline that begins late


# ------------------------------------------------------------------------------------------------------------- frames


def test_slides_are_kept_once_and_none_is_lost():
    rng = np.random.default_rng(0)
    slides = [np.full((90, 160, 3), 200, np.uint8) for _ in range(3)]
    slides[1][10:16, 20:60] = 30  # a line more
    slides[2][:] = 90
    thin, kept = Thinning(5.0), []
    for number, slide in enumerate(slides):
        for _ in range(20):
            noisy = np.clip(slide + rng.normal(0, 3, slide.shape), 0, 255).astype(np.uint8)
            if thin.take(noisy, len(kept))[0]:
                kept.append(number)
    assert kept == [0, 1, 2]


def test_a_cut_changes_most_of_a_picture_and_a_thing_that_moves_does_not(films):
    found = sample(Task(films / "a.mp4", PLAN)).timeline
    cuts = [t for t, change in zip(found.ts.tolist(), found.change.tolist(), strict=True) if change > 4]
    assert cuts == [1.0, 2.0, 3.0, 4.0] and np.isnan(found.change[0])


def test_each_frame_is_stored_once_and_windows_are_views(films):
    cut = sample(Task(films / "a.mp4", PLAN, segmenting=Segmenting(3.0, 1.0, 3.0)))
    whole = sample(Task(films / "a.mp4", PLAN))
    assert len(cut.clips) == 2 and all(not clip.jpegs and clip.slots for clip in cut.clips)
    assert cut.jpegs == whole.jpegs == cut.timeline.jpegs and len(cut.jpegs) < 20
    every = sample(Task(films / "a.mp4", FramePlan("timeline", fps=4.0, size=64)))
    assert every.timeline.ts.tolist() == [k / 4 for k in range(20)]
    assert set(cut.timeline.ts) < set(every.timeline.ts)


def test_lines_of_a_manifest_share_what_they_name_of_a_file(films):
    found = sample(Task(films / "a.mp4", PLAN, spans=(Span(3.0, 4.0), Span(0.5, 1.5), Span(9.0, 9.5))))
    ts = found.timeline.ts
    assert ((ts >= 0.5) & (ts < 1.5) | (ts >= 3.0) & (ts < 4.0)).all()
    late, early, outside = found.clips
    assert ts[list(late.slots)].min() == 3.0 and ts[list(early.slots)].max() < 1.5
    assert outside.slots is None and "it ends at 5.00 s" in outside.reason


def test_a_repaired_shard_is_what_it_was(made, tmp_path):
    out = Path(shutil.copytree(made, tmp_path / "out"))
    (shard,) = (out / "frames").glob("*.safetensors")
    before = shard.read_bytes()
    shard.write_bytes(before[:-1] + b"x")
    tvr("extract-frames", "--repair", shard.name, "-o", out, "--workers", 1)
    assert shard.read_bytes() == before


# ----------------------------------------------------------------------------------------------------------- features


def test_each_frame_is_encoded_once(made, tmp_path, monkeypatch):
    from tvr_cli.backbones.openclip.backbone import OpenClipBackbone

    out, seen = Path(shutil.copytree(made, tmp_path / "out")), Counter[str]()
    shutil.rmtree(out / "features")
    encode_frames = OpenClipBackbone.encode_frames

    def counted(self, pixels, real):
        seen["frames"] += int(real.sum())
        return encode_frames(self, pixels, real)

    monkeypatch.setattr(OpenClipBackbone, "encode_frames", counted)
    tvr("precompute-features", "-o", out, "--backbone", "demo-tiny")
    frames = FrameStore.open(out / "frames")
    assert seen["frames"] == frames.count_frames(frames.films()) < sum(r.n_frames for r in frames.records) * 3


def test_info_counts_the_frames_that_are_kept_and_not_the_slots_of_windows(made):
    frames = FrameStore.open(made / "frames")
    (part, *_) = json.loads(tvr("info", made, "--json"))["parts"]
    assert part["frames"] == frames.count_frames(frames.films()) != frames.counts.frames


@pytest.mark.parametrize("blow", ["lost", "cut", "other"])
def test_a_lost_or_cut_shard_of_films_is_told_with_what_mends_it(blow, made, tmp_path):
    out = Path(shutil.copytree(made, tmp_path / "out"))
    shutil.rmtree(out / "features")
    (shard,) = (out / "frames").glob("*.safetensors")
    if blow == "lost":
        shard.unlink()
    elif blow == "cut":
        shard.write_bytes(shard.read_bytes()[:100])
    else:
        save_file({"clip_offsets": torch.zeros(1, dtype=torch.int64)}, shard)
    for verb in (["precompute-features", "--backbone", "demo-tiny"], ["info"]):
        done = CliRunner().invoke(app, [*verb, *(["-o"] if verb != ["info"] else []), str(out)])
        assert done.exit_code == 3, done.output
        assert f"tvr extract-frames --repair {shard.name} -o {out}" in done.output


def test_a_window_has_the_features_of_its_frames(made):
    frames, store = FrameStore.open(made / "frames"), Workspace(made).newest_features("demo-tiny")
    assert isinstance(store, FeatureStore) and store.has_films
    rows = {clip.id: row for row, clip in enumerate(store.clips)}
    for film in frames.films():
        of = store.films.get(film.key)
        assert of is not None and of.ts.tolist() == frames.timeline(film).ts.tolist()
        for clip in film.clips:
            video = store.video(torch.tensor([rows[clip.record.id]]))
            slots = list(clip.slots or ())
            assert video.n_frames.item() == len(slots) and video.ts[0, : len(slots)].tolist() == of.ts[slots].tolist()
            assert torch.equal(video.frames[0, : len(slots)], of.frames[slots])


def test_what_is_there_is_not_encoded_again(made, tmp_path, monkeypatch):
    out = Path(shutil.copytree(made, tmp_path / "out"))
    said = json.loads(tvr("precompute-features", "-o", out, "--backbone", "demo-tiny", "--json"))
    assert (said["clips"]["encoded"], said["clips"]["kept"]) == (0, 4)
    shards = sorted(p.name for p in (out / "features").glob("*/*.safetensors"))
    assert Counter(name.partition("-")[0] for name in shards) == {"video": 1, "timeline": 1}


# -------------------------------------------------------------------------------------------------------------- search


def sentence(name: str, number: int) -> str:
    return grammar.clause(Random(1), scenes(name)[number])


def test_a_moment_is_found_at_its_second_with_both_ways_alike(made, tmp_path, monkeypatch):
    out = Path(shutil.copytree(made, tmp_path / "out"))
    asked = [sentence(name, number) for name, n in SCENES.items() for number in range(n)]
    session = Session(Workspace(out), Asked(backbone="demo-tiny"), offline=True)
    answers = session.answer(asked, SearchOptions(k=5, per_file=0))
    truth = [(name, i, i + 1) for name, n in SCENES.items() for i in range(n)]
    for hits in answers:
        assert all(hit.start <= hit.peak <= hit.end for hit in hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    found = [[(hit.video_id, hit.start, hit.end) for hit in hits] for hits in answers]
    # Of a thing that blinks, a moment may lack the quarter of a second in which it is not seen.
    right = [
        [name == true[0] and max(abs(start - true[1]), abs(end - true[2])) <= 0.25 for name, start, end in spans]
        for spans, true in zip(found, truth, strict=True)
    ]
    assert sum(one[0] for one in right) >= 6 and sum(map(any, right)) >= 8, found
    from tvr_cli.engine.searching import light

    lightly = light.answer(Workspace(out), Asked(backbone="demo-tiny"), asked, SearchOptions(k=5, per_file=0))
    assert lightly is not None
    for one, other in zip(answers, lightly, strict=True):
        assert [(h.video_id, h.start, h.end, h.peak) for h in one] == [
            (h.video_id, h.start, h.end, h.peak) for h in other
        ]
        assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=1e-3)


@pytest.mark.parametrize("per_file", [0, 2])
def test_an_answer_is_full_however_many_moments_are_looked_at(made, tmp_path, monkeypatch, per_file):
    from tvr_cli.engine.searching import moments

    session = Session(Workspace(Path(shutil.copytree(made, tmp_path / "out"))), Asked(backbone="demo-tiny"))
    asked, options = [sentence("a.mp4", 1)], SearchOptions(k=50, per_file=per_file)
    (whole,) = session.answer(asked, options)
    monkeypatch.setattr(moments, "_LOOKED_AT", 1)
    (again,) = session.answer(asked, options)
    assert len(whole) > 2 * (per_file == 0) and {hit.video_id for hit in whole} == set(SCENES)
    assert [(hit.video_id, hit.start, hit.end) for hit in again] == [(h.video_id, h.start, h.end) for h in whole]


@pytest.mark.parametrize("by_frames", [True, False])
def test_an_answer_may_be_of_some_files_only(made, tmp_path, monkeypatch, by_frames):
    from tvr_cli.engine.searching import session as sessions

    monkeypatch.setattr(sessions, "_by_frames_alone", lambda scorer: by_frames)
    session = Session(Workspace(Path(shutil.copytree(made, tmp_path / "out"))), Asked(backbone="demo-tiny"))
    asked = [sentence("a.mp4", 1)]
    (whole,) = session.answer(asked, SearchOptions(k=50, per_file=0))
    (some,) = session.answer(asked, SearchOptions(k=50, per_file=0, only=frozenset({"b.mp4"})))
    of_b = [(hit.start, hit.end, hit.peak) for hit in whole if hit.video_id == "b.mp4"]
    assert of_b and [(hit.start, hit.end, hit.peak) for hit in some] == of_b
    assert session.answer(asked, SearchOptions(only=frozenset({"c.mp4"}))) == [[]]


def test_the_flags_below_an_answer_show_all_that_it_left_out(made, tmp_path):
    out = Path(shutil.copytree(made, tmp_path / "out"))
    asked = ["query", sentence("a.mp4", 0), "-o", out]
    said = [line for line in tvr(*asked, "--per-file", 1).splitlines() if "more moment" in line]
    flags = said[0].rpartition("; ")[2].removesuffix(" shows all").split()
    assert "more moment" not in (shown := tvr(*asked, *flags))
    left_out = [int(line.partition(": ")[2].split()[0]) for line in said]
    assert len(shown.splitlines()) == 2 + 2 + sum(left_out)  # two lines of the head, a moment of each file, the rest


def test_a_method_that_scores_pairs_ranks_windows_and_films_say_where(made, tmp_path):
    from tvr_cli.engine.searching import session as sessions

    out = Path(shutil.copytree(made, tmp_path / "out"))
    session = Session(Workspace(out), Asked(backbone="demo-tiny"), offline=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "_by_frames_alone", lambda scorer: False)
        (hits,) = session.answer([sentence("a.mp4", 1)], SearchOptions(k=4, per_file=0))
    assert hits and all(hit.start <= hit.peak <= hit.end for hit in hits)
    assert all(round(hit.start) + 1 >= hit.end for hit in hits), "a moment crosses a cut"  # edges are half a look early
    assert len({(hit.video_id, hit.start) for hit in hits}) == len(hits)


def test_windows_of_several_scenes_give_several_moments_with_the_score_of_the_window(made, tmp_path):
    from tvr_cli.engine.searching import session as sessions

    out = Path(shutil.copytree(made, tmp_path / "out"))
    session = Session(Workspace(out), Asked(backbone="demo-tiny"), offline=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "_by_frames_alone", lambda scorer: False)
        (hits,) = session.answer([sentence("a.mp4", 1)], SearchOptions(k=50, per_file=0))
    index = Index.open(out / "index")
    scores = [hit.score for hit in hits]
    assert len(set(scores)) <= len(index) < len(hits) and scores == sorted(scores, reverse=True)
    assert max(map(scores.count, scores)) >= 3  # of a window of three scenes


def test_an_encoder_whose_space_is_turned_and_larger_finds_the_same_moments(made, tmp_path):
    asked, options = [sentence("a.mp4", 1), "a street at night", "two people talk"], SearchOptions(k=20, per_file=0)
    found = []
    for name in ("foreign_backbone:Backbone", "foreign_backbone:Turned"):
        shutil.copytree(made / "frames", (out := tmp_path / name.rpartition(":")[2]) / "frames")
        tvr("precompute-features", "-o", out, "--backbone", name)
        found.append(Session(Workspace(out), Asked(backbone=name, method="mean")).answer(asked, options))
    for one, other in zip(*found, strict=True):
        assert len(one) > 3
        assert [(h.video_id, h.start, h.end) for h in one] == [(h.video_id, h.start, h.end) for h in other]
        # Frames are kept in half precision, and a cosine counts fifty times.
        assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=50 * 1e-4)
    assert all(hits[0].score - hits[-1].score > 1 for hits in found[0])


def test_a_damaged_film_is_found_before_it_is_shown(made, tmp_path):
    out = Path(shutil.copytree(made, tmp_path / "out"))
    asked, options = [sentence("a.mp4", 1)], SearchOptions(k=3)
    assert Session(Workspace(out), Asked(backbone="demo-tiny"), offline=True).answer(asked, options)[0]
    (segment,) = indexes.head(out / "index")["segments"]
    for name in ("timeline.frames", "timeline.moment"):
        file = next(part["file"] for part in segment["parts"] if part["name"] == name)
        (path,) = (out / "index").glob(f"*/{file}")
        before = path.read_bytes()
        path.write_bytes(bytes([before[0] ^ 1]) + before[1:])
        with pytest.raises(DataError, match="differs from its checksum"):
            Session(Workspace(out), Asked(backbone="demo-tiny"), offline=True).answer(asked, options)
        path.write_bytes(before)


def test_a_head_that_lacks_a_part_of_its_films_is_refused(made, tmp_path):
    out = Path(shutil.copytree(made, tmp_path / "out"))
    Session(Workspace(out), Asked(backbone="demo-tiny"), offline=True).answer(["a star"], SearchOptions(k=1))

    def forget(head):
        head["segments"][0]["parts"] = [p for p in head["segments"][0]["parts"] if p["name"] != "timeline.null"]

    indexes.edit_head(out / "index", forget)
    with pytest.raises(DataError, match="lacks"):
        Index.open(out / "index")


def test_an_index_that_grew_answers_as_one_made_anew(films, made, tmp_path):
    folder, out = tmp_path / "films", tmp_path / "out"
    folder.mkdir()
    asked = [sentence("a.mp4", 1), sentence("b.mp4", 2)]
    flags = ("--fps", 4, "--size", 64, "--segment", "3/1", "--workers", 1)

    def answers(out: Path):
        found = Session(Workspace(out), Asked(backbone="demo-tiny"), offline=True).answer(asked, SearchOptions(k=6))
        return [[(h.video_id, h.start, h.end, round(h.score, 3)) for h in hits] for hits in found]

    for name in SCENES:
        shutil.copy(films / name, folder)
        tvr("extract-frames", folder, "-o", out, *flags)
        tvr("precompute-features", "-o", out, "--backbone", "demo-tiny")
        both = answers(out)
    (folder / "b.mp4").unlink()
    assert len(indexes.head(out / "index")["segments"]) == 2
    edge = indexes.head(out / "index")["measured"]["moments"]["edge"]
    anew = Path(shutil.copytree(made, tmp_path / "anew"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tvr_cli.engine.searching.films.measured_edge", lambda store: edge)
        assert answers(anew) == both
    tvr("extract-frames", folder, "-o", out, *flags, "--forget")
    tvr("precompute-features", "-o", out, "--backbone", "demo-tiny")
    assert {video for hits in answers(out) for video, *_ in hits} == {"a.mp4"}


@pytest.mark.parametrize("ids", [False, True])
def test_lines_of_a_manifest_are_found_whatever_came_and_went(films, tmp_path, ids):
    """Each line is a film of its own: two of one file, together or one after the other, under one name or two."""
    folder, out = tmp_path / "films", tmp_path / "out"
    shutil.copytree(films, folder)
    lines = [{"path": "a.mp4", "start": 0.0, "end": 2.0}, {"path": "a.mp4", "start": 3.0, "end": 5.0}]
    for number, line in enumerate(lines if ids else ()):
        line["id"] = f"part {number}"
    other = {"path": "b.mp4"}

    def answer(*some: dict[str, object]) -> dict[str, list[float]]:
        """Return the seconds at which moments of each file begin."""
        (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, some)))
        tvr("extract-frames", folder / "lines.jsonl", "-o", out, "--fps", 4, "--size", 64, "--workers", 1, "--forget")
        tvr("precompute-features", "-o", out, "--backbone", "demo-tiny")
        session = Session(Workspace(out), Asked(backbone="demo-tiny"), offline=True)
        (hits,) = session.answer([sentence("a.mp4", 1)], SearchOptions(k=50, per_file=0))
        begins: dict[str, list[float]] = {}
        for hit in hits:
            begins.setdefault(hit.video_id, []).append(hit.start)
        return {name: sorted(found) for name, found in begins.items()}

    one, two = ("part 0", "part 1") if ids else ("a.mp4", "a.mp4")
    both = answer(*lines, other)
    assert set(both) == {one, two, "b.mp4"} and both[one][0] == 0.0 and both[two][-1] == 3.875  # half a look before 4
    fewer = answer(lines[0], other)
    assert set(fewer) == {one, "b.mp4"} and max(fewer[one]) < 2.0
    assert {name: at[0] for name, at in answer(*lines, other).items()} == {name: at[0] for name, at in both.items()}


def test_a_dry_run_over_films_that_are_there_has_nothing_to_do(made):
    said = json.loads(tvr("precompute-features", "-o", made, "--backbone", "demo-tiny", "--dry-run", "--json"))
    assert said["sizes"]["frames"] == 0 and said["seconds"] == 0


def test_a_film_key_does_not_depend_on_how_it_is_cut(made, films, tmp_path):
    tvr("extract-frames", films, "-o", tmp_path / "whole", "--fps", 4, "--size", 64, "--workers", 1)
    keys = [{film_row_key(f.key) for f in FrameStore.open(o / "frames").films()} for o in (made, tmp_path / "whole")]
    assert keys[0] == keys[1]
