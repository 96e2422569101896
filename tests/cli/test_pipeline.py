"""The commands chained as a user chains them, on a small toy world: streams, JSON, exit codes, resuming, refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import forged_features
import indexes
import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.data.demo_world.corpus import WorldOptions, make
from tvr_cli.engine.searching import precision
from tvr_cli.files import lock, read_json
from tvr_cli.stores.features.store import FeatureStore

pytestmark = pytest.mark.usefixtures("warm_readers")

PLAN = WorldOptions(train=8, val=4, test=8, captions=2)


def tvr(*args: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args], input=stdin)


def ok(*args: object, stdin: str | None = None) -> dict:
    result = tvr(*args, "--json", stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make(folder, PLAN)
    return folder


@pytest.fixture(scope="session")
def made(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with frames and features."""
    out = tmp_path_factory.mktemp("made") / "out"
    extracted = ok("extract-frames", world, "-o", out, "--num-frames", 12, "--size", 64, "--workers", 1)
    assert extracted["schema"] == "tvr/extract-frames@1"
    assert (extracted["videos"], extracted["ok"], extracted["kept"], extracted["failed"]) == (20, 20, 0, 0)
    ok("precompute-features", "-o", out, "--backbone", "demo-tiny")
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy of that workspace that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def opened_by(act, folder: Path) -> Counter[str]:
    """Return how often each file below `folder` is opened for reading while `act` runs."""
    seen: Counter[str] = Counter()
    watching = [True]

    def hook(event: str, args: tuple) -> None:
        reads = event == "open" and watching[0] and isinstance(args[0], str) and "r" in str(args[1])
        if reads and args[0].startswith(str(folder)):
            seen[str(Path(args[0]).relative_to(folder))] += 1

    sys.addaudithook(hook)  # it cannot be taken off again
    try:
        act()
    finally:
        watching[0] = False
    return seen


def test_a_query_on_a_stale_index_opens_each_head_once(out: Path) -> None:
    """Of 31 opens, six were of the head of the index."""
    ok("index", "--method", "text_guided", "-o", out)
    indexes.edit_head(out / "index", lambda head: head["identity"].update(store="of other features"))
    seen = opened_by(lambda: ok("query", "a red star", "-o", out), out)
    names = ("store.json", "shards-1.jsonl", "current")
    heads = {name: n for name, n in seen.items() if name.endswith(names)}
    assert heads.pop("index/current") == 2  # the old generation, the new one
    assert heads == dict.fromkeys(heads, 1) and len(heads) == 5, heads
    assert max(seen.values()) <= 2 and sum(n for name, n in seen.items() if not name.endswith(".bin")) <= 17, seen
    assert indexes.head(out / "index")["identity"]["store"] != "of other features"


def test_a_query_on_an_index_that_is_new_opens_each_file_once(out: Path) -> None:
    ok("index", "--method", "text_guided", "-o", out)
    seen = opened_by(lambda: ok("query", "a red star", "-o", out), out / "index")
    assert seen == dict.fromkeys(seen, 1) and len(seen) == 19 and "g000001/000001.sums" in seen


def test_captions_replaced_by_older_ones_are_noticed(world: Path, tmp_path: Path) -> None:
    """`cp -p`, `rsync -a`, a clock that was set back: the file says something else and is older than the features."""
    videos, out = Path(shutil.copytree(world, tmp_path / "videos")), tmp_path / "out"
    ok("extract-frames", videos, "-o", out, "--size", 64, "--workers", 1, "--num-frames", 2)
    ok("precompute-features", "-o", out, "--backbone", "demo-tiny")
    captions = videos / "captions.jsonl"
    touched = captions.stat().st_mtime + 100
    os.utime(captions, (touched, touched))  # the same words, later: nothing has changed
    assert "has changed" not in tvr("evaluate", "--method", "mean", "-o", out).stderr
    lines = [json.loads(line) for line in captions.read_text().splitlines()]
    said = [line["caption"] for line in lines]
    for line, other in zip(lines, said[1:] + said[:1], strict=True):
        line["caption"] = other
    captions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(captions, (1.6e9, 1.6e9))
    assert "captions.jsonl' has changed" in tvr("evaluate", "--method", "mean", "-o", out).stderr
    ok("train", "--method", "glccl", "--epochs", 1, "--batch-size", 4, "-o", out)  # it looks at the file first
    held = FeatureStore.open(next((out / "features").iterdir())).captions
    assert [c.text for c in held] == said[1:] + said[:1]


