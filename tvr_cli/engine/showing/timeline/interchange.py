"""Timelines through OpenTimelineIO and its adapters: `.otio`, Final Cut Pro 7's `.xml`, CMX3600's `.edl`.

What the adapters lose is put right here: FCP7 takes in and out points in frames of the sequence, whatever the file has,
and names sizes, channels and what belongs together; an EDL says how its timecode counts, counts each file's as the file
does, and keeps the letters of a sentence. The one file that imports the extra `timeline`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from fractions import Fraction
from types import ModuleType
from typing import Any
from xml.etree import ElementTree as ET

from tvr_cli.engine.showing.timeline.edit import Edit, Event, shown_rate
from tvr_cli.engine.showing.timeline.media import Media
from tvr_cli.engine.showing.timeline.timecode import NTSC, nominal, to_timecode
from tvr_cli.engine.showing.timeline.xml_text import one_line, xml_text
from tvr_cli.errors import ConfigError, EnvironmentProblem

EVENTS_OF_AN_EDL = 999
_REEL = 8
_EDL_RATES = (24 * NTSC, Fraction(24), Fraction(25), 30 * NTSC, Fraction(30))
_EVENT = re.compile(r"\d{3} .*")


def require_adapters() -> ModuleType:
    """Return OpenTimelineIO. Raises EnvironmentProblem where it, or one of its adapters, is not installed."""
    try:
        import opentimelineio
    except ImportError as e:
        raise EnvironmentProblem(_MISSING) from e
    if {"fcp_xml", "cmx_3600"} - set(opentimelineio.adapters.available_adapter_names()):
        raise EnvironmentProblem(_MISSING)
    return opentimelineio


_MISSING = (
    "a timeline in .otio, .xml or .edl needs OpenTimelineIO and its adapters; run: pip install 'tvr-cli[timeline]' "
    "(.fcpxml and .csv need nothing more)"
)


def to_otio(edit: Edit) -> bytes:
    """Return the file: each clip in the frames and timecode of its own file."""
    otio = require_adapters()
    made = _timeline(otio, edit)
    tracks = [("V1", "Video", edit.events), ("A1", "Audio", edit.events if _has_sound(edit) else ())]
    for name, kind, events in tracks:
        if not events:
            continue
        track = otio.schema.Track(name=name, kind=kind)
        for event in events:
            media = event.media
            of = _range(otio, media.start + event.first, event.count, media.rate)
            if kind == "Audio" and not media.channels:
                track.append(otio.schema.Gap(source_range=of))
                continue
            reference = _reference(otio, media, _range(otio, media.start, media.frames, media.rate))
            clip = otio.schema.Clip(_named(media), reference, of, metadata={"tvr": _about(event)})
            if kind == "Video":
                clip.markers.append(_marker(otio, event, media.start + event.peak, media.rate))
            track.append(clip)
        made.tracks.append(track)
    return str(otio.adapters.write_to_string(made, "otio_json")).encode()


# ----------------------------------------------------------------------------------------------------------------- FCP7


def to_fcp7(edit: Edit) -> bytes:
    """Return the file, in and out points in frames of the sequence, sound channel by channel beside the picture."""
    otio = require_adapters()
    made = _timeline(otio, edit)
    picture = {"format": {"samplecharacteristics": _size(*edit.size)}}
    made.metadata["fcp_xml"] = {"media": {"video": picture}}
    made.tracks.append(_fcp7_track(otio, edit, edit.events, 0))
    for channel in range(1, min(2, max(e.media.channels for e in edit.events)) + 1):
        made.tracks.append(_fcp7_track(otio, edit, edit.events, channel))
    root = ET.fromstring(otio.adapters.write_to_string(made, "fcp_xml"))
    _put_right(root, edit)
    ET.indent(root)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE xmeml>\n' + ET.tostring(root, encoding="utf-8") + b"\n"


def _fcp7_track(otio: Any, edit: Edit, events: Iterable[Event], channel: int) -> Any:
    """Return the track of the picture, 0, or of a channel of the sound."""
    track = otio.schema.Track(name=f"A{channel}" if channel else "V1", kind="Audio" if channel else "Video")
    for event in events:
        media = event.media
        start, frames = _at(media, edit.rate)
        of = _range(otio, start + event.source_at, event.length, edit.rate)
        if channel > media.channels:
            track.append(otio.schema.Gap(source_range=of))
            continue
        # Equal items would be written once and referred to.
        reference = _reference(otio, media, _range(otio, start, frames, edit.rate))
        clip = otio.schema.Clip(_named(media), reference, of, metadata={"tvr": [channel, event.number]})
        if not channel:
            clip.markers.append(_marker(otio, event, event.source_peak, edit.rate))
        track.append(clip)
    return track


def _put_right(root: ET.Element, edit: Edit) -> None:
    """Number the items, link picture and sound of a moment, and say what each file is."""
    sequence = next(root.iter("sequence"))
    by_event: dict[int, list[tuple[str, int, int, ET.Element]]] = {}
    for kind in ("video", "audio"):
        for index, track in enumerate(sequence.findall(f"media/{kind}/track"), 1):
            events = [e for e in edit.events if kind == "video" or index <= e.media.channels]
            for place, (event, item) in enumerate(zip(events, track.findall("clipitem"), strict=True), 1):
                item.set("id", f"{kind}-{index}-{event.number}")
                for again in item.findall("rate")[1:]:
                    item.remove(again)
                _exact(item, event)
                by_event.setdefault(event.number, []).append((kind, index, place, item))
                if kind == "audio":
                    source = ET.SubElement(item, "sourcetrack")
                    ET.SubElement(source, "mediatype").text = kind
                    ET.SubElement(source, "trackindex").text = str(index)
    for together in by_event.values():
        for *_, item in together:
            for kind, index, place, other in together:
                link = ET.SubElement(item, "link")
                values = (
                    ("linkclipref", other.get("id")),
                    ("mediatype", kind),
                    ("trackindex", index),
                    ("clipindex", place),
                )
                for name, value in values:
                    ET.SubElement(link, name).text = str(value)
    _say(sequence, "rate", _fcp7_rate(edit.rate))
    _say_timecode(sequence, edit.start, edit.rate, drop=edit.drop)
    files = {media.path.as_uri(): media for media in dict.fromkeys(e.media for e in edit.events)}
    for file in root.iter("file"):
        if (url := file.findtext("pathurl")) is not None:
            _describe(file, files[url], edit.rate)


def _exact(item: ET.Element, event: Event) -> None:
    """Write whole frames where the adapter rounded what it had divided."""
    values = (
        ("start", event.at), ("end", event.at + event.length), ("in", event.source_at),
        ("out", event.source_at + event.length), ("duration", event.length),
    )  # fmt: skip
    for name, value in values:
        for found in item.findall(name):
            found.text = str(value)


def _describe(file: ET.Element, media: Media, rate: Fraction) -> None:
    """Say a file's rate, timecode, size and channels. rate: what stands for one that FCP7 cannot say, such as 12.5."""
    rate = media.rate if media.rate.denominator in (1, 1001) else rate
    start, frames = _at(media, rate)
    _say(file, "rate", _fcp7_rate(rate))
    _say(file, ".", {"duration": str(frames)})
    _say_timecode(file, start, rate, drop=media.drop)
    whole = file.find("media")
    assert whole is not None
    whole.clear()
    picture = ET.SubElement(ET.SubElement(whole, "video"), "samplecharacteristics")
    for name, value in _size(media.width, media.height).items():
        ET.SubElement(picture, name).text = value
    if media.channels:
        sound = ET.SubElement(whole, "audio")
        ET.SubElement(ET.SubElement(sound, "samplecharacteristics"), "samplerate").text = str(media.sample_rate)
        ET.SubElement(sound, "channelcount").text = str(media.channels)


