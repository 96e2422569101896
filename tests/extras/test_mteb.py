"""`tvr mteb` against MTEB itself, in the second environment of `.ci/run`; elsewhere skipped, and it says so."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_backbone
from typer.testing import CliRunner
from videos import make_video

from tvr_cli import metrics
from tvr_cli.cli import app
from tvr_cli.workspace import Workspace

pytest.importorskip("mteb", reason="the extra mteb is not installed (second environment of .ci/run)")

import toy_mteb

VIDEOS = 12
WORDS = ("one", "two", "three", "four", "five", "six")


def tvr(*words: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A workspace of a tiny backbone's features of twelve videos with captions, and the folder of the videos."""
    folder = tmp_path_factory.mktemp("mteb")
    videos = folder / "videos"
    videos.mkdir()
    sentences = [f"number {WORDS[i % 6]} in colour {i}" for i in range(VIDEOS)]
    for i in range(VIDEOS):
        make_video(videos / f"{i:02}.mp4", 12, size=(32, 32), pictures=[picture(i)] * 12)
    (videos / "captions.txt").write_text("\n".join(sentences))
    lines = [json.dumps({"video": f"{i:02}.mp4", "caption": s, "split": "test"}) for i, s in enumerate(sentences)]
    (videos / "captions.jsonl").write_text("\n".join(lines))
    out, backbone = folder / "out", write_backbone(folder / "clip")
    tvr("extract-frames", videos, "--num-frames", "3", "--size", "16", "-o", out)
    tvr("precompute-features", "--backbone", backbone, "--dtype", "fp32", "-o", out)
    return out, videos


def picture(i: int) -> Any:
    import numpy as np

    rng = np.random.default_rng(i)
    return np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)


