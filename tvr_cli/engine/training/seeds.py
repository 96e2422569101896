"""Seeds for everything random, as pure functions of what they are for. No torch: decoding workers use it too."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tvr_cli.errors import ConfigError


def derive(*parts: object) -> int:
    """Return a non-negative 63-bit seed from any printable parts: the first bytes of their blake2b."""
    text = "/".join(str(p) for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def check_seeds(wanted: Sequence[str]) -> tuple[int, ...]:
    """Return the seeds of `--seeds` as numbers. Raises ConfigError for anything else or for none."""
    if not wanted or not all(word.isdecimal() for word in wanted):
        raise ConfigError(f"--seeds: expected whole numbers like 0,1,2, found {','.join(wanted)!r}")
    return tuple(dict.fromkeys(int(word) for word in wanted))
