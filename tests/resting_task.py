"""A task that rests for ever, for tests that leave while it runs. Workers import it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tvr_cli.stores.decoding.types import Beat


def rest(task: Any, beat: Beat) -> Any:
    """Write this process's id to the file $RESTING, and rest."""
    Path(os.environ["RESTING"]).write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)
        beat()
