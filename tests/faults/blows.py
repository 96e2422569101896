"""Strike a command of tvr at a moment of its own: an error of the system, a signal or a kill at its n-th step on disk.

A step is a rename, an fsync, an opening or a write below the workspace, made by tvr's own code; where the code
stands is its site. So a moment is a number, not a time, and a seed means the same on every machine. A command runs in
a process that is forked after torch is imported. After a blow the same command runs again undisturbed, and what it
leaves is compared, to the bit, with what an undisturbed one leaves: every frame and failure, features, the weights,
moments and journal of a training, the hits of a query with their scores.

To the bit, because nothing is left to chance: one thread, a clip and a caption a batch, and one matrix product. A
training that begins measures which of two products is faster (`tvr_kernels.gemm`) and records it; they differ by
rounding, so an undisturbed run and one that began again after a blow would differ wherever they measured differently.

    PYTHONPATH=.:tests python tests/faults/blows.py         lists the sites of every command
"""

from __future__ import annotations

import builtins
import errno
import hashlib
import importlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import videos
from safetensors.numpy import load_file
from tvr_kernels import gemm

import tvr_cli
from tvr_cli.cli import app
from tvr_cli.engine.extraction import extract
from tvr_cli.engine.features import precompute
from tvr_cli.errors import DecodeError
from tvr_cli.stores import verify
from tvr_cli.stores.decoding.pool import Unread
from tvr_cli.stores.decoding.sample import Sampled, Task
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.frames import head as frames_head
from tvr_cli.stores.frames.store import FrameStore

