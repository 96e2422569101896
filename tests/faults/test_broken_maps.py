"""A mapped file that ends under its reader: a sentence and exit code 4, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Cut behind the check that would have seen it: the moment in which a disk goes away, too. A fork for each way to read.
READ = """
import mmap, os, sys, torch
from tvr_cli.cli import broken_maps
path, *reads = sys.argv[1:]
for read in reads:
    if child := os.fork():
        print(read, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    broken_maps.say_so()
    with open(path, "r+b") as f:
        f.truncate(1 << 24)
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
        rows = torch.frombuffer(mapped, dtype=torch.float16).view(-1, 512)
        f.truncate(0)
    if read == "product":
        rows[:4096] @ torch.ones(512, dtype=torch.float16)
    elif read == "gather":
        rows[torch.arange(0, len(rows), 7)]
    else:
        import hashlib
        hashlib.sha256(memoryview(mapped)[: 1 << 20]).digest()
    sys.exit("read")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="no SIGBUS on this system")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_map_that_is_cut_while_it_is_read_ends_in_a_sentence(tmp_path: Path, threads: int) -> None:
    path = tmp_path / "part.bin"
    path.touch()
    ended = subprocess.run(
        [sys.executable, "-c", READ, str(path), "product", "gather", "hash"],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "product 4\ngather 4\nhash 4\n")
    said = ended.stderr.splitlines()
    assert len(said) == 3 and all(line.startswith("error: a file of the workspace") for line in said)
