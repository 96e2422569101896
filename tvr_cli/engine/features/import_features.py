"""Features that somebody else computed become a feature store of a workspace: no frames, and no vision tower.

A clip is a video as its file has it: its key is the hash of the array, so that the same features are written once. What
encodes sentences is the backbone that the features are of, where it is one of tvr's and is named; else the vectors of
captions are imported too, or there are none.

Letters: V videos, F frames, D features, T captions.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tvr_cli import files
from tvr_cli.backbones import registry
from tvr_cli.backbones.base import Backbone, Description
from tvr_cli.data.annotation_files import video_stem
from tvr_cli.data.columns import CaptionsFile
from tvr_cli.defaults import DEFAULT_METHOD, named_backbone
from tvr_cli.engine import dataset, suggest
from tvr_cli.engine.device import pick_device
from tvr_cli.engine.features import foreign, precompute, word_importance
from tvr_cli.engine.features.corpus import Corpus, of_imported
from tvr_cli.engine.features.foreign_survey import Survey, Video, times
from tvr_cli.engine.features.foreign_survey import survey as surveyed
from tvr_cli.engine.features.precompute import DTYPES, CaptionCounts, ClipCounts
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.imported import Imported
from tvr_cli.log import logger, progress
from tvr_cli.plans import FeaturePlan, PrecomputeOptions, WordPlan, default_words
from tvr_cli.results.base import Result, key
from tvr_cli.stores.features import head as heads
from tvr_cli.stores.features import store as features
from tvr_cli.stores.features.head import HASHED, UNNAMED, Made
from tvr_cli.stores.features.rebuild import rebuild_head
from tvr_cli.stores.features.rows import text_row_key
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.features.writer import FeatureWriter, require_own
from tvr_cli.stores.foreign.sample import Sample
from tvr_cli.stores.frames.store import ClipRecord
from tvr_cli.types import Manifest, TextFeatures, VideoFeatures, caption_key
from tvr_cli.version import __version__
from tvr_cli.workspace import Workspace

_SHARD_CLIPS, _SHARD_CAPTIONS = 128, 2048
_SHARD_VALUES = 32_000_000  # of a shard while it is made, padded: 128 MB in float32
_LEAST_WORDS = 3  # of a word plan, where no token is stored


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What is said of features that somebody else computed.

    source, revision: as in `Imported`. fps: frames of the features a second. num_frames: see `Imported`.
    ignore_unknown: leave out videos that the data set does not know. texts: files with the vectors of captions.
    max_words, word_importance, device, offline: as in `PrecomputeOptions`.
    """

    source: str | None = None
    revision: str | None = None
    fps: float | None = None
    num_frames: int | None = None
    ignore_unknown: bool = False
    texts: Sequence[Path] = ()
    max_words: int | None = None
    word_importance: str = "none"
    device: str = "auto"
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class ImportFeaturesReport(Result):
    """What was imported, or would be. folder: of the store, None where its name is not known before the weights are.

    backbone: None where nobody named it. frames: the fewest and the most of a video; 0 of vectors of whole videos.
    lacks: what the store cannot do, a sentence each. left_out: videos that the data set does not know. files: what was
    read, by sha256.
    """

    schema = "import-features"
    dry_run: bool
    folder: Path | None = field(metadata=key("store"))
    fingerprint: str | None
    backbone: str | None
    source: str
    revision: str | None
    clips: ClipCounts
    frames: tuple[int, int]
    dim: int
    captions: CaptionCounts
    splits: Mapping[str, int]
    lacks: Sequence[str]
    left_out: int
    files: Mapping[str, str]
    size_bytes: int = field(metadata=key("bytes"))
    seconds: float

    @cached_property
    def store(self) -> FeatureStore:
        """The features that were imported, opened when they are first asked for."""
        assert self.folder is not None and not self.dry_run, "a dry run makes no store"
        return FeatureStore.open(self.folder)

    @property
    def train_with(self) -> str | None:
        """The method to train that uses most of these features; None where none fits or no caption is for it."""
        return suggest.to_train(self.store.provides) if self.splits.get("train") else None

    @property
    def evaluate_with(self) -> str | None:
        """The method without training to judge these features by; None where none fits or no caption is for it."""
        return suggest.without_training(self.store.provides, DEFAULT_METHOD) if self.splits.get("test") else None

    @property
    def named(self) -> str | None:
        """The backbone, where the commands that go on have to name it."""
        return self.backbone if self.backbone is not None and registry.must_be_named(self.backbone) else None


