"""`tvr --version`: what is installed, read from package metadata so that nothing heavy is imported."""

from __future__ import annotations

from tvr_cli.cli import render
from tvr_cli.engine.whole import backbone_catalogue
from tvr_cli.runs import version
from tvr_cli.version import __version__


def show_versions() -> None:
    """Print the versions of tvr, torch (with its CUDA), the decoders and the backbones' libraries, one a line."""
    torch = version("torch")
    decord = (version("decord2") and f"{version('decord2')} (decord2)") or version("decord")
    rows = [
        ("tvr", __version__),
        ("torch", torch),
        ("CUDA of torch", _cuda_of_torch()),
        ("pyav", version("av")),
        ("decord", decord),
        *((package, version(package)) for package in backbone_catalogue.packages()),
        ("triton", version("triton")),
    ]
    for name, found in rows:
        render.line(f"{name:<15} {found or 'not installed'}")


def _cuda_of_torch() -> str | None:
    """Read torch/version.py instead of importing torch, which takes seconds."""
    import importlib.util
    import re
    from pathlib import Path

    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    found = re.search(r"^cuda.*?=\s*'([^']+)'", (Path(spec.origin).parent / "version.py").read_text(), re.MULTILINE)
    return found.group(1) if found else "none"
