"""Checks that tell what is missing or damaged before it costs an hour: this machine, videos, a workspace's files."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tvr_cli import commands, log
from tvr_cli.backbones import registry
from tvr_cli.engine.device import remember_trials
from tvr_cli.engine.extraction.discover import discover
from tvr_cli.engine.whole.probing import Check, probe_videos
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem, TvrError
from tvr_cli.results.base import Result
from tvr_cli.runs import version
from tvr_cli.stores import verify
from tvr_cli.version import __version__
from tvr_cli.workspace import Workspace

_FREE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class DoctorReport(Result):
    """What was checked (`environment` is this machine), and every finding."""

    schema = "doctor"
    target: str
    checks: Sequence[Check]

    @property
    def exit_code(self) -> int:
        """4 when tvr cannot run, 3 when a data set is incomplete, else 0."""
        if any(c.fatal and not c.ok for c in self.checks):
            return EnvironmentProblem.exit_code
        return DataError.exit_code if any(c.incomplete and not c.ok for c in self.checks) else 0


def environment_checks(workspace: Workspace) -> list[Check]:
    """Check packages, device, decoders, kernels, the backbones' weights and the workspace."""
    return [
        *_packages(),
        _guard("device", _device),
        _guard("decoder pyav", _pyav),
        _guard("decoder decord", _decord),
        *_kernels(),
        _guard("gemm", _gemm),
        _guard("precision bf16", _bf16),
        *_weights(),
        _guard("workspace", lambda: _workspace(workspace)),
    ]


def examine(target: str | None, workspace: Workspace, *, deep: bool = False) -> DoctorReport:
    """Check this machine (no target), a workspace or store, a data set (NAME:ROOT), or a folder or file of videos.

    Raises DataError when the target does not exist, ConfigError when it names an unknown data set (a data set of
    one's own by its dotted name).
    """
    return DoctorReport(target or "environment", _checks(target, workspace, deep=deep))


def _checks(target: str | None, workspace: Workspace, *, deep: bool) -> list[Check]:
    if target is not None and not target.strip():
        raise ConfigError("expected what to check, found an empty name; leave it out to check this machine")
    if target is None:
        return environment_checks(workspace)
    from tvr_cli import data
    from tvr_cli.engine.whole.dataset_doctor import dataset_checks, recognise

    path = Path(target)
    if verify.kind(path) is not None or Workspace(path).stores():
        return store_checks(path)
    if ":" in target and (not path.exists() or target.partition(":")[0] in data.names()):
        return dataset_checks(target, deep=deep)
    if (outer := Workspace(path.parent)).stores() and path in (outer.features_folder, outer.runs_folder):
        if path == outer.runs_folder or not outer.begun_features():
            whole = commands.tvr("doctor", outer)
            raise DataError(f"{str(path)!r} holds no stores, which are what is checked of a workspace; run: {whole}")
        return [check for store in outer.begun_features() for check in store_checks(store)]
    if path.is_dir() and (name := recognise(path)) is not None:
        log.logger.info("%r holds the annotation files of %s", target, name)
        return dataset_checks(f"{name}:{path}", deep=deep)
    return video_checks(path, deep=deep)


def store_checks(path: Path) -> list[Check]:
    """Read every byte of a workspace's frames, features, index and words, or of one of these; compare checksums."""
    alone = verify.kind(path) is not None
    workspace = Workspace.around(path) if alone else Workspace(path)
    checks = []
    with log.progress("reading files", total=None, unit="files") as bar:
        for folder in [path] if alone else Workspace(path).stores():
            name = path.name if alone else folder.relative_to(path).as_posix()
            found = list(_counted(verify.check(folder, workspace), bar.advance))
            bad = [finding for finding in found if finding.problem]
            checks += [Check(f"{name} {f.what}", False, f.problem, f.fix, incomplete=True) for f in bad]
            if not bad:
                checks.append(Check(name, True, _whole(len(found))))
    return sorted(checks, key=lambda c: (c.ok, c.name))


def _whole(parts: int) -> str:
    return "1 part, as it was written" if parts == 1 else f"{parts} parts, all as they were written"


