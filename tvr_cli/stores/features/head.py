"""The head of a feature store: `store.json`, and the list of shards that it covers.

How a head covers its list is in `stores/listing.py`; here is what both say. A store is finished when its head names
the tables of clips and captions that it contains; until then it has shards, which the next run takes over.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tvr_cli import commands, files, imported, schema
from tvr_cli.commands import Folder
from tvr_cli.defaults import is_one_of
from tvr_cli.errors import DataError, EnvironmentProblem, StoreMismatch
from tvr_cli.imported import Imported
from tvr_cli.schema import Misfit
from tvr_cli.stores import listing
from tvr_cli.stores.columns import SHAPE, Table
from tvr_cli.stores.features.columns import CAPTIONS, CLIPS
from tvr_cli.stores.listing import HEAD, LIST, Covered

FORMAT_VERSION = 2
HASHED = "sha256:"  # begins the source of imported features that nobody named: the hash of the files
UNNAMED = "unnamed"  # the backbone of imported features whose encoder nobody named
OLD_LIST = "shards.jsonl"  # of format 1
Kind = Literal["video", "text", "timeline"]
# Names that only a feature store gives.
SHARD = re.compile(r"(video|text|timeline)-[0-9a-f]{16}\.safetensors")
ROWS = re.compile(r"(video|text|timeline)-[0-9a-f]{16}\.[0-9a-f]{12}\.rows\.json")
# What a store may need of its reader beyond this version: a later one adds a word where an older one would read wrong.
_KNOWN_USES: frozenset[str] = frozenset({imported.KIND})
_FOLDER_OF = re.compile(r"(?P<before>local:|[^@]*@)(?P<folder>/.*)")  # names that end in the folder of a backbone
# A tensor's name is its shard's kind and its name in there; methods and backbones know four of them by a short one.
SHORT = {
    "video.frames": "frames", "text.pooled": "pooled", "text.tokens": "tokens", "text.importance": "importance",
}  # fmt: skip
TENSORS = (
    "video.frames", "video.pooled", "video.patches", "text.pooled", "text.tokens", "text.importance", "timeline.frames",
)  # fmt: skip
_MARKS = "text.importance"  # the one that holds no vectors


@dataclass(frozen=True, slots=True)
class Stored:
    """How a tensor is stored. dim: values a vector, None where it holds none. dtype: of shards that are written now."""

    dim: int | None
    dtype: str


@dataclass(frozen=True)
class Made:
    """What made a store, and what it has: said in the head and beside every shard.

    identity: backbone, frames and plans; its hash is the name of the store's folder. backbone: what it was called.
    tensors: by full name (`TENSORS`).
    """

    identity: Mapping[str, Any]
    backbone: str
    tensors: Mapping[str, Stored]
    provenance: Mapping[str, Any]

    @staticmethod
    def of(
        identity: Mapping[str, Any],
        *,
        backbone: str,
        dim: int,
        provides: Iterable[str],
        provenance: Mapping[str, Any],
        dtype: str = "float16",
        dims: Mapping[str, int] | None = None,
    ) -> Made:
        """Return what a backbone makes. provides: of its features, by short or full name. dims: those other than D."""
        full = {short: name for name, short in SHORT.items()}
        there = {full.get(name, name) for name in provides}
        tensors = {
            name: Stored(None, "uint8") if name == _MARKS else Stored((dims or {}).get(name, dim), dtype)
            for name in TENSORS
            if name in there
        }
        return Made(dict(identity), backbone, tensors, dict(provenance))

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.identity)

    @property
    def imported(self) -> Imported | None:
        """What is known of features that somebody else computed, None of those that were computed here."""
        return Imported.from_identity(self.identity["frames"])

    @property
    def names_backbone(self) -> bool:
        """Whether what made it is known by name: imported features may lack that."""
        return self.backbone != UNNAMED

    def made_by(self, backbone: str) -> bool:
        """Whether `backbone` is a name of the backbone: the one given then, or its own."""
        return is_one_of(backbone, (self.backbone, self.identity["backbone"]["name"]))

    def to_json(self) -> dict[str, Any]:
        tensors = {name: {"dim": how.dim, "dtype": how.dtype} for name, how in self.tensors.items()}
        return {
            "identity": dict(self.identity),
            "backbone": self.backbone,
            "tensors": tensors,
            "provenance": dict(self.provenance),
        }

    @staticmethod
    def from_json(said: Mapping[str, Any]) -> Made:
        """Read what `to_json` wrote, its types being checked (`MADE`)."""
        tensors = {name: Stored(how["dim"], how["dtype"]) for name, how in said["tensors"].items()}
        return Made(said["identity"], said["backbone"], tensors, said["provenance"])


@dataclass(frozen=True, slots=True)
class NormSum:
    """The L2 norms of real vectors: their sum, and how many there are."""

    total: float
    count: int


@dataclass(frozen=True, slots=True)
class ShardLine:
    """One line of the list: a shard, and the file of its rows' keys.

    norms: by the tensor's full name; None where the shard could not be read when it was migrated.
    """

    name: str
    kind: Kind
    sha256: str
    size_bytes: int
    rows: int
    keys: str
    keys_sha256: str
    keys_bytes: int
    norms: Mapping[str, NormSum] | None

    def to_json(self) -> dict[str, Any]:
        return {
            "shard": self.name,
            "kind": self.kind,
            "sha256": self.sha256,
            "bytes": self.size_bytes,
            "rows": self.rows,
            "keys": self.keys,
            "keys_sha256": self.keys_sha256,
            "keys_bytes": self.keys_bytes,
            "norms": norms_to_json(self.norms),
        }


@dataclass(frozen=True)
class Finished:
    """What a store contains since a run ended. content: hash of clips and captions (`tables.content_of`).

    frameless: clips without a single frame. corpus: where the captions came from.
    """

    clips: Table
    captions: Table
    content: str
    frameless: int
    corpus: Mapping[str, Any]


@dataclass(frozen=True)
class Head:
    """What store.json says. finished: None while the store is begun.

    norms: mean L2 norm of the real vectors of a tensor, in the shards that counted when a run ended.
    """

    made: Made
    shards: Covered
    norms: Mapping[str, float] = field(default_factory=dict)
    finished: Finished | None = None

    def to_json(self) -> dict[str, Any]:
        end = self.finished
        return listing.sealed({
            "kind": "features",
            "format": FORMAT_VERSION,
            "fingerprint": self.made.fingerprint,
            **self.made.to_json(),
            "norms": dict(self.norms),
            "uses": [] if self.made.imported is None else [imported.KIND],
            "shards": self.shards.to_json(),
            "finished": None if end is None else {
                "clips": end.clips.to_json(),
                "captions": end.captions.to_json(),
                "content": end.content,
                "frameless": end.frameless,
                "corpus": dict(end.corpus),
            },
        })  # fmt: skip


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return the name of a store's folder: a hash of its identity, 16 hexadecimal digits."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def write_head(folder: Path, head: Head, *, mtime_ns: int | None = None) -> None:
    """Replace store.json: what the head covers counts from now on. mtime_ns: its time, None = now."""
    files.write_json(folder / HEAD, head.to_json(), mtime_ns=mtime_ns)


def mean_norms(lines: Iterable[ShardLine]) -> dict[str, float]:
    """Return the mean norm of the vectors of each tensor in some shards."""
    sums: dict[str, NormSum] = {}
    for line in lines:
        for name, more in (line.norms or {}).items():
            before = sums.get(name, NormSum(0.0, 0))
            sums[name] = NormSum(before.total + more.total, before.count + more.count)
    return {name: sums[name].total / sums[name].count for name in TENSORS if name in sums and sums[name].count}


def list_bytes(lines: Sequence[ShardLine]) -> bytes:
    """Serialise lines of the list."""
    return listing.list_bytes(line.to_json() for line in lines)


def read(folder: Path, workspace: Folder | None = None) -> tuple[Head, tuple[ShardLine, ...]]:
    """Read the head and the list that it covers, as of one moment, also while a writer goes on.

    Raises DataError when there is no store or the head is damaged, StoreMismatch on another kind or format version.
    """

    def at_once() -> tuple[Head, tuple[ShardLine, ...]]:
        head = read_head(folder, workspace)
        lines = []
        for at, line in enumerate(covered_bytes(folder, head, workspace).split(b"\n")[:-1], start=1):
            try:
                lines.append(_line(files.parse_json(line), folder / HEAD))
            except ValueError as e:
                raise _damaged(folder / head.shards.name, f"line {at}: {e}", folder, workspace) from e
        return head, tuple(lines)

    return listing.while_written(folder, at_once)


def covered_bytes(folder: Path, head: Head, workspace: Folder | None = None) -> bytes:
    """Return the bytes of the list that the head covers. Raises DataError unless they are what was written."""
    return listing.covered_bytes(folder, head.shards, lambda path, found: _damaged(path, found, folder, workspace))


def read_head(folder: Path, workspace: Folder | None = None) -> Head:
    """Read store.json alone. Raises as `read` does."""
    path = folder / HEAD
    make = commands.tvr("precompute-features", workspace=workspace)
    require_head(folder, workspace)
    if not path.exists():
        raise DataError(f"expected a feature store in {str(folder)!r}, found none; run: {make}")
    found = files.read_json(path, fix=lambda: f"nothing of it was changed; {mend(folder, workspace)}")
    _require_format(folder, found, workspace)
    try:
        head = from_json(found, path)
    except Misfit as e:
        raise _damaged(path, str(e), folder, workspace) from e
    return replace(head, made=replace(head.made, backbone=_where_it_is(head.made.backbone, workspace)))


def require_head(folder: Path, workspace: Folder | None = None) -> None:
    """Raise DataError where a store's shards are there and the store.json that says what made them is not."""
    if (folder / HEAD).exists() or not has_store_files(folder):
        return
    raise DataError(
        f"{str(folder)!r} holds features and no store.json, which says what made them; it is left as it is: "
        + mend(folder, workspace)
    )


