"""What lies in the folder of a speech store, by name: to ask whether there is one, nothing has to be opened."""

from __future__ import annotations

import re
from pathlib import Path

HEAD = "speech.json"
DATABASE = re.compile(r"[0-9a-f]{16}\.sqlite")  # names that only tvr gives


def is_speech(folder: Path) -> bool:
    """Return whether the words of a workspace have been read into a folder before."""
    return (folder / HEAD).is_file()
