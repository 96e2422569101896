"""The process that transcodes one film for a browser: `python -m tvr_cli.server.transcode PATH SECOND TRACK`.

The film goes to stdout, why there is none to stderr. Whoever reads ends it by going away.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from tvr_cli.engine.showing.cutting.live import stream
from tvr_cli.errors import TvrError


def main(path: str, second: str, track: str) -> None:
    try:
        stream(Path(path), float(second), sys.stdout.buffer, int(track) if track else None)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python writes what is left, at its end
    except (TvrError, OSError) as e:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{e}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
