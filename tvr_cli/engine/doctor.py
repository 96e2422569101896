"""Checks that tell a newcomer what is missing before it costs an hour: this machine, and a folder of videos."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvr_cli import __version__
from tvr_cli.errors import TvrError
from tvr_cli.runs import version

_FREE_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. fatal: tvr cannot run before it is fixed. fix: what to do, empty when ok."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    fatal: bool = False


def environment_checks(workspace: Path) -> list[Check]:
    """Check packages, device, decoders, kernels, the backbones' weights and the workspace."""
    return [
        *_packages(),
        _guard("device", _device),
        _guard("decoder pyav", _pyav),
        _guard("decoder decord", _decord),
        *_kernels(),
        *_weights(),
        _guard("workspace", lambda: _workspace(workspace)),
    ]


def payload(checks: list[Check], target: str) -> dict[str, Any]:
    """Return what `tvr doctor --json` prints."""
    listed = [{k: v for k, v in asdict(c).items() if k != "fatal"} for c in checks]
    return {"schema": "tvr/doctor@1", "target": target, "checks": listed}


def _guard(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except (ImportError, OSError, RuntimeError, TvrError) as e:
        return Check(
            name, False, f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}", "reinstall tvr-cli"
        )


def _packages() -> list[Check]:
    checks = [Check("tvr", True, __version__)]
    for package, fatal in (("torch", True), ("open_clip_torch", True), ("safetensors", True), ("av", True)):
        found = version(package)
        fix = "" if found else f"pip install {package}"
        checks.append(Check(package, found is not None, found or "not installed", fix, fatal and found is None))
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

    rows = _dispatch.report()
    return [Check(f"kernel {op}", name != "none", f"{name}: {reason}") for op, name, reason in rows]


def _weights() -> list[Check]:
    from tvr_cli import backbones

    checks = []
    for name, where in backbones.weights_found().items():
        fix = "" if where else "needed only for this backbone: it is downloaded at first use, or give local:PATH"
        checks.append(Check(f"weights {name}", where is not None, where or "not found on this machine", fix))
    return checks


def _workspace(workspace: Path) -> Check:
    existing = workspace.absolute()
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
