"""A store of frames or features of format 1 becomes format 2 in one step: killed before it, it is what it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tvr_cli import files
from tvr_cli.cli import app
from tvr_cli.engine.whole.migrate import migrate
from tvr_cli.errors import DataError, EnvironmentProblem, StoreMismatch
from tvr_cli.stores.features import format1 as features_format1
from tvr_cli.stores.features.head import read, read_head
from tvr_cli.stores.features.store import FeatureStore, clip_row_key, text_row_key
from tvr_cli.stores.features.writer import FeatureWriter
from tvr_cli.stores.frames import format1
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.stores.frames.writer import FrameWriter
from tvr_cli.workspace import Workspace

OLD = Path(__file__).parent.parent / "old" / "0.1.0"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "out"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def edit(out: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the first line of the manifest."""
    path = out / "frames" / "manifest.jsonl"
    first, *rest = path.read_text().splitlines()
    line = json.loads(first)
    change(line)
    path.write_text("\n".join([json.dumps(line), *rest]) + "\n")


def test_format_1_is_refused_with_the_command_that_migrates_it(out: Path) -> None:
    with pytest.raises(StoreMismatch, match=r"format 1, which tvr 0.1.0 wrote.* run: tvr migrate -o"):
        Workspace(out).frames()


def test_every_record_and_frame_stays(out: Path) -> None:
    lines = files.read_lines(out / "frames" / "manifest.jsonl")
    old = {clip["id"]: clip for line in lines for clip in line["clips"]}
    answers = json.loads((OLD / "answers.json").read_text())
    shards = {p.name: p.stat().st_ino for p in (out / "frames").glob("*.safetensors")}

    report = migrate(Workspace(out))
    assert [(s.kind, s.found, s.format, s.clips, s.shards) for s in report.stores] == [
        ("frames", 1, 2, len(old), len(lines)), ("features", 1, 2, len(old), 2)
    ]  # fmt: skip
    store = FrameStore.open(out / "frames")
    assert {p.name: p.stat().st_ino for p in (out / "frames").glob("*.safetensors")} == shards
    assert not (out / "frames" / "manifest.jsonl").exists()
    assert [r.id for r in store.records] == sorted(old)
    for record in store.records:
        said = old[record.id]
        names = ("path", "start", "end", "key", "file_id", "source_sha256", "n_frames", "duration", "width", "height")
        assert {n: getattr(record, n) for n in names} == {n: said[n] for n in names}
        assert list(record.span) == said["span"]
    assert store.content_hash() == answers["content"]
    info = answers["info"]
    counts = store.counts
    assert (counts.clips, store.video_count(), counts.frames, counts.truncated, dict(counts.decoders)) == (
        info["clips"], info["videos"], info["frames"], info["truncated"], info["decoders"]
    )  # fmt: skip
    assert store.identity == info["identity"] and store.plan.identity() == info["identity"]
    assert all(len(c.jpegs) == c.record.n_frames for c in store.read(sorted(old)))
    again = migrate(Workspace(out))
    assert [(s.found, s.format, s.size_bytes) for s in again.stores] == [(2, 2, 0), (2, 2, 0)]


def test_a_dry_run_writes_nothing(out: Path) -> None:
    before = tree(out)
    told = migrate(Workspace(out), dry_run=True)
    assert tree(out) == before
    done = migrate(Workspace(out))
    assert told.stores == done.stores and all(store.size_bytes > 0 for store in done.stores)


