"""Where an index stands: the generation that counts, building the next one beside it, and taking away what is over.

    index/
      current       a small JSON file: which generation counts, and the sha256 of its head; replaced in one step
      g000007/      a generation: store.json (its head; written first, with `"building": true`) and its files

A writer, who holds the workspace's lock, makes a new generation, whole, replaces `current`, and then removes the
others. So at every moment one generation counts and is whole. Readers hold no lock: who has mapped the files of a
generation keeps them after they are unlinked; who finds its generation gone before that looks at `current` again.

The mark of an index is a readable `current`, and of a generation a readable head. A folder with anything beside the
files that these name is never removed, replaced or written into. Format 1 (tvr 0.1.0: `index/store.json` and files
beside it) is known by its own head; the first generation takes its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvr_cli import commands, files, schema
from tvr_cli.errors import DataError, EnvironmentProblem, StoreMismatch
from tvr_cli.removal import remove_files, remove_folder, require_own
from tvr_cli.stores.index.head import DELETED, HEAD, INDEX_FORMAT, Head

CURRENT = "current"
_GENERATION = re.compile(r"g[0-9]{6,}")
_OF_A_GENERATION = re.compile(rf"([0-9]{{6}}-[0-9]{{2,}}\.bin|[0-9]{{6}}\.sums|{re.escape(DELETED)})(\.[0-9]+\.tmp)?")
_WHAT = "a search index of tvr"
_FIX = "Move the folder elsewhere, or choose another workspace with -o"
_POINTER = schema.record(
    {
        "kind": schema.one_of("index"),
        "format": schema.one_of(INDEX_FORMAT),
        "generation": schema.string,
        "sha256": schema.sha256,
    }
)
# What was read, by what tells that a file is the same: a query looks at an index several times.
_read: dict[tuple[Path, files.Stamp], Any] = {}


@dataclass(frozen=True)
class Standing:
    """The index that counts. generation: its folder; None for one of tvr 0.1.0, whose format is 1 and has no `head`."""

    format: int
    identity: Mapping[str, Any]
    asked: Mapping[str, Any]
    generation: Path | None = None
    head: Head | None = None


def standing(folder: Path) -> Standing | None:
    """Return the index that counts at `folder`, None where none was finished.

    Raises DataError for a folder of other things and for a damaged pointer or head, StoreMismatch for another format.
    """
    if (folder / CURRENT).is_file():
        generation, head = current(folder)
        return Standing(INDEX_FORMAT, head.identity, head.asked, generation, head)
    if (folder / HEAD).is_file():
        old = _old_head(folder)
        return None if old.get("building") else Standing(1, old["identity"], old.get("asked", {}))
    require_free(folder)
    return None


def is_index(folder: Path) -> bool:
    """Whether an index, whole or not, of this format or the one before, says that it stands at `folder`."""
    return (folder / CURRENT).is_file() or (folder / HEAD).is_file()


def has_generations(folder: Path) -> bool:
    """Whether a folder holds generations of an index, whether one counts or not."""
    return any((generation / HEAD).is_file() for generation in _generations(folder))


def current(folder: Path) -> tuple[Path, Head]:
    """Return the folder and the head of the generation that counts. Raises DataError, StoreMismatch.

    A generation that is gone was replaced after `current` was read, so that is read again.
    """
    while True:
        pointer = _pointer(folder)
        generation = folder / pointer["generation"]
        try:
            return generation, _head(generation, pointer["sha256"])
        except FileNotFoundError:
            if _pointer(folder) == pointer:
                raise DataError(
                    f"the index at {str(folder)!r} is damaged: it lacks {str(generation / HEAD)!r}. {_FIX}"
                ) from None


def stamp(folder: Path) -> files.Stamp | None:
    """Return what changes when another generation counts."""
    return files.stamp(folder / CURRENT)


def require_free(folder: Path) -> None:
    """Raise DataError (StoreMismatch) unless `folder` is absent, empty, or an index with nothing beside its files."""
    require_own(folder, _own(folder), what=_WHAT, fix=_FIX)


def prepare(folder: Path, head: Head) -> Path:
    """Return the folder of a new generation, which holds only its head, after removing what a stopped writer left.

    Raises DataError, before anything is changed, when something else than an index stands at `folder`.
    """
    require_free(folder)
    counts = _pointer(folder)["generation"] if (folder / CURRENT).is_file() else None
    _sweep(folder, keep=counts)
    number = 1 + max((int(path.name[1:]) for path in _generations(folder)), default=0)
    generation = folder / f"g{number:06d}"
    files.write_json(generation / HEAD, replace(head, building=True).to_json())
    return generation


def commit(folder: Path, generation: Path, head: Head) -> None:
    """Let a generation count, whose files are all written, and remove the others, and an index of tvr 0.1.0."""
    data = (json.dumps(head.to_json(), indent=1, ensure_ascii=False) + "\n").encode()
    pointer = {"kind": "index", "format": INDEX_FORMAT, "generation": generation.name}
    files.write_json(folder / CURRENT, {**pointer, "sha256": files.write_bytes(generation / HEAD, data)})
    _sweep(folder, keep=generation.name)
    if (folder / HEAD).is_file():
        names = _old_names(folder) - {HEAD}
        remove_files(folder, [*sorted(names), HEAD])


def _pointer(folder: Path) -> dict[str, Any]:
    path = folder / CURRENT
    if (kept := _kept(path)) is not None:
        return kept
    at = files.stamp(path)
    found = files.read_json(path, fix=f"nothing of it was changed. {_FIX}")
    where = f"the index at {str(folder)!r}"
    if isinstance(found, dict) and found.get("kind", "index") == "index" and found.get("format") != INDEX_FORMAT:
        raise StoreMismatch(
            f"{where} has format {found.get('format')}, this tvr reads {INDEX_FORMAT}; it is left as it is. {_FIX}, or "
            "use the tvr that wrote it"
        )
    schema.check(found, _POINTER, repr(str(path)), f"nothing of it was changed. {_FIX}")
    files.bare_name(found["generation"], path)
    return _keep(path, at, found)


def _head(generation: Path, sha256: str | None) -> Head:
    """Read the head of a generation. sha256: what `current` says of it. Raises FileNotFoundError, DataError."""
    path = generation / HEAD
    kept = _kept(path)
    if kept is not None and sha256 in (None, kept[1]):
        return kept[0]
    at = files.stamp(path)
    data = path.read_bytes()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{str(path)!r} is damaged (its checksum differs); nothing of it was changed. {_FIX}")
    try:
        found = files.parse_json(data)
    except ValueError as e:
        raise DataError(f"{str(path)!r} is not readable as JSON: {e}; nothing of it was changed. {_FIX}") from e
    head = Head.from_json(found, path, f"nothing of it was changed. {_FIX}")
    if head.building and sha256 is not None:
        raise DataError(f"{str(path)!r} says that it is being written, but it counts; nothing was changed. {_FIX}")
    return _keep(path, at, (head, sha256))[0]


def _kept(path: Path) -> Any:
    at = files.stamp(path)
    return _read.get((path, at)) if at is not None else None


def _keep(path: Path, at: files.Stamp | None, value: Any) -> Any:
    if at is not None:
        for key in [key for key in _read if key[0] == path]:
            del _read[key]
        _read[path, at] = value
    return value


def _generations(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ()
    return sorted(p for p in found if _GENERATION.fullmatch(p.name) and p.is_dir() and not p.is_symlink())


def _own(folder: Path) -> set[str]:
    """Return what in `folder` belongs to an index, as paths below it. Raises DataError for a head that is none."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else set()
    own = {name for name in there if files.temporary_of(CURRENT).fullmatch(name)}
    if CURRENT in there:
        _pointer(folder)
        own.add(CURRENT)
    if HEAD in there:
        own |= _old_names(folder)
    # Killed before a first head had its name: there is nothing in it yet.
    own |= {name for name in there if files.temporary_of(HEAD).fullmatch(name)}
    for generation in _generations(folder):
        own |= {generation.name, *(f"{generation.name}/{name}" for name in _own_of_generation(generation))}
    return own


