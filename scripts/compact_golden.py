"""Cut the compact golden files of tests/golden/ from the full ones, which hold CLIP and temporal parameters too.

    python scripts/compact_golden.py ../shared/methods tests/golden

GLCCL's temporal transformer and its CLIP frames go to shared/temporal.safetensors, its head to glccl/, with a reference
to the former. TC-MGC keeps its head only: the frames after the temporal transformer stand for the CLIP frames, so that
scores, losses and gradients of the head, the sentence and the words stay checkable. Values are copied, never computed.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

HEAD_OUT = (
    "param.clip.*",
    "param.transformerClip.*",
    "param.frame_position_embeddings.*",
    "param.*.cross_attn.*",
    "e2e.*",
)
BEHIND = (
    "*.in.visual_output",
    "*.grad.in.visual_output",
    "*.grad.transformerClip.*",
    "*.grad.frame_position_embeddings.*",
)
GLCCL_OUT = (*HEAD_OUT, "*.in.visual_output", "*.in.video_mask", "*.out.frames_temporal", "train.out.glim_*")
# TC-MGC's train_l10 has every gradient; train and train_drop differ from it in their masks and in lambda.
TCMGC_OUT = (
    *HEAD_OUT,
    *BEHIND,
    "train.grad.*_mat_weight",
    "train.grad.*linear_proj.weight",
    "train.out.lva_*",
    "train_l10.out.lva_*",
    "train_drop.grad.*_mat_weight",
    "train_l10.out.frames_temporal",
    "train_drop.out.frames_temporal",
    "eval.out.lva_frame_raw",
)
POSITION_ROWS = 8  # enough for the frames of the cases
LIMIT = {"glccl": 2**20, "tcmgc": 2**20, "shared": 2**21}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path, help="folder with <method>/golden/public.safetensors")
    parser.add_argument("out", type=Path, help="folder of the compact files")
    options = parser.parse_args()
    tensors, config = read(options.full / "glccl" / "golden" / "public.safetensors")
    head = without(tensors, GLCCL_OUT)
    head["train.grad.in.visual_output"] = tensors["train.grad.in.visual_output"]
    write(options.out / "glccl" / "head.safetensors", head, config, {"with": "../shared/temporal.safetensors"})
    write(options.out / "shared" / "temporal.safetensors", *temporal(tensors, config))
    tensors, config = read(options.full / "tcmgc" / "golden" / "public.safetensors")
    head = without(tensors, TCMGC_OUT)
    for name in [name for name in head if ".noise." in name]:
        head[name] = (head[name] != 0).to(torch.uint8)
    write(options.out / "tcmgc" / "head.safetensors", head, config)


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return tensors, json.loads(file.metadata()["config"])


def without(tensors: dict[str, Tensor], patterns: Iterable[str]) -> dict[str, Tensor]:
    dropped = {name for name in tensors for pattern in patterns if fnmatch.fnmatch(name, pattern)}
    return {name: tensor for name, tensor in tensors.items() if name not in dropped or name == "param.clip.logit_scale"}


def temporal(tensors: dict[str, Tensor], config: dict) -> tuple[dict[str, Tensor], dict]:
    table = "param.frame_position_embeddings.weight"
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith("param.transformerClip.")}
    kept[table] = tensors[table][:POSITION_ROWS].clone()
    cases = ["train", "eval"]
    for case in cases:
        for part in ("in.visual_output", "in.video_mask", "out.frames_temporal"):
            kept[f"{case}.{part}"] = tensors[f"{case}.{part}"]
    return kept, {"heads_temporal": config["heads_temporal"], "cases": cases}


def write(path: Path, tensors: dict[str, Tensor], config: dict, more: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"config": json.dumps(config), "generator": "scripts/compact_golden.py", **(more or {})}
    save_file({name: tensor.contiguous() for name, tensor in sorted(tensors.items())}, path, metadata)
    size, limit = path.stat().st_size, LIMIT[path.parent.name]
    if size > limit:
        raise SystemExit(f"{path}: {size} bytes, more than {limit}; leave more tensors out")


if __name__ == "__main__":
    main()
