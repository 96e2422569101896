"""Writing down what is said in the videos of a workspace, as subtitles that the speech channel reads.

They lie in the workspace, one file a video, named after the content of the video: `<sha256>.<language>.srt`; so a video
that was renamed keeps its words, and one that was changed is heard again. A file is written when its video is heard to
the end: what was stopped goes on with the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvr_cli import files, log
from tvr_cli.engine.searching import speech, whisper
from tvr_cli.engine.searching.whisper import Listener, Word
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.results.base import Result
from tvr_cli.stores.speech import sources
from tvr_cli.stores.speech.cues import Passage
from tvr_cli.stores.speech.sources import Video
from tvr_cli.workspace import Workspace

MODEL = "small"
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_ENDS = re.compile(r"[.!?…。!?][\"'”’»)\]]*$")
_PAUSE_S, _LONGEST_S, _MOST_LETTERS = 0.8, 6.0, 84  # of one cue: what two lines hold, and what is read in that time


@dataclass(frozen=True, slots=True)
class TranscribeOptions:
    """model, device, offline: see `whisper.load`. language: that is spoken, None = guessed, file by file. beside: write
    beside the videos.
    """

    model: str = MODEL
    language: str | None = None
    beside: bool = False
    device: str = "auto"
    offline: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Unheard:
    """A video whose words could not be written down."""

    video_id: str
    reason: str


@dataclass(frozen=True)
class TranscribeReport(Result):
    """What became of the videos of a workspace. heard: written down now (of a dry run: that would be). kept: they were
    before. silent: without a track of sound. gone: not where they were. seconds: of sound that was heard, or would be.

    folder: where the subtitles lie, None = beside the videos.
    """

    schema, version = "transcribe", 1
    videos: int
    heard: int
    kept: int
    silent: int
    gone: int
    failed: Sequence[Unheard]
    seconds: float
    model: str
    folder: Path | None
    dry_run: bool


def transcribe(
    workspace: Workspace, options: TranscribeOptions, *, listener: Listener | None = None
) -> TranscribeReport:
    """Write down what is said in each video that has no transcript yet, and read it into the words of the workspace.

    listener: what hears, None = faster-whisper. Videos that cannot be heard are in the report. Raises ConfigError for a
    language that is no code of one, DataError without frames, EnvironmentProblem without the package or the weights.
    """
    if options.language is not None and not _LANGUAGE.fullmatch(options.language):
        raise ConfigError(f"--language: expected a code such as en, de or ja, found {options.language!r}")
    if not workspace.has_frames:
        workspace.refuse_without_frames(f"expected frames in {str(workspace)!r}, which say what its videos are")
    videos = speech.videos_of(workspace)
    kept = [video for video in videos if _is_there(video, workspace, options)]
    silent = [video for video in videos if video.is_silent and video not in kept]
    left = [video for video in videos if video not in kept and video not in silent]
    gone = [video for video in left if not Path(video.path).is_file()]
    wanted = [video for video in left if video not in gone]
    failed: list[Unheard] = []
    if wanted and not options.dry_run:
        heard_by = listener or whisper.load(options.model, device=options.device, offline=options.offline)
        failed = _hear(wanted, workspace, options, heard_by)
        speech.up_to_date(workspace)
    bad = {one.video_id for one in failed}
    seconds = sum(video.limits[1] - video.limits[0] for video in wanted if video.file_id not in bad)
    folder = None if options.beside else workspace.transcripts_folder
    return TranscribeReport(
        len(videos), len(wanted) - len(failed), len(kept), len(silent), len(gone), failed, seconds, options.model,
        folder, options.dry_run,
    )  # fmt: skip


def _hear(
    videos: Sequence[Video], workspace: Workspace, options: TranscribeOptions, listener: Listener
) -> list[Unheard]:
    """Write down what is said in videos, one after the other, and return those where it was not possible."""
    failed = []
    total = round(sum(video.limits[1] for video in videos))
    with log.progress("transcribing", total=total, unit="seconds") as bar:
        for video in videos:
            done = 0
            try:
                begins = sources.sound_begins(Path(video.path))
                language, words = listener.hear(Path(video.path), options.language)
                said = []
                for word in words:
                    said.append(Word(word.start + begins, word.end + begins, word.text))
                    bar.advance(max(0, min(round(word.end), round(video.limits[1])) - done), note=video.file_id)
                    done = max(done, round(word.end))
                _write(_place(video, language, workspace, options), srt(cues_of(said)))
            except DataError as e:
                failed.append(Unheard(video.file_id, str(e)))
            bar.advance(max(0, round(video.limits[1]) - done), note=video.file_id)
    return failed


def _is_there(video: Video, workspace: Workspace, options: TranscribeOptions) -> bool:
    """Whether a video has been written down before, in this language where one is named."""
    if not options.beside:
        found = sources.transcripts_of(video, workspace.transcripts_folder)
        return any(options.language in (None, language) for language, _ in found)
    known = [language for language, _ in sources.subtitles_of(video)]
    return bool(known) if options.language is None else options.language in known


def _place(video: Video, language: str, workspace: Workspace, options: TranscribeOptions) -> Path:
    if options.beside:
        return Path(video.path).with_suffix(f".{language}.srt")
    return workspace.transcripts_folder / sources.transcript_name(video, language)


def _write(path: Path, text: str) -> None:
    """Write subtitles; beside a video what is there already is somebody's, and stays."""
    with files.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise DataError(f"{str(path)!r} is there already and was left as it is")
    files.write_text(path, text)


def cues_of(words: Iterable[Word]) -> list[Passage]:
    """Return words as they are shown together: until a sentence ends, somebody pauses, or a cue is full."""
    found: list[Passage] = []
    for word in words:
        last = found[-1] if found else None
        if last is None or _is_over(last, word):
            found.append(Passage(word.start, max(word.start, word.end), word.text))
        else:
            found[-1] = Passage(last.start, max(last.end, word.end), last.text + word.text)
    said = (Passage(cue.start, cue.end, " ".join(cue.text.split())) for cue in found)
    return [cue for cue in said if cue.text]


def srt(cues: Sequence[Passage]) -> str:
    """Return cues as a SubRip file; of none an empty one."""
    return "\n".join(
        f"{number}\n{_clock(cue.start)} --> {_clock(cue.end)}\n{cue.text}\n" for number, cue in enumerate(cues, 1)
    )


def _is_over(last: Passage, word: Word) -> bool:
    full = word.end - last.start > _LONGEST_S or len(last.text) + len(word.text) > _MOST_LETTERS
    return full or word.start - last.end > _PAUSE_S or bool(_ENDS.search(last.text.rstrip()))


def _clock(seconds: float) -> str:
    milli = round(max(0.0, seconds) * 1000)
    hours, rest = divmod(milli, 3_600_000)
    return f"{hours:02d}:{rest // 60_000:02d}:{rest // 1000 % 60:02d},{rest % 1000:03d}"
