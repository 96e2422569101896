"""What the system refuses ends in a sentence and the exit code of its kind, wherever it happens; bugs stay bugs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_frames
from typer.testing import CliRunner, Result

from tvr_cli import files, os_errors
from tvr_cli.cli import app
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.plans import FramePlan
from tvr_cli.stores import verify

MACHINE = (
    *("ENOSPC", "EDQUOT", "EFBIG", "EIO", "ESTALE", "EXDEV", "EMFILE", "ENFILE", "ENOLCK", "ENOMEM", "EBUSY"),
    *("ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "ENODEV", "ENOSYS", "EOPNOTSUPP", "EAGAIN"),
)


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def said(result: Result, code: int) -> str:
    assert result.exit_code == code, (result.exit_code, result.stderr)
    assert "a bug in tvr" not in result.stderr and result.stderr.startswith("error: ")
    return result.stderr


@pytest.mark.parametrize("name", [*MACHINE, "EACCES", "EROFS", "ENOTDIR", "EISDIR", "EEXIST"])
def test_whatever_the_system_refuses_while_writing_names_the_path_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: Any, name: str
) -> None:
    path = tmp_path / "store.json"
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, refuse)
            with pytest.raises(EnvironmentProblem, match=r"store\.json.*; .{20}|store\.json.*: .{20}"):
                files.write_text(path, "new")
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_refusal_that_nobody_met_on_the_way_is_a_sentence_at_the_end(tmp_path: Path, monkeypatch: Any) -> None:
    wanted = {**dict.fromkeys(MACHINE, 4), "EACCES": 3, "ENOENT": 3, "ENAMETOOLONG": 2}
    for name, code in wanted.items():
        number = getattr(errno, name)

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number), "some/file")

        monkeypatch.setattr("tvr_cli.engine.whole.info.info", refuse)
        assert "some/file" in said(tvr("info", tmp_path), code)


def test_a_process_without_memory_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    def greedy(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("tvr_cli.engine.whole.info.info", greedy)
    assert "not enough memory" in said(tvr("info", tmp_path), 4)


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "Bad file descriptor"), OSError("no number"), OSError(22, "x")])
def test_what_the_system_says_of_a_mistake_of_ours_stays_a_bug(
    tmp_path: Path, monkeypatch: Any, error: OSError
) -> None:
    assert os_errors.refusal(error) is None

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("tvr_cli.engine.whole.info.info", broken)
    result = tvr("info", tmp_path)
    assert result.exit_code == 1 and "a bug in tvr" in result.stderr
    assert tvr("--debug", "info", tmp_path).exception is error


def test_names_that_are_too_long_are_refused_in_one_short_line(tmp_path: Path) -> None:
    long = "x" * 300
    for words in (("info", tmp_path / long), ("extract-frames", tmp_path, "-o", tmp_path / long)):
        assert len(said(tvr(*words), 2)) < 400
    tiny_frames.write(tmp_path, [tiny_frames.clip("a.mp4", 2)])
    with pytest.raises(ConfigError, match="longer than a file system takes"):
        files.write_text(tmp_path / long, "")


@pytest.mark.parametrize(("number", "shared", "ends"), [
    (errno.ENOLCK, False, "gives no locks"), (errno.ENOLCK, True, "gives no locks"),
    (errno.ENOSYS, False, "gives no locks"), (errno.EOPNOTSUPP, False, "gives no locks"),
    (errno.EIO, False, "gives no locks"),
    (errno.ENOSYS, True, ""), (errno.EOPNOTSUPP, True, ""),
    (errno.EAGAIN, False, "another tvr process"), (errno.EACCES, True, "another tvr process"),
])  # fmt: skip
def test_a_file_system_without_locks_is_not_called_another_process(
    tmp_path: Path, monkeypatch: Any, number: int, shared: bool, ends: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    if not ends:
        with files.lock(tmp_path, wait_s=0, shared=shared):
            return
    with pytest.raises(EnvironmentProblem, match=ends), files.lock(tmp_path, wait_s=0, shared=shared):
        pytest.fail("held a lock that there is not")


@pytest.mark.skipif(os.name == "nt", reason="no limits of this kind")
@pytest.mark.parametrize(("limit", "value", "remedy"), [
    (resource.RLIMIT_FSIZE, 64, "ulimit -f"), (resource.RLIMIT_NOFILE, 12, "ulimit -n"),
])  # fmt: skip
def test_the_limits_of_the_shell_are_named(tmp_path: Path, limit: int, value: int, remedy: str) -> None:
    code = (
        "import contextlib, pathlib, resource, signal, sys; from tvr_cli import files; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit({int(limit)}, ({value}, {value})); kept = []\n"
        "while True:\n"
        "    with files.disk_errors(pathlib.Path('some')): kept.append(open('/dev/null'))\n"
        "    files.write_bytes(pathlib.Path(sys.argv[1]), bytes(1000))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=False
    )
    assert "EnvironmentProblem" in ended.stderr and remedy in ended.stderr, ended.stderr


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_a_store_without_the_right_to_read_it_is_named(tmp_path: Path) -> None:
    tiny_frames.write(tmp_path, [tiny_frames.clip("a.mp4", 2)])
    (tmp_path / "frames" / "store.json").chmod(0)
    assert "store.json" in said(tvr("info", tmp_path), 3)


@pytest.mark.parametrize("name", ["store.json", "shards-*.jsonl", "*.records.json"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_file_of_a_store_that_cannot_be_opened_is_named(
    tmp_path: Path, monkeypatch: Any, name: str, number: int
) -> None:
    tiny_frames.write(tmp_path, [tiny_frames.clip("a.mp4", 2)])
    (path,) = (tmp_path / "frames").glob(name)
    monkeypatch.setattr("builtins.open", refusing(open, path, number))
    monkeypatch.setattr("io.open", refusing(open, path, number))
    result = tvr("precompute-features", "-o", tmp_path, "--backbone", "demo-tiny", "--offline")
    assert path.name in said(result, result.exit_code) and result.exit_code in (3, 4)


@pytest.fixture(scope="module")
def featured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of three clips, with captions to train on and their features."""
    out = tmp_path_factory.mktemp("featured")
    names = ("a.mp4", "b.mp4", "c.mp4")
    plan = FramePlan(num_frames=4, size=64)
    tiny_frames.write(out, [tiny_frames.clip(name, 4, size=64) for name in names], plan=plan).seal()
    captions = out / "captions.jsonl"
    lines = [{"video": name, "caption": f"the clip {name[0]}", "split": "train"} for name in names]
    captions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = tvr("precompute-features", "--captions", captions, "-o", out, "--backbone", "demo-tiny", "--offline")
    assert made.exit_code == 0, made.stderr
    return out


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_what_the_system_does_not_give_is_not_called_damaged_and_nothing_replaces_it(
    featured: Path, tmp_path: Path, monkeypatch: Any, number: int
) -> None:
    out = shutil.copytree(featured, tmp_path / "out")
    (features,) = (out / "features").iterdir()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    train = ("train", "--method", "glccl", "--epochs", 1, "-o", out)
    extract = ("extract-frames", "--repair", "all", "-o", out)
    precompute = ("precompute-features", "--captions", out / "captions.jsonl", "--offline", "-o", out)
    for folder, name, words in (
        (features, "store.json", train), (features, "shards-*.jsonl", train), (features, "clips-*.table", train),
        (features, "video-*.safetensors", train), (features, "video-*.rows.json", precompute),
        (features, "shards-*.jsonl", (*precompute, "--repair", features.name)),
        (out / "frames", "store.json", extract), (out / "frames", "shards-*.jsonl", extract),
        (out / "frames", "*.safetensors", extract), (out / "frames", "*.records.json", extract),
    ):  # fmt: skip
        path = sorted(folder.glob(name))[0]
        with monkeypatch.context() as patched:
            patched.setattr("builtins.open", refusing(open, path, number))
            patched.setattr("io.open", refusing(open, path, number))
            result = tvr(*words)
            found = [finding for finding in verify.check(folder, out) if finding.problem]
        assert result.exit_code == (4 if number == errno.EIO else 3), (name, result.stderr)
        message = result.stderr[result.stderr.index("error: ") :]
        assert path.name in message and os.strerror(number) in message and "damaged" not in message, (name, message)
        assert "--repair" not in message and "make it again" not in message, (name, message)
        assert [(os.strerror(number) in f.problem, f.fix) for f in found] == [(True, "")], (name, found)
        assert {p: p.read_bytes() for p in before} == before, name


def refusing(opened: Any, path: Path, number: int) -> Any:
    def open_(file: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(file, int) and Path(os.fsdecode(file)) == path:
            raise OSError(number, os.strerror(number), str(path))
        return opened(file, *args, **kwargs)

    return open_


def test_reading_and_writing_have_exit_codes_of_their_own() -> None:
    refused = OSError(errno.EACCES, "Permission denied", "a")
    assert isinstance(os_errors.refusal(refused), DataError)
    assert isinstance(os_errors.refusal(refused, written="a"), EnvironmentProblem)
