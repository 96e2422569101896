"""A search session: opened once, and what it notices; rebuilding beside running queries."""

from __future__ import annotations

import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import indexes
import pytest
import torch
from processes import line_of
from synthetic import SyntheticStore

import tvr_cli
from tvr_cli.engine.features import precompute
from tvr_cli.engine.searching import index, query, session
from tvr_cli.engine.searching.index import Asked
from tvr_cli.engine.searching.search import SearchOptions, search
from tvr_cli.engine.searching.session import Session
from tvr_cli.results.found import Hit
from tvr_cli.stores.index.store import Index
from tvr_cli.types import TextFeatures
from tvr_cli.workspace import Workspace


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of 24 videos, whose captions are encoded by looking them up in the store."""
    store = SyntheticStore(videos=24, splits=("train", "val", "test")).write(tmp_path / "out")
    known = {caption.text: row for row, caption in enumerate(store.captions)}

    def encode(model: object, sentences: list[str], *plan: object) -> TextFeatures:
        # What the index is compared with is in no store: any caption's features will do.
        rows = [known.get(sentence, zlib.crc32(sentence.encode()) % len(known)) for sentence in sentences]
        return store.text(torch.tensor(rows))

    monkeypatch.setattr(precompute, "encode_captions", encode)
    short = SimpleNamespace(count_tokens=lambda sentences: torch.ones(len(sentences)))
    monkeypatch.setattr(precompute, "backbone_of", lambda *args, **options: loaded.append(1) or short)
    loaded.clear()
    return tmp_path / "out"


loaded: list[int] = []  # backbones that were loaded
SENTENCE = "caption 0 of video 7"


def test_a_session_opens_once_and_answers_many(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(
        Index, "open", staticmethod(lambda folder, real=Index.open: opened.append(folder) or real(folder))
    )
    asking = Session(Workspace(out), Asked(method="mean"))
    first = asking.answer([SENTENCE], SearchOptions(k=3))
    before = len(opened)
    assert asking.answer([SENTENCE], SearchOptions(k=3)) == first and len(first[0]) == 3
    assert len(opened) == before and len(loaded) == 1


def test_a_session_notices_a_new_generation(out: Path) -> None:
    index.index(Workspace(out), Asked(method="mean"))
    asking = Session(Workspace(out), Asked())
    (first,) = asking.answer([SENTENCE], SearchOptions(k=3))
    index.index(Workspace(out), Asked(method="text_guided"))
    (second,) = asking.answer([SENTENCE], SearchOptions(k=3))
    # The best clip has one frame: there both methods are the same but for rounding.
    assert first[0].video_id == second[0].video_id and abs(first[1].score - second[1].score) > 1e-3
    assert len(loaded) == 1


def test_a_session_notices_that_the_index_is_gone(out: Path) -> None:
    asking = Session(Workspace(out), Asked(method="mean"))
    first = asking.answer([SENTENCE], SearchOptions(k=3))
    (out / "index").rename(out / "elsewhere")
    assert asking.answer([SENTENCE], SearchOptions(k=3)) == first and (out / "index" / "current").is_file()


def test_an_opened_workspace_keeps_its_session(out: Path) -> None:
    workspace = tvr_cli.open_workspace(out)
    first = workspace.search(SENTENCE, method="mean", k=2)
    assert workspace.search(SENTENCE, method="mean", k=2) == first and len(loaded) == 1
    index.index(Workspace(out), Asked(method="text_guided"))
    second = workspace.search(SENTENCE, k=2).results[0].hits
    assert abs(second[1].score - first.results[0].hits[1].score) > 1e-3


def test_the_shortlist_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, mean = indexes.make(tmp_path / "index"), indexes.method()
    read: list[int] = []
    real = made.encoding
    monkeypatch.setattr(made, "encoding", lambda rows, names=None: read.append(len(rows)) or real(rows, names))
    search(mean, made, mean.encode_text(indexes.captions([3])), SearchOptions(k=5, shortlist=12))
    assert read == [12]


REBUILD = """
import sys
from pathlib import Path
import indexes
from tvr_cli.errors import DataError
from tvr_cli.files import lock
folder, number = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for i in range(6):
    with lock(folder.parent, wait_s=60):
        made = indexes.make(folder, 20 + number)
        made.append(indexes.blocks(indexes.method(), 3, first=20 + number), identity={"by": number}, asked={})
