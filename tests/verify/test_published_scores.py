"""Published retrieval results: features of somebody else's and whole runs, beside rows with a protocol."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import hf_folders
from miniature import sentence, write_dataset
from typer.testing import CliRunner

from tvr_cli import config, preset_loader
from tvr_cli.cli import app
from tvr_cli.data import msrvtt
from tvr_cli.data.sizes import SplitSize
from tvr_cli.engine.evaluation.compare import Published
from tvr_cli.engine.evaluation.evaluate_result import Fair
from tvr_cli.engine.features import foreign
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.verify import features, published, scores
from tvr_cli.verify.scores import ROWS, Measured, ScoreRow

pytestmark = pytest.mark.xdist_group("hf")
TESTED = range(16, 20)  # the test videos of the miniature


def sample(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_tar(path: Path, videos: dict[str, np.ndarray], *, with_json: bool = True) -> Path:
    """Write features as clip-video-encode does: KEY.npy, KEY.txt and KEY.json, keys that are numbers."""
    with tarfile.open(path, "w") as tar:
        for i, (video, frames) in enumerate(videos.items()):
            held = io.BytesIO()
            np.save(held, frames)
            key = f"{i:09d}" if with_json else video
            sample(tar, f"{key}.npy", held.getvalue())
            sample(tar, f"{key}.txt", b"a caption")
            if with_json:
                sample(tar, f"{key}.json", json.dumps({"videoID": video, "fps": 25}).encode())
    return path


def by_the_library(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return features of each test video and the text vectors of its caption, by transformers alone.

    Frames lie around the vector of their own caption, so that R@1 is high.
    """
    import transformers as t

    model = t.CLIPModel.from_pretrained(str(folder)).eval()
    tokenizer = t.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    texts = [sentence(n) for n in TESTED]
    with torch.no_grad():
        ids = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=hf_folders.CONTEXT)
        text = model.get_text_features(**ids).pooler_output.numpy()
    rng = np.random.default_rng(0)
    around = {
        f"video{7000 + n}": (text[i] + 0.01 * np.abs(text).mean() * rng.standard_normal((12, text.shape[1])))
        for i, n in enumerate(TESTED)
    }
    return {video: x.astype(np.float16) for video, x in around.items()}, text


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("features")
    folder = hf_folders.make("clip", root / "clip")
    videos, text = by_the_library(folder)
    means = np.stack([(x / np.linalg.norm(x, axis=1, keepdims=True)).mean(0) for x in videos.values()])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    order = (text @ means.T).argmax(1)
    row = replace(
        ROWS[0],
        captions=4,
        videos=4,
        backbones=(f"hf:{folder}",),
        recalls={"R@1": 100.0 * float((order == np.arange(4)).mean())},
    )
    return {
        "spec": f"msrvtt:{write_dataset('msrvtt', root / 'msrvtt')}",
        "backbone": f"hf:{folder}",
        "videos": videos,
        "tar": write_tar(root / "test.tar", videos),
        "row": row,
    }


def verified(
    world: dict[str, Any], tar: Path | None = None, row: ScoreRow | None = None, revision: str | None = "abc"
) -> Any:
    return features.verify(
        [tar or world["tar"]],
        world["spec"],
        world["backbone"],
        device="cpu",
        offline=True,
        revision=revision,
        known=[row or world["row"]],
    )


# ------------------------------------------------------------------------------------------------------------ the rows


def test_every_row_has_a_source_and_a_line() -> None:
    assert {row.name for row in ROWS} >= {"hitchhiker-mean", "hitchhiker-query-scoring", "pe-core-b16"}
    for row in ROWS:
        assert row.source and row.line and row.by and row.recalls["R@1"] > 0
    values = {row.name: row.recalls["R@1"] for row in ROWS}
    assert values["hitchhiker-mean"] == 33.3 and values["hitchhiker-query-scoring"] == 34.4
    assert values["pe-core-b16"] == 47.6 and values["videoprism-lvt-b"] == 50.1
    assert "nobody" in next(row.by for row in ROWS if row.name == "pe-core-b16")


