"""Every loader on a miniature of its data set, its official numbers, and what bad annotation files get."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter

import numpy as np
import pytest
from miniature import sentence, write_dataset

from tvr_cli import data
from tvr_cli.data.sizes import videos_of
from tvr_cli.errors import ConfigError, DataError

# name, variant, videos and captions of train, val and test in the miniature
CASES = [
    ("msrvtt", "9k", (16, 0, 4), (32, 0, 4)),
    ("msrvtt", "7k", (12, 0, 4), (24, 0, 4)),
    ("msrvtt", "full", (12, 4, 4), (24, 8, 8)),
    ("msrvtt", "1k-B", (14, 0, 6), (28, 0, 6)),
    ("msvd", "one-caption", (12, 4, 4), (30, 4, 4)),
    ("msvd", "paragraphs", (12, 4, 4), (30, 4, 4)),
    ("didemo", "names", (12, 4, 4), (12, 4, 4)),
    ("didemo", "lists", (12, 4, 4), (12, 4, 4)),
    ("activitynet", "val_2", (16, 0, 3), (16, 0, 3)),
    ("lsmdc", "999", (12, 4, 3), (13, 4, 3)),
    ("msvd", None, (12, 4, 4), (30, 10, 10)),
    ("didemo", None, (12, 4, 4), (12, 4, 4)),
    ("activitynet", None, (16, 0, 4), (16, 0, 4)),
    ("vatex", "hgr", (12, 4, 4), (36, 12, 12)),
    ("vatex", "lists", (16, 0, 4), (48, 0, 12)),
    ("vatex", "official", (12, 4, 4), (36, 12, 12)),
    ("lsmdc", None, (12, 4, 4), (13, 4, 4)),
    ("jsonl", None, (12, 4, 4), (12, 4, 4)),
]


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("miniatures")
    return lambda name, variant=None: write_dataset(name, folder / f"{name}-{variant}", variant)


def spec(name, root, variant):
    return f"{name}:{root}" + (f":{variant}" if variant else "")


@pytest.mark.parametrize(("name", "variant", "videos", "captions"), CASES)
def test_a_miniature_is_read_whole(miniatures, name, variant, videos, captions):
    manifest = data.load(spec(name, miniatures(name, variant), variant))
    assert manifest.name == name and not manifest.missing
    by_split = Counter(c.split for c in manifest.captions)
    of_split = {s: {c.video for c in manifest.captions if c.split == s} for s in ("train", "val", "test")}
    assert tuple(by_split[s] for s in ("train", "val", "test")) == captions
    assert tuple(len(of_split[s]) for s in ("train", "val", "test")) == videos
    assert {c.id for c in manifest.clips} == set().union(*of_split.values())
    assert all(c.path.is_file() for c in manifest.clips)
    assert len({c.id for c in manifest.captions}) == len(manifest.captions)


def test_paragraphs_join_sentences_in_order(miniatures):
    for name in ("didemo", "activitynet"):
        manifest = data.load(f"{name}:{miniatures(name)}")
        first = next(c for c in manifest.captions if c.split == "test")
        assert first.text == f"{sentence(16)} {sentence(16, 1)}"


def test_didemo_takes_the_first_30_seconds(miniatures):
    manifest = data.load(f"didemo:{miniatures('didemo')}")
    assert {(c.start, c.end) for c in manifest.clips} == {(0.0, 30.0)}


def test_msvd_reads_the_json_too_and_refuses_pickles_that_run_code(miniatures, tmp_path):
    root = shutil.copytree(miniatures("msvd"), tmp_path / "msvd")
    captions = pickle.loads((root / "raw-captions.pkl").read_bytes())
    (root / "raw-captions.pkl").unlink()
    (root / "captions_msvd.json").write_text(json.dumps({k: [" ".join(c) for c in v] for k, v in captions.items()}))
    assert len(data.load(f"msvd:{root}").captions) == 50

    class Evil:
        def __reduce__(self):
            return (eval, ("1/0",))

    (root / "raw-captions.pkl").write_bytes(pickle.dumps({"a": [Evil()]}))
    with pytest.raises(DataError, match=r"builtins\.eval"):
        data.load(f"msvd:{root}")


def test_missing_videos_are_listed(miniatures, tmp_path):
    root = shutil.copytree(miniatures("msrvtt", "9k"), tmp_path / "msrvtt")
    (root / "videos" / "video7018.mp4").unlink()
    manifest = data.load(f"msrvtt:{root}")
    assert manifest.missing == ("video7018",)
    assert any(c.video == "video7018" for c in manifest.captions)  # its captions stay: completeness is judged by them


def test_lsmdc_quotes_and_repeated_ids(miniatures):
    manifest = data.load(f"lsmdc:{miniatures('lsmdc')}")
    first = manifest.captions[0].video
    own = [c for c in manifest.captions if c.video == first]
    assert [c.text for c in own] == [sentence(0), sentence(0, 1)] and [c.id for c in own] == [
        f"{first}#0",
        f"{first}#1",
    ]


def test_derived_lists_equal_the_files(miniatures, tmp_path):
    root = shutil.copytree(miniatures("msrvtt", "9k"), tmp_path / "msrvtt")
    whole = data.load(f"msrvtt:{root}:9k")
    (root / "MSRVTT_train.9k.csv").unlink()
    derived = data.load(f"msrvtt:{root}:9k")
    assert derived.captions == whole.captions and "the same list" in " ".join(derived.notes)


def test_official_msrvtt_files_are_accepted(miniatures, tmp_path):
    root = shutil.copytree(miniatures("msrvtt", "9k"), tmp_path / "msrvtt")
    whole = json.loads((root / "MSRVTT_data.json").read_text())
    (root / "MSRVTT_data.json").unlink()
    for file, wanted in (
        ("train_val_videodatainfo.json", ("train", "validate")),
        ("test_videodatainfo.json", ("test",)),
    ):
        videos = [v for v in whole["videos"] if v["split"] in wanted]
        ids = {v["video_id"] for v in videos}
        sentences = [s for s in whole["sentences"] if s["video_id"] in ids]
        (root / file).write_text(json.dumps({"videos": videos, "sentences": sentences}))
    assert len(data.load(f"msrvtt:{root}:full").captions) == 40


def replace(file, old, new):
    def damage(root):
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return damage


def append(file, text):
    return lambda root: (root / file).write_text((root / file).read_text() + text)


def latin1(file):
    return lambda root: (root / file).write_bytes(b"a\t0\t1\t0\t1\tgar\xe7on\n")


def pickled_names(root):
    np.save(root / "tst_names.npy", np.array(["a", 1], dtype=object))


def renamed(old, new):
    return lambda root: (root / old).rename(root / new)


def leaking(source, target, spelt=("", "")):
    """Make the split of `target` hold the first record of `source` too, spelt otherwise, and leave its list out."""

    def damage(root):
        read, into = (json.loads((root / f).read_text()) for f in (source, target))
        if isinstance(into, dict):
            first = next(iter(read))
            into[first] = read[first]
            (root / "val_ids.json").unlink()
        else:
            into.append({**read[0], "video": read[0]["video"].replace(*spelt)})
            (root / "test_list.txt").unlink()
        (root / target).write_text(json.dumps(into))

    return damage


LSMDC_ROW = f"1012_Unbreakable_00.00.06.065-00.00.09.941\t0\t1\t0\t1\t{sentence(0)}\n"
JSON, TEST_CSV, VAL_CSV = "MSRVTT_data.json", "MSRVTT_JSFUSION_test.csv", "LSMDC16_annos_val.csv"
BAD = [
    ("msrvtt", "9k", renamed(JSON, "MSRVTT-data.json"), "did you mean the file MSRVTT-data"),
    ("msrvtt", "9k", append(JSON, "}"), r"MSRVTT_data\.json:1: not valid JSON"),
    ("msrvtt", "9k", replace(JSON, '"caption"', '"captoin"'), "'caption' is missing"),
    ("msrvtt", "9k", replace("MSRVTT_train.9k.csv", "video_id", "id"), r"\.csv:1: expected the header"),
    ("msrvtt", "9k", append(TEST_CSV, "ret9,msr1,,a dog\n"), r"\.csv:6: the video_id is empty"),
    (
        "msrvtt",
        "9k",
        append("MSRVTT_train.9k.csv", "video7019\n"),
        r"test .'video7019'; .*9k\.csv:18 and .*test\.csv:5",
    ),
    ("msrvtt", "full", replace(JSON, '"validate"', '"dev"'), "unknown split 'dev'"),
    ("msvd", None, append("test_list.txt", "-3wsuPCjDBc_3_10\n"), r"train_list\.txt:4 and .*test_list\.txt:5"),
    ("didemo", None, leaking("train_data.json", "test_data.json"), r"train and in test.*train_list\.txt:1"),
    (
        "didemo",
        None,
        leaking("train_data.json", "test_data.json", spelt=("mov", "mp4")),
        r"1 videos are in train and in test \('(\S+)\.mov' as '\1\.mp4'.*train_list\.txt:1 and .*test_data\.json",
    ),
    ("activitynet", None, leaking("train.json", "val_1.json"), r"train_ids\.json:1 and .*val_1\.json:1"),
    (
        "vatex",
        "lists",
        append("test_list.txt", "Ptf_2VRj-V2_000002_000012\n"),
        r"train_list\.txt:3 and .*test_list\.txt:5",
    ),
    ("lsmdc", None, append(VAL_CSV, LSMDC_ROW), r"training\.csv:1 and .*val\.csv:5"),
    ("msvd", None, append("test_list.txt", "nobody_1_2\n"), r"test_list\.txt:5: the video 'nobody_1_2' has no"),
    ("didemo", None, replace("val_data.json", "description", "text"), "'description' is missing"),
    ("didemo", None, append("test_list.txt", "nobody@1.mov\n"), r"test_list\.txt:5: the video 'nobody@1"),
    ("activitynet", None, replace("val_ids.json", "16abc", "99abc"), "has no annotation in val_1"),
    ("vatex", "hgr", pickled_names, "pickled objects"),
    ("vatex", "lists", append("test_list.txt", "nobody\n"), "'nobody' of the split test has no captions"),
    ("lsmdc", None, replace(VAL_CSV, "\t", ","), r"val\.csv:1: expected 6 columns"),
    ("lsmdc", None, latin1(VAL_CSV), r"val\.csv:1: expected UTF-8.*iconv"),
]


def empty_row(file, line, column, delimiter):
    """Take the sentence out of one row of a table."""

    def damage(root):
        rows = (root / file).read_text().split("\n")
        cells = rows[line - 1].split(delimiter)
        cells[column] = "  "
        rows[line - 1] = delimiter.join(cells)
        (root / file).write_text("\n".join(rows))

    return damage


def empty_json(file, key, words):
    """Put `words` in the place of every value of a key, a JSON file's depth aside."""

    def emptied(value):
        if isinstance(value, dict):
            return {k: words if k == key else emptied(v) for k, v in value.items()}
        return [emptied(v) for v in value] if isinstance(value, list) else value

    return lambda root: (root / file).write_text(json.dumps(emptied(json.loads((root / file).read_text()))))


