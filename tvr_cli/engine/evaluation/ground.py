"""Whether two results stand on the same ground: data set, variant, gallery and captions. No torch.

A number on MSR-VTT 7k and one on LSMDC are both "over 1000 queries", and a test of one against the other means nothing.
So what differs is told, and what nothing shows to be the same is not tested.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvr_cli.engine.evaluation.evaluate_result import Claim, Identity
from tvr_cli.files import read_json

UNPROVEN = (
    "nothing says that both were judged on the same captions and videos: score files carry ids (arrays `caption_ids` "
    "and `video_ids`, or --data); a comparison with --same-gallery takes your word"
)


def identity_of(captions: Sequence[str], videos: Sequence[str]) -> Identity:
    """Return the hashes of ids in the order of rows and columns."""
    return Identity(captions=_digest(captions), videos=_digest(videos))


def with_identity(claim: Claim, path: Path) -> Claim:
    """Return a claim with the hashes of the ids beside its file, where it has none of its own (older results)."""
    beside = path.with_suffix(".ids.json")
    if claim.identity is not None or not beside.is_file():
        return claim
    ids = read_json(beside)
    lists: list[Any] = [ids.get(name) if isinstance(ids, dict) else None for name in ("captions", "videos")]
    if not all(isinstance(found, list) for found in lists):
        return claim
    return dataclasses.replace(claim, identity=identity_of(*lists))


def apart(a: Claim, b: Claim) -> list[str]:
    """Name, as sentences, what shows that two results are of different test sets; silence shows nothing."""
    told = []
    for name, one, other in (
        ("data set", a.data.name, b.data.name),
        ("variant", a.data.variant, b.data.variant),
        ("split", a.split, b.split),
        ("number of queries", a.captions, b.captions),
        ("number of videos", a.videos, b.videos),
    ):
        if one is not None and other is not None and one != other:
            told.append(f"{name}: {one} against {other}")
    shared = sorted(a.data.annotations.keys() & b.data.annotations.keys())
    if changed := [name for name in shared if a.data.annotations[name] != b.data.annotations[name]]:
        told.append(f"annotation files of one name and other content: {', '.join(changed)}")
    if not told and a.identity is not None and b.identity is not None:
        for name in ("captions", "videos"):
            if getattr(a.identity, name) != getattr(b.identity, name):
                told.append(f"{name}: other ids, or in another order")
    return told


def proven(a: Claim, b: Claim) -> bool:
    """Whether two results that nothing sets apart are shown to be of the same captions and videos."""
    if a.identity is not None and b.identity is not None:
        return a.identity == b.identity
    return bool(a.data.annotations) and a.data == b.data and a.split is not None and a.split == b.split


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()
