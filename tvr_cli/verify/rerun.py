"""`tvr verify --card FILE`: a verification of somebody else's, done again on this machine and compared.

The card of a row of a table is scored again (`row`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tvr_cli import commands
from tvr_cli.errors import DataError
from tvr_cli.results.card import Card
from tvr_cli.verify.outcome import NOT_PINNED, VerifyReport

# Between two machines the same check may differ by this share of what it is allowed to be off.
_SHARE = 1.0
_FIX = (
    f"give the JSON that `{commands.tvr('verify', save_card=True)}` or `{commands.tvr('table', cards=True)}` "
    "of this version wrote"
)


def read(path: Path) -> Card:
    """Read a card. Raises DataError for what is none or was changed, and for one of a single measurement."""
    card = Card.from_file(path, _FIX)
    if card.of[:1] == ("evaluate",):
        raise DataError(
            f"{str(path)!r} is the card of a measurement; only a verification and a row of a "
            "table can be done again from their cards"
        )
    return card


def revision_of(card: Card) -> str | None:
    """Return the revision of what a card's verification read, None where it was not pinned."""
    said = card.protocol.get("revision")
    return None if said == NOT_PINNED else said


def again(card: Card, verify: Callable[[tuple[str, ...]], VerifyReport]) -> VerifyReport:
    """Do the verification of a card again, and say what is not as it says.

    verify: runs what the words of a card name. A value counts as the same within what it is allowed to be off; files
    count as the same by their hashes. What differs in versions or device is no change, it is why one tries.
    """
    found = verify(card.of)
    changes = other_files(card, found.card)
    if found.status != card.status:
        changes.append(f"status: {card.status} on the card, {found.status} here")
    here = {value.name: value for value in found.card.values}
    for value in card.values:
        one = here.get(value.name)
        if one is None:
            changes.append(f"{value.name}: on the card, not checked here")
        elif not abs(one.found - value.found) <= _SHARE * (value.allowed or 0.0):
            changes.append(f"{value.name}: {value.found:.9g} on the card, {one.found:.9g} here")
    return replace(found, changes=tuple(changes))


def other_files(card: Card, here: Card) -> list[str]:
    """Say which files, by their hashes, are not those of a card."""
    told = [
        f"{name}: another file, sha256 {digest[:12]}… on the card, {here.hashes[name][:12]}… here"
        for name, digest in card.hashes.items()
        if name in here.hashes and here.hashes[name] != digest
    ]
    return told + [f"{name}: named on the card, not here" for name in card.hashes if name not in here.hashes]
