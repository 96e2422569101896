"""Which frames of a clip are kept, from what was asked for and a data set's own plan. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from tvr_cli.config import FramesConfig
from tvr_cli.errors import ConfigError
from tvr_cli.types import FramePlan

_FRAMES, _SIZE = 12, 224


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedFrames:
    """The flags that choose frames; None where one was not given."""

    num_frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    size: int | None = None
    quality: int = 90

    def plan(self, preset: FramesConfig | None = None) -> FramePlan:
        """Return the plan. preset: the data set's own, which holds where no flag says otherwise.

        Raises ConfigError for flags that exclude each other. Whether values are possible is for `extract.check_plan`.
        """
        if self.num_frames is not None and self.fps is not None:
            raise ConfigError("--num-frames and --fps are two ways to choose frames; give one of them")
        num_frames, fps, max_frames, size = self.num_frames, self.fps, self.max_frames, self.size
        if preset is not None and size is None:
            size = preset.size
        if preset is not None and num_frames is None and fps is None:
            num_frames = preset.num_frames
            if preset.kind == "fps":
                num_frames, fps = None, preset.fps
                max_frames = max_frames if max_frames is not None else preset.max_frames
        size = size if size is not None else _SIZE
        if fps is not None:
            return FramePlan("fps", fps=fps, max_frames=max_frames, size=size, quality=self.quality)
        if max_frames is not None:
            raise ConfigError("--max-frames goes with --fps; use --num-frames for frames spread evenly over the clip")
        num_frames = num_frames if num_frames is not None else _FRAMES
        return FramePlan("uniform", num_frames=num_frames, size=size, quality=self.quality)
