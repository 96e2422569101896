"""What can happen in the toy world, and how a caption says it. No pixels, no files.

A video is two to four scenes, a scene is one event (a thing and what it does) and sometimes a bystander that no caption
mentions. A caption names an ordered pair of the video's events; the other scenes are distractors.

Half of each split are families of four, equal but for one change: `base`, `order` (the two events swapped), `motion`
(one motion reversed) and `binding` (the colours of the two things swapped). The other half are `random`. Within a split
every caption describes exactly one video. All randomness comes from `random.Random`, whose numbers do not change
between Python versions.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Literal

Kind = Literal["random", "base", "order", "motion", "binding"]
KINDS: tuple[Kind, ...] = ("random", "base", "order", "motion", "binding")

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
TEXTURES = ("solid", "striped", "dotted")
ACTIONS = ("left", "right", "up", "down", "grow", "shrink", "spin", "blink")
REVERSED = {"left": "right", "right": "left", "up": "down", "down": "up", "grow": "shrink", "shrink": "grow"}
TURNS_UNSEEN = ("circle", "ring")  # looks the same at every angle, so it never spins

# One colour of each shape that only the test split shows (the backbone and the heads never see the combination).
TEST_ONLY = frozenset((shape, COLOURS[(3 * i + 1) % len(COLOURS)]) for i, shape in enumerate(SHAPES))

SHAPE_WORDS = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus sign"),
    "diamond": ("diamond", "rhombus"),
    "ring": ("ring", "hoop"),
    "heart": ("heart",),
}
COLOUR_WORDS = {c: (c,) for c in COLOURS} | {"purple": ("purple", "violet"), "cyan": ("cyan", "turquoise")}
ACTION_WORDS = {
    "left": ("moves left", "slides to the left", "drifts to the left side"),
    "right": ("moves right", "slides to the right", "drifts to the right side"),
    "up": ("moves up", "rises", "floats upwards"),
    "down": ("moves down", "falls", "sinks downwards"),
    "grow": ("grows", "gets bigger", "expands"),
    "shrink": ("shrinks", "gets smaller", "contracts"),
    "spin": ("spins", "rotates", "turns around"),
    "blink": ("blinks", "flashes on and off", "flickers"),
}
SENTENCES = (
    "{a}, then {b}",
    "first {a}, after that {b}",
    "{a} before {b}",
    "{a} followed by a scene where {b}",
    "{b} after {a}",
)


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape of one colour and texture."""

    shape: str
    colour: str
    texture: str = "solid"

    @property
    def look(self) -> tuple[str, str]:
        """Shape and colour: what tells things apart. A caption may leave the texture out."""
        return self.shape, self.colour


@dataclass(frozen=True, slots=True)
class Scene:
    """One second: `thing` does `action`. seed: fixes background, place and size of the look."""

    thing: Thing
    action: str
    bystander: Thing | None
    seed: int

    @property
    def event(self) -> tuple[str, str, str]:
        """What a caption can say of it for certain: shape, colour, action."""
        return (*self.thing.look, self.action)


@dataclass(frozen=True, slots=True)
class Video:
    """Scenes in order. pair: the two of them that captions name. family: number of its family of four, None alone."""

    scenes: tuple[Scene, ...]
    pair: tuple[int, int]
    kind: Kind = "random"
    family: int | None = None

    def events(self) -> set[tuple[tuple[str, str, str], tuple[str, str, str]]]:
        """Every ordered pair of events that it shows: the captions that would be true of it."""
        return set(combinations([s.event for s in self.scenes], 2))

    def named(self) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
        """Return the ordered pair of events that its captions name."""
        i, j = self.pair
        return self.scenes[i].event, self.scenes[j].event


