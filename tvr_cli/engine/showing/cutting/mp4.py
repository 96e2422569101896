"""What is copied into an MP4: a stream with its header, its turn and its language."""

from __future__ import annotations

import contextlib
from typing import Any


def from_template(out: Any, stream: Any) -> Any:
    """Add a stream that holds another one's packets as they are."""
    made = out.add_stream_from_template(stream)
    with contextlib.suppress(AttributeError, KeyError):
        made.metadata.update({"language": stream.metadata["language"]})
    return made
