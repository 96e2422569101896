"""Cut the committed golden files of CLIP4Clip, X-Pool, T-MASS and TS2-Net out of the full ones.

    python scripts/compact_golden_baselines.py ../shared/methods tests/golden

Parameters, inputs and outputs are kept whole, so every score and loss stays checkable; of a matrix's gradient the first
rows stay. Values are copied, never computed; the draws of dropout become bytes.
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

ROWS = 8  # of a matrix's gradient
LEAVE = {
    "clip4clip_seq": ("seqLSTM.train.out.frames_unit", "meanP.*.frames_unit", "*.attention_mask"),
    "xpool": ("*.fp32.pooled", "eval_multi.out.pooled"),
    "tmass": ("*.fp32.pooled", "train_normal.out.pooled", "*.fp32.log_var", "*.fp32.text_stochastic"),
    "ts2net": ("*.fp32.selected", "*.fp32.grad.in.visual_tokens", "*.attention_mask", "train.out.selected"),
}
LIMIT = {"clip4clip_seq": 2_800_000, "xpool": 1_400_000, "tmass": 1_500_000, "ts2net": 2_800_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path, help="folder with <method>/golden/public.safetensors")
    parser.add_argument("out", type=Path, help="folder of the compact files")
    options = parser.parse_args()
    for method in LEAVE:
        cut(method, options.full / method / "golden" / "public.safetensors", options.out / method / "head.safetensors")


def cut(method: str, full: Path, out: Path) -> None:
    with safe_open(full, "pt") as file:
        metadata = {**file.metadata(), "cut": "scripts/compact_golden_baselines.py"}
        names = [k for k in sorted(file.keys()) if not any(fnmatch(k, p) for p in LEAVE[method])]
        tensors = {k: kept(k, file.get_tensor(k)) for k in names}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, metadata)
    if out.stat().st_size > LIMIT[method]:
        raise SystemExit(f"{out}: {out.stat().st_size} bytes, more than {LIMIT[method]}; leave more tensors out")


def kept(name: str, tensor: Tensor) -> Tensor:
    """Return what stays of a tensor: the first rows of a matrix's gradient, bytes of a mask, everything of the rest."""
    if ".grad." in name and ".grad.in." not in name and tensor.dim() == 2:
        return tensor[:ROWS].clone()
    return tensor.to(torch.uint8) if name.endswith("dropout_keep") else tensor


if __name__ == "__main__":
    main()