def make_split(seed: int, n: int, *, unseen_pairs: bool) -> list[Video]:
    """Draw `n` videos, half of them in families of four, such that each one's captions describe it alone.

    unseen_pairs: whether shape-colour pairs of `TEST_ONLY` may appear.
    """
    draw = Draw(seed, unseen_pairs=unseen_pairs)
    split = _Unique()
    for number in range(n // 8):
        while not split.add(draw.family(number)):
            pass
    while len(split.videos) < n:
        split.add([draw.video()])
    return split.videos


def caption(rng: Random, video: Video) -> str:
    """Say what the video shows, in one of several ways."""
    i, j = video.pair
    return rng.choice(SENTENCES).format(a=clause(rng, video.scenes[i]), b=clause(rng, video.scenes[j]))


def clause(rng: Random, scene: Scene) -> str:
    """Say what one scene shows: "a striped red star moves left"."""
    return f"{noun_phrase(rng, scene.thing)} {rng.choice(ACTION_WORDS[scene.action])}"


def noun_phrase(rng: Random, thing: Thing) -> str:
    """Name a thing, in 70 % of cases with its texture if it has one."""
    colour, shape = rng.choice(COLOUR_WORDS[thing.colour]), rng.choice(SHAPE_WORDS[thing.shape])
    article = "an" if colour.startswith("o") else "a"
    if thing.texture == "solid" or rng.random() >= 0.7:
        return f"{article} {colour} {shape}"
    if rng.random() < 0.3:
        return f"{article} {colour} {shape} with {'stripes' if thing.texture == 'striped' else 'dots'}"
    return f"a {thing.texture} {colour} {shape}"


class Draw:
    """Draws things, scenes, videos and families from one seed."""

    def __init__(self, seed: int, *, unseen_pairs: bool):
        self.rng = Random(seed)
        self._banned = frozenset() if unseen_pairs else TEST_ONLY

    def thing(self, others: list[Thing]) -> Thing:
        """Draw a thing of another shape or colour than all `others`."""
        taken = {t.look for t in others} | self._banned
        while True:
            texture = self.rng.choice(TEXTURES) if self.rng.random() < 0.5 else "solid"
            thing = Thing(self.rng.choice(SHAPES), self.rng.choice(COLOURS), texture)
            if thing.look not in taken:
                return thing

    def scene(self, others: list[Thing]) -> Scene:
        """Draw an event, in 40 % of cases with a bystander."""
        thing = self.thing(others)
        actions = [a for a in ACTIONS if possible(thing.shape, a)]
        bystander = self.thing([*others, thing]) if self.rng.random() < 0.4 else None
        return Scene(thing, self.rng.choice(actions), bystander, self.seed())

    def video(self, n_scenes: int | None = None) -> Video:
        """Draw a video of `n_scenes` scenes (2, 3, 3 or 4 when not given) whose things all differ."""
        scenes: list[Scene] = []
        for _ in range(n_scenes or self.rng.choice((2, 3, 3, 4))):
            scenes.append(self.scene([s.thing for s in scenes]))
        return Video(tuple(scenes), self.rng.choice(list(combinations(range(len(scenes)), 2))))

    def family(self, number: int) -> list[Video]:
        """Draw base, order, motion and binding: same events, each scene seen anew, so that pixels cannot tell."""
        while True:
            base = self.video(self.rng.choice((3, 4)))
            i, j = base.pair
            swapped = swap_colours(base)
            reversible = all(base.scenes[k].action in REVERSED for k in (i, j))
            if reversible and base.scenes[i].action != base.scenes[j].action and self._clean(base, swapped):
                break
        changed = {
            "base": base,
            "order": swap_order(base),
            "motion": reverse_motion(base, self.rng.choice((i, j))),
            "binding": swapped,
        }
        return [self._anew(v, kind, number) for kind, v in changed.items()]  # type: ignore[arg-type]

    def seed(self) -> int:
        """Draw the seed of one look."""
        return self.rng.randrange(1 << 30)

    def _clean(self, base: Video, swapped: Video) -> bool:
        i, j = base.pair
        a, b = base.scenes[i].thing, base.scenes[j].thing
        looks = [s.thing.look for s in swapped.scenes]
        return (
            a.shape != b.shape
            and a.colour != b.colour
            and len(set(looks)) == len(looks)
            and self._banned.isdisjoint(looks)
            and all(s.bystander is None or s.bystander.look not in looks for s in swapped.scenes)
        )

    def _anew(self, video: Video, kind: Kind, family: int) -> Video:
        scenes = tuple(dataclasses.replace(s, seed=self.seed()) for s in video.scenes)
        return Video(scenes, video.pair, kind, family)


def possible(shape: str, action: str) -> bool:
    """Whether the action can be seen on the shape."""
    return not (action == "spin" and shape in TURNS_UNSEEN)


def swap_order(video: Video) -> Video:
    """Exchange the two named scenes."""
    scenes = list(video.scenes)
    i, j = video.pair
    scenes[i], scenes[j] = scenes[j], scenes[i]
    return dataclasses.replace(video, scenes=tuple(scenes))


def reverse_motion(video: Video, scene: int) -> Video:
    """Turn one scene's motion round: left becomes right, growing becomes shrinking."""
    scenes = list(video.scenes)
    scenes[scene] = dataclasses.replace(scenes[scene], action=REVERSED[scenes[scene].action])
    return dataclasses.replace(video, scenes=tuple(scenes))


def swap_colours(video: Video) -> Video:
    """Exchange the colours of the two named things; each keeps its shape, texture and action."""
    scenes = list(video.scenes)
    i, j = video.pair
    for k, other in ((i, j), (j, i)):
        colour = video.scenes[other].thing.colour
        scenes[k] = dataclasses.replace(scenes[k], thing=dataclasses.replace(scenes[k].thing, colour=colour))
    return dataclasses.replace(video, scenes=tuple(scenes))


class _Unique:
    """A growing split in which no caption is true of two videos."""

    def __init__(self) -> None:
        self.videos: list[Video] = []
        self._shown: set = set()  # ordered pairs of events that some video shows
        self._named: set = set()  # ordered pairs that some caption names

    def add(self, videos: list[Video]) -> bool:
        """Add all of `videos`, or none and return False if a caption would become ambiguous."""
        for v in videos:
            others = set().union(*(w.events() for w in videos if w is not v))
            if v.named() in self._shown or v.named() in others or not self._named.isdisjoint(v.events()):
                return False
        self.videos += videos
        for v in videos:
            self._shown |= v.events()
            self._named.add(v.named())
        return True
