"""The ids of a score matrix that has none of its own, from the data set it is about."""

from __future__ import annotations

from tvr_cli import data
from tvr_cli.engine.evaluation.evaluate_result import Corpus
from tvr_cli.engine.evaluation.score_file import Ids
from tvr_cli.errors import DataError
from tvr_cli.files import sha256_file


def of_dataset(spec: str, split: str) -> Ids:
    """Return the captions of a split of `NAME:ROOT[:VARIANT]` in their order, and their videos sorted by id.

    Rows and columns of a matrix are taken to be in this order, as `tvr evaluate --save-scores` writes them. Raises
    ConfigError for an unknown data set, DataError for bad annotation files or an empty split.
    """
    manifest = data.load(spec)
    captions = [caption for caption in manifest.captions if caption.split == split]
    if not captions:
        raise DataError(f"the data set {manifest.name!r} has no captions of the split {split!r}")
    videos = sorted({caption.video for caption in captions})
    hashes = {path.name: sha256_file(path) for path in manifest.annotations if path.is_file()}
    corpus = Corpus(name=manifest.name, variant=manifest.variant, notes=manifest.notes or None, annotations=hashes)
    return Ids(tuple(caption.id for caption in captions), tuple(videos), corpus)
