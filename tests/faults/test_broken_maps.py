"""A mapped file that ends under its reader: a sentence and exit code 4, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Cut behind the check that would have seen it: the moment in which a disk goes away, too.
READ = """
import mmap, sys, torch
from tvr_cli.cli import broken_maps
broken_maps.say_so()
with open(sys.argv[1], "r+b") as f:
    mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
    rows = torch.frombuffer(mapped, dtype=torch.float16).view(-1, 512)
    f.truncate(0)
if sys.argv[2] == "product":
    rows[:4096] @ torch.ones(512, dtype=torch.float16)
elif sys.argv[2] == "gather":
    rows[torch.arange(0, len(rows), 7)]
else:
    import hashlib
    hashlib.sha256(memoryview(mapped)[: 1 << 20]).digest()
print("read")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="no SIGBUS on this system")
@pytest.mark.parametrize("read", ["product", "gather", "hash"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_map_that_is_cut_while_it_is_read_ends_in_a_sentence(tmp_path: Path, read: str, threads: int) -> None:
    path = tmp_path / "part.bin"
    path.write_bytes(bytes(1 << 24))
    ended = subprocess.run(
        [sys.executable, "-c", READ, str(path), read],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (4, "")
    assert ended.stderr.startswith("error: a file of the workspace") and ended.stderr.count("\n") == 1
