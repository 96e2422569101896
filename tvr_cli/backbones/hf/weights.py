"""Files of weights as transformers writes them: finding them in a folder, reading them as data, filling a model."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tvr_cli import user_cache
from tvr_cli.backbones.tensor_files import read_state
from tvr_cli.errors import DataError, EnvironmentProblem, advises_to_trust, reason
from tvr_cli.files import parse_json

# One file, or a list of parts; those that cannot hold code come first.
_WHOLE_OR_PARTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
WRITTEN = _WHOLE_OR_PARTS[0][0]


def find(folder: Path) -> tuple[Path, ...]:
    """Return the files of a folder's weights, none where it holds none. Raises DataError for a list that is damaged."""
    for whole, parts in _WHOLE_OR_PARTS:
        if (folder / whole).is_file():
            return (folder / whole,)
        if (folder / parts).is_file():
            return _listed(folder, folder / parts)
    return ()


def sha256_of(files: Sequence[Path]) -> str | None:
    """Return the hash of weights: that of the one file, or of the hashes of their parts; None where there are none."""
    if len(files) < 2:
        return user_cache.sha256_of(files[0]) if files else None
    return hashlib.sha256("".join(user_cache.sha256_of(file) for file in files).encode()).hexdigest()


def fill(kind: Any, config: Any, files: Sequence[Path], *, shown: str) -> Any:
    """Return a model of a class of transformers with the weights of files, fp32, in evaluation mode.

    The files are read by tvr, as data, so nothing in them is run; the class brings older names to its own. Raises
    DataError, naming the file, when the two do not fit.
    """
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_state(file)
    import torch

    where = str(files[0])
    try:
        with quiet():
            model, said = kind.from_pretrained(
                None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
            )
    except Exception as e:  # of shapes, of names, of a configuration that no model can be made of
        raise DataError(f"the weights {where!r} do not fit {shown}: {_first(e)}") from e
    missing, other = sorted(said["missing_keys"]), sorted(map(str, said.get("mismatched_keys") or ()))
    if missing or other:
        found = f"{len(missing)} tensors are missing, like {missing[0]}" if missing else f"other shapes: {other[0]}"
        raise DataError(f"the weights {where!r} do not fit {shown}: {found}; they are another architecture's")
    return model.eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' reports and progress bars off the terminal in the block: tvr says what matters itself.

    What it prints (PE-Video complains of its own documentation) would stand among a command's results.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _listed(folder: Path, index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise DataError(f"{str(index)!r} is not a list of weights files: {reason(e)}") from e
    odd = [name for name in names if Path(name).name != name]
    if odd:
        raise DataError(f"{str(index)!r} names {odd[0]!r}, which is not in its folder")
    gone = [name for name in names if not (folder / name).is_file()]
    if gone:
        raise EnvironmentProblem(f"{str(folder / gone[0])!r} is not there, and {index.name!r} lists it")
    return tuple(folder / name for name in names)


def _first(e: Exception) -> str:
    return reason(e) if advises_to_trust(e) else " ".join(str(e).split())[:300]
