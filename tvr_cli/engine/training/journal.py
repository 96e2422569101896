"""metrics.jsonl of a run: what happened at every step, written in groups, cut back when a run resumes.

Records: {"event": "step", "step", "epoch", "loss", "parts", "grad_norm", "logit_scale", "lr", "samples_per_s"},
{"event": "validation", "step", "epoch", "t2v", "v2t", "rsum", "best"}, {"event": "note", "step", "text"}. `step` counts
finished steps, from 1. Lines that a crash loses are those of steps that the resumed run does again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvr_cli.files import append_lines, write_text
from tvr_cli.runs import read_journal

_EVERY_S = 5.0


class Journal:
    """Collect records and write them every few seconds and whenever `flush` is called."""

    def __init__(self, path: Path):
        self._path = path
        self._waiting: list[dict[str, Any]] = []
        self._written = time.monotonic()

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep a record; write if the last writing is a while ago."""
        self._waiting.append(dict(record))
        if time.monotonic() - self._written > _EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            append_lines(self._path, self._waiting)
        self._waiting, self._written = [], time.monotonic()

    def cut(self, step: int) -> None:
        """Forget everything after `step`: the resumed run will write it again."""
        records = read_journal(self._path)
        kept = [r for r in records if r.get("step", 0) <= step]
        if len(kept) != len(records):
            import json

            write_text(self._path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))