PACKAGE = str(Path(tvr_cli.__file__).parent)
COMMANDS = ("extract", "precompute", "train", "index")
GEMM = "mkl"
# What each kind of step may meet; a site gets one of them, in turn.
REFUSALS = {
    "rename": ("EXDEV", "EIO", "ENOSPC", "EACCES", "ESTALE"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT", "ESTALE"),
    "open": ("EMFILE", "EACCES", "EIO", "ESTALE", "ENFILE"),
    "write": ("ENOSPC", "EFBIG", "EDQUOT", "EIO"),
}
# What commands import when they run, so that no child does it again.
_PRELOADED = (
    *("open_clip", "torch._dynamo", "tvr_cli.backbones.openclip.backbone", "tvr_cli.engine.training.train"),
    *("tvr_cli.engine.searching.index", "tvr_cli.engine.searching.light", "tvr_cli.methods.glccl"),
)
Strike = Callable[["Step"], None]


@dataclass(frozen=True)
class Step:
    """One step on disk. site: `file:line` of tvr's code, innermost first. done: whether a shard was renamed before."""

    number: int
    kind: str
    path: str
    site: str
    done: bool


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: of its exit, negative for a signal. said: everything that it wrote."""

    code: int
    said: str


class World:
    """Six videos, one file that is none, captions, and the workspace after each command; made once."""

    def __init__(self, folder: Path):
        torch.set_num_threads(1)
        gemm.use(GEMM)
        for name in _PRELOADED:
            importlib.import_module(name)
        self.folder, self.videos = folder, folder / "videos"
        self.videos.mkdir(parents=True)
        splits = ("train", "train", "train", "train", "val", "test")
        lines = []
        for i, split in enumerate(splits):
            videos.make_video(self.videos / f"{i}.mp4", 6, fps=2, size=(64, 64), pictures=_pictures(i))
            lines.append({"video": f"{i}.mp4", "caption": f"the square number {i}", "split": split})
        (self.videos / "bad.mp4").write_bytes(b"no video")
        (self.videos / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.right: dict[str, Any] = {}
        self.steps: dict[str, list[Step]] = {}
        self.before: dict[str, Path] = {}
        out = folder / "whole" / "out"
        for name in COMMANDS:
            self.before[name] = folder / "before" / name
            if out.exists():
                shutil.copytree(out, self.before[name] / "out")
            ended, self.steps[name] = recorded(self.command(name, out), out)
            assert ended.code in (0, 5), ended.said
            self.right[name] = answer(name, out)

    def command(self, name: str, out: Path) -> list[str]:
        """Return the words of a command. A run that was begun is gone on with."""
        begun = (out / "runs" / "one" / "config.json").is_file()
        words: dict[str, tuple[object, ...]] = {
            "extract": ("extract-frames", self.videos, "--size", 64, "--num-frames", 2, "--workers", 1),
            "precompute": ("precompute-features", "--backbone", "demo-tiny", "--offline"),
            "train": (
                *("train", "--method", "glccl", "--run", "one", "--device", "cpu"),
                *(("--resume",) if begun else ("--epochs", 2, "--batch-size", 2, "--threads", 1)),
            ),
            "index": ("index", "--method", "text_guided", "--device", "cpu"),
        }
        return [str(word) for word in (*words[name], "-o", out)]

    def start(self, name: str, where: Path) -> Path:
        """Return a workspace as it is before a command, in a folder of its own."""
        out = where / "out"
        if self.before[name].exists():
            shutil.copytree(self.before[name] / "out", out)
        return out

    def finish(self, name: str, out: Path) -> Any:
        """Run a command again, undisturbed; return what it leaves, and what is damaged."""
        ended = forked(self.command(name, out))
        assert ended.code in (0, 5), f"{name} after a blow: exit {ended.code}: {ended.said}"
        return answer(name, out)


def answer(name: str, out: Path) -> Any:
    """Return what a command leaves in a workspace: nothing of times, names of folders or how shards were cut."""
    made: dict[str, Callable[[Path], Any]] = {
        "extract": _frames, "precompute": _features, "train": _weights, "index": _hits,
    }  # fmt: skip
    return made[name](out), damage(out)


def _frames(out: Path) -> Any:
    store = FrameStore.open(out / "frames")
    clips = store.read([record.id for record in store.records])
    listed = (out / "frames" / "failures.jsonl").read_text().splitlines()
    frames = {clip.record.id: [hashlib.sha256(jpeg).hexdigest() for jpeg in clip.jpegs] for clip in clips}
    return frames, sorted({json.loads(line)["video"] for line in listed})


def _features(out: Path) -> Any:
    (folder,) = (out / "features").iterdir()
    store = FeatureStore.open(folder)
    text, frames = store.text().pooled, store.video().frames
    assert frames is not None and text is not None
    return {"frames": _sha256(frames.numpy()), "text": _sha256(text.numpy())}


def _weights(out: Path) -> Any:
    run = out / "runs" / "one"
    tensors = {
        path.name: {name: _sha256(array) for name, array in sorted(load_file(path).items())}
        for path in sorted((run / "checkpoints").iterdir())
    }
    journal = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return tensors, [{key: value for key, value in line.items() if key != "samples_per_s"} for line in journal]


def _hits(out: Path) -> Any:
    asked = forked(["query", "the square number 3", "-o", str(out), "--json", "--method", "text_guided"])
    hits = json.loads(asked.said[asked.said.index("{") :])["results"][0]["hits"]
    return [(Path(hit["path"]).name, hit["score"]) for hit in hits]


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def damage(out: Path) -> list[str]:
    """Return what reading everything finds wrong in a workspace."""
    stores = [out / "frames", *sorted((out / "features").glob("*")), out / "index"]
    found = [finding for folder in stores if verify.kind(folder) for finding in verify.check(folder, None)]
    return [f"{finding.what}: {finding.problem}" for finding in found if finding.problem]


def flip_is_seen(out: Path) -> bool:
    """Turn over a bit in a shard of frames and return whether reading everything finds it."""
    shard = max((out / "frames").glob("*.safetensors"), key=lambda path: path.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    return bool(damage(out))


def believed(out: Path) -> Callable[..., str]:
    """Return a checksum of a build that has none: it says of each file what the head says."""
    said = {line.name: line.sha256 for line in frames_head.read(out / "frames")[1]}
    return lambda path, **_: said[path.name]


def refuse(number: int, name: str) -> Strike:
    """Return a blow: the system answers step `number` with an error."""

    def strike(step: Step) -> None:
        if step.number == number:
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)), step.path)

    return strike


def send(number: int, signal_number: int) -> Strike:
    """Return a blow: the process gets a signal at step `number`."""

    def strike(step: Step) -> None:
        if step.number == number:
            os.kill(os.getpid(), signal_number)

    return strike


def forked(words: Sequence[str], strike: Strike | None = None, root: Path | None = None) -> Ended:
    """Run a command in a forked process, with a shard a clip. strike: told of each step below `root`."""
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if not pid:
            os._exit(_child(words, said.fileno(), strike, root))
        _, status = os.waitpid(pid, 0)
        said.seek(0)
        return Ended(os.waitstatus_to_exitcode(status), said.read().decode("utf-8", "replace"))


def recorded(words: Sequence[str], root: Path) -> tuple[Ended, list[Step]]:
    """Run a command undisturbed and return its steps."""
    with tempfile.NamedTemporaryFile("r") as notes:
        kept = open(notes.name, "a")  # noqa: SIM115 - the child's, opened before it counts what it opens

        def note(step: Step) -> None:
            kept.write(json.dumps(vars(step)) + "\n")
            kept.flush()

        with kept:
            ended = forked(words, note, root)
        return ended, [Step(**json.loads(line)) for line in notes]


def sites(steps: Sequence[Step]) -> list[Step]:
    """Return the first step of every distinct site."""
    first: dict[tuple[str, str], Step] = {}
    for step in steps:
        first.setdefault((step.kind, step.site), step)
    return list(first.values())


# ---------------------------------------------------------------------------------------------------------- in a child


def _child(words: Sequence[str], said: int, strike: Strike | None, root: Path | None) -> int:
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    extract.DecodePool = _Here  # type: ignore[misc, assignment]
    extract._SHARD_CLIPS = precompute._SHARD_CLIPS = precompute._SHARD_CAPTIONS = 1
    if strike is not None:
        _watch(strike, str(root))
    code = 0
    try:
        app(list(words))
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException as e:
        print(f"got out: {type(e).__name__}: {e}", file=sys.__stderr__)
        code = 99
    sys.stdout.flush()
    return code


def _watch(strike: Strike, root: str) -> None:
    """Put a look at `strike` before each step on disk of this process."""
    count = iter(range(10**9))
    done, busy = [False], [False]

    def step(kind: str, path: object) -> None:
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if busy[0] or not text.startswith(root) or not (site := _site()):
            return
        busy[0] = True
        try:
            strike(Step(next(count), kind, text, site, done[0]))
        finally:
            busy[0] = False
        if kind == "rename" and text.endswith((".safetensors", "current")):
            done[0] = True

    replace, fsync, opened = os.replace, os.fsync, builtins.open

    def replace_(source: Any, target: Any, **more: Any) -> None:
        step("rename", target)
        replace(source, target, **more)

    def fsync_(number: int) -> None:
        step("fsync", os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    def open_(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        step("open", file)
        found = opened(file, mode, *args, **more)
        return _Written(found, lambda: step("write", file)) if set(mode) & set("wax+") else found

    os.replace, os.fsync = replace_, fsync_
    builtins.open = io.open = open_  # type: ignore[assignment]


class _Here:
    """A pool that reads in this process: what readers do to a store is nothing, and starting one costs a second."""

    def __init__(self, read: Callable[[Task], Sampled], **_: Any):
        self._read = read

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def hand_over(self, within_s: float) -> Iterator[tuple[str, Sampled | Unread]]:
        return iter(())

    def run(self, tasks: Iterable[tuple[str, Task]], **_: Any) -> Iterator[tuple[str, Sampled | Unread]]:
        for name, task in tasks:
            try:
                yield name, self._read(task)
            except DecodeError as e:
                yield name, Unread(str(e), "permanent")


class _Written:
    """A file whose writes are steps."""

    def __init__(self, file: Any, step: Callable[[], None]):
        self._file, self._step = file, step

    def write(self, data: Any) -> int:
        self._step()
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


def _site() -> str:
    """Return where tvr's code stands: the innermost line, and the innermost one of another file."""
    found: list[str] = []
    frame: Any = sys._getframe(2)
    while frame is not None and len(found) < 2:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE) and not any(place.startswith(f"{_short(name)}:") for place in found):
            found.append(f"{_short(name)}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(found)


def _short(name: str) -> str:
    return name[len(PACKAGE) + 1 :]


def _pictures(number: int) -> list[np.ndarray]:
    colour = np.array([40 + 30 * number, 250 - 31 * number, (number * 37) % 255], dtype=np.uint8)
    pictures = []
    for t in range(6):
        picture = np.full((64, 64, 3), colour, dtype=np.uint8)
        picture[4 + 6 * t : 20 + 6 * t, 8 * number : 8 * number + 16] = 255 - colour
        pictures.append(picture)
    return pictures


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for name, steps in world.steps.items():
            print(f"{name}: {len(steps)} steps at {len(sites(steps))} sites")
            for step in sites(steps):
                print(f"  {step.kind:6}  {step.site}  ({Path(step.path).name})")


if __name__ == "__main__":
    main()
