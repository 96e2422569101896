"""What a verification gives: an `Outcome` a check, and the report with its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tvr_cli.results.base import OPTIONAL, Result
from tvr_cli.results.card import Card, Code, Status, Value
from tvr_cli.runs import PACKAGES, git_state, version
from tvr_cli.version import __version__

NOT_PINNED = "not pinned"  # the revision on a card of what was read at no commit that is known


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one check went. detail: a sentence. cause: the likely one of a failure, None where none was found.

    source: whose numbers were expected, and where they stand.
    """

    name: str
    status: Status
    detail: str
    cause: str | None = field(default=None, metadata=OPTIONAL)
    source: str | None = field(default=None, metadata=OPTIONAL)
    values: tuple[Value, ...] = field(default=(), metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class VerifyReport(Result):
    """A verification. status: FAIL where any outcome is, else PASS where any is, else why there is none.

    changes: of a card that was done again, what is not as it says.
    """

    schema = "verify"
    status: Status
    outcomes: Sequence[Outcome]
    card: Card
    changes: tuple[str, ...] = field(default=(), metadata=OPTIONAL)


def compared(name: str, found: Tensor, expected: Tensor, allowed: Tensor, source: str) -> Outcome:
    """Set tensors of one shape beside each other, entry by entry; a value that is not finite is off.

    allowed: the largest |found - expected| of each entry. The outcome has the entry that is worst.
    """
    if found.shape != expected.shape:
        shapes = f"expected the shape {list(expected.shape)}, found {list(found.shape)}"
        return Outcome(name=name, status="FAIL", detail=shapes, source=source)
    got, want = found.detach().double().cpu().flatten(), expected.detach().double().cpu().flatten()
    limit = allowed.double().cpu().expand_as(expected).flatten()
    share = ((got - want).abs() / limit).nan_to_num(nan=torch.inf)
    worst = int(share.argmax())
    value = Value(name=name, found=float(got[worst]), expected=float(want[worst]), allowed=float(limit[worst]))
    off = int((share > 1).sum())
    detail = (
        f"{off} of {len(share)} values are off, the worst by {share[worst]:.3g} times what is allowed"
        if off
        else f"{len(share)} values agree, the worst within {share[worst]:.2g} of what is allowed"
    )
    return Outcome(name=name, status="FAIL" if off else "PASS", detail=detail, source=source, values=(value,))


def status_of(outcomes: Sequence[Outcome]) -> Status:
    """Return the status of several outcomes together: one failure fails them, and nothing compared is no PASS."""
    found = [outcome.status for outcome in outcomes]
    order: tuple[Status, ...] = ("FAIL", "PASS", "NOT COMPARABLE", "LEFT OUT")
    return next((status for status in order if status in found), "LEFT OUT")


def report(
    of: Sequence[str],
    outcomes: Sequence[Outcome],
    *,
    protocol: Mapping[str, str],
    hashes: Mapping[str, str],
    device: torch.device,
    who: str | None,
    packages: Sequence[str] = (),
) -> VerifyReport:
    """Return the report of a verification, with its card. packages: those whose versions count beside the usual."""
    git = git_state()
    installed = {name: found for name in (*PACKAGES, *packages) if (found := version(name)) is not None}
    status = status_of(outcomes)
    card = Card(
        of=tuple(of),
        status=status,
        protocol=protocol,
        hashes=hashes,
        values=tuple(value for outcome in outcomes for value in outcome.values),
        code=Code(tvr=__version__, commit=git["commit"], dirty=git["dirty"]),
        versions=installed,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        who=who,
    )
    return VerifyReport(status=status, outcomes=tuple(outcomes), card=card)