"""


def test_queries_are_answered_while_two_processes_rebuild(tmp_path: Path) -> None:
    """Every answer is that of one whole generation: of 20, 21, 23 or 24 clips, never an error, never a mixture."""
    folder, mean = tmp_path / "index", indexes.method()
    text = mean.encode_text(indexes.captions([3, 11]))
    wanted = {}
    for clips in (20, 21, 23, 24):
        made = indexes.make(tmp_path / str(clips) / "index", clips)
        wanted[clips] = search(mean, made, text, SearchOptions(k=30))
    indexes.make(folder, 20)
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{REBUILD}", str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    writers = [subprocess.Popen([*command, str(number)], **pipes, text=True) for number in (0, 1)]
    assert [line_of(writer) for writer in writers] == ["ready", "ready"]  # nothing is asked while they import
    for writer in writers:
        print(file=writer.stdin, flush=True)
    held, answers, lengths = Index.open(folder), 0, set()
    before = search(mean, held, text, SearchOptions(k=30))
    while any(writer.poll() is None for writer in writers):
        found = Index.open(folder)
        assert search(mean, found, text, SearchOptions(k=30)) == wanted[len(found)]
        assert search(mean, held, text, SearchOptions(k=30)) == before  # its files are gone by now
        answers, lengths = answers + 1, lengths | {len(found)}
    for writer in writers:
        assert writer.wait() == 0, writer.stderr and writer.stderr.read()
    assert answers > 2 and len(lengths) > 1


def test_two_threads_search_one_session(out: Path) -> None:
    asking = Session(Workspace(out), Asked(method="mean"))
    first = asking.answer([SENTENCE], SearchOptions(k=3))
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(asking.answer([SENTENCE], SearchOptions(k=3)))) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [first, first]


def test_a_session_says_nothing_new_where_nothing_changed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Session(Workspace(out), Asked(method="mean"))
    asking.answer([SENTENCE], SearchOptions(k=1))
    monkeypatch.setattr(session, "fresh_index", lambda *args, **options: pytest.fail("looked at everything again"))
    asking.answer([SENTENCE], SearchOptions(k=1))


def test_a_file_that_is_gone_is_marked(out: Path, tmp_path: Path) -> None:
    report = query.ask(Session(Workspace(out), Asked(method="mean")), [SENTENCE], SearchOptions(k=3))
    hits = report.results[0].hits
    assert all(hit.missing for hit in hits)  # a made-up library has no files at all
    assert report.missing == [hit.path for hit in hits]


def test_a_file_that_is_there_is_not_marked(tmp_path: Path) -> None:
    here, gone = tmp_path / "here.mp4", tmp_path / "gone.mp4"
    here.touch()
    hits = [Hit(1, 0.5, "here.mp4", str(here), 0.0, 1.0, 0.5), Hit(2, 0.4, "gone.mp4", str(gone), 0.0, 1.0, 0.5)]
    marked = query.looked_for(hits, {})
    assert [hit.missing for hit in marked] == [False, True]


def test_a_sentence_that_is_longer_than_what_is_read_is_named(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    asking = Session(Workspace(out), Asked(method="mean"))
    real = precompute.encode_captions

    def full(*args: object) -> TextFeatures:
        found = real(*args)  # type: ignore[arg-type]
        return replace(found, n_tokens=torch.full_like(found.n_tokens, 10_000))

    long = SimpleNamespace(count_tokens=lambda sentences: torch.full((len(sentences),), 10_001))
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("WARNING", "tvr"):
        patch.setattr(precompute, "encode_captions", full)
        patch.setattr(precompute, "backbone_of", lambda *args, **options: long)
        asking.answer([SENTENCE], SearchOptions(k=1))
    assert f"a sentence of 10001 tokens is read up to the first {asking._open[2].word_plan.length}" in caplog.text  # type: ignore[index]
    assert SENTENCE in caplog.text


def test_a_built_index_says_how_it_is_searched_and_what_that_misses(out: Path) -> None:
    report = index.index(Workspace(out), Asked(method="mean"))
    assert report.search.first == "every" and report.recall.best == 1
    assert report.bank.of == "everyday sentences" and not report.bank.own
    again = index.index(Workspace(out), Asked(method="mean"))
    assert not again.built and (again.search, again.recall, again.bank) == (report.search, report.recall, report.bank)


def test_a_users_bank_is_kept_until_another_is_named(out: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("eins\nzwei\n")
    index.index(Workspace(out), Asked(method="mean"))
    named = index.index(Workspace(out), Asked(method="mean"), null=mine)
    assert named.built and named.bank.own and named.bank.sentences == 2
    assert not index.index(Workspace(out), Asked(method="mean"), null=mine).built
    kept = index.index(Workspace(out), Asked(method="text_guided"))
    assert kept.built and kept.bank.own and Index.open(out / "index").null_sentences() == ["eins", "zwei"]
    usual = index.index(Workspace(out), Asked(method="text_guided"), overwrite=True)
    assert not usual.bank.own and Index.open(out / "index").null_sentences() is None
