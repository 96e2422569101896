"""Computing features: the frames of a frame store and the captions about them, through one backbone, into a store.

Everything that can be refused is refused before the backbone is loaded. Only what is new is encoded: clips are found by
content, captions by text, and what a run leaves behind when it is stopped is taken over by the next one.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from tvr_kernels import gemm

from tvr_cli import commands, files, plans
from tvr_cli.backbones import registry
from tvr_cli.backbones.base import ON_DEMAND, Backbone, Description
from tvr_cli.backbones.text_tower import card as text_card
from tvr_cli.defaults import DEFAULT_METHOD
from tvr_cli.engine import suggest
from tvr_cli.engine.device import pick_device
from tvr_cli.engine.features import cost, precision, suiting, word_importance
from tvr_cli.engine.features.choose import choose_backbone
from tvr_cli.engine.features.corpus import Captions, Census, Corpus, count_captions, no_captions, no_census, read_corpus
from tvr_cli.engine.features.encode import encode_batch, encode_captions
from tvr_cli.engine.features.fast_linear import use_fast_linear
from tvr_cli.engine.features.films import encode_films, has_films, lacking, row_keys
from tvr_cli.engine.features.frame_batches import frame_batches
from tvr_cli.engine.features.share import share_of
from tvr_cli.errors import DataError
from tvr_cli.log import logger, progress
from tvr_cli.plans import FeaturePlan, PrecomputeOptions
from tvr_cli.results.base import Result, key
from tvr_cli.stores.features import head as heads
from tvr_cli.stores.features import rows as feature_rows
from tvr_cli.stores.features import store as features
from tvr_cli.stores.features.head import Made
from tvr_cli.stores.features.scale import is_clip
from tvr_cli.stores.features.store import FeatureStore, StoredCaption, clip_row_key
from tvr_cli.stores.features.writer import FeatureWriter, require_own
from tvr_cli.stores.frames.store import ClipRecord, FrameStore
from tvr_cli.types import VideoFeatures, caption_key
from tvr_cli.version import __version__
from tvr_cli.workspace import Workspace

__all__ = [
    "PrecomputeReport",
    "backbone_of",
    "dry_run",
    "encode_captions",
    "precompute",
]

_Read = TypeVar("_Read", Corpus, Census)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# A shard is the unit of resuming: what may be lost when a run is stopped.
_SHARD_BYTES = 64_000_000
_SHARD_CLIPS, _SHARD_CAPTIONS = 128, 2048
_FRAMES_A_BATCH = {"cpu": 48, "cuda": 384}
# What the norm of captions is measured on: it hardly differs from one sentence to the next.
_SENTENCES = (
    "a dog runs on the beach", "two people talk in a kitchen", "a man plays the guitar on a stage", "a cartoon",
    "a car drives through the city at night", "a woman explains how to cook rice", "the sun sets over the sea",
)  # fmt: skip


@dataclass(frozen=True)
class ClipCounts:
    """Clips of the store. encoded: now, or to be encoded. kept: were there."""

    total: int
    encoded: int
    kept: int


@dataclass(frozen=True, kw_only=True)
class CaptionCounts:
    """Captions of the store. texts: different ones. truncated: were too long. set_aside: their video was not read."""

    total: int
    texts: int
    encoded: int
    truncated: int
    set_aside: int


@dataclass(frozen=True)
class PlannedSizes:
    """(frames + clips + tokens) x dim x bytes_a_value is what a store would take; clips: vectors of whole clips.

    frames: with their patches where those are kept.
    """

    frames: int
    clips: int
    tokens: int
    dim: int
    bytes_a_value: int


@dataclass(frozen=True, kw_only=True)
class PrecomputeReport(Result):
    """What was done. folder: of the store. size_bytes: of all shards."""

    schema = "precompute-features"
    dry_run: Literal[False] = field(default=False, init=False)
    folder: Path = field(metadata=key("store"))
    fingerprint: str
    backbone: str
    clips: ClipCounts
    captions: CaptionCounts
    size_bytes: int = field(metadata=key("bytes"))
    seconds: float

    @cached_property
    def store(self) -> FeatureStore:
        """The features that were made, opened when they are first asked for."""
        return FeatureStore.open(self.folder)

    @property
    def train_with(self) -> str | None:
        """The method to train that uses most of these features; None where none fits or no caption is for it."""
        return suggest.to_train(self.store.provides) if len(self.store.split("train")) else None

    @property
    def evaluate_with(self) -> str | None:
        """The method without training to judge these features by; None where none fits or no caption is for it."""
        return suggest.without_training(self.store.provides, DEFAULT_METHOD) if len(self.store.split("test")) else None

    @property
    def named(self) -> str | None:
        """The backbone, where the commands that go on have to name it; None for one of tvr's own."""
        return self.backbone if registry.must_be_named(self.backbone) else None


