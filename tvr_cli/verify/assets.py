"""The pictures and clips that published values are about: given by hand, or fetched into the user's cache.

None is shipped: their licences are not tvr's to give.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from tvr_cli import commands, files, user_cache
from tvr_cli.errors import DataError, EnvironmentProblem, reason
from tvr_cli.verify.rows import Asset, Shows

_SECONDS = 60.0
_MOST_BYTES = 200_000_000


def locate(asset: Asset, given: Path | None, backbone: str, *, offline: bool) -> Path:
    """Return the file of an asset: `given`, else what was fetched before, else what is fetched now.

    Raises EnvironmentProblem without the network, or for another file than the known one; DataError where `given` is
    not there.
    """
    if given is not None:
        if not given.is_file():
            raise DataError(f"--asset: expected a file at {str(given)!r}, found none")
        return given
    by_hand = commands.tvr("verify", "backbone", backbone, asset=Path(asset.address).name)
    if asset.dataset is not None:
        return _of_hub(asset, by_hand, offline)
    name = f"{hashlib.sha256(asset.address.encode()).hexdigest()[:16]}-{Path(asset.address).name}"
    path = user_cache.folder() / "verify" / name
    if not path.is_file():
        if offline:
            raise EnvironmentProblem(f"{asset.address} is not on this machine; give it: {by_hand}")
        files.write_bytes(path, _download(asset, by_hand))
    return path


def read(path: Path, shows: Shows) -> np.ndarray:
    """Return what an asset shows: [F, H, W, 3], uint8, or float32 in 0…1 of `pixels`.

    Raises DataError for another file.
    """
    if shows == "picture":
        from PIL import Image

        try:
            return np.asarray(Image.open(path).convert("RGB"))[None]
        except (OSError, ValueError) as e:
            raise DataError(f"{str(path)!r} is no picture that can be read: {reason(e)}") from e
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise DataError(f"{str(path)!r} is no npy file of numbers: {reason(e)[:80]}") from e
    wanted = np.uint8 if shows == "frames" else np.float32
    if not isinstance(found, np.ndarray) or found.ndim != 4 or found.shape[-1] != 3:
        raise DataError(f"{str(path)!r}: expected frames [F, H, W, 3], found {getattr(found, 'shape', type(found))}")
    if shows == "pixels" and not (found.dtype.kind == "f" and found.min() >= 0 and found.max() <= 1):
        raise DataError(f"{str(path)!r}: expected pixels as numbers between 0 and 1, found {found.dtype}")
    return found.astype(wanted)


def _download(asset: Asset, by_hand: str) -> bytes:
    try:
        with urllib.request.urlopen(asset.address, timeout=_SECONDS) as reply:
            data: bytes = reply.read(_MOST_BYTES)
            told = reply.headers.get("Content-Length")
    except (OSError, urllib.error.URLError) as e:
        raise EnvironmentProblem(f"{asset.address} cannot be had: {reason(e)}; give it: {by_hand}") from e
    if told is not None and int(told) != len(data):
        raise EnvironmentProblem(f"{asset.address}: {len(data)} of {told} bytes came; run the command again")
    found = hashlib.sha256(data).hexdigest()
    if asset.sha256 is not None and found != asset.sha256:
        raise EnvironmentProblem(
            f"{asset.address} is another file than the published values are about: expected the sha256 "
            f"{asset.sha256[:12]}…, found {found[:12]}…"
        )
    return data


def _of_hub(asset: Asset, by_hand: str, offline: bool) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    assert asset.dataset is not None, "as the caller saw"
    try:
        found = hf_hub_download(asset.dataset, asset.address, repo_type="dataset", local_files_only=offline)
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as e:
        raise EnvironmentProblem(
            f"{asset.address} of the hub's data set {asset.dataset} cannot be had: {reason(e)[:120]}; "
            f"give it: {by_hand}"
        ) from e
    return Path(found)
