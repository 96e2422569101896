"""What a preset says about published weights: the section `card` of presets/backbones/NAME.yaml.

It is for people who choose: nothing that decides a feature stands here, and nothing that the weights' library says by
itself. A licence stands here only where the library's class knows none (open_clip's are in `openclip/licences.py`).
A number without a source that can be looked up is left out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """Under which weights were published; empty where we know of none. non_commercial: whether it forbids such use."""

    name: str = ""
    non_commercial: bool = False


@dataclass(frozen=True, kw_only=True)
class PublishedScore:
    """Zero-shot text-to-video retrieval as somebody reports it. r1: R@1 in percent.

    frames: a video. pooling: how they became one vector. gallery: videos to choose from. None = the source does not
    say. measured_by: who. source: where it stands. reproduced_by: who measured it again and what was found, with the
    source; None = nobody that we know of.
    """

    dataset: str
    r1: float
    measured_by: str
    source: str
    frames: int | None = None
    pooling: str | None = None
    gallery: int | None = None
    reproduced_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """About published weights. source: the page of their authors. languages: of captions, as BCP 47 writes them.

    `mul` = many; empty where no one says. download_bytes: of all files that are needed, None = not known before the hub
    is asked.
    """

    licence: str = ""
    non_commercial: bool = False
    source: str = ""
    download_bytes: int | None = None
    languages: tuple[str, ...] = ()
    published: tuple[PublishedScore, ...] = ()
