"""Building the search index of a workspace, and keeping it as new as its store and run.

Where only clips came or went since it was made, they are added and deleted; else it is built again.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tvr_cli import commands, log
from tvr_cli.backbones import registry
from tvr_cli.defaults import is_one_of
from tvr_cli.engine import scorers
from tvr_cli.engine.device import kernel_errors, pick_device
from tvr_cli.engine.features import precompute
from tvr_cli.engine.features import sentences as encoders
from tvr_cli.engine.features.encode import EncodesText
from tvr_cli.engine.scorers import Scorer
from tvr_cli.engine.searching import bank as banks
from tvr_cli.engine.searching import calibrate, films, measure, precision, texts, two_stores
from tvr_cli.engine.searching.asked import Asked
from tvr_cli.engine.searching.bank import Bank, EncodeSentences
from tvr_cli.engine.searching.confidence import Confidence
from tvr_cli.engine.searching.films import Edges
from tvr_cli.engine.searching.measure import Recall, Sentences
from tvr_cli.engine.searching.precision import Precision
from tvr_cli.engine.searching.texts import TwoStages
from tvr_cli.engine.searching.way import LEAST, Way, way_of
from tvr_cli.errors import DataError, EnvironmentProblem, MethodNotNamed, StoreMismatch, TvrError
from tvr_cli.files import bare_name, lock
from tvr_cli.results.base import Result, key
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.index import place
from tvr_cli.stores.index.opening import Kind, kind_of, open_index, parse_kind
from tvr_cli.stores.index.place import Standing
from tvr_cli.stores.index.store import ENCODING_ROWS, DoesNotFit, Index, IndexBlock, IndexedClip, Row
from tvr_cli.stores.index.timeline import FilmBlock
from tvr_cli.types import TextFeatures
from tvr_cli.workspace import Workspace

_NO_EDGES: Mapping[str, Any] = {"edge": None, "against": None}
_TRIES = 3  # to find the index as it was built: others may build theirs in between
_SENTENCES = 50  # that precision is measured with
_OUTGROWN = 2  # times the clips that the stages of a search were measured for
_GROWS_UP_TO = 0.5  # of the clips that are new; above it, building again costs little more and leaves no old rows


def identity_of(scorer: Scorer, store: FeatureStore) -> dict[str, Any]:
    """Return what an index is made from; an index with another identity is stale."""
    return {
        "backbone": store.backbone_name,
        "architecture": store.identity["backbone"]["name"],
        "store": store.fingerprint,
        "content": store.content_hash(),
        **scorer.identity(),
        **({"first": two_stores.identity_of(scorer.first)} if isinstance(scorer, TwoStages) else {}),
    }


@dataclass(frozen=True, slots=True)
class AboutBank:
    """The sentences of an index that are about nothing in particular. own: whether a user named them (`--null`)."""

    of: str
    sentences: int
    sha256: str
    own: bool


@dataclass(frozen=True)
class Measured:
    """What an index found out about itself, as far as it did."""

    precision: Precision | None = None
    search: Way | None = None
    recall: Recall | None = None
    bank: AboutBank | None = None
    moments: Edges | None = None
    confidence: Confidence | None = None


@dataclass(frozen=True, kw_only=True)
class IndexReport(Result):
    """An index and what it was made with. built: False where it was up to date, and in a dry run, where bytes are 0.

    first: the backbone that finds the candidates, None where it is the same. added, removed: clips that this run
    encoded, and that it took out. The rest is what the index says of itself, None in a dry run before there is one: how
    tensors are kept, and why; how it is searched; what that misses; the sentences that are about nothing in particular;
    where moments end, of frames that are kept by time; what sentences score that are not there.
    """

    schema = "index"
    path: Path
    method: str
    run: str | None
    backbone: str
    first: str | None
    clips: int
    videos: int
    built: bool
    added: int
    removed: int
    precision: Precision | None
    search: Way | None
    recall: Recall | None
    bank: AboutBank | None
    moments: Edges | None
    confidence: Confidence | None
    size_bytes: int = dataclasses.field(metadata=key("bytes"))


@dataclass(frozen=True)
class Made:
    """An index that was brought up to date. added, removed: clips encoded for it, and taken out of it."""

    index: Index
    added: int = 0
    removed: int = 0


@kernel_errors()
def index(
    workspace: Workspace,
    asked: Asked,
    *,
    null: Path | None = None,
    kind: Kind | None = None,
    device: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
) -> IndexReport:
    """Bring the index up to date, and say what is there.

    kind: how it is kept, None = as the one that stands, else in files.

    An existing index made with another run, method or backbone is replaced: naming them is asking for that. null: a
    file of sentences to take as the bank; the index keeps them until others are named, or it is built with `overwrite`.
    Raises DataError when something else than an index stands in its place, and for a file without sentences.
    """
    scorers.check_named(workspace, asked.run, asked.method)
    named = banks.read(null) if null is not None else None
    folder = workspace.index_folder
    place.standing(folder)  # refused before anything is loaded
    scorer, store = _wanted(workspace, asked, asked.method)
    scorer = _two_stages(workspace, scorer, store, asked, device)
    encode = _sentence_encoder(scorer, store, asked.backbone, device)
    asked = _by_name(asked, scorer)
    found = place.standing(folder)
    current = not overwrite and found is not None and (found.format, dict(found.identity), _asked_of(found)) == (
        place.INDEX_FORMAT, identity_of(scorer, store), asked,
    )  # fmt: skip
    stands = found.head if found is not None else None
    kind = kind or kind_of(stands)
    current = current and kind == kind_of(stands)
    if named is not None and current:
        current = (about := measured_of(found).bank) is not None and about.sha256 == named.sha256
    if not current:
        place.require_free(folder)
    report = IndexReport(
        path=folder,
        method=scorer.name,
        run=scorer.run.name if scorer.run else None,
        backbone=store.backbone_name,
        first=scorer.first.store.backbone_name if isinstance(scorer, TwoStages) else None,
        clips=len(store.clips),
        videos=len(set(store.clips.file_ids)),
        built=not current and not dry_run,
        added=0,
        removed=0,
        **vars(measured_of(found) if current else Measured()),
        size_bytes=0,
    )
    if dry_run:
        return report
    scorers.announce(scorer, store)
    if current:
        return replace(report, size_bytes=open_index(folder).size_bytes())
    with lock(workspace.root):
        bank = named or (banks.usual(store.backbone_name) if overwrite else None)
        again = overwrite or named is not None or kind != kind_of(stands)
        made = _bring_up(
            scorer, store, workspace, asked, device=device, encode=encode, bank=bank, again=again, kind=kind
        )
    return replace(
        report, added=made.added, removed=made.removed, **vars(measured_of(place.standing(folder))),
        size_bytes=made.index.size_bytes(),
    )  # fmt: skip


@torch.no_grad()
def build_index(
    scorer: Scorer,
    store: FeatureStore,
    workspace: Workspace,
    asked: Asked,
    *,
    device: str = "auto",
    encode: EncodeSentences | None = None,
    bank: Bank | None = None,
    kind: Kind = Kind(),
) -> Index:
    """Encode every clip of the store and write the index. The caller holds the workspace's lock.

    kind: how it is kept. encode: makes features of sentences, for a store without captions of its own to measure
    with. bank: the sentences that are about nothing in particular, None = those that go with the encoder.
    """
    scorer.method.to(pick_device(device))
    bank = bank or banks.usual(store.backbone_name)
    started, every = time.perf_counter(), range(len(store.clips))
    held = functools.cache(lambda: texts.to_measure_with(scorer, store, encode, bank))
    found = _measured(scorer, store, held)

    def measure_search(index: Index) -> dict[str, Any]:
        method = scorer.method.to("cpu")  # what is measured is what a query does
        spent = measure.BUILD_SHARE * (time.perf_counter() - started)
        two = isinstance(scorer, TwoStages)
        way, recall = measure.measured(method, index, lambda: texts.on_cpu(*held()), seconds=spent, two_stores=two)
        found = calibrate.found(scorer, store, encode, bank, index, way, seconds=spent)
        return {"way": asdict(way), "recall": asdict(recall) if recall else None, "confidence": asdict(found)}

    def queries() -> torch.Tensor | None:
        found = texts.on_cpu(*held())[0]
        return None if found is None else scorer.method.to("cpu").coarse(found.rows(slice(0, _SENTENCES)))

    edges, vectors = _edges(scorer, store, encode, bank) if kind.has_films else (None, None)

    def written(found: Precision) -> Index:
        about = {"precision": asdict(found), "bank": bank.about(), "moments": asdict(edges) if edges else None}
        by_time = films.blocks(store, None, edges.edge, vectors) if edges else ()
        write = kind.writer(by_time, queries)
        return write(
            workspace.index_folder, identity_of(scorer, store), _blocks(scorer, store, every), asked=asdict(asked),
            measure=measure_search, null_sentences=bank.sentences if bank.own else (), stored=found.stored,
            measured=about,
        )  # fmt: skip

    try:
        return written(found)
    except DoesNotFit as e:
        scorer.method.to(pick_device(device))
        return written(precision.full(str(e)))


def _edges(
    scorer: Scorer, store: FeatureStore, encode: EncodeSentences | None, bank: Bank
) -> tuple[Edges | None, np.ndarray | None]:
    """Return where moments end and the bank's unit vectors [n, D]; None where a store has no frames by time."""
    if not store.has_films:
        return None, None
    edge, vectors = films.measured_edge(store), None
    try:
        vectors = None if encode is None else texts.bank_vectors(scorer, store, encode, bank)
    except TvrError as e:
        log.logger.info("moments are compared with no other sentences: none could be encoded (%s)", e)
    return Edges(edge, None if vectors is None else bank.of), vectors


