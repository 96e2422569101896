"""What a row of recalls betrays: the cases of published logs, missing videos, and rows that cannot be."""

import json
from decimal import Decimal

import numpy as np
import pytest

from tvr_cli import significance
from tvr_cli.engine.evaluation import audit, compare, digits, verdict
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.evaluation.compare import Published
from tvr_cli.engine.evaluation.evaluate_result import Claim
from tvr_cli.engine.evaluation.row import row_of, row_of_result
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.workspace import Workspace


def row(queries, *recalls):
    return row_of("row", queries, dict(zip((1, 5, 10), recalls, strict=False)))


def test_a_published_log_betrays_1008_rank_entries():
    found = verdict.audit(row(1000, "49.1071", "76.1905", "84.0278"))
    assert found.fits_claim is False and found.tie_inflation == [1008]
    assert "1008 can: rank entries in published logs of MSR-VTT 1k-A" in found.verdict
    assert found.tried[0].fit == [1008] and found.tried[0].tried == 5 and found.tried[0].chance < 1e-8


def test_ties_counted_twice_are_named_in_a_set_that_nobody_has_seen():
    recalls = [f"{100 * n / 812:.3f}" for n in (301, 522, 640)]
    found = verdict.audit(row(800, *recalls))
    assert "812 rank entries can: the signature of tied ranks counted twice" in found.verdict
    assert "40 numbers tried" in found.verdict and found.tried[0].chance < 0.001


def test_a_gallery_of_879_of_1000_is_found():
    recalls = [f"{100 * n / 879:.4f}" for n in (398, 655, 741)]
    found = verdict.audit(row(1000, *recalls))
    assert found.fits_claim is False and 879 in found.smaller_gallery
    assert "879 can: videos of MSR-VTT 1k-A with sound" in found.verdict
    recalls = [f"{100 * n / 871:.4f}" for n in (398, 655, 741)]
    assert "871 queries can: videos may be missing" in verdict.audit(row(1000, *recalls)).verdict


def test_a_row_that_no_gallery_can_give():
    assert "no gallery" in verdict.audit(row(1000, "50.0", "40.0")).verdict
    found = verdict.audit(row(None, "33.33333333", "50.00000001"))
    assert found.possible.count == 0 and "no number of queries" in found.verdict


def test_an_ordinary_row_fits_and_is_not_praised_for_it():
    found = verdict.audit(row(1000, "47.3", "74.1", "83.0"))
    assert found.fits_claim and found.counts == {"R@1": 473, "R@5": 741, "R@10": 830}
    assert found.interval["R@1"] == pytest.approx([44.2, 50.4], abs=0.1)
    assert found.chance == 1.0 and "so few digits prove nothing" in found.verdict


def test_the_queries_of_msvd_are_captions_whatever_number_a_row_claims():
    found = verdict.audit(row(670, "46.2", "76.1", "84.6"))  # CLIP4Clip's row: 27 763 queries, 670 videos
    assert "670 are the videos of MSVD; its text-to-video has 27763 queries" in found.verdict
    assert "ties" not in found.verdict and "tied" not in found.verdict


def test_what_fits_by_chance_is_not_named():
    found = verdict.audit(row(1004, "44.33", "71.23", "80.12"))  # a mean of seeds, perhaps
    assert found.fits_claim is False and found.smaller_gallery == [855]
    assert "so none is named" in found.verdict and "means of several runs" in found.verdict
    assert found.tried[-1].tried == 558 and found.tried[-1].chance == pytest.approx(0.26, abs=0.01)


def test_a_row_that_was_cut_in_place_of_rounded_fits_too():
    cut = row(1003, "42.67", "71.18", "80.35")  # 428, 714 and 806 of 1003, the last two digits 19 and 36 when rounded
    assert verdict.audit(cut).fits_claim
    assert not verdict.audit(row(1003, "42.67", "71.18", "80.36")).fits_claim  # one cut, one rounded: no hand does that


def test_every_count_that_could_have_made_a_rounded_number_is_possible():
    for queries in (7, 331, 1004):
        for hits in range(0, queries + 1, 13):
            typed = f"{100 * hits / queries:.2f}%"
            assert queries in digits.possible_counts(row(None, typed).recalls), (hits, queries)
            assert digits.counts_of(row(None, typed).recalls, queries) == {1: hits}
            cut = f"{int(1e4 * hits / queries + 1e-9) / 100:.2f}%"
            assert digits.counts_of(row(None, cut).recalls, queries) == {1: hits}


def test_the_chance_of_a_fit_is_the_share_of_all_digits_that_fit():
    fitting = sum(50 in digits.possible_counts({1: Decimal(n).scaleb(-1)}) for n in range(1001))
    assert digits.chance_of({1: Decimal("50.0")}, 50) == pytest.approx(fitting / 1001)
    assert digits.chance_of({1: Decimal("50.0"), 5: Decimal("60.0")}, 50) == pytest.approx((fitting / 1001) ** 2)


def test_unrounded_numbers_of_a_json_are_exact():
    result = {"captions": 1003, "t2v": {"R@1": 100 * 411 / 1003, "R@5": 100 * 700 / 1003, "R@10": 100 * 800 / 1003}}
    found = verdict.audit(row_of_result(Claim.of(result, "a"), "a"))
    assert found.fits_claim and found.possible.smallest[0] == 1003


