"""Backbones of open_clip: CLIP and its relatives, towers as open_clip builds them, features as we need them.

backbone.py       the class: towers, frames, parameters
source.py         from a name to configuration, weights file, pixel statistics, tokenizer
weights.py        files of weights: finding, downloading, reading
text.py           pooled and token features of captions of any length; tokenizer.py: captions to ids
pixels.py         pixels into a tower; temporal_shift.py: EagleNet's shift of patches between frames
export.py         writing a folder that open_clip, and `local:FOLDER`, load again
"""

from __future__ import annotations

from tvr_cli.backbones.openclip.backbone import OpenClipBackbone, build

__all__ = ["PACKAGE", "Backbone", "OpenClipBackbone", "build"]

PACKAGE = "open_clip_torch"
Backbone = OpenClipBackbone