EMPTY = [
    (
        "msrvtt",
        "9k",
        empty_json(JSON, "caption", " "),
        r"MSRVTT_data\.json: video\d+#0: the caption has no words \(and \d+ more",
    ),
    ("msrvtt", "9k", empty_row(TEST_CSV, 3, 3, ","), r"test\.csv:3: ret\d+: the caption has no words; write"),
    ("didemo", None, empty_json("val_data.json", "description", ""), r"val_data\.json: .*#0: the caption has"),
    ("activitynet", None, empty_json("val_1.json", "sentences", []), r"val_1\.json: .*#0: the caption has"),
    ("lsmdc", None, empty_row(VAL_CSV, 2, 5, "\t"), r"val\.csv:2: .*#0: the caption has no words; write"),
]


@pytest.mark.parametrize(
    ("name", "variant", "damage", "message"), EMPTY, ids=[f"{e[0]}-{i}" for i, e in enumerate(EMPTY)]
)
def test_captions_without_words_are_refused_together_and_can_be_listed(
    miniatures, tmp_path, name, variant, damage, message
):
    root = shutil.copytree(miniatures(name, variant), tmp_path / name, ignore=shutil.ignore_patterns("videos"))
    whole = data.load(spec(name, root, variant))
    damage(root)
    with pytest.raises(DataError, match=message):
        data.load(spec(name, root, variant))
    assert [c.id for c in data.read(spec(name, root, variant)).captions] == [c.id for c in whole.captions]


