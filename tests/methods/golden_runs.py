"""Run golden tests on a copy of the sources, each time in a fork of a process that holds what no edit changes.

    python golden_runs.py ROOT      reads the name of a method a line, answers {"returncode": …, "output": …} a line

A process of its own would import torch for each of two hundred edits, which takes longer than most of the tests.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile

import numpy
import pytest
import safetensors.torch
import torch
import yaml

HELD = (numpy, safetensors.torch, torch, yaml)
LONGEST_S = 600


def run(method: str) -> dict[str, int | str]:
    """Run the golden tests of a method and of the shared parts, committed golden files only."""
    files = [f"tests/methods/test_golden_{method}.py", "tests/methods/test_temporal.py"]
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            signal.alarm(LONGEST_S)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os._exit(pytest.main(["-q", "-x", "-k", "golden", "-p", "no:cacheprovider", *files]))
        returncode = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return {"returncode": returncode, "output": output.read()[-3000:]}


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    sys.path.pop(0)  # the folder of this file; the tests of the copy are meant
    torch.set_num_threads(1)  # threads do not outlive a fork
    assert "tvr_cli" not in sys.modules and "tvr_kernels" not in sys.modules
    for line in sys.stdin:
        print(json.dumps(run(line.strip())), flush=True)
