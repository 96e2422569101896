"""`tvr query --channel`: what is said and written, alone and beside the picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from videos import make_video

from tvr_cli.cli import app

pytestmark = pytest.mark.usefixtures("warm_readers")

MKV = Path(__file__).parent.parent / "golden" / "speech" / "said.mkv"
SRT = "1\n00:00:00,100 --> 00:00:00,900\nThe zeppelin lands.\n\n2\n00:00:01,200 --> 00:00:01,800\nBy the lake\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small films and one with a text stream inside, extracted to `out`."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "films").mkdir()
    for number, name in enumerate(("lake.mp4", "street.mp4")):
        make_video(folder / "films" / name, 20 + number, fps=10, size=(64, 64), gop=5)
    shutil.copy(MKV, folder / "films" / "said.mkv")
    done = CliRunner().invoke(
        app, ["extract-frames", str(folder / "films"), "-o", str(folder / "out"), "--size", "64", "--num-frames", "12"]
    )
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def place(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the library's workspace, of the same films, without subtitles."""
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")
    for path in [*(library / "films").glob("*.srt"), *(library / "films").glob("*.vtt")]:
        path.unlink()
    shutil.copytree(library / "out", tmp_path / "out")
    return tmp_path / "out"


def query(place: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["query", *words, "-o", str(place)])


def hits(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["results"][0]["hits"]


def test_what_is_said_is_found_alone_without_any_features(library: Path, place: Path) -> None:
    (library / "films" / "lake.srt").write_text(SRT)
    result = query(place, "zeppelin", "--channel", "speech", "--json")
    (hit,) = hits(result)
    assert (hit["video_id"], hit["start"], hit["end"]) == ("lake.mp4", 0.1, 0.9)
    assert (hit["channel"], hit["said"], hit["missing"]) == ("speech", "The zeppelin lands.", False)
    assert "1 subtitle files, 1 text streams, 3 passages" in result.stderr
    assert not (place / "features").exists() and not (place / "index").exists()
    assert hits(query(place, "hippopotamus", "--channel", "speech", "--json"))[0]["video_id"] == "said.mkv"


def test_a_subtitle_that_comes_or_goes_is_noticed_by_the_next_query(library: Path, place: Path) -> None:
    assert hits(query(place, "zeppelin", "--channel", "speech", "--json")) == []
    (library / "films" / "lake.srt").write_text(SRT)
    assert len(hits(query(place, "zeppelin", "--channel", "speech", "--json"))) == 1
    (library / "films" / "lake.srt").write_text(SRT.replace("zeppelin", "airship"))
    assert hits(query(place, "zeppelin", "--channel", "speech", "--json")) == []
    assert len(hits(query(place, "airship", "--channel", "speech", "--json"))) == 1
    again = query(place, "airship", "--channel", "speech", "--json")
    assert "read what is said" not in again.stderr


def test_both_channels_answer_together_and_then_by_default(library: Path, place: Path) -> None:
    before = hits(query(place, "a red star", "--json"))
    assert {hit["channel"] for hit in before} == {"picture"} and not any("said" in hit for hit in before)
    assert not (place / "speech").exists()
    throughout = "1\n00:00:00,000 --> 00:00:02,100\nA red star lands.\n"
    (library / "films" / "street.srt").write_text(throughout)
    found = hits(query(place, "a red star", "--channel", "both", "--json"))
    assert found[0]["video_id"] == "street.mp4" and found[0]["channel"] == "both"
    assert found[0]["said"] == "A red star lands."
    seen = next(hit for hit in before if hit["video_id"] == "street.mp4")
    assert found[0]["score"] == pytest.approx(1 / (60 + seen["rank"]) + 1 / 61)
    assert [hit["rank"] for hit in found] == list(range(1, len(found) + 1))
    assert hits(query(place, "a red star", "--json")) == found
    after = hits(query(place, "a red star", "--channel", "picture", "--json"))
    assert [{**hit, "score": pytest.approx(hit["score"], abs=1e-5)} for hit in before] == after
    assert len(hits(query(place, "a red star", "-k", "1", "--json"))) == 1


def test_words_that_were_read_are_found_when_the_frames_are_gone(library: Path, place: Path) -> None:
    """As the picture is, from its features: nothing new can be known of, and what is there still answers."""
    (library / "films" / "lake.srt").write_text(SRT)
    found = hits(query(place, "zeppelin", "--channel", "both", "--json"))
    shutil.rmtree(place / "frames")
    assert hits(query(place, "zeppelin", "--json")) == found


def test_a_table_says_which_channel_and_what_was_said(library: Path, place: Path) -> None:
    (library / "films" / "lake.srt").write_text(SRT)
    shown = query(place, "zeppelin", "--channel", "speech").stdout.splitlines()
    assert shown[0].split()[:4] == ["#", "video", "by", "said"]
    assert "speech" in shown[-1] and "The zeppelin lands." in shown[-1] and "0:00.1–0:00.9" in shown[-1]


def test_odd_subtitles_are_told_and_the_others_answer(library: Path, place: Path) -> None:
    (library / "films" / "lake.srt").write_text(SRT)
    (library / "films" / "lake.en.srt").write_bytes(SRT.replace("lake", "l\xe4ke").encode("latin-1"))
    (library / "films" / "lake.en.vtt").write_text("WEBVTT\n")
    (library / "films" / "street.srt").write_bytes(b"")
    result = query(place, "zeppelin", "--channel", "speech", "--json")
    assert len(hits(result)) == 1
    assert "1 without words" in result.stderr and "1 not in UTF-8, their encoding guessed" in result.stderr
    assert "1 left out, for another has their language" in result.stderr and "street.srt: it is empty" in result.stderr


def test_what_cannot_be_asked_is_a_sentence(library: Path, tmp_path: Path) -> None:
    result = query(tmp_path / "nothing", "x", "--channel", "speech")
    assert result.exit_code == 3 and "start with: tvr extract-frames videos/" in result.stderr
    result = query(tmp_path / "nothing", "x", "--channel", "sound")
    assert result.exit_code == 2 and "there are picture, speech, both" in result.stderr
    result = query(tmp_path / "nothing", "x", "--channel", "speech", "--min-score", 0.3)
    assert result.exit_code == 2 and "--min-score is about scores of the picture" in result.stderr


def test_a_least_score_leaves_out_what_is_seen_and_not_what_is_said(library: Path, place: Path) -> None:
    (library / "films" / "lake.srt").write_text(SRT)
    found = hits(query(place, "zeppelin", "--channel", "both", "--min-score", 1e9, "--json"))
    assert [(hit["channel"], hit["said"]) for hit in found] == [("speech", "The zeppelin lands.")]


def test_without_any_words_the_picture_answers_and_speech_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")
    (tmp_path / "films").mkdir()
    make_video(tmp_path / "films" / "a.mp4", 20, fps=10, size=(64, 64))
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["extract-frames", str(tmp_path / "films"), "-o", str(out), "--size", "64", "--num-frames", "12"]
    )
    assert done.exit_code == 0, done.stderr
    result = query(out, "a red star", "--channel", "speech")
    assert result.exit_code == 3 and "put subtitles beside the videos" in result.stderr
    both = query(out, "a red star", "--channel", "both", "--json")
    assert [hit["channel"] for hit in hits(both)] == ["picture"] and "the picture alone answers" in both.stderr
    (seen,) = hits(query(out, "a red star", "--channel", "picture", "--json"))
    as_seen = [{**seen, "score": pytest.approx(seen["score"], abs=1e-5)}]  # its own score, no share of a rank
    assert hits(both) == as_seen and hits(query(out, "a red star", "--json")) == as_seen