def kind_named(store: str, memory: int | None) -> Kind:
    """Return how an index is kept that `--store` names. memory: bytes of coarse vectors. Raises ConfigError."""
    return parse_kind(store, memory)


def measured_of(found: Standing | None) -> Measured:
    """Return what the head of an index says that was found out."""
    if found is None or found.head is None:
        return Measured()
    kept = found.head.measured
    made = {"precision": Precision, "recall": Recall, "bank": AboutBank, "moments": Edges, "confidence": Confidence}
    way = way_of(kept, found.head.rows) if kept.get("way") else None
    return Measured(search=way, **{name: of(**kept[name]) for name, of in made.items() if kept.get(name)})


def asked_for(workspace: Workspace, flags: Asked) -> Asked:
    """Return what a query is to be answered with: its flags, else what the index was built for.

    Raises ConfigError or DataError when a flag names what does not exist, StoreMismatch when it names another run,
    method or backbone than the index was made with, DataError when something else stands in the place of the index.
    """
    scorers.check_named(workspace, flags.run, flags.method)
    if flags.backbone is None:
        registry.require_known_variable()
    found = place.standing(workspace.index_folder)
    if found is None:
        return flags
    _refuse_other(found.identity, flags, workspace)
    before = _asked_of(found)
    if before.run is not None and not workspace.run(before.run).config_path.is_file():
        log.logger.info("the run %r that the index was built for is gone", before.run)
        before = replace(before, run=None)
    named = (flags.run or before.run, flags.method or before.method, flags.backbone or before.backbone)
    return Asked(*named, flags.first or before.first)


