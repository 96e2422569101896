"""Memory for frames, shared by all readers: who needs much of it waits until there is room. No torch here.

A reader says what a frame of its file takes before it decodes any, and the pool answers when all that are decoding
together stay within the budget. Small frames are not counted, so most files cost no question.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

# What a reader takes for a pixel of its frames: the decoder's pictures, RGB, and the copy that is made smaller. H.264
# of 8 bits takes 12.8 (measured at 4096 x 4096), HDR half as much again.
BYTES_A_PIXEL = 20
# Of the memory that is free: what readers may take together.
_SHARE = 0.5
_UNKNOWN = 4_000_000_000  # where the system does not say what is free


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for the frames of a file, of so many pixels."""

    width: int
    height: int

    @property
    def size_bytes(self) -> int:
        return self.width * self.height * BYTES_A_PIXEL


@dataclass(frozen=True, slots=True)
class Budget:
    """What readers may take together. readers: how many there are."""

    size_bytes: int
    readers: int

    @property
    def uncounted(self) -> int:
        """How much each may take unasked: a quarter of the budget, divided among all."""
        return self.size_bytes // (4 * self.readers)

    def refusal(self, room: Room) -> str:
        """Say why there will never be room, "" where there may be."""
        if room.size_bytes <= self.size_bytes:
            return ""
        return (
            f"a frame of {room.width}x{room.height} pixels takes about {room.size_bytes / 1e9:.2g} GB to read, more "
            f"than the {self.size_bytes / 1e9:.2g} GB that all readers may take together; a larger "
            "--memory-budget with --retry-failed reads it"
        )


def free_bytes() -> int:
    """Return how much memory readers may take by default: half of what the system, or the container, has free."""
    free = []
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo") as f:
        free.append(int(next(line for line in f if line.startswith("MemAvailable")).split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # of a container; "max" where it has no limit
        group = Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    if not free:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # macOS
            free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return max(1, int(_SHARE * min(free, default=_UNKNOWN / _SHARE)))
