"""What every data set must hold (`data.registry` says what one is). Clauses on its module take a `DataSet`; those on an
annotated folder take what was read of it, a `Reading`.

Nothing is decoded. Official numbers are the doctor's subject (`tvr doctor NAME:ROOT`): a part of a data set holds the
contract too.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tvr_cli import plans
from tvr_cli.data import registry
from tvr_cli.data.annotation_files import empty_captions
from tvr_cli.data.registry import DataSet
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.testing.report import BrokenContract, Check, require, run
from tvr_cli.types import SPLITS, Caption, Clip, Manifest

_NO_VARIANT = "no-such-variant"


@dataclass(frozen=True)
class Reading:
    """A data set, the folder and variant that were named, and what its `load` returned for them."""

    data: DataSet
    root: Path
    variant: str | None
    manifest: Manifest


def check(spec: str) -> list[Check]:
    """Run every clause on `NAME[:ROOT[:VARIANT]]`; without a root those on the module alone.

    Raises ConfigError when there is no data set of this name, DataError when its annotation files cannot be read.
    """
    if ":" not in spec:
        return run(CLAUSES, registry.find(spec))
    name, root, variant = registry.split_spec(spec)
    found = registry.find(name)
    reading = Reading(found, root, variant, registry.read(spec))
    return [*run(CLAUSES, found), *run(CLAUSES_ON_A_FOLDER, reading)]


# ---------------------------------------------------------------------------------------------------------- its module


def a_data_set_says_what_it_is(data: DataSet) -> None:
    """The docstring's first sentence is what `tvr datasets` lists."""
    require(data.summary, "expected a docstring whose first sentence says what the data set is")


def sizes_and_variants_go_together(data: DataSet) -> str | None:
    """`SIZES` has a key for each of `VARIANTS`, or `default`; splits are train, val and test."""
    sizes = getattr(data.module, "SIZES", {})
    if not sizes:
        return "there are no official sizes (SIZES)"
    known = data.variants or ("default",)
    unknown = sorted(set(sizes) - set(known))
    require(not unknown, f"expected that the keys of SIZES are {', '.join(known)}, found {', '.join(unknown)} too")
    for variant, splits in sizes.items():
        wrong = sorted(set(splits) - set(SPLITS))
        require(not wrong, f"SIZES[{variant!r}]: expected the splits {', '.join(SPLITS)}, found {', '.join(wrong)}")
        odd = [split for split, size in splits.items() if not isinstance(size, SplitSize)]
        require(not odd, f"SIZES[{variant!r}]: expected a tvr_cli.data.sizes.SplitSize of {', '.join(odd)}")
    return None


def wanted_files_have_names(data: DataSet) -> str | None:
    """`wanted` names, of each variant, each file that is needed, as a tuple of the names that it may have."""
    if not hasattr(data.module, "wanted"):
        return "there is no `wanted`: the doctor cannot say which files are missing"
    with tempfile.TemporaryDirectory() as empty:
        for variant in data.variants or (None,):
            for group in data.wanted(Path(empty), variant):
                named = isinstance(group, tuple) and group and all(isinstance(n, str) and n for n in group)
                require(named, f"wanted(root, {variant!r}): expected tuples of file names, found {group!r}")
    return None


def an_empty_folder_is_a_sentence(data: DataSet) -> None:
    """What a newcomer names first: DataError, not a traceback."""
    with tempfile.TemporaryDirectory() as empty:
        for variant in data.variants or (None,):
            _refused(data, Path(empty), variant, DataError, "an empty folder")


def an_unknown_variant_is_a_sentence(data: DataSet) -> None:
    """A typo in `NAME:ROOT:VARIANT`: ConfigError, not another variant."""
    with tempfile.TemporaryDirectory() as empty:
        _refused(data, Path(empty), _NO_VARIANT, ConfigError, f"the variant {_NO_VARIANT!r}")


def its_plans_can_be_read(data: DataSet) -> None:
    """The preset of frames and words, where there is one."""
    plans.of_dataset(data.name)


CLAUSES = (
    a_data_set_says_what_it_is,
    sizes_and_variants_go_together,
    wanted_files_have_names,
    an_empty_folder_is_a_sentence,
    an_unknown_variant_is_a_sentence,
    its_plans_can_be_read,
)


# ------------------------------------------------------------------------------------------------- an annotated folder