def fresh_index(
    workspace: Workspace,
    asked: Asked,
    *,
    named: str | None = None,
    device: str = "auto",
    encode: Callable[[Scorer, FeatureStore], EncodeSentences] | None = None,
    lagging: bool = False,
) -> tuple[Index, Scorer, FeatureStore]:
    """Return the workspace's index, brought up to date where it is missing or older than its store or run.

    named: the method that the command itself names; another one that is not built in is not loaded (MethodNotNamed).
    encode: makes what makes features of sentences, see `build_index`. Nobody waits for readers: what is returned stays
    readable when the index is replaced. lagging: an index that lacks clips, or has some too many, will do, as somebody
    else is about to bring it up to date (`kept.py`).
    Where nothing was asked for the newest run of the features answers, else the untrained `text_guided`.
    """
    folder = workspace.index_folder
    scorer, store = _wanted(workspace, asked, named)
    scorer = _two_stages(workspace, scorer, store, asked, device)
    wanted = identity_of(scorer, store)
    for _ in range(_TRIES):
        if not _differs(standing := place.standing(folder), wanted, lagging):
            assert standing is not None, "what differs in nothing is there"
            if (index := open_index(folder)).identity == standing.identity:
                return index, scorer, store
            continue  # another process replaced it in between
        with lock(workspace.root):
            found = place.standing(folder)
            if not (changed := _differs(found, wanted)):
                continue  # another process was faster
            if found is not None:
                log.logger.info("the index is out of date (%s changed); refreshing it", ", ".join(changed))
            scorers.announce(scorer, store)
            sentences = encode(scorer, store) if encode is not None else None
            made = _bring_up(scorer, store, workspace, _by_name(asked, scorer), device=device, encode=sentences)
            return made.index, scorer, store
    raise EnvironmentProblem(
        f"other tvr processes keep rebuilding the index of {str(workspace)!r} for other runs; wait until they end"
    )