# ------------------------------------------------------------------------------------------------------------ features


def test_features_of_somebody_else_give_what_the_library_gives(world: dict[str, Any]) -> None:
    report = verified(world)
    assert world["row"].recalls["R@1"] >= 75.0
    assert report.status == "PASS" and report.outcomes[0].values[0].found == world["row"].recalls["R@1"]
    assert {"test.tar", "gallery", "caption ids"} <= report.card.hashes.keys()
    assert report.card.protocol["frames"] == "12 to 12 a video"


def test_without_a_revision_nothing_is_a_pass(world: dict[str, Any], tmp_path: Path) -> None:
    found = verified(world, revision=None)
    assert found.status == "NOT COMPARABLE" and "revision not pinned: no commit of these features" in str(
        found.outcomes
    )
    assert found.card.protocol["revision"] == "not pinned"
    commit = "0123456789" * 4
    cached = tmp_path / "datasets--a--b" / "snapshots" / commit / "test.tar"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(world["tar"].read_bytes())
    found = verified(world, cached, revision=None)
    assert found.status == "PASS" and f"features of the revision {commit}" in found.outcomes[0].detail
    failing = verified(world, row=replace(world["row"], recalls={"R@1": 0.0}), revision=None)
    assert failing.status == "FAIL", "what fails fails, whatever it was"


def test_the_order_of_samples_means_nothing(world: dict[str, Any], tmp_path: Path) -> None:
    backwards = dict(reversed(world["videos"].items()))
    tar = write_tar(tmp_path / "test.tar", backwards, with_json=False)
    assert verified(world, tar).outcomes[0].values == verified(world).outcomes[0].values


def test_captions_moved_by_one_fail_and_are_named(world: dict[str, Any], tmp_path: Path) -> None:
    names = list(world["videos"])
    moved = dict(zip(names, [world["videos"][n] for n in (*names[1:], names[0])], strict=True))
    found = verified(world, write_tar(tmp_path / "test.tar", moved)).outcomes[0]
    assert found.status == "FAIL" and found.cause is not None and "out of step" in found.cause


def test_features_that_are_a_constant_fail(world: dict[str, Any], tmp_path: Path) -> None:
    same = {video: np.ones_like(x) for video, x in world["videos"].items()}
    row = replace(world["row"], recalls={"R@1": 99.0})
    found = verified(world, write_tar(tmp_path / "test.tar", same), row).outcomes[0]
    assert found.status == "FAIL" and found.cause is not None and "what guessing gives" in found.cause


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"videos": 1000, "captions": 1000}, "videos to choose from: 1000 there, 4 here"),
        ({"frames": 8}, "frames: 8 a video there, 12 here"),
        ({"frames": None}, "the source does not say how many"),
        ({"variants": ("full",)}, "variant: full there, 9k here"),
    ],
)
def test_another_protocol_is_not_comparable_whatever_the_number(
    world: dict[str, Any], changed: dict[str, Any], words: str
) -> None:
    report = verified(world, row=replace(world["row"], **changed))
    assert report.status == "NOT COMPARABLE" and words in report.outcomes[0].detail


def test_videos_of_different_numbers_of_frames_have_no_number(world: dict[str, Any], tmp_path: Path) -> None:
    by_rate = {video: x[: 3 + i] for i, (video, x) in enumerate(world["videos"].items())}
    found = verified(world, write_tar(tmp_path / "test.tar", by_rate))
    assert found.status == "NOT COMPARABLE" and "12 a video there, not one number here" in found.outcomes[0].detail


