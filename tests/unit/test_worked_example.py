"""The example of docs/evaluation.md, read from the page and recomputed."""

import re
from pathlib import Path

import numpy as np
import pytest

from tvr_cli import metrics

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text()


def table(name):
    """Return the rows of the table after the comment `<!-- name -->`, as lists of cells."""
    lines = PAGE.split(f"<!-- {name} -->")[1].strip().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines[: lines.index("") if "" in lines else None]
    ]
    return [rows[0], *rows[2:]]


def example():
    rows = table("scores")[1:]
    return np.array([[float(x) for x in row[2:]] for row in rows]), np.array([int(row[1]) for row in rows])


def test_the_t2v_table_is_right():
    scores, video = example()
    ranks = metrics.text_to_video(scores, video)
    given = {row[0]: [float(x) for x in row[1:]] for row in table("t2v")}
    assert given["better"] == ranks.better.tolist() and given["tied"] == ranks.tied.tolist()
    assert given["expected rank"] == ranks.expected().tolist() and given["P(hit@1)"] == ranks.hit(1).tolist()


def test_the_t2v_numbers_in_the_text_are_right():
    scores, video = example()
    found = metrics.summary(metrics.text_to_video(scores, video))
    for name, pattern in {
        "R@1": r"R@1 = 5\.5 / 8 = \*\*([\d.]+)\*\*",
        "MnR": r"11\.5 / 8 = \*\*([\d.]+)\*\*",
        "MdR": r"their median = \*\*([\d.]+)\*\*",
        "MRR": r"6\.583 / 8 = \*\*([\d.]+)\*\*",
    }.items():
        (value,) = re.findall(pattern, PAGE)
        assert float(value) == pytest.approx(found[name], abs=5e-5), name
    assert metrics.bounds(metrics.text_to_video(scores, video))["R@1"] == [62.5, 75.0]


def test_the_v2t_table_is_right():
    scores, video = example()
    for name, r1, mdr, mnr in table("v2t")[1:]:
        found = metrics.summary(metrics.video_to_text(scores, video, name))
        assert [found["R@1"], found["MdR"], found["MnR"]] == [float(r1), float(mdr), float(mnr)], name


def test_the_places_of_video_3_are_right():
    scores, video = example()
    last = {p: metrics.video_to_text(scores, video, p).expected() for p in metrics.V2T_PROTOCOLS}
    assert last["max"][3] == 2 and last["best-caption"][3] == 3 and last["mean-rank"][6:].tolist() == [4, 3]
