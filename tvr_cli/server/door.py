"""A socket for commands of the same user that ask: the far side of `engine/searching/resident.py`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tvr_cli import files, log
from tvr_cli.engine.searching import resident, typed
from tvr_cli.errors import TvrError
from tvr_cli.server.library import Library, Named
from tvr_cli.version import __version__

_LONGEST = 4 * 2**20  # bytes of what is asked
_PATIENCE_S = 10.0  # for a question that was begun
_NAMING = {"explain": "video", "similar": "moment"}  # arguments that name a file of the library


class Door:
    """Listens at a socket that only this user can open, and answers by the library."""

    def __init__(self, library: Library):
        self._library, self._variable = library, resident.variable()
        self._folder = folder()
        name = hashlib.sha256(str(library.workspace.root.resolve()).encode()).hexdigest()[:16]
        self.path = self._folder / f"{name}-{os.getpid()}.sock"

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Listen in the block."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            with files.disk_errors(self.path):
                before = os.umask(0o177)  # it is made with mode 0600: there is no moment in which others may
                try:
                    line.bind(str(self.path))
                finally:
                    os.umask(before)
            line.listen(64)
            threading.Thread(target=self._answer_all, args=(line,), daemon=True).start()
            try:
                yield
            finally:
                self.path.unlink(missing_ok=True)

    def _answer_all(self, line: socket.socket) -> None:
        while True:
            try:
                asking, _ = line.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._answer, args=(asking,), daemon=True).start()

    def _answer(self, asking: socket.socket) -> None:
        with asking, contextlib.suppress(OSError):  # who asked may have gone
            if resident.peer(asking) not in (None, os.getuid()):
                return
            asking.settimeout(_PATIENCE_S)
            try:
                asked = files.parse_json(resident.read_line(asking, _LONGEST))
            except ValueError:
                return
            asking.sendall(resident.HEARD)
            asking.sendall(json.dumps(self._said(asked)).encode() + b"\n")

    def _said(self, request: Any) -> dict[str, Any]:
        """Return the answer to what came in."""
        library = self._library
        if not isinstance(request, dict) or not isinstance(request.get("asked"), dict):
            return {"other": "it was asked nothing"}
        if request.get("tvr") != __version__:
            return {"other": f"it is of tvr {__version__}"}
        if request.get("workspace") != str(library.workspace.root.resolve()):
            return {"other": "it serves another workspace"}
        if request.get("TVR_BACKBONE") != self._variable:
            return {"other": "TVR_BACKBONE was another where it was started"}
        verb = str(request.get("verb"))
        if verb not in resident.REPORTS:
            return {"other": f"it knows nothing of {verb!r}"}
        asked, own = dict(request["asked"]), vars(library.named)
        if other := [name for name, usual in vars(Named()).items() if asked.pop(name, usual) != own[name]]:
            return {"other": f"it was started with another --{other[0]} than was named"}
        with log.told() as said:
            try:
                asked.update(self._as_named_there(verb, asked, request.get("folder")))
                report = library.do(verb, asked)
            except TvrError as e:
                return {"error": {"kind": type(e).__name__, "text": str(e)}, "said": said}
            except TypeError as e:
                return {"other": f"it does not know what was asked ({e})"}
            except resident.Nobody as e:
                return {"other": str(e)}
        return {"report": report.to_json(), "said": said}

    def _as_named_there(self, verb: str, asked: Mapping[str, Any], there: Any) -> dict[str, str]:
        """Return the argument that names a file, as it is meant in the folder of who asks. Raises resident.Nobody."""
        argument = _NAMING.get(verb)
        if argument is None or not isinstance(text := asked.get(argument), str):
            return {}
        name = typed.stretch(text).video
        files = self._library.files()
        if name in files or os.path.isabs(name):
            return {}
        paths = {file.path for file in files.values()}
        if isinstance(there, str) and (path := os.path.normpath(os.path.join(there, name))) in paths:
            return {argument: path + text[len(name) :]}
        if os.path.abspath(name) in paths:
            raise resident.Nobody(f"{name!r} is a file as seen from where it was started, and not from here")
        return {}


def folder() -> Path:
    """Return a folder that only this user can open: `$XDG_RUNTIME_DIR`, else one of tvr's below the temporary one."""
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(named) and os.path.isdir(named) and os.access(named, os.W_OK):
        return Path(named)
    made = Path(tempfile.gettempdir()) / f"tvr-{os.getuid()}"
    with files.disk_errors(made):
        made.mkdir(mode=0o700, exist_ok=True)
        there = made.lstat()
    if there.st_uid != os.getuid() or there.st_mode & 0o077:
        return Path(tempfile.mkdtemp(prefix="tvr-"))  # somebody else made a folder of this name, or opened it to others
    return made
