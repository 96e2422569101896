"""From the bytes of a subtitle file to passages: what is said, and when. pysubs2 reads the formats.

What is wrong with a file is tolerated and told, because subtitles come from anywhere: other encodings than UTF-8 are
guessed, cues may overlap, stand in any order, repeat each other (rolling captions) or be empty. A passage joins the
cues of a sentence, so that words which stand in two cues are found together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pysubs2
from pysubs2.formats.subrip import SubripFormat

# What bytes are that are no UTF-8, by the language that a file's name says; Latin-1's superset reads anything.
_ENCODINGS = {
    "ja": "cp932", "jpn": "cp932", "zh": "gb18030", "chi": "gb18030", "zho": "gb18030", "ko": "cp949", "kor": "cp949",
    "ru": "cp1251", "rus": "cp1251", "uk": "cp1251", "bg": "cp1251", "pl": "cp1250", "cs": "cp1250", "hu": "cp1250",
    "el": "cp1253", "tr": "cp1254", "he": "cp1255", "ar": "cp1256", "th": "cp874",
}  # fmt: skip
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_ENDS = re.compile(r"[.!?…。!?][\"'”’»)\]]*$")
_JOIN_GAP_S, _JOIN_MOST_S = 1.5, 12.0
# Times of lines in SubStation files, whose reader knows two digits of hours.
_DIALOGUE = re.compile(
    r"^((?:Dialogue|Comment):[^,]*),\s*(\d+)(:\d+:\d+[.:,]\d+)\s*,\s*(\d+)(:\d+:\d+[.:,]\d+)\s*,", re.M
)
_TAG = re.compile(r"\{[^}]*\}|<[^>]*>")


class _Subrip(SubripFormat):
    """SubRip with hours of any length: the reader of pysubs2 takes 100:00:01 for one second."""

    TIMESTAMP = re.compile(r"(\d+):(\d{1,2}):(\d{1,2})[.,](\d{1,3})")


@dataclass(frozen=True, slots=True)
class Passage:
    """Words and the seconds in which they are said or shown."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Read:
    """What a file of subtitles held. guessed: the encoding, where it is no UTF-8. problem: why nothing was read."""

    passages: tuple[Passage, ...] = ()
    guessed: str | None = None
    problem: str = ""


def read(data: bytes, language: str) -> Read:
    """Return what the bytes of a `.srt`, `.vtt`, `.ass` or `.ssa` file say. language: as its name says it, or ""."""
    text, guessed = decoded(data, language)
    if not text.strip():
        return Read(guessed=guessed, problem="it is empty")
    try:
        cues = _cues(text)
    except Exception as e:
        # Whatever the readers of four formats trip over in a stranger's file, it is a file that cannot be read.
        return Read(guessed=guessed, problem=f"it is no SubRip, WebVTT or SubStation file ({type(e).__name__})")
    found = passages(cues)
    return Read(found, guessed, "" if found else "it holds no words")


def decoded(data: bytes, language: str) -> tuple[str, str | None]:
    """Return the text of a file, and its encoding where that was guessed. What fits no encoding becomes U+FFFD."""
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    if marked is not None:
        return data.decode(marked, "replace"), None
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        pass
    named = _ENCODINGS.get(language.split("-")[0].lower(), "cp1252")
    if data.count(0) > len(data) // 4:  # of UTF-16 without a mark every second byte of plain letters is 0
        named = "utf-16-be" if data[0] == 0 else "utf-16-le"
    return data.decode(named, "replace"), named


def passages(cues: Iterable[Passage]) -> tuple[Passage, ...]:
    """Join cues to passages: until a sentence ends, 12 s are full or nobody speaks for 1.5 s. In the order of time.

    A cue that says again what stands already (rolling captions do) only lasts on.
    """
    joined: list[Passage] = []
    lines: list[str] = []  # of the passage that is last
    for cue in sorted(cues, key=lambda c: (c.start, c.end)):
        last = joined[-1] if joined else None
        if last is None or not _goes_on(last, cue):
            joined.append(cue)
            lines = cue.text.split("\n")
            continue
        new = [line for line in cue.text.split("\n") if line not in lines]
        lines += new
        joined[-1] = Passage(last.start, max(last.end, cue.end), "\n".join(lines))
    return tuple(Passage(p.start, p.end, " ".join(p.text.split())) for p in joined)


def plain(text: str) -> str:
    """Return the words of a cue, without the marks of SubStation and HTML."""
    return _TAG.sub("", text.replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")).strip()


def _goes_on(last: Passage, cue: Passage) -> bool:
    if cue.text in last.text and cue.start <= last.end + _JOIN_GAP_S:
        return True
    fits = max(last.end, cue.end) - last.start <= _JOIN_MOST_S
    return fits and cue.start <= last.end + _JOIN_GAP_S and not _ENDS.search(last.text)


def _cues(text: str) -> Sequence[Passage]:
    hours: list[tuple[int, int]] = []
    if "[Events]" in text or "[Script Info]" in text:
        text = _DIALOGUE.sub(lambda found: _within_a_day(found, hours), text)
    file = pysubs2.SSAFile()
    if not hours and _Subrip.guess_format(text) == "srt":
        import io

        _Subrip.from_file(file, io.StringIO(text), "srt")
    else:
        file = pysubs2.SSAFile.from_string(text)
    found = []
    for place, event in enumerate(file.events):
        start_h, end_h = hours[place] if place < len(hours) else (0, 0)
        start, end = event.start / 1000 + 3600 * start_h, event.end / 1000 + 3600 * end_h
        words = plain(event.text)
        if words and not event.is_comment and not event.is_drawing and end >= start >= 0:
            found.append(Passage(start, end, words))
    return found


def _within_a_day(found: re.Match[str], hours: list[tuple[int, int]]) -> str:
    """Return a line of SubStation with its hours below 24; the rest of them goes to `hours`."""
    start, end = int(found[2]), int(found[4])
    hours.append((start - start % 24, end - end % 24))
    return f"{found[1]},{start % 24}{found[3]},{end % 24}{found[5]},"
