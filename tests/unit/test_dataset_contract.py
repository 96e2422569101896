"""Every shipped data set holds the contract of `tvr_cli.testing.dataset`, and the contract catches who does not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from miniature import kinds, write_dataset
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.data import registry
from tvr_cli.data.registry import DataSet
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.testing import dataset as contract
from tvr_cli.testing.dataset import Reading
from tvr_cli.testing.report import run
from tvr_cli.types import Caption, Clip, Manifest


@pytest.mark.parametrize("name", registry.shipped())
def test_a_shipped_data_set_holds_the_contract(name):
    assert [c for c in contract.check(name) if not c.passed] == []


@pytest.mark.parametrize(("name", "variant"), kinds())
def test_a_shipped_data_set_holds_the_contract_on_a_miniature(name, variant, tmp_path):
    root = write_dataset(name, tmp_path / "root", variant)
    spec = f"{name}:{root}" + (f":{variant}" if variant else "")
    checks = contract.check(spec)
    assert [c for c in checks if not c.passed] == []
    assert len(checks) == len(contract.CLAUSES) + len(contract.CLAUSES_ON_A_FOLDER)


# --------------------------------------------------------------------------------------------------------- its module


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read one clip with one caption, as a data set that holds the contract does."""
    if variant is not None:
        raise ConfigError("there are no variants")
    file = root / "list.txt"
    if not file.is_file():
        raise DataError(f"expected {file}")
    return Manifest(
        "tiny",
        root,
        (Clip("a.mp4", root / "a.mp4"), Clip("b.mp4", root / "b.mp4")),
        (
            Caption("a#0", "a.mp4", "a dog", "train", source=f"{file}:1"),
            Caption("b#0", "b.mp4", "a cat", "test", source=f"{file}:2"),
            Caption("c#0", "c.mp4", "a cow", "test", source=f"{file}:3"),
        ),
        missing=("c.mp4",),
        annotations=(file,),
    )


def module(**changes) -> DataSet:
    whole = {
        "__doc__": "Two clips. For a test.",
        "load": load,
        "SIZES": {"default": {"train": SplitSize(1, 1)}},
        "wanted": lambda root, variant=None: [("list.txt", "liste.txt")],
    }
    return DataSet("tiny", SimpleNamespace(**{**whole, **changes}))


def empty_is_fine(root, variant=None):
    return Manifest("tiny", root, (), ())


def any_variant(root, variant=None):
    return load(root)


def traceback(root, variant=None):
    return open(root / "list.txt")


BROKEN = [
    ({"__doc__": ""}, contract.a_data_set_says_what_it_is, "expected a docstring"),
    ({"SIZES": {"9k": {}}}, contract.sizes_and_variants_go_together, "the keys of SIZES are default, found 9k too"),
    ({"SIZES": {"default": {"tset": SplitSize(1, 1)}}}, contract.sizes_and_variants_go_together, "found tset"),
    ({"SIZES": {"default": {"test": 1000}}}, contract.sizes_and_variants_go_together, "SplitSize of test"),
    ({"wanted": lambda root, variant: ["list.txt"]}, contract.wanted_files_have_names, "found 'list.txt'"),
    ({"load": empty_is_fine}, contract.an_empty_folder_is_a_sentence, "and it was accepted"),
    ({"load": traceback}, contract.an_empty_folder_is_a_sentence, "found FileNotFoundError"),
    ({"load": any_variant}, contract.an_unknown_variant_is_a_sentence, "ConfigError for the variant 'no-such-variant'"),
]


def test_a_whole_module_holds_every_clause():
    assert [c for c in run(contract.CLAUSES, module()) if not c.passed] == []


@pytest.mark.parametrize(("changes", "clause", "words"), BROKEN)
def test_a_broken_module_fails_its_clause_with_a_sentence(changes, clause, words):
    (found,) = run([clause], module(**changes))
    assert not found.passed and words in found.message, found


def test_every_clause_on_a_module_has_one_that_breaks_it():
    # A preset that cannot be read is a file of ours: tests/test_presets.py reads all of them.
    assert set(contract.CLAUSES) - {clause for _, clause, _ in BROKEN} == {contract.its_plans_can_be_read}


# ------------------------------------------------------------------------------------------------ an annotated folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "list.txt"):
        (tmp_path / name).write_text("x")
    return tmp_path


def reading(root: Path, **changes) -> Reading:
    manifest = dataclasses.replace(load(root), **{k: v(load(root)) for k, v in changes.items()})
    return Reading(module(), root, None, manifest)


def first_caption(**changes):
    return lambda m: (dataclasses.replace(m.captions[0], **changes), *m.captions[1:])


def first_clip(**changes):
    return lambda m: (dataclasses.replace(m.clips[0], **changes), *m.clips[1:])


