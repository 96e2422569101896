"""Seeds for everything random, as pure functions of what they are for. No torch: decoding workers use it too."""

from __future__ import annotations

import hashlib


def derive(*parts: object) -> int:
    """Return a non-negative 63-bit seed from any printable parts: the first bytes of their blake2b."""
    text = "/".join(str(p) for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
