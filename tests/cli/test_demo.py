"""`tvr demo --small`: the whole pipeline in process, its JSON and tables, keeping, cleaning, wrong flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.engine.demo import clean
from tvr_cli.workspace import Workspace


def demo(*args: object) -> Result:
    return CliRunner().invoke(app, ["demo", "--small", "--workers", "1", *(str(a) for a in args)])


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("demo") / "out"
    result = demo("-o", out, "--json")
    assert result.exit_code == 0, result.stderr
    return out, json.loads(result.stdout)


def test_the_json_holds_every_method_in_the_order_asked_for(ran):
    _, result = ran
    assert result["schema"] == "tvr/demo@1"
    assert result["title"] == "Toy world: checks the plumbing, says nothing about which method is better"
    assert [row["method"] for row in result["methods"]] == ["mean", "text_guided", "glccl"]
    assert [row["runs"] for row in result["methods"]] == [[None], [None], ["glccl-head-seed0"]]
    assert result["encoder"] in ("libx264", "libopenh264", "mpeg4")
    assert result["queries"] == 48


def test_rates_lie_in_their_intervals_and_kinds_add_up(ran):
    _, result = ran
    for row in result["methods"]:
        rates = row["t2v"]
        assert rates["R@1"]["value"] <= rates["R@5"]["value"] <= rates["R@10"]["value"]
        for rate in (rates["R@1"], rates["R@5"], rates["R@10"], *rates["by_kind"].values()):
            assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 100
        # 24 random captions and 6 of each other kind make up the overall rate.
        by_kind = {k: v["value"] for k, v in rates["by_kind"].items()}
        total = 24 * by_kind.pop("random") + 6 * sum(by_kind.values())
        assert total / 48 == pytest.approx(rates["R@1"]["value"])


def test_the_pipeline_beats_chance_by_far(ran):
    _, result = ran
    for row in result["methods"]:  # chance: 1 of 48
        assert row["t2v"]["R@1"]["low"] > 100 / 48


def test_one_question_is_answered_with_three_spans(ran):
    out, result = ran
    query = result["query"]
    assert len(query["hits"]) == 3 and query["method"] == "glccl"
    for hit in query["hits"]:
        assert Path(hit["path"]).is_file()
        assert 0 <= hit["start"] < hit["end"] <= 4
    captions = [json.loads(line) for line in (out / "videos" / "captions.jsonl").read_text().splitlines()]
    right = [c["video"] for c in captions if c["caption"] == query["query"] and c["split"] == "test"]
    assert all(hit["right"] == (hit["video_id"] in right) for hit in query["hits"])


def test_running_again_keeps_what_is_done_and_prints_the_tables(ran):
    out, before = ran
    result = demo("-o", out)
    assert result.exit_code == 0, result.stderr
    assert "160 videos (0 made, 160 kept)" in result.stderr
    assert "(kept)" in result.stderr.split("train glccl")[1].splitlines()[0]
    assert "says nothing about which method is better" in result.stdout
    assert "tvr extract-frames YOUR_VIDEOS/" in result.stdout
    for row in before["methods"]:
        assert f"{row['t2v']['R@1']['value']:.1f} [" in result.stdout


def test_other_settings_train_again(ran):
    out, _ = ran
    result = demo("-o", out, "--methods", "glccl", "--set", "train.epochs=1", "--json")
    assert result.exit_code == 0, result.stderr
    stages = {s["name"]: s["text"] for s in json.loads(result.stdout)["stages"]}
    assert stages["train glccl"].startswith("3 steps") and "kept" not in stages["train glccl"]


def test_seeds_give_a_deviation(ran):
    out, _ = ran
    result = demo("-o", out, "--methods", "glccl", "--seeds", "1,2", "--set", "train.epochs=1", "--json")
    assert result.exit_code == 0, result.stderr
    row = json.loads(result.stdout)["methods"][0]
    assert row["runs"] == ["glccl-head-seed1", "glccl-head-seed2"]
    assert row["t2v"]["R@1"]["deviation"] >= 0


def test_a_dry_run_writes_nothing(tmp_path):
    result = demo("-o", tmp_path / "out", "--methods", "all", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert (plan["videos"], plan["captions"], plan["frames"]) == (160, 608, 1920)
    assert {row["method"] for row in plan["methods"] if not row["trains"]} == {"mean", "text_guided"}
    assert len(plan["methods"]) == 7
    assert not (tmp_path / "out").exists()


def test_cleaning_deletes_only_what_the_demo_made(tmp_path):
    out = tmp_path / "out"
    for part in ("videos", "frames", "features/abc", "runs/glccl", "index"):
        (out / part).mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    clean(Workspace(out))
    assert [p.name for p in out.iterdir()] == ["notes.txt"]
    (out / "notes.txt").unlink()
    clean(Workspace(out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--methods", "glcl"), "unknown method 'glcl'; did you mean glccl?"),
        (("--methods", ","), "expected at least one method"),
        (("--seeds", "one"), "--seeds: expected whole numbers like 0,1,2, found 'one'"),
        (("--tune", "ful"), "--tune: expected head or full, found 'ful'; did you mean full?"),
        (("--set", "train.epoch=3"), "train.epoch: unknown key; did you mean epochs?"),
    ],
)
def test_wrong_flags_are_refused_before_any_work(tmp_path, flags, message):
    result = demo("-o", tmp_path / "out", *flags)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_of_ones_own_videos_is_refused(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "holiday.mp4").write_bytes(b"mine")
    result = demo("-o", tmp_path)
    assert result.exit_code == 3
    assert "did not make" in result.stderr
