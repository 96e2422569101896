"""Pixels of the toy world: numpy only.

A scene is `SCENE_FRAMES` frames. Motions are stop-motion with three poses, held for `HELD`: first, middle, last. That
is not a matter of taste. The sampler takes frame floor((i + 1/2) n / 12) of n = 16, 24 or 32 frames, that is frames
{0 2 3 4 6 7}, {1 3 5 7} or {1 4 6} of each scene. With evenly spaced poses the end of a motion is seen more often than
its beginning, a hint that a scorer blind to order could use. Asking that each of the three sets shows a motion and its
reverse in the same poses leaves exactly one monotone schedule: three poses, held for 3, 3 and 2 frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np

from tvr_cli.data.demo_world.grammar import Scene, Thing, Video

SIZE = 96  # pixels, width and height
SCENE_FRAMES = 8
FPS = 8
HELD = (0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 1.0, 1.0)  # how far a motion is, in each frame of a scene

RGB = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "cyan": (50, 210, 220),
    "white": (245, 245, 245),
}
_DARK = 0.25  # brightness of the gaps of a texture


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a thing is, in fractions of the image (y points down), its radius, its turn in radians, and if it shows."""

    x: float
    y: float
    radius: float
    turn: float
    visible: bool = True


def video_frames(video: Video, size: int = SIZE) -> list[np.ndarray]:
    """Draw every frame of a video, [size, size, 3] uint8 each."""
    return [frame for scene in video.scenes for frame in scene_frames(scene, size)]


def scene_frames(scene: Scene, size: int = SIZE, at: tuple[int, ...] = tuple(range(SCENE_FRAMES))) -> list[np.ndarray]:
    """Draw frames `at` of a scene; equal poses are drawn once."""
    look = _Look(scene.seed)
    drawn: dict[Pose, np.ndarray] = {}
    stage: np.ndarray | None = None
    frames = []
    for k in at:
        pose = look.pose(scene.action, k)
        if pose not in drawn:
            if stage is None:
                stage = _stage(look, scene.bystander, size)
            image = stage.copy()
            if pose.visible:
                paint(image, scene.thing, pose)
            drawn[pose] = np.clip(image, 0, 255).astype(np.uint8)
        frames.append(drawn[pose])
    return frames


def pose(scene: Scene, k: int) -> Pose:
    """Return where the scene's thing is in frame `k`."""
    return _Look(scene.seed).pose(scene.action, k)


