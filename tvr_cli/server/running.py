"""A server that runs: here, or in the background; whether it does; and its end."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tvr_cli import commands, files, log
from tvr_cli.engine.searching import resident
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem, TvrError
from tvr_cli.results.base import OPTIONAL, Result
from tvr_cli.server.library import Library, Named
from tvr_cli.version import __version__
from tvr_cli.watching import running as watching
from tvr_cli.workspace import Workspace

PORT = 8765
TOKEN = "TVR_SERVE_TOKEN"  # of the environment
_STARTS_S, _ENDS_S = 120.0, 15.0
_AT_ONCE = 256  # connections; more are told to come back
_ANYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Address:
    """Where a server listens. token: None = it needs none, which is for this machine alone."""

    host: str = "127.0.0.1"
    port: int = PORT
    token: str | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")


@dataclass(frozen=True, kw_only=True)
class ServeReport(Result):
    """A server of a workspace. did: what was done. url, pid: None where none runs."""

    schema = "serve"
    workspace: str
    did: Literal["started", "stopped", "found", "nothing", "served"]
    url: str | None
    pid: int | None
    log: str | None = field(default=None, metadata=OPTIONAL)


def serve(
    workspace: Workspace, named: Named, address: Address, clips: Path | None = None, watch: Sequence[str] | None = None
) -> ServeReport:
    """Serve a workspace until the process is told to end. Raises EnvironmentProblem where it cannot.

    clips: where clips are saved, None = in the workspace. watch: the arguments of a `tvr watch` that runs beside it and
    ends with it, None = none does.

    Raises EnvironmentProblem without the extra `serve`, and as `require_library`.
    """
    uvicorn = _uvicorn()
    from tvr_cli.server.app import create_app
    from tvr_cli.server.door import Door
    from tvr_cli.server.guard import Rules

    require_library(workspace, filled=watch is not None)
    refuse_second(workspace)
    if watch is not None:
        watching.refuse_second(workspace)
    library = Library(workspace, named, clips)
    rules = Rules(hosts=hosts_of(address.host), port=address.port, token=address.token)
    config = uvicorn.Config(
        create_app(library, rules), log_level="warning", access_log=False, server_header=False,
        limit_concurrency=_AT_ONCE, timeout_keep_alive=10, timeout_graceful_shutdown=5, ws="none", lifespan="off",
    )  # fmt: skip
    door = Door(library)
    with (
        _listening(address) as listening, door.open(), _note(workspace, address, str(door.path)),
        _watched(workspace, watch),
    ):  # fmt: skip
        log.logger.info("serving %s at %s  (Ctrl-C ends it)", workspace, address.url)
        threading.Thread(target=_warm, args=(library,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C and SIGTERM, which uvicorn raises again at its end
            uvicorn.Server(config).run(sockets=[listening])
    log.logger.info("ended")
    return ServeReport(workspace=str(workspace), did="served", url=address.url, pid=os.getpid())


def start(
    workspace: Workspace, arguments: Sequence[str], token: str | None = None, *, filled: bool = False
) -> ServeReport:
    """Start `tvr serve` with some arguments in the background, and return when it answers.

    token: given by the environment, for arguments stand in the list of processes. filled: as of `require_library`.
    Raises EnvironmentProblem where it ends instead, with what it said, and as `require_library`.
    """
    _uvicorn()
    require_library(workspace, filled=filled)
    refuse_second(workspace)
    with files.disk_errors(workspace.server_log):
        workspace.root.mkdir(parents=True, exist_ok=True)
        said = open(workspace.server_log, "wb")  # noqa: SIM115 - closed below
    with said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tvr_cli", "serve", *arguments],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            env={**os.environ, **({} if token is None else {TOKEN: token})},
        )  # fmt: skip
    until = time.monotonic() + _STARTS_S
    while time.monotonic() < until and process.poll() is None:
        if (note := resident.running(workspace)) is not None and note["pid"] == process.pid:
            return _report(workspace, "started", note)
        time.sleep(0.1)
    process.terminate()
    text = workspace.server_log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    why = text[-1].removeprefix("error: ") if text else "it said nothing"
    raise EnvironmentProblem(f"the server did not start: {why} (all of it: {str(workspace.server_log)!r})")


def stop(workspace: Workspace) -> ServeReport:
    """End the server of a workspace. Raises EnvironmentProblem where it does not end."""
    note = resident.running(workspace)
    if note is None:
        return _report(workspace, "nothing", None)
    os.kill(note["pid"], signal.SIGTERM)
    until = time.monotonic() + _ENDS_S
    while time.monotonic() < until:
        if resident.running(workspace) is None:
            return ServeReport(workspace=str(workspace), did="stopped", url=note["url"], pid=note["pid"])
        time.sleep(0.1)
    raise EnvironmentProblem(f"the server (process {note['pid']}) was told to end {_ENDS_S:.0f} s ago and still runs")


def status(workspace: Workspace) -> ServeReport:
    """Say whether a server of a workspace runs."""
    note = resident.running(workspace)
    return _report(workspace, "nothing" if note is None else "found", note)


def address_of(host: str, port: int, token: str | None) -> Address:
    """Return where to listen. Another address than this machine's needs a token; without one it is made.

    Raises ConfigError for a host that is no address of this machine.
    """
    if not 0 < port < 65536:
        raise ConfigError(f"--port: expected 1 to 65535, found {port}")
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isalnum()):
        raise ConfigError("--token: expected 16 or more letters and digits, for it is all that keeps others out")
    if is_loopback(host):
        return Address("127.0.0.1" if host == "localhost" else host, port, token)
    return Address(host, port, token or secrets.token_hex(16))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_of(host: str) -> frozenset[str]:
    """Return what `Host` may say of a server that listens at `host`."""
    here = {"localhost", "127.0.0.1", "[::1]"}
    if is_loopback(host):
        return frozenset(here)
    if host not in _ANYWHERE:
        return frozenset({f"[{host}]" if ":" in host else host.lower()})
    names = {socket.gethostname().lower(), socket.getfqdn().lower()}
    with contextlib.suppress(OSError):
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)}
        names |= {f"[{one}]" if ":" in one else one for one in found}
    return frozenset(here | names)


def require_library(workspace: Workspace, *, filled: bool) -> None:
    """Raise DataError where nothing is that could be searched. filled: whether a watcher will bring it, soon enough."""
    if filled or workspace.stores():
        return
    found = "no folder" if not workspace.root.exists() else "a folder without frames, features or an index"
    raise DataError(
        f"expected a workspace at {str(workspace)!r}, found {found}; name another with -o, or serve videos while they "
        f"are taken in: {commands.tvr('serve', watch=commands.VIDEOS, workspace=workspace)}"
    )


def refuse_second(workspace: Workspace) -> None:
    """Raise EnvironmentProblem where a server of a workspace runs already."""
    if (note := resident.running(workspace)) is not None:
        raise EnvironmentProblem(
            f"{str(workspace)!r} is served already, at {note['url']} (process {note['pid']}); end it with: "
            + commands.tvr("serve", stop=True, workspace=workspace)
        )


def _report(workspace: Workspace, did: Any, note: dict[str, Any] | None) -> ServeReport:
    url, pid = (None, None) if note is None else (note["url"], note["pid"])
    kept = str(workspace.server_log) if did == "started" else None
    return ServeReport(workspace=str(workspace), did=did, url=url, pid=pid, log=kept)


@contextlib.contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    """Give a socket that listens. Raises EnvironmentProblem for a port in use, and an address that is not ours."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        made = socket.create_server((address.host, address.port), family=family, backlog=128)
    except OSError as e:
        what = "is in use" if e.errno == 98 else f"cannot be listened at ({e.strerror or e})"
        raise EnvironmentProblem(f"{address.host}:{address.port} {what}; name another with --port or --host") from e
    with made:
        yield made