def has_store_files(folder: Path) -> bool:
    """Whether a folder holds a list of shards, of this format or of format 1, or files with names of feature stores."""
    return has_own_names(folder) or any(
        path.name == OLD_LIST or LIST.fullmatch(path.name) for path in folder.glob("*.jsonl")
    )


def has_own_names(folder: Path) -> bool:
    """Whether a folder holds files whose names only feature stores give: shards, rows."""
    return any(pattern.fullmatch(path.name) for path in folder.glob("*") for pattern in (SHARD, ROWS))


def from_json(found: Mapping[str, Any], path: Path) -> Head:
    """Return the head that an object of JSON says. Raises Misfit for another checksum, a missing key or another type.

    path: of the head, for the error (DataError) where it names a file that is not in its folder.
    """
    listing.require_sealed(found)
    try:
        _SHAPE(found, "")
    except ValueError as e:
        raise Misfit(str(e)) from e
    made = Made.from_json(found)
    if made.fingerprint != found["fingerprint"]:
        raise Misfit("it does not fit its fingerprint")
    if (end := found["finished"]) is not None:
        end = Finished(
            Table.from_json(end["clips"], CLIPS, "clips", path),
            Table.from_json(end["captions"], CAPTIONS, "captions", path),
            end["content"], end["frameless"], end["corpus"],
        )  # fmt: skip
    return Head(made, Covered.from_json(found["shards"]), found["norms"], end)


