"""README and docs tell the truth: every command in an `sh` block runs, has a page, and links lead somewhere.

The commands of a page run in order, in a folder of their own with a small toy world as `videos/`, with the shipped
backbone; what a page starts from in its middle is made once a session and copied (`World`). What needs data sets runs
on the miniature ones of `tests/miniature.py`. The two blocks that `.ci/run` runs itself, installing and benchmarking
lines are checked for form only.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tvr_cli.cli import app, lazy
from tvr_cli.data.demo_world.corpus import WorldOptions, make

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "kernels" / "README.md"]
PAGES = [p for p in PAGES if p.is_file()]
# Run by .ci/run (the two commands), by other tests, or by people: installing, benchmarks, training the demo backbone.
NOT_HERE = re.compile(
    r"^(python3? -m (pip|pytest|venv|tvr_kernels\.bench)|pip |git |cd |source |python3? scripts/|TVR_KERNELS=)"
)
# `tvr demo` takes minutes; tests/cli/test_demo.py runs it in small.
SHORTER = {"tvr demo": ["--dry-run"], "tvr reproduce": ["--dry-run"]}
FAST_PAGES = {
    *("README.md", "quickstart.md", "errors.md", "concepts.md", "evaluation.md"),
    *("add-a-method.md", "add-a-dataset.md", "add-a-backbone.md"),
}


def blocks(page, language="sh"):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page):
    for block in blocks(page):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            line = line.split("  #")[0].strip()
            if line and not line.startswith("#"):
                yield line


def page_params():
    for page in PAGES:
        if any(line.startswith("tvr ") for line in commands(page)):
            slow = () if page.name in FAST_PAGES else (pytest.mark.slow,)
            yield pytest.param(page, id=page.relative_to(ROOT).as_posix(), marks=slow)


class World:
    """What pages start from, each part made once a session by whoever asks first, and copied to the page's folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    @cached_property
    def videos(self) -> Path:
        """A small toy world."""
        make(self._folder / "videos", WorldOptions(train=12, val=4, test=8, captions=2))
        return self._folder / "videos"

    @cached_property
    def workspace(self) -> Path:
        """Frames and features of `videos`, a trained run and results, for a page that starts in the middle."""
        out, videos = str(self._folder / "out"), str(self.videos)
        tvr("extract-frames", videos, "--size", "64", "-o", out)
        tvr("precompute-features", "-o", out)
        tvr("train", "--method", "glccl", "--epochs", "1", "--batch-size", "6", "--threads", "1", "-o", out)
        tvr("evaluate", "-o", out)
        tvr("evaluate", "--method", "mean", "-o", out)
        tvr("evaluate", "--method", "text_guided", "-o", out)
        return Path(out)

    @cached_property
    def demo(self) -> Path:
        """What `tvr demo` leaves, in small."""
        tvr("demo", "--small", "--methods", "all", "-o", str(self._folder / "demo"))
        return self._folder / "demo"


def tvr(*words):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (words, result.stderr[-2000:])


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("page", page_params())
def test_every_command_of_a_page_runs(page, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")
    (tmp_path / "videos").symlink_to(world.videos)
    Path("sentences.txt").write_text("a red star spins\na green cross grows\n")
    records = [json.loads(line) for line in (world.videos / "captions.jsonl").read_text().splitlines()]
    Path("captions.csv").write_text("film;says\n" + "".join(f"{r['video']};{r['caption']}\n" for r in records))
    events = [json.loads(line) for line in (world.videos / "events.jsonl").read_text().splitlines()]
    Path("truth.jsonl").write_text("".join(map(moment_line, events[:6])) + '{"query": "a submarine"}\n')
    for name, text in files(page).items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    ready = {"frames": False}
    for line in commands(page):
        if line.startswith("tvr "):
            run_line(line, page, world, ready)
        elif line == "export PYTHONPATH=$PWD":
            monkeypatch.syspath_prepend(str(tmp_path))
        else:
            assert NOT_HERE.match(line), f"{page.name}: {line!r} is neither a tvr command nor a known other one"


def moment_line(event):
    """A line of truth about moments, of an event of the toy world."""
    start, end = event["span"]
    return (
        json.dumps({"query": f"a shape in {event['video']}", "video": event["video"], "start": start, "end": end})
        + "\n"
    )


def test_every_python_block_of_the_api_page_runs(world, tmp_path, monkeypatch, capsys):
    """In order, in one program, as somebody types them into a file; on stderr nothing is said."""
    page = ROOT / "docs" / "api.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TVR_BACKBONE", "demo-tiny")
    monkeypatch.setattr("logging.basicConfig", lambda: None)  # no handler outlives the test
    logger = logging.getLogger("tvr")
    monkeypatch.setattr(logger, "handlers", [])  # as in a program that ran no command before
    monkeypatch.setattr(logger, "level", logger.level)
    (tmp_path / "videos").symlink_to(world.videos)
    names = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    shown = capsys.readouterr()
    assert "24 videos read, 0 kept, 0 failed" in shown.out and "24 clips in" in shown.out
    assert shown.err == ""


