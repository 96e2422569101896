"""Getting files of published weights from the Hugging Face hub into its cache: resumed, verified, then made known.

The hub's own client throws away what it has when it is stopped and compares sizes only. Here the bytes go into
`blobs/<hash>.incomplete`, where the next try goes on, and only what has the hash that the hub names becomes
`blobs/<hash>`; then the client links it into its snapshot, so that every program finds it. No code is run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from tvr_cli import files
from tvr_cli.errors import EnvironmentProblem, reason
from tvr_cli.log import logger, progress

# kept: it was here. resumed: a part of it was.
Fate = Literal["kept", "downloaded", "resumed", "to download", "to resume"]
_MB = 1_000_000
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """A file of a hub repository. names: alternatives, the best first. revision: a commit, None = the newest.

    optional: whether it is enough where there is none.
    """

    repository: str
    names: tuple[str, ...]
    revision: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Found:
    """A file as the hub has it. commit: of its repository. hash: sha256 of its bytes, or git's sha1 of a small file.

    here_bytes: how much of it is on this machine.
    """

    repository: str
    name: str
    revision: str | None
    commit: str
    hash: str
    size_bytes: int
    address: str
    path: Path
    here_bytes: int

    @property
    def fate(self) -> Fate:
        """What getting it would do."""
        if self.here_bytes == self.size_bytes and self.path.exists():
            return "kept"
        return "to resume" if self.here_bytes else "to download"

    @property
    def blob(self) -> Path:
        return _storage(self.repository) / "blobs" / self.hash


def all_of(wanted: Sequence[Wanted]) -> list[Found]:
    """Return every file that is wanted, as the hub has it. Raises as `look` does."""
    return [found for each in wanted if (found := look(each)) is not None]


def look(wanted: Wanted) -> Found | None:
    """Ask the hub about a file, and this machine how much of it is here. None where it is optional and is not there.

    Raises EnvironmentProblem when the hub cannot be reached, or has no such repository, revision or file.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    for name in wanted.names:
        with _in_words(wanted.repository, wanted.revision, name):
            try:
                said = get_hf_file_metadata(hf_hub_url(wanted.repository, name, revision=wanted.revision))
            except errors.EntryNotFoundError:
                continue
        if not said.commit_hash or not said.etag or said.size is None:
            raise EnvironmentProblem(f"the hub does not say which version of {name!r} of {wanted.repository!r} it has")
        found = Found(
            *(wanted.repository, name, wanted.revision, said.commit_hash, said.etag, said.size, said.location),
            path=_storage(wanted.repository) / "snapshots" / said.commit_hash / name,
            here_bytes=0,
        )
        return _with_bytes(found)
    if wanted.optional:
        return None
    raise EnvironmentProblem(
        f"the repository {wanted.repository!r} of the hub has none of {', '.join(wanted.names)}"
        + (f" at the revision {wanted.revision}" if wanted.revision else "")
    )


def fetch(wanted: Sequence[Wanted], *, again: str) -> None:
    """Have on this machine what loading needs: asks for what is not here alone, and says the size of each download.

    again: the command that goes on, for messages. Raises as `look` and `get` do.
    """
    for found in all_of(_not_here(wanted)):
        if found.fate != "kept":
            missing = found.size_bytes - found.here_bytes
            logger.info("downloading %s of %s: %.0f MB", found.name, found.repository, missing / _MB)
        get(found, again=again)


def commit_of(path: Path | None) -> str | None:
    """Return the commit that a file of the hub's cache is of, None for a file elsewhere."""
    if path is None:
        return None
    *_, repository, snapshots, commit, _ = ("", "", "", *path.absolute().parts)
    return commit if snapshots == "snapshots" and repository.startswith("models--") else None


def get(found: Found, *, again: str) -> Fate:
    """Have a file in the hub's cache, whole and verified. again: the command that goes on, for messages.

    Raises EnvironmentProblem for a broken network, a full disk, and bytes that are not the hub's; what was downloaded
    then stays for the next try, unless it is wrong.
    """
    from huggingface_hub import hf_hub_download

    blob = found.blob
    part = blob.with_name(f"{found.hash}.incomplete")
    storage = _storage(found.repository)
    with files.lock(storage.parent / ".locks" / storage.name), files.disk_errors(storage):
        blob.parent.mkdir(parents=True, exist_ok=True)
        found = _with_bytes(found)
        fate: Fate = "kept" if found.fate == "kept" else "resumed" if found.here_bytes else "downloaded"
        there = found.path if found.path.exists() else blob
        if there.exists():
            _verify(there, found, f"move it elsewhere, then {again} gets it anew")
        else:
            _fill(part, found, again)
            try:
                _verify(part, found, f"nothing of it was kept; try once more: {again}")
            except EnvironmentProblem:
                part.unlink()
                raise
            os.replace(part, blob)
        # Links it, and notes which commit the newest is.
        with _in_words(found.repository, found.revision, found.name):
            hf_hub_download(found.repository, found.name, revision=found.revision)
    return fate


