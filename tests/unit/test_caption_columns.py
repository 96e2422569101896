"""Captions of other names and shapes: `text` and `sentence`, CSV, TSV and JSON in the benchmarks' own layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tvr_cli import data
from tvr_cli.data import jsonl
from tvr_cli.data.columns import CaptionsFile, parse_columns
from tvr_cli.errors import ConfigError, DataError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path, columns: str | None = None) -> list[tuple[str, str, str]]:
    """Id, video and text of each caption."""
    return [(c.id, c.video, c.text) for c in jsonl.read_captions(CaptionsFile(path, parse_columns(columns)))]


TWO = [("v0#0", "v0", "a dog"), ("v1#0", "v1", "a cat")]


@pytest.mark.parametrize("key", ["text", "sentence", "description"])
def test_another_name_of_the_caption_is_read(tmp_path, key):
    lines = [{"video": v, key: t} for _, v, t in TWO]
    assert read(write(tmp_path / "c.jsonl", "".join(json.dumps(x) + "\n" for x in lines))) == TWO


def test_what_is_read_under_another_name_is_said_once(tmp_path, monkeypatch):
    from tvr_cli.data import columns

    said = []
    monkeypatch.setattr(columns, "warn_once", said.append)
    file = write(tmp_path / "c.jsonl", '{"video": "v0", "text": "a dog"}\n')
    read(file)
    assert said == [f"{file}: 'text' is read as the caption; --columns caption=NAME names another column"]


def test_the_key_itself_comes_before_its_other_names(tmp_path):
    file = write(tmp_path / "c.jsonl", '{"video": "v0", "caption": "a dog", "text": "transcript"}\n')
    assert read(file) == [("v0#0", "v0", "a dog")]


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("c.csv", "video,caption\nv0,a dog\nv1,a cat\n", None),
        ("c.csv", "key,vid_key,video_id,sentence\nret0,m0,v0,a dog\nret1,m1,v1,a cat\n", None),
        ("c.csv", "\ufeffvideo;caption\r\nv0;a dog\r\nv1;a cat\r\n", None),
        ("c.tsv", "film\tsays\nv0\ta dog\nv1\ta cat\n", "video=film,caption=says"),
        ("c.json", json.dumps([{"video": "v0", "caption": "a dog"}, {"video": "v1", "caption": "a cat"}]), None),
        ("c.json", json.dumps([{"v": "v0", "c": "a dog"}, {"v": "v1", "c": "a cat"}]), "video=v, caption=c"),
        ("c.json", json.dumps({"v0": ["a dog"], "v1": "a cat"}), None),
        (
            "c.json",
            json.dumps(
                {
                    "videos": [{"video_id": "v0"}],
                    "sentences": [{"video_id": v, "caption": t, "sen_id": i} for i, (_, v, t) in enumerate(TWO)],
                }
            ),
            None,
        ),
    ],
    ids=["csv", "msrvtt csv", "semicolons", "tsv", "list", "named", "mapping", "msrvtt json"],
)
def test_tables_and_json_are_read(tmp_path, name, text, columns):
    assert read(write(tmp_path / name, text), columns) == TWO


def test_a_list_of_texts_is_as_many_captions(tmp_path):
    records = [{"videoID": "v0", "enCap": ["a dog", "it runs"]}]
    file = write(tmp_path / "c.json", json.dumps(records))
    assert read(file, "caption=enCap") == [("v0#0", "v0", "a dog"), ("v0#1", "v0", "it runs")]


def test_quoted_cells_times_and_splits_of_a_csv_are_read(tmp_path):
    file = write(tmp_path / "c.csv", 'video,caption,split,start,end\nv0,"a dog, running",test,1.5,3\nv1,a cat,,,\n')
    first, second = jsonl.read_captions(file)
    assert (first.text, first.split, first.start, first.end) == ("a dog, running", "test", 1.5, 3.0)
    assert (second.split, second.start, second.source) == (None, None, f"{file}:3")


@pytest.mark.parametrize(
    ("name", "text", "columns", "words"),
    [
        ("c.csv", "film,says\nv0,a dog\n", "video=fil,caption=says", ":2: expected the column 'fil'"),
        ("c.csv", "film,says\nv0,a dog\n", None, ":2: expected the key 'video' with text, found 'film', 'says'"),
        ("c.csv", "video,caption\nv0,a dog,more\n", None, ":2: expected 2 columns as in the header"),
        ("c.csv", "video,caption,start\nv0,a dog,soon\n", None, ":2: start: expected seconds"),
        ("c.json", "[1]", None, "record 0: expected an object, found 1"),
        ("c.json", "3", None, "expected a list of captions or video -> captions, found int"),
        ("c.json", '{"v0": {"a": 1}}', None, "'v0': caption: expected a string"),
        ("c.csv", "", None, "holds no captions"),
    ],
)
def test_a_bad_table_is_a_sentence_with_the_place(tmp_path, name, text, columns, words):
    with pytest.raises(DataError) as e:
        read(write(tmp_path / name, text), columns)
    assert words in str(e.value)


@pytest.mark.parametrize(("said", "words"), [("video", "KEY=COLUMN"), ("vidoe=x", "did you mean video?")])
def test_columns_that_are_none_are_refused(said, words):
    with pytest.raises(ConfigError) as e:
        parse_columns(said)
    assert words in str(e.value)


def test_a_table_is_a_data_set_and_its_columns_the_variant(tmp_path):
    (tmp_path / "v0.mp4").write_bytes(b"x")
    file = write(tmp_path / "mine.csv", "film,says\nv0,a dog\n")
    manifest = data.load(f"jsonl:{file}:video=film,caption=says")
    assert [c.id for c in manifest.clips] == ["v0"] and manifest.captions[0].text == "a dog"


def test_a_name_that_two_folders_have_is_ambiguous_and_both_are_named(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "v0.mp4").write_bytes(b"x")
    write(tmp_path / "captions.jsonl", '{"video": "v0", "caption": "a dog"}\n')
    with pytest.raises(DataError, match=r"captions\.jsonl:1: .*'v0' is ambiguous.* 'a/v0\.mp4', 'b/v0\.mp4'"):
        data.load(f"jsonl:{tmp_path}")
    write(tmp_path / "captions.jsonl", '{"video": "b/v0.mp4", "caption": "a dog"}\n')
    assert data.load(f"jsonl:{tmp_path}").clips[0].path == tmp_path / "b" / "v0.mp4"


def test_a_subtitle_beside_a_video_does_not_make_its_name_ambiguous(tmp_path):
    for name in ("v0.mp4", "v0.srt"):
        (tmp_path / name).write_bytes(b"x")
    write(tmp_path / "captions.jsonl", '{"video": "v0", "caption": "a dog"}\n')
    assert data.load(f"jsonl:{tmp_path}").clips[0].path.name == "v0.mp4"