def files(page):
    """Return name -> text of the files that a page writes: Python blocks that begin with `# folder/file.py`."""
    found = (re.match(r"# (\S+/\S+\.py)\n", block) for block in blocks(page, "python"))
    return {match[1]: match.string for match in found if match}


@pytest.mark.parametrize("page", ["add-a-method.md", "add-a-dataset.md", "add-a-backbone.md"])
def test_what_a_page_adds_is_one_file_that_it_checks(page):
    path = ROOT / "docs" / page
    (name,) = files(path)
    dotted = name.removesuffix(".py").replace("/", ".")
    assert any(re.fullmatch(rf"tvr (methods|datasets|backbones) check {dotted}", line) for line in commands(path))


def _split(words, mark):
    at = words.index(mark) if mark in words else len(words)
    return words[:at], words[at : at + 1], words[at + 1 :]


def run_line(line, page, world, ready):
    words = shlex.split(line)[1:]
    for start, extra in SHORTER.items():
        if line.startswith(start):
            words += [w for w in extra if w not in words]
    words = with_data(words)
    if words[0] in ("query", "train", "evaluate", "index", "precompute-features") and not ready["frames"]:
        if "--scores" not in words and not Path("out/frames").exists():
            shutil.copytree(world.workspace, "out", dirs_exist_ok=True)
        ready["frames"] = True
    ready["frames"] |= words[0] == "extract-frames"
    # What the demo above it would have left there.
    if any(word.startswith("out/demo") for word in words) and not Path("out/demo").exists():
        shutil.copytree(world.demo, "out/demo")
    words, _, source = (list(part) for part in _split(words, "<"))
    result = CliRunner().invoke(app, words, input=Path(*source).read_text() if source else None)
    allowed = (0, 5) if words[0] == "extract-frames" else (0,)
    if words[0] == "doctor":
        allowed = (0, 3)  # a data set's doctor may find the miniature incomplete
    if words[:2] == ["backbones", "get"]:
        allowed = (0, 4)  # the hub is not asked of tests; test_backbones_get.py has one on loopback
    assert result.exit_code in allowed, f"{page.name}: {line}\n{result.stderr[-2000:]}"


def with_data(words):
    """Put miniature data sets where a command names one: `msrvtt:/data/MSRVTT` becomes a folder of 20 videos."""
    return [miniature_spec(word) if re.fullmatch(r"[a-z.]+:/data/[^ ]*", word) else word for word in words]


def miniature_spec(word):
    from miniature import write_dataset

    name, root, *variant = word.split(":")
    folder = Path(root).name
    write_dataset(name.rpartition(".")[2], Path(folder), *variant)
    return ":".join([name, folder, *variant])


def test_the_cli_page_is_what_help_prints():
    script = ROOT / "scripts" / "make_cli_docs.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"run: python scripts/make_cli_docs.py ({done.stderr.strip()[-300:]})"


@pytest.mark.parametrize("name", lazy.NAMES)
def test_every_command_is_documented_with_an_example(name):
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0 and f"Example: tvr {name}" in result.stdout
    pages = "".join(p.read_text() for p in PAGES if p.name != "cli.md")
    assert f"tvr {name}" in pages, f"no page shows `tvr {name}`"


def test_the_readme_starts_with_two_blocks_of_one_line():
    text = (ROOT / "README.md").read_text()
    section = text.split("## Two commands")[1].split("\n## ")[0]
    found = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len(found) == 2 and all(len(block.strip().splitlines()) == 1 for block in found)
    assert "tvr demo" in found[0] and "pytest" in found[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_method_has_a_page():
    from tvr_cli.methods import base

    assert {p.stem for p in (ROOT / "docs" / "methods").glob("*.md")} >= set(base.shipped())


def test_every_schema_is_in_the_formats_page():
    formats = (ROOT / "docs" / "formats.md").read_text()
    schemas = set()
    for path in (ROOT / "tvr_cli").rglob("*.py"):
        schemas |= set(re.findall(r"\"(tvr/[a-z-]+@\d+)\"", path.read_text()))
    missing = sorted(s for s in schemas if s not in formats)
    assert schemas and not missing, missing
