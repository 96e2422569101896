"""How long a backbone takes a frame on this machine. Values do not matter for that, so no weights need be here."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tvr_cli.backbones import registry
from tvr_cli.errors import ConfigError

_FRAMES, _TRIES = 4, 2


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one frame takes on this machine, in fp32. wall_s: by the clock. processor_s: of all threads together."""

    wall_s: float
    processor_s: float
    threads: int
    frames: int


def speed_of(name: str) -> Speed:
    """Encode a few frames on the processor, as `precompute-features` does, and take the fastest of two tries.

    Raises ConfigError for a backbone that yields no frames.
    """
    import torch

    from tvr_cli.engine.features.fast_linear import use_fast_linear

    about = registry.resolve(name)
    if "frames" not in about.provides:
        raise ConfigError(f"the backbone {name!r} yields no vector a frame, so there is no time a frame to measure")
    model = registry.skeleton(about).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.normal_(std=0.02, generator=generator)
        for buffer in model.buffers():
            buffer.zero_()
    model.merge_for_inference()
    use_fast_linear(model)
    side = about.image_size
    pixels = torch.randint(0, 256, (1, _FRAMES, 3, side, side), dtype=torch.uint8, generator=generator)
    real = torch.ones(1, _FRAMES, dtype=torch.bool)
    wall, processor = [], []
    with torch.inference_mode():
        model.encode_frames(pixels[:, :1], real[:, :1])  # what is set up once
        for _ in range(_TRIES):
            started, spent = time.perf_counter(), time.process_time()
            model.encode_frames(pixels, real)
            wall.append((time.perf_counter() - started) / _FRAMES)
            processor.append((time.process_time() - spent) / _FRAMES)
    return Speed(wall_s=min(wall), processor_s=min(processor), threads=torch.get_num_threads(), frames=_FRAMES)
