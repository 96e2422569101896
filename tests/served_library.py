"""A small library as it is served, for tests of what a client of the server sees: fixtures of `tests/cli`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import small_library
from starlette.testclient import TestClient

from tvr_cli.data.demo_world.corpus import WorldOptions
from tvr_cli.server import running
from tvr_cli.server.app import create_app
from tvr_cli.server.guard import Rules
from tvr_cli.server.library import Library, Named
from tvr_cli.workspace import Workspace

HERE = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of eight toy videos, and `out`, the workspace that searches them."""
    return small_library.library(tmp_path_factory.mktemp("served"), WorldOptions(train=2, val=2, test=4, captions=1))


@pytest.fixture(scope="module")
def library(place: Path) -> Library:
    """What a server holds of it."""
    return Library(Workspace(place / "out"), Named())


@pytest.fixture(scope="module")
def client(library: Library) -> Iterator[TestClient]:
    """A client of its server, which is at `HERE`."""
    made = create_app(library, Rules(running.hosts_of("127.0.0.1"), 8765))
    with TestClient(made, base_url=HERE, raise_server_exceptions=False) as client:
        yield client
