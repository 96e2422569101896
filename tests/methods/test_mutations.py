"""Every plausible mistake in `mutations/<method>.py` makes a golden test of that method fail."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from golden import COMMITTED, REPOSITORY
from mutations import Mutation

from tvr_cli.methods.base import shipped

METHODS = sorted(p.stem for p in (Path(__file__).parent / "mutations").glob("[a-z]*.py"))
LISTS: dict[str, list[Mutation]] = {name: importlib.import_module(f"mutations.{name}").MUTATIONS for name in METHODS}
# A group of each method: both processes of a run take part, and one of them alone would take longest of all files.
GROUPS = {name: pytest.mark.xdist_group(f"mutations of {name}") for name in METHODS}
ALL = [
    pytest.param(name, m, id=f"{name}-{m.name.replace(' ', '-')}", marks=GROUPS[name])
    for name in METHODS
    for m in LISTS[name]
]
SOURCES = ("tvr_cli", "kernels/tvr_kernels", "presets", "tests/methods")


def test_every_method_with_golden_files_lists_at_least_ten_mistakes():
    with_golden = {name for name in shipped() if (COMMITTED / name).is_dir()}
    assert with_golden <= set(METHODS), f"no tests/methods/mutations/<method>.py for {with_golden - set(METHODS)}"
    assert {name: len(found) for name, found in LISTS.items() if len(found) < 10} == {}
    for found in LISTS.values():
        assert len({m.name for m in found}) == len(found)


@pytest.mark.parametrize(("method", "mutation"), ALL)
def test_mutation_still_applies(method, mutation):
    source = (REPOSITORY / mutation.file).read_text()
    assert source.count(mutation.old) == 1, (
        f"{mutation.file} has it {source.count(mutation.old)} times; update the list"
    )
    compile(source.replace(mutation.old, mutation.new), mutation.file, "exec")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of the sources and of the committed golden files, to be edited."""
    root = tmp_path_factory.mktemp("sources")
    for part in SOURCES:
        shutil.copytree(REPOSITORY / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    (root / "tests" / "golden").symlink_to(COMMITTED)
    (root / "none").mkdir()
    return root


class Golden:
    """Runs the golden tests of a method on a copy of the sources (`golden_runs.py`)."""

    def __init__(self, root: Path):
        here = f"{root}{os.pathsep}{root / 'kernels'}"
        environment = {**os.environ, "PYTHONPATH": here, "TVR_GOLDEN_DIR": str(root / "none")}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("TVR_KERNELS", None)
        command = [sys.executable, str(Path(__file__).parent / "golden_runs.py"), str(root)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, method: str) -> tuple[int, str]:
        """Return the exit code and the end of the output."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{method}\n")
        self.process.stdin.flush()
        done = json.loads(self.process.stdout.readline())
        return done["returncode"], done["output"]


@pytest.fixture(scope="module")
def golden(sources: Path) -> Iterator[Golden]:
    made = Golden(sources)
    yield made
    made.process.communicate()  # the end of its input is its end
    assert made.process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param(name, marks=GROUPS[name]) for name in METHODS])
def test_golden_tests_pass_on_the_unchanged_copy(method, golden):
    returncode, output = golden.run(method)
    assert returncode == 0, output


@pytest.mark.slow
@pytest.mark.parametrize(("method", "mutation"), ALL)
def test_mutation_is_caught(method, mutation, sources, golden):
    file = sources / mutation.file
    original = file.read_text()
    file.write_text(original.replace(mutation.old, mutation.new))
    try:
        returncode, output = golden.run(method)
    finally:
        file.write_text(original)
    assert returncode != 0, f"no golden test of {method} notices: {mutation.name}"
    # 1 = a test failed; anything else means that the edit broke the run itself and proves nothing
    assert returncode == 1, output
