"""Many jobs on one corpus: the list of parts, and one part from its videos to its features.

A part is a workspace of its own, with one writer, on any disk; `merge.py` joins them. Slurm, GNU parallel, Kubernetes
and Ray all run a part by the same commands or the same function (docs/scale.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tvr_cli.engine.extraction import extract, part_list
from tvr_cli.engine.extraction.extract import ExtractOptions
from tvr_cli.engine.extraction.naming import name_videos
from tvr_cli.engine.extraction.part_list import PartListReport
from tvr_cli.errors import ConfigError
from tvr_cli.stores.frames.writer import FrameWriter, require_own
from tvr_cli.types import Manifest
from tvr_cli.workspace import Workspace


def plan_parts(
    sources: Sequence[Path] | Manifest, workspace: Workspace, n: int, options: ExtractOptions, *, dry_run: bool = False
) -> PartListReport:
    """Write the list of parts of a workspace, `parts.jsonl`: which videos each of n jobs reads.

    Ids are those that an extraction of all sources into this workspace would give. Raises as `extract.select` does, and
    ConfigError for more parts than files.
    """
    if part_list.find(sources) is not None:
        raise ConfigError("--plan-parts takes videos, found a list of parts; name the folder that it was made of")
    selection, root = extract.select(sources, options), workspace.frames_folder
    require_own(root, workspace)
    writer = FrameWriter(root, workspace) if workspace.has_frames else None
    clips, failures, roots = (writer.clips(), writer.failures(), writer.roots) if writer else ([], {}, {})
    selection, prefixes = name_videos(selection, clips, failures.values(), roots)
    decided = dataclasses.replace(selection, prefixes=prefixes)
    return part_list.write(decided, workspace, n, segment=options.segment, dry_run=dry_run)
