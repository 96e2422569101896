"""What a run's weights say of themselves, read without a tensor and without torch.

runs/<name>/checkpoints/ holds `step-*.safetensors` and `best.safetensors`; in the metadata of each stands one JSON
text: the method, how it was tuned, the feature store it was trained on. The tensors are `engine.training.checkpoint`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import files, schema
from tvr_cli.errors import DataError

_FIX = "put a copy of it back, or train again under another name with --run"
HEAD = "head.safetensors"
STEP = re.compile(r"step-(\d{8})\.safetensors")


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What the best weights go with.

    store: fingerprint of the feature store that they were trained on. tuned: the backbone was trained as well, so that
    they go with what it makes. imported: the backbone that an imported checkpoint brought along, True where it brought
    none, None of a run that was trained here.
    """

    store: str | None
    tuned: bool
    imported: str | bool | None


def last_path(folder: Path) -> Path | None:
    """Return the newest checkpoint of `folder`, or None."""
    found = sorted(p for p in folder.glob("step-*.safetensors") if STEP.fullmatch(p.name))
    return found[-1] if found else None


def best_path(folder: Path) -> Path:
    """Return where the best weights of `folder` are kept."""
    return folder / "best.safetensors"


def head_path(folder: Path) -> Path:
    """Return where the run in `folder` keeps its numbers, if it is a moment head (`moment_head.py`)."""
    return folder / HEAD


def read_header(folder: Path) -> RunHeader | None:
    """Return what the best weights in `folder` say, None where there are none yet. Raises as `read_about`."""
    path = best_path(folder)
    if not path.is_file():
        return None
    about = read_about(path)
    return RunHeader(about.get("store"), about.get("tune") == "full", about.get("imported"))


def read_about(path: Path) -> dict[str, Any]:
    """Read only the JSON of a checkpoint: no tensor is loaded. Raises DataError for a missing or broken file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as f:
            about = files.parse_json((f.metadata() or {}).get("tvr", "{}"))
    except FileNotFoundError:
        raise DataError(f"expected a checkpoint at {str(path)!r}, found none") from None
    except (SafetensorError, ValueError) as e:
        raise DataError(f"the checkpoint {str(path)!r} is damaged ({e}); {_FIX}") from e
    check_about(about, path)
    return dict(about)


def check_about(about: Any, path: Path) -> None:
    """Raise DataError unless what stands beside the tensors of a checkpoint is what is written there."""
    schema.check(about, _ABOUT, f"the checkpoint {str(path)!r}", _FIX)


_RECALLS = schema.known({"R@1": schema.number})
_BEST = schema.record({
    "step": schema.count, "key": schema.fixed(schema.any_number, schema.any_number),
    "metrics": schema.known({}, {"t2v": _RECALLS, "v2t": _RECALLS, "rsum": schema.number}),
})  # fmt: skip
_ABOUT = schema.known({}, {
    "format": schema.text, "step": schema.count, "best": schema.maybe(_BEST), "waited": schema.count,
    "optimizer": schema.each(schema.mapping), "store": schema.maybe(schema.text), "content": schema.text,
    "method": schema.text, "tune": schema.text, "config": schema.text,
})  # fmt: skip