def _differs(found: Standing | None, wanted: Mapping[str, Any], lagging: bool = False) -> list[str]:
    """Return what an index that was found does not have as it is wanted; empty = nothing. lagging: but its clips."""
    if found is None:
        return ["everything"]
    names = dict.fromkeys([*wanted, *({"first"} & found.identity.keys())])
    changed = [name for name in names if found.identity.get(name) != wanted.get(name)]
    if lagging:
        changed = [name for name in changed if name != "content"]
    return changed if found.format == place.INDEX_FORMAT else ["format", *changed]


def _bring_up(
    scorer: Scorer,
    store: FeatureStore,
    workspace: Workspace,
    asked: Asked,
    *,
    device: str,
    encode: EncodeSentences | None,
    bank: Bank | None = None,
    again: bool = False,
    kind: Kind | None = None,
) -> Made:
    """Add and delete what came and went, or build the index again. The caller holds the workspace's lock.

    kind: how it is kept, None = as the one that stands. bank: None = the one that the index keeps, else that of the
    encoder.
    """
    grown = None if again else _grow(scorer, store, workspace, asked, device, encode)
    if grown is not None:
        return grown
    found = place.standing(workspace.index_folder)
    before = found.head.rows if found is not None and found.head is not None else 0
    bank = bank or _bank_kept(workspace)
    kind = kind or kind_of(found.head if found is not None else None)
    index = build_index(scorer, store, workspace, asked, device=device, encode=encode, bank=bank, kind=kind)
    return Made(index, len(store.clips), before)


