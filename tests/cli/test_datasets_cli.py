"""Data sets on the command line: doctor, and the chain extract → features → evaluate with --data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from miniature import write_dataset
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.data import registry


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="session")
def msrvtt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset("msrvtt", tmp_path_factory.mktemp("data") / "MSRVTT", "9k")


@pytest.fixture
def copy(msrvtt: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(msrvtt, tmp_path / "MSRVTT"))


def checks(result: Result) -> dict[str, dict]:
    return {c["name"]: c for c in json.loads(result.stdout)["checks"]}


def test_doctor_counts_against_the_official_numbers(msrvtt):
    result = tvr("doctor", f"msrvtt:{msrvtt}", "--json")
    assert result.exit_code == 3  # a miniature is not the benchmark
    found = checks(result)
    assert found["annotations"]["ok"] and found["videos"]["ok"]
    assert found["split test"]["detail"] == "4 videos, 4 captions"
    assert "1000 videos, 1000 captions" in found["split test"]["fix"]
    assert "4 distinct of 4 test captions" in found["test captions"]["detail"]
    assert found["next"]["detail"] == f"fix the above, then: tvr extract-frames --data msrvtt:{msrvtt}"


def test_doctor_recognises_a_data_set_by_its_files(msrvtt):
    result = tvr("doctor", msrvtt)
    assert result.exit_code == 3 and "annotation files of msrvtt" in result.stderr


def test_doctor_finds_missing_extra_empty_and_repeated(copy):
    videos = copy / "videos"
    (videos / "video7016.mp4").unlink()
    (videos / "video7017.mp4").write_bytes(b"")
    shutil.copy(videos / "video7018.mp4", videos / "holiday.mp4")
    test = copy / "MSRVTT_JSFUSION_test.csv"
    lines = test.read_text().splitlines()
    lines[2] = ",".join([*lines[2].split(",")[:3], lines[1].split(",")[3]])
    test.write_text("\n".join(lines) + "\n")
    found = checks(tvr("doctor", f"msrvtt:{copy}", "--json", "--deep"))
    assert (
        not found["videos"]["ok"]
        and "'video7016'" in found["videos"]["detail"]
        and "1 of test" in found["videos"]["detail"]
    )
    assert "'video7017'" in found["file sizes"]["detail"]
    assert "'videos/holiday.mp4'" in found["files without an id"]["detail"]
    assert found["test captions"]["detail"].startswith("3 distinct of 4")
    assert found["decoding"]["detail"].startswith("18 of 19") and not found["video7017"]["ok"]


def test_doctor_lists_captions_without_words_beside_all_else(copy):
    file = copy / "MSRVTT_JSFUSION_test.csv"
    lines = file.read_text().splitlines()
    for line in (1, 3):
        lines[line] = ",".join([*lines[line].split(",")[:3], " "])
    file.write_text("\n".join(lines) + "\n")
    result = tvr("doctor", f"msrvtt:{copy}", "--json")
    found = checks(result)
    assert result.exit_code == 3 and found["annotations"]["ok"] and found["videos"]["ok"]
    detail = found["captions"]["detail"]
    assert detail.startswith("2 of ") and f"{file}:2" in detail and f"{file}:4" in detail
    assert found["test captions"]["detail"].startswith("2 distinct of 2")
    refused = tvr("extract-frames", "--data", f"msrvtt:{copy}", "-o", copy / "out")
    assert refused.exit_code == 3 and "csv:2: ret0: the caption has no words (and 1 more)" in refused.stderr


@pytest.mark.parametrize("name", [n for n in registry.shipped() if hasattr(registry.find(n).module, "wanted")])
def test_doctor_lists_every_missing_file_of_an_empty_folder(name, tmp_path):
    result = tvr("doctor", f"{name}:{tmp_path}", "--json")
    assert result.exit_code == 3
    files = [c for n, c in checks(result).items() if n.startswith("file ")]
    assert len(files) >= 2 and not any(c["ok"] for c in files)


def test_doctor_finds_an_id_with_two_files(copy):
    videos = copy / "videos"
    shutil.copy(videos / "video7018.mp4", videos / "video7018.webm")
    found = checks(tvr("doctor", f"msrvtt:{copy}", "--json"))["one id a file"]
    assert not found["ok"] and "videos/video7018.mp4 taken, not videos/video7018.webm" in found["detail"]


def test_a_folder_of_ones_own_is_no_benchmark(tmp_path):
    (tmp_path / "train.json").write_text("{}")
    (tmp_path / "clip.mp4").write_bytes(b"")
    result = tvr("doctor", tmp_path)
    assert result.exit_code == 0 and "annotation files" not in result.stderr


def test_doctor_says_what_it_accepts_when_a_file_is_missing(copy):
    (copy / "MSRVTT_JSFUSION_test.csv").unlink()
    result = tvr("doctor", f"msrvtt:{copy}", "--json")
    assert result.exit_code == 3
    assert "MSRVTT_JSFUSION_test.csv" in checks(result)["annotations"]["detail"]
    found = checks(result)
    assert found["file MSRVTT_data.json"]["ok"] and not found["file MSRVTT_JSFUSION_test.csv"]["ok"]
    assert "also accepted: msrvtt_jsfusion_test.csv" in found["file MSRVTT_JSFUSION_test.csv"]["detail"]
    unnamed = tvr("doctor", copy)  # recognised by the file that is there
    assert unnamed.exit_code == 3 and "annotation files of msrvtt" in unnamed.stderr
    assert tvr("doctor", "msrvtt:/nowhere").exit_code == 3


def test_the_chain_takes_plans_and_completeness_from_the_data_set(msrvtt, tmp_path):
    out = tmp_path / "out"
    extracted = tvr("extract-frames", "--data", f"msrvtt:{msrvtt}", "-o", out, "--size", 64, "--workers", 1, "--json")
    assert extracted.exit_code == 0, extracted.stderr
    assert f"next: tvr precompute-features --data msrvtt:{msrvtt} -o {out}\n" in extracted.stderr
    identity = json.loads((out / "frames" / "store.json").read_text())["identity"]
    assert (identity["kind"], identity["fps"], identity["max_frames"]) == ("fps", 1.0, 12)
    assert "fit" not in identity and identity["filter"].startswith("pillow-bicubic short side, centre crop")  # papers'
    made = tvr("precompute-features", "--data", f"msrvtt:{msrvtt}", "-o", out, "--backbone", "demo-tiny", "--json")
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["captions"]["total"] == 36
    refused = tvr("evaluate", "--method", "mean", "-o", out)
    assert refused.exit_code == 3 and "4 of 1000 videos" in refused.stderr
    result = tvr("evaluate", "--method", "mean", "-o", out, "--allow-missing", "--json")
    assert result.exit_code == 0, result.stderr
    payload = json.loads(result.stdout)
    assert payload["gallery"]["expected"] == 1000 and payload["gallery"]["scored"] == 4
    assert payload["data"]["name"] == "msrvtt" and "no validation split" in payload["data"]["notes"][0]
    card = tvr("evaluate", "--method", "mean", "-o", out, "--allow-missing", "--protocol-card").stdout
    assert "msrvtt" in card and "sha256" in card


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("extract-frames",), "name the videos"),
        (("extract-frames", "videos", "--data", "msrvtt:x"), "or --data"),
        (("extract-frames", "--data", "msrvt:x"), "did you mean msrvtt"),
        (("extract-frames", "--data", "msrvtt"), "NAME:ROOT"),
        (("precompute-features", "--data", "msrvtt:x", "--captions", "y"), "not both"),
    ],
)
def test_bad_names_are_refused(args, words):
    result = tvr(*args)
    assert result.exit_code == 2 and words in result.stderr, result.stderr
