"""Cut the committed golden files of GARE and DMAE out of the full ones.

    python scripts/compact_golden_heads.py ../shared/methods tests/golden

GARE keeps its head: features behind the temporal transformer in, scores, increments, losses and psi's gradients out.
DMAE keeps everything but its temporal head. Values are copied, never computed.
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

KEEP = {
    "gare": (
        "param.psi.*",
        "param.clip.logit_scale",
        "in.video_mask",
        "feat.cls",
        "feat.video_feat",
        "eval_rect.*",
        "eval_sq.sim",
        "head.*",
        "train*.*",
    ),
    "dmae": ("*",),
}
LEAVE = {
    "gare": (
        "param.psi.log_std_proj.*",
        "param.psi.layers.0.linear2.*",
        "param.psi.layers.0.mlp.*",
        "eval_rect.log_sigma_unused",
        "*.grad.clip.[!l]*",
        "*.grad.transformerClip.*",
        "*.grad.frame_position_embeddings.*",
        "train.grad.psi.*weight",
        "train_nodrop.grad.psi.*weight",
        "train_strong.grad.psi.mean_proj.weight",
    ),
    "dmae": (
        "*transformerClip.*",
        "*frame_position_embeddings.*",
        "param.*_linear_xwp.[qk]_proj.weight",
        "seqtransf.*",
    ),
}
LIMIT = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path, help="folder with <method>/golden/public.safetensors")
    parser.add_argument("out", type=Path, help="folder of the compact files")
    options = parser.parse_args()
    for method in KEEP:
        cut(method, options.full / method / "golden" / "public.safetensors", options.out / method / "head.safetensors")


def cut(method: str, full: Path, out: Path) -> None:
    with safe_open(full, "pt") as file:
        metadata = {**file.metadata(), "cut": "scripts/compact_golden_heads.py"}
        names = [k for k in sorted(file.keys()) if _any(k, KEEP[method]) and not _any(k, LEAVE[method])]
        tensors = {k: file.get_tensor(k) for k in names}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, metadata)
    if out.stat().st_size > LIMIT:
        raise SystemExit(f"{out}: {out.stat().st_size} bytes, more than {LIMIT}; leave more tensors out")


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, p) for p in patterns)


if __name__ == "__main__":
    main()