@contextlib.contextmanager
def _note(workspace: Workspace, address: Address, path: str) -> Iterator[None]:
    """Note in the workspace how its server is reached, while it runs."""
    note = {"tvr": __version__, "pid": os.getpid(), "url": address.url, "socket": path}
    before = os.umask(0o077)  # its address may have a token, which nobody else may read for a moment
    try:
        files.write_json(workspace.server_note, note)
    finally:
        os.umask(before)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, TvrError):
            if resident.noted(workspace).get("pid") == os.getpid():
                workspace.server_note.unlink(missing_ok=True)


@contextlib.contextmanager
def _watched(workspace: Workspace, arguments: Sequence[str] | None) -> Iterator[None]:
    """Let `tvr watch` run beside the block: in a process of its own, so that answers wait for none of its work."""
    if arguments is None:
        yield
        return
    process, said = watching.spawn(workspace, arguments, here=True)
    log.logger.info("watching for new videos (process %s, log %s)", process.pid, said)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _warm(library: Library) -> None:
    """Ask something that nobody needs to know: the index is made and the backbone loaded before the first question."""
    try:
        for _ in range(2):  # the first may be answered without torch, which who goes on asking needs
            library.answer(["a"], {"k": 1})
    except TvrError as e:
        log.logger.warning("warning: a first question was not answered: %s", e)


def _uvicorn() -> Any:
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as e:
        raise EnvironmentProblem(f"tvr serve needs {e.name}; install the extra: pip install 'tvr-cli[serve]'") from e
    return uvicorn
