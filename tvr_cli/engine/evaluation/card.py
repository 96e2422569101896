"""The card of a result: what a reader must know beside its numbers. No torch here."""

from __future__ import annotations

from tvr_cli.engine.evaluation.evaluate_result import EvaluateReport, Fair, ScoresReport
from tvr_cli.results.card import Card, Code, Value


def card_of(report: EvaluateReport | ScoresReport) -> Card:
    """Return the card of a result."""
    judged, gallery = report.judged, report.gallery
    about = report.subject if isinstance(report, EvaluateReport) else report
    subject = report.subject if isinstance(report, EvaluateReport) else None  # not known of a score file
    data = about.data
    protocol: dict[str, str | None] = {
        "data set": (data.name if data else None) or "not named",
        "variant": data.variant if data else None,
        "split": about.split or "not named",
        "queries": f"{about.captions} captions, {about.videos} videos",
        "gallery": f"{gallery.scored}/{gallery.expected} videos, {gallery.zero_filled} zero-filled",
        "t2v": "every caption is a query",
        "v2t protocol": judged.v2t_protocol,
        "tie rule": judged.tie_rule if isinstance(judged, Fair) else "clip4clip (float equality)",
        "intervals": "95 %, bootstrap over videos" if isinstance(judged, Fair) else None,
        "selected on": subject.selected_on if subject else None,
        "method": f"{about.method} ({about.fidelity})",
        "rule": f"{subject.rule}: not comparable with any other number" if subject and subject.rule else None,
        "backbone": subject.backbone if subject else None,
        "gradients": subject.gradients if subject else None,
        "seed": None if subject is None or subject.seed is None else str(subject.seed),
    }
    hashes = dict(data.annotations) if data else {}
    if about.identity is not None:
        hashes |= {"caption ids": about.identity.captions, "video ids": about.identity.videos}
    if isinstance(report, ScoresReport):
        hashes["scores"] = report.scores_sha256
    return Card(
        of=("evaluate",),
        protocol={name: value for name, value in protocol.items() if value is not None},
        hashes=hashes,
        values=tuple(
            Value(name=f"{side} {metric}", found=value)
            for side, found in (("t2v", judged.t2v), ("v2t", judged.v2t))
            for metric, value in found.items()
        ),
        code=Code(tvr=about.tvr, commit=subject.commit if subject else None),
        versions={},
    )