@torch.no_grad()
def _grow(
    scorer: Scorer,
    store: FeatureStore,
    workspace: Workspace,
    asked: Asked,
    device: str,
    encode: EncodeSentences | None,
) -> Made | None:
    """Bring an index up to date by what came and went; None where it has to be built again."""
    found = place.standing(workspace.index_folder)
    wanted = identity_of(scorer, store)
    if found is None or found.head is None or set(_differs(found, wanted)) - {"content"}:
        return None
    try:
        index = open_index(workspace.index_folder)
        there = {clip.id: clip for _, clip in index.listing()}
    except DataError:
        return None  # it is derived: what is damaged is built again
    rows = [Row(c.id, c.file_id, c.path, *c.span, c.key, _slots(store, c.n_frames)) for c in store.clips]
    new = [i for i, row in enumerate(rows) if there.get(row.id) != row]
    by_time_too = store.has_films and kind_of(found.head).has_films
    if by_time_too:  # those of a file go and come whole: which seconds its clips cover decides what they are
        changed = {rows[i].id for i in new} | (there.keys() - {row.id for row in rows})
        touched = {rows[i].file_id for i in new} | {there[id_].file_id for id_ in changed & there.keys()}
        new = [i for i, row in enumerate(rows) if row.file_id in touched]
    kept = {row.id for row in rows} - {rows[i].id for i in new}
    gone = there.keys() - kept
    dead = index.head.rows - len(index) + len(gone)
    way = index.measured.get("way")
    if way is not None and len(rows) > max(LEAST, _OUTGROWN * way["clips"]):
        return None
    if index.worn or len(new) > _GROWS_UP_TO * len(rows) or dead > _GROWS_UP_TO * index.head.rows:
        return None
    edges = Edges(**(index.measured.get("moments") or _NO_EDGES))
    by_time: Iterable[FilmBlock] = ()
    if by_time_too and new:
        bank, vectors = banks.of_index(index) or banks.usual(store.backbone_name), None
        if edges.against is not None:  # the moments of before were compared with it, so those that come are, too
            if encode is None:
                return None
            vectors = texts.bank_vectors(scorer, store, encode, bank)
        by_time = films.blocks(store, new, edges.edge, vectors)
    started = time.perf_counter()

    def again(grown: Index) -> dict[str, Any]:
        scorer.method.to("cpu")
        spent = measure.BUILD_SHARE * (time.perf_counter() - started)
        bank, way = banks.of_index(index) or banks.usual(store.backbone_name), way_of(grown.measured, len(grown))
        return {"confidence": asdict(calibrate.found(scorer, store, encode, bank, grown, way, seconds=spent))}

    scorer.method.to(pick_device(device))
    try:
        if gone:
            index = index.delete(gone)
        grown = index.append(
            _blocks(scorer, store, new), identity=wanted, asked=asdict(asked), films=by_time, measure=again
        )
        return Made(grown, len(new), len(gone))
    except DoesNotFit as e:
        log.logger.info("the index is built again: %s", e)
        return None


def _blocks(scorer: Scorer, store: FeatureStore, clips: Sequence[int]) -> Iterator[IndexBlock]:
    with log.progress("indexing", total=len(clips), unit="clips") as bar:
        for start in range(0, len(clips), ENCODING_ROWS):
            block = _block(scorer, store, clips[start : start + ENCODING_ROWS])
            yield replace(block, encoding=block.encoding.to("cpu"))
            bar.advance(len(block.clips))


def _block(scorer: Scorer, store: FeatureStore, clips: Sequence[int]) -> IndexBlock:
    """Encode some clips; the encoding stays on the method's device."""
    video = store.video(torch.tensor(list(clips), dtype=torch.int64), patches=scorer.method.reads_patches)
    encoded = scorers.encode_videos(scorer.method, video)
    if isinstance(scorer, TwoStages):
        encoded = two_stores.with_vectors(encoded, scorer.first.vectors(video.key))
    rows = store.clips.take(clips)
    indexed = [IndexedClip(c.id, c.file_id, c.path, *c.span) for c in rows]
    ts, n_frames = video.ts, video.n_frames
    if not video.frames.shape[1]:  # one slot stands for the whole clip
        ts, n_frames = ts.new_tensor([[c.span[0]] for c in rows]), torch.ones_like(n_frames)
    return IndexBlock(indexed, encoded, scorer.method.coarse(encoded).cpu(), ts, n_frames)


def _slots(store: FeatureStore, n_frames: int) -> int:
    """Return how many slots a clip of so many frames has in an index: one where features have no frames."""
    return n_frames if "video.frames" in store.tensors else 1