def test_captions_beside_a_later_folder_are_about_its_own_videos(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("cam1", "cam2"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(world / "train" / f"0000{name[-1]}.mp4", folder / "GX01.mp4")
        said = [{"video": "GX01.mp4", "caption": f"seen by {name}"}, {"video": "GX01", "caption": f"{name} again"}]
        (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
        ok("extract-frames", folder, "-o", out, "--size", 64, "--workers", 1, "--num-frames", 2)
    ok("precompute-features", "-o", out, "--backbone", "demo-tiny", "--captions", tmp_path / "cam2" / "captions.jsonl")
    held = FeatureStore.open(next((out / "features").iterdir())).captions
    assert [(c.text, c.file_id) for c in held] == [
        ("seen by cam2", "cam2/GX01.mp4"),
        ("cam2 again", "cam2/GX01.mp4"),
    ]


def test_evaluate_prints_the_documented_json_and_keeps_it(out):
    result = ok("evaluate", "--method", "mean", "-o", out)
    assert result["schema"] == "tvr/evaluate@1" and result["method"] == "mean" and result["split"] == "test"
    assert result["captions"] == result["videos"] == 8
    assert result["gallery"] == {"expected": 8, "scored": 8, "missing": [], "zero_filled": 0}
    for side in ("t2v", "v2t"):
        assert {"R@1", "R@5", "R@10", "R@50", "MdR", "MnR"} <= set(result[side])
    six = [result[side][k] for side in ("t2v", "v2t") for k in ("R@1", "R@5", "R@10")]
    assert result["rsum"] == pytest.approx(sum(six))
    assert read_json(out / "runs" / "mean" / "results" / "test.json")["t2v"] == result["t2v"]
    assert len(load_file(out / "runs" / "mean" / "results" / "test.ranks.safetensors")["t2v.better"]) == 8


def test_evaluate_for_people_names_protocol_and_completeness(out):
    result = tvr("evaluate", "--method", "mean", "-o", out, "--post", "dsl", "--post", "qbnorm")
    assert result.exit_code == 0, result.stderr
    for words in ("8/8 videos, 0 zero-filled", "video to text (max)", "t2v + dsl", "uses all test queries"):
        assert words in result.stdout, result.stdout
    assert "a bank of training captions" in result.stdout


def test_the_old_counting_is_labelled_and_names_its_protocol(out):
    result = tvr("evaluate", "--method", "mean", "-o", out, "--metrics", "clip4clip")
    assert result.exit_code == 0, result.stderr
    assert "video to text (max)" in result.stdout and "metrics: clip4clip" in result.stdout
    refused = tvr("evaluate", "--method", "mean", "-o", out, "--metrics", "clip4clip", "--v2t-protocol", "mean-rank")
    assert refused.exit_code == 2 and "mean-rank" in refused.stderr


@pytest.mark.parametrize("budget", ["1kB", "20kB", "1GB"])
def test_the_budget_and_streaming_change_no_result(out, budget):
    whole = ok("evaluate", "--method", "text_guided", "-o", out, "--no-stream")
    for flag in ("--stream", "--no-stream"):
        again = ok("evaluate", "--method", "text_guided", "-o", out, "--memory-budget", budget, flag)
        assert again["t2v"] == whole["t2v"] and again["v2t"] == whole["v2t"]


def test_saved_scores_are_refereed_to_the_same_result(out, tmp_path):
    direct = ok("evaluate", "--method", "mean", "-o", out, "--save-scores", tmp_path / "s.safetensors")
    judged = ok("evaluate", "--scores", tmp_path / "s.safetensors")
    assert judged["t2v"] == direct["t2v"] and judged["v2t"] == direct["v2t"]


def test_an_incomplete_gallery_is_refused_unless_said(out):
    forged_features.corpus(next((out / "features").iterdir()), lambda corpus: {**corpus, "expected": {"test": 9}})
    refused = tvr("evaluate", "--method", "mean", "-o", out)
    assert refused.exit_code == 3 and "8 of 9 videos" in refused.stderr
    allowed = ok("evaluate", "--method", "mean", "-o", out, "--allow-missing")
    assert allowed["gallery"]["expected"] == 9 and allowed["gallery"]["scored"] == 8


def test_a_protocol_card_is_printed(out):
    result = tvr("evaluate", "--method", "mean", "-o", out, "--protocol-card")
    assert result.exit_code == 0 and "tie rule" in result.stdout and "8/8 videos" in result.stdout


def test_query_answers_without_training_and_its_spans_lie_in_the_video(out):
    caption = json.loads((Path(next(iter_captions(out))).read_text()).splitlines()[-1])
    answer = ok("query", caption["caption"], "--index", out, "-k", 3)
    assert answer["schema"] == "tvr/query@2"
    (result,) = answer["results"]
    assert result["query"] == caption["caption"] and len(result["hits"]) == 3
    for rank, hit in enumerate(result["hits"], start=1):
        assert hit["rank"] == rank and Path(hit["path"]).is_file() and hit["path"].endswith(hit["video_id"])
        assert 0 <= hit["start"] < hit["end"] <= 4.2


def iter_captions(out: Path):
    store = next((out / "features").iterdir())
    yield read_json(store / "store.json")["finished"]["corpus"]["captions"]


def test_query_prints_bare_paths_and_reads_stdin(out):
    lines = tvr("query", "a red star", "--index", out, "--paths", "-k", 2).stdout.splitlines()
    assert len(lines) == 2 and all(Path(line).is_file() for line in lines)
    zero = tvr("query", "a red star", "--index", out, "--paths", "-0", "-k", 2).stdout
    assert zero.split("\0")[:2] == lines
    several = ok("query", "-", "--index", out, stdin="a red star\n\na blue box\n")
    assert [r["query"] for r in several["results"]] == ["a red star", "a blue box"]


def test_query_says_when_nothing_is_confident(out):
    result = tvr("query", "a red star", "--index", out, "--min-score", "2")
    assert result.exit_code == 0 and "nothing found (nothing scored" in result.stdout
    assert tvr("query", " ", "--index", out).exit_code == 2


def test_query_makes_what_is_missing_and_sees_new_videos(world, tmp_path, monkeypatch):
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")
    videos = tmp_path / "videos"
    videos.mkdir()
    files = sorted(world.rglob("*.mp4"))[:3]
    names = [f.name for f in files]
    for file in files[:2]:
        shutil.copy(file, videos)
    out = tmp_path / "out"
    assert tvr("extract-frames", videos, "-o", out, "--num-frames", 12, "--workers", 1).exit_code == 0
    first = tvr("query", "a star", "--index", out, "--json")
    assert "no features of demo-tiny yet; computing features first" in first.stderr
    assert len(json.loads(first.stdout)["results"][0]["hits"]) == 2
    shutil.copy(files[2], videos)
    (videos / names[0]).unlink()
    assert tvr("extract-frames", videos, "-o", out, "--num-frames", 12, "--workers", 1, "--forget").exit_code == 0
    second = tvr("query", "a star", "--index", out, "--json")
    assert "the frames have changed" in second.stderr and "the index is out of date" in second.stderr
    assert {h["video_id"] for h in json.loads(second.stdout)["results"][0]["hits"]} == set(names[1:])


def test_an_index_of_another_method_is_refused_when_a_flag_names_it(out):
    assert ok("index", "-o", out, "--method", "mean")["built"]
    assert not ok("index", "-o", out, "--method", "mean")["built"]
    refused = tvr("query", "a star", "--index", out, "--method", "text_guided")
    assert refused.exit_code == 3 and "method" in refused.stderr and "tvr index" in refused.stderr
    other = tvr("query", "a star", "--index", out, "--backbone", "clip-vit-b32")
    assert other.exit_code == 3 and "the index was made with backbone 'demo-tiny'" in other.stderr


def test_a_query_keeps_to_what_the_index_was_built_for(out, monkeypatch):
    ok("index", "-o", out, "--method", "mean")
    answer = ok("query", "a red star", "--index", out, "-k", 1)
    assert ok("query", "a red star", "--index", out, "-k", 1, "--method", "mean") == answer
    forged_features.corpus(next((out / "features").iterdir()), lambda corpus: {**corpus, "frames_content": "older"})
    ok("query", "a red star", "--index", out)
    head = indexes.head(out / "index")
    assert head["identity"]["method"] == "mean" and head["asked"] == {"method": "mean"}
    assert ok("index", "-o", out)["method"] == "text_guided"  # without flags: the newest run, else text_guided


def test_queries_wait_for_no_writer_unless_they_have_to_write(out, monkeypatch):
    from tvr_cli import files

    ok("index", "-o", out)
    waits = files.lock
    monkeypatch.setattr("tvr_cli.engine.searching.index.lock", lambda folder: waits(folder, wait_s=0.1))
    with lock(out):
        assert tvr("query", "a star", "--index", out).exit_code == 0
        indexes.edit_head(out / "index", lambda head: head["identity"].update(content="of other features"))
        result = tvr("query", "a star", "--index", out)
    assert result.exit_code == 4 and "another tvr process" in result.stderr


def test_clips_that_came_and_went_are_all_that_is_indexed(world, tmp_path, monkeypatch):
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")
    videos, out, again = tmp_path / "videos", tmp_path / "out", tmp_path / "again"
    videos.mkdir()
    files = sorted(world.rglob("*.mp4"))[:6]
    for file in files[:5]:
        shutil.copy(file, videos)
    assert tvr("extract-frames", videos, "-o", out, "--num-frames", 12, "--workers", 1).exit_code == 0
    assert tvr("precompute-features", "-o", out).exit_code == 0
    monkeypatch.setattr(precision, "HALF_FROM", 1)
    first = ok("index", "-o", out)
    assert (first["added"], first["removed"], first["built"]) == (5, 0, True)
    assert first["precision"]["of"] == "sentences of the toy world" and first["precision"]["sentences"] == 50
    assert first["search"]["first"] == "every" and first["recall"]["at"] == {"1": 1.0, "10": 1.0, "50": 1.0}
    (videos / files[0].name).unlink()
    shutil.copy(files[5], videos)
    assert tvr("extract-frames", videos, "-o", out, "--num-frames", 12, "--workers", 1, "--forget").exit_code == 0
    assert tvr("precompute-features", "-o", out).exit_code == 0
    second = ok("index", "-o", out)
    assert (second["added"], second["removed"], second["clips"]) == (1, 1, 5)
    assert tvr("extract-frames", videos, "-o", again, "--num-frames", 12, "--workers", 1).exit_code == 0
    ok("query", "a star", "--index", again)  # it makes what is missing; both answer in the same way then
    answer = [ok("query", "a star", "--index", o)["results"][0]["hits"] for o in (out, again)]
    scores = [[hit.pop("score") for hit in hits] for hits in answer]
    assert answer[0] == answer[1] and len(answer[0]) == 5
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)  # one clip is encoded alone here, and five together there
    assert not ok("index", "-o", out)["built"]
    shown = tvr("index", "-o", out).stdout
    assert "half precision: the ten best files of 50 of 50 sentences are those of full precision" in shown, shown
    assert "a search scores every clip\nrecall@10 1.000: every clip is scored\n" in shown
    assert "a search scores every clip" in tvr("info", out / "index").stdout
    monkeypatch.undo()
    assert "full precision: fewer than 1,000 clips" in tvr("index", "--overwrite", "-o", out).stdout


def test_the_variable_names_the_features_where_no_flag_does(out, monkeypatch):
    monkeypatch.setenv("TVR_BACKBONE", "clip-vit-b32")
    result = tvr("evaluate", "--method", "mean", "-o", out)
    assert result.exit_code == 3 and "made by clip-vit-b32" in result.stderr
    assert tvr("evaluate", "--method", "mean", "-o", out, "--backbone", "demo-tiny").exit_code == 0


def test_index_dry_run_writes_nothing(out):
    report = ok("index", "-o", out, "--dry-run")
    assert report["clips"] == 20 and not (out / "index").exists()


def test_a_flipped_bit_in_a_feature_shard_names_the_shard_and_its_repair(out):
    shard = next((out / "features").glob("*/video-*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    result = tvr("evaluate", "--method", "mean", "-o", out)
    assert result.exit_code == 3 and shard.name in result.stderr and "tvr precompute-features" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("evaluate", "nothing"), 3, "expected a run 'nothing'"),
        (("evaluate", "--method", "meen"), 2, "did you mean mean?"),
        (("evaluate", "--method", "glccl"), 2, "tvr train --method glccl"),
        (("evaluate", "--method", "mean", "--split", "tset"), 2, "did you mean test?"),
        (("evaluate", "--method", "mean", "--v2t-protocol", "maks"), 2, "did you mean max?"),
        (("evaluate", "--method", "mean", "--post", "dls"), 2, "did you mean dsl?"),
        (("evaluate", "--method", "mean", "--memory-budget", "much"), 2, "512MB"),
        (("evaluate", "--method", "mean", "--device", "tpu9"), 4, "--device cpu"),
        (("evaluate", "run", "--method", "mean"), 2, "not both"),
        (("evaluate",), 3, "tvr evaluate --method text_guided"),
        (("query", "a star", "--run", "nothing"), 3, "expected a run"),
    ],
)
def test_refusals_are_sentences(made, args, code, words):
    result = tvr(*args, "--index" if args[0] == "query" else "-o", made)
    assert result.exit_code == code and words in result.stderr, (result.exit_code, result.stderr)
    assert "Traceback" not in result.stderr


def test_an_empty_workspace_says_where_to_start(tmp_path):
    for command, flag in (
        (("query", "a star"), "--index"),
        (("evaluate", "--method", "mean"), "-o"),
        (("info",), None),
    ):
        where = [flag, tmp_path] if flag else [tmp_path]
        result = tvr(*command, *where)
        assert result.exit_code == 3 and "tvr " in result.stderr, result.stderr


def test_a_second_writer_stops_with_4(out, monkeypatch):
    code = (
        "import sys; from pathlib import Path; from tvr_cli.files import lock\n"
        "with lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        monkeypatch.setattr("tvr_cli.engine.searching.index.lock", lambda folder: lock(folder, wait_s=0.2))
        result = tvr("index", "-o", out)
        assert result.exit_code == 4 and "another tvr process" in result.stderr
    finally:
        holder.communicate("")
    assert ok("index", "-o", out)["built"]


def test_info_describes_every_part(out):
    ok("index", "-o", out)
    kinds = [part["kind"] for part in ok("info", out)["parts"]]
    assert kinds == ["frames", "features", "index"]
    assert tvr("info", out).exit_code == 0
    assert ok("info", out / "frames")["clips"] == 20


def test_doctor_speaks_of_this_machine_and_of_videos(world, tmp_path):
    found = ok("doctor", "-o", tmp_path)
    assert found["schema"] == "tvr/doctor@1"
    names = {c["name"]: c for c in found["checks"]}
    assert names["torch"]["ok"] and names["decoder pyav"]["ok"] and names["workspace"]["ok"]
    assert names["weights demo-tiny"]["ok"] and set(names["torch"]) == {"name", "ok", "detail", "fix"}
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(next(world.rglob("*.mp4")), folder / "good.mp4")
    (folder / "bad.mp4").write_bytes(b"no video at all" * 50)
    checks = ok("doctor", folder, "--deep")["checks"]
    assert [(c["name"], c["ok"]) for c in checks] == [("bad.mp4", False), ("good.mp4", True)]
    assert tvr("doctor", tmp_path / "nowhere").exit_code == 3


def test_methods_are_listed_with_needs_and_sources(made):
    listed = ok("methods")["methods"]
    assert {"mean", "text_guided", "glccl"} <= {m["name"] for m in listed}
    shown = tvr("methods", "show", "glccl")
    assert shown.exit_code == 0 and "temperature" in shown.stdout and "authors-code" in shown.stdout
    assert "@" in tvr("methods", "--cite").stdout
    assert tvr("methods", "list").exit_code == 2 and tvr("methods", "show").exit_code == 2


def test_scores_of_another_tool_need_no_torch(tmp_path):
    np.savez(tmp_path / "s.npz", scores=np.eye(4, dtype=np.float32), video_of_caption=np.arange(4))
    code = (
        "import sys; from typer.testing import CliRunner; from tvr_cli.cli import app;"
        f"r = CliRunner().invoke(app, ['evaluate', '--scores', {str(tmp_path / 's.npz')!r}, '--json']);"
        "assert r.exit_code == 0, r.output; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version_names_the_parts():
    shown = tvr("--version").stdout
    for part in ("tvr", "torch", "pyav", "decord", "open_clip"):
        assert part in shown
