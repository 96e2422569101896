"""What is copied into an MP4: a stream with its header, its turn and its language."""

from __future__ import annotations

import contextlib
from typing import Any

# With it Apple's players and editors read HEVC, and the others do as well.
HEVC_TAG = "hvc1"


def from_template(out: Any, stream: Any) -> Any:
    """Add a stream that holds another one's packets as they are."""
    made = out.add_stream_from_template(stream, opaque=True)  # by its codec: a decoder such as libdav1d encodes nothing
    if stream.type == "video" and stream.codec_context.codec.canonical_name == "hevc":
        made.codec_context.codec_tag = HEVC_TAG
    with contextlib.suppress(AttributeError, KeyError):
        made.metadata.update({"language": stream.metadata["language"]})
    return made