def _own_of_generation(generation: Path) -> set[str]:
    there = {path.name for path in generation.iterdir()}
    begun = {name for name in there if files.temporary_of(HEAD).fullmatch(name)}
    if HEAD not in there:
        return begun
    head = _head(generation, None)
    written = {name for name in there if _OF_A_GENERATION.fullmatch(name)}
    return {HEAD, *begun, *(written if head.building else written & head.names())}


def _sweep(folder: Path, *, keep: str | None) -> None:
    """Remove every generation but one. One whose files cannot be removed now (open, on Windows) waits for the next."""
    for generation in _generations(folder):
        if generation.name != keep:
            with contextlib.suppress(EnvironmentProblem):
                remove_folder(generation, _own_of_generation(generation), last=HEAD, what=_WHAT, fix=_FIX)
    for beside in (folder.with_name(f"{folder.name}.{state}") for state in ("building", "replaced")):
        if (beside / HEAD).is_file():  # tvr 0.1.0 was stopped; what is not known to be its own stays
            with contextlib.suppress(DataError, EnvironmentProblem):
                remove_folder(beside, _old_names(beside), last=HEAD, what=_WHAT, fix=_FIX)


# --------------------------------------------------------------------------------------------------------- format 1


def _old_head(folder: Path) -> dict[str, Any]:
    """Read the head of an index of tvr 0.1.0. Raises DataError when it is none, StoreMismatch for another kind."""
    path = folder / HEAD
    if isinstance(kept := _kept(path), dict):  # of a generation another thing is kept
        return kept
    at = files.stamp(path)
    head = files.read_json(path, fix=f"nothing of it was changed. {_FIX}")
    if not isinstance(head, dict):
        raise DataError(f"{str(path)!r} is not the head of an index; nothing of it was changed. {_FIX}")
    if (kind := head.get("kind", "index")) != "index":
        raise StoreMismatch(f"{str(folder)!r} holds a store of kind {kind!r}, not an index. {_FIX}")
    if head.get("format") == INDEX_FORMAT and _GENERATION.fullmatch(folder.name):
        raise StoreMismatch(
            f"{str(folder)!r} is a generation, a part of an index; the index that it belongs to is "
            f"{str(folder.parent)!r}"
        )
    if head.get("format") != 1:
        raise StoreMismatch(
            f"the index at {str(folder)!r} has format {head.get('format')}, this tvr reads {INDEX_FORMAT}; it is left "
            f"as it is. {_FIX}, or use the tvr that wrote it"
        )
    if lacking := {"identity", "clips", "coarse", "encodings"} - set(head):
        raise DataError(f"the index at {str(folder)!r} is damaged: it lacks {sorted(lacking)}. {_FIX}")
    try:
        for record in (head["coarse"], head["clips"], *head["encodings"]):
            files.bare_name(record["name"], path)
    except (TypeError, KeyError) as e:
        raise DataError(f"the head {str(path)!r} is damaged ({type(e).__name__}: {e}). {_FIX}") from e
    if not all(isinstance(part, dict) for part in (head["identity"], head.get("asked", {}))):
        raise DataError(f"the head {str(path)!r} is damaged (its identity is none). {_FIX}")
    return _keep(path, at, head)


def _old_names(folder: Path) -> set[str]:
    """Return the files of an index of tvr 0.1.0, temporary ones of a killed writer included."""
    head = _old_head(folder)
    names = {HEAD, *(record["name"] for record in (head["coarse"], head["clips"], *head["encodings"]))}
    patterns = [files.temporary_of(name) for name in names]
    there = {path.name for path in folder.iterdir()}
    return names | {name for name in there if any(pattern.fullmatch(name) for pattern in patterns)}


def begun(folder: Path) -> DataError:
    """Return the error for a folder that holds no index that was finished."""
    make = commands.tvr("index", workspace=folder.parent)
    if _generations(folder) or is_index(folder):
        return DataError(f"the index at {str(folder)!r} was begun but not finished; build it with: {make}")
    return DataError(f"expected an index at {str(folder)!r}, found none; build it with: {make}")
