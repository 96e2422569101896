"""Make tests/old/0.1.0: a workspace that tvr 0.1.0 wrote, and the answers that it gave. Run once, and committed.

git worktree add --detach OLD 1c889f7        # the last commit of 0.1.0
python scripts/make_old_workspace.py OLD tests/old/0.1.0

It has the toy world's videos cut into windows, features of `demo-tiny` and one short run of a small head; no videos and
no index, which is built again. `answers.json` holds what `query --exhaustive` and `evaluate` said.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

QUERIES = ("a red star spins", "a green cross slides to the left", "a white diamond gets smaller")
RUN = ("--method", "glccl", "--set", "method.glccl.temporal=none", "--run", "small", "--epochs", "2")
KEPT = ("config.json", "origins.json", "env.json", "metrics.jsonl", "checkpoints/best.safetensors")


def main() -> None:
    """Make the workspace in a temporary folder and copy what is needed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a checkout of 0.1.0")
    parser.add_argument("target", type=Path, help="where to put the workspace; must not exist")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tvr-") as folder:
        work = Path(folder)
        old = args.old.resolve()
        os.environ["PYTHONPATH"] = os.pathsep.join([str(old), str(old / "kernels")])
        _python(work, "from tvr_cli.data.demo_world.corpus import *\nfrom pathlib import Path\n"
                "make(Path('videos'), WorldPlan(train=8, val=2, test=6, captions=2))")  # fmt: skip
        _tvr(work, "extract-frames", "videos", "--size", "64", "--num-frames", "3", "--segment", "2/0.5")
        _tvr(work, "precompute-features", "--backbone", "demo-tiny", "--max-words", "16")
        _tvr(work, "train", *RUN)
        answers = {
            "tvr": "0.1.0",
            "query": {
                name: _queries(work, *flags)
                for name, flags in (("mean", ("--method", "mean")), ("small", ("--run", "small")))
            },
            "evaluate": {
                "mean": _json(work, "evaluate", "--method", "mean"),
                "small": _json(work, "evaluate", "small"),
            },
            "info": _json(work, "info", "out/frames"),
            "content": _python(work, "from tvr_cli.stores.frames import FrameStore\nfrom pathlib import Path\n"
                               "print(FrameStore.open(Path('out/frames')).content_hash())").strip(),
        }  # fmt: skip
        out = work / "out"
        for part in ("frames", "features"):
            shutil.copytree(out / part, args.target / part, ignore=shutil.ignore_patterns(".lock", "locks"))
        for name in KEPT:
            (args.target / "runs" / "small" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(out / "runs" / "small" / name, args.target / "runs" / "small" / name)
        (args.target / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")
    print(sum(f.stat().st_size for f in args.target.rglob("*") if f.is_file()), "bytes")


def _queries(work: Path, *flags: str) -> list[Any]:
    _tvr(work, "index", *flags, "--overwrite")
    return [_json(work, "query", text, "--exhaustive") for text in QUERIES]


def _python(work: Path, code: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=work, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def _tvr(work: Path, *words: str) -> str:
    return _python(work, "from tvr_cli.cli import main; main()", *words)


def _json(work: Path, *words: str) -> Any:
    return json.loads(_tvr(work, *words, "--json"))


if __name__ == "__main__":
    main()
