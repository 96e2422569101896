"""Text that Python's readers take but nobody means: huge numbers, depth without end, aliases that multiply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tvr_cli import config, data, files
from tvr_cli.cli import app
from tvr_cli.errors import ConfigError, DataError

HUGE, DEEP = "9" * 400, "[" * 200_000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def refused(*args: object, code: int) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (result.exit_code, result.stderr)
    assert "a bug in tvr" not in result.stderr and len(result.stderr) < 1000
    return result.stderr


@pytest.mark.parametrize("number", [HUGE, "-" + HUGE, "1e400", "9" * 5000])
@pytest.mark.parametrize("key", ["start", "end"])
def test_a_number_beyond_every_float_is_refused_with_its_line(tmp_path: Path, number: str, key: str) -> None:
    (tmp_path / "m.jsonl").write_text(f'{{"path": "a.mp4", "{key}": {number}}}\n')
    assert "m.jsonl:1" in refused("extract-frames", tmp_path / "m.jsonl", "-o", tmp_path / "o", code=3)
    (tmp_path / "c.jsonl").write_text(f'{{"video": "a.mp4", "caption": "x", "{key}": {number}}}\n')
    with pytest.raises(DataError, match=r"c\.jsonl:1"):
        data.load(f"jsonl:{tmp_path / 'c.jsonl'}")


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 200_000])
def test_json_without_end_is_malformed_to_every_reader(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="deeper"):
        files.parse_json(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "open_clip_config.json").write_text(text)
    words = ("extract-frames", tmp_path, "--for", f"local:{tmp_path}", "-o", tmp_path / "o")
    assert "open_clip_config.json" in refused(*words, code=3)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (BOMB, "10,000 values"),
        ("a: &a [*a]", "no end"),
        ("a: &a {b: *a}", "no end"),
        ("a: " + DEEP, "characters"),
        ("a: " + "[" * 20_000, "deeper"),
        ("a: " + "[" * 60 + "]" * 60, "deeper"),
        ("a: 2026-13-45", "month"),
        ("a: " + "9" * 5000, "digits"),
    ],
)
def test_a_configuration_has_a_stated_size(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"c\.yaml.*{found}"):
        config.file_layers(tmp_path / "c.yaml")
    if "\n" not in text:
        with pytest.raises(ConfigError, match=found):
            config.set_layer([f"train.x={text[3:]}"])


def test_aliases_within_the_limits_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a [1, 2]\nb: [*a, *a]\n")
    assert config.file_layers(tmp_path / "c.yaml")[-1].tree == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


@pytest.mark.parametrize("value", [HUGE, "[" * 3000, "&a [*a]", "1:99:99"])
def test_a_value_of_set_that_cannot_be_is_refused(tmp_path: Path, value: str) -> None:
    words = ("train", "--method", "mean", "-o", tmp_path, "--set", f"train.lr={value}", "--dry-run")
    assert "lr" in refused(*words, code=2)


@pytest.mark.parametrize("name", [".x", "..", "x.", "a..b", ".", "-.-"])
@pytest.mark.parametrize("flag", ["--method", "--backbone", "--data"])
def test_a_name_that_no_module_can_have_is_refused(tmp_path: Path, name: str, flag: str) -> None:
    words = {
        "--method": ("train", f"--method={name}"),
        "--backbone": ("extract-frames", tmp_path, f"--for={name}"),
        "--data": ("precompute-features", f"--data={name}:{tmp_path}"),
    }
    refused(*words[flag], "-o", tmp_path, "--dry-run", code=2)


@pytest.mark.parametrize("key", ["split", "video", "id", "caption"])
@pytest.mark.parametrize("value", ["tset", None, 3, []])
def test_a_typo_in_a_data_sets_own_lines_is_named(tmp_path: Path, key: str, value: Any) -> None:
    events = {
        "video": "a.mp4", "split": "test", "kind": "base", "family": None, "named": [0, 0],
        "scenes": [{"start": 0.0, "end": 1.0}],
    }  # fmt: skip
    caption = {"video": "a.mp4", "id": "a#0", "caption": "x", "split": "test"}
    write(tmp_path, events, caption)
    assert data.read(f"demo:{tmp_path}").captions[0].split == "test"
    if key != "split" and isinstance(value, str):
        return
    write(tmp_path, events, {**caption, key: value})
    with pytest.raises(DataError, match=r"captions\.jsonl:1.*" + key):
        data.read(f"demo:{tmp_path}")
    if key in events:
        write(tmp_path, {**events, key: value}, caption)
        with pytest.raises(DataError, match=r"events\.jsonl:1.*" + key):
            data.read(f"demo:{tmp_path}")


def write(folder: Path, events: dict[str, Any], caption: dict[str, Any]) -> None:
    (folder / "events.jsonl").write_text(json.dumps(events) + "\n")
    (folder / "captions.jsonl").write_text(json.dumps(caption) + "\n")