def paint(image: np.ndarray, thing: Thing, pose: Pose) -> None:
    """Draw a thing into image, [S, S, 3] float32, with smooth edges."""
    size = len(image)
    reach = 1.25 * pose.radius
    x0, x1 = max(0, int((pose.x - reach) * size)), min(size, int((pose.x + reach) * size) + 1)
    y0, y1 = max(0, int((pose.y - reach) * size)), min(size, int((pose.y + reach) * size) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    grid = _grid(size)
    dx, dy = (grid[None, x0:x1] - pose.x) / pose.radius, (grid[y0:y1, None] - pose.y) / pose.radius
    cos, sin = math.cos(pose.turn), math.sin(pose.turn)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx  # the thing's own axes, in radii
    cover = np.clip(0.5 - outside(thing.shape, u, v) * pose.radius * size, 0, 1)[..., None]
    colour = np.array(RGB[thing.colour], np.float32) * _brightness(thing.texture, u, v)[..., None]
    image[y0:y1, x0:x1] += (colour - image[y0:y1, x0:x1]) * cover


def outside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return roughly how far points are outside a shape of radius one (negative inside). u: right, v: down."""
    a, b = np.abs(u), np.abs(v)
    if shape == "circle":
        return np.hypot(u, v) - 1
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.78) - 0.22
    if shape == "square":
        return np.maximum(a, b) - 0.84
    if shape == "diamond":
        return (a / 0.76 + b / 1.08 - 1) * 0.62
    if shape == "cross":
        return np.maximum(np.minimum(a, b) - 0.32, np.maximum(a, b) - 0.98)
    if shape == "triangle":  # three half planes, one corner up
        return np.maximum(v - 0.62, 0.87 * a - 0.5 * v - 0.53)
    if shape == "star":
        return _star(u, v)
    if shape == "heart":  # a square on its corner, with a disc on each upper side
        h = 0.78
        corner = (a + np.abs(v - 0.1) - h) / math.sqrt(2)
        return np.minimum(corner, np.hypot(a - h / 2, v - 0.1 + h / 2) - h / math.sqrt(2))
    raise ValueError(f"unknown shape {shape!r}")


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five points, one up: fold the plane into half a point, then measure from its edge, tip to valley."""
    step = 2 * math.pi / 5
    angle = np.arctan2(u, -v)
    angle = np.abs(angle - step * np.round(angle / step))
    r = np.hypot(u, v)
    x, y = r * np.cos(angle), r * np.sin(angle)
    tip, valley = 1.08, 0.46
    ex, ey = valley * math.cos(step / 2) - tip, valley * math.sin(step / 2)
    return (ey * (x - tip) - ex * y) / math.hypot(ex, ey)


def _brightness(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    if texture == "striped":
        return np.where(np.sin(9 * u) > 0, 1, _DARK) + 0 * v
    if texture == "dotted":
        hole = ((2.6 * u) % 1 - 0.5) ** 2 + ((2.6 * v) % 1 - 0.5) ** 2 < 0.075
        return np.where(hole, _DARK, 1)
    return np.ones(np.broadcast_shapes(u.shape, v.shape))


class _Look:
    """What a scene's seed decides: background, places, sizes. Places are spread evenly round the middle."""

    def __init__(self, seed: int):
        rng = Random(seed)
        self.base = [rng.uniform(15, 110) for _ in range(3)]
        self.slope = rng.uniform(-40, 40), rng.uniform(-40, 40)
        self.grain = [rng.uniform(-18, 18) for _ in range(64)] if rng.random() < 0.5 else None
        self.x, self.y = rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65)
        self.radius, self.turn = rng.uniform(0.15, 0.21), rng.uniform(-0.3, 0.3)
        self.low, self.high = rng.uniform(0.16, 0.28), rng.uniform(0.72, 0.84)  # ends of a motion
        self.phase = rng.choice((0, 1))  # of blinking
        corner = rng.choice((0.14, 0.86)), rng.choice((0.14, 0.86))
        self.bystander = Pose(*corner, rng.uniform(0.09, 0.12), rng.uniform(-0.3, 0.3))

    def pose(self, action: str, k: int) -> Pose:
        """Return the pose in frame `k` of the scene."""
        done = HELD[k]
        forth = self.low + (self.high - self.low) * done
        back = self.high + (self.low - self.high) * done
        x, y, radius, turn = self.x, self.y, self.radius, self.turn
        if action in ("right", "left"):
            x = forth if action == "right" else back
        elif action in ("down", "up"):
            y = forth if action == "down" else back
        elif action in ("grow", "shrink"):
            radius = 0.10 + 0.20 * (done if action == "grow" else 1 - done)
        elif action == "spin":
            turn += 1.5 * math.pi * k / (SCENE_FRAMES - 1)
        return Pose(x, y, radius, turn, visible=action != "blink" or (k // 2) % 2 == self.phase)


def _stage(look: _Look, bystander: Thing | None, size: int) -> np.ndarray:
    """Draw the background and the bystander, [S, S, 3] float32."""
    grid = _grid(size) - 0.5
    shade = look.slope[0] * grid[None, :] + look.slope[1] * grid[:, None]  # [S, S]
    if look.grain is not None:
        cell = (np.arange(size) * 8) // size
        shade = shade + np.array(look.grain, np.float32).reshape(8, 8)[np.ix_(cell, cell)]
    image = (np.array(look.base, np.float32) + shade[..., None]).astype(np.float32)
    if bystander is not None:
        paint(image, bystander, look.bystander)
    return image


@cache
def _grid(size: int) -> np.ndarray:
    """Centres of `size` pixels, as fractions of the image."""
    return (np.arange(size, dtype=np.float32) + 0.5) / size
