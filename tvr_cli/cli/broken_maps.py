"""A sentence where a file in a memory map cannot be read any more: its disk went away, or something cut it short.

The system then ends the process by SIGBUS in the middle of an instruction, which no `except` sees. Python's own signal
handlers would run after that instruction, so never; a C handler can say what happened and leave.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from tvr_cli.errors import EnvironmentProblem

_SAID = (
    "error: a file of the workspace that was being searched cannot be read any more: its disk went away, or it was cut "
    "short meanwhile. Nothing was written by this; when the disk is back, run the same command again (tvr doctor looks "
    "for damage)\n"
)
_handler: Any = None  # kept: C has only its address
_leaving = threading.Lock()  # taken once, never given back


def say_so() -> None:
    """End this process with a sentence and exit code 4, not with "Bus error". Does nothing where there is no SIGBUS."""
    global _handler
    number = getattr(signal, "SIGBUS", None)
    if number is None or _handler is not None:
        return
    try:
        import ctypes

        libc = ctypes.CDLL(None)
        _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_leave)
        libc.signal.restype = ctypes.c_void_p
        libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        libc.signal(number, ctypes.cast(_handler, ctypes.c_void_p))
    except (ImportError, OSError, AttributeError):  # a Python without ctypes, a libc without `signal`: as before
        _handler = None


def _leave(number: int) -> None:
    if not _leaving.acquire(blocking=False):  # threads that share a product fault together; one sentence is enough
        threading.Event().wait()  # the first ends the process, and this with it
    os.write(2, _SAID.encode())
    os._exit(EnvironmentProblem.exit_code)
