"""Make tests/old: workspaces that tvr 0.1.0 wrote, and the answers that it gave. Run once, and committed.

git worktree add --detach OLD 1c889f7        # the last commit of 0.1.0
python scripts/make_old_workspace.py windows OLD tests/old/0.1.0
python scripts/make_old_workspace.py data OLD tests/old/0.1.0-data

`windows` has the toy world's videos cut into windows, features of `demo-tiny` and one short run of a small head; `data`
a miniature of MSVD, features of a tiny CLIP with random weights (`clip/`), and three runs: `half`, which was stopped
after its first epoch, `whole`, the same not stopped, and `tuned`, of `--tune full`, with its backbone. There are no
videos and no index, which is built again. `answers.json` holds what `query --exhaustive` and `evaluate` said.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

QUERIES = {
    "windows": ("a red star spins", "a green cross slides to the left", "a white diamond gets smaller"),
    "data": ("a red star moves left", "a white cross spins"),
}
SMALL = ("--method", "glccl", "--set", "method.glccl.temporal=none", "--threads", "1")
KEPT = ("config.json", "origins.json", "env.json", "metrics.jsonl", "checkpoints", "backbone")
# Trains like the command; its first checkpoint presses Ctrl-C.
STOPPED = """
import os, signal, sys
from tvr_cli.engine.training import checkpoint
save = checkpoint.save
def stop(*args, **kwargs):
    done = save(*args, **kwargs)
    checkpoint.save = save
    os.kill(os.getpid(), signal.SIGINT)
    return done
checkpoint.save = stop
from tvr_cli.cli import main
main()
"""


def main() -> None:
    """Make a workspace in a temporary folder and copy what is needed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(QUERIES))
    parser.add_argument("old", type=Path, help="a checkout of 0.1.0")
    parser.add_argument("target", type=Path, help="where to put the workspace; must not exist")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tvr-") as folder:
        work, old = Path(folder), args.old.resolve()
        os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (old, old / "kernels", old / "tests")))
        runs = {"windows": _make_windows, "data": _make_data}[args.what](work)
        answers = {"tvr": "0.1.0", **_answers(work, args.what, runs)}
        out = work / "out"
        for part in ("frames", "features"):
            shutil.copytree(out / part, args.target / part, ignore=shutil.ignore_patterns(".lock", "locks"))
        if (work / "clip").exists():
            shutil.copytree(work / "clip", args.target / "clip")
        for name in (p.name for p in (out / "runs").iterdir()):
            for kept in KEPT:
                _copy(out / "runs" / name / kept, args.target / "runs" / name / kept)
        (args.target / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")
    print(sum(f.stat().st_size for f in args.target.rglob("*") if f.is_file()), "bytes")


def _make_windows(work: Path) -> Sequence[str]:
    _python(work, "from tvr_cli.data.demo_world.corpus import *\nfrom pathlib import Path\n"
            "make(Path('videos'), WorldPlan(train=8, val=2, test=6, captions=2))")  # fmt: skip
    _tvr(work, "extract-frames", "videos", "--size", "64", "--num-frames", "3", "--segment", "2/0.5")
    _tvr(work, "precompute-features", "--backbone", "demo-tiny", "--max-words", "16")
    _tvr(work, "train", *SMALL, "--run", "small", "--epochs", "2")
    return ("small",)


def _make_data(work: Path) -> Sequence[str]:
    _python(work, "import miniature, tiny_clip\nfrom pathlib import Path\n"
            "miniature.write_dataset('msvd', Path('msvd'))\n"
            "tiny_clip.folder(Path('clip'), tiny_clip.config(layers=1, context=12))")  # fmt: skip
    _tvr(work, "extract-frames", "--data", "msvd:msvd", "--size", "32", "--num-frames", "3")
    _tvr(work, "precompute-features", "--backbone", "local:clip", "--data", "msvd:msvd", "--max-words", "12")
    short = (*SMALL, "--epochs", "3", "--batch-size", "8")
    done = subprocess.run([sys.executable, "-c", STOPPED, "train", *short, "--run", "half"], cwd=work, check=False)
    assert done.returncode == 130, done.returncode
    _tvr(work, "train", *short, "--run", "whole")
    _tvr(work, "train", *short, "--run", "tuned", "--tune", "full", "--set", "train.backbone_lr=1e-3")
    return ("whole", "tuned")


def _answers(work: Path, what: str, runs: Sequence[str]) -> dict[str, Any]:
    asked = {name: ("--run", name) for name in runs}
    evaluated: dict[str, tuple[str, ...]] = {name: (name, "--allow-missing") for name in runs}
    if what == "windows":  # of several stores `mean` takes the newest, which copies of files do not tell
        asked["mean"] = evaluated["mean"] = ("--method", "mean")
    return {
        "query": {name: _queries(work, QUERIES[what], *flags) for name, flags in asked.items()},
        "evaluate": {name: _json(work, "evaluate", *flags) for name, flags in evaluated.items()},
        "info": _json(work, "info", "out/frames"),
        "content": _python(work, "from tvr_cli.stores.frames import FrameStore\nfrom pathlib import Path\n"
                           "print(FrameStore.open(Path('out/frames')).content_hash())").strip(),
    }  # fmt: skip


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder that is there; of a run that ended without the states that a resume would need."""
    if source.is_dir():
        ended = source.parent.name != "half"
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("step-*") if ended else None)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _queries(work: Path, sentences: Sequence[str], *flags: str) -> list[Any]:
    _tvr(work, "index", *flags, "--overwrite")
    return [_json(work, "query", text, "--exhaustive") for text in sentences]


def _python(work: Path, code: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=work, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def _tvr(work: Path, *words: str) -> str:
    return _python(work, "from tvr_cli.cli import main; main()", *words)


def _json(work: Path, *words: str) -> Any:
    return json.loads(_tvr(work, *words, "--json"))


if __name__ == "__main__":
    main()
