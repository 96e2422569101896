"""Cut the committed golden file of EagleNet out of a full one: `python scripts/compact_golden_eaglenet.py FULL OUT`.

Kept are the inputs of the head, its live parameters, noise, scores, losses, buffers, most gradients of cases A and C,
dropout masks as bytes. CLIP, the long case B, the steps in between and the largest gradients are left to the full file.
"""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatch

from safetensors import safe_open
from safetensors.torch import save_file

from tvr_cli.methods.eaglenet import Method

KEPT = (
    "[AC]/param/*",
    "[AC]/buf0/*",
    "[AC]/eval/noise/*",
    "[AC]/eval/*_feat",
    "[AC]/eval/sim",
    "[AC]/train0/noise/*",
    "[AC]/train0/*_feat",
    "[AC]/train0/sim*",
    "[AC]/train0/loss/*",
    "[AC]/train0/buf_after/*",
    "A/train0/grad/*",
    "C/train0/grad/gnn.layers.0.*",
    "C/train0/grad/stochastic*",
)
LARGE = ("[qv]_proj.weight", "linear_proj.weight")
LEFT_OUT = (
    "*/grad/clip.*",
    *(f"A/train0/grad/pool_frames.*{name}" for name in LARGE),
    *(f"*/param/{pattern}" for pattern in Method.ignored_keys),
)


def main(full: str, out: str) -> None:
    with safe_open(full, "pt") as file:
        metadata = json.loads(file.metadata()["config"])
        names = [k for k in file.keys() if _kept(k)]  # noqa: SIM118 - not a mapping
        tensors = {k: file.get_tensor(k) for k in names}
        tensors["clip_param/logit_scale"] = file.get_tensor("clip_param/logit_scale")
    tensors = {k: v.byte() if "_keep" in k else v for k, v in tensors.items()}
    config = {case: metadata[case] for case in "AC"}
    save_file(tensors, out, metadata={"config": json.dumps(config)})


def _kept(name: str) -> bool:
    return any(fnmatch(name, p) for p in KEPT) and not any(fnmatch(name, p) for p in LEFT_OUT)


if __name__ == "__main__":
    main(*sys.argv[1:])
