"""Feature stores that say what somebody else wants, with checksums that fit: what a checksum alone does not find."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forged_frames import head, line

from tvr_cli.stores.features.head import fingerprint_of

Change = Callable[[dict[str, Any]], Any]

__all__ = ["corpus", "head", "identity", "line", "rows"]


def identity(folder: Path, change: Change) -> None:
    """Change the identity in store.json, and let its fingerprint fit."""

    def changed(body: dict[str, Any]) -> dict[str, Any]:
        said = change(body["identity"])
        return {**body, "identity": said, "fingerprint": fingerprint_of(said)}

    head(folder, changed)


def corpus(folder: Path, change: Change) -> None:
    """Change where the captions came from."""

    def changed(body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "finished": {**body["finished"], "corpus": change(body["finished"]["corpus"])}}

    head(folder, changed)


def rows(folder: Path, change: Change) -> None:
    """Change what each row of the first shard is and let list and head cover it."""
    path = folder / json.loads((folder / "store.json").read_text())["shards"]["list"]
    named = folder / json.loads(path.read_bytes().splitlines()[0])["keys"]
    data = json.dumps(change(json.loads(named.read_bytes()))).encode()
    named.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    line(folder, lambda said: {**said, "keys_bytes": len(data), "keys_sha256": digest})
