"""What a row of recalls betrays: the cases of published logs, missing videos, and rows that cannot be."""

import json

import numpy as np
import pytest

from tvr_cli.engine.evaluation import audit, compare
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.evaluation.compare import Published
from tvr_cli.engine.evaluation.evaluate_result import Claim
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.workspace import Workspace


def row(queries, *recalls):
    return audit.row_of("row", queries, dict(zip((1, 5, 10), recalls, strict=False)))


def test_a_published_log_betrays_1008_rank_entries():
    found = audit.audit(row(1000, "49.1071", "76.1905", "84.0278"))
    assert found.fits_claim is False and found.tie_inflation == [1008]
    assert "1008 rank entries" in found.verdict and "tied ranks" in found.verdict


def test_a_gallery_of_879_of_1000_is_found():
    recalls = [f"{100 * n / 879:.4f}" for n in (398, 655, 741)]
    found = audit.audit(row(1000, *recalls))
    assert found.fits_claim is False and 879 in found.smaller_gallery
    assert "videos may be missing" in found.verdict


def test_a_row_that_no_gallery_can_give():
    assert "no gallery" in audit.audit(row(1000, "50.0", "40.0")).verdict
    found = audit.audit(row(None, "33.33333333", "50.00000001"))
    assert found.possible.count == 0 and "no number of queries" in found.verdict


def test_an_ordinary_row_fits():
    found = audit.audit(row(1000, "47.3", "74.1", "83.0"))
    assert found.fits_claim and found.counts == {"R@1": 473, "R@5": 741, "R@10": 830}
    assert found.interval["R@1"] == pytest.approx([44.2, 50.4], abs=0.1)


def test_every_count_that_could_have_made_a_rounded_number_is_possible():
    for queries in (7, 331, 1004):
        for hits in range(0, queries + 1, 13):
            typed = f"{100 * hits / queries:.2f}"
            assert queries in audit.possible_counts(row(None, typed)), (hits, queries)


def test_unrounded_numbers_of_a_json_are_exact():
    result = {"captions": 1003, "t2v": {"R@1": 100 * 411 / 1003, "R@5": 100 * 700 / 1003, "R@10": 100 * 800 / 1003}}
    found = audit.audit(audit.row_of_result(Claim.of(result, "a"), "a"))
    assert found.fits_claim and found.possible.smallest[0] == 1003


def test_two_rows_are_compared_by_their_sampling_error():
    close, far = (
        audit.differ(row(1000, "47.0"), row(1000, "48.5"))[0],
        audit.differ(row(1000, "40.0"), row(1000, "50.0"))[0],
    )
    assert not close.significant and far.significant
    with pytest.raises(ConfigError, match="--against-queries"):
        audit.differ(row(1000, "47.0"), row(None, "48.5"))


@pytest.mark.parametrize("text", ["forty", "-1", "101", "nan"])
def test_a_recall_must_be_a_percentage(text):
    with pytest.raises(ConfigError, match="--r1 expects a percentage"):
        row(1000, text)


def test_a_matrix_with_ties_shows_both_numbers(tmp_path):
    scores = np.round(np.random.default_rng(0).random((50, 50)), 1).astype(np.float32)
    np.savez(tmp_path / "a.npz", scores=scores, video_of_caption=np.arange(50))
    report = audit.audit_all([tmp_path / "a.npz"], None, None)
    assert "extra rank entries" in report.rows[0].findings[0]


def test_protocols_that_differ_are_named(tmp_path):
    paths = []
    for i, split in enumerate(("test", "val")):
        head = {"captions": 10, "split": split, "selected_on": ("val", "test")[i], "t2v": {"R@1": 50.0}}
        paths.append(tmp_path / f"{i}.json")
        paths[-1].write_text(json.dumps(head))
    told = audit.audit_all(paths, None, None).protocols
    assert told == ["split: test against val", "selection split: val against test"]


def test_a_json_that_is_no_result_is_a_sentence(tmp_path):
    (tmp_path / "a.json").write_text('{"t2v": {}}')
    with pytest.raises(DataError, match="expected a result"):
        audit.audit_all([tmp_path / "a.json"], None, None)


def matrices(tmp_path, n=60):
    rng = np.random.default_rng(1)
    noise = rng.random((n, n)).astype(np.float32)
    for name, strength in (("weak", 0.4), ("strong", 1.2)):
        np.savez(
            tmp_path / f"{name}.npz",
            scores=noise + strength * np.eye(n, dtype=np.float32),
            video_of_caption=np.arange(n),
        )
    return tmp_path / "weak.npz", tmp_path / "strong.npz"


def test_compare_tests_pairs_and_writes_tables(tmp_path):
    weak, strong = matrices(tmp_path)
    report = compare.compare([compare.read_entry(p, "test", Workspace(tmp_path)) for p in (weak, strong)])
    first = report.tests[0]
    assert first.paired and first.found.metric == "R@1" and first.found.difference > 0 and first.found.p < 0.01
    header, rows = compare.table_of(report)
    assert len(rows) == 2 and all(len(r) == len(header) for r in rows)
    assert len(compare.markdown(report)) == 4
    assert compare.csv_text(report).splitlines()[0].startswith("label,method")


def test_compare_draws_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    from tvr_cli.engine.showing.compare_plot import draw

    entries = [compare.read_entry(p, "test", Workspace(tmp_path)) for p in matrices(tmp_path)]
    for name in ("a.png", "a.svg"):
        draw(entries, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"\.png"):
        draw(entries, tmp_path / "a.gif")


def test_compare_needs_two(tmp_path):
    weak, _ = matrices(tmp_path)
    with pytest.raises(ConfigError, match="at least two"):
        compare.compare([compare.read_entry(weak, "test", Workspace(tmp_path))])
    with pytest.raises(DataError, match="found nothing"):
        compare.read_entry(tmp_path / "x.npz", "test", Workspace(tmp_path))


def test_a_published_number_stands_beside_the_recipe_only():
    data = {"name": "msrvtt", "variant": "9k"}
    result, recipe = (
        {"split": "test", "data": data, "gallery": {"expected": 1000, "scored": 1000}},
        {"published": {"t2v": {"R@1": 51.0}}, "code_revision": "unknown", "selected_on": "test"},
    )
    shipped = {"train.lr": "presets/recipes/a.yaml:3", "train.seed": "flag", "data.root": "flag"}
    tree = {"recipe": recipe, "data": data}

    def published(tree=tree, origins=shipped, **changed):
        return compare.published(Claim.of({**result, **changed}, "a"), tree, origins)

    assert published() == Published(t2v_r1=51.0, exact=False, selected_on="test")
    assert published(origins={**shipped, "train.lr": "--set"}) is None
    assert published(split="val") is None
    assert published(data={"name": "msvd"}) is None
    assert published(data={**data, "variant": "7k"}) is None
    assert published(gallery={"expected": 1000, "scored": 879}) is None
    assert published(tree={**tree, "recipe": {**recipe, "published": None}}) is None
    assert published(tree=None, origins=None) is None


def test_the_referee_needs_no_torch():
    import subprocess
    import sys

    engine = "tvr_cli.engine.evaluation.compare, tvr_cli.engine.evaluation.audit"
    code = f"import sys; import {engine}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert referee.TIE_RULE
