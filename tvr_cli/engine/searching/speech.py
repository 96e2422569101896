"""Searching what is said and written: the words of a workspace, brought up to date, and the passages that answer.

FTS5 finds words by their trigrams, so no language has to be known: a word of three characters or more is looked for as
it is typed (quoted, so that nothing in it is an operator), anywhere where its script has no blanks, else at the
beginning of a word. Shorter words, which have no trigram, are looked for in the texts themselves. No torch.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Sequence

from tvr_cli import log
from tvr_cli.stores.speech import store as words
from tvr_cli.stores.speech.sources import TEXT_CODECS, Video
from tvr_cli.stores.speech.store import Said, SpeechStore
from tvr_cli.workspace import Workspace

_MOST = 1000  # passages that are looked at for a sentence
_TRIGRAM = 3
_ENOUGH = 0.5  # share of a sentence, by how rare its words are, that a passage has to hold
_ENDS = ".,;:!?…()[]{}«»„“”‚‘’\"'、。!?「」"
_LETTER = re.compile(r"\w")
# Scripts without blanks between words: Thai, Lao, Khmer, kana, Chinese characters.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def up_to_date(workspace: Workspace) -> SpeechStore:
    """Return the words of a workspace; what is new or has changed is read first.

    Where the frames, which say what its videos are, are gone, they are as they were. Raises DataError where there never
    were any.
    """
    if not workspace.has_frames:
        if (found := SpeechStore.open(workspace.speech_folder)) is not None:
            return found
        workspace.refuse_without_frames(
            f"expected frames in {str(workspace)!r}, which say what is searched, found none"
        )
    frames = workspace.frames_content()
    found = SpeechStore.open(workspace.speech_folder)
    heard = str(workspace.transcripts_folder)
    current = found is not None and found.frames == frames and found.folders == _state([*found.folders, heard])
    if found is None or not current or not found.unchanged():
        videos = videos_of(workspace)
        if found is not None:
            found.close()  # before its file is removed
        folders = _state(dict.fromkeys([*(os.path.dirname(video.path) for video in videos), heard]))
        found = words.refresh(workspace.speech_folder, videos, frames, folders, workspace.transcripts_folder)
        _say(found)
    return found


def find(
    store: SpeechStore, sentence: str, most: int, per_file: int = 0, only: Collection[str] | None = None
) -> list[Said]:
    """Return the passages that answer a sentence, best first, none overlapping another of its file.

    per_file: of one file at most, 0 = all. only: of the files with these ids.

    A passage answers when the words of the sentence that it has are half of it or more, by how rare they are here:
    a word that nobody says makes any answer less likely.
    """
    wanted = terms(sentence)
    if not wanted:
        return []
    long = [word for word in wanted if len(word) >= _TRIGRAM]
    if long:
        scored = store.matches(" OR ".join(map(_quoted, long)), _MOST, only)
        texts = dict(store.texts([place for place, _ in scored]))
    else:
        texts = dict(store.texts(only=only))
        scored = sorted(((place, -_density(text, wanted)) for place, text in texts.items()), key=lambda one: one[1])
    total = store.counts.passages
    rarity = {word: _rarity(_held_by(store, word, texts), total) for word in wanted}
    enough = _ENOUGH * sum(rarity.values())
    kept = [
        (place, score)
        for place, score in scored
        if sum(weight for word, weight in rarity.items() if holds(texts[place], word)) >= enough
    ]
    return _apart(store.said([place for place, _ in kept], [score for _, score in kept]), most, per_file)


def terms(sentence: str) -> list[str]:
    """Return the words to look for, each once; a word that is nothing but punctuation stays as it is."""
    split = (word.strip(_ENDS) or word for word in words.folded(sentence).split())
    return list(dict.fromkeys(split))


def holds(text: str, word: str) -> bool:
    """Return whether a folded text has a word: at the beginning of one of its own, where words have blanks."""
    if not _LETTER.match(word) or _UNSPACED.match(word):
        return word in text
    ends = r"(?!\w)" if len(word) < _TRIGRAM and _LETTER.match(word[-1]) else ""
    return re.search(rf"(?<!\w){re.escape(word)}{ends}", text) is not None


def _quoted(word: str) -> str:
    """Return a word as FTS5 takes it literally, whatever is in it."""
    return '"' + word.replace('"', '""') + '"'


def _held_by(store: SpeechStore, word: str, texts: dict[int, str]) -> int:
    """Return how many passages have a word; of a short one, of those that were looked at."""
    if len(word) >= _TRIGRAM:
        return store.count(_quoted(word))
    return sum(holds(text, word) for text in texts.values())


def _rarity(held_by: int, passages: int) -> float:
    return math.log(1 + (passages - held_by + 0.5) / (held_by + 0.5))


def _density(text: str, wanted: Sequence[str]) -> float:
    return sum(text.count(word) for word in wanted if holds(text, word)) / max(1, len(text))


def _apart(found: Sequence[Said], most: int, per_file: int) -> list[Said]:
    """Leave out what overlaps something better of the same file: the same words in another language, or cue."""
    kept: list[Said] = []
    for one in found:
        if len(kept) == most:
            break
        of_file = [other for other in kept if one.file_id == other.file_id]
        if not 0 < per_file <= len(of_file) and not any(overlap(one, other) for other in of_file):
            kept.append(one)
    return kept


def overlap(a: Said, b: Said) -> bool:
    """Return whether two passages share an instant."""
    return a.start < b.end and b.start < a.end


def videos_of(workspace: Workspace) -> list[Video]:
    """Return the videos of a workspace, without the further tracks of a file, whose words are those of the file."""
    found: dict[str, Video] = {}
    for clip in workspace.frames().stored:
        record, tracks = clip.record, clip.file.tracks or ()
        start, end = record.span
        if (known := found.get(record.file_id)) is not None:
            start, end = min(start, known.limits[0]), max(end, known.limits[1])
        elif "#track=" in record.file_id:
            continue
        streams = tuple(t.index for t in tracks if t.kind == "subtitle" and t.codec in TEXT_CODECS)
        silent = clip.file.tracks is not None and not any(track.kind == "audio" for track in tracks)
        found[record.file_id] = Video(record.file_id, record.path, streams, (start, end), record.source_sha256, silent)
    return list(found.values())


def _state(folders: Iterable[str]) -> dict[str, int]:
    """Return what changes when a file comes into a folder or leaves it; 0 of one that is gone."""
    times = {}
    for folder in folders:
        try:
            times[folder] = os.stat(folder).st_mtime_ns
        except OSError:
            times[folder] = 0
    return times


def _say(found: SpeechStore) -> None:
    counts = found.counts
    log.logger.info(
        "read what is said: %d subtitle files, %d text streams, %d passages", counts.files, counts.streams,
        counts.passages,
    )  # fmt: skip
    odd = [
        f"{number} {what}"
        for number, what in (
            (counts.empty, "without words"),
            (counts.unreadable, "not readable"),
            (counts.guessed, "not in UTF-8, their encoding guessed"),
            (counts.doubles, "left out, for another has their language"),
        )
        if number
    ]
    if odd:
        log.logger.warning("of the subtitles %s (first: %s)", ", ".join(odd), counts.first)