@dataclass(frozen=True, kw_only=True)
class PrecomputePreview(Result):
    """What would be done. size_bytes, seconds: estimates. fingerprint, weights: None where the weights are not here."""

    schema = "precompute-features"
    dry_run: Literal[True] = field(default=True, init=False)
    folder: Path = field(metadata=key("store"))
    fingerprint: str | None
    backbone: str
    clips: ClipCounts
    captions: CaptionCounts
    size_bytes: int = field(metadata=key("bytes"))
    seconds: float
    sizes: PlannedSizes
    weights: Path | None


def precompute(
    workspace: Workspace,
    backbone: str | None = None,
    captions: Captions = None,
    options: PrecomputeOptions | None = None,
) -> PrecomputeReport:
    """Compute the features of a workspace's frames, and of captions about them.

    backbone: see `backbones.registry`; None = as `choose.choose_backbone` chooses.
    captions: a JSONL file, a data set or its `NAME:ROOT[:VARIANT]`; None = those of the last time, else
    `captions.jsonl` beside the videos, else none. Raises DataError for bad captions or too small frames, ConfigError
    for an impossible plan, EnvironmentProblem for missing weights.
    """
    options = options or PrecomputeOptions()
    started = time.monotonic()
    share = share_of(workspace, options.shard)
    read = partial(read_corpus, captions) if options.shard[1] == 1 else no_captions
    frames, corpus, about, plan = _inputs(workspace, backbone, read, options, own=_is_own(captions), may_ask=True)
    options = precision.settled(options)
    records = share.records(frames.records)
    device = pick_device(options.device)
    model = registry.load(
        about.name,
        offline=options.offline,
        device=device,
        temporal_shift=options.temporal_shift,
        precision=DTYPES[options.precision],
    )
    model.merge_for_inference()
    use_fast_linear(model)
    _remember_text(model, about.name)
    by_time = has_films(frames.plan, model.provides, options)
    identity = plan.identity(model.identity(), frames.identity)
    fingerprint = features.fingerprint_of(identity)
    folder = workspace.feature_folder(fingerprint)
    made = Made.of(
        identity,
        backbone=about.name,
        dim=model.dim,
        provides=(model.provides - ON_DEMAND) | plan.extra | ({"timeline.frames"} if by_time else set()),
        provenance={**_provenance(model, frames, options, device), **text_norm(model, identity)},
        dtype=str(DTYPES[options.dtype]).removeprefix("torch."),
    )
    require_own(folder, workspace)
    with files.lock(folder), torch.inference_mode():
        writer = FeatureWriter(folder, made, workspace)
        new_clips = _new_clips(records, writer.keys("video"))
        new_texts = _new_texts(corpus, writer)
        if by_time:
            todo = share.films(lacking(frames, writer.keys("timeline"), writer.keys("video")))
            batch = options.batch or _FRAMES_A_BATCH.get(device.type, 48)
            encode_films(writer, model, frames, todo, plan, dtype=DTYPES[options.dtype], batch=batch)
        else:
            _encode_clips(writer, model, frames, new_clips, plan, options)
        truncated = encode_texts(writer, model, new_texts, plan, options)
        timelines = row_keys(frames.films()) if by_time else ()
        if share.is_all:
            writer.finish(records, stored_captions(corpus), corpus.about(frames), timelines)
        size = writer.size_bytes()
    return PrecomputeReport(
        folder=folder,
        fingerprint=fingerprint,
        backbone=about.name,
        clips=ClipCounts(len(records), len(new_clips), len(records) - len(new_clips)),
        captions=_counts(corpus, encoded=len(new_texts), truncated=truncated),
        size_bytes=size,
        seconds=time.monotonic() - started,
    )