def _say_timecode(of: ET.Element, start: int, rate: Fraction, *, drop: bool) -> None:
    """Name the first frame of a file or a sequence."""
    _say(of, "timecode/rate", _fcp7_rate(rate))
    said = {"string": to_timecode(start, rate, drop=drop), "frame": str(start)}
    _say(of, "timecode", {**said, "displayformat": "DF" if drop else "NDF"})


def _say(of: ET.Element, where: str, values: dict[str, str]) -> None:
    for name, value in values.items():
        found = of.find(f"{where}/{name}")
        assert found is not None
        found.text = value


def _at(media: Media, rate: Fraction) -> tuple[int, int]:
    """Return a file's first frame and how many it has, in frames of some rate."""
    return round(media.start / media.rate * rate), round(media.frames / media.rate * rate)


def _size(width: int, height: int) -> dict[str, str]:
    return {"width": str(width), "height": str(height)}


def _fcp7_rate(rate: Fraction) -> dict[str, str]:
    return {"timebase": str(nominal(rate)), "ntsc": "TRUE" if rate.denominator == 1001 else "FALSE"}


# ------------------------------------------------------------------------------------------------------------------ EDL


def to_edl(edit: Edit) -> bytes:
    """Return the file: the picture alone. Raises ConfigError for what no CMX3600 can say."""
    if edit.rate not in _EDL_RATES:
        raise ConfigError(
            f"an EDL (CMX3600) has no {shown_rate(edit.rate)} frames a second, only 23.976 to 30; "
            "write .otio, .xml or .fcpxml"
        )
    if len(edit.events) > EVENTS_OF_AN_EDL:
        raise ConfigError(
            f"an EDL (CMX3600) has {EVENTS_OF_AN_EDL} events at most, and the answer has {len(edit.events)} moments; "
            f"ask for fewer with -k, or write .otio, .xml or .fcpxml"
        )
    otio = require_adapters()
    per = nominal(edit.rate)  # whole frames, so that the adapter neither divides nor leaves out numbers
    made = otio.schema.Timeline(one_line(edit.name) or "tvr")  # without a name it would have no title
    made.global_start_time = otio.opentime.RationalTime(edit.start, per)
    track = otio.schema.Track(name="V1", kind="Video")
    reels = _reels(list(dict.fromkeys(event.media for event in edit.events)))
    for event in edit.events:
        media = event.media
        reference = otio.schema.ExternalReference(one_line(str(media.path)))
        of = _range(otio, _edl_start(event, edit), event.length, Fraction(per))
        clip = otio.schema.Clip(one_line(media.name), reference, of)
        peak = to_timecode(edit.start + event.at + event.source_peak - event.source_at, edit.rate, drop=edit.drop)
        # As a marker the adapter would write the sentence in capitals.
        comments = [f"LOC: {peak} RED     {one_line(event.query)}"]
        clip.metadata["cmx_3600"] = {"reel": reels[media], "comments": comments}
        track.append(clip)
    made.tracks.append(track)
    text = str(otio.adapters.write_to_string(made, "cmx_3600", rate=per, reelname_len=None))
    return _counted(text, edit).encode("utf-8", "replace")