def _measured(scorer: Scorer, store: FeatureStore, sentences: Sentences) -> Precision:
    """Measure on a block of clips from all over the store whether half precision will do."""
    if not store.clips:
        return precision.full("there is no clip to measure with")
    if len(store.clips) < precision.HALF_FROM:
        return precision.full(f"fewer than {precision.HALF_FROM:,} clips")
    texts, of = sentences()
    if texts is None:
        return precision.full(of)
    step = max(1, -(-len(store.clips) // ENCODING_ROWS))
    block = _block(scorer, store, range(0, len(store.clips), step))
    sample = replace(block, encoding=block.encoding, coarse=block.coarse.to(scorers.device_of(scorer.method)))
    return precision.measure(scorer.method, texts, of, sample)


def _bank_kept(workspace: Workspace) -> Bank | None:
    """Return a user's bank that the index keeps; None where it keeps none that can be read."""
    try:
        found = place.standing(workspace.index_folder)
        return banks.of_index(open_index(workspace.index_folder)) if found is not None and found.head else None
    except DataError:
        return None


def _sentence_encoder(scorer: Scorer, store: FeatureStore, backbone: str | None, device: str) -> EncodeSentences:
    """Return what makes features of sentences with the store's backbone, loaded at its first call, never downloaded."""

    @functools.cache
    def model() -> EncodesText:
        tokens = "tokens" in scorer.method.needs
        return encoders.encoder_of(store, named=backbone, offline=True, device=device, tokens=tokens)

    def encode(sentences: Sequence[str]) -> TextFeatures:
        return precompute.encode_captions(model(), list(sentences), store.word_plan, store.word_importance)

    return encode


def _two_stages(
    workspace: Workspace,
    scorer: Scorer,
    store: FeatureStore,
    asked: Asked,
    device: str,
) -> Scorer:
    """Return the scorer with what finds its candidates, where another backbone was named for that."""
    if asked.first is None:
        return scorer
    first = two_stores.first_of(workspace, asked.first, store)
    encode = _sentence_encoder(first.scorer, first.store, asked.first, device)
    held = {field.name: getattr(scorer, field.name) for field in dataclasses.fields(Scorer)}
    return TwoStages(**{**held, "method": two_stores.Ranked(scorer.method).eval()}, first=first, encode=encode)


def _wanted(workspace: Workspace, asked: Asked, named: str | None) -> tuple[Scorer, FeatureStore]:
    found = workspace.find_run(asked.run) if asked.run is not None else None
    store = scorers.store_for(workspace, found, asked.backbone)
    if found is None and asked.method is None:
        found = workspace.newest_run_on(store)
    if found is not None:
        return scorers.trained(found, store, named), store
    method = asked.method or scorers.default_for(store)
    if "." in method and method != named:
        raise MethodNotNamed(f"the index in {str(workspace.index_folder)!r}", method)
    return scorers.untrained(method, store), store


def _by_name(asked: Asked, scorer: Scorer) -> Asked:
    """Return `asked` with a run's name where its path was given, and without its method, which the run says itself."""
    return replace(asked, run=scorer.run.name, method=None) if asked.run and scorer.run else asked


def _asked_of(found: Standing) -> Asked:
    run = found.asked.get("run")
    named = (found.asked.get(name) for name in ("method", "backbone", "first"))
    return Asked(run and bare_name(run, Path(place.HEAD)), *named)


def _refuse_other(made: Mapping[str, Any], flags: Asked, workspace: Workspace) -> None:
    named = {"run": Path(flags.run).name if flags.run else None, "method": flags.method}
    wrong = [(field, value) for field, value in named.items() if value is not None and made.get(field) != value]
    if flags.backbone is not None and not is_one_of(flags.backbone, (made.get("backbone"), made.get("architecture"))):
        wrong.append(("backbone", flags.backbone))
    kept = made.get("first") or {}
    if flags.first is not None and not is_one_of(flags.first, (kept.get("backbone"), kept.get("architecture"))):
        wrong.append(("first", flags.first))
    # Whatever was named belongs into the command: a run of somebody's own method is loaded only where that is named.
    asked = {
        field: value for field in ("run", "method", "backbone", "first") if (value := getattr(flags, field)) is not None
    }
    if flags.first is not None:  # an index of two backbones is made by both names
        asked["then"] = asked.pop("backbone", kept.get("backbone"))
    for field, value in wrong:
        raise StoreMismatch(
            f"the index was made with {field} {_made_with(made, field)!r}, but --{field} asks for {value!r}; rebuild "
            f"it with: {commands.tvr('index', **asked, workspace=workspace)}"
        )


def _made_with(made: Mapping[str, Any], field: str) -> str:
    found = made.get(field)
    return (found["backbone"] if isinstance(found, Mapping) else found) or "none"
