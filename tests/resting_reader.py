"""A reader of videos that rests in the middle of one, for tests that stop a run there. Workers import it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tvr_cli.stores.decoding.room import Room
from tvr_cli.stores.decoding.sample import Sampled, Task, sample
from tvr_cli.stores.decoding.types import Beat, Place


def sample_and_rest(task: Task, beat: Beat) -> Sampled:
    """Read a file, but rest for ever after $REST_AFTER packets were decoded, having written the file $RESTING."""
    decoded = 0

    def resting(at: Place | Room | None = None, /) -> None:
        nonlocal decoded
        beat(at)
        decoded += isinstance(at, Place) and at.doing == "decoded"
        if decoded == int(os.environ["REST_AFTER"]):
            Path(os.environ["RESTING"]).touch()
            while True:
                time.sleep(0.05)
                beat()

    return sample(task, resting)
