"""The page itself: what it says of an answer, in HTML that needs no script to be read and its links to be followed.

No attribute holds style or script, so a policy can forbid both but for what is written here; nothing comes from
elsewhere but the videos, when somebody plays them.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvr_cli.engine.showing.page.chart import drawing
from tvr_cli.engine.showing.page.pictures import Picture, Seen
from tvr_cli.engine.showing.page.text import link, quoted, shown, text
from tvr_cli.log import clock
from tvr_cli.results.found import Answer, Curve, Hit
from tvr_cli.version import __version__

_FOUND_BY = {"picture": "seen", "speech": "said", "both": "seen and said"}
_NEAREST = 4  # cards of what was not found, a row of them
_HERE = Path(__file__).parent
_SCRIPTS = ("player.js", "page.js")
# Of width to height: as most of the pictures are, so that they fill their places.
_STAGES = ((1.15, "square"), (1.55, "middle"), (float("inf"), "wide"))


@dataclass(frozen=True, slots=True)
class Card:
    """A moment as the page has it. curve: of its file. others: the file's other moments. heard: whether channels are
    told apart.
    """

    hit: Hit
    seen: Seen
    curve: Curve | None
    others: Sequence[tuple[float, float]]
    heard: bool


def page(answers: Sequence[Answer], seen: Sequence[Sequence[Seen]], to: Path) -> str:
    """Return the page. seen: of each answer's moments what else is known. to: where it will lie."""
    several = len(answers) > 1
    title = f"{len(answers)} sentences" if several else shown(answers[0].query)
    parts = [
        _section(i, answer, known, to, several) for i, (answer, known) in enumerate(zip(answers, seen, strict=True), 1)
    ]
    top = f"<h1>{len(answers)} sentences</h1>{_contents(answers)}" if several else ""
    return document(
        title,
        f'<div class="{_stage([one.picture for known in seen for one in known])}">'
        f'<header class="top"><p class="mark">tvr</p>{top}</header><main>{"".join(parts)}</main>{_FOOT}{_PLAYER}</div>',
        script="\n".join((_HERE / name).read_text("utf-8") for name in _SCRIPTS),
    )


