"""A frame store of format 1 becomes format 2 in one step: killed before it, it is what it was."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tvr_cli import files
from tvr_cli.cli import app
from tvr_cli.engine.whole.migrate import migrate
from tvr_cli.errors import DataError, EnvironmentProblem, StoreMismatch
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
    assert [(s.found, s.format, s.clips, s.shards) for s in report.stores] == [(1, 2, len(old), len(lines))]
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
    assert [(s.found, s.format, s.size_bytes) for s in again.stores] == [(2, 2, 0)]


def test_a_dry_run_writes_nothing(out: Path) -> None:
    before = tree(out)
    told = migrate(Workspace(out), dry_run=True)
    assert tree(out) == before
    done = migrate(Workspace(out))
    assert told.stores == done.stores and done.stores[0].size_bytes > 0


@pytest.mark.parametrize("step", range(3))
def test_a_migration_stopped_before_any_step_leaves_the_old_store_and_finishes(
    out: Path, monkeypatch: Any, step: int
) -> None:
    before, write, left = tree(out), files.write_bytes, [step]  # the records, the list, the head

    def write_until(path: Path, data: bytes) -> str:
        if left[0] == 0:
            path.with_name(f"{path.name}.4711.tmp").write_bytes(data[: len(data) // 2])  # as SIGKILL leaves it
            raise KeyboardInterrupt
        left[0] -= 1
        return write(path, data)

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
    monkeypatch.setattr(format1, "remove_manifest", lambda folder: None)
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
        (lambda line: line.pop("rows"), "it has no 'rows'"),
        (lambda line: line["clips"][0].update(n_frames="3"), "has no 'n_frames', or one of another type"),
        (lambda line: line["clips"][0].update(span=[0.0]), "has no 'span', or one of another type"),
        (lambda line: line["clips"][0].update(key=17), "the key of the clip .* does not follow"),
        (lambda line: line["clips"][0].update(row=10**6), "a clip points outside of its shard"),
        (lambda line: line["clips"].insert(0, 5), "a clip is not an object"),
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


def test_the_command_says_what_it_did(out: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["migrate", "-o", str(out), "--json"])
    said = json.loads(done.stdout)
    assert done.exit_code == 0 and said["schema"] == "tvr/migrate@1" and said["dry_run"] is False
    assert [(s["kind"], s["found"], s["format"]) for s in said["stores"]] == [("frames", 1, 2)]
    assert "nothing to do" in runner.invoke(app, ["migrate", "-o", str(out)]).stdout
    nowhere = runner.invoke(app, ["migrate", "-o", str(tmp_path / "none")])
    assert nowhere.exit_code == 3 and "expected a workspace" in nowhere.stderr