def clips_and_captions_are_there(reading: Reading) -> None:
    """Tuples of `Clip` and `Caption`, some of each."""
    manifest = reading.manifest
    for what, found, kind in (("clips", manifest.clips, Clip), ("captions", manifest.captions, Caption)):
        require(isinstance(found, tuple), f"expected a tuple of {what}, found {type(found).__name__}")
        odd = next((x for x in found if not isinstance(x, kind)), None)
        require(odd is None, f"expected tvr_cli.types.{kind.__name__} among the {what}, found {odd!r}")
        require(found, f"expected {what}, found none")


def ids_are_unique(reading: Reading) -> None:
    """An id names one clip, one caption."""
    for what, ids in (
        ("clips", [c.id for c in reading.manifest.clips]),
        ("captions", [c.id for c in reading.manifest.captions]),
    ):
        double = [x for x, n in Counter(ids).items() if n > 1]
        require(not double, f"expected one of each id among the {what}, found several of {_some(double)}")


def every_caption_has_words_and_a_source(reading: Reading) -> None:
    """A message about a caption names its place; a caption without words fits every video alike."""
    require(not (empty := empty_captions(reading.manifest.captions)), f"captions without words: {_some(empty)}")
    bare = [c.id for c in reading.manifest.captions if not c.source]
    require(not bare, f"captions that do not say where they were read (source='file:line'): {_some(bare)}")


def every_caption_is_of_a_clip_or_of_a_missing_video(reading: Reading) -> None:
    """Completeness is counted from the captions, so what has no file is listed in `missing`."""
    manifest = reading.manifest
    known = {c.id for c in manifest.clips} | set(manifest.missing)
    stray = sorted({c.video for c in manifest.captions} - known)
    require(not stray, f"captions of videos that are neither among the clips nor in missing: {_some(stray)}")
    both = sorted({c.id for c in manifest.clips} & set(manifest.missing))
    require(not both, f"videos that are among the clips and in missing: {_some(both)}")


def every_clip_has_a_file_and_a_span(reading: Reading) -> None:
    """A clip is a file that is there, or a span of it whose end comes after its beginning."""
    gone = [c.id for c in reading.manifest.clips if not c.path.is_file()]
    require(not gone, f"clips whose file is not there (list them in missing instead): {_some(gone)}")
    odd = [c.id for c in reading.manifest.clips if c.end is not None and c.end <= (c.start or 0.0)]
    require(not odd, f"clips that end before they begin: {_some(odd)}")


def no_video_is_trained_and_judged_on(reading: Reading) -> None:
    """A video in train and in val or test inflates every result."""
    of = {split: {c.video for c in reading.manifest.captions if c.split == split} for split in SPLITS}
    both = sorted(of["train"] & (of["val"] | of["test"]))
    require(not both, f"videos with captions in train and in another split: {_some(both)}")


def annotation_files_are_named(reading: Reading) -> None:
    """Results carry the sha256 of each."""
    files = reading.manifest.annotations
    require(files, "expected the files that were read in `annotations`, found none")
    gone = [str(f) for f in files if not Path(f).is_file()]
    require(not gone, f"annotation files that are not there: {_some(gone)}")


def reading_again_gives_the_same(reading: Reading) -> None:
    """No order of a set or of a folder; the variant that the manifest names is the one that was read."""
    for variant in dict.fromkeys((reading.variant, reading.manifest.variant)):
        again = reading.data.read(reading.root, variant)
        require(
            (again.clips, again.captions) == (reading.manifest.clips, reading.manifest.captions),
            f"expected the same clips and captions, in the same order, with the variant {variant!r}; found others",
        )


CLAUSES_ON_A_FOLDER = (
    clips_and_captions_are_there,
    ids_are_unique,
    every_caption_has_words_and_a_source,
    every_caption_is_of_a_clip_or_of_a_missing_video,
    every_clip_has_a_file_and_a_span,
    no_video_is_trained_and_judged_on,
    annotation_files_are_named,
    reading_again_gives_the_same,
)


def _refused(
    data: DataSet, root: Path, variant: str | None, error: type[ConfigError] | type[DataError], what: str
) -> None:
    """Require that reading raises an error of tvr's, with words."""
    try:
        data.read(root, variant)
    except error as e:
        require(str(e), f"expected a sentence about {what}, found an empty {error.__name__}")
        return
    except Exception as e:
        raise BrokenContract(
            f"expected a tvr_cli.errors.{error.__name__} for {what}, found {type(e).__name__}: {e}"
        ) from e
    raise BrokenContract(f"expected a tvr_cli.errors.{error.__name__} for {what}, and it was accepted")


def _some(items: Iterable[str]) -> str:
    listed = list(items)
    return ", ".join(map(repr, listed[:3])) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
