"""`tvr query --save-clips` and `--export`: what is written and said, and the exit code where some is missing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from videos import make_video

from tvr_cli.cli import app
from tvr_cli.results.found import QueryReport


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small films, extracted to `out`, with words beside them: a query for these needs no features."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "films").mkdir()
    for name, said in (("lake.mp4", "The zeppelin lands."), ("street.mp4", "No zeppelin here.")):
        film = make_video(folder / "films" / name, 30, fps=10, size=(64, 64), gop=5)
        film.with_suffix(".srt").write_text(f"1\n00:00:00,500 --> 00:00:01,500\n{said}\n")
    done = CliRunner().invoke(app, ["extract-frames", str(folder / "films"), "-o", str(folder / "out"), "--size", "64"])
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def place(library: Path, tmp_path: Path) -> Path:
    """A copy of the library's workspace beside links to its films."""
    shutil.copytree(library / "out", tmp_path / "out")
    return tmp_path / "out"


def query(place: Path, *words: str, text: str = "zeppelin") -> Result:
    return CliRunner().invoke(app, ["query", text, "--channel", "speech", "-o", str(place), *words])


def test_moments_are_saved_and_told_in_json(place: Path, tmp_path: Path) -> None:
    done = query(place, "--save-clips", str(tmp_path / "clips"), "--pad", "0.5", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    clips = told["clips"]["clips"]
    assert [(c["number"], c["query"], c["start"], c["end"], c["frames"], c["copied"]) for c in clips] == [
        (1, "zeppelin", 0.0, 2.0, 20, True), (2, "zeppelin", 0.0, 2.0, 20, True)]  # fmt: skip
    assert sorted(c["path"] for c in clips) == sorted(str(path) for path in (tmp_path / "clips").iterdir())
    assert [Path(c["source"]).name for c in clips] == [h["video_id"] for h in told["results"][0]["hits"]]
    assert QueryReport.from_json(told, "stdout").clips is not None


def test_people_are_told_how_many_were_copied(place: Path, tmp_path: Path) -> None:
    done = query(place, "--save-clips", str(tmp_path / "clips"))
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"2 moments saved in {tmp_path / 'clips'}: 2 copied, 0 encoded again"
    again = query(place, "--save-clips", str(tmp_path / "clips"))
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    assert query(place, "--save-clips", str(tmp_path / "clips"), "--overwrite").exit_code == 0


def test_a_dry_run_names_the_files(place: Path, tmp_path: Path) -> None:
    done = query(place, "--save-clips", str(tmp_path / "clips"), "--dry-run", "-k", "1")
    assert done.exit_code == 0, done.stderr
    assert f"would save {tmp_path / 'clips'}/001_" in done.stdout
    assert "0:00.5–0:01.5 of" in done.stdout and "10 frames, copied" in done.stdout
    assert not (tmp_path / "clips").exists()


def test_what_is_missing_is_told_and_the_exit_code_says_partly_done(library: Path, place: Path, tmp_path: Path) -> None:
    film = library / "films" / "street.mp4"
    film.rename(tmp_path / "street.mp4")
    try:
        done = query(place, "--save-clips", str(tmp_path / "clips"), "--json")
    finally:
        (tmp_path / "street.mp4").rename(film)
    assert done.exit_code == 5
    assert "1 of 2 moments not saved" in done.stderr and "is not there any more" in done.stderr
    clips = {Path(c["source"]).name: c for c in json.loads(done.stdout)["clips"]["clips"]}
    assert "is not there any more" in clips["street.mp4"]["problem"] and "problem" not in clips["lake.mp4"]
    assert [path.name for path in (tmp_path / "clips").iterdir()] == [Path(clips["lake.mp4"]["path"]).name]


def test_moments_become_a_timeline_that_json_tells_of(place: Path, tmp_path: Path) -> None:
    done = query(place, "--export", str(tmp_path / "cut.fcpxml"), "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)["timeline"]
    assert told["path"] == str(tmp_path / "cut.fcpxml")
    assert (told["form"], told["rate"], told["events"], told["dry_run"]) == ("fcpxml", "30/1", 2, False)
    assert (tmp_path / "cut.fcpxml").read_text().count("<asset-clip") == 2


def test_people_are_told_of_a_timeline_and_its_rate(place: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.fcpxml"
    dry = query(place, "--export", str(cut), "--dry-run")
    assert dry.exit_code == 0 and not cut.exists()
    assert dry.stdout.splitlines()[-1] == f"2 moments would be written as {cut}, 30 frames a second"
    done = query(place, "--export", str(cut))
    assert done.stdout.splitlines()[-1] == f"2 moments written as {cut}, 30 frames a second"
    again = query(place, "--export", str(cut))
    assert again.exit_code == 2 and "--overwrite" in again.stderr and not again.stdout


def test_an_ending_is_refused_before_anything_is_searched(place: Path, tmp_path: Path) -> None:
    done = query(tmp_path / "nowhere", "--export", str(tmp_path / "cut.aaf"))
    assert done.exit_code == 2
    assert "--export: expected a file ending in .otio, .xml, .edl, .fcpxml, .csv" in done.stderr


def test_without_the_extra_a_timeline_is_refused_and_a_list_is_not(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    done = query(place, "--export", str(tmp_path / "cut.otio"))
    assert done.exit_code == 4 and "pip install 'tvr-cli[timeline]'" in done.stderr
    assert query(place, "--export", str(tmp_path / "cut.csv")).exit_code == 0


def test_a_file_that_has_gone_is_left_out_of_a_timeline(library: Path, place: Path, tmp_path: Path) -> None:
    film = library / "films" / "street.mp4"
    film.rename(tmp_path / "street.mp4")
    try:
        done = query(place, "--export", str(tmp_path / "cut.csv"), "--json")
    finally:
        (tmp_path / "street.mp4").rename(film)
    assert done.exit_code == 5 and "the moments of 1 file are not in" in done.stderr
    told = json.loads(done.stdout)["timeline"]
    assert told["events"] == 1 and told["left_out"][0]["source"] == str(film)


def test_of_an_answer_without_moments_nothing_is_written_and_that_is_said(place: Path, tmp_path: Path) -> None:
    words = ["--save-clips", str(tmp_path / "clips"), "--export", str(tmp_path / "cut.csv")]
    done, again = query(place, *words, text="walrus"), query(place, *words, "--json", text="walrus")
    assert done.exit_code == again.exit_code == 0, again.stderr
    told = json.loads(again.stdout)
    assert "'walrus': nothing found" in done.stdout
    assert f"nothing saved in {tmp_path / 'clips'}: no moment was found" in done.stdout
    assert f"nothing written as {tmp_path / 'cut.csv'}: no moment was found" in done.stdout
    assert told["clips"]["clips"] == [] and told["timeline"]["events"] == 0 and told["timeline"]["rate"] is None
    assert not (tmp_path / "clips").exists() and not (tmp_path / "cut.csv").exists()


@pytest.mark.parametrize("words", [["--pad", "1"], ["--overwrite"], ["--dry-run"]])
def test_a_flag_about_files_needs_a_folder(words: list[str], place: Path) -> None:
    done = query(place, *words)
    assert done.exit_code == 2 and f"{words[0]} is about" in done.stderr
