"""A workspace of somebody else names its methods: a module that is not tvr's own is loaded when you name it too."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import indexes
import pytest
from synthetic import SyntheticStore
from typer.testing import CliRunner, Result

import tvr_cli
from tvr_cli.cli import app
from tvr_cli.engine import scorers
from tvr_cli.engine.evaluation import evaluate
from tvr_cli.engine.searching import index
from tvr_cli.engine.searching.search import SearchOptions
from tvr_cli.engine.training.train import TrainOptions, experiment_of, train
from tvr_cli.errors import ConfigError, MethodNotNamed
from tvr_cli.workspace import Workspace

OWN = "tests.synthetic"
DOTTED = "given_pkg.given_method"
FAST = ("--epochs", "1", "--batch-size", "8", "--threads", "1", "--device", "cpu")


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a run."""
    out = tmp_path_factory.mktemp("trained") / "out"
    SyntheticStore(splits=("train", "train", "val", "test")).write(out)
    assert tvr("train", "--method", OWN, *FAST, "--run", "r", "-o", out).exit_code == 0
    assert tvr("evaluate", "r", "--method", OWN, "-o", out).exit_code == 0
    return out


@pytest.fixture
def given(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """That workspace with the run's method changed to a module, and the mark which importing the module leaves.

    The module is a method, so that naming it works.
    """
    mark = tmp_path / "imported"
    (tmp_path / "given_pkg").mkdir()
    (tmp_path / "given_pkg" / "__init__.py").write_text("")
    source = f"from pathlib import Path\nPath({str(mark)!r}).touch()\nfrom tests import synthetic\n"
    (tmp_path / "given_pkg" / "given_method.py").write_text(
        source
        + "class Method(synthetic.Method):\n    def coarse(self, e):\n        return next(iter(e.tensors.values()))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(trained, tmp_path / "out")
    rename(tmp_path / "out", DOTTED)
    for name in ("given_pkg", DOTTED):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "out", mark


def rename(out: Path, name: str) -> None:
    path = out / "runs" / "r" / "config.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "method": {name: next(iter(tree["method"].values()))}}))


# A command, and the same one as the message gives it: with what it lacks put in front.
COMMANDS = [
    (["evaluate", "r"], ["evaluate", "--method", DOTTED, "r"]),
    (["evaluate"], ["evaluate", "r", "--method", DOTTED]),
    (["index", "--run", "r"], ["index", "--method", DOTTED, "--run", "r"]),
    (["index"], ["index", "--run", "r", "--method", DOTTED]),
    (["train", "--resume", "--run", "r"], ["train", "--method", DOTTED, "--resume", "--run", "r"]),
    (["train", "--resume"], ["train", "--run", "r", "--method", DOTTED, "--resume"]),
    (["rerun", "r"], ["rerun", "--method", DOTTED, "r"]),
    (["rerun", "r", "--dry-run"], ["rerun", "--method", DOTTED, "r", "--dry-run"]),
]


@pytest.mark.parametrize(("typed", "named"), COMMANDS, ids=[" ".join(typed) for typed, _ in COMMANDS])
def test_a_run_does_not_import_its_method_until_the_command_names_it(
    given: tuple[Path, Path], typed: list[str], named: list[str]
) -> None:
    out, mark = given
    refused = tvr(*typed, "-o", out)
    assert refused.exit_code == 3 and refused.stdout == "" and not mark.exists()
    said = refused.stderr.splitlines()[-1]
    assert f"runs/r/config.json names the method {DOTTED!r}, which is not one of tvr's own" in said
    command = said.partition("if you trust it, name it yourself: ")[2]
    assert shlex.split(command) == ["tvr", *named, "-o", str(out)]
    allowed = tvr(*shlex.split(command)[1:])
    assert allowed.exit_code == 0, allowed.stderr
    assert mark.exists()


def test_a_query_does_not_import_the_method_of_a_run_or_an_index(given: tuple[Path, Path]) -> None:
    out, mark = given
    for typed, where in (
        (["-q", "query", "a star"], "config.json"),
        (["query", "--run", "r", "--", "-star"], "config.json"),
    ):
        refused = tvr(*typed, "-o", out) if "--" not in typed else tvr(*typed[:1], "-o", out, *typed[1:])
        assert refused.exit_code == 3 and where in refused.stderr and not mark.exists()
        command = shlex.split(refused.stderr.partition("yourself: ")[2])
        assert command.count("--run") == 1 and command[command.index("--method") + 1] == DOTTED
        assert command.index("query") < command.index("--method") < command.index(typed[-1])
    shutil.rmtree(out / "runs")
    store = scorers.store_for(Workspace(out), None, None)
    scorer = scorers.untrained("text_guided", store)
    index.build_index(scorer, store, Workspace(out), index.Asked(method=DOTTED), device="cpu")
    refused = tvr("query", "a star", "-o", out)  # the head of the index says what it was built for
    assert refused.exit_code == 3 and not mark.exists()
    assert f"the index in {str(out / 'index')!r} names the method {DOTTED!r}" in refused.stderr
    assert refused.stderr.endswith(f"tvr query --method {DOTTED} 'a star' -o {out}\n")


def test_reading_about_a_run_imports_nothing(given: tuple[Path, Path]) -> None:
    out, mark = given
    assert tvr("info", out / "runs" / "r").exit_code == tvr("info", out).exit_code == 0
    assert tvr("compare", "r", "r", "-o", out).exit_code == 0
    assert tvr("audit", out / "runs" / "r" / "results" / "test.json").exit_code == 0
    assert tvr("plot", "r", "-o", out, "--out", out / "c.svg").exit_code == 0
    assert not mark.exists()


def test_a_configuration_file_does_not_import_a_method_either(given: tuple[Path, Path], tmp_path: Path) -> None:
    out, mark = given
    (tmp_path / "theirs.yaml").write_text(f"method:\n  {DOTTED}: {{}}\n")
    typed = ["train", "--config", tmp_path / "theirs.yaml", "--dry-run", "-o", out]
    refused = tvr(*typed)
    assert refused.exit_code == 3 and not mark.exists()
    assert f"theirs.yaml:2 names the method {DOTTED!r}" in refused.stderr
    command = shlex.split(refused.stderr.partition("yourself: ")[2])[1:]
    assert command == ["train", "--method", DOTTED, *map(str, typed[1:])]
    assert tvr(*command).exit_code == 0 and mark.exists()


def test_another_method_than_the_runs_is_refused_without_importing_it(given: tuple[Path, Path]) -> None:
    out, mark = given
    for command in (["query", "star"], ["index"], ["evaluate"]):
        run = ["r"] if command[0] == "evaluate" else ["--run", "r"]
        other = tvr(*command, *run, "--method", "glccl", "-o", out)
        assert other.exit_code == 2 and f"not both; the run's method is {DOTTED}" in other.stderr
    rename(out, "glccl")
    named = tvr("evaluate", "r", "--method", DOTTED, "-o", out)
    assert named.exit_code == 2 and "the run's method is glccl" in named.stderr
    resumed = tvr("train", "--resume", "--run", "r", "--method", DOTTED, "-o", out)
    assert resumed.exit_code == 2 and "a run has one method" in resumed.stderr
    assert not mark.exists()
    scorers.check_named(Workspace(out), "r", "glccl")  # its own, named again: harmless


def test_the_library_asks_for_the_name_too(given: tuple[Path, Path]) -> None:
    out, mark = given
    with pytest.raises(MethodNotNamed, match="name it yourself") as e:
        tvr_cli.load_method(out, run="r")
    assert (e.value.method, e.value.run, e.value.exit_code) == (DOTTED, "r", 3) and not mark.exists()
    assert type(tvr_cli.load_method(out, run="r", method=DOTTED)).__module__ == DOTTED
    with pytest.raises(ConfigError, match="not both"):
        tvr_cli.load_method(out, run="r", method="mean")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "expected a class `Method` that derives from tvr_cli.methods.base.Method, found the module"),
        ("Method = 3", "found the int 3"),
        ("class Method: pass", "found the class Method"),
        ("from tvr_cli.methods.base import Method", "wrong_pkg.method without one of its own"),
        ("import nothing_of_this_name", "imports 'nothing_of_this_name', which is not installed"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("def", "SyntaxError"),
    ],
)
def test_a_module_that_is_no_method_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    (tmp_path / "wrong_pkg").mkdir()
    (tmp_path / "wrong_pkg" / "method.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("wrong_pkg", "wrong_pkg.method"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    refused = tvr("evaluate", "--method", "wrong_pkg.method", "-o", tmp_path)
    assert refused.exit_code == (4 if "not installed" in said else 2) and refused.stderr.count("\n") == 1
    assert "wrong_pkg.method" in refused.stderr and said in refused.stderr
    assert "a bug in tvr" not in refused.stderr


@pytest.mark.parametrize("name", ["..", ".x", "x.", "a..b", "os.path:x"])
def test_a_name_that_is_no_module_is_one_sentence(tmp_path: Path, name: str) -> None:
    refused = tvr("evaluate", "--method", name, "-o", tmp_path)
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1 and "a bug in tvr" not in refused.stderr


def test_the_seeds_of_a_method_of_ones_own_are_evaluated(given: tuple[Path, Path]) -> None:
    out, _ = given
    shutil.rmtree(out / "runs")
    result = tvr("train", "--method", DOTTED, "--seeds", "0", *FAST, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith(f"next: tvr evaluate given_method-seed0 --method {DOTTED} -o {out}\n")


def test_an_interrupted_run_names_its_method_in_the_command_that_continues(
    given: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvr_cli.engine.training.loop import Loop
    from tvr_cli.errors import Interrupted

    def stop(self: Any) -> Any:
        raise Interrupted("stopped")

    out, _ = given
    monkeypatch.setattr(Loop, "run", stop)
    resolved, options = experiment_of(Workspace(out), TrainOptions(run="mine", device="cpu", threads=1), method=DOTTED)
    with pytest.raises(Interrupted, match=rf"tvr train --resume --run mine --method {DOTTED} -o "):
        train(resolved, Workspace(out), options)


def test_an_index_of_a_run_answers_when_its_method_is_named(given: tuple[Path, Path]) -> None:
    out, _ = given
    asked = index.Asked(run="r", method=DOTTED)
    index.index(Workspace(out), asked, device="cpu")
    assert indexes.head(out / "index")["asked"] == {"run": "r"}  # the run says its method itself
    assert not index.index(Workspace(out), asked, device="cpu").built
    kept = index.asked_for(Workspace(out), index.Asked(method=DOTTED))
    _, scorer, _ = index.fresh_index(Workspace(out), kept, named=DOTTED, device="cpu")
    assert scorer.run is not None and scorer.name == DOTTED
    with pytest.raises(MethodNotNamed):
        index.fresh_index(Workspace(out), index.asked_for(Workspace(out), index.Asked()), device="cpu")
    assert (
        SearchOptions(1).k == 1
        and evaluate.load(Workspace(out), run="r", method=DOTTED, backbone=None)[0].name == DOTTED
    )


def test_what_a_message_proposes_for_a_run_of_ones_own_method_works_as_printed(given: tuple[Path, Path]) -> None:
    """Four proposals in a row led nowhere: each left out what the next one asked for."""
    out, _ = given
    index.index(Workspace(out), index.Asked(method="text_guided"), device="cpu")
    refused = tvr("query", "a red circle", "-o", out, "--run", "r", "--method", DOTTED)
    assert refused.exit_code == 3
    line = refused.stderr.strip().rpartition("with: tvr ")[2]
    assert line == f"index --run r --method {DOTTED} -o {out}"
    done = tvr(*line.split(), "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert indexes.head(out / "index")["identity"]["run"] == "r"


def test_a_method_with_parameters_names_the_run_that_is_there(given: tuple[Path, Path]) -> None:
    out, _ = given
    refused = tvr("evaluate", "--method", DOTTED, "-o", out)
    assert refused.exit_code == 2 and f"name the run: tvr evaluate r --method {DOTTED} -o {out}" in refused.stderr
    refused = tvr("evaluate", "--method", "eaglenet", "-o", out)
    assert refused.exit_code == 2 and f"train it: tvr train --method eaglenet -o {out}" in refused.stderr
