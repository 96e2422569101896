"""QVHighlights (Lei et al., NeurIPS 2021): `highlight_{train,val,test}_….jsonl`, one query of one video a line.

Keys: `qid`, `query`, `vid`, `duration`, `relevant_windows` [[start, end], …]. An empty list of windows, as files of
generalized moment retrieval have it (arXiv 2605.02623), says that the video does not show the query.
"""

from __future__ import annotations

from pathlib import Path

from tvr_cli import schema
from tvr_cli.data.truth import checks
from tvr_cli.data.truth.question import Question, Truth
from tvr_cli.errors import DataError

EXAMPLE = '{"qid": 1, "query": "a dog", "vid": "a_0.0_150.0", "duration": 150, "relevant_windows": [[10, 24]]}'


def read(path: Path) -> Truth:
    """Read QVHighlights. Raises DataError with file and line."""
    durations: dict[str, float] = {}
    questions: dict[str, Question] = {}
    for where, record in checks.objects(path, EXAMPLE):
        qid, video = checks.name(record, "qid", where), checks.text(record, "vid", where)
        if qid in questions:
            raise DataError(f"{where}: the qid {qid} is that of {questions[qid].source} already")
        durations[video] = checks.length(record.get("duration"), where)
        windows = record.get("relevant_windows")
        if not isinstance(windows, list):
            raise DataError(f"{where}: relevant_windows: expected a list, found {schema.shown(windows)}")
        pairs = dict.fromkeys(sorted(checks.pair(window, where) for window in windows))
        moments = tuple(checks.moment(video, *span, where, duration=durations[video]) for span in pairs)
        questions[qid] = Question(qid, checks.text(record, "query", where), video, moments, where)
    found = tuple(questions.values())
    checks.some(path, found, f"lines like {EXAMPLE}")
    return Truth("qvhighlights", path, found, durations)
