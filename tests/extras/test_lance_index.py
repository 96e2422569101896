"""An index of a table answers as one of files does, grows and shrinks in commits, and finds what is damaged.

Needs LanceDB (the extra `[lance]`), which is in an environment of its own in `.ci/run`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import indexes
import pytest
import torch
from indexes import blocks, captions, method

from tvr_cli.engine.searching.search import SearchOptions, search
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.stores import verify
from tvr_cli.stores.index.opening import Kind, kind_of, open_index, parse_kind
from tvr_cli.stores.index.store import DoesNotFit, Index

os.environ.setdefault("LANCEDB_LOG", "error")  # read when it is imported
pytest.importorskip("lancedb", reason="the extra [lance] is not installed here")
from tvr_cli.stores.index import lance_index, lance_table
from tvr_cli.stores.index.lance_index import LanceIndex, write_lance

NAMES = ["mean", "text_guided"]


def pair(folder: Path, clips: int = 90, *, name: str = "mean", files: int = 10, **options: Any) -> tuple[Index, Index]:
    """The same clips in files and in a table."""
    own = indexes.make(folder / "own" / "index", clips, files, name=name, **options)
    model = method(name)
    made = write_lance(folder / "out" / "index", {"method": name}, blocks(model, clips, files=files), **options)
    return own, made


def unit(queries: int, dim: int = indexes.DIM) -> torch.Tensor:
    vectors = torch.randn(queries, dim, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.normalize(vectors, dim=-1)


def answers(index: Index, name: str, **options: Any) -> list[Any]:
    model = method(name)
    text = model.encode_text(captions([3, 17, 41]))
    return search(model, index, text, SearchOptions(k=8, **options))


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_it_answers_as_an_index_of_files(tmp_path: Path, name: str, stored: str) -> None:
    own, made = pair(tmp_path, name=name, stored=stored)
    assert isinstance(made, LanceIndex) and len(made) == len(own) == made.head.rows == 90
    for options in ({}, {"shortlist": 20}, {"exhaustive": True}, {"only": frozenset({"1.mp4", "7.mp4"})}):
        assert answers(made, name, **options) == answers(own, name, **options)
    rows = torch.tensor([80, 3, 3, 41])
    for names in (None, made.head.encoding.keys(), []):
        one, other = own.encoding(rows, names), made.encoding(rows, names)
        assert torch.equal(one.key, other.key) and one.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(one[n], other[n]) and one[n].dtype == other[n].dtype for n in one.tensors)
    query = unit(4)
    for n, of_files in ((7, 1), (7, 5), (90, 1)):
        assert torch.equal(own.candidates(query, n, of_files), made.candidates(query, n, of_files))
        assert torch.equal(own.candidates(query[:1], n, of_files), made.candidates(query[:1], n, of_files))
    assert [own.clip(i) for i in (0, 89)] == [made.clip(i) for i in (0, 89)]
    assert torch.equal(own.files(rows), made.files(rows)) and own.count_files() == made.count_files()
    assert list(own.listing()) == sorted(made.listing(), key=lambda of: of[0])
    (a, x), (b, y) = own.directions_of_files(), made.directions_of_files()
    assert a == b and torch.equal(torch.from_numpy(x), torch.from_numpy(y))


def test_it_grows_and_shrinks_in_commits_and_who_reads_it_keeps_what_was_opened(tmp_path: Path) -> None:
    own, made = pair(tmp_path)
    for index in (own, made):
        gone = {f"{i % 10}.mp4#{i:04d}" for i in range(0, 90, 9)}
        smaller = index.delete(gone)
        new = blocks(method(), 30, first=90)
        grown = smaller.append(new, identity={"method": "mean", "new": 1}, asked={"run": "r"})
        assert (len(index), len(smaller), len(grown)) == (90, 80, 110)
        assert index.clip(0).id == "0.mp4#0000" and gone.isdisjoint({r.id for _, r in grown.listing()})
    ids = [{row.id for _, row in open_index(tmp_path / name / "index").listing()} for name in ("own", "out")]
    assert ids[0] == ids[1]
    one, other = (open_index(tmp_path / name / "index") for name in ("own", "out"))
    assert answers(one, "mean") == answers(other, "mean") and other.identity == {"method": "mean", "new": 1}
    query = unit(2)
    for index, rows in ((one, one.candidates(query, 9)), (other, other.candidates(query, 9))):
        index.found = [[index.clip(int(r)).id for r in line] for line in rows]  # type: ignore[attr-defined]
    assert one.found == other.found  # type: ignore[attr-defined]


def test_above_the_memory_it_is_given_cells_find_the_candidates(tmp_path: Path) -> None:
    own, model = indexes.make(tmp_path / "own" / "index", 600, 60, dim=64), method(dim=64)
    celled = write_lance(
        tmp_path / "cells" / "index", {"method": "mean"}, blocks(model, 600, files=60), memory=1000,
        queries=lambda: unit(20, 64),
    )  # fmt: skip
    assert isinstance(celled, LanceIndex) and celled.about.probes is not None
    query = unit(10, 64)
    wanted, found = own.candidates(query, 50), celled.candidates(query, 50)
    share = sum(len(set(a) & set(b)) for a, b in zip(wanted.tolist(), found.tolist(), strict=True)) / 500
    assert found.shape == (10, 50) and share > 0.9  # of 600 by chance 0.08, by a bit a dimension alone 0.6
    assert celled.tuned(unit(20, 64), 50)[1] > 0.9
    apart = celled.candidates(query, 12, of_files=12)
    assert all(len(set(celled.files(row).tolist())) == 12 for row in apart)
    among = torch.arange(0, 600, 7)
    assert torch.equal(own.candidates(query, 5, 1, among), celled.candidates(query, 5, 1, among))
    assert len(set(celled.candidates(query, 599)[0].tolist())) == 599


def test_workspaces_that_share_a_place_leave_each_others_tables_alone(tmp_path: Path) -> None:
    there, model = str(tmp_path / "shared"), method()
    for name in ("one", "other", "one"):  # the last replaces the first, and nothing else
        write_lance(tmp_path / name / "index", {"method": "mean"}, blocks(model, 30), uri=there)
    for name in ("one", "other"):
        assert len(answers(open_index(tmp_path / name / "index"), "mean")) == 3
    assert len(list((tmp_path / "shared").glob("*.lance"))) == 2


def test_the_head_says_which_kind_it_is_and_opening_follows_it(tmp_path: Path) -> None:
    own, made = pair(tmp_path)
    assert isinstance(open_index(made.folder), LanceIndex) and not isinstance(open_index(own.folder), LanceIndex)
    assert (kind_of(own.head), kind_of(made.head)) == (Kind(), Kind("lance"))
    assert "table" not in json.loads((own.generation / "store.json").read_text())
    assert sorted(p.name for p in made.folder.parent.iterdir()) == ["index", "tvr-index-g000001.lance"]
    again = write_lance(made.folder, {"method": "mean"}, blocks(method(), 12))
    tables = sorted(p.name for p in made.folder.parent.glob("*.lance"))
    assert tables == [f"{again.head.table.name}.lance"] and len(again) == 12  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "kind"),
    [("file", Kind()), ("lance", Kind("lance")), ("lance:s3://b/p", Kind("lance", "s3://b/p"))],
)
def test_a_kind_is_read(text: str, kind: Kind) -> None:
    assert parse_kind(text, None) == kind


@pytest.mark.parametrize("text", ["lance:", "file:x", "faiss", ""])
def test_an_unknown_kind_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected file, lance or lance:URI"):
        parse_kind(text, None)


def changed(made: Index, **values: Any) -> Index:
    """Open an index again of whose row 7 somebody has changed some columns."""
    assert isinstance(made, LanceIndex)
    made.table._handle.checkout_latest()
    made.table._handle.update(where="row = 7", values=values)
    head = made.head
    newer = lance_index.dataclasses.replace(head.table, version=made.table.version)  # type: ignore[type-var]
    generation = lance_index.place.prepare(made.folder, head)
    lance_index.place.commit(made.folder, generation, lance_index.dataclasses.replace(head, table=newer))
    return open_index(made.folder)


@pytest.mark.parametrize("of", ["clip", "t__frames"])
def test_a_row_that_was_changed_is_not_shown_and_doctor_finds_it(tmp_path: Path, of: str) -> None:
    many = 64 if of == "clip" else 512  # frames of 5 x 512 x 4 bytes have a column of their own
    model = method("text_guided", many)
    made = write_lance(tmp_path / "out" / "index", {"method": "text_guided"}, blocks(model, 20))
    assert isinstance(made, LanceIndex) and made.clip(7).path == "/films/7.mp4"
    there = made.table.take(made._ids[7:8], [of.replace("__", ".")])[of.replace("__", ".")][0]
    was = bytearray(there if of == "clip" else there.tobytes())
    was[-1] ^= 1
    new = bytes(was) if of == "clip" else torch.frombuffer(was, dtype=torch.float32).tolist()
    index = changed(made, **{of: new})
    assert index.clip(6) == made.clip(6)
    for asked in (lambda: None, lambda: index.encoding(torch.tensor([3, 7]))):  # read alone, and with others
        asked()
        with pytest.raises(DataError, match=r"'7.mp4#0007'.*is not what was written.*tvr index --overwrite"):
            index.clip(7)
    assert [f.problem for f in verify.check(made.folder, None) if f.problem]


def test_a_row_that_was_cut_is_a_sentence(tmp_path: Path) -> None:
    index = changed(pair(tmp_path, 20)[1], clip=b"short")
    with pytest.raises(DataError, match=r"is not what was written: its column 'clip' is cut.*tvr index --overwrite"):
        index.encoding(torch.tensor([7]))


def test_what_lists_read_that_was_changed_is_found(tmp_path: Path) -> None:
    index = changed(pair(tmp_path, 20)[1], path="/films/another.mp4")
    with pytest.raises(DataError, match="are not what was written"):
        list(index.listing())
    assert [f.problem for f in verify.check(index.folder, None) if f.problem]


def test_a_table_of_another_schema_or_none_at_all_is_a_sentence(tmp_path: Path) -> None:
    _, made = pair(tmp_path, 20)
    place = lance_table.Place(str(made.folder.parent), made.head.table.name)  # type: ignore[union-attr]
    lance_table.LanceTable.drop(place, lambda name: True)
    rows = [{"row": torch.arange(3).numpy()}]
    strange = lance_table.LanceTable.create(place, [lance_table.Column("row", "int64")], rows)
    assert strange.version == made.head.table.version  # type: ignore[union-attr]
    with pytest.raises(DataError, match="another than the index says: its column"):
        open_index(made.folder)
    lance_table.LanceTable.drop(place, lambda name: True)
    with pytest.raises(DataError, match="there is no table"):
        open_index(made.folder)


def test_clips_of_another_shape_leave_the_index_as_it_was(tmp_path: Path) -> None:
    _, made = pair(tmp_path, 20)
    with pytest.raises(DoesNotFit, match="has rows of"):
        made.append(blocks(method(dim=8), 5, first=20), identity={}, asked={})
    assert len(open_index(made.folder)) == 20


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_the_index_and_the_next_one_sweeps(tmp_path: Path) -> None:
    _, made = pair(tmp_path, 20)
    code = f"""