@pytest.fixture(autouse=True)
def toy(world: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(toy_mteb.FOLDER, str(world[1]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def ask(world: tuple[Path, Path], *words: str) -> Any:
    return json.loads(tvr("mteb", "--method", "mean", *words, "-o", world[0], "--json"))


def test_the_protocol_of_search_is_the_one_that_was_read() -> None:
    from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol, SearchProtocol

    from tvr_cli.engine.whole.mteb import SearchModel

    known = {
        "index": ["self", "corpus", "task_metadata", "hf_split", "hf_subset", "encode_kwargs", "num_proc"],
        "search": [
            "self", "queries", "task_metadata", "hf_split", "hf_subset", "top_k", "encode_kwargs", "top_ranked",
            "num_proc",
        ],
    }  # fmt: skip
    for cls in (SearchProtocol, SearchModel):
        found = {name: list(inspect.signature(getattr(cls, name)).parameters) for name in known}
        assert found == known
    model = SearchModel(None, None, None)  # type: ignore[arg-type]
    assert isinstance(model, SearchProtocol) and not isinstance(model, EncoderProtocol | CrossEncoderProtocol)


def test_without_ties_both_countings_are_one_and_equal_to_tvrs_own_evaluation(world: tuple[Path, Path]) -> None:
    report = ask(world, "--tasks", "toy_mteb.ToyT2V,toy_mteb.ToyV2T")
    judged = json.loads(tvr("evaluate", "--method", "mean", "-o", world[0], "--json"))
    for one, side in zip(report["scores"], ("t2v", "v2t"), strict=True):
        assert one["tied"] == one["unread"] == 0 and one["queries"] == one["documents"] == VIDEOS
        assert one["mteb"] == pytest.approx(one["tvr"], abs=1e-5)
        for k in (1, 5, 10):
            assert 100 * one["mteb"][f"recall_at_{k}"] == pytest.approx(judged[side][f"R@{k}"], abs=1e-3)
        assert 0 < one["mteb"]["ndcg_at_10"] < 1
        assert 100 * one["mteb"]["ndcg_at_10"] == pytest.approx(judged[side]["nDCG@10"], abs=1e-3)


def test_the_folder_is_mtebs_own(world: tuple[Path, Path]) -> None:
    report = ask(world, "--tasks", "toy_mteb.ToyT2V")
    file = Path(report["scores"][0]["file"])
    said = json.loads(file.read_text())
    assert file.is_relative_to(world[0] / "mteb" / "results" / "tvr__mean")
    assert said["task_name"] == "ToyT2V" and said["scores"]["test"][0]["main_score"] > 0
    about = json.loads((file.parent / "model_meta.json").read_text())
    assert about["training_datasets"] is None and about["similarity_fn_name"] == "custom"
    assert set(about["modalities"]) == {"text", "video"}


def test_the_second_task_encodes_nothing_and_leaves_no_video(world: tuple[Path, Path]) -> None:
    ask(world, "--tasks", "toy_mteb.ToyT2V")
    (corpus,) = (world[0] / "mteb" / "corpora").iterdir()
    shards = sorted((corpus / "features").rglob("video-*.safetensors"))
    ask(world, "--tasks", "toy_mteb.ToyV2T")
    assert sorted((corpus / "features").rglob("video-*.safetensors")) == shards and len(shards) == 1
    assert not Workspace.at(corpus).given_videos.exists()
    assert {path.parent.name for path in shards} == {s.fingerprint for s in Workspace.at(world[0]).all_features()}


def test_where_right_answers_are_tied_both_numbers_stand_there(world: tuple[Path, Path], tmp_path: Path) -> None:
    """A thirteenth video is a copy of the first: MTEB puts it in front, by its id; tvr takes both orders."""
    videos = Path(shutil.copytree(world[1], tmp_path / "videos"))
    shutil.copy(videos / "00.mp4", videos / f"{VIDEOS}.mp4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(toy_mteb.FOLDER, str(videos))
        said = tvr("mteb", "--method", "mean", "--tasks", "toy_mteb.ToyT2V", "-o", world[0])
        (one,) = ask(world, "--tasks", "toy_mteb.ToyT2V")["scores"]
    assert one["tied"] == 1 and "of 1 query a right answer is tied" in said
    assert one["tvr"]["ndcg_at_10"] > one["mteb"]["ndcg_at_10"] + 1e-4
    assert re.search(r"ndcg_at_10 +0\.\d{5} +0\.\d{5}", said)


def test_a_video_that_cannot_be_read_is_found_by_no_query_and_said(world: tuple[Path, Path], tmp_path: Path) -> None:
    videos = Path(shutil.copytree(world[1], tmp_path / "videos"))
    (videos / "04.mp4").write_bytes(b"no video")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(toy_mteb.FOLDER, str(videos))
        (one,) = ask(world, "--tasks", "toy_mteb.ToyT2V")["scores"]
        said = tvr("mteb", "--method", "mean", "--tasks", "toy_mteb.ToyV2T", "-o", world[0])
    assert one["unread"] == 1 and one["mteb"]["recall_at_10"] <= 11 / 12
    assert one["mteb"] == pytest.approx(one["tvr"], abs=1e-5)
    assert "1 video could not be read, and no query finds" in said


def test_a_run_is_asked_and_says_what_it_was_trained_on(world: tuple[Path, Path]) -> None:
    lines = [json.loads(line) for line in (world[1] / "captions.jsonl").read_text().splitlines()]
    split = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    captions = world[1].parent / "split.jsonl"
    captions.write_text("\n".join(json.dumps({**x, "split": s}) for x, s in zip(lines, split, strict=True)))
    tvr(
        "train", "--method", "clip4clip_seq", "--run", "mine", "--set", "train.epochs=1", "--set",
        "train.batch_size=4", "--captions", captions, "-o", world[0],
    )  # fmt: skip
    words = ("mteb", "--tasks", "MSRVTTT2V", "--run", "mine", "--dry-run", "-o", world[0])
    preview = json.loads(tvr(*words, "--json"))
    assert preview["model"] == "tvr/mine" and preview["tasks"][0]["dataset"] == "mteb/MSR-VTT"
    assert "trained_on" not in preview  # videos of one's own: MTEB has no name for them
    assert "trained on: not known" in tvr(*words) and not (world[0] / "mteb" / "results" / "tvr__mine").exists()
    (one,) = json.loads(tvr("mteb", "--tasks", "toy_mteb.ToyT2V", "--run", "mine", "-o", world[0], "--json"))["scores"]
    assert one["mteb"] == pytest.approx(one["tvr"], abs=1e-5)


def test_a_data_set_that_a_run_was_trained_on_is_named_as_mteb_has_it() -> None:
    import mteb

    from tvr_cli.engine.whole.mteb import _trained_on

    class Made:
        run, provenance = object(), {"name": "msrvtt"}

    found = _trained_on(mteb, Made, Made)  # type: ignore[arg-type]
    assert found is not None and {"MSRVTTT2V", "MSRVTTV2T"} <= found
    assert all(name.startswith("MSRVTT") for name in found)


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ("MSRVTTT2VX", "'MSRVTTT2VX' not found. Did you mean: 'MSRVTTT2V'"),
        ("STS12", "STS12 is t2t (text); tvr ranks videos for a sentence"),
        ("toy_mteb.WithSound", "toy_mteb.WithSound is va2t (text, video, audio)"),
        ("XModBenchT2VReranking", "is of the type Any2AnyReranking, which is no search"),
        ("toy_mteb.Nothing", "has no attribute 'Nothing'"),
        ("no_such_module.Task", "No module named 'no_such_module'"),
    ],
)
def test_a_task_that_tvr_cannot_take_is_refused_before_any_work(tasks: str, told: str, tmp_path: Path) -> None:
    assert told in tvr("mteb", "--tasks", tasks, "--method", "mean", "-o", tmp_path / "nowhere", code=2)


def test_right_answers_outside_of_the_corpus_count_as_not_found_by_both(
    world: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(toy_mteb.ELSEWHERE, "nowhere-1,nowhere-2")
    report = ask(world, "--tasks", "toy_mteb.ToyT2V")
    words = ("mteb", "--method", "mean", "--tasks", "toy_mteb.ToyT2V", "-o", str(world[0]))
    said = CliRunner().invoke(app, words).stderr
    (one,) = report["scores"]
    assert one["mteb"] == pytest.approx(one["tvr"], abs=1e-5)
    assert one["documents"] == VIDEOS and one["tvr"]["recall_at_10"] <= 1 / 3
    assert "2 documents that are not in the corpus (first: 'nowhere-1')" in said


def test_metrics_of_tvr_are_those_of_a_hand_made_matrix() -> None:
    """Guards the comparison itself: a right answer in second place is 1 / log2(3)."""
    import numpy as np

    from tvr_cli.engine.whole.mteb import Matrix

    matrix = Matrix(["a", "b"], ["x", "y"], np.array([[0.9, 0.1], [0.8, 0.2]], dtype=np.float32), 0)
    found, tied = matrix.judged({"a": {"x": 1}, "b": {"y": 1}})
    assert tied == 0 and found["recall_at_1"] == 0.5
    assert found["ndcg_at_10"] == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert metrics.evaluate(matrix.scores, np.array([0, 1]))["t2v"]["R@1"] == 50.0