def document(title: str, body: str, *, script: str = "") -> str:
    """Return a whole document with the style of all pages. script: the only one that may run."""
    style = (_HERE / "page.css").read_text("utf-8")
    # 'self' is what lies at the page's own address; of a file browsers differ in whether another file is that.
    allowed = f"style-src {_hash(style)}; img-src data:; media-src 'self' file:"
    if script:
        allowed += f"; script-src {_hash(script)}"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f'<meta name="generator" content="tvr {__version__}">\n<title>{quoted(title)} – tvr</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n{body}\n"
        f"{f'<script>{script}</script>' if script else ''}\n</body>\n</html>\n"
    )


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _stage(pictures: Sequence[Picture | None]) -> str:
    """Return which of the places for pictures fits most of them."""
    ratios = sorted(p.width / p.height for p in pictures if p is not None)
    middle = ratios[len(ratios) // 2] if ratios else 16 / 9
    return next(name for limit, name in _STAGES if middle < limit)


def _contents(answers: Sequence[Answer]) -> str:
    rows = (
        f'<li><a href="#s{i}">{text(a.query)}</a> <span class="count">{_count(len(a.hits), "moment")}</span></li>'
        for i, a in enumerate(answers, 1)
    )
    return f'<nav aria-label="Sentences"><ol>{"".join(rows)}</ol></nav>'


def shown_of(answer: Answer) -> Sequence[Hit]:
    """Return the moments of an answer that a page shows: its hits, else some of what is nearest."""
    return answer.hits or answer.nearest[:_NEAREST]


def _section(number: int, answer: Answer, seen: Sequence[Seen], to: Path, several: bool) -> str:
    level = 2 if several else 1
    head = f'<h{level} id="s{number}">{text(answer.query)}</h{level}>{_summary(answer)}'
    cards = _cards(answer, seen)
    listed = "".join(f"<li>{_card(card, f's{number}m{i}', to, level + 1)}</li>" for i, card in enumerate(cards, 1))
    body = f'<ol class="cards" role="list">{listed}</ol>' if cards else ""
    return f'<section aria-labelledby="s{number}">{head}{body}{_left_out(answer)}</section>'


def _summary(answer: Answer) -> str:
    if not answer.hits:
        nearest = " with confidence; the nearest are:" if answer.nearest else "."
        return f'<p class="sum"><strong>Nothing was found{nearest}</strong></p>'
    files = len({hit.path for hit in answer.hits})
    gone = Counter({hit.path: hit.why_missing for hit in answer.hits if hit.missing}.values())
    said = f"{_count(len(answer.hits), 'moment')} in {_count(files, 'file')}, the best first."
    lost = [f" <strong>{_count(n, 'file')} {'is' if n == 1 else 'are'} {why}.</strong>" for why, n in gone.items()]
    return f'<p class="sum">{said}{"".join(lost)}</p>'


def _left_out(answer: Answer) -> str:
    more = {hit.path: hit.more for hit in answer.hits if hit.more}
    parts = []
    if more:
        places = answer.places
        flags = f"--per-file 0 -k {places}{' --all' if answer.nearest else ''}"
        rows = (f"<li>{text(os.path.basename(path))}: {_count(n, 'more moment')}</li>" for path, n in more.items())
        parts.append(
            f"<p>Files have more moments than are shown; <code>{flags}</code> shows all:</p><ul>{''.join(rows)}</ul>"
        )
    if answer.hits and answer.nearest:
        some = _count(len(answer.nearest), "more moment")
        them = "it" if len(answer.nearest) == 1 else "them"
        parts.append(f"<p>{some}, found with less confidence; <code>--all</code> shows {them}, too.</p>")
    return f'<div class="more">{"".join(parts)}</div>' if parts else ""


def _cards(answer: Answer, seen: Sequence[Seen]) -> list[Card]:
    hits = shown_of(answer)
    curves = {hit.path: hit.curve for hit in hits if hit.curve is not None}
    spans: dict[str, list[tuple[float, float]]] = {}
    for hit in hits:
        spans.setdefault(hit.path, []).append((hit.start, hit.end))
    heard = any(hit.channel != "picture" for hit in hits)
    return [
        Card(hit, known, curves.get(hit.path), [s for s in spans[hit.path] if s != (hit.start, hit.end)], heard)
        for hit, known in zip(hits, seen, strict=True)
    ]


def _card(card: Card, name: str, to: Path, level: int) -> str:
    hit = card.hit
    folder, _, file = hit.path.rpartition(os.sep)
    where = f"{clock(hit.start)}–{clock(hit.end)}"
    said = f'<blockquote class="said">{text(hit.said)}</blockquote>' if hit.said else ""
    gone = f'<p class="gone">{hit.why_missing.capitalize()}.</p>' if hit.missing else ""
    return (
        f'<article class="card" aria-labelledby="{name}">{_picture(card, where, to)}'
        f'<div class="about"><div class="row"><h{level} class="name" id="{name}">{text(file)}</h{level}>'
        f'{_standing(hit)}</div><p class="folder">{text(folder + os.sep)}</p>{gone}{said}'
        f"{_curve(card)}</div></article>"
    )


def _standing(hit: Hit) -> str:
    if hit.confidence is None:
        return f'<p class="score">score {hit.score:.3f}</p>'
    share = f"{hit.percent} %"
    return f'<p class="score" title="score {hit.score:.3f}">confidence {share}</p>'


def _picture(card: Card, where: str, to: Path) -> str:
    """Return the place of the picture: a link that plays the moment, where there is something to play."""
    hit, picture = card.hit, card.seen.picture
    file = os.path.basename(hit.path)
    if picture is None:
        image = '<span class="none">no picture</span>'
    else:
        data = base64.b64encode(picture.jpeg).decode()
        alt = f"Frame of {file} at {clock(picture.at)}"
        image = (
            f'<img src="data:image/jpeg;base64,{data}" width="{picture.width}" height="{picture.height}" '
            f'alt="{quoted(alt)}" decoding="async">'
        )
    by = f'<span class="by">{_FOUND_BY[hit.channel]}</span>' if card.heard else ""
    over = f'<span class="rank">{hit.rank}</span> {by} <span class="when">{where}</span>'
    if hit.missing:
        return f'<div class="stage">{image}{over}</div>'
    # Its name for who does not see it is what stands in it, so that all of it can be said to it.
    return (
        f'<a class="stage play" href="{quoted(link(hit.path, to, hit.start, hit.end))}" data-name="{quoted(file)}" '
        f'data-path="{quoted(hit.path)}" data-start="{hit.start:.3f}" data-end="{hit.end:.3f}" data-when="{where}">'
        f'<span class="hidden">Play {text(file)}, number</span> {over} {image}<span class="go"></span></a>'
    )


def _curve(card: Card) -> str:
    hit, curve = card.hit, card.curve
    ends = [hit.end, *(end for _, end in card.others), *(curve.ts[-1:] if curve else ())]
    seconds = max(ends) if card.seen.seconds is None else max(card.seen.seconds, hit.end)
    what = "How well the file fits over time" if curve else "Where the moment is in the file"
    label = f"{what}, from 0:00.0 to {clock(seconds)}: the moment is {clock(hit.start)} to {clock(hit.end)}"
    svg = drawing(curve, seconds, (hit.start, hit.end), hit.peak, card.others, label)
    axis = f'<p class="axis"><span>0:00</span><span>best at {clock(hit.peak)}</span><span>{clock(seconds)}</span></p>'
    return f'<div class="time">{svg}{axis}</div>'


def _count(n: int, one: str) -> str:
    return f"{n} {one}" if n == 1 else f"{n} {one}s"


_FOOT = (
    '<footer class="foot"><p>The line over each file is how well every second of it fits the sentence, from the '
    "lowest score in the library to the highest; the band is the moment, pale bands are other moments of the file.</p>"
    "<p>A picture plays its moment, from the file where it lies now: the page and the videos have to stay where they "
    "are to each other.</p></footer>"
)
_PLAYER = (
    '<dialog id="player" aria-labelledby="player-name"><div class="bar"><div><p id="player-name"></p>'
    '<p id="player-when"></p></div><button type="button" id="player-close">Close</button></div>'
    '<div id="player-screen"></div><p id="player-note" role="status"></p><div class="bar"><button type="button" '
    'id="player-before">Previous</button><button type="button" id="player-again">Play the moment again</button>'
    '<button type="button" id="player-after">Next</button></div></dialog>'
)
