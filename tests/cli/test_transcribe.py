"""`tvr transcribe`: what is said becomes subtitles in the workspace, heard by a stand-in."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.engine.searching import whisper
from tvr_cli.engine.searching.transcribe import cues_of, srt
from tvr_cli.engine.searching.whisper import Word
from tvr_cli.errors import DataError, EnvironmentProblem
from tvr_cli.stores.speech import cues

SAID = [Word(0.1, 0.4, " The"), Word(0.4, 0.9, " zeppelin"), Word(0.9, 1.2, " lands."), Word(1.3, 1.6, " Now")]


class StandIn:
    """Hears the same in every file. heard: which files; fails: of which the sound cannot be read."""

    def __init__(self, *fails: str, language: str = "en", words: list[Word] = SAID):
        self.heard: list[str] = []
        self.fails, self.language, self.words = fails, language, words

    def hear(self, path: Path, language: str | None) -> tuple[str, Iterator[Word]]:
        self.heard.append(path.name)
        if path.name in self.fails:
            raise DataError("its sound cannot be read (noise)")
        return language or self.language, iter(self.words)


def film(path: Path, *, sound: bool = True, delay: float = 0.0) -> None:
    """A grey film of two seconds, with a tone that begins late, where it is to."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = out.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for i in range(20):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 9 * i, np.uint8), format="rgb24")))
        out.mux(video.encode())
        if audio is not None:
            tone = np.sin(np.arange(1024) / 5).astype(np.float32)[None]
            for i in range(30):
                frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16_000, 1024 * i + int(16_000 * delay)
                out.mux(audio.encode(frame))
            out.mux(audio.encode())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talking")
    (folder / "films").mkdir()
    film(folder / "films" / "lake.mp4")
    film(folder / "films" / "street.mp4", delay=0.5)
    film(folder / "films" / "silent.mp4", sound=False)
    done = CliRunner().invoke(app, ["extract-frames", str(folder / "films"), "-o", str(folder / "out"), "--size", "64"])
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    found = StandIn()
    monkeypatch.setattr(whisper, "load", lambda model, **options: found)
    return found