BROKEN_FOLDERS = [
    ({"clips": lambda m: list(m.clips)}, contract.clips_and_captions_are_there, "a tuple of clips, found list"),
    ({"captions": lambda m: ("a dog",)}, contract.clips_and_captions_are_there, "among the captions, found 'a dog'"),
    ({"captions": lambda m: ()}, contract.clips_and_captions_are_there, "expected captions, found none"),
    ({"captions": first_caption(id="b#0")}, contract.ids_are_unique, "several of 'b#0'"),
    ({"captions": first_caption(text=" ")}, contract.every_caption_has_words_and_a_source, "without words"),
    ({"captions": first_caption(source="")}, contract.every_caption_has_words_and_a_source, "where they were read"),
    (
        {"captions": first_caption(video="z.mp4")},
        contract.every_caption_is_of_a_clip_or_of_a_missing_video,
        "neither among the clips nor in missing: 'z.mp4'",
    ),
    ({"missing": lambda m: ("a.mp4", "c.mp4")}, contract.every_caption_is_of_a_clip_or_of_a_missing_video, "'a.mp4'"),
    ({"clips": first_clip(path=Path("gone.mp4"))}, contract.every_clip_has_a_file_and_a_span, "not there"),
    ({"clips": first_clip(start=2.0, end=1.0)}, contract.every_clip_has_a_file_and_a_span, "end before they begin"),
    (
        {"captions": first_caption(video="b.mp4")},
        contract.no_video_is_trained_and_judged_on,
        "in train and in another split: 'b.mp4'",
    ),
    ({"annotations": lambda m: ()}, contract.annotation_files_are_named, "found none"),
    ({"captions": lambda m: m.captions[::-1]}, contract.reading_again_gives_the_same, "in the same order"),
]


def test_a_whole_folder_holds_every_clause(root):
    assert [c for c in run(contract.CLAUSES_ON_A_FOLDER, reading(root)) if not c.passed] == []


@pytest.mark.parametrize(("changes", "clause", "words"), BROKEN_FOLDERS)
def test_a_broken_folder_fails_its_clause_with_a_sentence(root, changes, clause, words):
    (found,) = run([clause], reading(root, **changes))
    assert not found.passed and words in found.message, found


def test_every_clause_on_a_folder_has_one_that_breaks_it():
    assert set(contract.CLAUSES_ON_A_FOLDER) == {clause for _, clause, _ in BROKEN_FOLDERS}


# --------------------------------------------------------------------------------------------------- the command line


def tvr(*args: object):
    return CliRunner().invoke(app, [str(a) for a in args])


def test_check_prints_each_clause_and_leaves_with_5_where_one_is_broken(tmp_path):
    root = write_dataset("jsonl", tmp_path / "own")
    whole = tvr("datasets", "check", f"jsonl:{root}")
    assert whole.exit_code == 0 and "ok  reading again gives the same" in whole.stdout
    shutil.copy(root / "captions.jsonl", tmp_path / "before.jsonl")
    lines = [json.loads(line) for line in (root / "captions.jsonl").read_text().splitlines()]
    lines[0]["split"], lines[0]["id"] = "test", "again"
    (root / "captions.jsonl").write_text((tmp_path / "before.jsonl").read_text() + json.dumps(lines[0]) + "\n")
    broken = tvr("datasets", "check", f"jsonl:{root}", "--json")
    assert broken.exit_code == 5
    assert "the data set jsonl:" in broken.stderr and "no video is trained and judged on" in broken.stderr
    payload = json.loads(broken.stdout)
    assert payload["schema"] == "tvr/check@1" and payload["kind"] == "data set" and not payload["passed"]
    assert [c["name"] for c in payload["checks"] if not c["passed"]] == ["no video is trained and judged on"]


def test_the_list_and_one_data_set_are_shown():
    listed = json.loads(tvr("datasets", "--json").stdout)
    assert listed["schema"] == "tvr/datasets@1"
    assert [d["name"] for d in listed["datasets"]] == registry.shipped()
    (shown,) = json.loads(tvr("datasets", "show", "msrvtt", "--json").stdout)["datasets"]
    assert [v["name"] for v in shown["variants"]] == ["9k", "7k", "full", "1k-B"]
    assert shown["variants"][0]["sizes"]["test"] == {"videos": 1000, "captions": 1000}
    assert ["MSRVTT_JSFUSION_test.csv", "msrvtt_jsfusion_test.csv"] in shown["variants"][0]["files"]
    assert shown["plans"]["frames"]["max_frames"] == 12
    text = tvr("datasets", "show", "msrvtt").stdout
    assert "180000" in text and "msrvtt_jsfusion_test.csv" in text
    assert "9k, 7k, full, 1k-B" in tvr("datasets").stdout


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("chek", "msrvtt"), 2, "did you mean check?"),
        (("show",), 2, "tvr datasets show msrvtt"),
        (("check",), 2, "tvr datasets check msrvtt"),
        (("show", "msrvt"), 2, "did you mean msrvtt?"),
        (("check", "no.such:x"), 2, "there is no module 'no'"),
        (("check", "msrvtt:/nowhere/at/all"), 3, "found nothing there"),
    ],
)
def test_what_cannot_be_shown_or_checked_is_a_sentence(args, code, words):
    result = tvr("datasets", *args)
    assert result.exit_code == code and words in result.stderr, result.stderr