def test_info_and_doctor_know_what_is_said(library: Path, place: Path) -> None:
    (library / "films" / "lake.srt").write_text(SRT)
    (library / "films" / "street.srt").write_bytes(b"")
    hits(query(place, "zeppelin", "--channel", "speech", "--json"))
    told = CliRunner().invoke(app, ["info", str(place), "--json"])
    (speech,) = [part for part in json.loads(told.stdout)["parts"] if part["kind"] == "speech"]
    assert (speech["files"], speech["streams"], speech["passages"], speech["empty"]) == (1, 1, 3, 1)
    assert speech["first"].endswith("street.srt: it is empty")
    alone = CliRunner().invoke(app, ["info", str(place / "speech"), "--json"])
    assert json.loads(alone.stdout) == {"schema": "tvr/info@1", **speech}
    checked = CliRunner().invoke(app, ["doctor", str(place)])
    assert checked.exit_code == 0 and "speech: 2 parts, all as they were written" in checked.stdout


def test_damaged_words_are_told_and_the_command_that_is_named_makes_them_again(library: Path, place: Path) -> None:
    (library / "films" / "lake.srt").write_text(SRT)
    found = hits(query(place, "zeppelin", "--channel", "speech", "--json"))
    (database,) = (place / "speech").glob("*.sqlite")
    database.write_bytes(database.read_bytes()[:-1])
    again = f'tvr query "a dog surfing" --channel speech -o {place}'
    for verb in ("info", "doctor"):
        told = CliRunner().invoke(app, [verb, str(place)])
        assert told.exit_code == 3 and again in told.stdout
    assert query(place, "a dog surfing", "--channel", "speech").exit_code == 0
    assert CliRunner().invoke(app, ["doctor", str(place)]).exit_code == 0
    assert hits(query(place, "zeppelin", "--channel", "speech", "--json")) == found
    (place / "speech" / "speech.json").write_text('{"kind": "talks"}')
    for verb in ("info", "doctor"):
        told = CliRunner().invoke(app, [verb, str(place)])
        assert told.exit_code == 3 and "nothing was replaced; move it elsewhere" in told.stdout