@pytest.mark.parametrize("step", range(3))
def test_a_migration_stopped_before_any_step_leaves_the_old_store_and_finishes(
    out: Path, monkeypatch: Any, step: int
) -> None:
    before, write, left = tree(out), files.write_bytes, [step]  # the records, the list, the head

    def write_until(path: Path, data: bytes, **more: Any) -> str:
        if left[0] == 0:
            path.with_name(f"{path.name}.4711.tmp").write_bytes(data[: len(data) // 2])  # as SIGKILL leaves it
            raise KeyboardInterrupt
        left[0] -= 1
        return write(path, data, **more)

    monkeypatch.setattr(files, "write_bytes", write_until)
    with pytest.raises(KeyboardInterrupt):
        migrate(Workspace(out))
    monkeypatch.setattr(files, "write_bytes", write)
    assert before.items() <= tree(out).items()  # what 0.1.0 wrote is as it was
    migrate(Workspace(out))
    store = FrameStore.open(out / "frames")
    assert store.content_hash() == json.loads((OLD / "answers.json").read_text())["content"]
    writer = FrameWriter.open(out / "frames", store.identity, {})  # it sweeps up what was not finished
    assert len(writer.clips()) == len(store) and not list((out / "frames").glob("*.tmp"))


def test_a_manifest_left_by_a_stop_after_the_change_goes_with_the_next_try(out: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(format1, "remove_old", lambda folder: None)
    migrate(Workspace(out))
    monkeypatch.undo()
    assert (out / "frames" / "manifest.jsonl").exists() and len(Workspace(out).frames()) > 0
    migrate(Workspace(out))
    assert not (out / "frames" / "manifest.jsonl").exists()


def test_a_full_disk_is_a_sentence_and_leaves_the_old_store(out: Path, monkeypatch: Any) -> None:
    before, sync = tree(out), os.fsync

    def full(fd: int) -> None:
        sync(fd)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem, match="no space left"):
        migrate(Workspace(out))
    monkeypatch.undo()
    assert tree(out) == before


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda line: line.pop("rows"), "it lacks 'rows'"),
        (
            lambda line: line["clips"][0].update(n_frames="3"),
            "the clip .*: expected a whole number above 0 as 'n_frames'",
        ),
        (lambda line: line["clips"][0].update(span=[0.0]), "the clip .*: expected a list of 2 as 'span'"),
        (lambda line: line["clips"][0].update(key=17), "the key of the clip .* does not follow"),
        (lambda line: line["clips"][0].update(row=10**6), "a clip points outside of its shard"),
        (lambda line: line["clips"].insert(0, 5), "a clip: expected an object"),
        (lambda line: line.update(shard="../x"), "where the bare name"),
        (lambda line: line.update(shard="x.safetensors"), "no name of a shard"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_changes(out: Path, change: Any, found: str) -> None:
    edit(out, change)
    before = tree(out)
    with pytest.raises(DataError, match=found):
        migrate(Workspace(out))
    assert tree(out) == before


@pytest.mark.parametrize("left", [0, 500, None])
def test_a_manifest_that_was_not_copied_whole_is_refused_and_nothing_changes(out: Path, left: int | None) -> None:
    path = out / "frames" / "manifest.jsonl"
    whole = path.read_bytes()
    path.unlink() if left is None else path.write_bytes(whole[:left])
    before = tree(out)
    for dry_run in (True, False):
        with pytest.raises(DataError, match=r"manifest.jsonl' .*\.safetensors' beside it is not named there"):
            migrate(Workspace(out), dry_run=dry_run)
    assert tree(out) == before
    path.write_bytes(whole)
    assert migrate(Workspace(out)).stores[0].clips == 31


def test_a_shard_of_a_killed_run_behind_a_whole_manifest_is_no_obstacle(out: Path) -> None:
    shutil.copy(next((out / "frames").glob("*.safetensors")), out / "frames" / f"{'ab' * 10}.safetensors")
    assert migrate(Workspace(out)).stores[0].clips == 31


def test_the_command_says_what_it_did(out: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["migrate", "-o", str(out), "--json"])
    said = json.loads(done.stdout)
    assert done.exit_code == 0 and said["schema"] == "tvr/migrate@1" and said["dry_run"] is False
    assert [(s["kind"], s["found"], s["format"]) for s in said["stores"]] == [("frames", 1, 2), ("features", 1, 2)]
    assert "nothing to do" in runner.invoke(app, ["migrate", "-o", str(out)]).stdout
    nowhere = runner.invoke(app, ["migrate", "-o", str(tmp_path / "none")])
    assert nowhere.exit_code == 3 and "expected a workspace" in nowhere.stderr


# ------------------------------------------------------------------------------------------------------------- features

NAMES = {"clips": "clips-*.json", "captions": "captions-*.json"}


@pytest.fixture
def half(out: Path, monkeypatch: Any) -> Path:
    """The features of a workspace whose frames have the new format already."""
    (features,) = (out / "features").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "begun_features", lambda self: [])
        migrate(Workspace(out))
    return features


def old_list(folder: Path, what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(next(folder.glob(NAMES[what])).read_text())
    return found


def rename_list(folder: Path, what: str, records: Any) -> None:
    """Write another list of clips or captions, as 0.1.0 would have."""
    data = json.dumps(records, ensure_ascii=False, separators=(",", ":")).encode()
    name = f"{what}-{hashlib.sha256(data).hexdigest()[:16]}.json"
    (folder / name).write_bytes(data)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, what: name}))


