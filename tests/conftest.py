"""What every test starts from: no variable of tvr's own in the shell, and Ctrl-C as at a terminal."""

from __future__ import annotations

import os
import signal

# Each is a user's default for an option (docs/cli.md), so a shell that has one would change what a command does
# beneath a test that leaves the option out. TVR_GOLDEN_DIR is the tests' own and stays.
USERS = ("TVR_BACKBONE", "TVR_KERNELS", "TVR_OFFLINE", "TVR_THREADS", "TVR_WORKSPACE")


def pytest_configure() -> None:
    """Before any module or fixture of a wider scope runs, and for the subprocesses of the tests too."""
    for name in USERS:
        os.environ.pop(name, None)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a script starts without it
