"""How much a picture differs from another, by means over 16 x 16 cells of grey; which frames a timeline keeps.

The largest difference of a cell tells whether a frame shows something else than one before it (a slide's new line is in
few cells); the median one, whether all of the picture changed at once, as it does at a cut.

Of a file that is looked at more often than its frames are to be kept (`FramePlan.detail`), a frame is kept that shows
something new, and

- is due: the last one that was due is 1 / fps seconds before it, or
- is the first one behind a cut; then the next is due in twice the time, for short shots cost enough, or
- is paid for: by and by some more frames may be kept, and what a still picture leaves over is saved for the moment when
  something happens in it. Where all moves all the time (a camera does, for minutes) there is little to spend, and
  little to be seen that a frame a second does not show. Where cuts follow each other fast they spend it, too.

What is paid for puts off nothing: of a thing that comes and goes, its end is seen as soon as it would be without.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

CELLS = 16
HARD = 4.0  # of 255 levels of grey: a larger median difference may be a cut
STANDS_OUT = 2.5  # times what is usual around it, if it is one: a camera that moves changes all of a picture, too
USUAL_S = 1.0  # before and after a frame, in which what is usual is looked for
_SAVED_S = 2.0  # at the finer rate, that may be saved; at the beginning all is there
_MORE = 0.125  # of `fps`: frames a second that may be kept besides those that are due
_AFTER_CUT = 2.0  # times 1 / fps, until a frame is due again


def grey(pixels: np.ndarray) -> np.ndarray:
    """Return the mean grey of each cell [256] float32, 0 to 255, of a picture [H, W, 3] uint8."""
    from PIL import Image

    image = Image.fromarray(pixels).convert("L").resize((CELLS, CELLS), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32).ravel()


class Thinning:
    """Decides frame by frame which ones a timeline keeps. fps, alike, detail: as in `FramePlan`."""

    def __init__(self, alike: float | None, fps: float = 1.0, detail: float | None = None):
        self._alike = alike
        self._sparing = None if detail is None else _Sparing(fps, detail)
        self._kept: np.ndarray | None = None  # the last frame kept
        self._before: np.ndarray | None = None  # the last frame seen

    def take(self, pixels: np.ndarray, at: float) -> tuple[bool, float]:
        """Return whether the next frame, `at` seconds, is kept, and the median difference of its cells from the frame
        before it. The first frame differs from nothing: NaN.
        """
        now = grey(pixels)
        change = float("nan") if self._before is None else float(np.median(np.abs(now - self._before)))
        keeps = self._kept is None or self._alike is None or float(np.abs(now - self._kept).max()) > self._alike
        if self._sparing is not None:
            keeps = self._sparing.keeps(at, change, keeps)
        self._before = now
        if keeps:
            self._kept = now
        return keeps, change

    def go_on(self, seen: Iterable[tuple[float, float, bool]]) -> None:
        """Take up what an earlier reading decided: seconds, change, and whether it was kept, of each frame it saw.

        `see_again` has to be given the last one that was kept, and the last one.
        """
        if self._sparing is not None:
            for at, change, kept in seen:
                self._sparing.keeps(at, change, kept)

    def see_again(self, pixels: np.ndarray, kept: bool) -> None:
        """Look at a frame about which an earlier reading has decided."""
        self._before = grey(pixels)
        if kept:
            self._kept = self._before


class _Sparing:
    """Says of frames that show something new which of them are kept, where not all are."""

    def __init__(self, fps: float, detail: float):
        self._step, self._slack = 1 / fps, 0.5 / detail  # a look is as late as the frame rate of the file has it
        self._most, self._a_second = _SAVED_S * detail, _MORE * fps
        self._saved = self._most
        self._due_at: float | None = None
        self._seen_at = 0.0
        self._lately: deque[float] = deque(maxlen=max(1, round(USUAL_S * detail)))

    def keeps(self, at: float, change: float, new: bool) -> bool:
        """Return whether a frame is kept. change: as `Thinning.take` returns it. new: whether it shows something new.

        What was decided before follows from the changes and what was kept: a frame that was not counts as not new.
        """
        if self._due_at is None:
            self._seen_at, self._due_at = at, at + self._step
            return True
        self._saved = min(self._most, self._saved + (at - self._seen_at) * self._a_second)
        usual = sorted(self._lately)[len(self._lately) // 2] if self._lately else 0.0
        self._lately.append(change)
        self._seen_at = at
        due = at >= self._due_at - self._slack
        cut = change > HARD and change > STANDS_OUT * usual
        if not new or not (due or cut or self._saved >= 1):
            return False
        if not due:
            self._saved = max(0.0, self._saved - 1)
        if due or cut:
            self._due_at = at + self._step * (_AFTER_CUT if cut else 1.0)
        return True


def largest_cuts(at: Sequence[float], change: Sequence[float], kept: Sequence[bool]) -> list[float]:
    """Return for each frame kept the largest change since the one kept before it, of those that may be cuts; else 0.

    at: [n] seconds, ascending, change: [n] and kept: [n] of all frames that were looked at. Of a file that is kept
    sparingly the frames left out changed something as well, so which changes stand out is decided here, where they are
    known. The first frame's is NaN.
    """
    ts, changed = np.array(at), np.nan_to_num(np.array(change), nan=0.0)
    found, largest = list[float](), 0.0
    for i, keeps in enumerate(kept):
        if changed[i] > HARD:
            first, last = np.searchsorted(ts, [ts[i] - USUAL_S - 1e-3, ts[i] + USUAL_S + 1e-3])
            around = np.delete(changed[first:last], i - first)
            usual = float(np.median(around)) if len(around) else 0.0
            if changed[i] > STANDS_OUT * usual:
                largest = max(largest, float(changed[i]))
        if keeps:
            found.append(largest if found else float("nan"))
            largest = 0.0
    return found