def dry_run(
    workspace: Workspace,
    backbone: str | None = None,
    captions: Captions = None,
    options: PrecomputeOptions | None = None,
) -> PrecomputePreview:
    """Say what `precompute` with the same arguments would encode, its bytes and about how long it would take.

    Writes nothing, and the weights need not be here. Raises what `precompute` raises before any work.
    """
    options = options or PrecomputeOptions()
    read = partial(count_captions, captions) if options.shard[1] == 1 else no_census
    found = _inputs(workspace, backbone, read, options, own=_is_own(captions), may_ask=False)
    return _planned(workspace, *found, precision.settled(options))


def _is_own(captions: Captions) -> bool:
    """Return whether captions are of one's own videos, and not of a data set, which keeps what its papers took."""
    return captions is None or isinstance(captions, Path | Corpus)


def backbone_of(
    store: FeatureStore, *, named: str | None = None, offline: bool = False, device: str = "auto"
) -> Backbone:
    """Load the backbone that made a store. named: what a person called it, if anything (`registry.require_named`).

    Raises StoreMismatch when its weights or settings have changed.
    """
    store.require_encoder()
    registry.require_named(store.backbone_name, named, store.root)
    model = registry.load(
        store.backbone_name,
        offline=offline,
        device=pick_device(device),
        temporal_shift=bool(store.identity["backbone"]["temporal_shift"]),
    )
    command = (
        commands.tvr("precompute-features", backbone=store.backbone_name, workspace=store.workspace)
        if store.imported is None
        else store.import_again
    )
    features.check_identity(store, {**store.identity, "backbone": model.identity()}, command)
    _remember_text(model, store.backbone_name)
    return model


def _remember_text(model: Backbone, name: str) -> None:
    """Keep what encodes sentences without the backbone, for the next query."""
    if text_card.recall(name) is None and (card := model.text_card()) is not None:
        text_card.remember(name, card)


def _inputs(
    workspace: Workspace,
    backbone: str | None,
    read: Callable[[FrameStore, FeatureStore | None], _Read],
    options: PrecomputeOptions,
    *,
    own: bool,
    may_ask: bool,
) -> tuple[FrameStore, _Read, Description, FeaturePlan]:
    """Return what features are computed from, with what and how, or refuse it.

    read: the captions, or how many there are, of the frames and of the newest features.
    """
    frames = workspace.frames()
    if not frames.records:
        raise DataError(f"the frame store {str(frames.root)!r} holds no clip; run: " + workspace.extract_again())
    corpus = read(frames, workspace.newest_features())
    chosen = choose_backbone(
        backbone,
        workspace,
        own=own,
        shift=options.temporal_shift,
        words=options.max_words,
        device=options.device,
        offline=options.offline,
        may_ask=may_ask,
        captions=len(corpus.texts),
    )
    about = registry.resolve(chosen)
    suiting.require(about, frames, options, workspace)
    plan = FeaturePlan.make(options, frames.plan, backbone=about.name, context=about.context_length)
    plan = replace(plan, importance=word_importance.rule_identity(plan.importance))
    suiting.warn(about, frames)
    return frames, corpus, about, plan


def _counts(corpus: Corpus, *, encoded: int, truncated: int) -> CaptionCounts:
    return CaptionCounts(
        total=len(corpus.captions),
        texts=len(corpus.texts),
        encoded=encoded,
        truncated=truncated,
        set_aside=len(corpus.aside),
    )


# ----------------------------------------------------------------------------------------------------------- encoding


