"""A hub on loopback: what huggingface_hub asks when a file is fetched (HEAD and GET of `resolve`, with ranges)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """files: (repository, name) -> bytes. break_after: bytes of a body after which the network is gone. wrong: names
    whose bytes arrive changed. asked: (verb, name, range header) of each request of a file, in order."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    break_after: int | None = None
    wrong: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    address: str = ""

    def bodies(self) -> list[tuple[str, str | None]]:
        """Names and ranges of the bodies that were asked for."""
        return [(name, part) for verb, name, part in self.asked if verb == "GET"]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *said: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        asked_part = self.headers.get("Range")
        if name:
            self.hub.asked.append((self.command, name, asked_part))
        data = self.hub.files.get((repository, name))
        known = repository in {r for r, _ in self.hub.files}
        if not known or revision not in ("main", COMMIT) or data is None:
            self.send_response(404)
            missing = "RepoNotFound" if not known else "RevisionNotFound" if data is not None else "EntryNotFound"
            self.send_header("X-Error-Code", missing)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if body and self.hub.break_after == 0:
            self.close_connection = True
            return
        sent = data if name not in self.hub.wrong else bytes(len(data))
        start = int(asked_part.removeprefix("bytes=").rstrip("-")) if body and asked_part else 0
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        end = len(data) if self.hub.break_after is None else start + self.hub.break_after
        self.wfile.write(sent[start:end])
        if end < len(data):
            self.hub.break_after = 0
            self.close_connection = True


@contextmanager
def hub_on_loopback(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve a hub without files, and let huggingface_hub in this process know no other, nor another cache."""
    from huggingface_hub import constants, file_download

    class Handler(_Handler):
        hub = Hub()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = Handler.hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        file_download,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
        raising=False,
    )
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}", raising=False
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 14)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Handler.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
