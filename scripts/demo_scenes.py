"""What `train_demo_backbone.py` learns from: scenes of the toy world, drawn once and combined into many clips.

A clip is two scenes of two frames each. Every second clip is a near copy of the one before it (`twin`). Nothing here
reads a file of the demo corpus, and no shape-colour pair of its test split is drawn.
"""

from __future__ import annotations

import dataclasses
import io
from collections import defaultdict
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tvr_cli.data.demo_world import grammar, render
from tvr_cli.data.demo_world.grammar import ACTIONS, COLOURS, SHAPES, TEXTURES, Scene, Video

IMAGE = 64  # pixels, the backbone's input
SHOWN = (1, 4, 7)  # frames of a scene that training sees: one of each pose
PAIRS = ((0, 2), (0, 2), (0, 2), (0, 1), (1, 2))  # which two of the three, in order


@dataclasses.dataclass(frozen=True)
class Shot:
    """A drawn scene and its three poses, [3, S, S, 3] uint8."""

    scene: Scene
    frames: np.ndarray
    labels: np.ndarray  # [3, 7]: shape, colour, texture, visible, x, y, radius


class Pool:
    """Scenes drawn once and combined into many clips."""

    def __init__(self, seed: int, n: int):
        draw = grammar.Draw(seed, unseen_pairs=False)
        worn = Random(seed)
        self.shots = [shoot(draw.scene([]), worn) for _ in range(n)]
        self._by_event: dict[tuple, list[Shot]] = defaultdict(list)
        for shot in self.shots:
            self._by_event[shot.scene.thing, shot.scene.action].append(shot)

    def any(self, rng: Random, others: list[Shot]) -> Shot:
        """Pick a shot of a thing that none of `others` shows."""
        while True:
            shot = rng.choice(self.shots)
            if all(shot.scene.thing.look != o.scene.thing.look for o in others):
                return shot

    def like(self, rng: Random, scene: Scene) -> Shot | None:
        """Pick a shot of the same event, if there is one."""
        found = self._by_event.get((scene.thing, scene.action))
        return rng.choice(found) if found else None


def shoot(scene: Scene, rng: Random) -> Shot:
    """Draw a scene as the pipeline will see it: compressed, then shrunk to the backbone's input."""
    frames, labels = [], []
    thing = scene.thing
    for k, image in zip(SHOWN, render.scene_frames(scene, at=SHOWN), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=rng.randint(55, 90))  # stands for H.264 and the frame store
        frames.append(np.asarray(Image.open(buffer).resize((IMAGE, IMAGE), Image.Resampling.BICUBIC)))
        pose = render.pose(scene, k)
        place = ((pose.x - 0.5) * 4, (pose.y - 0.5) * 4, (pose.radius - 0.18) * 12)
        what = SHAPES.index(thing.shape), COLOURS.index(thing.colour), TEXTURES.index(thing.texture), pose.visible
        labels.append((*what, *place))
    return Shot(scene, np.stack(frames), np.array(labels, np.float32))


def reverse(shot: Shot) -> Shot:
    """Run a motion backwards: the same pictures in the other order are the reversed action."""
    scene = dataclasses.replace(shot.scene, action=grammar.REVERSED[shot.scene.action])
    return Shot(scene, shot.frames[::-1], shot.labels[::-1])


def twin(rng: Random, pool: Pool, clip: list[Shot]) -> tuple[list[Shot], bool]:
    """Return a near copy of a clip, and whether only order or motion tells the two apart."""
    kind = rng.choice(("order", "order", "motion", "motion", "colours"))
    a, b = clip
    if kind == "order":
        return [pool.like(rng, b.scene) or b, pool.like(rng, a.scene) or a], True
    turnable = [k for k in (0, 1) if clip[k].scene.action in grammar.REVERSED]
    if kind == "motion" and turnable:
        k = rng.choice(turnable)
        changed = list(clip)
        changed[k] = reverse(pool.like(rng, clip[k].scene) or clip[k])
        return changed, True
    if a.scene.thing.shape != b.scene.thing.shape and a.scene.thing.colour != b.scene.thing.colour:
        video = grammar.swap_colours(Video((a.scene, b.scene), (0, 1)))
        found = [pool.like(rng, s) for s in video.scenes]
        if found[0] is not None and found[1] is not None:
            return [found[0], found[1]], False
    first = pool.any(rng, [])
    return [first, pool.any(rng, [first])], False


@dataclasses.dataclass(frozen=True)
class ClipBatch:
    """frames: [N, 4, S, S, 3] uint8. labels: [N, 4, 7]. names: of each clip's first thing. says: [N, 6] int64.
    twins: [N/2] bool, whether only order or motion tells clip 2i and clip 2i + 1 apart."""

    frames: Tensor
    labels: Tensor
    captions: list[str]
    names: list[str]
    says: Tensor
    twins: Tensor


def clip_batch(rng: Random, pool: Pool, n: int) -> ClipBatch:
    """Draw n clips of two scenes, every second one a twin of the one before it."""
    frames, labels, captions, names, says, twins = [], [], [], [], [], []
    for _ in range(n // 2):
        first = pool.any(rng, [])
        clip = [first, pool.any(rng, [first])]
        other, ambiguous = twin(rng, pool, clip)
        twins.append(ambiguous)
        for shots in (clip, other):
            shown = [list(rng.choice(PAIRS)) for _ in shots]
            frames.append(np.concatenate([s.frames[at] for s, at in zip(shots, shown, strict=True)]))
            labels.append(np.concatenate([s.labels[at] for s, at in zip(shots, shown, strict=True)]))
            video = Video((shots[0].scene, shots[1].scene), (0, 1))
            captions.append(grammar.caption(rng, video))
            names.append(grammar.noun_phrase(rng, shots[0].scene.thing))
            says.append(said(video))
    return ClipBatch(
        torch.from_numpy(np.stack(frames)),
        torch.from_numpy(np.stack(labels)),
        captions,
        names,
        torch.tensor(says),
        torch.tensor(twins),
    )


def said(video: Video) -> list[int]:
    """Return what a caption of the video says: (action, shape, colour) of the first and of the second event."""
    events = [video.scenes[k] for k in video.pair]
    actions = [ACTIONS.index(s.action) for s in events]
    shapes = [SHAPES.index(s.thing.shape) for s in events]
    return [*actions, *shapes, *(COLOURS.index(s.thing.colour) for s in events)]
