"""What is removed and replaced is known to be tvr's own: bare names, folders of others, an index at every crash."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from indexes import blocks, edit_head, method, write_old

from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.files import bare_name, read_json
from tvr_cli.removal import remove_files, remove_folder, strangers
from tvr_cli.stores.index.store import Index, write_index

HOSTILE = (
    "../x",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "",
    ".",
    "..",
    "a\0b",
    "\udc80",
    "C:x",
    "a\nb",
    "\x1b[2J",
    None,
    7,
    ["a"],
)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))
    }


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_leads_out_of_its_folder_is_refused(name) -> None:
    with pytest.raises(DataError, match=r"list\.jsonl' names .* where the bare name of a file"):
        bare_name(name, Path("list.jsonl"))


@given(st.text())
def test_whatever_passes_names_a_file_right_in_the_folder(name: str) -> None:
    try:
        passed = bare_name(name, Path("list.jsonl"))
    except DataError:
        return
    assert (Path("/store") / passed).parent == Path("/store") and os.path.normpath(f"/store/{passed}") != "/store"


@pytest.mark.parametrize("name", ["store.json", "video-0123456789abcdef.safetensors", ".lock", "größe.json", "a b"])
def test_ordinary_names_pass(name: str) -> None:
    assert bare_name(name, Path("list.jsonl")) == name


# -------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("stranger", ["notes.txt", "deep/er/notes.txt", "empty/", "link"])
def test_a_folder_with_anything_else_in_it_is_left_as_it_is(tmp_path: Path, stranger: str) -> None:
    folder = tmp_path / "index"
    (folder / "sub").mkdir(parents=True)
    for name in ("head.json", "sub/a"):
        (folder / name).write_text("own")
    (folder / stranger).parent.mkdir(parents=True, exist_ok=True)
    if stranger == "link":
        (folder / stranger).symlink_to(tmp_path)
    elif stranger.endswith("/"):
        (folder / stranger).mkdir()
    else:
        (folder / stranger).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(DataError, match=rf"holds '{stranger.rstrip('/')}', which does not belong to X; nothing.*Do Y"):
        remove_folder(folder, ["head.json", "sub/a"], last="head.json", what="X", fix="Do Y")
    assert tree(tmp_path) == before


def test_a_folder_of_nothing_but_own_files_is_removed_with_its_mark_last(tmp_path: Path, monkeypatch) -> None:
    gone: list[str] = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda self, **options: (gone.append(self.name), unlink(self, **options)))
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("b", "head.json", "z"):
        (folder / name).write_text("own")
    remove_folder(folder, ["b", "head.json", "z", "never.there"], last="head.json", what="X", fix="Do Y")
    assert not folder.exists() and gone[-1] == "head.json"


def test_a_link_in_the_place_of_a_folder_is_a_stranger(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("mine")
    (tmp_path / "index").symlink_to(tmp_path / "real")
    assert strangers(tmp_path / "index", ["a"]) == ["."]


@pytest.mark.parametrize("name", ["../victim", "link/victim", "/etc/hostname"])
def test_files_behind_a_path_that_leads_out_are_not_removed(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "victim").write_text("precious")
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(DataError):
        remove_files(root, [name])
    assert (tmp_path / "victim").read_text() == "precious"


# ---------------------------------------------------------------------------------------------------------------- index


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code catches it."""