def norms_to_json(norms: Mapping[str, NormSum] | None) -> dict[str, list[Any]] | None:
    """Return sums of norms as a line of the list has them."""
    return None if norms is None else {name: [s.total, s.count] for name, s in norms.items()}


def norms_from_json(said: Mapping[str, Any] | None) -> dict[str, NormSum] | None:
    """Read what `norms_to_json` wrote, its types being checked (`NORMS`)."""
    return None if said is None else {name: NormSum(total, count) for name, (total, count) in said.items()}


def shard_name(name: Any, kind: str, where: Path) -> str:
    """Return the name of a shard of a kind. Raises DataError where it is not bare, Misfit where it is another's."""
    found = files.bare_name(name, where)
    if not SHARD.fullmatch(found) or not found.startswith(f"{kind}-"):
        raise Misfit(f"{found!r} is no name of a shard of {kind}")
    return found


def complete(folder: Path, workspace: Folder | None, shard: str | None = None) -> str:
    """Return the command that makes what a store misses, with the backbone and plans of that store.

    shard: the one that is damaged, where nothing else is. What was imported is imported again, whole: what is there is
    kept. The head is read for that as far as it can be, and not trusted further.
    """
    if (again := _import_again(folder, workspace)) is not None:
        return again
    return commands.tvr("precompute-features", repair=shard or folder.name, workspace=workspace)


