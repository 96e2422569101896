"""`tvr demo --small`: the whole pipeline in process, its JSON and tables, keeping, cleaning, wrong flags."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.engine.whole.demo import clean
from tvr_cli.engine.whole.demo_files import MadeFiles
from tvr_cli.errors import DataError
from tvr_cli.workspace import Workspace

pytestmark = pytest.mark.xdist_group("demo")  # one process makes it


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


def test_a_query_on_the_films_is_ranked_by_the_head_that_the_demo_trained(ran):
    out, result = ran
    row = result["moment_head"]
    assert row["workspace"] == str(out / "films") and row["run"] == "moments"
    assert (row["films"], row["trained_on"], row["queries"]) == (3, 100, 31)
    assert row["first"] > row["first_without"] > 50
    asked = CliRunner().invoke(app, ["query", row["example"], "-o", row["workspace"], "--json"])
    assert asked.stderr.count("moments are ranked by the head 'moments'") == 1
    answer = json.loads(asked.stdout)["results"][0]
    truth = [json.loads(line) for line in (out / "films" / "videos" / "truth.jsonl").read_text().splitlines()]
    true = [(line["video"], line["start"]) for line in truth if line["query"] == row["example"]]
    assert answer["found"] and (answer["hits"][0]["video_id"], round(answer["hits"][0]["start"])) in true


def test_running_again_keeps_what_is_done_and_prints_the_tables(ran):
    out, before = ran
    result = demo("-o", out)
    assert result.exit_code == 0, result.stderr
    assert "160 videos (0 made, 160 kept)" in result.stderr
    assert "(kept)" in result.stderr.split("train glccl")[1].splitlines()[0]
    assert "3 films of 135 s by time (0 made, 3 kept)" in result.stderr
    assert "(kept)" in result.stderr.split("train a moment head")[1].splitlines()[0]
    assert "is right for" in result.stdout and f"-o {out / 'films'}" in result.stdout
    assert "says nothing about which method is better" in result.stdout
    assert "tvr extract-frames videos/" in result.stdout
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
    assert (plan["videos"], plan["captions"], plan["frames"], plan["films"]) == (160, 608, 1920, 3)
    assert {row["method"] for row in plan["methods"] if not row["trains"]} == {"mean", "text_guided"}
    assert len(plan["methods"]) == 12
    assert not (tmp_path / "out").exists()


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def finished(ran, tmp_path):
    """A copy of a finished demo of `mean` and `glccl`."""
    return Path(shutil.copytree(ran[0], tmp_path / "out"))


def test_the_list_names_every_file_of_the_demo(finished):
    listed = json.loads((finished / "demo.json").read_text())
    assert listed["schema"] == "tvr/demo-files@1"
    assert set(listed["files"]) == set(tree(finished)) - {"demo.json"}
    for name, record in listed["files"].items():
        data = (finished / name).read_bytes()
        assert record == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.slow  # makes two
def test_cleaning_leaves_nothing_of_a_demo_and_the_next_one_starts_anew(tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        result = demo("-o", out, "--methods", "mean", "--clean", "--json")
        assert result.exit_code == 0, result.stderr
        stages = {s["name"]: s["text"] for s in json.loads(result.stdout)["stages"]}
        assert stages["videos"].startswith("160 videos (160 made, 0 kept)")
        assert "files of the demo from" in result.stderr and not out.exists()


def test_cleaning_removes_only_what_is_listed_and_unchanged(finished):
    mine = ("notes.txt", "videos/holiday.mov", "runs/thesis/text.tex", "index/notes.txt", "frames/mine.safetensors")
    for name in mine:
        (finished / name).parent.mkdir(parents=True, exist_ok=True)
        (finished / name).write_text("mine")
    changed = "videos/test/00003.mp4"
    (finished / changed).write_bytes(b"edited")
    before = tree(finished)
    taken = clean(Workspace(finished))
    assert taken.kept == (changed,)
    assert set(tree(finished)) == {*mine, changed, "demo.json"}
    assert all(tree(finished)[name] == before[name] for name in (*mine, changed))
    assert list(json.loads((finished / "demo.json").read_text())["files"]) == [changed]


def test_a_store_that_was_written_to_since_is_kept_whole(finished):
    (finished / "runs" / "glccl-head-seed0" / "metrics.jsonl").write_text("{}\n")
    run = {name for name in tree(finished) if name.startswith("runs/glccl-head-seed0/")}
    assert set(clean(Workspace(finished)).kept) == run and set(tree(finished)) == {*run, "demo.json"}


def test_a_dry_run_of_cleaning_lists_what_would_go_and_what_would_stay(finished):
    (finished / "videos" / "test" / "00003.mp4").write_bytes(b"edited")
    before = tree(finished)
    result = demo("-o", finished, "--clean", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)["clean"]
    assert told["keeps"] == ["videos/test/00003.mp4"] and tree(finished) == before
    assert set(told["removes"]) == set(before) - {"demo.json", "videos/test/00003.mp4"}
    shown = demo("-o", finished, "--clean", "--dry-run").stdout
    assert "kept, changed since: videos/test/00003.mp4" in shown and "  videos/test/00004.mp4" in shown


def test_a_demo_without_a_list_is_not_cleaned_and_gets_none(finished):
    (finished / "demo.json").unlink()
    before = tree(finished)
    for flags in ((), ("--dry-run",)):
        result = demo("-o", finished, "--methods", "mean", "--clean", *flags)
        assert result.exit_code == 3 and result.stdout == ""
        assert "left no list of its files (demo.json), as those of tvr 0.1.0 do; nothing was removed" in result.stderr
    assert tree(finished) == before
    assert demo("-o", finished, "--methods", "mean").exit_code == 0  # it goes on as before
    assert not (finished / "demo.json").exists()


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"schema": "mine"}', '{"schema": "tvr/demo-files@1", "files": {"notes.txt": {}}}']
)
def test_a_demo_json_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "demo.json").write_text(text)
    for flags in ((), ("--clean",), ("--dry-run",)):
        assert demo("-o", tmp_path, *flags).exit_code == 3
    assert tree(tmp_path) == {"demo.json": text.encode()}


@pytest.mark.parametrize(
    "name", ["../victim.txt", "videos/../../victim.txt", "/etc/hostname", "runs/x/checkpoints/../a"]
)
def test_a_list_that_names_files_elsewhere_is_refused(tmp_path, name):
    (tmp_path / "victim.txt").write_text("precious")
    record = {"bytes": 8, "sha256": hashlib.sha256(b"precious").hexdigest()}
    out = tmp_path / "out"
    out.mkdir()
    (out / "demo.json").write_text(json.dumps({"schema": "tvr/demo-files@1", "files": {name: record}}))
    with pytest.raises(DataError):
        clean(Workspace(out))
    assert (tmp_path / "victim.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["frames/1.jpg", "features/notes.txt", "index/index.html", "runs/mean/thesis.txt"])
@pytest.mark.parametrize("flags", [(), ("--clean",), ("--dry-run",)], ids=str)
def test_a_workspace_of_ones_own_is_refused_and_left_alone(tmp_path, name, flags):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("mine")
    result = demo("-o", tmp_path, *flags)
    assert result.exit_code == 3 and "which `tvr demo` did not make; nothing was changed" in result.stderr
    assert tree(tmp_path) == {name: b"mine"}


def test_a_head_that_was_changed_is_not_trained_over(finished):
    from tvr_cli.stores.moment_head import MomentHead

    captions, path = finished / "films" / "videos" / "captions.jsonl", finished / "films" / "runs" / "moments"
    head = MomentHead.open(path / "head.safetensors")
    made = MadeFiles.open(Workspace(finished))
    assert made is not None and made.unchanged(captions)
    changed = dataclasses.replace(head, moments=head.moments + 1)
    changed.save(path / "head.safetensors")
    captions.write_text("")
    before = tree(finished)
    result = demo("-o", finished, "--methods", "mean")
    assert result.exit_code == 3 and "holds 'head.safetensors', which does not belong to a run" in result.stderr
    assert {n: b for n, b in tree(finished).items() if n.startswith("films/")} == {
        n: b for n, b in before.items() if n.startswith("films/")
    }


def test_a_run_that_was_changed_is_not_trained_over(finished):
    env = finished / "runs" / "glccl-head-seed0" / "env.json"
    env.write_text("{}")
    before = {name: data for name, data in tree(finished).items() if name.startswith("runs/glccl")}
    result = demo("-o", finished, "--methods", "glccl", "--set", "train.epochs=3")
    assert (
        result.exit_code == 3 and "holds 'env.json', which does not belong to a run as a demo left it" in result.stderr
    )
    assert {name: data for name, data in tree(finished).items() if name.startswith("runs/glccl")} == before


def test_a_stage_that_is_stopped_leaves_its_files_on_the_list(tmp_path):
    made = MadeFiles.begin(Workspace(tmp_path))
    (tmp_path / "videos" / "test").mkdir(parents=True)
    for name in ("videos/test/00001.mp4", "videos/test/mine.mp4", "videos/test/00002.mp4.17.tmp"):
        (tmp_path / name).write_bytes(b"x")
    made.record()
    again = MadeFiles.open(Workspace(tmp_path))
    assert again is not None and again.takes().removed == ("videos/test/00001.mp4",)


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
