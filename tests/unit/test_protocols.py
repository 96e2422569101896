"""Protocols: the variants of a data set, the spellings of DiDeMo's names, and galleries that the user lists."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from miniature import sentence, write_dataset
from videos import make_video

from tvr_cli import data
from tvr_cli.data.annotation_files import VideoFiles, video_stem
from tvr_cli.engine.features import corpus
from tvr_cli.engine.whole.dataset_doctor import dataset_checks
from tvr_cli.errors import ConfigError, DataError


def didemo(root: Path, *, listed: list[str] | None = None, files: list[str] = ()) -> Path:
    """A DiDeMo whose test names are as the official ones: one video twice, one name that ends in a dot.

    listed: the names of test_list.txt. files: names of videos, empty ones.
    """
    root.mkdir()
    records = {
        "train": [("1@N00_a.mov", "a dog")],
        "val": [("2@N00_b.avi", "a cat")],
        "test": [
            ("3@N00_c.mov", "a boy runs"),
            ("3@N00_c.mp4", "he falls"),
            ("4@N00_d.", "a ball"),
            ("3@N00_c.mov", "he stands up"),
            ("5@N00_e.mp4", "a car"),
        ],
    }
    for split, rows in records.items():
        rows_ = [{"video": video, "description": text, "times": [[0, 0]]} for video, text in rows]
        (root / f"{split}_data.json").write_text(json.dumps(rows_))
    if listed is not None:
        lists = {"train": ["1@N00_a.mov"], "val": ["2@N00_b.avi"], "test": listed}
        for split, names in lists.items():
            (root / f"{split}_list.txt").write_text("".join(f"{name}\n" for name in names))
    for name in files:
        (root / name).touch()
    return root


def queries(spec: str) -> dict[str, str]:
    """The test queries of a data set by video."""
    return {c.video: c.text for c in data.load(spec).captions if c.split == "test"}


WHOLE = {"3@N00_c.mov": "a boy runs he falls he stands up", "4@N00_d.": "a ball", "5@N00_e.mp4": "a car"}


@pytest.mark.parametrize(
    "listed",
    [
        None,
        ["3@N00_c.mov", "4@N00_d.", "5@N00_e.mp4"],
        ["3@N00_c.mp4", "4@N00_d.mp4", "5@N00_e.mp4"],
        ["3@N00_c.mov", "3@N00_c.mp4", "4@N00_d.", "5@N00_e.mp4"],
    ],
    ids=["none", "first spelling", "converted", "both"],
)
def test_didemo_has_one_paragraph_a_video_whatever_a_list_says(tmp_path, listed):
    assert queries(f"didemo:{didemo(tmp_path / 'd', listed=listed)}") == WHOLE


def test_didemo_keeps_each_name_apart_where_that_is_the_protocol(tmp_path):
    root = didemo(tmp_path / "d", listed=["3@N00_c.mp4", "4@N00_d.", "5@N00_e.mp4"])
    assert queries(f"didemo:{root}:names") == {
        "3@N00_c.mov": "a boy runs he stands up",
        "3@N00_c.mp4": "he falls",
        "4@N00_d.": "a ball",
        "5@N00_e.mp4": "a car",
    }


def test_didemo_drops_the_sentences_of_the_other_name_where_that_is_the_protocol(tmp_path):
    root = didemo(tmp_path / "d", listed=["3@N00_c.mp4", "4@N00_d.", "5@N00_e.mp4"])
    assert queries(f"didemo:{root}:lists") == {"3@N00_c.mp4": "he falls", "4@N00_d.": "a ball", "5@N00_e.mp4": "a car"}
    with pytest.raises(DataError, match=r"expected train_list\.txt or train_list_mp4\.txt below"):
        data.load(f"didemo:{didemo(tmp_path / 'bare')}:lists")


def test_didemo_says_how_many_videos_are_named_twice(tmp_path):
    root = didemo(tmp_path / "d", listed=["3@N00_c.mov", "4@N00_d.", "5@N00_e.mp4"])
    said = {
        None: "4 names, 3 videos; one video each, with the sentences of both",
        "names": "4 names, 3 videos; each name is a video of its own here",
        "lists": "4 names, 3 videos; the sentences of the name that the list does not have are dropped here",
    }
    for variant, words in said.items():
        manifest = data.load(f"didemo:{root}" + (f":{variant}" if variant else ""))
        assert manifest.variant == variant
        assert any(note.startswith("test: 1 videos are named twice") and words in note for note in manifest.notes)


def test_the_doctor_does_not_blame_two_names_of_one_video_on_the_files(tmp_path):
    files = ["1@N00_a.mov", "2@N00_b.avi", "3@N00_c.mp4", "4@N00_d.mp4", "5@N00_e.mp4"]
    root = didemo(tmp_path / "d", files=files)
    for spec in (f"didemo:{root}", f"didemo:{root}:names"):
        checks = {c.name: c for c in dataset_checks(spec)}
        assert checks["videos"].ok and checks["one file an id"].ok, checks
    assert "1 files serve two names of one video" in checks["one file an id"].detail


@pytest.mark.parametrize("file", ["4@N00_d.mp4", "4@N00_d..mp4", "4@N00_d.", "4@N00_d.mov"])
def test_a_name_that_ends_in_a_dot_finds_its_file(tmp_path, file):
    root = didemo(tmp_path / "d", files=[file])
    clip = next(c for c in data.load(f"didemo:{root}").clips if c.id == "4@N00_d.")
    assert clip.path.name == file


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("1@N00_a.mov", "1@N00_a"),
        ("1@N00_a.", "1@N00_a"),
        ("1@N00_a..mp4", "1@N00_a"),
        ("1@N00_5.7_ab", "1@N00_5.7_ab"),
        ("folder/1@N00_5.7_ab.3gp", "1@N00_5.7_ab"),
        ("1012_Unbreakable_00.05.16.065-00.05.21.941", "1012_Unbreakable_00.05.16.065-00.05.21.941"),
        ("1012_Unbreakable_00.05.16.065-00.05.21.941.avi", "1012_Unbreakable_00.05.16.065-00.05.21.941"),
    ],
)
def test_the_stem_of_a_name_is_what_a_converted_video_keeps(name, stem):
    assert video_stem(name) == stem


def test_a_converted_video_of_a_name_with_dots_is_found(tmp_path):
    (tmp_path / "1@N00_5.7_ab.mp4").touch()
    assert VideoFiles(tmp_path).stem_of("1@N00_5.7_ab") == tmp_path / "1@N00_5.7_ab.mp4"


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    folder = tmp_path_factory.mktemp("protocols")
    return lambda name: write_dataset(name, folder / name)


def test_msvd_takes_one_caption_or_one_paragraph_a_video(miniature):
    root = miniature("msvd")
    video = "-16wsuPCjDBc_16_23"
    assert queries(f"msvd:{root}:one-caption")[video] == sentence(16)
    assert queries(f"msvd:{root}:paragraphs")[video] == f"{sentence(16)} {sentence(16, 1)}"


def test_msrvtt_1k_b_asks_with_the_first_caption(miniature):
    found = queries(f"msrvtt:{miniature('msrvtt')}:1k-B")
    assert found == {f"video{7000 + n}": sentence(n) for n in range(14, 20)}


def test_activitynet_val_2_has_its_own_paragraphs(miniature):
    root = miniature("activitynet")
    first, second = queries(f"activitynet:{root}"), queries(f"activitynet:{root}:val_2")
    assert second.keys() < first.keys() and not set(first.values()) & set(second.values())


def test_lsmdc_999_leaves_out_one_clip_and_says_so(miniature):
    root = miniature("lsmdc")
    (gone,) = queries(f"lsmdc:{root}").keys() - queries(f"lsmdc:{root}:999").keys()
    assert gone == "1012_Unbreakable_00.05.16.065-00.05.21.941"
    assert gone in data.load(f"lsmdc:{root}:999").notes[0]


def test_the_sizes_of_the_protocols_are_those_in_use():
    expected = {
        ("msvd", "one-caption"): 670,
        ("msvd", "paragraphs"): 670,
        ("msrvtt", "1k-B"): 1000,
        ("activitynet", "val_2"): 4885,
        ("didemo", "names"): 1037,
        ("didemo", "lists"): 1004,
        ("lsmdc", "999"): 999,
    }
    for (name, variant), videos in expected.items():
        size = data.find(name).sizes(variant)["test"]
        assert (size.videos, size.captions) == (videos, videos)
    assert data.find("didemo").sizes("names")["val"].videos == 1094
    known = {name: set(data.find(name).galleries) for name in ("msrvtt", "msvd", "activitynet", "didemo")}
    assert known == {"msrvtt": {879, 884}, "msvd": {660}, "activitynet": {4884}, "didemo": {1003}}


def test_a_listed_gallery_is_cut_counted_and_named_by_its_hash(miniature, tmp_path):
    root, file = miniature("msrvtt"), tmp_path / "sound.txt"
    file.write_text("video7017\nvideo7019\n")
    manifest = data.load(f"msrvtt:{root}:{file}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    assert {c.video for c in manifest.captions if c.split == "test"} == {"video7017", "video7019"}
    assert sum(c.split == "train" for c in manifest.captions) == 32
    assert manifest.variant == f"list:{digest}" and manifest.expected["test"] == 2
    assert {"video7016", "video7018"}.isdisjoint(c.id for c in manifest.clips)
    assert file in manifest.annotations
    assert manifest.notes[-1] == (
        "the test gallery is a list of 2 videos, cut from the variant 9k: no gallery of this size is known here; "
        f"whether it is theirs cannot be told (sha256 {digest}, not known here)"
    )


def test_a_listed_gallery_is_read_again_from_what_a_workspace_keeps(miniature, tmp_path):
    file = tmp_path / "sound.txt"
    file.write_text("video7017\n")
    manifest = data.load(f"msrvtt:{miniature('msrvtt')}:{file}")
    kept = corpus._origin(manifest)["data"]
    assert data.load(kept) == manifest


def test_a_count_that_is_in_use_is_named_and_still_not_known(miniature, tmp_path, monkeypatch):
    from tvr_cli.data import msrvtt

    monkeypatch.setattr(msrvtt, "GALLERIES", {2: "1k-A with sound as in GRAM"})
    file = tmp_path / "sound.txt"
    file.write_text("video7017\nvideo7019\n")
    note = data.load(f"msrvtt:{miniature('msrvtt')}:{file}").notes[-1]
    assert "as many as 1k-A with sound as in GRAM; whether it is theirs cannot be told" in note


def test_a_list_takes_the_smallest_gallery_that_holds_it(miniature, tmp_path):
    root, file = miniature("activitynet"), tmp_path / "board.txt"
    ids = list(queries(f"activitynet:{root}:val_2"))
    file.write_text("".join(f"{video}\n" for video in ids[:2]))
    assert queries(f"activitynet:{root}:{file}") == {v: queries(f"activitynet:{root}:val_2")[v] for v in ids[:2]}


def test_a_list_may_name_converted_videos(tmp_path):
    root, file = didemo(tmp_path / "d"), tmp_path / "converted.txt"
    file.write_text("3@N00_c.mp4\n4@N00_d.mp4\n")
    found = queries(f"didemo:{root}:{file}")
    assert found == {video: WHOLE[video] for video in ("3@N00_c.mov", "4@N00_d.")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected one video id a line, found none"),
        ("video7017\nvideo7017\n", ":2: the video 'video7017' is that of line 1 already"),
        ("video7017\nvideo7000\nvideo1\n", ":2: the video 'video7000' is not a test video of msrvtt (2 of 3"),
    ],
)
def test_a_list_that_is_none_is_a_sentence_with_the_line(miniature, tmp_path, text, words):
    file = tmp_path / "list.txt"
    file.write_text(text)
    with pytest.raises(DataError) as e:
        data.load(f"msrvtt:{miniature('msrvtt')}:{file}")
    assert words in str(e.value)


def test_a_list_that_is_not_there_and_a_typo_are_told_apart(miniature, tmp_path):
    with pytest.raises(DataError, match="expected a list of video ids, one a line, at"):
        data.load(f"msrvtt:{miniature('msrvtt')}:{tmp_path}/nothing.txt")
    with pytest.raises(ConfigError, match="did you mean 1k-B"):
        data.load(f"msrvtt:{miniature('msrvtt')}:1kB")


@pytest.mark.parametrize(
    ("name", "video", "seconds"),
    [
        ("vatex", "Ptf_2VRj-V0_000122_000132", 10.0),
        ("vatex", "Ptf_2VRj-V0", None),
        ("msvd", "-4wsuPCjDBc_5_15", 10.0),
        ("msvd", "-4wsuPCjDBc_15_5", None),
        ("lsmdc", "1012_Unbreakable_00.05.16.065-00.05.21.941", 5.876),
        ("lsmdc", "1012_Unbreakable_00.59.59.000-01.00.01.500", 2.5),
        ("lsmdc", "1012_Unbreakable", None),
        ("msrvtt", "video7020", None),
    ],
)
def test_an_id_with_times_says_how_long_its_video_is(name, video, seconds):
    found = data.find(name).seconds_of(video)
    assert found is None if seconds is None else found == pytest.approx(seconds)


def test_the_deep_doctor_names_videos_that_were_never_trimmed(miniature, tmp_path):
    root = shutil.copytree(miniature("vatex"), tmp_path / "vatex")
    before = {c.name: c for c in dataset_checks(f"vatex:{root}", deep=True)}["lengths"]
    assert before.ok and "no video is longer than its id says; 20 of 20 videos are less than half of" in before.detail
    film = "Ptf_2VRj-V3_000003_000013"
    pictures = [np.full((64, 64, 3), 100, dtype=np.uint8)] * 314
    make_video(root / "videos" / f"{film}.mp4", 314, fps=2, size=(64, 64), pictures=pictures)
    check = {c.name: c for c in dataset_checks(f"vatex:{root}", deep=True)}["lengths"]
    assert not check.ok and check.incomplete
    assert f"1 of 20 videos are longer than their ids say: '{film} lasts 157.0 s, its id says 10 s'" in check.detail