def tvr(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def report(out: Path, *flags: object, code: int = 0) -> dict[str, Any]:
    result = tvr("transcribe", "-o", out, "--json", *flags)
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def hits(out: Path, *words: object) -> list[dict[str, Any]]:
    result = tvr("query", *words, "-o", out, "--channel", "speech", "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["results"][0]["hits"]


def test_what_is_heard_is_written_into_the_workspace_and_found(made, out, listener):
    told = report(out)
    counts = {name: told[name] for name in ("videos", "heard", "kept", "silent", "gone", "failed")}
    assert counts == {"videos": 3, "heard": 2, "kept": 0, "silent": 1, "gone": 0, "failed": []}
    assert sorted(listener.heard) == ["lake.mp4", "street.mp4"]
    assert len(list((out / "speech" / "heard").glob("*.en.srt"))) == 2 and not list(made.glob("films/*.srt"))
    found = {hit["video_id"]: (hit["start"], hit["said"]) for hit in hits(out, "zeppelin")}
    assert found["lake.mp4"] == (0.1, "The zeppelin lands.")
    assert found["street.mp4"][0] == pytest.approx(0.6, abs=0.1), "sound that begins late is heard late"
    assert tvr("doctor", out).exit_code == 0


def test_what_was_written_down_is_kept_and_a_stop_loses_one_video(out, monkeypatch):
    stopping = StandIn()
    words = iter([iter(SAID), None])

    def hear(path: Path, language: str | None) -> tuple[str, Iterator[Word]]:
        stopping.heard.append(path.name)
        if (found := next(words)) is None:
            raise KeyboardInterrupt
        return "en", found

    monkeypatch.setattr(stopping, "hear", hear)
    monkeypatch.setattr(whisper, "load", lambda model, **options: stopping)
    assert tvr("transcribe", "-o", out).exit_code == 130
    going_on = StandIn()
    monkeypatch.setattr(whisper, "load", lambda model, **options: going_on)
    told = report(out)
    assert (told["heard"], told["kept"]) == (1, 1) and going_on.heard == stopping.heard[1:]
    monkeypatch.setattr(whisper, "load", lambda model, **options: pytest.fail("nothing is left to hear"))
    assert report(out)["kept"] == 2


def test_a_dry_run_hears_and_writes_nothing(out, monkeypatch):
    monkeypatch.setattr(whisper, "load", lambda model, **options: pytest.fail("a dry run loads a model"))
    told = report(out, "--dry-run")
    assert (told["heard"], told["silent"], told["dry_run"]) == (2, 1, True) and told["seconds"] == pytest.approx(
        4, abs=1
    )
    assert not (out / "speech").exists()


def test_a_video_that_cannot_be_heard_is_told_and_the_others_go_on(out, monkeypatch):
    monkeypatch.setattr(whisper, "load", lambda model, **options: StandIn("lake.mp4"))
    told = report(out, code=5)
    assert told["failed"] == [{"video_id": "lake.mp4", "reason": "its sound cannot be read (noise)"}]
    assert told["heard"] == 1 and [hit["video_id"] for hit in hits(out, "zeppelin")] == ["street.mp4"]


def test_nobody_says_anything_and_it_is_not_heard_again(out, monkeypatch):
    monkeypatch.setattr(whisper, "load", lambda model, **options: StandIn(words=[]))
    assert report(out)["heard"] == 2 and report(out)["kept"] == 2


def test_beside_the_videos_nothing_of_others_is_replaced(made, out, listener):
    try:
        (made / "films" / "lake.en.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nMine.\n")
        told = report(out, "--beside", "--language", "en")
        assert (told["heard"], told["kept"], told["folder"]) == (1, 1, None)
        assert "Mine." in (made / "films" / "lake.en.srt").read_text()
        assert "zeppelin" in (made / "films" / "street.en.srt").read_text()
        # What somebody wrote in a language is better than what was heard in it.
        assert report(out)["heard"] == 2
        assert [hit["video_id"] for hit in hits(out, "zeppelin")] == ["street.mp4"]
    finally:
        for path in made.glob("films/*.srt"):
            path.unlink()


def test_words_become_cues_of_sentences_that_are_read_back():
    found = cues_of(SAID)
    assert [(cue.start, cue.end, cue.text) for cue in found] == [(0.1, 1.2, "The zeppelin lands."), (1.3, 1.6, "Now")]
    long = cues_of([Word(i * 0.5, i * 0.5 + 0.4, " word") for i in range(40)])
    assert len(long) > 2 and all(cue.end - cue.start <= 6 for cue in long)
    assert [cue.text for cue in cues_of([Word(0, 1, "朝"), Word(1, 2, "の運用。"), Word(2, 3, "次")])] == [
        "朝の運用。",
        "次",
    ]
    written = srt([cues.Passage(360_000.5, 360_001.25, "Late.")])
    assert written == "1\n100:00:00,500 --> 100:00:01,250\nLate.\n" and srt([]) == ""
    (back,) = cues.read(written.encode(), "en").passages
    assert (back.start, back.end, back.text) == (360_000.5, 360_001.25, "Late.")


def test_what_is_missing_is_a_sentence(out, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    result = tvr("transcribe", "-o", out)
    assert result.exit_code == 4 and "pip install 'tvr-cli[speech]'" in result.stderr
    result = tvr("transcribe", "-o", out, "--language", "English")
    assert result.exit_code == 2 and "expected a code such as en" in result.stderr
    result = tvr("transcribe", "-o", tmp_path / "none")
    assert result.exit_code == 3 and "start with: tvr extract-frames" in result.stderr


def test_segments_without_the_seconds_of_words_are_refused():
    class Segment:
        words = None

    class Model:
        def transcribe(self, path: str, **options: object) -> tuple[object, object]:
            return iter([Segment()]), type("Info", (), {"language": "en"})

    with pytest.raises(EnvironmentProblem, match="gave no seconds of words"):
        list(whisper.Whisper(Model()).hear(Path("a.mp4"), None)[1])


def test_the_real_package_takes_what_is_asked_of_it():
    """Its interface alone: no weights are loaded."""
    if not installed("faster-whisper"):
        pytest.skip("faster-whisper is not installed: pip install 'tvr-cli[speech]'")
    from faster_whisper import WhisperModel
    from faster_whisper.transcribe import Segment, TranscriptionInfo
    from faster_whisper.transcribe import Word as Theirs

    taken = inspect.signature(WhisperModel.transcribe).parameters
    assert {"audio", "language", "word_timestamps", "vad_filter", "condition_on_previous_text"} <= set(taken)
    assert {"model_size_or_path", "device", "compute_type", "local_files_only"} <= set(
        inspect.signature(WhisperModel.__init__).parameters
    )
    assert {"start", "end", "word"} <= set(Theirs.__annotations__) and "words" in Segment.__annotations__
    assert "language" in TranscriptionInfo.__annotations__


def installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False