def test_a_csv_of_another_split_is_refused(world: dict[str, Any], tmp_path: Path) -> None:
    others = {f"video{7000 + n}": x for n, x in zip(range(4), world["videos"].values(), strict=True)}
    with pytest.raises(DataError, match=r"4 of 4 test videos .* \(first: 'video7016'; .*: features of another split"):
        verified(world, write_tar(tmp_path / "test.tar", others))


def test_features_of_another_length_are_refused(world: dict[str, Any], tmp_path: Path) -> None:
    longer = {video: np.concatenate([x, x], 1) for video, x in world["videos"].items()}
    with pytest.raises(DataError, match=r"have 48 numbers and .* gives 24: another encoder's"):
        verified(world, write_tar(tmp_path / "test.tar", longer))


def test_an_encoder_without_a_published_result_is_a_sentence(world: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no published zero-shot result of 'demo-tiny' on 'msrvtt' is known here"):
        features.verify([world["tar"]], world["spec"], "demo-tiny", device="cpu", offline=True)


# ----------------------------------------------------------------------------------------------------------- the layout


def test_rows_of_another_method_are_no_rows_of_features(world: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="not by the mean of frames"):
        features.verify(
            [world["tar"]], world["spec"], world["backbone"], device="cpu", offline=True,
            known=[replace(world["row"], method="one_vector")],
        )  # fmt: skip


def test_a_tar_is_read_as_it_was_written(world: dict[str, Any]) -> None:
    found = foreign.read([world["tar"]])
    assert list(found) == list(world["videos"])
    for video, x in world["videos"].items():
        np.testing.assert_array_equal(found[video], x.astype(np.float32))


def test_a_damaged_tar_is_a_sentence(world: dict[str, Any], tmp_path: Path) -> None:
    whole = world["tar"].read_bytes()
    for name, data, words in (
        ("half.tar", whole[: 512 + 300], "cut short|half of one"),
        ("text.tar", b"not a tar at all" * 100, "is no tar file"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=words):
            foreign.read([tmp_path / name])
    with pytest.raises(DataError, match="found none"):
        foreign.read([tmp_path / "none.tar"])
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(DataError, match=r"expected samples KEY\.npy"):
        foreign.read([tmp_path / "empty.tar"])


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.full((2, 4), np.nan, np.float32), "not finite"),
        (np.zeros(4, np.float32), r"expected features \[F, D\]"),
        (np.zeros((0, 4), np.float32), r"expected features \[F, D\]"),
        (np.zeros((2, 4), np.int64), r"expected features \[F, D\]"),
    ],
)
def test_a_sample_that_is_no_matrix_is_a_sentence(tmp_path: Path, frames: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        foreign.read([write_tar(tmp_path / "a.tar", {"v": frames})])


def test_a_pickle_in_a_sample_is_not_run(tmp_path: Path) -> None:
    held = io.BytesIO()
    np.save(held, np.array([{"a": 1}]), allow_pickle=True)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        sample(tar, "v.npy", held.getvalue())
    with pytest.raises(DataError, match=r"v\.npy cannot be read"):
        foreign.read([tmp_path / "a.tar"])


def test_one_video_in_two_samples_has_to_be_the_same(tmp_path: Path) -> None:
    a, b = np.ones((2, 4), np.float32), np.zeros((2, 4), np.float32)
    paths = [write_tar(tmp_path / f"{i}.tar", {"v": x}) for i, x in enumerate((a, a, b))]
    assert list(foreign.read(paths[:2])) == ["v"]
    with pytest.raises(DataError, match="has two samples, and their features differ"):
        foreign.read(paths)
    with pytest.raises(DataError, match="of two encoders"):
        foreign.read([paths[0], write_tar(tmp_path / "c.tar", {"w": np.ones((2, 5), np.float32)})])


# ---------------------------------------------------------------------------------------------------------- from videos


def test_a_whole_run_from_videos_is_set_beside_its_row(world: dict[str, Any], tmp_path: Path) -> None:
    row = replace(world["row"], frames=2, recalls={"R@1": 25.0})
    report = published.verify(
        world["spec"], world["backbone"], tmp_path, device="cpu", offline=True, allow_missing=True, known=[row]
    )
    (found,) = report.outcomes
    (value,) = found.values
    low, high = 25.0 - value.allowed, 25.0 + value.allowed  # type: ignore[operator]
    assert found.status == ("PASS" if low <= value.found <= high else "FAIL"), found
    assert report.card.of == ("published", world["spec"], world["backbone"]) and report.card.hashes["gallery"]
    other = replace(row, videos=1000)
    again = published.verify(
        world["spec"], world["backbone"], tmp_path, device="cpu", offline=True, allow_missing=True, known=[other]
    )
    assert again.status == "NOT COMPARABLE"


def measured(r1: float, **changed: Any) -> Measured:
    said: dict[str, Any] = {
        "dataset": "msrvtt", "variant": "9k", "captions": 1000, "videos": 1000, "backbone": "clip-vit-b16",
        "frames": 16, "method": "mean", "recalls": {"R@1": r1, "R@5": 55.0, "R@10": 65.0},
        "intervals": {"R@1": [r1 - 3, r1 + 3], "R@5": [52.0, 58.0], "R@10": [62.0, 68.0]},
    }  # fmt: skip
    return Measured(**{**said, **changed})


def test_a_result_passes_inside_its_interval_and_fails_outside() -> None:
    row = next(row for row in ROWS if row.name == "hitchhiker-mean")
    assert scores.against(row, measured(32.0)).status == "PASS"
    failed = scores.against(row, measured(25.0), "a cause")
    assert failed.status == "FAIL" and failed.cause == "a cause" and "R@1 25.0 [22.0, 28.0]" in failed.detail
    assert scores.against(row, measured(32.0, backbone="clip-vit-b32")).status == "NOT COMPARABLE"
    assert scores.against(row, measured(32.0, method="text_guided")).status == "NOT COMPARABLE"


def test_values_of_two_rows_have_names_of_their_own() -> None:
    """A card is done again value by value."""
    rows = [row for row in ROWS if row.name.startswith("hitchhiker")]
    names = [value.name for row in rows for value in scores.against(row, measured(32.0)).values]
    assert len(names) == 6 == len(set(names))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["features"],
            "tvr verify features --data msrvtt:/data/MSRVTT --features features.tar --backbone clip-vit-b32",
        ),
        (["features", "x"], "takes --data and --backbone"),
        (["published", "--data", "msrvtt:x"], "one of --backbone and --recipe"),
        (["published", "--data", "msrvtt:x", "--backbone", "a", "--recipe", "b"], "one of --backbone and --recipe"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(words: list[str], told: str) -> None:
    found = CliRunner().invoke(app, ["verify", *words])
    assert found.exit_code == 2 and told in found.stderr


def test_the_command_ends_with_3_where_nothing_is_comparable(world: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(scores, "ROWS", (replace(world["row"], videos=1000),))
    asked = ["--data", world["spec"], "--features", str(world["tar"]), "--backbone", world["backbone"]]
    found = CliRunner().invoke(app, ["verify", "features", *asked, "--device", "cpu", "--offline"])
    assert found.exit_code == 3 and "NOT COMPARABLE" in found.stderr and "PASS" not in found.stdout


def reproduced(r1: float, value: float | None, **changed: Any) -> Any:
    """A reproduction as far as it is looked at: its result, the published number, what was changed."""
    side = {"R@1": r1}
    interval = SimpleNamespace(t2v={"R@1": [r1 - 3, r1 + 3]})
    judged = Fair(
        tie_rule="", v2t_protocol="max", t2v=side, v2t=side, rsum=0.0, ties={}, bounds={}, intervals=interval,  # type: ignore[arg-type]
    )  # fmt: skip
    number = None if value is None else Published(t2v_r1=value, exact=changed.pop("exact", True), selected_on="test")
    subject = SimpleNamespace(selected_on=changed.pop("selected_on", "test"))
    experiment = SimpleNamespace(recipe="a-recipe")
    result = SimpleNamespace(judged=judged, subject=subject)
    return SimpleNamespace(result=result, experiment=experiment, published=number, changed=changed.pop("changed", ()))


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        (reproduced(50.0, 51.0), "PASS", "published 51"),
        (reproduced(40.0, 51.0), "FAIL", "R@1 40.0 [37.0, 43.0], published 51"),
        (reproduced(50.0, 51.0, selected_on="val"), "NOT COMPARABLE", "selected on val here"),
        (reproduced(50.0, 51.0, exact=False), "NOT COMPARABLE", "revision of their code is not known"),
        (reproduced(50.0, None, changed=("train.lr",)), "NOT COMPARABLE", "changed: train.lr"),
        (reproduced(50.0, None), "NOT COMPARABLE", "no published number"),
    ],
)
def test_a_recipes_result_is_set_beside_the_number_of_its_authors(found: Any, status: str, words: str) -> None:
    outcome = published.of_recipe(found)
    assert outcome.status == status and words in outcome.detail