def import_features(
    paths: Sequence[Path],
    workspace: Workspace,
    *,
    backbone: str | None = None,
    captions: Path | None = None,
    columns: str | None = None,
    data: str | None = None,
    options: ImportOptions | None = None,
    dry_run: bool = False,
) -> ImportFeaturesReport:
    """Make a feature store of features that somebody else computed (`foreign.py` says in which files).

    backbone: the one that made them, None = unknown; it is loaded. captions, columns: a captions
    file and what its columns are; data: `NAME:ROOT[:VARIANT]` in place of it, which also says which videos there are,
    and what they are called. Done again with the same files, it writes what
    is missing or damaged, and nothing else. dry_run: read and check all files, load no weights and write nothing.

    Raises DataError for files that are not what they should be, for videos that the data set does not know and for
    another encoder's features, ConfigError for flags that exclude each other, EnvironmentProblem for missing weights.
    """
    options = options or ImportOptions()
    started = time.monotonic()
    backbone = named_backbone(backbone)
    _require_fitting(backbone, captions, columns, data, options)
    about = None if backbone is None else registry.resolve(backbone)
    inside = foreign.files_of(paths)
    hashes = {str(path.resolve()): files.sha256_file(path) for path in (*inside, *foreign.files_of(options.texts))}
    plan = Imported(
        source=options.source or HASHED + _hash(hashes.values()),
        revision=options.revision,
        fps=options.fps,
        num_frames=options.num_frames,
    )
    said: CaptionsFile | Manifest | None = None
    if captions is not None:
        said = dataset.captions_file(captions, columns) if columns is not None else CaptionsFile(captions)
    if data is not None:
        said, _, usual = dataset.named(data)
        options = replace(options, max_words=options.max_words or usual.length)
    manifest = said if isinstance(said, Manifest) else None
    survey = surveyed(paths, plan, manifest, ignore_unknown=options.ignore_unknown)
    if about is not None and survey.dim != about.dim:
        raise DataError(
            f"the features have {survey.dim} numbers and the backbone {about.name} gives {about.dim}: another encoder's"
        )
    records = [video.record for video in survey.videos]
    corpus = Corpus() if said is None else of_imported(said, records)
    vectors = _vectors(corpus, options.texts, survey.dim)
    told = {
        "backbone": backbone,
        "source": plan.source,
        "revision": plan.revision,
        "frames": (0, 0) if survey.single else _range(record.n_frames for record in records),
        "dim": survey.dim,
        "splits": {name: sum(c.caption.split == name for c in corpus.captions) for name in ("train", "val", "test")},
        "lacks": _lacks(about, corpus, survey),
        "left_out": survey.left_out,
        "files": {Path(path).name: digest for path, digest in hashes.items()},
    }
    if dry_run:
        return _planned(workspace, about, survey, corpus, vectors is not None, plan, options, told, started)
    model = None
    if about is not None:
        model = registry.load(about.name, offline=options.offline, device=pick_device(options.device))
    identity, words = _identity(about, model.identity() if model is not None else _UNNAMED, plan, options)
    dtype: Literal["fp16", "fp32"] = "fp16" if survey.half else "fp32"
    made = Made.of(
        identity,
        backbone=UNNAMED if about is None else about.name,
        dim=survey.dim,
        provides=_tensors(survey, about, vectors is not None, options),
        provenance={"tvr": __version__, "torch": torch.__version__, "dtype": dtype, **_versions(model, identity)},
        dtype=str(DTYPES[dtype]).removeprefix("torch."),
    )
    folder = workspace.feature_folder(made.fingerprint)
    require_own(folder, workspace)
    with files.lock(folder), torch.inference_mode():
        damaged = _damaged(folder, workspace)
        writer = FeatureWriter(folder, made, workspace)
        for name in damaged:
            logger.warning("shard %s is damaged; its rows are written again", name)
            writer.drop(name)
        there = writer.keys("video")
        new = {video.name: video for video in survey.videos if video.row_key not in there}
        added = len({video.row_key for video in new.values()})
        _write_videos(writer, paths, new, survey, plan, dtype)
        texts = {row: text for row, text in corpus.texts.items() if row not in writer.keys("text")}
        truncated = 0
        if vectors is not None:
            _write_vectors(writer, texts, vectors, dtype)
        elif model is not None:
            words_plan = FeaturePlan("ragged", None, words, identity["importance"])
            truncated = precompute.encode_texts(writer, model, texts, words_plan, PrecomputeOptions(dtype=dtype))
        writer.finish(records, precompute.stored_captions(corpus), _about(corpus, paths, hashes, options))
        size = writer.size_bytes()
    return ImportFeaturesReport(
        dry_run=False,
        folder=folder,
        fingerprint=made.fingerprint,
        clips=ClipCounts(len(records), added, len(records) - len(new)),
        captions=_counts(corpus, len(texts), truncated),
        size_bytes=size,
        seconds=time.monotonic() - started,
        **told,  # type: ignore[arg-type]
    )