def _counted(findings: Iterator[verify.Finding], advance: Callable[[int], None]) -> Iterator[verify.Finding]:
    for finding in findings:
        yield finding
        advance(1)


def video_checks(path: Path, *, deep: bool) -> list[Check]:
    """Open every video below a path, each in a process of its own; `deep` decodes 12 frames of it as well."""
    videos = {video.id: video.path for video in discover([path]).videos}
    with log.progress("opening videos", total=len(videos), unit="videos") as bar:
        checks = probe_videos(videos, deep=deep, advance=bar.advance)
    # A bad video of one's own is news, not an incomplete benchmark: extract-frames leaves it out.
    return [replace(c, incomplete=False) for c in sorted(checks, key=lambda c: (c.ok, c.name))]


def _guard(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except (ImportError, OSError, RuntimeError, TvrError) as e:
        return Check(
            name, False, f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}", "reinstall tvr-cli"
        )


def _packages() -> list[Check]:
    checks = [Check("tvr", True, __version__)]
    for package in ("torch", registry.packages()[registry.WITHOUT_SCHEME], "safetensors", "av"):
        found = version(package)
        fix = "" if found else f"pip install {package}"
        checks.append(Check(package, found is not None, found or "not installed", fix, fatal=found is None))
    if version("decord") and version("decord2"):
        fix = "pip uninstall decord2 && pip install --force-reinstall decord"
        checks.append(
            Check("decord", False, "decord and decord2 share an import name and must not both be installed", fix)
        )
    return checks


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Check("device", True, f"cuda: {properties.name}, {properties.total_memory / 1e9:.0f} GB")
    if torch.backends.mps.is_available():
        return Check("device", True, "mps")
    return Check("device", True, f"cpu, {os.cpu_count()} cores; no GPU found, everything works without one")


def _pyav() -> Check:
    import av

    codecs = [c for c in ("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "theora") if c in av.codecs_available]
    return Check("decoder pyav", True, f"{version('av')}, reads {', '.join(codecs)}")


def _decord() -> Check:
    if importlib.util.find_spec("decord") is None:
        return Check("decoder decord", True, "not installed; pyav reads everything that it would")
    which = f"decord2 {version('decord2')}" if version("decord2") else f"decord {version('decord')}"
    return Check("decoder decord", True, which)


def _kernels() -> list[Check]:
    from tvr_kernels import _dispatch

    remember_trials()
    try:
        rows = _dispatch.report()
    except ValueError as e:
        return [Check("kernels", False, str(e), "unset TVR_KERNELS")]
    return [Check(f"kernel {op}", name != "none", f"{name}: {reason}") for op, name, reason in rows]


def _gemm() -> Check:
    from tvr_kernels import gemm

    return Check("gemm", True, f"{gemm.setting()} multiplies matrices of fp32 on the processor, as measured here")


def _bf16() -> Check:
    from tvr_cli.engine.features import precision

    faster, times = precision.measured("bf16")
    takes = f"takes {times:.2g} times as long as fp32 on the processor"
    return Check(
        "precision bf16", True, f"{takes}, as measured here" + ("" if faster == "bf16" else "; fp32 is taken for it")
    )


def _weights() -> list[Check]:
    from tvr_cli.preset_loader import preset_names

    checks = []
    for name in preset_names("backbones"):
        about = registry.resolve(name)
        # Missing weights are no fault of the machine: most people need one backbone.
        fix = f"downloaded when first used; where from: {commands.tvr('backbones', 'show', name)}"
        here = about.weights is not None
        checks.append(
            Check(f"weights {name}", here, str(about.weights) if here else "not on this machine", "" if here else fix)
        )
    return checks


def _workspace(workspace: Workspace) -> Check:
    existing = workspace.root.absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as e:
        fix = "choose another workspace with -o or TVR_WORKSPACE"
        return Check("workspace", False, f"cannot write {str(existing)!r}: {e.strerror}", fix, fatal=True)
    free = shutil.disk_usage(existing).free
    ok = free > _FREE_BYTES
    return Check("workspace", ok, f"{str(workspace)!r}, {free / 1e9:.1f} GB free", "" if ok else "free some disk space")