# ------------------------------------------------------------------------------------------------- a recipe, end to end

_SMALL = """\
extends: [methods/gare, datasets/msrvtt, backbones/demo-tiny]
frames: {size: 64, max_frames: 4}
words: {length: 24}
train: {tune: head, epochs: 1, batch_size: 6, seed: 0}
recipe:
  selected_on: val
  code_revision: known
  gpus: 1
  published: {t2v: {R@1: PUBLISHED}}
  sources: {}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that writes a small recipe with a published number beside the shipped presets."""
    root = tmp_path / "presets"
    shutil.copytree(preset_loader.presets_root(), root)
    for module in (preset_loader, config):
        monkeypatch.setattr(module, "presets_root", lambda: root)

    def write(published: float) -> str:
        (root / "recipes" / "small.yaml").write_text(_SMALL.replace("PUBLISHED", str(published)))
        return "small"

    return write


def test_a_recipe_is_run_from_videos_to_its_published_number(
    world: dict[str, Any], recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(published: float, out: str, *more: str) -> tuple[int, dict[str, Any], str]:
        words = ["--data", world["spec"], "--recipe", recipe(published), "-o", str(tmp_path / out), *more]
        found = CliRunner().invoke(app, ["verify", "published", *words, "--device", "cpu", "--offline", "--json"])
        return found.exit_code, json.loads(found.stdout) if found.stdout else {}, found.stderr

    code, _, told = verify(25.0, "part")
    assert code == 3 and "--allow-missing" in told, "the miniature is no whole data set"
    code, report, _ = verify(25.0, "part", "--allow-missing")
    (outcome,) = report["outcomes"]
    assert code == 3 and outcome["status"] == "NOT COMPARABLE" and "videos are missing" in outcome["detail"]
    ours = float(outcome["detail"].split()[1])  # R@1 25.0 [0.0, 75.0]; …

    whole = {"9k": {"train": SplitSize(16, 32), "test": SplitSize(4, 4)}}
    monkeypatch.setattr(msrvtt, "SIZES", {**msrvtt.SIZES, **whole})
    for published_value, expected, exit_code in ((ours, "PASS", 0), (150.0, "FAIL", 5)):
        shutil.copytree(tmp_path / "part" / "frames", tmp_path / expected / "frames")
        code, report, _ = verify(published_value, expected)
        assert (report["status"], code) == (expected, exit_code), report["outcomes"]
        assert report["outcomes"][0]["values"][0]["expected"] == published_value
        assert "revision not pinned: weights of sha256" in report["outcomes"][0]["detail"]
        assert report["card"]["of"][-1] == "recipe:small" and "gallery" in report["card"]["hashes"]