# --------------------------------------------------------------------------------------------------- what there is


def _require_fitting(
    backbone: str | None, captions: Path | None, columns: str | None, data: str | None, options: ImportOptions
) -> None:
    if captions is not None and data is not None:
        raise ConfigError("give --captions or --data, not both")
    if columns is not None and captions is None:
        raise ConfigError("--columns names columns of a file: give it with --captions FILE")
    are_given = captions is not None or data is not None
    if are_given and backbone is None and not options.texts:
        raise ConfigError(
            "captions need vectors: name the backbone that made the features with --backbone, or give the vectors of "
            "the captions with --texts"
        )
    if options.texts and not are_given:
        raise ConfigError("--texts has the vectors of captions: give these with --data or --captions")
    if options.fps is not None and not 0 < options.fps <= 1000:
        raise ConfigError(f"--fps: expected a rate above 0 and up to 1000, found {options.fps}")
    if options.num_frames is not None and options.num_frames < 1:
        raise ConfigError(f"--num-frames: expected 1 or more, found {options.num_frames}")
    if options.word_importance != "none" and (options.texts or backbone is None):
        raise ConfigError("--word-importance marks words that a backbone encodes: name it, and leave out --texts")


def _vectors(corpus: Corpus, texts: Sequence[Path], dim: int) -> dict[str, np.ndarray] | None:
    """Return the vector [D] of each text by its row key, None where none are imported.

    A file gives the vectors of a caption by its id, [D], or of all captions of a video by its name, [T, D] in the order
    of the captions. Raises DataError where a caption has none, or one of another length.
    """
    if not texts:
        return None
    given: dict[str, np.ndarray] = {sample.video: sample.frames for sample in foreign.each(texts)}
    other = next((name for name, x in given.items() if x.shape[1] != dim), None)
    if other is not None:
        raise DataError(
            f"the vectors of captions have {given[other].shape[1]} numbers ({other!r}), and those of the videos {dim}: "
            "of two encoders"
        )
    by_stem = {video_stem(name): x for name, x in given.items()}
    of_video: dict[str, list[str]] = {}
    for c in corpus.captions:
        of_video.setdefault(c.file_id, []).append(c.caption.id)
    found: dict[str, np.ndarray] = {}
    for c in corpus.captions:
        own, all_of_it = given.get(c.caption.id), by_stem.get(video_stem(c.file_id))
        beside = of_video[c.file_id]
        if own is not None and len(own) == 1:
            vector = own[0]
        elif all_of_it is not None and len(all_of_it) == len(beside):
            vector = all_of_it[beside.index(c.caption.id)]
        else:
            has = "none" if all_of_it is None else f"{len(all_of_it)} of its video"
            raise DataError(
                f"--texts: expected a vector of the caption {c.caption.id!r}, or {len(beside)} of the video "
                f"{c.file_id!r} in the order of its captions, found {has}"
            )
        found.setdefault(text_row_key(c.caption.text), vector)
    return found


