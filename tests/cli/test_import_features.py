"""`tvr import-features`: features of others serve a workspace like its own, and what cannot be taken is a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_features
import numpy as np
import pytest
import torch
from foreign_features import write_tar
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.workspace import Workspace

THINGS = ("red circle", "blue square", "green star", "yellow triangle", "white cross", "red star")
DOES = ("moves left", "moves right", "grows", "spins")
TEXTS = [f"a {thing} {does}" for thing in THINGS for does in DOES]  # one a video
SPLITS = ["train"] * 16 + ["val"] * 2 + ["test"] * 6
NAMES = [f"video{i:02d}" for i in range(len(TEXTS))]


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def ok(*args: object) -> dict[str, Any]:
    found = tvr(*args, "--json")
    assert found.exit_code == 0, found.stderr
    said: dict[str, Any] = json.loads(found.stdout)
    return said


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of features of demo-tiny's size around its vectors of the captions, and the captions."""
    root = tmp_path_factory.mktemp("given")
    videos = foreign_features.around(foreign_features.text_vectors(TEXTS), [3 + i % 4 for i in range(len(TEXTS))])
    write_tar(root / "features.tar", dict(zip(NAMES, videos, strict=True)))
    lines = [
        {"video": n, "caption": t, "split": s, "id": f"c{n}"} for n, t, s in zip(NAMES, TEXTS, SPLITS, strict=True)
    ]
    (root / "captions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return root


def imported(given: Path, out: Path, *more: object) -> dict[str, Any]:
    words = ["import-features", given / "features.tar", "--backbone", "demo-tiny", "--fps", 2, "-o", out]
    return ok(*words, "--captions", given / "captions.jsonl", *more)


@pytest.fixture(scope="module")
def made(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    report = imported(given, out, "--source", "a test", "--revision", "abc")
    assert report["clips"] == {"total": 24, "encoded": 24, "kept": 0} and report["frames"] == [3, 6]
    assert report["splits"] == {"train": 16, "val": 2, "test": 6} and report["lacks"] == []
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def store_of(out: Path) -> FeatureStore:
    found = Workspace(out).newest_features()
    assert found is not None
    return found


# ------------------------------------------------------------------------------------------------------------- serves


def test_the_store_holds_the_arrays_of_the_file_and_says_whose_they_are(made: Path, given: Path) -> None:
    store = store_of(made)
    video = store.video()
    assert store.clips.ids(range(3)) == NAMES[:3]
    from tvr_cli.engine.features import foreign

    for row, (name, x) in enumerate(sorted(foreign.read([given / "features.tar"]).items())):
        n = int(video.n_frames[row])
        assert n == len(x), name
        np.testing.assert_array_equal(video.frames[row, :n].numpy(), x)
        np.testing.assert_array_equal(video.ts[row, :n].numpy(), np.arange(n) / 2)
    record = store.clips[0]
    assert (record.decoder, record.span, record.duration) == ("imported", (0.0, 1.5), 1.5)
    assert store.imported is not None and (store.imported.source, store.imported.revision) == ("a test", "abc")
    (digest,) = store.provenance["imported"]["sha256"].values()
    assert len(digest) == 64 and store.provides >= {"frames", "pooled", "tokens"}
    assert json.loads((store.root / "store.json").read_text())["uses"] == ["imported"], "an older tvr refuses it"


def test_it_is_evaluated_as_its_matrix_says(out: Path) -> None:
    result = ok("evaluate", "--method", "mean", "-o", out)
    store = store_of(out)
    rows = store.split("test")
    text, video = store.text(rows).pooled.numpy(), store.video()
    clips = [store.captions[int(row)].clips[0] for row in rows]
    unit = [x[: int(n)].numpy() for x, n in zip(video.frames, video.n_frames, strict=True)]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in unit]
    means = np.stack([unit[i].mean(0) / np.linalg.norm(unit[i].mean(0)) for i in clips])
    expected = 100 * float(((text @ means.T).argmax(1) == np.arange(len(clips))).mean())
    assert result["t2v"]["R@1"] == pytest.approx(expected) and expected > 50


def test_a_head_is_trained_on_it_and_judged(out: Path) -> None:
    run = ok("train", "--method", "gare", "--set", "train.epochs=1", "--set", "train.batch_size=8", "-o", out)
    assert run["steps"] >= 1
    assert ok("evaluate", run["run"], "-o", out)["t2v"]["R@5"] >= 0


def test_it_is_indexed_and_answers_with_the_video_and_the_seconds(out: Path) -> None:
    assert ok("index", "--method", "mean", "-o", out)["clips"] == 24
    found = tvr("query", TEXTS[5], "--index", out, "--method", "mean", "-k", 3, "--json")
    hits = json.loads(found.stdout)["results"][0]["hits"]
    assert NAMES[5] in [hit["video_id"] for hit in hits] and all(hit["missing"] for hit in hits)
    assert all(0 <= hit["start"] <= hit["end"] <= 3 for hit in hits)
    assert f"3 videos of the answer have no file here: the features were imported without ('{hits[0]['path']}' …)" in (
        found.stderr
    )
    table = tvr("query", TEXTS[5], "--index", out, "--method", "mean", "-k", 3, "--all")
    assert table.stdout.count("(imported without its file)") == 3 and "any more" not in table.stdout + table.stderr


def test_a_file_that_is_called_as_an_imported_video_is_not_taken_for_it(out: Path, tmp_path, monkeypatch) -> None:
    (tmp_path / NAMES[5]).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert ok("index", "--method", "mean", "-o", out)["clips"] == 24
    hits = ok("query", TEXTS[5], "--index", out, "--method", "mean", "-k", 24)["results"][0]["hits"]
    assert NAMES[5] in [hit["path"] for hit in hits] and all(hit["missing"] for hit in hits)
    assert tvr("query", TEXTS[5], "--index", out, "--method", "mean", "--paths", "--all").stdout == ""


def test_a_data_set_gives_ids_and_splits_as_from_videos(given: Path, tmp_path: Path) -> None:
    from miniature import TEST, sentence, write_dataset

    root = write_dataset("msrvtt", tmp_path / "msrvtt")
    texts = [sentence(n) for n in TEST]
    videos = foreign_features.around(foreign_features.text_vectors(texts), [4] * len(texts))
    names = [f"video{7000 + n}" for n in TEST]
    tar = write_tar(tmp_path / "test.tar", dict(zip(names, videos, strict=True)))
    out = tmp_path / "out"
    report = ok("import-features", tar, "--backbone", "demo-tiny", "--data", f"msrvtt:{root}", "--fps", 1, "-o", out)
    assert report["splits"] == {"train": 0, "val": 0, "test": 4} and report["captions"]["set_aside"] == 32
    result = ok("evaluate", "--method", "mean", "-o", out, "--allow-missing")
    assert result["t2v"]["R@1"] > 50 and result["data"]["name"] == "msrvtt"
    hits = json.loads(tvr("query", texts[0], "--index", out, "--json").stdout)["results"][0]["hits"]
    assert not any(hit["missing"] for hit in hits), "the data set knows where the videos are"


def test_one_vector_a_video_serves_the_method_that_takes_one(given: Path, tmp_path: Path) -> None:
    vectors = foreign_features.text_vectors(TEXTS)
    save_file({n: np.ascontiguousarray(v) for n, v in zip(NAMES, vectors, strict=True)}, tmp_path / "v.safetensors")
    out = tmp_path / "out"
    words = ["--backbone", "demo-tiny", "--captions", given / "captions.jsonl", "-o", out]
    report = ok("import-features", tmp_path / "v.safetensors", *words)
    assert report["frames"] == [0, 0] and "no frames" in report["lacks"][0]
    assert ok("evaluate", "--method", "one_vector", "-o", out)["t2v"]["R@1"] == 100.0
    refused = tvr("evaluate", "--method", "mean", "-o", out)
    assert refused.exit_code == 3 and "mean needs frames" in refused.stderr


@pytest.mark.parametrize("by", ["caption", "video"])
def test_vectors_of_captions_may_come_along_and_need_no_backbone(given: Path, tmp_path: Path, by: str) -> None:
    vectors = foreign_features.text_vectors(TEXTS)
    (tmp_path / "texts").mkdir()
    for name, v in zip(NAMES, vectors, strict=True):
        np.save(tmp_path / "texts" / f"{f'c{name}' if by == 'caption' else name}.npy", v[None] if by == "video" else v)
    out = tmp_path / "out"
    words = ["--texts", tmp_path / "texts", "--captions", given / "captions.jsonl", "--fps", 1, "-o", out]
    report = ok("import-features", given / "features.tar", *words)
    assert report["backbone"] is None and any("no backbone" in line for line in report["lacks"])
    assert ok("evaluate", "--method", "mean", "-o", out)["t2v"]["R@1"] > 50
    query = tvr("query", "a red circle", "--index", out, "--method", "mean")
    assert query.exit_code == 3 and "imported without the name of their backbone" in query.stderr
    tokens = tvr("evaluate", "--method", "wti", "-o", out)
    assert tokens.exit_code in (2, 3) and "tokens" in tokens.stderr


# ------------------------------------------------------------------------------------------------ files, again, dry run


def as_folder(given: Path, out: Path, kind: str) -> Path:
    from tvr_cli.engine.features import foreign

    out.mkdir()
    videos = foreign.read([given / "features.tar"])
    for name, x in videos.items():
        if kind == "npy":
            np.save(out / f"{name}.npy", x)
        elif kind == "npz":
            np.savez(out / f"{name}.npz", features=x)
        elif kind == "pt":
            torch.save(torch.from_numpy(x), out / f"{name}.pt")
    if kind == "safetensors":
        save_file(videos, out / "all.safetensors")
    return out


@pytest.mark.parametrize("kind", ["npy", "npz", "pt", "safetensors"])
def test_every_layout_gives_the_same_features(given: Path, tmp_path: Path, kind: str) -> None:
    from tvr_cli.engine.features import foreign

    expected = foreign.read([given / "features.tar"])
    found = foreign.read([as_folder(given, tmp_path / "f", kind)])
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_done_again_it_keeps_everything_and_writes_a_damaged_shard_again(out: Path, given: Path) -> None:
    store = store_of(out)
    frames = store.video().frames
    before = {path: path.read_bytes() for path in store.root.glob("*.safetensors")}
    again = imported(given, out, "--source", "a test", "--revision", "abc")
    assert again["clips"] == {"total": 24, "encoded": 0, "kept": 24} and again["captions"]["encoded"] == 0
    shard = next(path for path in before if path.name.startswith("video"))
    data = bytearray(before[shard])
    data[-1] ^= 1
    shard.write_bytes(data)
    refused = tvr("precompute-features", "-o", out, "--repair", shard.name)
    assert refused.exit_code == 3 and "were imported, and there are no frames to make them from again" in refused.stderr
    assert f"tvr import-features {given / 'features.tar'} --backbone demo-tiny" in refused.stderr
    assert tvr("doctor", out).exit_code != 0
    assert imported(given, out, "--source", "a test", "--revision", "abc")["clips"]["encoded"] == 24
    assert len(list(store.root.glob("*.safetensors"))) == len(before)
    assert torch.equal(store_of(out).video().frames, frames)
    assert tvr("doctor", out).exit_code == 0


def test_a_stop_in_between_is_taken_over(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tvr_cli.engine.features import import_features
    from tvr_cli.stores.features.writer import FeatureWriter

    monkeypatch.setattr(import_features, "_SHARD_CLIPS", 10)
    add, shards = FeatureWriter.add_video, []

    def stopping(self: FeatureWriter, *given: Any) -> None:
        if len(shards) == 1:
            raise KeyboardInterrupt
        shards.append(given)
        add(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "add_video", stopping)
        words = ["import-features", given / "features.tar", "--fps", 2, "-o", tmp_path / "out"]
        assert tvr(*words).exit_code == 130
    assert ok(*words)["clips"] == {"total": 24, "encoded": 14, "kept": 10}


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(given: Path, made: Path, tmp_path: Path) -> None:
    report = imported(given, tmp_path / "out", "--dry-run")
    assert report["dry_run"] and report["clips"]["encoded"] == 24 and report["bytes"] > 0
    assert not (tmp_path / "out").exists()
    there = imported(given, made, "--dry-run", "--source", "a test", "--revision", "abc")
    assert there["store"] == str(store_of(made).root) and there["clips"]["encoded"] == 0


def test_frames_may_be_thinned_as_those_of_videos_are(given: Path, tmp_path: Path) -> None:
    imported(given, tmp_path / "out", "--num-frames", 3)
    store = store_of(tmp_path / "out")
    assert store.sizes.frames == 3 and set(store.clips.n_frames.tolist()) == {3}
    five = NAMES.index("video02")  # of 5 frames: floor((i + 1/2) 5 / 3) = 0, 2, 4
    np.testing.assert_array_equal(store.video(torch.tensor([five])).ts[0].numpy(), [0.0, 1.0, 2.0])


def test_other_sources_revisions_rates_and_files_are_other_stores(given: Path, tmp_path: Path) -> None:
    words = ["import-features", given / "features.tar", "-o", tmp_path / "out"]
    other = write_tar(tmp_path / "one.tar", {"v": np.ones((2, 32), np.float32)})
    reports = [
        ok(*words, "--fps", 1),
        ok(*words, "--fps", 2),
        ok(*words, "--fps", 1, "--revision", "r"),
        ok(*words, "--fps", 1, "--source", "s"),
        ok("import-features", other, "--fps", 1, "-o", tmp_path / "out"),
    ]
    assert len({report["fingerprint"] for report in reports}) == len(reports)


# -------------------------------------------------------------------------------------------- what needs frames refuses


def test_what_needs_frames_refuses_in_a_sentence(out: Path) -> None:
    full = tvr("train", "--method", "gare", "--tune", "full", "-o", out)
    assert full.exit_code == 3 and "were imported without any; train the head alone (--tune head)" in full.stderr
    made_again = tvr("precompute-features", "--repair", store_of(out).fingerprint, "-o", out)
    assert made_again.exit_code == 3 and "import them again" in made_again.stderr
    again = tvr("precompute-features", "-o", out)
    assert again.exit_code == 3 and "extract-frames" in again.stderr
    named = tvr("train", "--method", "gare", "--captions", out / "c.jsonl", "-o", out)
    assert named.exit_code == 3, named.stderr


def test_an_experiment_on_other_frames_is_not_trained_on_it(out: Path) -> None:
    refused = tvr("train", "--method", "gare", "--set", "frames.num_frames=12", "-o", out)
    assert refused.exit_code == 3 and "frames.num_frames is None, 12 is wanted" in refused.stderr


def test_frames_that_come_later_do_not_make_it_stale(out: Path) -> None:
    import tiny_frames

    tiny_frames.simple(out, {"a.mp4": 4})
    store = store_of(out)
    assert Workspace(out).outdated(store) == ""
    assert ok("evaluate", "--method", "mean", "-o", out)["t2v"]["R@1"] > 50


# ---------------------------------------------------------------------------------------------------------- bad input


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


Write = Callable[[Path], Path]
BAD: dict[str, tuple[Write, str]] = {
    "another length": (lambda p: write_tar(p / "a.tar", {"a": ones(2, 4), "b": ones(2, 5)}), "are of two encoders"),
    "mixed": (lambda p: write_tar(p / "a.tar", {"a": ones(2, 4), "b": ones(4)}), r"one vector [D], and 'a'"),
    "nan": (lambda p: write_tar(p / "a.tar", {"a": ones(2, 4) * np.nan}), "is not finite"),
    "three dimensions": (lambda p: write_tar(p / "a.tar", {"a": ones(2, 4, 1)}), "expected features [F, D]"),
    "no frames": (lambda p: write_tar(p / "a.tar", {"a": ones(0, 4)}), "expected features [F, D]"),
    "whole numbers": (lambda p: write_tar(p / "a.tar", {"a": ones(2, 4, dtype=np.int64)}), "as numbers, found int64"),
    "of another encoder": (lambda p: write_tar(p / "a.tar", {"a": ones(2, 4)}), "another encoder's"),
    "nothing": (lambda p: p / "none.tar", "found none"),
    "an empty folder": (lambda p: p, "holds no features"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_a_sentence_and_nothing_is_written(tmp_path: Path, what: str) -> None:
    (tmp_path / "in").mkdir()
    write, words = BAD[what]
    found = tvr(
        "import-features", write(tmp_path / "in"), "--fps", 1, "--backbone", "demo-tiny", "-o", tmp_path / "out"
    )
    assert found.exit_code == 3 and words in found.stderr, found.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", [0.3, "at a sample", "no end"])
def test_half_a_tar_is_a_sentence(given: Path, tmp_path: Path, cut: Any) -> None:
    data = (given / "features.tar").read_bytes()
    if cut == "no end":
        data = data.rstrip(b"\0") + b"\0" * (-len(data.rstrip(b"\0")) % 512)
    elif cut == "at a sample":  # a header and one block of each of three members, cut between two
        data = data[: data.index(b"000000002.npy")]
    else:
        data = data[: int(len(data) * cut) - 100]
    (tmp_path / "half.tar").write_bytes(data)
    found = tvr("import-features", tmp_path / "half.tar", "--fps", 1, "-o", tmp_path / "out")
    assert found.exit_code == 3 and "download" in found.stderr, found.stderr


def test_times_that_nothing_says_are_asked_for(given: Path, tmp_path: Path) -> None:
    found = tvr("import-features", given / "features.tar", "-o", tmp_path / "out")
    assert found.exit_code == 3 and "give their rate with --fps" in found.stderr
    told = write_tar(tmp_path / "told.tar", {"v": ones(4, 8)}, duration=8.0)
    ok("import-features", told, "-o", tmp_path / "out")
    np.testing.assert_array_equal(store_of(tmp_path / "out").video().ts[0].numpy(), [1.0, 3.0, 5.0, 7.0])


def test_videos_that_the_data_set_does_not_know_are_a_sentence(given: Path, tmp_path: Path) -> None:
    lines = [{"video": n, "caption": t} for n, t in zip(NAMES[:20], TEXTS, strict=False)]
    file = tmp_path / "captions.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    words = ["import-features", given / "features.tar", "--backbone", "demo-tiny", "--fps", 1, "-o", tmp_path / "out"]
    found = tvr(*words, "--data", f"jsonl:{file}")
    assert found.exit_code == 3 and "4 of 24 videos of the features (first: 'video20') are not of" in found.stderr
    report = ok(*words, "--data", f"jsonl:{file}", "--ignore-unknown")
    assert report["clips"]["total"] == 20 and report["left_out"] == 4
    file.write_text('{"video": "another", "caption": "a"}\n')
    for spec in (["--data", f"jsonl:{file}", "--ignore-unknown"], ["--captions", file]):
        found = tvr(*words, *spec)
        assert found.exit_code == 3 and "of another" in found.stderr, found.stderr


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ({"cvideo00": ones(128), "cvideo02": ones(128)}, "expected a vector of the caption 'cvideo01'"),
        ({name: ones(2, 128) for name in NAMES}, "found 2 of its video"),
        ({name: ones(1, 5) for name in NAMES}, "of two encoders"),
    ],
)
def test_vectors_of_captions_that_do_not_fit_are_a_sentence(
    given: Path, tmp_path: Path, vectors: dict[str, np.ndarray], words: str
) -> None:
    save_file({name: np.ascontiguousarray(x) for name, x in vectors.items()}, tmp_path / "t.safetensors")
    found = tvr(
        "import-features", given / "features.tar", "--texts", tmp_path / "t.safetensors", "--fps", 1,
        "--captions", given / "captions.jsonl", "-o", tmp_path / "out",
    )  # fmt: skip
    assert found.exit_code == 3 and words in found.stderr, found.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--captions", "c.jsonl"], "captions need vectors: name the backbone"),
        (["--texts", "t.npy"], "--texts has the vectors of captions"),
        (["--fps", "0"], "--fps: expected a rate"),
        (["--captions", "a", "--data", "jsonl:b"], "give --captions or --data, not both"),
        (["--columns", "video=a"], "give it with --captions FILE"),
        (["--word-importance", "stopwords"], "--word-importance marks words that a backbone encodes"),
    ],
)
def test_flags_that_do_not_go_together_are_a_sentence(given: Path, tmp_path: Path, words: list[str], told: str) -> None:
    found = tvr("import-features", given / "features.tar", "-o", tmp_path / "out", *words)
    assert found.exit_code == 2 and told in found.stderr, found.stderr


def test_samples_from_before_the_channels_were_mended_are_told(tmp_path: Path) -> None:
    old = write_tar(tmp_path / "old.tar", {"v": ones(2, 8)}, written=1_662_000_000)
    found = tvr("import-features", old, "--fps", 1, "-o", tmp_path / "out")
    assert found.exit_code == 0 and "red and blue swapped" in found.stderr
    new = write_tar(tmp_path / "new.tar", {"v": ones(2, 8)})
    assert "swapped" not in tvr("import-features", new, "--fps", 1, "-o", tmp_path / "out").stderr


def test_a_pickle_in_a_file_is_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([{"a": 1}], dtype=object))
    torch.save({"a": Path("x")}, tmp_path / "c.pt")
    for file in ("a.npy", "b.npz", "c.pt"):
        found = tvr("import-features", tmp_path / file, "--fps", 1, "-o", tmp_path / "out")
        assert found.exit_code == 3 and "pickle=" not in found.stderr, found.stderr