import sys; sys.path[:0] = {[p for p in sys.path if p]!r}
import os, itertools
from pathlib import Path
from indexes import blocks, method
from tvr_cli.stores.index.opening import open_index
def dying():
    yield from blocks(method(), 2048, first=100)
    os.kill(os.getpid(), 9)
open_index(Path({str(made.folder)!r})).append(dying(), identity={{}}, asked={{}})
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == -9
    there = open_index(made.folder)
    assert len(there) == 20
    grown = there.append(blocks(method(), 5, first=20), identity={}, asked={})
    assert len(grown) == 25
    data = lance_table.Place(str(made.folder.parent), made.head.table.name).folder / "data"  # type: ignore[union-attr]
    assert list(data.glob(".tmp*")) == []


@pytest.mark.parametrize("then", ["append", "delete"])
def test_rows_of_a_writer_that_ended_before_its_index_counted_are_in_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    _, made = pair(tmp_path, 20)

    def ends(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lance_index.place, "commit", ends)
        made.append(blocks(method(), 5, first=20), identity={}, asked={})
    there = open_index(made.folder)
    assert len(there) == 20
    if then == "append":
        later = there.append(blocks(method(), 5, first=20), identity={}, asked={})
    else:
        later = there.delete({there.clip(0).id})
    wanted = {f"{i % 10}.mp4#{i:04d}" for i in (range(25) if then == "append" else range(1, 20))}
    assert [row.id for _, row in sorted(open_index(made.folder).listing())] == sorted(wanted, key=lambda n: n[-4:])
    assert len(later) == len(wanted) and answers(later, "mean")