@pytest.mark.parametrize(
    "changed",
    [{"ties": {"t2v": 3}}, {"draws": 5}, {"metrics": "clip4clip", "rank_entries": {"t2v": 1012}}],
)
def test_a_result_that_says_why_its_numbers_are_no_counts_is_not_a_typing_error(changed):
    result = {"captions": 1000, "t2v": {"R@1": 47.03333333333333, "R@5": 70.1, "R@10": 80.2}, **changed}
    found = verdict.audit(row_of_result(Claim.of(result, "a"), "a"))
    assert found.fits_claim is None and found.tried == ()
    assert "typing" not in found.verdict and str([*changed.values()][-1]).strip("{}'t2v: ") in found.verdict


@pytest.mark.parametrize(
    ("typed", "percent"),
    [
        (("44.5%", "71,2", "80.1"), (44.5, 71.2, 80.1)),
        (("0.2720", "0.445", "0.5"), (27.2, 44.5, 50.0)),
        (("0.2", "0.5", "1.0"), (0.2, 0.5, 1.0)),  # chance on 500 videos, in percent
        (("0.27%", "0.45%", "0.99%"), (0.27, 0.45, 0.99)),
    ],
)
def test_percentages_and_fractions_are_understood_as_people_write_them(typed, percent):
    read = row(1000, *typed)
    assert tuple(map(float, read.recalls.values())) == percent
    assert (read.read_as is not None) == (typed[0] == "0.2720")


def test_a_fraction_keeps_its_digits():
    assert verdict.audit(row(1000, "0.2720")).decimals == {"R@1": 2}


def test_intervals_are_over_videos_where_the_test_set_is_known():
    by_captions = significance.wilson(45.0, 27763)
    found = verdict.audit(row(27763, "45.0"))
    assert found.interval["R@1"] == list(significance.wilson(45.0, 670))
    assert found.interval["R@1"][0] < by_captions[0] - 3 and "670 videos" in found.interval_of
    assert "at least this wide" in verdict.audit(row(20000, "45.0")).interval_of
    own = {"captions": 27763, "t2v": {"R@1": 45.0}, "intervals": {"t2v": {"R@1": [42.6, 47.4]}}}
    told = verdict.audit(row_of_result(Claim.of(own, "a"), "a"))
    assert told.interval["R@1"] == [42.6, 47.4] and "bootstrap over videos" in told.interval_of


def test_two_rows_of_msvd_are_compared_by_videos_and_no_paired_p_is_made_up():
    report = audit.audit_all([], row(27763, "45.0"), row(27763, "46.0"))
    assert report.differences[0].p > 0.5  # 0.018 if 27 763 captions were independent
    assert report.apart == [audit.ROWS_ARE_NOT_PAIRED]
    other = audit.audit_all([], row(1000, "45.0"), row(1004, "55.0"))
    assert other.differences == [] and "another test set" in other.apart[0]


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
    entries = [compare.read_entry(p, "test", Workspace(tmp_path)) for p in (weak, strong)]
    report = compare.compare(entries, same_gallery=True)
    first = report.tests[0]
    assert first.paired and first.found.metric == "R@1" and first.found.difference > 0 and first.found.p < 0.01
    ((header, rows),) = compare.tables_of(report)
    assert len(rows) == 2 and all(len(r) == len(header) for r in rows)
    assert len(compare.markdown(report)) == 4
    assert compare.csv_text(report).splitlines()[0].startswith("label,table,method")


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
    unnamed = {"recipe": recipe, "data": {"name": "didemo"}}
    assert published(tree=unnamed, data={"name": "didemo"}) is not None
    assert published(tree=unnamed, data={"name": "didemo", "variant": "names"}) is None
    layouts = {"recipe": recipe, "data": {"name": "vatex"}}
    assert published(tree=layouts, data={"name": "vatex", "variant": "official"}) is not None
    assert published(tree=layouts, data={"name": "vatex", "variant": "list:0123456789ab"}) is None
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


def test_both_directions_of_a_result_are_audited_and_set_beside_each_other(tmp_path):
    said = {"captions": 27763, "videos": 670, "v2t_protocol": "max", "t2v": {"R@1": 46.2}, "v2t": {"R@1": 57.0}}
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, v2t in zip(paths, (57.0, 77.0), strict=True):
        path.write_text(json.dumps({**said, "v2t": {"R@1": v2t}}))
    report = audit.audit_all(paths, None, None)
    assert [(row.side, row.queries) for row in report.rows] == [("t2v", 27763), ("v2t", 670)] * 2
    assert "text-to-video" not in report.rows[1].verdict  # 670 queries are what this direction has
    assert report.rows[1].interval_of == "670 videos"
    identity = {"captions": "x", "videos": "y"}
    for path, v2t in zip(paths, (57.0, 77.0), strict=True):
        path.write_text(json.dumps({**said, "v2t": {"R@1": v2t}, "identity": identity}))
    tested = {found.side: found for found in audit.audit_all(paths, None, None).differences}
    assert not tested["t2v"].significant and tested["v2t"].significant


def test_ties_of_one_direction_say_nothing_of_the_other(tmp_path):
    result = {"captions": 10, "videos": 10, "ties": {"t2v": 0, "v2t": 2}, "t2v": {"R@1": 40.0}, "v2t": {"R@1": 45.0}}
    (tmp_path / "a.json").write_text(json.dumps(result))
    forward, backward = audit.audit_all([tmp_path / "a.json"], None, None).rows
    assert forward.fits_claim and backward.fits_claim is None and "2 queries are tied" in backward.verdict


def test_a_mean_over_the_captions_of_a_video_is_no_count():
    result = {"captions": 30, "videos": 10, "v2t_protocol": "mean-rank", "t2v": {"R@1": 40.0}, "v2t": {"R@1": 33.3}}
    assert "no counts" in verdict.audit(row_of_result(Claim.of(result, "a"), "a", "v2t")).verdict
