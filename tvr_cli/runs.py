"""A run folder: what was asked for, on which machine, what happened, what came out.

runs/<name>/
  config.json        the resolved tree
  origins.json       dotted path -> where its value came from
  env.json           versions, device, git commit, threads, settings that a resume must keep
  metrics.jsonl      one line a logged step, validation or event
  checkpoints/       written by the training loop
  results/           evaluation results and per-query ranks

or, of a moment head (`stores/moment_head.py`), `head.safetensors` and env.json alone.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_cli import schema
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.files import append_line, parse_lines, read_json, write_json
from tvr_cli.removal import listed
from tvr_cli.version import __version__

if TYPE_CHECKING:
    from tvr_cli.config import Resolved

RUN_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# What a run's folder holds before its config.json is written; a method without training has results only.
_PARTS = re.compile(
    r"((config|origins|env|not-finite-step-\d+)\.json|metrics\.jsonl)(\.\d+\.tmp)?|\.lock"
    r"|checkpoints|results|backbone|tensorboard"
)


@dataclass(frozen=True)
class RunDir:
    """One run's folder."""

    path: Path

    @staticmethod
    def named(folder: Path, name: str) -> RunDir:
        """Return the run `name` below `folder`, whether it exists or not. Raises ConfigError for an unusable name."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"a run's name holds letters, digits, '.', '_', '+' and '-'; found {name!r}")
        return RunDir(folder / name)

    @staticmethod
    def open(path: Path) -> RunDir:
        """Open an existing run. Raises DataError when the folder is not one."""
        run = RunDir(path)
        if not run.config_path.is_file():
            raise DataError(f"expected a run (a folder with config.json) at {str(path)!r}, found none")
        run.config()
        return run

    @property
    def begun(self) -> bool:
        """Whether a run was begun here: the folder's config.json is one's."""
        return self.config_path.is_file() and not self.flaw()

    def flaw(self) -> str:
        """Say in a sentence why the folder's config.json is not a run's; empty where it is one's, or there is none."""
        if not self.config_path.is_file():
            return ""
        try:
            self.config()
        except DataError as e:
            return str(e)
        return ""

    def strangers(self) -> list[str]:
        """Return what is in the folder that no run writes; nothing when it is a run, or is not there."""
        if self.begun:
            return []
        try:
            there = [path.name for path in self.path.iterdir()]
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            return [self.path.name]
        foreign = {self.config_path.name}  # else it were a run
        return sorted(name for name in there if name in foreign or not _PARTS.fullmatch(name))

    def require_own(self) -> None:
        """Raise DataError when the folder holds something else than a run: nothing is written into it."""
        if flaw := self.flaw():
            raise DataError(f"{flaw}. Nothing was written there; choose another name with --run")
        if found := self.strangers():
            raise DataError(
                f"{str(self.path)!r} holds something else than a run: {listed(found)}; nothing was written there. "
                "Move it elsewhere, or choose another name with --run, or another workspace with -o"
            )

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def env_path(self) -> Path:
        return self.path / "env.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def results(self) -> Path:
        return self.path / "results"

    def write_config(self, resolved: Resolved) -> None:
        """Store the resolved tree and where each leaf came from."""
        write_json(self.path / "origins.json", {path: origin for path, _, origin in resolved.leaves()})
        write_json(self.config_path, {"format": RUN_FORMAT, **resolved.tree()})

    def config(self) -> dict[str, Any]:
        """Read the resolved tree. Raises DataError when the file is not a run's, or one's of another format version."""
        where, fix = repr(str(self.config_path)), "put a copy of it back if there is one, or train again"
        tree = read_json(self.config_path, fix=fix)
        if not isinstance(tree, dict) or "format" not in tree:
            raise DataError(f"{where} is not a run's: expected an object that says its format; {fix}")
        if tree.pop("format") != RUN_FORMAT:
            raise DataError(f"{where} has another format version than {RUN_FORMAT}; train again")
        if not isinstance(method := tree.get("method"), dict) or not method:
            raise DataError(f"{where} is not a run's: expected that it names a method; {fix}")
        schema.check(tree, _CONFIG, where, fix)
        return tree

    def write_env(self, extra: Mapping[str, Any], packages: Iterable[str] = ()) -> None:
        """Store the environment, with the versions of more packages, and whatever a resume must keep."""
        write_json(self.env_path, {**environment(packages), **extra})

    def env(self) -> dict[str, Any]:
        """Read the stored environment, empty when there is none. Raises DataError when it is not a run's."""
        return self._checked(self.env_path, _ENV) or {}

    def origins(self) -> dict[str, str] | None:
        """Read where each leaf of the configuration came from, None when that was not kept. Raises as `env` does."""
        return self._checked(self.path / "origins.json", schema.each(schema.text))

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        append_line(self.metrics_path, dict(record))

    def logged(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl. Raises DataError, naming the line, where one is not what is written there."""
        return read_journal(self.metrics_path)

    def _checked(self, path: Path, shape: schema.Shape) -> Any:
        """Read a JSON file of the run, None when there is none."""
        if not path.is_file():
            return None
        fix = "put a copy of it back, or train again under another name with --run"
        found = read_json(path, fix=fix)
        schema.check(found, shape, repr(str(path)), fix)
        return found


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a metrics.jsonl; a torn last one is ignored. Raises DataError, naming one that does not fit."""

    def checked(line: Any) -> dict[str, Any]:
        _logged_line(line, "")
        return dict(line)

    return parse_lines(path, checked)


def environment(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Return versions, machine, command line and the state of the code, for `env.json` and bug reports.

    packages: those whose versions count beside `PACKAGES`, such as the libraries of the backbones.
    """
    return {
        "tvr": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "argv": sys.argv[1:],
        "versions": {name: version(name) for name in (*PACKAGES, *packages)},
        "git": git_state(),
    }


PACKAGES = ("torch", "triton", "av", "decord", "decord2", "safetensors", "numpy", "typer", "rich")


def version(package: str) -> str | None:
    """Return an installed package's version without importing it, or None."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state() -> dict[str, Any]:
    """Return the commit of the checkout that runs and whether it has uncommitted changes; None for a wheel."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def _git(root: Path, *args: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


# What is read of a configuration without resolving it; resolving checks all of it.
_PUBLISHED = schema.known({}, {"t2v": schema.known({}, {"R@1": schema.maybe(schema.number)})})
_RECIPE = schema.known({}, {
    "published": schema.maybe(_PUBLISHED), "code_revision": schema.text, "selected_on": schema.maybe(schema.text),
})  # fmt: skip
_DATA = schema.known({}, {"name": schema.maybe(schema.text), "variant": schema.maybe(schema.text)})
_CONFIG = schema.known({}, {"recipe": schema.maybe(_RECIPE), "data": _DATA})
_ENV = schema.known({}, {
    **dict.fromkeys(("tvr", "python", "platform", "device"), schema.text),
    "cpu_gemm": schema.one_of("mkl", "onednn"),
    "argv": schema.items(schema.text), "versions": schema.each(schema.maybe(schema.text)), "git": schema.mapping,
    "threads": schema.count, "devices": schema.count, "store": schema.text, "validation": schema.text,
    "tuned_store": schema.text, "resumed": schema.items(schema.mapping), "imported": schema.mapping,
    "scale": schema.record({"text": schema.number, "frames": schema.number}),
})  # fmt: skip
_NUMBERS = schema.each(schema.maybe(schema.any_number))  # a loss or norm may be infinite
_EVENTS: Mapping[str, schema.Shape] = {
    "step": schema.known({"step": schema.count, "parts": _NUMBERS, "lr": _NUMBERS}),
    "validation": schema.known({"step": schema.count, "t2v": schema.mapping, "v2t": schema.mapping}),
}


def _logged_line(value: Any, at: str) -> None:
    schema.known({"event": schema.text}, {"step": schema.count})(value, at)
    _EVENTS.get(value["event"], schema.anything)(value, at)
