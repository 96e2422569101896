"""Writing a feature store: shards as they are ready, then in one step the clips and captions that now count.

Runs under the lock of the store's folder. A crash leaves whole shards, which the next run takes over, and the state of
before; shards that nothing refers to any more are removed after the new state is in place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli import files
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.log import logger
from tvr_cli.removal import listed
from tvr_cli.stores.features import store as features
from tvr_cli.stores.features.shards import Kind, ShardLine, offsets, read_lines
from tvr_cli.stores.features.store import StoredCaption
from tvr_cli.stores.frames.store import ClipRecord
from tvr_cli.types import TextFeatures, VideoFeatures

# Names that only this module gives: nothing else in the folder is ever deleted.
_OWN = re.compile(r"(video|text)-[0-9a-f]{16}\.safetensors|(clips|captions)-[0-9a-f]{16}\.json")
_FIXED = ("store.json", "state.json", "shards.jsonl")
_TEMPORARY = re.compile(rf"({_OWN.pattern}|(store|state)\.json|shards\.jsonl)\.\d+\.tmp")


class FeatureWriter:
    """One feature store opened for writing; the caller holds the lock of its folder."""

    def __init__(self, folder: Path, header: Mapping[str, Any]):
        """Begin or continue the store. header: see `header_of`.

        Raises StoreMismatch on another format version or where something else is in the folder.
        """
        self.root = folder
        require_own(folder)
        if not (folder / "store.json").is_file():
            files.write_json(folder / "store.json", dict(header))
        self._fixed_frames = header["identity"]["shape"] == "fixed"
        self._fixed_words = header["identity"]["words"]["shape"] == "fixed"
        self._lines = [line for line in read_lines(folder) if self._whole(line)]

    def keys(self, kind: Kind) -> set[str]:
        """Return the keys of all rows that are there."""
        return {key for line in self._lines if line.kind == kind for key in line.keys}

    def size_bytes(self) -> int:
        """Return the size of all shards."""
        return sum(line.size_bytes for line in self._lines)

    def add_video(self, keys: Sequence[str], video: VideoFeatures, dtype: torch.dtype) -> None:
        """Write the features of some clips as one shard. Raises DataError for a value that `dtype` cannot hold."""
        lengths = video.n_frames.tolist()
        if self._fixed_frames:
            tensors = {"frames": video.frames, "frame_ts": video.ts}
        else:
            tensors = {
                "frames": torch.cat([f[:n] for f, n in zip(video.frames, lengths, strict=True)]),
                "frame_ts": torch.cat([t[:n] for t, n in zip(video.ts, lengths, strict=True)]),
                "frame_offsets": offsets(lengths),
            }
        tensors["frames"] = _cast(tensors["frames"], dtype, "frames")
        self._write("video", keys, {"key": video.key, "n_frames": video.n_frames, **tensors})

    def add_text(self, keys: Sequence[str], text: TextFeatures, dtype: torch.dtype) -> None:
        """Write the features of some captions as one shard. Raises DataError for a value that `dtype` cannot hold."""
        tensors = {"key": text.key, "n_tokens": text.n_tokens, "pooled": _cast(text.pooled, dtype, "pooled")}
        if text.tokens is not None and self._fixed_words:
            tensors["tokens"] = _cast(text.tokens, dtype, "tokens")
        elif text.tokens is not None:
            lengths = text.n_tokens.tolist()
            flat = torch.cat([t[:n] for t, n in zip(text.tokens, lengths, strict=True)])
            tensors |= {"tokens": _cast(flat, dtype, "tokens"), "token_offsets": offsets(lengths)}
        if text.importance is not None:
            tensors["importance"] = text.importance
        self._write("text", keys, tensors)

    def drop(self, name: str) -> bool:
        """Forget a shard, so that its rows are made again. False when there is no such shard."""
        kept = [line for line in read_lines(self.root) if line.name != name]
        if len(kept) == len(read_lines(self.root)):
            return False
        files.write_text(self.root / "shards.jsonl", _json_lines(kept))
        (self.root / name).unlink(missing_ok=True)
        self._lines = [line for line in self._lines if line.name != name]
        return True

    def finish(self, clips: Sequence[ClipRecord], captions: Sequence[StoredCaption], corpus: Mapping[str, Any]) -> bool:
        """Make `clips` and `captions` what the store contains. Returns False when that is what it contained already."""
        state = {
            "clips": self._write_list("clips", [dataclasses.asdict(c) for c in clips]),
            "captions": self._write_list("captions", [_caption_json(c) for c in captions]),
            "corpus": dict(corpus),
        }
        path = self.root / "state.json"
        before = features.read_state(self.root) if path.is_file() else None
        if before != state:
            files.write_json(path, state)
        else:
            os.utime(path)  # the store that was asked for last is the newest
        live = {features.clip_row_key(c.key, c.n_frames) for c in clips}
        self._sweep(live | {features.text_row_key(c.text) for c in captions}, state)
        return before != state

    # ---------------------------------------------------------------------------------------------------------- private

    def _write(self, kind: Kind, keys: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save

        metadata = {"format": f"tvr/features@{features.FORMAT_VERSION}", "kind": kind}
        data = save({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, metadata=metadata)
        name = f"{kind}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
        sha256 = files.write_bytes(self.root / name, data)
        line = ShardLine(name, kind, sha256, len(data), tuple(keys))
        files.append_line(self.root / "shards.jsonl", line.to_json())
        self._lines = [*(old for old in self._lines if old.name != name), line]

    def _write_list(self, what: str, records: list[dict[str, Any]]) -> str:
        data = json.dumps(records, ensure_ascii=False, separators=(",", ":")).encode()
        name = features.list_name(what, data)
        if not (self.root / name).is_file() or (self.root / name).read_bytes() != data:
            files.write_bytes(self.root / name, data)
        return name

    def _sweep(self, live: set[str], state: Mapping[str, Any]) -> None:
        """Remove shards without a live row, lines of files that are gone, and lists that no longer count."""
        kept = [line for line in self._lines if live.intersection(line.keys)]
        if kept != read_lines(self.root):
            files.write_text(self.root / "shards.jsonl", _json_lines(kept))
        names = {line.name for line in kept} | {state["clips"], state["captions"]}
        for path in list(self.root.iterdir()):
            if path.name not in names and (_OWN.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name)):
                with contextlib.suppress(OSError):  # a reader on Windows may hold it open; the next run removes it
                    path.unlink()
        self._lines = kept

    def _whole(self, line: ShardLine) -> bool:
        """Whether a shard's file is there in its full size; its checksum is verified when it is read."""
        path = self.root / line.name
        if path.is_file() and path.stat().st_size == line.size_bytes:
            return True
        logger.warning("shard %s is missing or has another size; its rows are made again", line.name)
        return False


