"""FCPXML 1.10, as Final Cut Pro and DaVinci Resolve read it: times are fractions of a second, exact at every rate.

OpenTimelineIO's adapter for it writes whole rates, and no length of a frame at 23.976, 29.97 and 59.94.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any
from xml.etree import ElementTree as ET

from tvr_cli.engine.showing.timeline.edit import Edit, Event
from tvr_cli.engine.showing.timeline.media import Media
from tvr_cli.engine.showing.timeline.timecode import may_drop
from tvr_cli.engine.showing.timeline.xml_text import xml_text


def to_fcpxml(edit: Edit) -> bytes:
    """Return the file: a project with one sequence, whose clips have a marker each at the second of the peak."""
    root = ET.Element("fcpxml", version="1.10")
    resources = _add(root, "resources")
    formats: dict[tuple[Any, ...], str] = {}
    sequence_format = _format(resources, formats, edit.rate, edit.size)
    assets = _assets(resources, formats, edit)
    event = _add(_add(root, "library"), "event", name="tvr")
    sequence = _add(
        _add(event, "project", name=edit.name), "sequence", format=sequence_format,
        tcStart=_time(edit.start, edit.rate), tcFormat="DF" if edit.drop else "NDF",
        duration=_time(edit.length, edit.rate),
    )  # fmt: skip
    spine = _add(sequence, "spine")
    for moment in edit.events:
        _clip(spine, moment, edit, assets[moment.media])
    ET.indent(root)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n' + ET.tostring(root, encoding="utf-8") + b"\n"


def _format(resources: ET.Element, formats: dict[tuple[Any, ...], str], rate: Fraction, size: tuple[int, int]) -> str:
    """Return the name of a format, which is added where it is new."""
    if (rate, size) not in formats:
        formats[rate, size] = f"r{len(formats) + 1}"
        _add(
            resources, "format", id=formats[rate, size], frameDuration=_time(1, rate), width=str(size[0]),
            height=str(size[1]),
        )  # fmt: skip
    return formats[rate, size]


def _assets(resources: ET.Element, formats: dict[tuple[Any, ...], str], edit: Edit) -> Mapping[Media, str]:
    """Add each file, and return the names of them."""
    named: dict[Media, str] = {}
    for media in dict.fromkeys(event.media for event in edit.events):
        of = _format(resources, formats, media.rate, (media.width, media.height))
        named[media] = f"a{len(named) + 1}"
        sound = {} if not media.channels else {
            "hasAudio": "1", "audioSources": "1", "audioChannels": str(media.channels),
            "audioRate": str(media.sample_rate),
        }  # fmt: skip
        asset = _add(
            resources, "asset", id=named[media], name=media.name, start=_time(media.start, media.rate),
            duration=_time(media.frames, media.rate), hasVideo="1", format=of, **sound,
        )  # fmt: skip
        _add(asset, "media-rep", kind="original-media", src=media.path.as_uri())
    return named


def _clip(spine: ET.Element, event: Event, edit: Edit, asset: str) -> None:
    media = event.media
    clip = _add(
        spine, "asset-clip", ref=asset, name=media.name, offset=_time(edit.start + event.at, edit.rate),
        start=_time(media.start + event.first, media.rate), duration=_time(event.length, edit.rate),
        tcFormat="DF" if media.drop and may_drop(media.rate) else "NDF",
    )  # fmt: skip
    _add(
        clip, "marker", start=_time(media.start + event.peak, media.rate), duration=_time(1, media.rate),
        value=event.query, note=f"{event.number}, score {event.hit.score:.3f}",
    )  # fmt: skip


def _time(frames: int, rate: Fraction) -> str:
    """Return frames as seconds: `1001/30000s`, whole multiples of the length of a frame, not reduced."""
    return f"{frames * rate.denominator}/{rate.numerator}s"


def _add(parent: ET.Element, tag: str, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, tag, {name: xml_text(value) for name, value in attributes.items()})