def test_features_of_format_1_are_refused_with_the_command_that_migrates_them(half: Path) -> None:
    workspace = Workspace(half.parent.parent)
    for ask in (workspace.newest_features, lambda: workspace.features(half.name), workspace.given_backbone):
        with pytest.raises(StoreMismatch, match=r"feature store of format 1, which tvr 0.1.0 wrote.* run: tvr migrate"):
            ask()
    for command in (["evaluate", "--method", "mean"], ["precompute-features"], ["index"], ["info", str(half)]):
        place = [] if command[0] == "info" else ["-o", str(half.parent.parent)]
        refused = CliRunner().invoke(app, [*command, *place])
        assert refused.exit_code == 3 and "tvr migrate" in refused.stderr, (command, refused.stderr)


def test_every_row_clip_and_caption_of_features_stays(half: Path) -> None:
    clips, captions = old_list(half, "clips"), old_list(half, "captions")
    lines = files.read_lines(half / "shards.jsonl")
    header, state = (json.loads((half / name).read_text()) for name in ("store.json", "state.json"))
    shards = {p.name: p.stat().st_ino for p in half.glob("*.safetensors")}
    asked_at = (half / "state.json").stat().st_mtime_ns
    names = [next(half.glob(pattern)).name for pattern in NAMES.values()]
    content = hashlib.sha256("\n".join([half.name, *names]).encode()).hexdigest()  # as 0.1.0 made it

    migrate(Workspace(half.parent.parent))
    store = FeatureStore.open(half)
    assert {p.name: p.stat().st_ino for p in half.glob("*.safetensors")} == shards
    assert not list(half.glob("*-*[0-9a-f].json")) and not (half / "state.json").exists()
    assert (half / "store.json").stat().st_mtime_ns == asked_at
    said = [{**{n: getattr(c, n) for n in c.__slots__}, "span": list(c.span)} for c in store.clips]
    assert said == clips
    assert [(c.id, c.text, c.split, list(c.clips), c.file_id, c.source, c.start, c.end) for c in store.captions] == [
        (c["id"], c["text"], c["split"], c["clips"], c["file_id"], c["source"], c.get("start"), c.get("end"))
        for c in captions
    ]
    assert (store.fingerprint, store.identity, store.backbone_name) == (
        header["fingerprint"], header["identity"], header["backbone"]
    )  # fmt: skip
    assert store.corpus == state["corpus"] and store.provides == set(header["provides"])
    assert store.content_hash() == content
    held = {line["kind"]: load_file(half / line["shard"]) for line in lines}
    keys = {line["kind"]: line["keys"] for line in lines}
    at = [keys["video"].index(clip_row_key(c.key, c.n_frames)) for c in store.clips]
    of = [keys["text"].index(text_row_key(c.text)) for c in store.captions]
    assert torch.equal(store.video().frames, held["video"]["frames"][at].float())
    assert torch.equal(store.text().pooled, held["text"]["pooled"][of].float())
    real = torch.arange(store.sizes.frames) < held["video"]["n_frames"][:, None]
    norms = held["video"]["frames"].float()[real].norm(dim=-1)
    assert store.norms["video.frames"] == pytest.approx(float(norms.mean()), rel=1e-6)
    assert store.norms["text.pooled"] == pytest.approx(float(held["text"]["pooled"].float().norm(dim=-1).mean()))


def test_the_hash_of_the_content_is_that_of_a_store_written_now(half: Path) -> None:
    """Else a run that was begun on 0.1.0 could not go on after the features were looked at again."""
    migrate(Workspace(half.parent.parent))
    store = FeatureStore.open(half)
    before = store.content_hash()
    writer = FeatureWriter(half, read_head(half).made)
    assert writer.finish(list(store.clips), list(store.captions), store.corpus) is False
    writer.finish(list(store.clips)[:-1], [], store.corpus)
    writer.finish(list(store.clips), list(store.captions), store.corpus)
    assert FeatureStore.open(half).content_hash() == before


