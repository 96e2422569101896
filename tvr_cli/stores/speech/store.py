"""The words of a workspace in one SQLite file, found by FTS5. A derived store: what is damaged is made again.

    speech/speech.json           the head: which database counts, its sha256, and what it was made from
    speech/<sha256>.sqlite       sources and passages, and an index of trigrams over them

A database is written beside the one that counts and then named by the head, which is replaced in one step; so readers
hold no lock. It is brought up to date by difference: a source whose file is the same as before is not read again.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import unicodedata
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvr_cli import commands, files, os_errors, removal, schema
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError
from tvr_cli.stores.speech import sources
from tvr_cli.stores.speech.place import DATABASE, HEAD
from tvr_cli.stores.speech.sources import Source, Video

FORMAT = 1
_BUILDING = "words.sqlite"
_STOPPED = files.temporary_of(_BUILDING)  # what a writer that was killed leaves
_FIX = "nothing was replaced; move it elsewhere, or choose another workspace with -o"
# What is said of a store that `SpeechStore.open` does not take.
OUTDATED = "the words of the videos are damaged, or another version of tvr wrote them; the next query makes them again"
_SCHEMA = """
create table sources (id integer primary key, about text unique, file_id text, path text, guessed text, problem text);
create table passages (id integer primary key, source integer, start real, end real, text text, folded text);
create index passages_of on passages (source);
create virtual table words using fts5 (folded, content='passages', content_rowid='id', tokenize='trigram');
"""
_HEAD = {
    "kind": schema.one_of("speech"), "format": schema.one_of(FORMAT), "database": schema.text, "sha256": schema.sha256,
    "frames": schema.text, "folders": schema.mapping, "counts": schema.mapping,
}  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """What the store holds and what was tolerated. files, streams: sources with words. empty: without any.

    guessed: in another encoding than UTF-8. unreadable: no subtitles at all. doubles: left out, for one of the same
    language is there. first: a sentence about the first of the last four.
    """

    files: int
    streams: int
    passages: int
    empty: int
    guessed: int
    unreadable: int
    doubles: int
    first: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """A passage that was found. path: the video's. place: its row. bm25: lower is better, and negative."""

    file_id: str
    path: str
    start: float
    end: float
    text: str
    bm25: float


def again(workspace: Folder | None) -> str:
    """Return the command that makes the words of a workspace again, where they are damaged."""
    return commands.tvr("query", "a dog surfing", channel="speech", workspace=workspace)


def folded(text: str) -> str:
    """Return text as words are looked for in it: without case, and with one form of each character."""
    return unicodedata.normalize("NFKC", text).casefold()


class SpeechStore:
    """The words of a workspace. frames: their content. folders: the state of those of the videos. close: lets go of the
    file, as happens when nobody has the store any more.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any]):
        self._path = folder / files.bare_name(head["database"], folder / HEAD)
        self.frames: str = head["frames"]
        self.folders: Mapping[str, int] = head["folders"]
        self.counts = Counts(**head["counts"])
        # Held open, so that it answers on when another process brings the words up to date and removes this file. It is
        # never written where it lies, so nobody has to lock it.
        uri = f"{self._path.resolve().as_uri()}?mode=ro&immutable=1"
        self._db = sqlite3.connect(uri, uri=True, check_same_thread=False)
        self.close = weakref.finalize(self, self._db.close)

    @staticmethod
    def open(folder: Path) -> SpeechStore | None:
        """Return the store of a folder, None where there is none, or one that is damaged or of another format.

        Raises DataError where something else than a speech store has the name of its head, Unreadable where the system
        does not give a file.
        """
        path = folder / HEAD
        if not path.is_file():
            return None
        head = files.read_json(path, fix=_FIX)
        if not isinstance(head, dict) or head.get("kind") != "speech":
            raise DataError(f"expected the words of a workspace in {str(path)!r}, found something else; {_FIX}")
        try:
            schema.require(head, _HEAD)
            store = SpeechStore(folder, head)
            if files.sha256_file(store._path) != head["sha256"]:
                return None
            store.unchanged()  # which reads every source
        except FileNotFoundError:
            return None
        except OSError as e:
            if (refusal := os_errors.unread(e, folder)) is not None:
                raise refusal from e
            raise
        except (DataError, schema.Misfit, TypeError, ValueError, KeyError, sqlite3.Error):
            return None
        return store

    def unchanged(self) -> bool:
        """Return whether every source that was read is as it was then."""
        known = [files.parse_json(about) for (about,) in self._db.execute("select about from sources")]
        return all(files.stamp(Path(one["path"])) == tuple(one["stamp"]) for one in known)

    def matches(self, phrase: str, most: int, only: Collection[str] | None = None) -> list[tuple[int, float]]:
        """Return place and bm25 of the best passages that an FTS5 query finds; only: of the files with these ids."""
        where, ids = _of_files("rowid", only)
        rows = self._db.execute(
            f"select rowid, bm25(words) from words where words match ? {where} order by 2, 1 limit ?",
            (phrase, *ids, most),
        )
        return [(int(place), float(score)) for place, score in rows]

    def count(self, phrase: str) -> int:
        """Return in how many passages an FTS5 query finds something."""
        return int(self._db.execute("select count(*) from words where words match ?", (phrase,)).fetchone()[0])

    def texts(
        self, places: Sequence[int] | None = None, *, only: Collection[str] | None = None
    ) -> Iterator[tuple[int, str]]:
        """Yield place and folded text of some passages, None = of all; only: of those of the files with these ids."""
        if places is None:
            where, ids = _of_files("id", only)
            yield from self._db.execute(f"select id, folded from passages where true {where} order by id", ids)
            return
        for place in places:
            yield from self._db.execute("select id, folded from passages where id = ?", (place,))

    def said(self, places: Sequence[int], scores: Sequence[float]) -> list[Said]:
        """Return passages by their places, with their scores."""
        found = []
        for place, score in zip(places, scores, strict=True):
            rows = self._db.execute(
                "select file_id, path, start, end, text from passages join sources on source = sources.id "
                "where passages.id = ?",
                (place,),
            )
            found += [Said(file_id, path, start, end, text, score) for file_id, path, start, end, text in rows]
        return found


def _of_files(row: str, only: Collection[str] | None) -> tuple[str, tuple[str, ...]]:
    """Return what SQL asks of a passage's row for it to be of some files, and the values in it."""
    if only is None:
        return "", ()
    among = "select value from json_each(?)"
    of_them = f"select passages.id from passages join sources on source = sources.id where file_id in ({among})"
    return f"and {row} in ({of_them})", (json.dumps(sorted(only)),)