@contextlib.contextmanager
def no_network() -> Iterator[None]:
    """Keep the hub's clients off the network while the block runs: what loading needs comes through `fetch` alone."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    from huggingface_hub import constants  # read once at import, so the variable alone may come too late

    was = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


# ------------------------------------------------------------------------------------------------------------- private


def _not_here(wanted: Sequence[Wanted]) -> list[Wanted]:
    """Return what has to be asked for: needed files that are not here, and what may lie beside those."""
    from huggingface_hub import try_to_load_from_cache

    def gone(each: Wanted) -> bool:
        found = (try_to_load_from_cache(each.repository, name, revision=each.revision) for name in each.names)
        return not any(isinstance(path, str) for path in found)

    repositories = {each.repository for each in wanted if not each.optional and gone(each)}
    return [each for each in wanted if each.repository in repositories and gone(each)]


def _storage(repository: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


def _with_bytes(found: Found) -> Found:
    blob = found.blob
    for place in (found.path, blob, blob.with_name(f"{found.hash}.incomplete")):
        if place.is_file():
            return replace(found, here_bytes=min(place.stat().st_size, found.size_bytes))
    return replace(found, here_bytes=0)


def _fill(part: Path, found: Found, again: str) -> None:
    """Append what is missing to the part of a file that is here. Raises EnvironmentProblem."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    missing = found.size_bytes - found.here_bytes
    free = shutil.disk_usage(part.parent).free
    if free < missing:
        raise EnvironmentProblem(
            f"{found.name!r} of {found.repository!r} takes {missing / _MB:.0f} MB more, and {free / _MB:.0f} MB are "
            f"free in {str(part.parent)!r}; make room, or set HF_HOME to a folder on another disk"
        )
    with progress(f"downloading {found.name}", total=found.size_bytes // _MB, unit="MB") as bar:
        try:
            with open(part, "r+b" if part.exists() else "w+b") as file:
                file.seek(0, os.SEEK_END)
                bar.advance(file.tell() // _MB)
                with _quiet():
                    http_get(
                        found.address,
                        _Counted(file, bar.advance),  # type: ignore[arg-type]
                        resume_size=file.tell(),
                        headers=build_hf_headers(),
                        expected_size=found.size_bytes,
                    )
        except Exception as e:  # httpx's are no OSError, and which library it is differs between versions
            kept = part.stat().st_size if part.exists() else 0
            full = isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)
            what = f"the disk of {str(part.parent)!r} is full" if full else f"the network failed ({reason(e)})"
            raise EnvironmentProblem(
                f"{what} while {found.name!r} of {found.repository!r} was downloaded: {kept:,} of "
                f"{found.size_bytes:,} bytes are here; go on from there: {again}"
            ) from e


def _verify(path: Path, found: Found, fix: str) -> None:
    """Compare a file with the hash that the hub names. Raises EnvironmentProblem where it is another."""
    digest = hashlib.sha256()
    if len(found.hash) == 40:  # a file that git itself keeps
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file, progress(f"verifying {found.name}", unit="blocks") as bar:
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.advance()
    if len(found.hash) in (40, 64) and digest.hexdigest() != found.hash:
        raise EnvironmentProblem(
            f"{str(path)!r} is not the {found.name!r} that the hub has in {found.repository!r}: expected the hash "
            f"{found.hash}, found {digest.hexdigest()}; {fix}"
        )


class _Counted:
    """A file whose written bytes are told to a bar, in MB."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]):
        self._file, self._advance, self._told = file, advance, file.tell() // _MB

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        if (now := self._file.tell() // _MB) > self._told:
            self._advance(now - self._told)
            self._told = now
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the client's own bar and its sentences about retries off the terminal."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    talk, shown = logging.getLogger("huggingface_hub.file_download"), not are_progress_bars_disabled()
    level = talk.level
    talk.setLevel(logging.CRITICAL)
    disable_progress_bars()
    try:
        yield
    finally:
        talk.setLevel(level)
        if shown:
            enable_progress_bars()


@contextlib.contextmanager
def _in_words(repository: str, revision: str | None, name: str) -> Iterator[None]:
    """Turn what the client raises about a file into EnvironmentProblem; a missing file is left to the caller."""
    from huggingface_hub import errors

    try:
        with _quiet():
            yield
    except errors.RevisionNotFoundError as e:
        raise EnvironmentProblem(
            f"the revision {revision or 'main'} of {repository!r} is gone from the hub; nothing was downloaded"
        ) from e
    except errors.EntryNotFoundError:
        raise
    except errors.RepositoryNotFoundError as e:
        raise EnvironmentProblem(
            f"the hub has no repository {repository!r} that is open to you; nothing was downloaded"
        ) from e
    except Exception as e:  # no connection, an answer of 500, a certificate: the kinds are those of a library below
        raise EnvironmentProblem(
            f"the hub cannot be asked for {name!r} of {repository!r} ({reason(e)}); nothing was changed"
        ) from e
