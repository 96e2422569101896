"""Asking the server of a workspace, where one runs, instead of opening the workspace: the near side of the socket.

`tvr serve` notes in the workspace where its socket is. Whoever asks makes sure that a process of the same user listens
there, sends one line of JSON, what was asked, is told that it was heard, and gets one line back: the answer, or the
error that it ended with. Any doubt (a stale note, a foreign socket, another version, another workspace) is no error:
the question is answered here.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tvr_cli import errors, files, log
from tvr_cli.defaults import named_backbone
from tvr_cli.results.alike import SimilarReport
from tvr_cli.results.base import Result
from tvr_cli.results.explained import ExplainReport
from tvr_cli.results.found import QueryReport
from tvr_cli.version import __version__
from tvr_cli.workspace import Workspace

_OF_HERE = ("image", "like", "plus", "minus", "not_in")  # paths, as seen from where they were typed
_CONNECT_S, _HEARD_S, _ANSWER_S = 1.0, 3.0, 600.0
HEARD = b"heard\n"  # comes at once where somebody is awake at the other end, and the answer after it
_LONGEST = 64 * 2**20  # bytes of an answer
_ERRORS = {
    kind.__name__: kind
    for kind in (errors.ConfigError, errors.DataError, errors.StoreMismatch, errors.Unreadable,
                 errors.EnvironmentProblem, errors.Interrupted)
}  # fmt: skip


REPORTS: Mapping[str, type[Result]] = {"search": QueryReport, "explain": ExplainReport, "similar": SimilarReport}


class Nobody(Exception):
    """Why no server answers, in words."""


def ask(workspace: Workspace, verb: str, asked: Mapping[str, Any]) -> Result | None:
    """Return what the server of a workspace answers, None where none does: who asks then has to.

    verb: of `OpenWorkspace`, one of `REPORTS`. asked: its arguments. Raises what it raised.
    """
    if os.environ.get("TVR_NO_SERVER"):
        return None
    try:
        _require_anywhere(asked)
        note = noted(workspace)
        answer = _exchange(Path(note["socket"]), {
            "tvr": __version__, "workspace": str(workspace.root.resolve()), "TVR_BACKBONE": variable(),
            "folder": _here(), "verb": verb, "asked": dict(asked),
        })  # fmt: skip
    except Nobody as e:
        if str(e):
            log.logger.debug("not asked of a server: %s", e)
        return None
    for line in answer.get("said", ()):
        log.logger.info("%s", line)
    if (failed := answer.get("error")) is not None:
        raise _ERRORS.get(failed["kind"], errors.DataError)(failed["text"])
    log.logger.debug("answered by the server of this workspace (process %s)", note["pid"])
    return REPORTS[verb].from_json(answer["report"], "the server's answer")


def variable() -> str | None:
    """Return the backbone that TVR_BACKBONE names in this process, which server and who asks must have alike."""
    return named_backbone(None)


def _here() -> str | None:
    """Return the folder that a file may be named from, None where it has gone."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _require_anywhere(asked: Mapping[str, Any]) -> None:
    """Raise Nobody for what may mean something else where the server was started."""
    if elsewhere := [name for name in _OF_HERE if asked.get(name)]:
        raise Nobody(f"what {elsewhere[0]} names may be meant as seen from here")
    inside = asked.get("inside") or ()
    globs = [inside] if isinstance(inside, str) else inside
    if any("/" in glob and not os.path.isabs(glob) for glob in globs):
        raise Nobody("a folder of --in may be meant as seen from here")


def running(workspace: Workspace) -> dict[str, Any] | None:
    """Return the note of the server of a workspace where a process of this user listens at its socket, else None."""
    try:
        note = noted(workspace)
        with _connected(Path(note["socket"])) as line:
            return note if peer_process(line) in (None, note["pid"]) else None
    except Nobody:
        return None


def noted(workspace: Workspace) -> dict[str, Any]:
    """Return what the server of a workspace noted of itself: pid, url, socket. Raises Nobody where there is none."""
    try:
        note = files.parse_json(workspace.server_note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Nobody from None
    except (OSError, ValueError) as e:
        raise Nobody(f"its note cannot be read ({e})") from None
    if not isinstance(note, dict) or not all(isinstance(note.get(k), str) for k in ("socket", "url")):
        raise Nobody("its note says nothing of a socket")
    if not isinstance(note.get("pid"), int):
        raise Nobody("its note names no process")
    return note


def _exchange(path: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Send one line and return the one that comes back. Raises Nobody."""
    with _connected(path) as line:
        line.settimeout(_HEARD_S)
        try:
            line.sendall(json.dumps(asked).encode() + b"\n")
            with line.makefile("rb") as coming:
                if coming.readline(len(HEARD)) != HEARD:
                    raise Nobody("it is none that this tvr knows")
                line.settimeout(_ANSWER_S)
                answer = files.parse_json(coming.readline(_LONGEST))
        except TimeoutError:
            raise Nobody("it does not answer") from None
        except (OSError, ValueError) as e:
            raise Nobody(f"it broke off ({e})") from None
    if not isinstance(answer, dict) or not ({"report", "error"} & answer.keys()):
        raise Nobody(str(answer.get("other") if isinstance(answer, dict) else "it said nothing known"))
    return answer


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    """Give a connection to a socket of this user. Raises Nobody where there is none."""
    if not hasattr(socket, "AF_UNIX"):
        raise Nobody("this system has no such sockets")
    try:
        there = os.lstat(path)
    except OSError:
        raise Nobody("it has gone, and its note is still there") from None
    if not stat.S_ISSOCK(there.st_mode) or there.st_uid != os.getuid():
        raise Nobody(f"{str(path)!r} is no socket of this user")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(_CONNECT_S)
        try:
            line.connect(str(path))
        except OSError:
            raise Nobody("nobody listens at its socket any more") from None
        if peer(line) not in (None, os.getuid()):
            raise Nobody("a process of another user listens at its socket")
        yield line


def peer(line: socket.socket) -> int | None:
    """Return the user at the other end of a socket, None where the system does not tell."""
    found = _credentials(line)
    return None if found is None else found[1]


def peer_process(line: socket.socket) -> int | None:
    """Return the process at the other end of a socket, None where the system does not tell."""
    found = _credentials(line)
    return None if found is None else found[0]


def _credentials(line: socket.socket) -> tuple[int, int] | None:
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    said = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    process, user, _ = struct.unpack("3i", said)
    return process, user


def read_line(line: socket.socket, longest: int) -> bytes:
    """Read up to the end of a line. Raises ValueError for one without an end, or longer than `longest` bytes."""
    parts, size = [], 0
    while True:
        some = line.recv(1 << 16)
        parts.append(some)
        size += len(some)
        if some.endswith(b"\n"):
            return b"".join(parts)
        if not some or size > longest:
            raise ValueError("a line without an end")
