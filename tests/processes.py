"""Processes that tests stop at a moment of their choosing: a child says where it stands on its stdout and then waits.

Nothing here or in a test depends on speed. WATCHDOG_S only bounds a hang: a test that meets it is broken, or the
machine is.
"""

from __future__ import annotations

import subprocess
import threading

WATCHDOG_S = 600.0
REST = "__import__('time').sleep(3600)"  # what a child does after it has said where it stands; a test ends it


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line of a child's stdout, '' when it has ended; a child that hangs is killed."""
    assert process.stdout is not None
    watchdog = threading.Timer(WATCHDOG_S, process.kill)
    watchdog.start()
    try:
        return process.stdout.readline().rstrip("\n")
    finally:
        watchdog.cancel()
