"""What every test starts from: no variable of tvr's own in the shell, Ctrl-C as at a terminal, no limit of time, no
waiting for a disk.

And what a fixture of a whole file makes is made once: all that use it run in one process.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # before anything imports torch: a process a core leaves one thread a process
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Each is a user's default for an option (docs/cli.md), so a shell that has one would change what a command does
# beneath a test that leaves the option out. TVR_GOLDEN_DIR is the tests' own and stays.
USERS = ("TVR_BACKBONE", "TVR_KERNELS", "TVR_OFFLINE", "TVR_THREADS", "TVR_WORKSPACE")


def pytest_configure() -> None:
    """Before any module or fixture of a wider scope runs, and for the subprocesses of the tests too."""
    for name in USERS:
        os.environ.pop(name, None)
    cache = tempfile.mkdtemp(prefix="tvr-cache-")  # what a user's own holds decides nothing
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = cache
    settings.register_profile("tvr", deadline=None)  # how long an example takes is the machine's
    settings.load_profile("tvr")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a script starts without it
    os.fsync = _written


def _written(descriptor: int) -> None:
    """Stand in for `os.fsync`: no test cuts the power, a kill loses nothing that was written, and tens of thousands of
    syncs take minutes. What is no open file is refused as before."""
    os.fstat(descriptor)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let no collection of garbage look at what is imported here and stays, which takes half a second each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests that share what their own file makes once."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("xdist_group") is None:
            file = item.nodeid.partition("::")[0]
            used = [found[-1] for found in item._fixtureinfo.name2fixturedefs.values()]
            if any(fixture.baseid == file and fixture.scope in ("module", "session") for fixture in used):
                item.add_marker(pytest.mark.xdist_group(file))


@pytest.fixture(scope="module")
def warm_readers() -> Iterator[None]:
    """Let processes that read videos start at once, for a file whose tests start dozens of them."""
    from warm_readers import warm  # here, where it imports what reads videos

    with warm():
        yield
