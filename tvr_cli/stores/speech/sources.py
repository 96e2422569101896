"""Where the words of a video are: subtitle files beside it, and text streams inside it.

`film.srt`, `film.en.srt` and `film.en.forced.vtt` are beside `film.mp4`. Of two files of one language the first by kind
(`.srt`, `.vtt`, `.ass`, `.ssa`) and name is read, and the other told.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import files
from tvr_cli.errors import DataError
from tvr_cli.stores.speech import cues
from tvr_cli.stores.speech.cues import Passage, Read

_DIGITS = 20  # of a video's sha256, in the name of its transcript
KINDS = (".srt", ".vtt", ".ass", ".ssa")
# Streams of pictures of text have no words.
TEXT_CODECS = frozenset({"srt", "subrip", "ass", "ssa", "mov_text", "webvtt", "text"})


@dataclass(frozen=True, slots=True)
class Source:
    """One language of one video. path: the subtitle file, or the video itself. stream: its index in there, or None.

    file_id, video: whose words they are. stamp: of `path`.
    """

    file_id: str
    video: str
    path: str
    stream: int | None
    language: str
    stamp: files.Stamp


@dataclass(frozen=True, slots=True)
class Video:
    """A video of a library. streams: the index of each of its text streams. limits: the seconds of it that count.

    content: the sha256 of the file, by which what was heard in it is known. is_silent: it has no track of sound.
    """

    file_id: str
    path: str
    streams: tuple[int, ...]
    limits: tuple[float, float]
    content: str = ""
    is_silent: bool = False


def beside(videos: Sequence[Video]) -> tuple[list[Source], list[str]]:
    """Return the subtitle files beside videos, and those that are left out because one of their language is there."""
    found: list[Source] = []
    doubles: list[str] = []
    names: dict[str, list[str]] = {}
    for video in videos:
        folder, name = os.path.split(video.path)
        if folder not in names:
            names[folder] = _subtitles(folder)
        stem = os.path.splitext(name)[0]
        languages: set[str] = set()
        for language, path in sorted(_of(stem, folder, names[folder]), key=lambda one: (one[0], _order(one[1]))):
            stamp = files.stamp(Path(path))
            if language in languages:
                doubles.append(path)
            elif stamp is not None:
                languages.add(language)
                found.append(Source(video.file_id, video.path, path, None, language, stamp))
    return found, doubles


def heard(videos: Iterable[Video], folder: Path, beside: Iterable[Source]) -> list[Source]:
    """Return the transcripts that were made of videos (`engine/searching/transcribe.py`), of languages that no file
    beside a video has: what somebody wrote is better than what was heard.
    """
    written = {(source.file_id, source.language) for source in beside}
    found = []
    for video in videos:
        for language, path in transcripts_of(video, folder):
            stamp = files.stamp(path)
            if stamp is not None and stamp[0] and (video.file_id, language) not in written:
                found.append(Source(video.file_id, video.path, str(path), None, language, stamp))
    return found


def transcripts_of(video: Video, folder: Path) -> list[tuple[str, Path]]:
    """Return language and path of each transcript of a video in a folder of such."""
    if not video.content:
        return []
    return [(path.suffixes[0][1:], path) for path in sorted(folder.glob(f"{video.content[:_DIGITS]}.*.srt"))]


def transcript_name(video: Video, language: str) -> str:
    """Return what the transcript of a video is called: after its content, so that a renamed one keeps it."""
    return f"{video.content[:_DIGITS]}.{language}.srt"


def subtitles_of(video: Video) -> list[tuple[str, str]]:
    """Return language, "" where its name says none, and path of each subtitle file beside a video."""
    folder, name = os.path.split(video.path)
    return list(_of(os.path.splitext(name)[0], folder, _subtitles(folder)))


def sound_begins(path: Path) -> float:
    """Return the seconds of a file, as players count them, at which its first track of sound begins.

    Raises DataError where it has none, or cannot be read.
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise DataError("it has no track of sound")
            stream = container.streams.audio[0]
            begins = 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)
            return max(0.0, begins - (container.start_time or 0) / av.time_base)
    except (av.error.FFmpegError, OSError, ValueError) as e:
        raise DataError(f"it cannot be read ({type(e).__name__})") from e


def inside(videos: Iterable[Video]) -> list[Source]:
    """Return the text streams inside videos whose files are there."""
    found = []
    for video in videos:
        stamp = files.stamp(Path(video.path)) if video.streams else None
        if stamp is not None:
            found += [Source(video.file_id, video.path, video.path, index, "", stamp) for index in video.streams]
    return found


def read(source: Source) -> Read:
    """Return what a source says; why not, where it cannot be read."""
    if source.stream is not None:
        return _read_stream(source)
    try:
        data = Path(source.path).read_bytes()
    except OSError as e:
        return Read(problem=f"it cannot be read ({e.strerror})")
    return cues.read(data, source.language)


def _subtitles(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in KINDS)
    except OSError:
        return []


def _of(stem: str, folder: str, names: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Yield language and path of each subtitle file of a video: what stands between its stem and the ending."""
    for name in names:
        base = os.path.splitext(name)[0]
        if base == stem or base.startswith(f"{stem}."):
            yield base[len(stem) + 1 :].lower(), os.path.join(folder, name)


def _order(path: str) -> tuple[int, str]:
    return KINDS.index(os.path.splitext(path)[1].lower()), path


def _read_stream(source: Source) -> Read:
    import av

    found: list[Passage] = []
    try:
        with av.open(source.path) as container:
            stream = container.streams[source.stream or 0]
            begins = (container.start_time or 0) / av.time_base
            for packet in container.demux(stream):
                found += _in_packet(packet, begins)
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as e:
        return Read(problem=f"its text stream {source.stream} cannot be read ({type(e).__name__})")
    joined = cues.passages(found)
    return Read(joined, problem="" if joined else f"its text stream {source.stream} holds no words")


def _in_packet(packet: Any, begins: float) -> list[Passage]:
    if not packet.size or packet.pts is None or packet.duration is None:
        return []
    start = float(packet.pts * packet.time_base) - begins
    end = start + float(packet.duration * packet.time_base)
    said = [cues.plain(sub.dialogue.decode("utf-8", "replace")) for sub in packet.decode() if hasattr(sub, "dialogue")]
    return [Passage(max(0.0, start), end, words) for words in said if words and end >= 0]