def import_again(corpus: Mapping[str, Any], backbone: str, plan: Imported, workspace: Folder | None) -> str:
    """Return the command that imports features again. corpus: as a finished head has it, {} of one that was begun."""
    said = corpus.get("imported", {})
    return commands.tvr(
        "import-features",
        *(said.get("features") or [commands.FEATURES]),
        backbone=None if backbone == UNNAMED else backbone,
        captions=corpus.get("captions"),
        data=corpus.get("data"),
        texts=said.get("texts"),
        source=None if plan.source.startswith(HASHED) else plan.source,
        revision=plan.revision,
        num_frames=plan.num_frames,
        fps=plan.fps,
        workspace=workspace,
    )


def _import_again(folder: Path, workspace: Folder | None) -> str | None:
    """Return the command that imports a store's features again, None where they were computed or nothing says so."""
    try:
        found = files.read_json(folder / HEAD)
        plan = Imported.from_identity(found["identity"]["frames"])
        corpus = (found["finished"] or {}).get("corpus", {})
        return None if plan is None else import_again(corpus, found["backbone"], plan, workspace)
    except (DataError, EnvironmentProblem, KeyError, TypeError, AttributeError):
        return None


def _line(found: Any, where: Path) -> ShardLine:
    _LINE(found, "")
    name = shard_name(found["shard"], found["kind"], where)
    keys = files.bare_name(found["keys"], where)
    if not ROWS.fullmatch(keys) or not keys.startswith(name.partition(".")[0]):
        raise Misfit(f"{keys!r} is no name of the rows of {name!r}")
    return ShardLine(
        name, found["kind"], found["sha256"], found["bytes"], found["rows"], keys, found["keys_sha256"],
        found["keys_bytes"], norms_from_json(found["norms"]),
    )  # fmt: skip


def _require_format(folder: Path, found: Any, workspace: Folder | None) -> None:
    kind, version = (found.get("kind"), found.get("format")) if isinstance(found, dict) else (None, None)
    if kind == "features" and type(version) is int and version == 1:
        raise StoreMismatch(
            f"{str(folder)!r} is a feature store of format 1, which tvr 0.1.0 wrote; this tvr reads format "
            f"{FORMAT_VERSION}. Nothing needs to be encoded again; run: {commands.tvr('migrate', workspace=workspace)}"
        )
    if kind != "features" or type(version) is not int or version != FORMAT_VERSION:
        raise StoreMismatch(
            f"{str(folder)!r}: format: this tvr reads feature stores of format {FORMAT_VERSION}, found "
            f"{kind} {version}; it is left as it is: {_put_back(workspace)}"
        )
    uses = found.get("uses")
    if isinstance(uses, list) and (unknown := [u for u in uses if u not in _KNOWN_USES]):
        raise StoreMismatch(
            f"{str(folder)!r} uses {', '.join(map(repr, unknown))}, which a later tvr knows; it is left as it is: "
            f"update tvr, or {_put_back(workspace)}"
        )


def _where_it_is(backbone: str, workspace: Folder | None) -> str:
    """Return a backbone's name with the folder where it is now: what lies in a workspace moves and is copied with it.

    Its weights are part of the identity, so another folder of that name is refused when it is loaded.
    """
    found = _FOLDER_OF.fullmatch(backbone)
    if found is None or workspace is None or (lay := Path(found["folder"])).exists():
        return backbone
    places = (Path(workspace).joinpath(*lay.parts[i:]) for i in range(1, len(lay.parts)))
    return next((found["before"] + str(place.resolve()) for place in places if place.exists()), backbone)


