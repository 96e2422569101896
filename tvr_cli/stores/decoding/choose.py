"""Which decoder opens a video, and which are installed. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import get_args

from tvr_cli.errors import ConfigError, DecodeError, did_you_mean
from tvr_cli.stores.decoding.types import Beat, Decoder, DecoderName, unheard
from tvr_cli.types import Look


def open_video(
    path: Path,
    decoder: DecoderName = "auto",
    *,
    look: Look = "coded",
    track: int | None = None,
    beat: Beat = unheard,
) -> Decoder:
    """Open a video with the decoder asked for. `beat` is called often while there is progress.

    look: of its frames. track: number of the stream that is read; None = the default or best one.

    `auto` is PyAV: it is exact on every stream that was tried (edit lists, open GOPs, variable frame rate, AVI without
    usable timestamps) and needs less CPU time than decord (docs/formats.md, "Decoders").
    Raises DecodeError, saying what is wrong with the file, OSError when it cannot be opened, and ConfigError for an
    unknown decoder.
    """
    if decoder not in get_args(DecoderName):
        raise ConfigError(
            f"unknown decoder {decoder!r}; expected auto, pyav or decord{did_you_mean(decoder, ['pyav'])}"
        )
    _check_file(path)
    if decoder == "decord":
        from tvr_cli.stores.decoding.decord import DecordDecoder

        if track is not None:
            raise DecodeError("decord reads one track of a file; use --decoder auto with --tracks all")
        return DecordDecoder(path, beat, look)
    from tvr_cli.stores.decoding.pyav import PyavDecoder

    return PyavDecoder(path, beat, look, track=track)


def check_decoder(name: str) -> None:
    """Raise ConfigError when there is no decoder of this name."""
    known = get_args(DecoderName)
    if name not in known:
        raise ConfigError(f"unknown decoder {name!r}; expected auto, pyav or decord{did_you_mean(name, known)}")


@cache
def decoder_versions() -> Mapping[str, str]:
    """Return the version of each decoder that is installed, without importing it; looked for once in a process."""
    from importlib import metadata

    found = {}
    for name, packages in {"pyav": ("av",), "decord": ("decord", "decord2")}.items():
        for package in packages:
            try:
                found[name] = f"{package} {metadata.version(package)}"
                break
            except metadata.PackageNotFoundError:
                continue
    return MappingProxyType(found)


def _check_file(path: Path) -> None:
    with open(path, "rb") as f:
        if not f.read(1):
            raise DecodeError("the file is empty (0 bytes)")
