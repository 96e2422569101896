"""Somebody else's method or data set: by dotted name, by entry point, and what a wrong name gets."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_frames import simple
from typer.testing import CliRunner

from tvr_cli import data, plans
from tvr_cli.cli import app
from tvr_cli.engine import scorers
from tvr_cli.engine.features.corpus import read_corpus
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.methods import base
from tvr_cli.stores.frames.store import FrameStore

METHOD = """
from tvr_cli.methods import mean


class Method(mean.Method):
    summary = "the mean, by another name"


class Base:
    pass


def method():
    return Method


not_a_class = Method.__init__
"""
DATASET = '''
"""Clips with one sentence each, for a test."""

from tvr_cli.data.sizes import SplitSize
from tvr_cli.types import Caption, Clip, Manifest

SIZES = {"default": {"train": SplitSize(7, 7)}}


def load(root, variant=None):
    lines = (root / "list.txt").read_text().splitlines()
    rows = [line.split("|") for line in lines]
    return Manifest(
        "whatever", root, tuple(Clip(v, root / v) for v, _, _ in rows),
        tuple(Caption(f"{v}#0", v, text, split, source=f"list.txt:{i}") for i, (v, split, text) in enumerate(rows, 1)),
        annotations=(root / "list.txt",),
    )
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder in sys.path; returns a function that writes a file there."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        return path

    yield write
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def installed(write, name: str, points: str) -> None:
    """Write what pip leaves of a package: its name, its version and its entry points."""
    write(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    write(f"{name}-1.0.dist-info/entry_points.txt", points)


def test_a_dotted_name_is_a_module_with_a_method_or_a_class(package):
    package("house/__init__.py", "")
    package("house/mine.py", METHOD)
    assert base.load_class("house.mine") is base.load_class("house.mine.Method")
    assert base.load_class("house.mine").summary == "the mean, by another name"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("glcl", "unknown method 'glcl'; did you mean glccl?"),
        ("nosuch.mine", "there is no module 'nosuch'; is the folder that holds it in PYTHONPATH"),
        ("house.mein", "there is no module 'house.mein'; did you mean house.mine?"),
        ("tvr_cli.methods.glcl", "did you mean tvr_cli.methods.glccl?"),
        ("house.mine.Bas", "the module 'house.mine' has no 'Bas'; did you mean house.mine.Base?"),
        ("house.mine.mea", "the module 'house.mine' has no 'mea'\n"),  # `mean` is imported there
        ("house.mine.Base", "derives from tvr_cli.methods.base.Method, found the class Base"),
        ("house.mine.method", "found the function method\n"),
        ("house.mine:Method", "expected a name like mypackage.mymodule or mypackage.mymodule.Name, parts with single"),
        ("house.empty", "found the module house.empty without one of its own"),
        ("house.near", "found the module house.near without one of its own\n"),
        ("house.based", "say which class is meant: house.based.Mine\n"),
        ("house.other", "found the function Method"),
        ("house.broken", "cannot import the method 'house.broken': SyntaxError"),
        ("house..mine", "parts with single dots between them"),
        (".mine", "parts with single dots between them"),
    ],
)
def test_a_wrong_name_of_a_method_is_a_sentence(package, name, words):
    package("house/__init__.py", "")
    package("house/mine.py", METHOD)
    package("house/empty.py", "")
    package(
        "house/near.py", "from tvr_cli.methods.mean import Method as Methods\nclass Meths: pass\ndef method(): pass\n"
    )
    package("house/based.py", "from tvr_cli.methods.base import Method\nclass Mine(Method): pass\n")
    package("house/other.py", "def Method(): pass\n")
    package("house/broken.py", "def (:\n")
    with pytest.raises(ConfigError) as caught:
        base.load_class(name)
    assert words in f"{caught.value}\n"
    result = CliRunner().invoke(app, ["methods", "show", name])
    assert result.exit_code == 2 and words in result.stderr


def test_what_a_plugin_lacks_is_named(package):
    package("needy.py", "import no_such_library\n")
    with pytest.raises(EnvironmentProblem, match=r"'needy\.Method' imports 'no_such_library', which is not"):
        base.load_class("needy.Method")


def test_an_entry_point_is_a_method_by_a_short_name(package):
    package("lodge.py", METHOD)
    installed(package, "lodge", "[tvr.methods]\nlodge = lodge\nlodger = lodge:Method\nmean = lodge\n")
    assert base.load_class("lodge") is base.load_class("lodger") is base.load_class("lodge.Method")
    assert {"lodge", "lodger"} <= set(base.names()) and "lodge" not in base.shipped()
    assert base.load_class("mean").__module__ == "tvr_cli.methods.mean"  # a shipped name means what it always meant
    assert scorers.resolve_method("lodge").experiment.method == "lodge"  # without a preset
    with pytest.raises(ConfigError, match="did you mean lodge"):
        base.load_class("lodg")
    listed = CliRunner().invoke(app, ["methods", "--json"])
    assert {"lodge", "glccl"} <= {m["name"] for m in json.loads(listed.stdout)["methods"]}


def test_two_packages_with_one_name_are_told_apart_by_dotted_names(package):
    package("lodge.py", METHOD)
    package("hut.py", METHOD)
    installed(package, "lodge", "[tvr.methods]\nplace = lodge\n")
    installed(package, "hut", "[tvr.methods]\nplace = hut\n")
    with pytest.raises(ConfigError, match="several packages call a method 'place': hut, lodge; say which"):
        base.load_class("place")


def test_a_broken_package_does_not_break_the_list(package):
    package("lodge.py", "raise RuntimeError('not today')\n")
    installed(package, "lodge", "[tvr.methods]\nlodge = lodge\n[tvr.datasets]\nlodge = lodge\n")
    result = CliRunner().invoke(app, ["methods", "--json"])
    assert result.exit_code == 0 and "cannot import the method 'lodge': RuntimeError: not today" in result.stderr
    assert [m["name"] for m in json.loads(result.stdout)["methods"]] == base.shipped()


def test_set_reaches_the_options_of_a_dotted_method(package):
    package("house/__init__.py", "")
    package(
        "house/warm.py",
        "import dataclasses\nfrom tvr_cli.methods import mean\n"
        "class Method(mean.Method):\n"
        "    @dataclasses.dataclass(frozen=True, kw_only=True)\n"
        "    class Config:\n        temperature: float = 1.0\n",
    )
    resolved = scorers.resolve_method("house.warm", ["method.house.warm.temperature=3"])
    assert resolved.experiment.options == {"temperature": 3.0}
    assert resolved.origins["method.house.warm.temperature"] == "--set"


# ------------------------------------------------------------------------------------------------------- data sets


def corpus(root: Path, lines: str) -> Path:
    root.mkdir()
    (root / "list.txt").write_text(lines)
    return root


LINES = "a.mp4|train|a dog\nb.mp4|train|a cat\nc.mp4|test|a cow\n"


def test_a_data_set_by_dotted_name_is_read_under_that_name(package, tmp_path):
    package("house/__init__.py", "")
    package("house/clips.py", DATASET)
    root = corpus(tmp_path / "root", LINES)
    manifest = data.load(f"house.clips:{root}")
    assert manifest.name == "house.clips" and len(manifest.captions) == 3
    assert manifest.expected == {"train": 7}  # from its own SIZES
    assert data.find("house.clips").summary == "Clips with one sentence each, for a test."
    frames, words = plans.of_dataset(manifest.name)
    assert frames.kind is None and words.length is None  # no preset: the flags decide


def test_an_entry_point_is_a_data_set_by_a_short_name(package, tmp_path):
    package("clips.py", DATASET)
    installed(package, "clips", "[tvr.datasets]\nour-clips = clips\n")
    assert "our-clips" in data.names() and "our-clips" not in data.registry.shipped()
    assert data.load(f"our-clips:{corpus(tmp_path / 'root', LINES)}").name == "our-clips"


def test_a_feature_store_remembers_a_data_set_by_the_name_that_finds_it(package, tmp_path):
    package("house/__init__.py", "")
    package("house/clips.py", DATASET)
    simple(tmp_path / "out", {"a.mp4": 2, "b.mp4": 2, "c.mp4": 2})
    frames = FrameStore.open(tmp_path / "out" / "frames")
    found = read_corpus(f"house.clips:{corpus(tmp_path / 'root', LINES)}", frames, None)
    assert len(found.captions) == 3 and found.origin["data"] == f"house.clips:{tmp_path / 'root'}"


def test_a_file_alone_never_imports_a_data_set(package, tmp_path):
    package("house/__init__.py", "")
    mark = tmp_path / "imported"
    package("house/clips.py", f"open({str(mark)!r}, 'w').close()\n" + DATASET)
    spec = f"house.clips:{corpus(tmp_path / 'root', LINES)}"
    simple(tmp_path / "out", {"a.mp4": 2, "b.mp4": 2, "c.mp4": 2})
    frames = FrameStore.open(tmp_path / "out" / "frames")
    last = SimpleNamespace(provenance={"data": spec}, fingerprint="0123")
    with pytest.raises(DataError, match=r"store 0123 names the data set 'house\.clips'.*precompute-features --data"):
        read_corpus(None, frames, last)
    experiment = tmp_path / "mine.yaml"
    experiment.write_text(f"extends: methods/glccl\ndata:\n  name: house.clips\n  root: {tmp_path / 'root'}\n")
    result = CliRunner().invoke(app, ["train", "--config", str(experiment), "-o", str(tmp_path / "out")])
    assert result.exit_code == 3 and "mine.yaml:3 names the data set 'house.clips'" in result.stderr
    assert not mark.exists()
    assert read_corpus(spec, frames, last).origin["name"] == "house.clips" and mark.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("msrvt", "unknown data set 'msrvt'; did you mean msrvtt?"),
        ("nosuch.clips", "there is no module 'nosuch'"),
        ("house.clisp", "did you mean house.clips?"),
        ("house.empty", "expected a function `load(root, variant)`"),
        ("house.near", "without one of its own; did you mean loads?"),
        ("house.imports", "without one of its own\n"),
        ("house.constant", "found the str 'here'"),
        ("house.narrow", "found load(root)"),
        ("house.listing", "returns a tvr_cli.types.Manifest, found the list []"),
        ("tvr_cli.methods.mean", "is no data set"),
    ],
)
def test_a_wrong_name_of_a_data_set_is_a_sentence(package, tmp_path, name, words):
    package("house/__init__.py", "")
    package("house/clips.py", DATASET)
    package("house/empty.py", "")
    package("house/near.py", "def loads(root, variant): pass\n")
    package("house/imports.py", "from json import loads\nfrom os import fspath as loaded\nclass Loads: pass\n")
    package("house/constant.py", "load = 'here'\n")
    package("house/narrow.py", "def load(root): pass\n")
    package("house/listing.py", "def load(root, variant=None): return []\n")
    with pytest.raises(ConfigError) as caught:
        data.load(f"{name}:{tmp_path}")
    assert words in f"{caught.value}\n"
    result = CliRunner().invoke(app, ["doctor", f"{name}:{tmp_path}"])
    assert result.exit_code == 2 and words in result.stderr


def test_a_typo_in_a_split_names_the_line_and_the_nearest_split(package, tmp_path):
    package("house/__init__.py", "")
    package("house/clips.py", DATASET)
    root = corpus(tmp_path / "root", LINES.replace("|test|", "|tset|"))
    for command in (("doctor", f"house.clips:{root}"), ("extract-frames", "--data", f"house.clips:{root}")):
        result = CliRunner().invoke(app, [*command, "--json"])
        told = result.stderr + result.stdout
        assert result.exit_code == 3
        assert "list.txt:3: the caption 'c.mp4#0' is of the split 'tset'" in told and "did you mean test?" in told