def _damaged(path: Path, found: str, folder: Path, workspace: Folder | None) -> DataError:
    return DataError(f"{str(path)!r} is damaged: {found}; {mend(folder, workspace)}")


def mend(folder: Path, workspace: Folder | None) -> str:
    """Say what makes a head again: what lies beside it, unless that is of format 1."""
    if (folder / OLD_LIST).exists():
        return _put_back(workspace)
    return f"make it again from what lies beside it: {complete(folder, workspace)}"


def _put_back(workspace: Folder | None) -> str:
    make = commands.tvr("precompute-features", workspace=workspace)
    return f"put a copy of the file back, or move the folder elsewhere and compute them again (--backbone): {make}"


_SHAPES = schema.one_of("fixed", "ragged")
_NUMBERS = schema.one_of("fp16", "bf16", "fp32")
_FRAMES = schema.known({}, {
    "kind": schema.one_of("uniform", "fps", "timeline", imported.KIND), "num_frames": schema.count,
    "fps": schema.maybe(schema.number),
    "max_frames": schema.maybe(schema.count), "size": schema.count, "quality": schema.count, "filter": schema.text,
    "fit": schema.text, "short_side": schema.maybe(schema.count), "alike": schema.number,
    "source": schema.text, "revision": schema.text,
})  # fmt: skip
IDENTITY = schema.known({
    "backbone": schema.known({"name": schema.text}, {"temporal_shift": schema.flag}),
    "frames": _FRAMES,
    "shape": _SHAPES,
    "words": schema.record({"shape": _SHAPES, "length": schema.count}),
    "importance": schema.text,
}, {"patches": schema.flag})  # fmt: skip
PROVENANCE = schema.known({}, {"dtype": _NUMBERS, "precision": _NUMBERS, "text_norm": schema.number})
CORPUS = schema.known({}, {
    "captions": schema.text, "columns": schema.each(schema.text), "data": schema.text,
    "name": schema.text, "variant": schema.maybe(schema.text),
    "annotations": schema.items(schema.text), "notes": schema.items(schema.text),
    "expected": schema.each(schema.count), "missing": schema.each(schema.items(schema.text)),
    "frames_content": schema.text,
    "read": schema.each(schema.record({"stamp": schema.items(schema.integer), "sha256": schema.sha256})),
})  # fmt: skip
_STORED = schema.record({
    "dim": schema.maybe(schema.count), "dtype": schema.one_of("float16", "bfloat16", "float32", "uint8"),
})  # fmt: skip
MADE = {
    "identity": IDENTITY,
    "backbone": schema.text,
    "tensors": schema.record({}, dict.fromkeys(TENSORS, _STORED)),
    "provenance": PROVENANCE,
}
NORMS = schema.maybe(schema.record({}, dict.fromkeys(TENSORS, schema.fixed(schema.number, schema.count))))
_SHAPE = schema.record({
    "kind": schema.one_of("features"),
    "format": schema.one_of(FORMAT_VERSION),
    "fingerprint": schema.text,
    **MADE,
    "norms": schema.record({}, dict.fromkeys(TENSORS, schema.number)),
    "uses": schema.items(schema.text),
    "shards": schema.record({"list": schema.text, "bytes": schema.count, "sha256": schema.sha256}),
    "finished": schema.maybe(schema.record({
        "clips": SHAPE, "captions": SHAPE, "content": schema.sha256, "frameless": schema.count, "corpus": CORPUS,
    })),
    "sha256": schema.sha256,
})  # fmt: skip
_LINE = schema.record({
    "shard": schema.anything,  # `bare_name` says what is wrong with a name
    "kind": schema.one_of("video", "text", "timeline"),
    "sha256": schema.sha256,
    "bytes": schema.count,
    "rows": schema.count,
    "keys": schema.anything,
    "keys_sha256": schema.sha256,
    "keys_bytes": schema.count,
    "norms": NORMS,
})  # fmt: skip
