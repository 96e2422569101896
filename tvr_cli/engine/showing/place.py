"""Where a rendering of an answer is written: nothing is replaced unasked, and what the system refuses is a sentence."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

from tvr_cli import files, os_errors
from tvr_cli.errors import ConfigError, EnvironmentProblem, TvrError


def require_free(paths: Sequence[Path], flag: str, *, overwrite: bool) -> None:
    """Raise ConfigError where one of these files is there already and may not be replaced. flag: what named them."""
    taken = [] if overwrite else [path for path in paths if path.is_symlink() or path.exists()]
    if taken:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise ConfigError(
            f"{flag}: {str(taken[0])!r}{more} {'are' if more else 'is'} there already, and nothing was written; "
            f"name another place, or replace {'them' if more else 'it'} with --overwrite"
        )


def write(path: Path, data: bytes, flag: str) -> None:
    """Write a file in one step. Raises EnvironmentProblem, ConfigError for a name that is too long."""
    with refusals(path, flag):
        files.write_bytes(path, data)


@contextlib.contextmanager
def refusals(path: Path, flag: str) -> Iterator[None]:
    """Say what the system refused while `path` was written: it is not of a workspace, which -o would name."""
    try:
        with files.disk_errors(path):
            yield
    except TvrError as e:
        cause = e.__cause__
        if not isinstance(cause, OSError) or cause.errno == errno.ENAMETOOLONG:
            raise
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "free some space" if full else f"choose another place with {flag}"
        assert os_errors.refusal(cause, written=path) is not None
        raise EnvironmentProblem(f"cannot write {str(path)!r}: {cause.strerror}; {mend}") from cause