def build(folder: Path, made_from: str, clips: int = 3) -> Index:
    return write_index(folder, {"made_from": made_from}, blocks(method(), clips))


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Stop before the step-th change of the disk from now on; returns the list of the changes that were begun."""
    done: list[str] = []

    def counted(name: str, change):
        def stop_or_change(*args, **options):
            done.append(name)
            if len(done) > step:
                raise Killed
            return change(*args, **options)

        return stop_or_change

    for name in ("replace", "link"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    for name in ("rename", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(Path, name, counted(name, getattr(Path, name)))
    return done


def old(folder: Path) -> None:
    write_old(folder, {"made_from": "format 1"})


def first(folder: Path) -> None:
    build(folder, "old")


def grown(folder: Path) -> None:
    """An index of two segments with a clip deleted, as growing leaves it."""
    index = build(folder, "older").append(blocks(method(), 1, first=3), identity={"made_from": "old"}, asked={})
    index.delete(["3.mp4#0003"])


def append(folder: Path) -> None:
    Index.open(folder).append(blocks(method(), 2, first=5), identity={"made_from": "new"}, asked={})


def delete(folder: Path) -> None:
    Index.open(folder).delete(["0.mp4#0000"])


def rebuild(folder: Path) -> None:
    build(folder, "new")


@pytest.mark.parametrize(
    ("before", "act", "opened"),
    [
        (None, rebuild, {None, "new"}),
        (old, rebuild, {None, "new"}),
        (first, rebuild, {"old", "new"}),
        (grown, rebuild, {"old", "new"}),
        (first, append, {"old", "new"}),
        (grown, append, {"old", "new"}),
        (first, delete, {"old"}),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_killed_at_any_step_an_index_opens_and_the_next_one_takes_its_place(
    tmp_path, monkeypatch, before, act, opened
) -> None:
    states = set()
    for step in range(1000):
        folder = tmp_path / str(step) / "index"
        if before is not None:
            before(folder)
        with monkeypatch.context() as patched:
            done = kill_at(patched, step)
            try:
                act(folder)
            except Killed:
                pass
            else:
                break
        if step % 5 and len(done) > 1 and done[-1] == done[-2]:
            continue  # in a row of links or removals each leaves what the one before left, and one more
        try:
            index = Index.open(folder)
            index.verify()
            states.add(index.identity["made_from"])
        except DataError as e:
            assert "index" in str(e)
            states.add(None)
        assert build(folder, "newest").identity == {"made_from": "newest"}
        assert sorted(p.name for p in folder.parent.iterdir()) == ["index"]
        assert sorted(p.name for p in folder.iterdir() if p.name != "current") == [Index.open(folder).generation.name]
        assert len(Index.open(folder)) == 3
    assert len(done) == step > 8
    assert states == opened


@pytest.mark.parametrize("kind", [True, False], ids=["kind", "no kind"])
def test_an_index_of_0_1_0_is_not_opened_and_is_replaced(tmp_path: Path, kind: bool) -> None:
    folder = tmp_path / "index"
    write_old(folder, {"made_from": "old"}, kind=kind)
    with pytest.raises(StoreMismatch, match="format 1, this tvr reads 2; build it again with: tvr index"):
        Index.open(folder)
    assert build(folder, "new").identity == {"made_from": "new"}
    assert sorted(p.name for p in folder.iterdir()) == ["current", "g000001"]


def test_what_a_stop_of_0_1_0_left_beside_the_index_goes_with_the_next_one(tmp_path: Path) -> None:
    write_old(tmp_path / "index.building", {"made_from": "old"})
    write_old(tmp_path / "index.replaced", {"made_from": "older"})
    (tmp_path / "index.replaced" / "notes.txt").write_text("mine")
    kept = tree(tmp_path / "index.replaced")
    build(tmp_path / "index", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index", "index.replaced"]
    assert tree(tmp_path / "index.replaced") == kept


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("index.html", "<html>"),
        ("store.json", '{"theme": "dark"}'),
        ("store.json", '{"kind": "frames", "format": 1}'),
        ("store.json", '{"kind": "index", "format": 2}'),
        ("store.json", "{"),
        ("encoding-00000.safetensors", "weights"),
        ("current", "master"),
        ("current", '{"kind": "index", "format": 3}'),
        ("current", '{"kind": "index", "format": 2, "generation": "../x", "sha256": "0"}'),
        ("g000001/store.json", '{"kind": "game"}'),
        ("g000001/000001-00.bin", "no head"),
        ("g000001.txt", "genes"),
    ],
)
def test_an_index_takes_the_place_of_nothing_else(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "index" / name).parent.mkdir(parents=True)
    (tmp_path / "index" / name).write_text(text)
    before = tree(tmp_path)
    with pytest.raises(DataError, match="Move the folder elsewhere, or choose another workspace with -o"):
        build(tmp_path / "index", "new")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["notes.txt", "g000001/notes.txt", "g000001/000002-00.bin"])
def test_a_file_beside_those_of_the_index_keeps_it(tmp_path: Path, place: str) -> None:
    folder = build(tmp_path / "index", "old").folder
    (folder / place).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(DataError, match=rf"holds '{place}'"):
        build(folder, "new")
    assert tree(tmp_path) == before and Index.open(folder).identity == {"made_from": "old"}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("what", ["part", "sums", "generation"])
def test_an_index_names_bare_files_only(tmp_path: Path, what: str, name) -> None:
    folder = build(tmp_path / "index", "old").folder
    if what == "generation":
        (folder / "current").write_text(json.dumps({**read_json(folder / "current"), "generation": name}))
    else:
        edit_head(folder, lambda head: _record(head, what).__setitem__("file", name))
    before = tree(tmp_path)
    for use in (lambda: Index.open(folder), lambda: build(folder, "new")):
        with pytest.raises(DataError, match="bare name" if isinstance(name, str) else "expected text"):
            use()
    assert tree(tmp_path) == before


def _record(head: dict, what: str) -> dict:
    segment = head["segments"][0]
    return segment["sums"] if what == "sums" else segment["parts"][0]


def test_an_index_that_was_never_finished_says_so(tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        kill_at(patched, 3)
        with pytest.raises(Killed):
            build(tmp_path / "index", "new")
    with pytest.raises(DataError, match="begun but not finished"):
        Index.open(tmp_path / "index")


def test_another_kind_of_store_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"kind": "frames", "format": 1}')
    with pytest.raises(StoreMismatch, match="a store of kind 'frames', not an index"):
        Index.open(tmp_path)


# ------------------------------------------------------------------------------------------------------------- messages


def test_no_message_proposes_to_remove_what_may_be_whole() -> None:
    """A reader may be wrong about a file (another kind, version, rights): moving it away is all we advise."""
    advice = re.compile(
        r"(^|[;:,.] )(remove|delete|rm -r|erase)\b"
        r"|\b(remove|delete) (it|them|the (file|folder|store|index|run|line)|that)\b",
        re.IGNORECASE,
    )
    package = Path(__file__).resolve().parents[2] / "tvr_cli"
    found = []
    for path in sorted(package.rglob("*.py")):
        parsed = ast.parse(path.read_text())
        said = {id(n.value) for n in ast.walk(parsed) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
        for node in ast.walk(parsed):
            text = node.value if isinstance(node, ast.Constant) and id(node) not in said else None
            if isinstance(text, str) and advice.search(text) and not text.startswith("DELETE FROM "):  # of SQL
                found.append(f"{path.relative_to(package)}:{node.lineno}: {text}")
    assert not found, found
