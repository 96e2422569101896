"""Frame stores that say what somebody else wants, with checksums that fit: what a checksum alone does not find."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[dict[str, Any]], dict[str, Any]]


def head(folder: Path, change: Change) -> None:
    """Change store.json and give it its checksum."""
    body = json.loads((folder / "store.json").read_text())
    body = change({name: value for name, value in body.items() if name != "sha256"})
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    said = {**body, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}
    (folder / "store.json").write_text(json.dumps(said))


def line(folder: Path, change: Change) -> None:
    """Change the first line of the list of shards and let the head cover it."""
    path = folder / json.loads((folder / "store.json").read_text())["shards"]["list"]
    first, *rest = path.read_bytes().splitlines(keepends=True)
    data = json.dumps(change(json.loads(first))).encode() + b"\n" + b"".join(rest)
    path.write_bytes(data)
    covers = {"list": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    head(folder, lambda body: {**body, "shards": covers})


def records(folder: Path, change: Change) -> None:
    """Change the records of the first shard and let list and head cover them."""
    path = folder / json.loads((folder / "store.json").read_text())["shards"]["list"]
    named = folder / json.loads(path.read_bytes().splitlines()[0])["records"]
    data = json.dumps(change(json.loads(named.read_bytes()))).encode()
    named.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    line(folder, lambda said: {**said, "records_bytes": len(data), "records_sha256": digest})
