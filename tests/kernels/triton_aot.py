"""Compile every kernel for sm_80 and sm_90 without a GPU and print what it uses, one JSON object a line.

A script, because Triton decides at import whether it interprets: `test_aot.py` runs it in a fresh process.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton_cases import launches

TYPES = {
    **{torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8"},
    **{torch.int32: "*i32", torch.int64: "*i64"},
}


def main(ops: list[str], *, first_only: bool) -> None:
    for architecture in (80, 90):
        cases = launches(ops, architecture)
        for op, shape, dtype, launch in itertools.islice(cases, 1) if first_only else cases:
            case = {"op": op, "shape": shape, "dtype": dtype, "sm": architecture}
            print(json.dumps({**case, **usage(launch, architecture)}), flush=True)


def usage(launch, architecture: int) -> dict:
    """Return registers, spilled bytes (cuobjdump's STACK and LOCAL) and shared memory of one compiled kernel."""
    names = launch.kernel.arg_names
    options = {k: v for k, v in launch.constants.items() if k in ("num_warps", "num_stages")}
    constants = {k: v for k, v in launch.constants.items() if k not in options}
    given = dict(zip(names, launch.arguments, strict=False))
    signature = {name: "constexpr" if name in constants else kind(given[name]) for name in names}
    aligned = {(names.index(n),): [["tt.divisibility", 16]] for n, value in given.items() if divisible(value)}
    source = ASTSource(
        fn=launch.kernel,
        signature=signature,
        constexprs={(names.index(k),): v for k, v in constants.items()},
        attrs=aligned,
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        listing = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", listing)}
    return {
        "registers": found["REG"],
        "spilled_bytes": found["STACK"] + found["LOCAL"],
        "shared_bytes": compiled.metadata.shared,
        "tensor_cores": "mma" in compiled.asm["ptx"],
    }


def kind(value) -> str:
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    return "i32" if isinstance(value, int) else "fp32"


def divisible(value) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)


if __name__ == "__main__":
    main([a for a in sys.argv[1:] if not a.startswith("-")], first_only="--first" in sys.argv)
