"""What a newcomer meets at the prompt: help, hints for misplaced flags, odd names, odd sentences, and our own bugs."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_frames
from typer.testing import CliRunner, Result

from tvr_cli.cli import app, render


def tvr(*args: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args], input=stdin)


def refused(*args: object, code: int, stdin: str | bytes | None = None) -> str:
    result = tvr(*args, stdin=stdin)
    assert result.exit_code == code, (result.exit_code, result.stderr)
    assert "Traceback" not in result.stderr and "a bug in tvr" not in result.stderr
    return result.stderr


def test_every_command_is_described_by_a_whole_sentence():
    listed = " ".join(tvr("--help").stdout.partition("Commands:")[2].split())
    assert "…" not in listed and "..." not in listed
    assert "Train again exactly as a run was trained and compare the weights to the bit." in listed


@pytest.mark.parametrize("option", ["-q", "--quiet", "--debug"])
def test_a_global_option_after_the_command_says_where_it_stands(option):
    assert f"stands before the command: tvr {option} info" in refused("info", option, code=2)
    assert "before the command" not in refused("info", "--foo", code=2)


def test_a_bug_is_one_line_with_what_to_report(monkeypatch, tmp_path):
    def broken(path: Path) -> dict:
        raise KeyError("span")

    monkeypatch.setattr("tvr_cli.engine.whole.info.info", broken)
    result = tvr("info", tmp_path)
    assert result.exit_code == 1
    assert result.stderr == "error: a bug in tvr: KeyError: 'span'; please report it, with what this shows: " + (
        "tvr --debug info …\n"
    )
    assert isinstance(tvr("--debug", "info", tmp_path).exception, KeyError)


def test_names_that_break_lines_or_steer_the_terminal_are_escaped(capsys):
    render.table(None, ("#", "video"), [[1, "new\nline\x1b[31m ünï 犬.mp4"]], left=2)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 3 and shown[2].strip() == r"1   new\nline\x1b[31m ünï 犬.mp4"


def test_a_row_is_a_line_in_a_pipe(capsys):
    render.table(None, ("#", "video"), [[1, "a folder/" * 60]], left=2)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_counts_agree_with_their_nouns():
    assert [render.count(n, "clip") for n in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
    assert render.count(2, "query", "queries") == "2 queries"


def test_a_sentence_that_is_not_utf_8_is_refused(tmp_path):
    message = refused("query", "a\udcff car", "--index", tmp_path, code=2)  # what Python makes of the byte 0xff
    assert r"expected sentences in UTF-8, found 'a\udcff car'" in message


def test_sentences_from_stdin_that_are_not_utf_8_are_refused_whatever_the_locale(tmp_path):
    message = refused("query", "-", "--index", tmp_path, code=2, stdin=b"a dog\n\na \xff car\n")
    assert r"standard input, line 3: expected a sentence in UTF-8, found 'a \udcff car'" in message


@pytest.mark.parametrize("stdin", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_standard_input_without_a_sentence_is_called_that(tmp_path, stdin):
    message = refused("query", "-", "--index", tmp_path, code=2, stdin=stdin)
    assert "expected one sentence a line on standard input, found no line that says anything" in message


def test_a_score_that_is_no_number_is_refused(tmp_path):
    assert "--min-score" in refused("query", "a dog", "--min-score", "nan", "--index", tmp_path, code=2)


@pytest.mark.parametrize("command", ["index", "query", "evaluate"])
def test_an_unknown_method_or_run_is_named_before_anything_is_missing(tmp_path, command):
    start = ["query", "a dog", "--index", tmp_path] if command == "query" else [command, "-o", tmp_path]
    run = ["foo"] if command == "evaluate" else ["--run", "foo"]
    assert "did you mean mean?" in refused(*start, "--method", "meen", code=2)
    assert "not both" in refused(*start, *run, "--method", "mean", code=2)
    assert "expected a run 'foo'" in refused(*start, *run, code=3)


def test_doctor_knows_that_a_data_set_was_meant():
    assert "did you mean msrvtt?" in refused("doctor", "msrvt:/nowhere", code=2)


def test_doctor_says_in_one_line_how_weights_come(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    from tvr_cli.engine.whole.doctor import _weights

    for check in _weights():
        name = check.name.removeprefix("weights ")
        assert check.ok or check.fix == f"downloaded when first used; where from: tvr backbones show {name}"
        assert len(check.fix) < 120


def test_what_doctor_points_to_names_a_file_that_can_be_given(monkeypatch, tmp_path):
    """The backbone before @FILE is an architecture; with its weights' tag, as doctor once had it, it means nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    from tvr_cli.backbones import registry

    result = CliRunner().invoke(app, ["backbones", "show", "clip-vit-b16"])
    assert result.exit_code == 0 and "--backbone ViT-B-16-quickgelu@FILE" in result.stdout
    (tmp_path / "weights.pt").write_bytes(b"")
    assert registry.resolve(f"ViT-B-16-quickgelu@{tmp_path / 'weights.pt'}").dim == 512


def test_files_whose_names_look_like_windows_stay_apart():
    from tvr_cli.stores.frames.windows import file_id

    assert [file_id(i) for i in ("a.mp4#t=30,60", "a.mp4#t=2.5", "a#t=1,2.mp4", "a#t=3,4.mp4")] == [
        "a.mp4", "a.mp4", "a#t=1,2.mp4", "a#t=3,4.mp4",
    ]  # fmt: skip


def test_info_says_what_an_index_answers_with(tmp_path, monkeypatch):
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")
    tiny_frames.simple(tmp_path, {"a.mp4": 2}, plan=tiny_frames.FramePlan(num_frames=2, size=64))
    assert tvr("precompute-features", "-o", tmp_path).exit_code == 0
    assert tvr("index", "--method", "mean", "-o", tmp_path).stdout.startswith("indexed 1 clip of 1 video with mean\n")
    shown = tvr("info", tmp_path / "index").stdout
    assert "  method         mean\n" in shown and "  run            none\n" in shown
    paths = tvr("query", "a star", "-0", "--index", tmp_path)
    assert paths.stdout == "" and "1 file of the answer was renamed" in paths.stderr  # nothing lies at /videos
    assert "/videos/a.mp4 (not there any more)" in " ".join(tvr("query", "a star", "--index", tmp_path).stdout.split())


def test_compare_says_how_a_missing_result_is_made(tmp_path):
    assert "tvr evaluate --method mean" in refused("compare", "mean", "text_guided", "-o", tmp_path, code=3)
    assert "tvr evaluate" not in refused("compare", "nothing", "-o", tmp_path, code=3)
    (tmp_path / "runs" / "mean" / "results").mkdir(parents=True)
    said = refused("compare", "mean", "--split", "val", "-o", tmp_path, code=3)
    assert "tvr evaluate --method mean --split val" in said
