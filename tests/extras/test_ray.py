"""Parts on a cluster of Ray of this machine: a worker is killed, a part is given up, nothing is left running.

In the second environment of `.ci/run`, alone: a cluster on a busy machine may not start within Ray's thirty seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_clip
import videos

from tvr_cli.workspace import Workspace

pytest.importorskip("ray", reason="the extra ray is not installed (second environment of .ci/run)")

DIES = """
import os, signal, sys
from pathlib import Path
from tvr_cli.engine.whole import parts
from tvr_cli.engine.whole.parts import ExtractJob
once, always = Path(sys.argv.pop(1)), sys.argv.pop(1)
run = ExtractJob.__call__
class Dying(ExtractJob):
    def __call__(self, part):
        if str(part) == always:
            from tvr_cli.engine.whole.parts import attempted
            return attempted(__import__("tvr_cli.workspace").workspace.Workspace(self.root).part(part, self.of), part,
                             lambda workspace: os.kill(os.getpid(), signal.SIGKILL))
        row = super().__call__(part)
        if part == 2 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return row
parts.ExtractJob = Dying
from tvr_cli.cli import main
main()
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    for i in range(6):
        videos.make_video(folder / f"{i}.mp4", 10 + i, gop=4)
    (folder / "captions.jsonl").write_text(json.dumps({"video": "0.mp4", "caption": "bars"}) + "\n")
    return folder


def tvr(*words: str | Path, code: str | None = None, before: tuple[str, ...] = (), exit_code: int = 0) -> Any:
    """Run a command in a process of its own, whose clusters end with it; returns its JSON, or what it said."""
    start = ["-m", "tvr_cli"] if code is None else ["-c", code, *before]
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *start, *map(str, words)], capture_output=True, text=True, env=env)
    if "Ray does not start here" in done.stderr:
        pytest.skip(f"a cluster could not be started here: {done.stderr.strip()[-300:]}")
    assert done.returncode == exit_code, done.stderr[-3000:]
    return json.loads(done.stdout) if exit_code == 0 else done.stderr


def running() -> list[str]:
    """Return the command lines of Ray's processes: workers rename themselves."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if line.startswith("ray::") or "/ray/core/" in line or "raylet" in line.split(" ")[0]:
            lines.append(line)
    return lines


def test_parts_on_a_cluster_are_the_store_of_one_process_though_a_worker_is_killed(
    corpus: Path, tmp_path: Path
) -> None:
    weights = f"local:{tiny_clip.folder(tmp_path / 'tiny')}"
    plan, whole, out, before = (
        ["--size", "32", "--num-frames", "4", "--workers", "1"],
        tmp_path / "whole",
        tmp_path / "out",
        running(),
    )
    tvr("extract-frames", corpus, "-o", whole, *plan, "--json")
    tvr("precompute-features", "-o", whole, "--backbone", weights, "--device", "cpu", "--json")
    tvr("extract-frames", corpus, "--plan-parts", "3", "-o", out, "--json")
    ray = ["extract-frames", out / "parts.jsonl", "--engine", "ray", "-o", out, *plan, "--json"]
    found = tvr(*ray, code=DIES, before=(str(tmp_path / "killed"), "0"))
    assert (tmp_path / "killed").exists()
    assert (found["videos"], found["ok"] + found["kept"], found["kept"] > 0) == (6, 6, True)
    assert set(running()) <= set(before)
    encode = ["precompute-features", "-o", out, "--backbone", weights, "--device", "cpu", "--engine", "ray", "--json"]
    made = tvr(*encode)
    assert (made["clips"]["encoded"], made["clips"]["total"], made["captions"]["encoded"]) == (0, 6, 1)
    assert set(running()) <= set(before)
    one, other = Workspace(whole), Workspace(out)
    assert one.frames().records == other.frames().records
    assert one.frames().content_hash() == other.frames().content_hash()
    a, b = one.newest_features(), other.newest_features()
    assert a is not None and b is not None and a.content_hash() == b.content_hash()
    assert a.video().frames.equal(b.video().frames) and a.text().pooled.equal(b.text().pooled)


def test_a_part_that_keeps_killing_its_worker_is_given_up_after_three_attempts(corpus: Path, tmp_path: Path) -> None:
    plan, out = ["--size", "32", "--num-frames", "4", "--workers", "1"], tmp_path / "out"
    tvr("extract-frames", corpus, "--plan-parts", "3", "-o", out, "--json")
    ray = ["extract-frames", out / "parts.jsonl", "--engine", "ray", "-o", out, *plan]
    told = tvr(*ray, code=DIES, before=(str(tmp_path / "never"), "3"), exit_code=5)
    assert "2 of 3 parts are merged, 1 did not end: part 3 of 3: its process died 3 times; it is given up" in told
    assert Workspace(out).frames().video_count() == 4


SEES = """
import json, os, sys
from tvr_cli.engine.whole.parts import PartRow
from tvr_cli.engine.whole.ray_runner import RayPool
from tvr_cli.errors import EnvironmentProblem
gpus = int(sys.argv[1])
def job(part):  # the GPUs that a part may use, and the process that runs it
    return PartRow(part, error=os.environ.get("CUDA_VISIBLE_DEVICES", ""), done=os.getpid())
found = {}
for name, asked in (("auto", None), ("cuda", 1.0)):
    try:
        rows = RayPool(processors=2, gpus=gpus)(job, [1, 2, 3], 1.0, asked)
        found[name] = [[row.part, row.error, row.done] for row in rows]
    except EnvironmentProblem as e:
        found[name] = str(e)
print(json.dumps(found))
"""


def test_a_part_that_is_encoded_gets_a_gpu_of_its_own_where_the_cluster_has_any() -> None:
    found = tvr(code=SEES, before=("1",))  # Ray counts what it is told; no device is needed for that
    for name in ("auto", "cuda"):
        assert [(part, sees) for part, sees, _ in found[name]] == [(1, "0"), (2, "0"), (3, "0")]
        assert len({process for _, _, process in found[name]}) == 1  # it stays, and no second one has the GPU
    without = tvr(code=SEES, before=("0",))
    assert [part for part, _, _ in without["auto"]] == [1, 2, 3] and all(not sees for _, sees, _ in without["auto"])
    assert "a part takes 1 CPUs and 1 GPUs, and no node of the cluster has both (at most 2 CPUs and" in without["cuda"]


def test_a_cluster_that_is_not_there_is_a_sentence(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tvr("extract-frames", corpus, "--plan-parts", "3", "-o", out, "--json")
    ray = ["extract-frames", out / "parts.jsonl", "--engine", "ray", "--address", "127.0.0.1:9", "-o", out]
    assert "no cluster of Ray answers at '127.0.0.1:9'" in tvr(*ray, exit_code=4)
