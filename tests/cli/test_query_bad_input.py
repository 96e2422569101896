"""Libraries, banks and sentences that are not what one hopes for, from the command line, answered either way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner
from videos import make_video

from tvr_cli.cli import app
from tvr_cli.engine.searching import measure
from tvr_cli.stores.index.store import Index
from tvr_cli.workspace import Workspace

COPIES = 5
SENTENCE = "a red circle moves to the left"
WAYS = pytest.mark.parametrize("device", ["auto", "cpu:0"], ids=["without torch", "with torch"])


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def done(*args: object) -> str:
    result = tvr(*args)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def library(folder: Path, copies: int, frames: int = 12, flags: Sequence[object] = ("--num-frames", 12)) -> Path:
    """A workspace with the features of so many copies of one video."""
    (folder / "videos").mkdir(parents=True)
    first = make_video(folder / "videos" / "0.mp4", frames)
    for i in range(1, copies):
        shutil.copy(first, folder / "videos" / f"{i}.mp4")
    out = folder / "out"
    done("extract-frames", folder / "videos", "-o", out, "--size", 64, "--workers", 1, *flags)
    done("precompute-features", "-o", out, "--backbone", "demo-tiny")
    done("index", "-o", out)
    return out


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library(tmp_path_factory.mktemp("single"), 1)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library(tmp_path_factory.mktemp("copied"), COPIES)


def hits(out: Path, device: str, *flags: object) -> list[dict[str, Any]]:
    (answer,) = json.loads(done("query", SENTENCE, "-o", out, "--device", device, "--json", *flags))["results"]
    return answer["hits"]


@pytest.mark.parametrize(
    "flag, value, expected",
    [
        *(("--min-confidence", value, "a number from 0 to 1, such as 0.9") for value in ("nan", "1.1", "-0.1", "x")),
        *(("--longer", value, "seconds, 0 or more, such as 2.5") for value in ("abc", "nan", "inf", "-1", "")),
        *(("--shorter", value, "seconds, 0 or more, such as 2.5") for value in ("1:30", "-inf")),
        *(("--pad", value, "seconds, 0 or more, such as 2.5") for value in ("inf", "nan", "-1")),
        *(("--min-score", value, "a number such as 0.2") for value in ("nan", "high")),
    ],
)
def test_a_number_that_is_none_is_refused_in_a_sentence(flag: str, value: str, expected: str, tmp_path: Path) -> None:
    refused = tvr("query", SENTENCE, "-o", tmp_path, f"{flag}={value}", "--save-clips", tmp_path / "clips")
    assert refused.exit_code == 2 and refused.stderr == f"error: {flag}: expected {expected}, found {value!r}\n"


@WAYS
@pytest.mark.parametrize("flags", [(), ("--exhaustive",), ("--shortlist", 1)], ids=["default", "every clip", "one"])
def test_a_library_of_one_clip_answers_with_it(single: Path, device: str, flags: tuple[object, ...]) -> None:
    (hit,) = hits(single, device, *flags)
    assert hit["video_id"] == "0.mp4" and 0 <= hit["start"] < hit["end"]


@WAYS
@pytest.mark.parametrize("flags", [(), ("--exhaustive",), ("--shortlist", 1)], ids=["default", "every clip", "one"])
def test_more_files_than_there_are_is_each_of_them_once(copied: Path, device: str, flags: tuple[object, ...]) -> None:
    found = hits(copied, device, "-k", 1000, *flags)
    assert sorted(hit["video_id"] for hit in found) == [f"{i}.mp4" for i in range(COPIES)]
    assert [hit["rank"] for hit in found] == [1, 2, 3, 4, 5]


@WAYS
def test_identical_clips_are_hits_of_one_score_and_one_moment(copied: Path, device: str) -> None:
    found = hits(copied, device)
    assert len({(hit["start"], hit["end"]) for hit in found}) == 1 and len(found) == COPIES
    assert [hit["score"] for hit in found] == pytest.approx([found[0]["score"]] * COPIES, abs=1e-6)


@pytest.mark.parametrize("frames", [1, 12])
def test_one_frame_and_copies_of_it_are_answers_by_time_too(tmp_path: Path, frames: int) -> None:
    out = library(tmp_path, 2, frames, flags=())
    for device in ("auto", "cpu:0"):
        found = hits(out, device, "--per-file", 1, "--all")
        assert sorted(hit["video_id"] for hit in found) == ["0.mp4", "1.mp4"]
        assert len({(hit["start"], hit["end"]) for hit in found}) == 1 and found[0]["start"] < found[0]["end"]


@WAYS
def test_a_library_whose_videos_all_went_says_so_instead_of_an_old_answer(
    single: Path, tmp_path: Path, device: str
) -> None:
    shutil.copytree(single.parent, tmp_path / "library")
    videos, out = tmp_path / "library" / "videos", tmp_path / "library" / "out"
    shutil.rmtree(out / "frames")
    (videos / "0.mp4").write_bytes(b"no video any more")
    assert tvr("extract-frames", videos, "-o", out, "--size", 64, "--workers", 1).exit_code == 5
    result = tvr("query", SENTENCE, "-o", out, "--device", device)
    assert result.exit_code == 3 and "holds no clip" in result.stderr and not result.stdout


def test_an_empty_bank_is_refused_and_the_index_stays(copied: Path, tmp_path: Path) -> None:
    bank = tmp_path / "mine.txt"
    bank.write_text("\n \n")
    before = (copied / "index" / "current").read_bytes()
    result = tvr("index", "-o", copied, "--null", bank)
    assert result.exit_code == 3 and "found none" in result.stderr
    assert (copied / "index" / "current").read_bytes() == before


def test_a_bank_in_another_language_is_measured_with(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose letters the encoder's words have none of: they are byte pairs of their own."""
    monkeypatch.setattr(measure, "LEAST", 1)
    monkeypatch.setattr(measure, "EVERY_S", 0.0)
    bank, out = tmp_path / "mine.txt", tmp_path / "out"
    shutil.copytree(copied, out)
    bank.write_text("ein Hund am Strand\nдва кота\n朝の運用\n", encoding="utf-8")
    report = json.loads(done("index", "-o", out, "--null", bank, "--json"))
    assert report["bank"]["own"] and report["bank"]["sentences"] == 3
    assert report["recall"]["of"] == "sentences of mine.txt" and report["recall"]["sentences"] == 3
    assert Index.open(out / "index").null_sentences() == ["ein Hund am Strand", "два кота", "朝の運用"]


