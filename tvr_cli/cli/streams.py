"""The one boundary of the standard streams: closed, full, or of another encoding, they end in a sentence.

A stream that is closed when a command starts gets the null device in its place: else the next file that is opened takes
its number, and whatever a library prints goes into that file. Of stdout it is opened for reading, so that a result that
nobody can receive is an error and not lost in silence; what stderr would have said is not.
"""

from __future__ import annotations

import io
import os
import sys

from tvr_cli.errors import ConfigError, EnvironmentProblem

_IN, _OUT, _ERR = 0, 1, 2


class Undelivered(EnvironmentProblem):
    """The results cannot be written to stdout."""


def set_up() -> None:
    """Put the null device where a stream is closed, and stdout behind `Undelivered`. Called once, by `main`."""
    for number, how in ((_IN, os.O_RDONLY), (_OUT, os.O_RDONLY), (_ERR, os.O_WRONLY)):
        _fill(number, how)
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(
            io.FileIO(_ERR, "w", closefd=False), errors="backslashreplace", write_through=True
        )
    now = sys.stdout
    encoding, errors = ("utf-8", "strict") if now is None else (now.encoding, now.errors)
    # A character that the terminal's encoding lacks is escaped; a byte of a name that is no UTF-8 stays as it is.
    errors = errors if errors == "surrogateescape" else "backslashreplace"
    raw = _Stdout(_OUT, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=os.isatty(_OUT)
    )


def end() -> None:
    """Write what stdout still holds. Raises Undelivered, BrokenPipeError."""
    sys.stdout.flush()


def give_up() -> None:
    """Send the rest of stdout to nowhere, so that the end of the process does not try it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _OUT)


def read() -> bytes:
    """Return all of stdin. Raises ConfigError where there is none or it cannot be read."""
    if sys.stdin is None:
        raise ConfigError(
            "expected something to read on standard input, which is closed; give a file or a pipe: … < FILE"
        )
    try:
        return sys.stdin.buffer.read()
    except OSError as e:
        raise ConfigError(f"cannot read standard input: {e.strerror}; give a file or a pipe: … < FILE") from e


class _Stdout(io.FileIO):
    """File descriptor 1, whose refusals say that they are about stdout: no file of a workspace is full or closed."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            raise
        except OSError as e:
            give_up()
            raise Undelivered(
                f"cannot write the result to standard output: {e.strerror}; it is full or closed, so send it elsewhere"
            ) from e


def _fill(number: int, how: int) -> None:
    """Open the null device as a descriptor that is closed."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, how)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
