"""Results on other ground are not tested against each other, and code whose scores depend on the batch shows itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniature import write_dataset
from typer.testing import CliRunner

from tvr_cli import data
from tvr_cli.cli import app
from tvr_cli.engine.evaluation import audit, compare, ground, score_file
from tvr_cli.engine.evaluation.shifted import ShiftReport, audit_shifted
from tvr_cli.errors import DataError
from tvr_cli.results.base import plain
from tvr_cli.workspace import Workspace

MSRVTT = {"name": "msrvtt", "variant": "7k", "annotations": {"MSRVTT_data.json": "aa"}}
LSMDC = {"name": "lsmdc", "annotations": {"LSMDC16_annos_val.csv": "bb"}}


def result(path: Path, r1: float, about: dict[str, Any] | None = None, **changed: Any) -> Path:
    side = {"R@1": r1, "R@5": 70.0, "R@10": 80.0}
    said = {"captions": 1000, "videos": 1000, "split": "test", "t2v": side, "v2t": side}
    path.write_text(json.dumps(said | ({"data": about} if about else {}) | changed))
    return path


def matrix(path: Path, seed: int, n: int = 40, prefix: str | None = None) -> Path:
    scores = np.random.default_rng(seed).random((n, n)) + np.eye(n)
    ids = (
        {}
        if prefix is None
        else {f"{one}_ids": np.array([f"{prefix}{i}" for i in range(n)]) for one in ("caption", "video")}
    )
    np.savez(path, scores=scores, video_of_caption=np.arange(n), **ids)
    return path


def compared(*paths: Path, **options: bool) -> compare.CompareReport:
    return compare.compare([compare.read_entry(p, "test", Workspace(p.parent)) for p in paths], **options)


def test_two_data_sets_of_1000_queries_stand_in_two_tables_without_a_p(tmp_path: Path) -> None:
    files = result(tmp_path / "a.json", 45.0, MSRVTT), result(tmp_path / "b.json", 25.0, LSMDC)
    report = compared(*files)
    assert report.tests == () and "data set: msrvtt against lsmdc" in report.apart["b"]
    assert [row.table for row in report.rows] == [0, 1] and len(compare.tables_of(report)) == 2
    audited = audit.audit_all(list(files), None, None)
    assert audited.differences == [] and audited.apart == ["data set: msrvtt against lsmdc"]
    assert compared(*files, same_gallery=True).tests == ()  # vouching is for silence, not against what is said


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": {**MSRVTT, "variant": "9k"}}, "variant: 7k against 9k"),
        ({"data": {**MSRVTT, "annotations": {"MSRVTT_data.json": "cc"}}}, "other content: MSRVTT_data.json"),
        ({"videos": 879}, "number of videos: 1000 against 879"),
        ({"identity": {"captions": "x", "videos": "z"}}, "videos: other ids"),
    ],
)
def test_every_part_of_the_ground_has_to_agree(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    same = {"identity": {"captions": "x", "videos": "y"}}
    a = result(tmp_path / "a.json", 45.0, MSRVTT, **same)
    assert compared(a, result(tmp_path / "b.json", 45.0, MSRVTT, **same)).apart == {}
    told = compared(a, result(tmp_path / "b.json", 45.0, **{"data": MSRVTT, **same, **changed})).apart["b"]
    assert words in "; ".join(told)


def test_unrelated_matrices_are_not_paired_unless_ids_or_a_person_say_so(tmp_path: Path) -> None:
    bare = matrix(tmp_path / "a.npz", 1), matrix(tmp_path / "b.npz", 2)
    assert compared(*bare).apart == {"b.npz": [ground.UNPROVEN]} and compared(*bare).tests == ()
    assert compared(*bare, same_gallery=True).tests[0].paired
    told = matrix(tmp_path / "c.npz", 1, prefix="x"), matrix(tmp_path / "d.npz", 2, prefix="x")
    assert compared(*told).tests[0].paired
    others = told[0], matrix(tmp_path / "e.npz", 2, prefix="y")
    assert "captions: other ids, or in another order" in compared(*others).apart["e.npz"]
    output = CliRunner().invoke(app, ["compare", *map(str, bare)])
    assert (
        output.exit_code == 0 and "is not tested against a.npz" in output.stdout and "--same-gallery" in output.stdout
    )


def test_ids_beside_a_score_file_are_read_and_have_to_fit(tmp_path: Path) -> None:
    file = matrix(tmp_path / "a.npz", 1, n=3)
    ids = {"captions": ["c0", "c1", "c2"], "videos": ["a", "b", "c"]}
    (tmp_path / "a.ids.json").write_text(json.dumps(ids))
    assert score_file.read_scores(file).ids == score_file.Ids(("c0", "c1", "c2"), ("a", "b", "c"))
    (tmp_path / "a.ids.json").write_text(json.dumps({**ids, "videos": ["a"]}))
    with pytest.raises(DataError, match="has scores of 3 videos, but its ids name 1"):
        score_file.read_scores(file)
    (tmp_path / "a.ids.json").write_text("[]")
    with pytest.raises(DataError, match=r"expected \{.captions.: "):
        score_file.read_scores(file)


def of_miniature(path: Path, root: Path, name: str, seed: int = 0, **wrong: int) -> Path:
    """Write the scores of a miniature's test split in the order of its files, or of `wrong` captions and videos."""
    manifest = data.load(f"{name}:{root}")
    videos = sorted({c.video for c in manifest.captions if c.split == "test"})
    column = np.array([videos.index(c.video) for c in manifest.captions if c.split == "test"])
    shape = wrong.get("captions", len(column)), wrong.get("videos", len(videos))
    scores = np.random.default_rng(seed).random(shape)
    np.savez(path, scores=scores, video_of_caption=np.resize(column, shape[0]) % shape[1])
    return path


