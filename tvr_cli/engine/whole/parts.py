"""Many jobs on one corpus: the list of parts, and one part from its videos to its features.

A part is a workspace of its own, with one writer, on any disk; `merge.py` joins them. Slurm, GNU parallel and
Kubernetes run a part by the commands, Ray (`ray_runner.py`) by the functions here (docs/scale.md).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvr_cli import log
from tvr_cli.engine.extraction import extract, part_list
from tvr_cli.engine.extraction.extract import ExtractOptions, ExtractReport, FailedVideo
from tvr_cli.engine.extraction.naming import name_videos
from tvr_cli.engine.extraction.part_list import PartListReport
from tvr_cli.engine.features import precompute
from tvr_cli.engine.features.precompute import PrecomputeReport
from tvr_cli.engine.whole.merge import merge
from tvr_cli.errors import ConfigError, DataError, PartialFailure, TvrError
from tvr_cli.plans import FramePlan, PrecomputeOptions
from tvr_cli.stores.frames.writer import FrameWriter, require_own
from tvr_cli.types import Manifest
from tvr_cli.workspace import Workspace

_ATTEMPTS = 3  # of a part whose process dies: a file that takes all memory does it every time


@dataclass(frozen=True, slots=True)
class PartRow:
    """What a part gave. done: videos read, or clips encoded, now; kept: that were there. error: why it did not end."""

    part: int
    done: int = 0
    kept: int = 0
    clips: int = 0
    frames: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    error: str | None = None


# A part's number to what it gave: what runs anywhere. Runs of a pool take one for each part, in any order; each takes
# processors and GPUs, None = one where the pool has any.
Job = Callable[[int], PartRow]
Pool = Callable[[Job, Sequence[int], float, float | None], list[PartRow]]


@dataclass(frozen=True)
class ExtractJob:
    """Reads a part of a list into its own workspace below `root`."""

    root: Path
    listed: Path
    of: int
    plan: FramePlan
    options: ExtractOptions

    def __call__(self, part: int) -> PartRow:
        def run(workspace: Workspace) -> PartRow:
            options = dataclasses.replace(self.options, shard=(part, self.of))
            found = extract.extract([self.listed], workspace, self.plan, options)
            return PartRow(part, found.ok, found.kept, found.clips, found.frames, found.size_bytes)

        return attempted(Workspace(self.root).part(part, self.of), part, run)


@dataclass(frozen=True)
class EncodeJob:
    """Encodes the clips of a part in its own workspace below `root`."""

    root: Path
    of: int
    backbone: str | None
    options: PrecomputeOptions

    def __call__(self, part: int) -> PartRow:
        def run(workspace: Workspace) -> PartRow:
            options = dataclasses.replace(self.options, shard=(part, self.of))
            found = precompute.precompute(workspace, self.backbone, None, options)
            return PartRow(part, found.clips.encoded, found.clips.kept, found.clips.total, 0, found.size_bytes)

        return attempted(Workspace(self.root).part(part, self.of), part, run)


def attempted(workspace: Workspace, part: int, run: Callable[[Workspace], PartRow]) -> PartRow:
    """Run a part, unless its process died three times; what it cannot do is a row, and no error of the others."""
    started = time.monotonic()
    begun = workspace.attempts.stat().st_size if workspace.attempts.is_file() else 0
    if begun >= _ATTEMPTS:
        workspace.attempts.unlink()  # who runs it again has a reason
        return PartRow(part, error=f"its process died {_ATTEMPTS} times; it is given up")
    workspace.root.mkdir(parents=True, exist_ok=True)
    with open(workspace.attempts, "ab") as f:  # a byte an attempt: nothing else survives a kill
        f.write(b".")
    try:
        row = run(workspace)
    except TvrError as e:
        row = PartRow(part, error=str(e))
    workspace.attempts.unlink(missing_ok=True)
    return dataclasses.replace(row, seconds=time.monotonic() - started)


def extract_parts(
    sources: Sequence[Path] | Manifest, workspace: Workspace, plan: FramePlan, options: ExtractOptions, pool: Pool
) -> ExtractReport:
    """Read every part of a list of parts in a pool, each into its own workspace, and merge them.

    Raises as `extract.extract` and `merge`, ConfigError where the sources are no list of parts, PartialFailure, when
    the others are merged, for parts that did not end.
    """
    started = time.monotonic()
    listed = part_list.find(sources)
    if listed is None or isinstance(sources, Manifest):
        raise ConfigError("--engine ray reads a list of parts: write it with --plan-parts N, and name it as VIDEOS")
    plan.check()
    of = len(listed.parts)
    job = ExtractJob(workspace.root.resolve(), listed.path.resolve(), of, plan, options)
    rows = pool(job, range(1, of + 1), options.workers or 1, 0.0)
    _merged(rows, workspace, of)
    store = workspace.frames()
    failures = [FailedVideo(f["video"], f["reason"]) for f in store.failures()]
    ok, kept = sum(row.done for row in rows), sum(row.kept for row in rows)
    return ExtractReport(
        videos=ok + kept + len(failures),
        ok=ok,
        kept=kept,
        failed=len(failures),
        frames=sum(row.frames for row in rows),
        seconds=time.monotonic() - started,
        failures=failures,
        clips=sum(row.clips for row in rows),
        size_bytes=sum(row.size_bytes for row in rows),
        renamed=0,
        forgotten=0,
        unreachable=[],
        notes=[],
        workspace=workspace.root,
    )


def encode_parts(
    workspace: Workspace, backbone: str | None, captions: precompute.Captions, options: PrecomputeOptions, pool: Pool
) -> PrecomputeReport:
    """Encode the parts below a workspace in a pool, merge them, and then the captions, here.

    Raises as `precompute` and `merge`, DataError without parts, PartialFailure for parts that did not end.
    """
    there = workspace.parts_below()
    if not there:
        raise DataError(
            f"expected parts in {str(workspace.parts_folder)!r}, found none; --engine ray encodes what "
            "extract-frames --engine ray read"
        )
    of = there[0][1]
    gpus = None if options.device == "auto" else 1.0 if options.device.startswith("cuda") else 0.0
    rows = pool(EncodeJob(workspace.root.resolve(), of, backbone, options), [i for i, _ in there], 1.0, gpus)
    _merged(rows, workspace, of)
    return precompute.precompute(workspace, backbone, captions, options)


def _merged(rows: Sequence[PartRow], workspace: Workspace, of: int) -> None:
    """Merge the parts that ended. Raises PartialFailure, naming the others, when that is done."""
    ended = sorted(row.part for row in rows if row.error is None)
    for row in sorted(rows, key=lambda row: row.part):
        log.logger.debug("part %d of %d: %d done, %d kept, %.1f s", row.part, of, row.done, row.kept, row.seconds)
    if ended:
        merge([workspace.part(part, of).root for part in ended], workspace)
    if lost := [row for row in rows if row.error is not None]:
        said = "; ".join(f"part {row.part} of {of}: {row.error}" for row in sorted(lost, key=lambda row: row.part))
        raise PartialFailure(
            f"{len(ended)} of {of} parts are merged, {len(lost)} did not end: {said}; the same command runs them again"
        )


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