def _encode_clips(
    writer: FeatureWriter,
    model: Backbone,
    frames: FrameStore,
    records: Sequence[ClipRecord],
    plan: FeaturePlan,
    options: PrecomputeOptions,
) -> None:
    width = plan.slots or max((r.n_frames for r in records), default=1)
    a_frame = 1 + model.about.patches if plan.patches else 1
    rows = _shard_rows(width * a_frame * model.dim * DTYPES[options.dtype].itemsize, _SHARD_CLIPS)
    a_batch = options.batch or _FRAMES_A_BATCH.get(model.device.type, 48)
    if "video.pooled" in model.provides and model.device.type == "cpu" and options.batch is None:
        a_batch = width  # attention over all of a clip's patches: a batch would take gigabytes and save nothing
    clips = max(1, a_batch // width)
    ids = [record.id for record in records]
    with progress("encoding frames", total=len(records), unit="clips") as bar:
        for start in range(0, len(ids), rows):
            parts: list[tuple[list[str], VideoFeatures]] = []
            chunk = ids[start : start + rows]
            for batch in frame_batches(frames, chunk, view=model.about.view, slots=plan.slots, clips=clips):
                keys = [clip_row_key(r.key, r.n_frames) for r in batch.records]
                parts.append((keys, encode_batch(model, batch, plan.shape, patches=plan.patches)))
                bar.advance(len(keys))
            keys = [key for part, _ in parts for key in part]
            writer.add_video(keys, _cat_videos([video for _, video in parts]), DTYPES[options.dtype])


def encode_texts(
    writer: FeatureWriter, model: Backbone, texts: dict[str, str], plan: FeaturePlan, options: PrecomputeOptions
) -> int:
    """Encode captions by row key; returns how many of them were longer than the plan."""
    itemsize = DTYPES[options.dtype].itemsize
    rows = _shard_rows(plan.words.length * model.dim * itemsize, _SHARD_CAPTIONS)
    keys, truncated = list(texts), 0
    with progress("encoding captions", total=len(keys), unit="captions") as bar:
        for start in range(0, len(keys), rows):
            chunk = keys[start : start + rows]
            said = [texts[key] for key in chunk]
            truncated += int((model.count_tokens(said) > plan.words.length).sum())
            encoded = encode_captions(model, said, plan.words, plan.importance)
            writer.add_text(chunk, encoded, DTYPES[options.dtype])
            bar.advance(len(chunk))
    if truncated:
        logger.warning(
            "%d caption%s longer than %d tokens %s truncated (%s)",
            truncated,
            "" if truncated == 1 else "s",
            plan.words.length,
            "was" if truncated == 1 else "were",
            "--max-words" if plan.words.length < model.context_length else f"{model.name} reads no more",
        )
    return truncated


def _shard_rows(row_bytes: int, most: int) -> int:
    return max(1, min(most, _SHARD_BYTES // max(1, row_bytes)))


def _cat_videos(parts: Sequence[VideoFeatures]) -> VideoFeatures:
    width = max(p.ts.shape[1] for p in parts)

    def widen(x: torch.Tensor) -> torch.Tensor:
        out = x.new_zeros(len(x), width, *x.shape[2:])
        out[:, : x.shape[1]] = x
        return out

    slotted = {name: torch.cat([widen(getattr(p, name)) for p in parts]) for name in ("frames", "ts")}
    pooled = [p.pooled for p in parts if p.pooled is not None]
    patches = [widen(p.patches) for p in parts if p.patches is not None]
    return VideoFeatures(
        torch.cat([p.key for p in parts]),
        n_frames=torch.cat([p.n_frames for p in parts]),
        pooled=torch.cat(pooled) if pooled else None,
        patches=torch.cat(patches) if patches else None,
        **slotted,
    )


def _new_clips(records: Sequence[ClipRecord], there: set[str]) -> list[ClipRecord]:
    """Return one clip of each content that is not `there`."""
    new = {clip_row_key(r.key, r.n_frames): r for r in reversed(records)}
    return [r for key, r in reversed(new.items()) if key not in there]


def keys_there(folder: Path, workspace: Workspace, kind: str) -> set[str]:
    """Return the keys of all rows of a kind that a store has, whether it was finished or not."""
    if not (folder / heads.HEAD).is_file():
        return set()
    _, lines = heads.read(folder, workspace)
    return {key for line in lines if line.kind == kind for key in feature_rows.read_or_none(folder, line) or ()}


def _new_texts(corpus: Corpus, writer: FeatureWriter) -> dict[str, str]:
    there = writer.keys("text")
    return {key: text for key, text in corpus.texts.items() if key not in there}


def stored_captions(corpus: Corpus) -> list[StoredCaption]:
    return [
        StoredCaption(
            id=c.caption.id,
            text=c.caption.text,
            key=caption_key(c.caption.text),
            split=c.caption.split or "train",
            clips=c.clips,
            file_id=c.file_id,
            source=c.caption.source,
            start=c.caption.start,
            end=c.caption.end,
        )
        for c in corpus.captions
    ]


def _provenance(
    model: Backbone, frames: FrameStore, options: PrecomputeOptions, device: torch.device
) -> dict[str, Any]:
    return {
        "tvr": __version__,
        "torch": torch.__version__,
        **model.versions(),
        **({"weights_commit": commit} if (commit := model.about.commit) else {}),
        "device": device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
        "machine": platform.machine(),
        "dtype": options.dtype,
        "precision": options.precision,
        "gemm": gemm.setting(),
        "frames": frames.provenance,
    }


def text_norm(model: Backbone, identity: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean norm of pooled text, for a library without captions; nothing where no factor asks for it."""
    if is_clip(identity["backbone"]["name"]):
        return {}
    ids, _ = model.tokenize(_SENTENCES, min(plans.DEFAULT_WORDS, model.context_length))
    with torch.inference_mode():
        pooled = model.encode_text(ids.to(model.device))[0]
    return {"text_norm": round(float(torch.linalg.vector_norm(pooled.float(), dim=-1).mean()), 4)}


# ------------------------------------------------------------------------------------------------------------- dry run


def _planned(
    workspace: Workspace,
    frames: FrameStore,
    captions: Census,
    about: Description,
    plan: FeaturePlan,
    options: PrecomputeOptions,
) -> PrecomputePreview:
    share = share_of(workspace, options.shard)
    folder, texts = workspace.features_folder, len(captions.texts)
    records = mine = share.records(frames.records)
    per_frame, per_caption = registry.skeleton(about, temporal_shift=options.temporal_shift).cost(plan.words.length)
    fingerprint, there, films_there = None, set[str](), set[str]()
    if about.weights is not None:
        identity = about.kind.identify(about, temporal_shift=options.temporal_shift)
        fingerprint = features.fingerprint_of(plan.identity(identity, frames.identity))
        folder = folder / fingerprint
        there, films_there = (keys_there(folder, workspace, kind) for kind in ("video", "timeline"))
        records = _new_clips(records, there)
        texts = captions.unlike(keys_there(folder, workspace, "text"))
    itemsize = DTYPES[options.dtype].itemsize
    slots = sum(plan.slots or r.n_frames for r in records) if "frames" in about.provides else 0
    if plan.patches:
        slots *= 1 + about.patches
    vectors = len(records) if "video.pooled" in about.provides else 0
    tokens = texts * (plan.words.length + 1)
    pictures = sum(about.frames or r.n_frames for r in records)
    if has_films(frames.plan, about.provides, options):
        pictures = frames.count_frames(share.films(lacking(frames, films_there, there)))
        slots += pictures
    flops = per_frame * pictures + per_caption * texts
    device = pick_device(options.device)
    return PrecomputePreview(
        folder=folder,
        fingerprint=fingerprint,
        backbone=about.name,
        clips=ClipCounts(len(mine), len(records), len(mine) - len(records)),
        captions=CaptionCounts(
            total=captions.total, texts=len(captions.texts), encoded=texts, truncated=0, set_aside=captions.aside
        ),
        size_bytes=(slots + vectors + tokens) * about.dim * itemsize,
        seconds=cost.seconds(flops, device, DTYPES[options.precision]) if flops else 0.0,
        sizes=PlannedSizes(slots, vectors, tokens, about.dim, itemsize),
        weights=about.weights,
    )