def refresh(
    folder: Path, videos: Sequence[Video], frames: str, folders: Mapping[str, int], heard: Path | None = None
) -> SpeechStore:
    """Bring the words of a workspace up to date, reading what is new or has changed, and return them.

    heard: the folder of transcripts that tvr made. frames, folders: what `SpeechStore` keeps of them, to be compared
    with next time.
    """
    wanted, doubles = sources.beside(videos)
    wanted += sources.heard(videos, heard, wanted) if heard is not None else []
    wanted += sources.inside(videos)
    limits = {video.file_id: video.limits for video in videos}
    with files.lock(folder):
        old = SpeechStore.open(folder)
        building = folder / f"{_BUILDING}.{os.getpid()}.tmp"
        removal.remove_files(folder, [p.name for p in folder.iterdir() if _STOPPED.fullmatch(p.name)])
        with files.disk_errors(building):
            if old is not None:
                shutil.copyfile(old._path, building)
                old.close()
            with closing(sqlite3.connect(building)) as db:
                if old is None:
                    db.executescript(_SCHEMA)
                _update(db, wanted, limits)
                db.commit()
                counts = _counted(db, doubles)
            digest = files.sha256_file(building)
            name = f"{digest[:16]}.sqlite"
            building.replace(folder / name)
        head = {
            "kind": "speech", "format": FORMAT, "database": name, "sha256": digest, "frames": frames,
            "folders": dict(folders), "counts": asdict(counts),
        }  # fmt: skip
        files.write_json(folder / HEAD, head)
        others = [path.name for path in folder.iterdir() if DATABASE.fullmatch(path.name) and path.name != name]
        removal.remove_files(folder, others)
    return SpeechStore(folder, head)


def _update(db: sqlite3.Connection, wanted: Iterable[Source], limits: Mapping[str, tuple[float, float]]) -> None:
    known = {about: number for number, about in db.execute("select id, about from sources")}
    keys = {json.dumps([*asdict(source).values(), *limits[source.file_id]]): source for source in wanted}
    for about, number in known.items():
        if _key_in(about) not in keys:
            db.execute(
                "insert into words (words, rowid, folded) select 'delete', id, folded from passages where source = ?",
                (number,),
            )
            db.execute("DELETE FROM passages where source = ?", (number,))
            db.execute("DELETE FROM sources where id = ?", (number,))
    there = {_key_in(about) for about in known}
    for key, source in keys.items():
        if key not in there:
            _add(db, key, source, limits[source.file_id])


def _add(db: sqlite3.Connection, key: str, source: Source, limits: tuple[float, float]) -> None:
    found = sources.read(source)
    about = json.dumps({"key": key, **asdict(source)})
    row = (about, source.file_id, source.video, found.guessed, found.problem)
    number = db.execute(
        "insert into sources (about, file_id, path, guessed, problem) values (?, ?, ?, ?, ?)", row
    ).lastrowid
    for passage in found.passages:
        if passage.start < limits[1] and limits[0] < passage.end + 1e-9:
            place = db.execute(
                "insert into passages (source, start, end, text, folded) values (?, ?, ?, ?, ?)",
                (number, passage.start, passage.end, passage.text, folded(passage.text)),
            ).lastrowid
            db.execute("insert into words (rowid, folded) values (?, ?)", (place, folded(passage.text)))


def _key_in(about: str) -> str:
    return str(files.parse_json(about)["key"])


def _counted(db: sqlite3.Connection, doubles: Sequence[str]) -> Counts:
    rows = [(files.parse_json(about), guessed, problem) for about, guessed, problem in
            db.execute("select about, guessed, problem from sources order by file_id, id")]  # fmt: skip
    good = [about for about, _, problem in rows if not problem]
    empty = [about for about, _, problem in rows if "empty" in problem or "no words" in problem]
    bad = [(about, problem) for about, _, problem in rows if problem]
    guessed = [(about, name) for about, name, _ in rows if name]
    first = (
        *(f"{about['path']}: {problem}" for about, problem in bad[:1]),
        *(f"{about['path']}: its encoding is not UTF-8 and was taken for {name}" for about, name in guessed[:1]),
        *(f"{path}: another file has this language already" for path in doubles[:1]),
    )
    return Counts(
        files=sum(about["stream"] is None for about in good),
        streams=sum(about["stream"] is not None for about in good),
        passages=int(db.execute("select count(*) from passages").fetchone()[0]),
        empty=len(empty),
        guessed=len(guessed),
        unreadable=len(bad) - len(empty),
        doubles=len(doubles),
        first=next(iter(first), ""),
    )