def _lacks(about: Description | None, corpus: Corpus, survey: Survey) -> tuple[str, ...]:
    told = []
    if not corpus.captions:
        told.append("no captions: nothing to train on or to be judged by (--data, --captions)")
    if about is None:
        told.append("no backbone: no sentence can be encoded, so it answers no query (--backbone)")
    if survey.single:
        told.append("no frames: one vector a video, for the method one_vector; no moments")
    return tuple(told)


# ----------------------------------------------------------------------------------------------------------- identity

_UNNAMED: Mapping[str, Any] = {"name": UNNAMED, "temporal_shift": False}


def _identity(
    about: Description | None, backbone: Mapping[str, Any], plan: Imported, options: ImportOptions
) -> tuple[dict[str, Any], WordPlan]:
    """Return the identity of the store, and its word plan. Raises ConfigError for more words than a context has."""
    context = _LEAST_WORDS if about is None or options.texts else about.context_length
    length = min(options.max_words or default_words(context), context) if options.texts else options.max_words
    length = length or default_words(context)
    if about is not None and not _LEAST_WORDS <= length <= context:
        raise ConfigError(f"--max-words: expected 3 to {context}, the context of {about.name}, found {length}")
    words = WordPlan("fixed", length)
    importance = word_importance.rule_identity(options.word_importance)
    return FeaturePlan("ragged", None, words, importance).identity(backbone, plan.identity()), words


def _tensors(survey: Survey, about: Description | None, vectors: bool, options: ImportOptions) -> set[str]:
    """Return what the store has, by full or short name."""
    of_text: set[str] = set()
    if vectors:
        of_text = {"pooled"}
    elif about is not None:
        marks = {"importance"} if options.word_importance != "none" else set()
        of_text = ({"pooled", "tokens"} & about.provides) | marks
    return {"video.pooled" if survey.single else "video.frames"} | of_text


def _versions(model: Backbone | None, identity: Mapping[str, Any]) -> dict[str, Any]:
    if model is None:
        return {}
    return {**model.versions(), **precompute.text_norm(model, identity)}


def _about(corpus: Corpus, paths: Sequence[Path], hashes: Mapping[str, str], options: ImportOptions) -> dict[str, Any]:
    """Return where captions and features came from, as the head keeps it."""
    imported: dict[str, Any] = {"features": [str(path.resolve()) for path in paths], "sha256": dict(hashes)}
    if options.texts:
        imported["texts"] = [str(path.resolve()) for path in options.texts]
    return {**corpus.of_captions(), "imported": imported}