def _edl_start(event: Event, edit: Edit) -> int:
    """Return the frame of the file's timecode at which a moment begins, as the sequence counts them."""
    media = event.media
    if media.rate == edit.rate:
        return media.start + event.first
    return media.start * nominal(edit.rate) // nominal(media.rate) + event.source_at


def _counted(text: str, edit: Edit) -> str:
    """Say how timecode counts, and count as it does: the adapter wrote all numbers without leaving out any."""
    head, _, rest = text.partition("\n\n")
    lines, events, now = [head, _fcm(edit.drop), ""], iter(edit.events), edit.drop
    for line in rest.splitlines():
        if _EVENT.fullmatch(line):
            event = next(events)
            drop = event.media.drop and event.media.rate == edit.rate
            if drop != now:
                lines.append(_fcm(drop))
                now = drop
            begins, at = _edl_start(event, edit), edit.start + event.at
            codes = [
                *(to_timecode(frame, edit.rate, drop=drop) for frame in (begins, begins + event.length)),
                *(to_timecode(frame, edit.rate, drop=edit.drop) for frame in (at, at + event.length)),
            ]
            line = f"{line[: -len(' '.join(codes))]}{' '.join(codes)}"
        lines.append(line)
    return "\n".join(lines).rstrip("\n") + "\n"


def _fcm(drop: bool) -> str:
    return f"FCM: {'DROP FRAME' if drop else 'NON-DROP FRAME'}"


def _reels(files: list[Media]) -> dict[Media, str]:
    """Return a name of capitals and digits for each file, 8 characters at most, no two alike."""
    named: dict[Media, str] = {}
    for media in files:
        plain = unicodedata.normalize("NFKD", media.path.stem).upper()
        stem = re.sub("[^A-Z0-9]", "", plain)[:_REEL] or "REEL"
        name, n = stem, 1
        while name in named.values():
            n += 1
            name = f"{stem[: _REEL - len(str(n))]}{n}"
        named[media] = name
    return named


# --------------------------------------------------------------------------------------------------------------- shared


def _timeline(otio: Any, edit: Edit) -> Any:
    made = otio.schema.Timeline(xml_text(one_line(edit.name)))
    made.global_start_time = otio.opentime.RationalTime(edit.start, float(edit.rate))
    return made


def _range(otio: Any, start: int, count: int, rate: Fraction) -> Any:
    time = otio.opentime.RationalTime
    return otio.opentime.TimeRange(time(start, float(rate)), time(count, float(rate)))


def _reference(otio: Any, media: Media, available: Any) -> Any:
    reference = otio.schema.ExternalReference(media.path.as_uri(), available)
    reference.name = _named(media)
    return reference


def _marker(otio: Any, event: Event, frame: int, rate: Fraction) -> Any:
    color = otio.schema.MarkerColor.RED
    return otio.schema.Marker(xml_text(one_line(event.query)), _range(otio, frame, 1, rate), color)


def _about(event: Event) -> dict[str, Any]:
    hit = event.hit
    return {
        "number": event.number, "query": xml_text(event.query), "score": hit.score, "start_s": hit.start,
        "end_s": hit.end, "peak_s": hit.peak,
    }  # fmt: skip


def _named(media: Media) -> str:
    return xml_text(one_line(media.name))


def _has_sound(edit: Edit) -> bool:
    return any(event.media.channels for event in edit.events)