def test_a_data_set_gives_its_ids_to_matrices_that_have_none(tmp_path: Path) -> None:
    root = write_dataset("msvd", tmp_path / "msvd")
    spec = f"msvd:{root}"
    files = [str(of_miniature(tmp_path / f"{name}.npz", root, "msvd", i)) for i, name in enumerate("ab")]
    apart = json.loads(CliRunner().invoke(app, ["compare", *files, "--json"]).stdout)
    assert apart["tests"] == [] and apart["apart"]["b.npz"] == [ground.UNPROVEN]
    told = json.loads(CliRunner().invoke(app, ["compare", *files, "--data", spec, "--json"]).stdout)
    assert told["apart"] == {} and told["tests"][0]["paired"]
    judged = json.loads(CliRunner().invoke(app, ["evaluate", "--scores", files[0], "--data", spec, "--json"]).stdout)
    manifest = data.load(spec)
    captions = [c.id for c in manifest.captions if c.split == "test"]
    videos = sorted({c.video for c in manifest.captions if c.split == "test"})
    assert judged["identity"] == plain(ground.identity_of(captions, videos))
    assert judged["data"]["name"] == "msvd" and "test_list.txt" in judged["data"]["annotations"]


@pytest.mark.parametrize(
    ("wrong", "split", "words"),
    [
        ({"videos": 3}, "test", "has scores of 3 videos, but the data set 'msvd' has 4"),
        ({"captions": 5}, "test", "has scores of 5 captions, but the data set 'msvd' has"),
        ({}, "train", "but the data set 'msvd' has"),
        ({}, "dev", "has no captions of the split 'dev'"),
    ],
)
def test_a_matrix_that_is_not_the_data_sets_is_refused(
    tmp_path: Path, wrong: dict[str, int], split: str, words: str
) -> None:
    root = write_dataset("msvd", tmp_path / "msvd")
    file = of_miniature(tmp_path / "a.npz", root, "msvd", **wrong)
    found = CliRunner().invoke(app, ["evaluate", "--scores", str(file), "--data", f"msvd:{root}", "--split", split])
    assert found.exit_code == 3 and words in found.stderr


def test_a_runs_folder_is_audited_as_its_result(tmp_path: Path) -> None:
    (tmp_path / "run" / "results").mkdir(parents=True)
    result(tmp_path / "run" / "results" / "test.json", 45.3)
    assert audit.audit_all([tmp_path / "run"], None, None).rows[0].recalls["R@1"] == 45.3
    with pytest.raises(DataError, match=r"val\.json"):
        audit.audit_all([tmp_path / "run"], None, None, split="val")