@pytest.mark.parametrize("step", range(6))
def test_features_whose_migration_is_stopped_before_any_step_are_the_old_ones(
    half: Path, monkeypatch: Any, step: int
) -> None:
    before, write, left = tree(half), files.write_bytes, [step]  # two files of rows, two tables, the list, the head

    def write_until(path: Path, data: bytes, **more: Any) -> str:
        if left[0] == 0:
            path.with_name(f"{path.name}.4711.tmp").write_bytes(data[: len(data) // 2])  # as SIGKILL leaves it
            raise KeyboardInterrupt
        left[0] -= 1
        return write(path, data, **more)

    monkeypatch.setattr(files, "write_bytes", write_until)
    with pytest.raises(KeyboardInterrupt):
        migrate(Workspace(half.parent.parent))
    monkeypatch.setattr(files, "write_bytes", write)
    assert before.items() <= tree(half).items()  # what 0.1.0 wrote is as it was
    assert features_format1.found_format(half) == 1
    (done,) = migrate(Workspace(half.parent.parent)).stores[1:]
    assert (done.kind, done.found, done.format) == ("features", 1, 2)
    assert len(FeatureStore.open(half).video()) == done.clips and not list(half.glob("*.tmp"))


def test_features_on_a_full_disk_stay_the_old_ones(half: Path, monkeypatch: Any) -> None:
    before, sync = tree(half), os.fsync

    def full(fd: int) -> None:
        sync(fd)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem, match="no space left"):
        migrate(Workspace(half.parent.parent))
    monkeypatch.undo()
    assert tree(half) == before


def test_old_files_left_by_a_stop_after_the_change_go_with_the_next_try(half: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(features_format1, "drop_orphans", lambda *_: None)
    migrate(Workspace(half.parent.parent))
    monkeypatch.undo()
    assert (half / "state.json").exists() and len(FeatureStore.open(half).clips) > 0
    migrate(Workspace(half.parent.parent))
    assert not (half / "state.json").exists() and not list(half.glob("clips-*.json"))


def test_features_that_were_never_finished_become_features_that_were_begun(half: Path) -> None:
    for path in (half / "state.json", next(half.glob("clips-*.json")), next(half.glob("captions-*.json"))):
        path.unlink()
    with open(half / "shards.jsonl", "ab") as f:
        f.write(b'{"shard": "video-')  # and a line that was never finished
    (done,) = migrate(Workspace(half.parent.parent)).stores[1:]
    assert (done.format, done.shards, done.clips) == (2, 2, 0)
    with pytest.raises(DataError, match="begun but not finished"):
        FeatureStore.open(half)
    assert len(FeatureWriter(half, read_head(half).made).keys("video")) > 0


@pytest.mark.parametrize(
    ("file", "left", "found"),
    [
        ("shards.jsonl", None, r"shards.jsonl' is missing or empty, and 'text-.*, 'video-.* are not named there"),
        ("shards.jsonl", 1000, r"shards.jsonl' ends within a line, and '(text|video)-.*' beside it is not named there"),
        ("shards.jsonl", -1, r"shards.jsonl' lacks rows .*, and '(text|video)-.*' beside it is not named there"),
        ("state.json", None, r"state.json' is missing, and 'captions-.*, 'clips-.* are not named there"),
    ],
)
def test_a_list_of_features_that_was_not_copied_whole_is_refused_and_nothing_changes(
    half: Path, file: str, left: int | None, found: str
) -> None:
    whole = (half / file).read_bytes()
    cut = whole.index(b"\n") + 1 if left == -1 else left
    (half / file).unlink() if cut is None else (half / file).write_bytes(whole[:cut])
    before = tree(half)
    for dry_run in (True, False):
        with pytest.raises(DataError, match=found):
            migrate(Workspace(half.parent.parent), dry_run=dry_run)
    assert tree(half) == before
    (half / file).write_bytes(whole)
    assert migrate(Workspace(half.parent.parent)).stores[1].clips == 31


def test_the_doctor_says_that_features_of_which_a_shard_is_gone_are_incomplete(half: Path) -> None:
    kept, gone = files.read_lines(half / "shards.jsonl")
    (half / "shards.jsonl").write_text(json.dumps(kept) + "\n")
    (half / gone["shard"]).unlink()
    out = half.parent.parent
    migrate(Workspace(out))
    told = CliRunner().invoke(app, ["doctor", str(out)])
    what = "31 clips" if gone["kind"] == "video" else "26 captions"
    assert told.exit_code == 3 and f"no shard has the features of {what}" in told.stdout, told.stdout
    assert f"tvr precompute-features --repair {half.name} -o {out}" in told.stdout


@pytest.mark.parametrize("what", ["clips", "captions"])
def test_what_is_said_of_a_lost_list_of_features_leads_to_features(half: Path, what: str) -> None:
    next(half.glob(NAMES[what])).unlink()
    with pytest.raises(DataError, match=r"Move '.*state\.json' elsewhere, and the lists that it names"):
        migrate(Workspace(half.parent.parent))
    for path in (half / "state.json", *half.glob("clips-*.json"), *half.glob("captions-*.json")):
        path.rename(half.parent.parent / path.name)
    assert migrate(Workspace(half.parent.parent)).stores[1].format == 2


def test_a_damaged_shard_is_kept_and_named_when_it_is_read(half: Path, caplog: Any) -> None:
    shard = next(half.glob("video-*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    migrate(Workspace(half.parent.parent))
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.endswith(f"--repair {shard.name} -o {half.parent.parent}"), said
    assert {line.kind: line.norms is None for line in read(half)[1]} == {"video": True, "text": False}
    with pytest.raises(DataError, match=f"precompute-features --repair {shard.name}"):
        FeatureStore.open(half).video()
    assert "video.frames" not in FeatureStore.open(half).norms


@pytest.mark.parametrize(
    ("what", "change", "found"),
    [
        ("clips", lambda clips: clips[0].update(n_frames="3"), "whole number"),
        ("clips", lambda clips: clips[0].update(width=2**40), "below 2147483648"),
        ("clips", lambda clips: clips[0].update(duration=99.5), "does not last as long as its span"),
        ("clips", lambda clips: clips[0].pop("file_id"), "lacks 'file_id'"),
        ("captions", lambda captions: captions[0].update(clips=[10**6]), "about a clip that is not there"),
        ("captions", lambda captions: captions[0].update(split="x"), "'train' or 'val' or 'test'"),
        ("captions", lambda captions: captions.insert(0, 5), "expected an object"),
    ],
)
def test_a_list_that_does_not_fit_is_named_and_nothing_changes(half: Path, what: str, change: Any, found: str) -> None:
    records = old_list(half, what)
    change(records)
    rename_list(half, what, records)
    before = tree(half)
    with pytest.raises(DataError, match=found) as e:
        migrate(Workspace(half.parent.parent))
    assert tree(half) == before and e.value.exit_code == 3


@pytest.mark.parametrize("change", [lambda x: x.pop("keys"), lambda x: x.update(sha256=1), lambda x: x.update(kind=[])])
def test_a_damaged_line_of_features_is_named_and_nothing_changes(half: Path, change: Any) -> None:
    first, *rest = files.read_lines(half / "shards.jsonl")
    change(first)
    (half / "shards.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (first, *rest)))
    before = tree(half)
    with pytest.raises(DataError, match=r"shards.jsonl:1: this line is damaged.* nothing was changed"):
        migrate(Workspace(half.parent.parent))
    assert tree(half) == before


def test_a_head_that_cannot_be_read_is_told_with_what_to_do(out: Path) -> None:
    for store in ("frames", "features/e876d22e7a302768"):
        head = out / store / "store.json"
        whole = head.read_bytes()
        head.write_bytes(whole[:-9])
        told = CliRunner().invoke(app, ["migrate", "-o", str(out)])
        assert told.exit_code == 3 and "nothing of it was changed" in told.stderr
        assert "back, or move the folder elsewhere and" in told.stderr
        assert "tvr extract-frames" in told.stderr or "tvr precompute-features" in told.stderr
        head.write_bytes(whole)


def test_info_says_which_format_a_store_has_and_what_brings_it_here(out: Path) -> None:
    told = CliRunner().invoke(app, ["info", str(out)])
    assert told.exit_code == 3 and "damaged" not in told.stdout
    assert f"other-format {out / 'frames'}" in told.stdout
    assert told.stdout.count("format 1, which tvr 0.1.0 wrote") == told.stdout.count(f"tvr migrate -o {out}") == 2
