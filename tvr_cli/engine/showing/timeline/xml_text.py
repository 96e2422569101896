"""Text that XML can hold: names of files and sentences may have characters that no XML 1.0 has."""

from __future__ import annotations

import re

_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """Return a text as XML can hold it: what cannot be said in it is shown as �."""
    return _NOT_IN_XML.sub("\ufffd", text)


def one_line(text: str) -> str:
    """Return a text as a line of a file can hold it."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
