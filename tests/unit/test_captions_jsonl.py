"""Captions files: what is read, what is refused with file and line, and how captions find their clips."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvr_cli import data
from tvr_cli.data import jsonl
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.types import Caption


@dataclass(frozen=True)
class _Clip:
    id: str
    path: str
    file_id: str
    span: tuple[float, float]


def _clip(file_id: str, start: float = 0.0, end: float = 10.0, *, window: bool = False) -> _Clip:
    clip_id = f"{file_id}#t={start:g},{end:g}" if window else file_id
    return _Clip(clip_id, f"/videos/{file_id}", file_id, (start, end))


def _write(path: Path, *records: dict[str, Any] | str) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n", encoding="utf-8")
    return path


def _caption(video: str, **kw: Any) -> Caption:
    return Caption("c", video, "a dog", source="captions.jsonl:7", **kw)


def test_every_key_is_read(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "c.jsonl",
        {"video": "a.mp4", "caption": "a dog", "id": "x", "split": "val", "path": "sub/a.mp4", "start": 1, "end": 2.5},
        "",
        {"video": "a.mp4", "caption": "a cat", "mood": "ignored"},
        {"video": "a.mp4", "caption": "a cow"},
    )
    first, second, third = jsonl.read_captions(file)
    assert first == Caption("x", "a.mp4", "a dog", "val", 1.0, 2.5, f"{file}:1", (tmp_path / "sub" / "a.mp4").resolve())
    assert (second.id, second.split, second.source) == ("a.mp4#0", None, f"{file}:3")
    assert third.id == "a.mp4#1"


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + b'{"video": "a", "caption": "b"}\n')
    assert jsonl.read_captions(file)[0].video == "a"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "malformed JSON"),
        ("[1]", "expected a JSON object"),
        ('{"caption": "a dog"}', "expected the key 'video'"),
        ('{"video": "a"}', "expected the key 'caption'"),
        ('{"video": "a", "captoin": "a dog"}', "found 'video', 'captoin'; rename 'captoin' to 'caption'"),
        ('{"video": null, "caption": "a dog"}', "expected the key 'video' with text, found null"),
        ('{"video": "a", "caption": "half a \\ud83d"}', "found half of a surrogate pair"),
        ("[" * 100_000, "found malformed JSON"),
        ('{"video": "a", "caption": "a dog", "path": "a\\u0000.mp4"}', "no file can have NUL in its name"),
        ('{"video": 3, "caption": "a dog"}', "video: expected a string, found 3"),
        ('{"video": "a", "caption": ["a dog"]}', "caption: expected a string"),
        ('{"video": "a", "caption": "  "}', "a#1: the caption has no words; write it"),
        ('{"video": "a", "caption": "b", "id": 4}', "id: expected a string"),
        ('{"video": "a", "caption": "b", "path": false}', "path: expected a string"),
        ('{"video": "a", "caption": "b", "split": "valid"}', "split: expected train, val or test, found 'valid'"),
        ('{"video": "a", "caption": "b", "start": "1"}', "start: expected seconds"),
        ('{"video": "a", "caption": "b", "start": true}', "start: expected seconds"),
        ('{"video": "a", "caption": "b", "end": -1}', "end: expected seconds"),
        ('{"video": "a", "caption": "b", "end": NaN}', "end: expected seconds"),
        ('{"video": "a", "caption": "b", "start": 3, "end": 3}', "expected start < end"),
    ],
)
def test_a_bad_line_is_refused_with_file_and_line(tmp_path: Path, line: str, expected: str) -> None:
    file = _write(tmp_path / "c.jsonl", {"video": "a", "caption": "b"}, line)
    with pytest.raises(DataError) as e:
        jsonl.read_captions(file)
    assert str(e.value).startswith(f"{file}:2: ")
    assert expected in str(e.value)


def test_latin_1_is_refused_with_file_line_and_remedy(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_bytes('{"video": "a", "caption": "b"}\n{"video": "a", "caption": "café"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"c\.jsonl:2: expected UTF-8, found the byte 0xe9 .*iconv"):
        jsonl.read_captions(file)


def test_an_id_twice_names_both_lines(tmp_path: Path) -> None:
    record = {"video": "a", "caption": "b", "id": "x"}
    with pytest.raises(DataError, match=r"c\.jsonl:2: the id 'x' is that of line 1 already"):
        jsonl.read_captions(_write(tmp_path / "c.jsonl", record, record))


def test_an_empty_or_missing_file_shows_an_example(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("\n")
    for path in (tmp_path / "c.jsonl", tmp_path / "none.jsonl"):
        with pytest.raises(DataError, match="a dog surfing"):
            jsonl.read_captions(path)


@pytest.mark.parametrize("name", ["sub/a.mp4", "sub/a", "a.mp4", "a"])
def test_a_video_is_found_by_any_unique_name(name: str) -> None:
    clips = [_clip("b.mp4"), _clip("sub/a.mp4")]
    found, aside = jsonl.resolve([_caption(name)], clips)
    assert (found[0].clips, found[0].file_id, aside) == ((1,), "sub/a.mp4", [])


def test_an_exact_id_wins_over_a_shared_stem() -> None:
    clips = [_clip("a.mp4"), _clip("a.webm")]
    assert jsonl.resolve([_caption("a.webm")], clips)[0][0].clips == (1,)


def test_an_ambiguous_stem_lists_the_files() -> None:
    clips = [_clip("a.mp4"), _clip("x/a.webm")]
    with pytest.raises(DataError, match=r"captions\.jsonl:7: .*'a' is ambiguous.*'a\.mp4', 'x/a\.webm'"):
        jsonl.resolve([_caption("a")], clips)


def test_a_path_settles_what_a_stem_leaves_open() -> None:
    clips = [_clip("a.mp4"), _clip("x/a.webm")]
    found, _ = jsonl.resolve([_caption("a", path=Path("/videos/x/a.webm"))], clips)
    assert found[0].clips == (1,)


def test_an_unknown_video_names_line_and_nearest() -> None:
    with pytest.raises(DataError, match=r"captions\.jsonl:7: .*'beech\.mp4'.*did you mean beach\.mp4"):
        jsonl.resolve([_caption("beech.mp4")], [_clip("beach.mp4")])
    with pytest.raises(DataError, match=r"did you mean beach\.mp4"):
        jsonl.resolve([_caption("BEACH.MP4")], [_clip("beach.mp4")])


def test_captions_of_an_unreadable_video_are_set_aside() -> None:
    found, aside = jsonl.resolve([_caption("bad"), _caption("a")], [_clip("a.mp4")], absent=["x/bad.mp4"])
    assert [c.file_id for c in found] == ["a.mp4"]
    assert [c.video for c in aside] == ["x/bad.mp4"]  # under its id, however the caption called it


def test_a_stem_of_a_read_and_an_unread_video_is_ambiguous() -> None:
    with pytest.raises(DataError, match=r"captions\.jsonl:7: .*'a' is ambiguous.*'a\.avi', 'a\.mp4'"):
        jsonl.resolve([_caption("a")], [_clip("a.mp4")], absent=["a.avi"])


def test_the_exact_id_of_an_unread_video_is_not_another_file_of_that_name() -> None:
    found, aside = jsonl.resolve([_caption("a.mp4"), _caption("x/a.mp4")], [_clip("x/a.mp4")], absent=["a.mp4"])
    assert [c.file_id for c in found] == ["x/a.mp4"] and [c.video for c in aside] == ["a.mp4"]


def test_a_window_of_an_unread_video_is_set_aside_too() -> None:
    _, aside = jsonl.resolve([_caption("a.mp4"), _caption("b.mp4#t=0,30")], [_clip("a.mp4")], absent=["b.mp4"])
    assert [c.video for c in aside] == ["b.mp4"]


@pytest.mark.parametrize("other", ["val", "test"])
def test_a_video_to_train_on_and_to_be_judged_by_is_a_leak(other: str) -> None:
    captions = [_caption("a", split="train"), _caption("a.mp4", split=other)]
    with pytest.raises(DataError, match=rf"'a\.mp4'.*train at .*captions\.jsonl:7, {other} at .*captions\.jsonl:7"):
        jsonl.resolve(captions, [_clip("a.mp4")])


_WINDOWS = [_clip("film.mp4", s, s + 30, window=True) for s in (0.0, 25.0, 50.0)]


def test_a_whole_film_has_every_window_as_positive() -> None:
    assert jsonl.resolve([_caption("film")], _WINDOWS)[0][0].clips == (0, 1, 2)


@pytest.mark.parametrize(
    ("start", "end", "rows"),
    [(0.0, 10.0, (0,)), (26.0, 29.0, (0, 1)), (60.0, None, (2,)), (None, 25.0, (0,)), (30.0, 50.0, (1,))],
)
def test_a_time_picks_the_windows_that_overlap_it(
    start: float | None, end: float | None, rows: tuple[int, ...]
) -> None:
    assert jsonl.resolve([_caption("film", start=start, end=end)], _WINDOWS)[0][0].clips == rows


def test_one_window_can_be_named() -> None:
    assert jsonl.resolve([_caption("film.mp4#t=25,55")], _WINDOWS)[0][0].clips == (1,)


def test_a_time_after_the_end_is_refused() -> None:
    with pytest.raises(DataError, match=r"captions\.jsonl:7: expected a time inside of 'film', which ends at 80\.0 s"):
        jsonl.resolve([_caption("film", start=90.0)], _WINDOWS)


def test_a_missing_split_follows_the_video_then_its_hash() -> None:
    clips = [_clip("a.mp4"), _clip("b.mp4")]
    captions = [_caption("a", split="test"), _caption("a.mp4"), _caption("b")]
    found, _ = jsonl.resolve(captions, clips)
    assert [c.caption.split for c in found] == ["test", "test", jsonl.split_of("b.mp4")]


def test_splits_by_hash_are_fixed_for_ever() -> None:
    assert [jsonl.split_of(f"v{i}.mp4") for i in range(8)] == ["train", "test"] + ["train"] * 6


def test_about_eighty_ten_ten() -> None:
    splits = [jsonl.split_of(f"video{i}") for i in range(5000)]
    share = {s: splits.count(s) / 5000 for s in ("train", "val", "test")}
    assert share == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.015)


@given(st.binary(max_size=80))
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, blob: bytes) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "c.jsonl"
    file.write_bytes(blob)
    with contextlib.suppress(DataError):
        jsonl.read_captions(file)


def test_a_captions_file_is_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.mp4", "sub/b.webm", "c.mov"):
        (tmp_path / name).write_bytes(b"x")
    _write(
        tmp_path / "captions.jsonl",
        {"video": "a.mp4", "caption": "1"},
        {"video": "b", "caption": "2"},
        {"video": "third", "caption": "3", "path": "c.mov"},
        {"video": "gone", "caption": "4"},
    )
    for spec in (f"jsonl:{tmp_path}", f"jsonl:{tmp_path / 'captions.jsonl'}"):
        manifest = data.load(spec)
        assert {c.id: c.path.name for c in manifest.clips} == {"a.mp4": "a.mp4", "b": "b.webm", "third": "c.mov"}
        assert manifest.missing == ("gone",)
        assert len(manifest.captions) == 4


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        ("jsonI:x", ConfigError, "unknown data set 'jsonI'; did you mean jsonl?"),
        ("jsonl", ConfigError, "expected NAME:ROOT"),
        ("jsonl:/no/such", DataError, "found nothing there"),
    ],
)
def test_a_bad_data_spec_says_why(spec: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said.replace("?", r"\?")):
        data.load(spec)


def test_a_variant_is_split_off(tmp_path: Path) -> None:
    from tvr_cli.data.registry import split_spec

    assert split_spec(f"msrvtt:{tmp_path}:9k") == ("msrvtt", tmp_path, "9k")
    (tmp_path / "a:b").mkdir()
    assert split_spec(f"msrvtt:{tmp_path}/a:b") == ("msrvtt", tmp_path / "a:b", None)