def test_a_method_of_several_vectors_a_clip_is_scanned_in_memory(tmp_path: Path) -> None:
    def several() -> Iterator[Any]:
        for block in blocks(method(), 30):
            coarse = torch.nn.functional.normalize(torch.stack([block.coarse, block.coarse.flip(1)], 1), dim=-1)
            yield type(block)(block.clips, block.encoding, coarse, block.ts, block.n_frames)

    made = write_lance(tmp_path / "out" / "index", {}, several(), memory=10)
    own = indexes.write_index(tmp_path / "own" / "index", {}, several())
    assert torch.equal(made.candidates(unit(3), 9), own.candidates(unit(3), 9))


def test_without_lancedb_the_line_that_installs_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'tvr-cli\[lance\]'"):
        write_lance(tmp_path / "index", {}, blocks(method(), 3))


def names_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.lance"))


def test_tables_that_are_over_go_however_many_pages_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, made = pair(tmp_path, 12)
    out = tmp_path / "out"
    assert isinstance(made, LanceIndex)
    lancedb = lance_table._lancedb()
    db = lancedb.connect(str(out))
    for number in range(5):
        db.create_table(f"tvr-index-old-{number}", data=[{"x": number}])
    db.create_table("somebody-elses", data=[{"x": 1}])
    whole = type(db).list_tables
    monkeypatch.setattr(type(db), "list_tables", lambda db, page_token=None: whole(db, page_token=page_token, limit=2))
    model = method("mean")
    again = write_lance(out / "index", {"method": "mean"}, blocks(model, 12, files=10))
    assert isinstance(again, LanceIndex)
    assert names_in(out) == sorted(["somebody-elses", again.about.name])


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_index_of_files_leaves_nothing_of_the_table_that_it_replaces(tmp_path: Path, elsewhere: bool) -> None:
    folder, model = tmp_path / "out" / "index", method("mean")
    held = tmp_path / "tables" if elsewhere else tmp_path / "out"
    held.mkdir(exist_ok=True)
    write_lance(folder, {"method": "mean"}, blocks(model, 12, files=10), uri=str(held) if elsewhere else None)
    assert len(names_in(held)) == 1
    if elsewhere:
        lance_table._lancedb().connect(str(held)).create_table("tvr-index-of-another", data=[{"x": 1}])
    write = Kind().writer((), lambda: None)
    assert len(write(folder, {"method": "mean"}, blocks(model, 12, files=10))) == 12
    assert names_in(held) == (["tvr-index-of-another"] if elsewhere else [])


def test_a_table_that_cannot_be_removed_is_said_and_the_new_index_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, model = tmp_path / "out" / "index", method("mean")
    write_lance(folder, {"method": "mean"}, blocks(model, 12, files=10))
    monkeypatch.setitem(sys.modules, "lancedb", None)
    made = Kind().writer((), lambda: None)(folder, {"method": "mean"}, blocks(model, 12, files=10))
    assert len(made) == 12 and len(open_index(folder)) == 12
    assert "is over, and could not be removed (--store lance needs LanceDB" in caplog.text
