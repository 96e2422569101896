"""The moments of an answer as files of their own: `tvr query --save-clips`. Nothing is searched here."""

from __future__ import annotations

import contextlib
import math
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_cli import log, os_errors
from tvr_cli.engine.showing import place
from tvr_cli.errors import ConfigError, DataError, DecodeError, TvrError
from tvr_cli.results.found import Hit, QueryReport
from tvr_cli.results.shown import SavedClip, SavedClips
from tvr_cli.stores.decoding.types import Beat, unheard

if TYPE_CHECKING:
    from tvr_cli.engine.showing.cutting.film import Film

FLAG = "--save-clips"
_STEM_BYTES = 100  # a name has 255 at most, and 143 where it is encrypted
_FORBIDDEN = frozenset('<>:"/\\|?*')
_NUMBERED = re.compile(r"([0-9]{1,9})_.*\.mp4(\..*\.tmp)?$", re.DOTALL)
_JOINERS = "\u200c\u200d"  # invisible, and part of how Persian and Indian languages are spelt


@dataclass(frozen=True, slots=True)
class ClipOptions:
    """pad: seconds before and after each moment. overwrite: files of these names are replaced. first: the number that
    the first one has in its name. flag: what named the folder, for messages.
    """

    pad: float = 0.0
    overwrite: bool = False
    dry_run: bool = False
    first: int = 1
    flag: str = FLAG


def save_clips(report: QueryReport, folder: Path, options: ClipOptions, beat: Beat = unheard) -> QueryReport:
    """Save each moment as a file of `folder`; what cannot be saved is told in its `problem`, and the others go on.

    Of an answer without moments nothing is written, no folder either.

    A file is written beside its place and renamed when it is whole; where `beat` ends the work, what is not goes.
    Raises ConfigError where a file is there already and for a padding that is no length, EnvironmentProblem where there
    can be no such folder.
    """
    if not 0 <= options.pad < math.inf:
        raise ConfigError(f"--pad: expected seconds, 0 or more, found {options.pad}")
    planned = [
        (hit, SavedClip(number, answer.query, hit.path, Path(), hit.start, hit.end))
        for number, (answer, hit) in enumerate(((a, h) for a in report.results for h in a.hits), options.first)
    ]
    digits = max(3, len(str(options.first + len(planned) - 1)))
    wanted = [(hit, replace(clip, path=folder / clip_name(hit, clip.number, digits))) for hit, clip in planned]
    place.require_free([clip.path for _, clip in wanted], options.flag, overwrite=options.overwrite)
    if wanted and not options.dry_run:
        with place.refusals(folder, options.flag):
            folder.mkdir(parents=True, exist_ok=True)
    by_film: dict[tuple[str, int | None], list[tuple[Hit, SavedClip]]] = {}
    for hit, clip in wanted:
        by_film.setdefault((hit.path, track_of(hit.video_id, hit.path)), []).append((hit, clip))
    saved: list[SavedClip] = []
    with log.progress("saving clips", total=len(wanted), unit="clips") as bar:
        for (_, track), some in by_film.items():
            saved += _of_film(track, some, options, bar, beat)
    return replace(report, clips=SavedClips(folder, sorted(saved, key=lambda c: c.number), options.dry_run))


def clip_name(hit: Hit, number: int, digits: int = 3) -> str:
    """Return a name that every file system takes, and that no other moment of the answer has: 001_film_0m12s.mp4."""
    return f"{number:0{digits}d}_{_plain(Path(hit.path).stem)}_{int(hit.start) // 60}m{int(hit.start) % 60:02d}s.mp4"


def next_number(folder: Path) -> int:
    """Return the number after those that clips in a folder have; 1 where there is no such folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 1
    except OSError as e:
        raise os_errors.unread(e, folder) or os_errors.refusal(e) or e from e
    return 1 + max((int(found[1]) for name in names if (found := _NUMBERED.match(name))), default=0)


def track_of(video_id: str, path: str) -> int | None:
    """Return the number of the video stream that an id names, None = the one that players show. path: of its file."""
    name, _, number = video_id.rpartition("#track=")
    return int(number) if name and number.isdecimal() and not path.endswith(f"#track={number}") else None


def _of_film(
    track: int | None, wanted: Sequence[tuple[Hit, SavedClip]], options: ClipOptions, bar: log.Bar, beat: Beat
) -> list[SavedClip]:
    """Save the moments of one film, which is opened once."""
    found = []
    try:
        film = _opened(wanted[0][0], track, beat)
    except TvrError as e:
        bar.advance(len(wanted))
        return [replace(clip, problem=str(e)) for _, clip in wanted]
    with film:
        for hit, clip in wanted:
            bar.say(clip.path.name)
            found.append(_saved(film, hit, clip, options))
            bar.advance()
    return found


def _opened(hit: Hit, track: int | None, beat: Beat) -> Film:
    """Open a film to be cut. Raises DecodeError, and what `os_errors` makes of the system's refusals."""
    from tvr_cli.engine.showing.cutting.film import Film

    path = Path(hit.path)
    if hit.missing:
        raise DataError(f"{hit.path!r} is {hit.why_missing}")
    try:
        return Film(path, track, beat)
    except DecodeError as e:
        raise DecodeError(f"{str(path)!r}: {e}") from e
    except OSError as e:
        raise os_errors.unread(e, path) or os_errors.refusal(e) or e from e


def _saved(film: Film, hit: Hit, clip: SavedClip, options: ClipOptions) -> SavedClip:
    """Save one moment, or say why it is not."""
    temporary = clip.path.with_name(f"{clip.path.name}.{os.getpid()}.tmp")
    part = film.part(max(0.0, hit.start - options.pad), hit.end + options.pad)
    try:
        if not options.dry_run:
            with place.refusals(clip.path, options.flag):
                part = film.write(part, temporary)
                place.require_free([clip.path], options.flag, overwrite=options.overwrite)
                os.replace(temporary, clip.path)
    except TvrError as e:
        clip = replace(clip, problem=str(e) if not isinstance(e, DecodeError) else f"{hit.path!r}: {e}")
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return replace(clip, start=part.start, end=part.end, frames=part.frames, copied=part.copied)


def _plain(stem: str) -> str:
    """Return a name without what some file system refuses or shows as something else, cut between two characters."""
    shown = unicodedata.normalize("NFC", stem)
    kept = "".join(c if (c.isprintable() and c not in _FORBIDDEN) or c in _JOINERS else "_" for c in shown)
    while len(kept.encode("utf-8")) > _STEM_BYTES:
        kept = kept[:-1]
    return kept.rstrip(" .") or "_"
