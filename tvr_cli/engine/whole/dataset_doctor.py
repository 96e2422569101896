"""The doctor of data sets: what is there, what is missing, what is suspicious, and the exact next command."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tvr_cli import commands, data, log
from tvr_cli.data.annotation_files import VideoFiles, empty_captions, optional_file, video_stem
from tvr_cli.data.registry import DataSet, shipped, split_spec
from tvr_cli.engine.whole.probing import Check, probe_videos
from tvr_cli.errors import DataError
from tvr_cli.types import SPLITS, Manifest

_SHOWN = 5
_SLACK_S = 3.0  # between the length of a file and that of its id; half of the latter where that is more


def dataset_checks(spec: str, *, deep: bool = False) -> list[Check]:
    """Check a data set named as NAME:ROOT[:VARIANT].

    When the annotations cannot be read, the checks are about their files alone. deep: decode videos.
    Raises ConfigError for an unknown name, DataError when the root does not exist.
    """
    name, root, variant = split_spec(spec)
    about = data.find(name)
    if not root.exists():
        raise DataError(f"expected the data set {name} at {str(root)!r}, found nothing there")
    try:
        manifest = data.read(spec)
    except DataError as e:
        fix = "see docs/datasets.md for the files that are accepted"
        return [Check("annotations", False, str(e), fix, incomplete=True), *_annotation_files(about, root, variant)]
    checks = [_annotations(manifest), *_counts(about, manifest), _missing(manifest), _unused(manifest)]
    checks += [_duplicate_files(manifest), _rivals(manifest), _empty_files(manifest)]
    checks += [_empty_captions(manifest), _repeated_captions(manifest)]
    checks += [Check("note", True, note) for note in manifest.notes]
    if deep:
        checks += _decoded(about, manifest)
    return [*checks, _next(spec, manifest, checks)]


def recognise(root: Path) -> str | None:
    """Return the name of the shipped data set whose annotation files lie below a folder, or None.

    All of them, or one with a name that no other data has: a newcomer's folder is not complete yet.
    """
    for name in shipped():  # nobody else's code runs for a mere folder
        about = data.find(name)
        groups = about.wanted(root)
        found = [path.name for group in groups if (path := optional_file(root, *group)) is not None]
        if found and (len(found) == len(groups) or any(file not in about.ordinary for file in found)):
            return name
    return None


def _annotation_files(about: DataSet, root: Path, variant: str | None) -> list[Check]:
    """Look for each annotation file, saying the names that it may have."""
    checks = []
    for group in about.wanted(root, variant):
        found = optional_file(root, *group)
        others = f"; also accepted: {', '.join(group[1:])}" if group[1:] else ""
        detail = str(found) if found else f"not below {str(root)!r}{others}"
        checks.append(Check(f"file {group[0]}", found is not None, detail, incomplete=True))
    return checks


def _annotations(manifest: Manifest) -> Check:
    variant = f", variant {manifest.variant}" if manifest.variant else ""
    files = ", ".join(p.name for p in manifest.annotations)
    return Check("annotations", True, f"{manifest.name}{variant}: read {files}")


def _counts(about: DataSet, manifest: Manifest) -> list[Check]:
    """Compare videos and captions of each split with the official numbers."""
    checks = []
    sizes = about.sizes(manifest.variant)
    captions = Counter(c.split for c in manifest.captions)
    videos: dict[str | None, set[str]] = defaultdict(set)
    for caption in manifest.captions:
        videos[caption.split].add(caption.video)
    for split in SPLITS:
        if not captions[split] and split not in sizes:
            continue
        found = f"{len(videos[split])} videos, {captions[split]} captions"
        wanted = sizes.get(split)
        if wanted is None:
            checks.append(Check(f"split {split}", True, found))
            continue
        right = wanted.videos in (None, len(videos[split])) and wanted.captions in (None, captions[split])
        expected = f"{wanted.videos or 'unknown'} videos, {wanted.captions or 'unknown'} captions"
        fix = "" if right else f"the official numbers are {expected}; get the split and caption files again"
        checks.append(Check(f"split {split}", right, found, fix, incomplete=True))
    return checks


def _missing(manifest: Manifest) -> Check:
    n, total = len(manifest.missing), len(manifest.missing) + len(manifest.clips)
    if not n:
        return Check("videos", True, f"all {total} videos have a file")
    split_of = {c.video: c.split for c in manifest.captions}
    by_split = Counter(split_of.get(v) for v in manifest.missing)
    where = ", ".join(f"{by_split[s]} of {s}" for s in SPLITS if by_split[s])
    fix = "a smaller gallery makes every recall higher; complete the videos, or evaluate with --allow-missing"
    return Check(
        "videos", False, f"{n} of {total} have no file ({where}): {_some(manifest.missing)}", fix, incomplete=True
    )


def _unused(manifest: Manifest) -> Check:
    used = {clip.path for clip in manifest.clips}
    extra = [p for p in VideoFiles(manifest.root).all() if p not in used]
    detail = f"{len(extra)} files belong to no id" + (
        f": {_some([_below(p, manifest) for p in extra])}" if extra else ""
    )
    return Check("files without an id", True, detail)


def _duplicate_files(manifest: Manifest) -> Check:
    by_path: dict[Path, list[str]] = defaultdict(list)
    for clip in manifest.clips:
        by_path[clip.path].append(clip.id)
    shared = [ids for ids in by_path.values() if len(ids) > 1]
    names = [ids for ids in shared if len({video_stem(video) for video in ids}) == 1]
    if not shared:
        return Check("one file an id", True, "no two ids share a file")
    if len(names) == len(shared):  # a protocol that keeps both spellings of a name
        shown = _some(["=".join(ids) for ids in names])
        return Check("one file an id", True, f"{len(names)} files serve two names of one video: {shown}")
    shown = _some(["=".join(ids) for ids in shared])
    return Check(
        "one file an id", False, f"{len(shared)} files serve several ids: {shown}", "rename the files by their ids"
    )


def _rivals(manifest: Manifest) -> Check:
    """Find ids that several files could serve: video1.mp4 is taken, and video1.webm lies beside it."""
    used = {clip.path for clip in manifest.clips}
    spare: dict[str, list[Path]] = defaultdict(list)
    for path in VideoFiles(manifest.root).all():
        if path not in used:
            spare[path.stem].append(path)
    double = [
        f"{_below(clip.path, manifest)} taken, not {_below(spare[clip.path.stem][0], manifest)}"
        for clip in manifest.clips
        if spare.get(clip.path.stem)
    ]
    if not double:
        return Check("one id a file", True, "no id has several files")
    return Check("one id a file", False, f"{len(double)} ids have several files: {_some(double)}", "keep the right one")


def _empty_files(manifest: Manifest) -> Check:
    empty = [clip.id for clip in manifest.clips if clip.path.stat().st_size == 0]
    if not empty:
        return Check("file sizes", True, "no file is empty")
    return Check(
        "file sizes", False, f"{len(empty)} files are empty: {_some(empty)}", "get them again", incomplete=True
    )


def _empty_captions(manifest: Manifest) -> Check:
    empty = empty_captions(manifest.captions)
    if not empty:
        return Check("captions", True, f"all {len(manifest.captions)} captions have words")
    detail = f"{len(empty)} of {len(manifest.captions)} captions have no words: {_some(empty)}"
    return Check("captions", False, detail, "write them, or take them out of the file", incomplete=True)


def _repeated_captions(manifest: Manifest) -> Check:
    """Count test captions that stand for several videos: no method can tell those apart."""
    videos: dict[str, set[str]] = defaultdict(set)
    rows = [c for c in manifest.captions if c.split == "test" and c.text]
    for caption in rows:
        videos[" ".join(caption.text.lower().split())].add(caption.video)
    repeated = [text for text, of in videos.items() if len(of) > 1]
    detail = f"{len(videos)} distinct of {len(rows)} test captions; {len(repeated)} stand for several videos"
    return Check("test captions", True, detail + (f": {_some(repeated)}" if repeated else ""))


def _decoded(about: DataSet, manifest: Manifest) -> list[Check]:
    """Open and sample every video; only what is wrong becomes a check of its own. Lengths are held against the ids."""
    with log.progress("decoding", total=len(manifest.clips), unit="videos") as bar:
        tasks: Mapping[str, Path] = {clip.id: clip.path for clip in manifest.clips}
        advance: Callable[[], None] = bar.advance
        found = probe_videos(tasks, deep=True, advance=advance)
    bad = [c for c in found if not c.ok]
    summary = Check("decoding", not bad, f"{len(found) - len(bad)} of {len(found)} videos are whole", incomplete=True)
    lengths = [(c.name, c.seconds, said) for c in found if c.seconds and (said := about.seconds_of(c.name))]
    return [summary, *bad, *([_lengths(lengths)] if lengths else [])]


def _lengths(found: Sequence[tuple[str, float, float]]) -> Check:
    """Hold how long videos are against the times in their ids: id, seconds of the file, seconds by the id.

    A film that was never trimmed decodes well, and its frames are those of other scenes. One that was cut at a key
    frame is somewhat longer than its id says; a clip at the end of its source is shorter, which is told and no fault.
    """
    long = [(v, s, said) for v, s, said in found if s > said + max(_SLACK_S, said / 2)]
    short = [(v, s, said) for v, s, said in found if s < said / 2]
    parts = [] if long else ["no video is longer than its id says"]
    for which, what in ((long, "longer than"), (short, "less than half of what")):
        if which:
            shown = _some([f"{v} lasts {s:.1f} s, its id says {said:g} s" for v, s, said in which])
            parts.append(f"{len(which)} of {len(found)} videos are {what} their ids say: {shown}")
    fix = (
        "get the clips, or cut the videos at the times in their ids; untrimmed videos show other scenes" if long else ""
    )
    return Check("lengths", not long, "; ".join(parts), fix, incomplete=True)


def _next(spec: str, manifest: Manifest, checks: list[Check]) -> Check:
    command = commands.tvr("extract-frames", data=spec)
    if any(not c.ok and c.incomplete for c in checks):
        return Check("next", True, f"fix the above, then: {command}")
    return Check("next", True, command)


def _below(path: Path, manifest: Manifest) -> str:
    """Return a file's path as seen from the root: files of one name lie in several folders."""
    return path.relative_to(manifest.root).as_posix() if path.is_relative_to(manifest.root) else str(path)


def _some(items: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(map(repr, items[:_SHOWN]))
    return shown + (f" … and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