@pytest.mark.parametrize(("name", "variant", "damage", "message"), BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_bad_annotations_get_one_message_with_the_place(miniatures, tmp_path, name, variant, damage, message):
    root = shutil.copytree(miniatures(name, variant), tmp_path / name, ignore=shutil.ignore_patterns("videos"))
    damage(root)
    with pytest.raises(DataError, match=message):
        data.load(spec(name, root, variant))


def test_unknown_names_and_variants_name_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean msrvtt"):
        data.load(f"msrvt:{tmp_path}")
    with pytest.raises(ConfigError, match="did you mean 9k"):
        data.load(f"msrvtt:{tmp_path}:9kk")
    with pytest.raises(DataError, match="found nothing there"):
        data.load("msvd:/nowhere/at/all")


def test_the_table_of_official_numbers_is_the_published_one():
    # Videos of train, val and test as counted from the split files that the community uses.
    expected = {
        ("msrvtt", "9k"): {"train": 9000, "test": 1000},
        ("msrvtt", "full"): {"train": 6513, "val": 497, "test": 2990},
        ("msvd", "default"): {"train": 1200, "val": 100, "test": 670},
        ("didemo", "default"): {"train": 8392, "val": 1065, "test": 1004},
        ("activitynet", "default"): {"train": 10009, "test": 4917},
        ("vatex", "hgr"): {"train": 25991, "val": 1500, "test": 1500},
        ("lsmdc", "default"): {"val": 7408, "test": 1000},
    }
    for (name, variant), videos in expected.items():
        assert videos_of(data.find(name).sizes(variant)) == videos
    assert data.find("msvd").sizes(None)["test"].captions == 27763
    assert data.find("msrvtt").sizes("full")["test"].captions == 59800
