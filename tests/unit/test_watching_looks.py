"""What a watcher sees and hears: a look at the files, whether one is gone, events and where there are none."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tvr_cli.errors import EnvironmentProblem
from tvr_cli.watching import ears
from tvr_cli.watching.looking import look, surely_gone


def test_a_look_finds_files_and_leaves_hidden_ones_and_the_workspace(tmp_path: Path) -> None:
    for name in ("a.mp4", "deep/b.mp4", ".hidden.mp4", "out/frames/shard.tar", "elsewhere.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = look([tmp_path, tmp_path / "none"], besides=tmp_path / "out")
    assert sorted(found.files) == [tmp_path / "a.mp4", tmp_path / "deep" / "b.mp4", tmp_path / "elsewhere.txt"]
    assert found.sources == (tmp_path,)
    assert [flaw.what for flaw in found.flaws] == [str(tmp_path / "none")]


def test_a_manifest_is_watched_with_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("x")
    listed = tmp_path / "some.jsonl"
    listed.write_text('{"path": "a.mp4"}\n')
    assert sorted(look([listed]).files) == [tmp_path / "a.mp4", listed]
    listed.write_text('{"path": ')
    half = look([listed])
    assert list(half.files) == [listed] and "some.jsonl" in half.flaws[0].what


def test_a_folder_that_cannot_be_looked_through_is_said_and_its_files_are_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "a.mp4").write_text("x")
    device = look([tmp_path]).files[closed / "a.mp4"].device
    refuse_below(monkeypatch, closed)
    found = look([tmp_path])
    assert found.files == {} and found.flaws[0].what == str(closed) and "Permission denied" in found.flaws[0].reason
    assert not surely_gone(closed / "a.mp4", device)


def refuse_below(monkeypatch: pytest.MonkeyPatch, closed: Path) -> None:
    """Let the system refuse what lies in a folder, to root as well."""
    real_stat, real_scandir = os.stat, os.scandir

    def stat(path: object, *args: object, **named: object) -> os.stat_result:
        if isinstance(path, str | Path) and closed in Path(path).parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_stat(path, *args, **named)  # type: ignore[call-overload]

    def scandir(path: object = ".") -> object:
        if Path(path) == closed:  # type: ignore[arg-type]
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "scandir", scandir)


def test_a_file_is_gone_where_its_folder_or_the_one_above_is_still_on_the_same_disk(tmp_path: Path) -> None:
    device = os.stat(tmp_path).st_dev
    (tmp_path / "a.mp4").write_text("x")
    assert not surely_gone(tmp_path / "a.mp4", device)
    assert surely_gone(tmp_path / "b.mp4", device)
    assert surely_gone(tmp_path / "deleted" / "folder" / "b.mp4", device)
    assert not surely_gone(tmp_path / "b.mp4", device + 1)  # the disk that it was on is not mounted there now


MOUNTS = """22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/na\\040s rw shared:1 - nfs4 server:/films rw
31 22 0:41 / /home/me/far rw - fuse.sshfs me@there: rw
32 22 0:42 / /mnt/na\\040s/local rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/videos", None),
        ("/mnt/na s", "nfs4"),
        ("/mnt/na s/films/2024", "nfs4"),
        ("/mnt/na search", None),
        ("/mnt/na s/local/a", None),
        ("/home/me/far/a", "fuse.sshfs"),
    ],
)
def test_a_folder_of_another_machine_is_known_by_what_is_mounted(path: str, kind: str | None) -> None:
    assert ears.network_kind(Path(path), MOUNTS) == kind


class NoObserver:
    """Stands for the system's events where it gives none. error: what it says."""

    def __init__(self, error: OSError | None = None):
        self.error, self.handlers = error, list[object]()

    def schedule(self, handler: object, path: str, recursive: bool) -> None:
        self.handlers.append(handler)

    def start(self) -> None:
        if self.error is not None:
            raise self.error

    def stop(self) -> None: ...

    def join(self, timeout: float) -> None: ...


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "fs.inotify.max_user_watches"),
        (errno.EMFILE, "fs.inotify.max_user_instances"),
        (errno.ENOSYS, "tells of no changes there"),
    ],
)
def test_a_system_that_gives_no_events_is_said_and_looked_at_by_a_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    monkeypatch.setattr(ears, "_observer", lambda: NoObserver(OSError(code, "no more")))
    heard, why = ears.listen([tmp_path], None)
    assert heard.how == "looked at every 10 s" and heard.every_s == 10.0
    assert words in why and "looking every 10 s instead" in why


def test_a_folder_on_a_network_is_looked_at_by_a_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ears, "_observer", NoObserver)
    monkeypatch.setattr(ears, "network_kind", lambda path: "nfs")
    heard, why = ears.listen([tmp_path], None)
    assert heard.how == "looked at every 10 s" and "(nfs)" in why


def test_a_clock_that_was_asked_for_needs_no_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "watchdog.observers", None)
    assert ears.listen([tmp_path], 3.0)[0].every_s == 3.0
    with pytest.raises(EnvironmentProblem, match=r"tvr-cli\[watch\].*--poll 10"):
        ears.listen([tmp_path], None)


def test_events_of_reading_wake_nobody_and_others_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observer = NoObserver()
    heard = ears.Events([tmp_path], observer)

    @dataclass
    class Event:
        event_type: str

    (handler,) = observer.handlers
    for kind in ("opened", "closed_no_write"):
        handler.dispatch(Event(kind))  # type: ignore[attr-defined]
    assert not heard.wait(0.0)
    handler.dispatch(Event("moved"))  # type: ignore[attr-defined]
    assert heard.wait(0.0) and not heard.wait(0.0)


def test_watchdogs_own_events_are_heard(tmp_path: Path) -> None:
    pytest.importorskip("watchdog")
    heard, why = ears.listen([tmp_path], None)
    try:
        assert why == "" and heard.how == "events of the system"
        (tmp_path / "a.mp4").write_text("x")
        assert heard.wait(600.0)
    finally:
        heard.close()