@WAYS
def test_only_the_sentence_that_is_cut_is_said_to_be(copied: Path, device: str) -> None:
    result = CliRunner().invoke(
        app, ["query", "-", "-o", str(copied), "--device", device], input=f"{SENTENCE}\n{'a blue star ' * 40}\n"
    )
    assert result.exit_code == 0 and result.stderr.count("is read up to the first") == 1
    assert "keep: a blue star" in result.stderr and SENTENCE not in result.stderr


def test_an_empty_workspace_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from tvr_cli.cli import main; sys.argv = ['tvr', 'query', 'a dog', '-o', 'out']\n"
        "try:\n    main()\nexcept SystemExit as e:\n    print(e.code, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert found.stdout == "3 False\n" and "expected frames or features in 'out'" in found.stderr


def test_captions_of_a_video_that_was_deleted_keep_no_question_from_its_answer(tmp_path: Path) -> None:
    """Whoever trains is told; a question is answered, also when more videos come, and other captions stay."""
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for number in range(3):
        make_video(videos / f"{number}.mp4", 24, size=(64, 64))
    lines = [{"video": f"{number}.mp4", "caption": f"thing {number}"} for number in range(3)]
    (videos / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done("extract-frames", videos, "-o", out, "--num-frames", 3, "--size", 64, "--workers", 1)
    done("precompute-features", "-o", out, "--backbone", "demo-tiny")
    (videos / "0.mp4").unlink()
    for others in (2, 3):
        done("extract-frames", videos, "-o", out, "--forget", "--workers", 1)
        result = tvr("query", "a thing", "-o", out, "--all", "--per-file", 1, "--json")
        assert result.exit_code == 0, result.stderr
        assert "the captions are kept as they were: " in result.stderr and "the video '0.mp4' is not" in result.stderr
        assert len(json.loads(result.stdout)["results"][0]["hits"]) == others
        make_video(videos / "9.mp4", 48, size=(64, 64))
    refused = tvr("precompute-features", "-o", out)
    assert refused.exit_code == 3 and "captions.jsonl:1: the video '0.mp4' is not among" in refused.stderr
    store = Workspace(out).newest_features()
    assert store is not None and sorted(c.text for c in store.captions) == ["thing 1", "thing 2"]


def test_first_features_for_a_question_are_made_without_captions_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    make_video(videos / "0.mp4", 24, size=(64, 64))
    (videos / "captions.jsonl").write_text('{"video": "gone.mp4", "caption": "a thing"}\n')
    done("extract-frames", videos, "-o", out, "--num-frames", 3, "--size", 64, "--workers", 1)
    result = tvr("query", "a thing", "-o", out, "--all", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["results"][0]["hits"], result.stderr
    assert "the features are made without captions: " in result.stderr and "'gone.mp4' is not among" in result.stderr
    assert "without captions" not in tvr("query", "a thing", "-o", out, "--all").stderr
    refused = tvr("train", "--method", "glccl", "-o", out)
    assert refused.exit_code == 3 and "'gone.mp4' is not among" in refused.stderr
    (videos / "captions.jsonl").write_text('{"video": "0.mp4", "caption": "a thing"}\n')
    done("precompute-features", "-o", out)
    store = Workspace(out).newest_features()
    assert store is not None and [c.text for c in store.captions] == ["a thing"]