def require_own(folder: Path) -> None:
    """Raise StoreMismatch (or DataError) unless `folder` is a feature store or holds nothing but parts of one.

    Shards whose store.json was lost are taken over: each is found by what it holds.
    """
    if (folder / "store.json").is_file():
        features.read_header(folder)
        return
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    there -= {".lock", *_FIXED}
    if others := [name for name in there if not (_OWN.fullmatch(name) or _TEMPORARY.fullmatch(name))]:
        raise StoreMismatch(
            f"{str(folder)!r} holds something else than a feature store: {listed(others)}; nothing was written there. "
            "Move it elsewhere, or choose another workspace with -o"
        )


def header_of(
    identity: Mapping[str, Any], *, backbone: str, dim: int, provides: Iterable[str], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what store.json holds."""
    return {
        "kind": "features",
        "format": features.FORMAT_VERSION,
        "fingerprint": features.fingerprint_of(identity),
        "backbone": backbone,
        "dim": dim,
        "provides": sorted(provides),
        "identity": dict(identity),
        "provenance": dict(provenance),
    }


def _cast(x: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    out = x.to(dtype)
    if not torch.isfinite(out).all():
        fix = "--dtype fp32" if torch.isfinite(x).all() else "another backbone or precision"
        raise DataError(
            f"the {what} features hold values that are not finite numbers as {str(dtype).removeprefix('torch.')}; "
            f"nothing of this shard was written; run again with {fix}"
        )
    return out


def _caption_json(caption: StoredCaption) -> dict[str, Any]:
    record = dataclasses.asdict(caption)
    del record["key"]  # follows from the text
    return {k: v for k, v in record.items() if v not in (None, "")}


def _json_lines(lines: Sequence[ShardLine]) -> str:
    return "".join(json.dumps(line.to_json(), ensure_ascii=False) + "\n" for line in lines)