def test_a_tiny_p_is_written_in_scientific_form(tmp_path: Path) -> None:
    output = CliRunner().invoke(
        app, ["audit", "--queries", "1000", "--r1", "20.0", "--against-queries", "1000", "--against-r1", "60.0"]
    )
    assert "(p = 1.8e-74, sampling error alone)" in output.stdout
    assert "rows alone do not say which queries both got right" in output.stdout


def test_a_row_of_code_with_a_known_cause_is_called_that_and_nothing_else(tmp_path: Path) -> None:
    (finding,) = (
        audit.audit_all([result(tmp_path / "a.json", 50.2, method="T-MASS")], None, None).rows[0].findings or []
    )
    assert finding.startswith("this row comes from code with a known cause") and "leak" not in finding
    assert audit.audit_all([result(tmp_path / "b.json", 51.0, method="eaglenet")], None, None).rows[0].findings == []


# ----------------------------------------------------------------------------------------- conditioning on a caption

RNG = np.random.default_rng(0)
TEXT, FRAMES = RNG.standard_normal((12, 8)), RNG.standard_normal((12, 5, 8))


def pooled(query: np.ndarray, frames: np.ndarray) -> np.ndarray:
    weight = np.exp(frames @ query)
    return (weight / weight.sum()) @ frames


def pair_scores(text: np.ndarray, frames: np.ndarray) -> np.ndarray:
    return np.array([[t @ pooled(t, v) for v in frames] for t in text])


def own_caption_scores(text: np.ndarray, frames: np.ndarray) -> np.ndarray:
    return np.array([[t @ pooled(text[j], v) for j, v in enumerate(frames)] for t in text])


def shift(tmp_path: Path, one: np.ndarray, other: np.ndarray) -> ShiftReport:
    for name, scores in (("a", one), ("b", other)):
        np.savez(tmp_path / f"{name}.npz", scores=scores, video_of_caption=np.arange(len(scores)) % scores.shape[1])
    return audit_shifted(tmp_path / "a.npz", tmp_path / "b.npz")


@pytest.mark.parametrize("step", [-1, 1])
def test_scores_of_pairs_do_not_change_when_the_captions_are_shifted(tmp_path: Path, step: int) -> None:
    found = shift(tmp_path, pair_scores(TEXT, FRAMES), pair_scores(np.roll(TEXT, step, 0), FRAMES))
    assert not found.depends and found.changed == 0 and "captions shifted" in found.how


def test_code_that_pools_a_video_with_its_own_caption_shows_itself(tmp_path: Path) -> None:
    found = shift(tmp_path, own_caption_scores(TEXT, FRAMES), own_caption_scores(np.roll(TEXT, -1, 0), FRAMES))
    assert found.depends and found.changed > 100 and "Known causes" in found.verdict and "leak" not in found.verdict


def test_fewer_videos_than_captions_are_a_test_too(tmp_path: Path) -> None:
    assert not shift(tmp_path, pair_scores(TEXT, FRAMES), pair_scores(TEXT, FRAMES[:9])).depends
    half = (pair_scores(TEXT, FRAMES) * 3).astype(np.float16)
    assert not shift(tmp_path, half, (pair_scores(np.roll(TEXT, 1, 0), FRAMES) * 3).astype(np.float16)).depends


def test_the_same_matrix_twice_shows_nothing_and_is_refused(tmp_path: Path) -> None:
    scores = pair_scores(TEXT, FRAMES)
    with pytest.raises(DataError, match="once more, which shows nothing"):
        shift(tmp_path, scores, scores)
    with pytest.raises(DataError, match="expected at most the captions and videos"):
        shift(tmp_path, scores[:5], scores)


def test_audit_prints_what_a_shift_shows(tmp_path: Path) -> None:
    shift(tmp_path, pair_scores(TEXT, FRAMES), pair_scores(np.roll(TEXT, -1, 0), FRAMES))
    files = ["--scores", str(tmp_path / "a.npz"), "--scores-shifted", str(tmp_path / "b.npz")]
    output = CliRunner().invoke(app, ["audit", *files])
    assert output.exit_code == 0 and "144 of 144 pairs keep their score" in output.stdout
    assert json.loads(CliRunner().invoke(app, ["audit", *files, "--json"]).stdout)["depends"] is False
    alone = CliRunner().invoke(app, ["audit", *files[:2]])
    assert alone.exit_code == 2 and "give --scores and --scores-shifted together" in alone.stderr
