"""Cut the committed golden files of WTI and X-CLIP out of the full ones.

    python scripts/compact_golden_tokens.py ../shared/methods tests/golden

Both keep their heads. The frames behind the temporal transformer, or their directions, stand for it: they are stored in
float64, so nothing is lost. Values are copied, never computed.
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

LEAVE = {
    "wti": (
        "param.transformerClip.*",
        "param.frame_position_embeddings.*",
        "param.arch3.*",
        "wti3.*",
        "wti.train.grad.*",
        "ti.train.grad.*",
        "dp.train.grad.*",
        "*.grad.transformerClip.*",
        "*.grad.frame_position_embeddings.*",
        "*.grad.*.0.weight",
        "*.fp32.grad.*",
        "fp32.*",
    ),
    "xclip": (
        "param.transformerClip.*",
        "param.frame_position_embeddings.*",
        "*.grad.transformerClip.*",
        "*.grad.frame_position_embeddings.*",
        "*.grad.in.visual_output",
        "*.fp32.grad.*",
    ),
}
LIMIT = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path, help="folder with <method>/golden/public.safetensors")
    parser.add_argument("out", type=Path, help="folder of the compact files")
    options = parser.parse_args()
    for method in LEAVE:
        cut(method, options.full / method / "golden" / "public.safetensors", options.out / method / "head.safetensors")


def cut(method: str, full: Path, out: Path) -> None:
    with safe_open(full, "pt") as file:
        metadata = {**file.metadata(), "cut": "scripts/compact_golden_tokens.py"}
        names = [k for k in sorted(file.keys()) if not any(fnmatch(k, p) for p in LEAVE[method])]
        tensors = {k: file.get_tensor(k) for k in names}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, metadata)
    if out.stat().st_size > LIMIT:
        raise SystemExit(f"{out}: {out.stat().st_size} bytes, more than {LIMIT}; leave more tensors out")


if __name__ == "__main__":
    main()
