"""ActivityNet Captions (Krishna et al., ICCV 2017): `{"v_id": {"duration", "timestamps", "sentences"}}`, each sentence
a query of its own video. Times are cut to the video, and a sentence that ends before it starts is left out, as 2D-TAN
(arXiv 1912.03590) reads these files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.truth import checks
from tvr_cli.data.truth.charades import left_out
from tvr_cli.data.truth.question import Moment, Question, Truth
from tvr_cli.errors import DataError


def read(path: Path) -> Truth:
    """Read ActivityNet Captions. Raises DataError with file and video."""
    data = ann.read_json(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected a mapping from video id to its annotation, found {type(data).__name__}")
    durations: dict[str, float] = {}
    questions: list[Question] = []
    backwards: list[str] = []
    for video, record in data.items():
        where = f"{path}: video {video!r}"
        times = ann.field(record, "timestamps", list, path, f"video {video!r}")
        sentences = ann.field(record, "sentences", list, path, f"video {video!r}")
        if len(times) != len(sentences):
            raise DataError(f"{where}: expected a sentence for each time, found {len(sentences)} for {len(times)}")
        durations[video] = checks.length(record.get("duration"), where)
        _add(questions, backwards, video, record, durations[video], where)
    checks.some(path, tuple(questions), "videos with timestamps and sentences")
    notes = left_out(backwards, "sentence", "sentences")
    return Truth("activitynet-captions", path, tuple(questions), durations, notes)


def _add(
    questions: list[Question], backwards: list[str], video: str, record: Mapping[str, Any], duration: float, where: str
) -> None:
    for i, (time, sentence) in enumerate(zip(record["timestamps"], record["sentences"], strict=True)):
        start, end = checks.pair(time, f"{where}, sentence {i}")
        end = min(end, duration)
        key = f"{video}#{i}"
        if end <= start:
            backwards.append(key)
            continue
        words = checks.text({"sentence": sentence}, "sentence", f"{where}, sentence {i}")
        questions.append(Question(key, words, video, (Moment(video, start, end),), f"{where}, sentence {i}"))