def _hash(digests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------ writing


def _damaged(folder: Path, workspace: Workspace) -> list[str]:
    """Return the shards of a store that are not what was written, its head being made again where it was damaged."""
    if not folder.is_dir() or not heads.has_store_files(folder):
        return []
    rebuild_head(folder, workspace)
    if not (folder / heads.HEAD).is_file():
        return []
    _, lines = heads.read(folder, workspace)
    there = (line for line in lines if (folder / line.name).is_file())
    return [line.name for line in there if files.sha256_file(folder / line.name) != line.sha256]


def _write_videos(
    writer: FeatureWriter,
    paths: Sequence[Path],
    new: Mapping[str, Video],
    survey: Survey,
    plan: Imported,
    dtype: str,
) -> None:
    """Read the files again, for only a shard is held at a time, and write the videos that are new."""
    if not new:
        return
    written: set[str] = set()
    with progress("importing features", total=len(new), unit="videos") as bar:
        for part in _parts(sample for sample in foreign.each(paths) if sample.video in new):
            some = {new[sample.video].row_key: sample for sample in part}
            some = {row: sample for row, sample in some.items() if row not in written}
            written |= some.keys()
            if some:
                records = [new[sample.video].record for sample in some.values()]
                video = _features(list(some.values()), records, survey.single, plan.fps)
                writer.add_video(list(some), video, DTYPES[dtype])
            bar.advance(len(part))


def _parts(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Group samples into shards, none of which takes more than `_SHARD_VALUES` when it is padded."""
    part: list[Sample] = []
    longest = 0
    for sample in samples:
        longest = max(longest, len(sample.frames))
        if part and (len(part) == _SHARD_CLIPS or (len(part) + 1) * longest * sample.frames.shape[1] > _SHARD_VALUES):
            yield part
            part, longest = [], len(sample.frames)
        part.append(sample)
    if part:
        yield part


def _features(
    samples: Sequence[Sample], records: Sequence[ClipRecord], single: bool, fps: float | None
) -> VideoFeatures:
    keys = torch.tensor([record.key for record in records], dtype=torch.int64)
    counts = torch.tensor([record.n_frames for record in records], dtype=torch.int64)
    dim = samples[0].frames.shape[1]
    if single:
        pooled = torch.from_numpy(np.stack([sample.features for sample in samples]).astype(np.float32))
        nothing = torch.zeros(len(samples), 0, dim)
        return VideoFeatures(keys, nothing, counts, torch.zeros(len(samples), 0, dtype=torch.float64), pooled)
    frames = torch.zeros(len(samples), int(counts.max()), dim)
    ts = torch.zeros(frames.shape[:2], dtype=torch.float64)
    for i, (sample, record) in enumerate(zip(samples, records, strict=True)):
        total, n = len(sample.features), record.n_frames
        taken = np.arange(total) if n == total else ((2 * np.arange(n) + 1) * total) // (2 * n)
        frames[i, :n] = torch.from_numpy(sample.features[taken].astype(np.float32))
        ts[i, :n] = torch.from_numpy(times(total, record, fps)[taken])
    return VideoFeatures(keys, frames, counts, ts)


def _write_vectors(
    writer: FeatureWriter, texts: Mapping[str, str], vectors: Mapping[str, np.ndarray], dtype: str
) -> None:
    rows = list(texts)
    for start in range(0, len(rows), _SHARD_CAPTIONS):
        chunk = rows[start : start + _SHARD_CAPTIONS]
        keys = torch.tensor([caption_key(texts[row]) for row in chunk], dtype=torch.int64)
        pooled = torch.from_numpy(np.stack([vectors[row] for row in chunk]).astype(np.float32))
        # Of single tokens nothing is known; a caption counts as one, so that no mean over them divides by none.
        writer.add_text(chunk, TextFeatures(keys, pooled, None, torch.ones_like(keys)), DTYPES[dtype])


# ------------------------------------------------------------------------------------------------------------ private


def _planned(
    workspace: Workspace,
    about: Description | None,
    survey: Survey,
    corpus: Corpus,
    vectors: bool,
    plan: Imported,
    options: ImportOptions,
    told: Mapping[str, Any],
    started: float,
) -> ImportFeaturesReport:
    """Say what an import would write. Where the weights are not here the store has no name yet."""
    folder, there, texts = None, dict[str, set[str]](), len(corpus.texts)
    backbone: Mapping[str, Any] | None = _UNNAMED
    if about is not None:
        backbone = about.kind.identify(about, temporal_shift=False) if about.weights is not None else None
    if backbone is not None:
        folder = workspace.feature_folder(features.fingerprint_of(_identity(about, backbone, plan, options)[0]))
        there = {kind: precompute.keys_there(folder, workspace, kind) for kind in ("video", "text")}
        texts = len(corpus.texts.keys() - there["text"])
    new = {v.row_key: v.record.n_frames for v in survey.videos if v.row_key not in there.get("video", ())}
    kept = sum(v.row_key in there.get("video", ()) for v in survey.videos)
    tokens = 0 if vectors or about is None else default_words(about.context_length)
    itemsize = 2 if survey.half else 4
    return ImportFeaturesReport(
        dry_run=True,
        folder=folder,
        fingerprint=None if folder is None else folder.name,
        clips=ClipCounts(len(survey.videos), len(new), kept),
        captions=_counts(corpus, texts, 0),
        size_bytes=(sum(new.values()) + texts * (tokens + 1)) * survey.dim * itemsize,
        seconds=time.monotonic() - started,
        **told,
    )


def _counts(corpus: Corpus, encoded: int, truncated: int) -> CaptionCounts:
    return CaptionCounts(
        total=len(corpus.captions),
        texts=len(corpus.texts),
        encoded=encoded,
        truncated=truncated,
        set_aside=len(corpus.aside),
    )


def _range(counts: Iterable[int]) -> tuple[int, int]:
    found = list(counts)
    return min(found), max(found)
