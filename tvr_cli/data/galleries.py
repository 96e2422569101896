"""A test gallery that the user lists: the VARIANT of `NAME:ROOT:VARIANT` as a file with one video id a line.

Papers and boards judge on galleries that are a few videos smaller than the data set's own, and rarely publish the list.
Here the list is given, its count is compared with those in use, and its sha256 becomes the variant of every result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tvr_cli import files
from tvr_cli.data import annotation_files as ann
from tvr_cli.errors import DataError
from tvr_cli.types import Manifest

_BOARD = {n: "a gallery of the public board (MVEB); of which data set is not known here" for n in (660, 999, 1000)}


def list_of(variant: str | None, known: Sequence[str]) -> Path | None:
    """Return the file that a variant means, None where it is a variant's name (or a typo of one).

    A file is meant by the path of one, or by anything that has a slash. Raises DataError where there is none.
    """
    if variant is None or variant in known:
        return None
    path = Path(variant).expanduser()
    if path.is_file():
        return path.resolve()
    if "/" not in variant and "\\" not in variant:
        return None
    raise DataError(f"expected a list of video ids, one a line, at {variant!r}, found no file")


def ids_of(path: Path) -> list[tuple[int, str]]:
    """Read (line, id) of a list. Raises DataError for an id that stands twice, and for a list without ids."""
    lines = ann.read_lines(path)
    if not lines:
        raise DataError(f"{path}: expected one video id a line, found none")
    first: dict[str, int] = {}
    for number, video in lines:
        if video in first:
            raise DataError(f"{path}:{number}: the video {video!r} is that of line {first[video]} already")
        first[video] = number
    return lines


def rows_of(manifest: Manifest, lines: Sequence[tuple[int, str]]) -> dict[str, int | None]:
    """Return for each listed id that is a test video, by its id in the manifest, its line; None = not one.

    An id may be the name of a converted video: another extension is the same video where that is unique.
    """
    test = dict.fromkeys(c.video for c in manifest.captions if c.split == "test")
    by_stem: dict[str, list[str]] = {}
    for video in test:
        by_stem.setdefault(ann.video_stem(video), []).append(video)
    found: dict[str, int | None] = {}
    for number, name in lines:
        same = [name] if name in test else by_stem.get(ann.video_stem(name), [])
        found[same[0] if len(same) == 1 else name] = number if len(same) == 1 else None
    return found


def best(manifests: Sequence[Manifest], path: Path, lines: Sequence[tuple[int, str]]) -> Manifest:
    """Return the manifest with the smallest test gallery that holds every listed video.

    Raises DataError, with the first line that no gallery has, where there is none.
    """

    def size(manifest: Manifest) -> int:
        return len({c.video for c in manifest.captions if c.split == "test"})

    whole = [m for m in manifests if None not in rows_of(m, lines).values()]
    if whole:
        return min(whole, key=size)
    nearest = max(manifests, key=lambda m: sum(n is not None for n in rows_of(m, lines).values()))
    lost = [name for name, number in rows_of(nearest, lines).items() if number is None]
    number = next(n for n, name in lines if name == lost[0])
    named = ", ".join(m.variant or "default" for m in manifests)
    raise DataError(
        f"{path}:{number}: the video {lost[0]!r} is not a test video of {nearest.name} ({len(lost)} of {len(lines)} "
        f"listed ones are not; looked in: {named}); a list names test videos by their ids"
    )


def cut(manifest: Manifest, path: Path, lines: Sequence[tuple[int, str]], known: Mapping[int, str]) -> Manifest:
    """Return a manifest whose test split is the listed videos; train and val stay.

    known: counts of galleries in use, and whose they are.
    """
    kept = set(rows_of(manifest, lines))
    gone = {c.video for c in manifest.captions if c.split == "test"} - kept
    digest = files.sha256_file(path)[:12]
    whose = {**_BOARD, **known}.get(len(kept))
    count = f"as many as {whose}" if whose else "no gallery of this size is known here"
    base = manifest.variant or "default"
    return replace(
        manifest,
        clips=tuple(c for c in manifest.clips if c.id not in gone),
        captions=tuple(c for c in manifest.captions if c.split != "test" or c.video in kept),
        variant=f"list:{digest}",
        expected={**manifest.expected, "test": len(kept)},
        missing=tuple(v for v in manifest.missing if v not in gone),
        annotations=(*manifest.annotations, path),
        notes=(
            *manifest.notes,
            f"the test gallery is a list of {len(kept)} videos, cut from the variant {base}: {count}; whether it is "
            f"theirs cannot be told (sha256 {digest}, not known here)",
        ),
        listed=path,
    )
