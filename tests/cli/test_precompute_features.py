"""`tvr precompute-features` as people use it: what it prints, what it keeps, what each refusal exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_clip
import tiny_frames
from typer.testing import CliRunner

from tvr_cli import files
from tvr_cli.cli import app
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.workspace import Workspace


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local:{tiny_clip.folder(tmp_path_factory.mktemp('weights') / 'tiny')}"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    tiny_frames.simple(tmp_path / "out", {"a.mp4": 4, "b.mp4": 2})
    return tmp_path / "out"


def run(out: Path, *arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["precompute-features", "-o", str(out), "--device", "cpu", *arguments])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
    return result


def report(out: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(out, "--json", *arguments).stdout)
    return found


def captions(out: Path, *lines: str) -> str:
    file = out.parent / "captions.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def test_the_report_counts_adds_up_and_is_one_object(out: Path, weights: str) -> None:
    file = captions(
        out,
        '{"video": "a", "caption": "a dog surfing on a big wave at sea in the sun", "split": "test"}',
        '{"video": "b", "caption": "two cats"}',
        '{"video": "a.mp4", "caption": "two cats", "split": "test"}',
    )
    first = report(out, "--backbone", weights, "--captions", file, "--max-words", "8")
    store = Workspace(out).newest_features()
    assert store is not None
    assert first.pop("seconds") > 0
    assert first == {
        "schema": "tvr/precompute-features@1",
        "dry_run": False,
        "store": str(store.root),
        "fingerprint": store.fingerprint,
        "backbone": weights,
        "clips": {"total": 2, "encoded": 2, "kept": 0},
        "captions": {"total": 3, "texts": 2, "encoded": 2, "truncated": 1, "set_aside": 0},
        "bytes": sum(p.stat().st_size for p in store.root.glob("*.safetensors")),
    }
    second = report(out, "--max-words", "8")  # backbone and captions as the last time
    assert second["backbone"] == weights
    assert second["clips"] == {"total": 2, "encoded": 0, "kept": 2}
    assert second["captions"] == {"total": 3, "texts": 2, "encoded": 0, "truncated": 0, "set_aside": 0}


def test_columns_are_named_once_and_remembered(out: Path, weights: str) -> None:
    file = out.parent / "mine.csv"
    file.write_text("film,says\na,a dog\na,two cats\n", encoding="utf-8")
    refused = run(out, "--backbone", weights, "--captions", str(file), "--max-words", "8", code=3)
    assert "expected the key 'video' with text, found 'film', 'says'" in refused.stderr
    named = ("--captions", str(file), "--columns", "video=film,caption=says")
    first = report(out, "--backbone", weights, *named, "--max-words", "8")
    assert first["captions"]["total"] == 2
    assert report(out, "--max-words", "8")["captions"]["total"] == 2
    assert "give it with --captions FILE" in run(out, "--columns", "video=film", code=2).stderr


def test_people_are_told_what_was_done_and_what_comes_next(out: Path, weights: str) -> None:
    result = run(out, "--backbone", weights)
    assert result.stdout.splitlines()[0] == "2 clips: 2 encoded, 0 kept"
    assert result.stdout.splitlines()[-1] == f'next: tvr query "a dog surfing" --index {out}'
    assert "no captions: the features will serve queries" in result.stderr
    file = captions(out, *['{"video": "a", "caption": "%s"}' % ("word " * n) for n in (40, 50, 60)])
    result = run(out, "--backbone", weights, "--captions", file)
    assert f"3 captions longer than 16 tokens were truncated ({weights} reads no more)" in result.stderr
    assert "3 captions (3 different texts): 3 encoded, 0 kept" in result.stdout
    assert result.stdout.splitlines()[-1] == f"next: tvr train --method glccl -o {out}"


def test_a_dry_run_multiplies_and_writes_nothing(out: Path, weights: str) -> None:
    file = captions(out, '{"video": "a", "caption": "two cats"}')
    result = run(out, "--backbone", weights, "--captions", file, "--dry-run", "--dtype", "bf16")
    assert "2 clips, 2 of them to encode with local:" in result.stdout
    assert "(8 frames + 17 tokens) x 32 values x 2 bytes = 1.6 kB" in result.stdout
    assert "on this device; nothing was written" in result.stdout
    assert not (out / "features").exists()
    plan = report(out, "--backbone", weights, "--dry-run")
    assert plan["dry_run"] is True and plan["bytes"] == 8 * 32 * 2
    assert plan["fingerprint"] == report(out, "--backbone", weights)["fingerprint"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--backbone", "clip-vit-b23"], 2, "did you mean clip-vit-b32?"),
        (["--dtype", "fp61"], 2, "--dtype: unknown 'fp61'; did you mean fp16?"),
        (["--shape", "ragged", "--temporal-shift"], 2, "--temporal-shift mixes the frames of whole clips"),
        (["--word-importance", "nouns"], 2, "unknown word importance 'nouns'"),
        (["--max-words", "500"], 2, "--max-words: expected 3 to 16"),
        (["--captions", "none.jsonl"], 3, "expected a captions file at 'none.jsonl'"),
        (["--captions", "x.jsonl", "--data", "jsonl:y"], 2, "give --captions or --data, not both"),
        (["--data", "nothing:y"], 2, "unknown data set 'nothing'"),
        (["--repair", "x.safetensors"], 3, "has a shard or fingerprint 'x.safetensors'"),
        (["--backbone", "local:nowhere"], 4, "nothing there"),
        (["--device", "cuda:99"], 4, "device 'cuda:99' cannot be used here"),
    ],
)
def test_what_cannot_be_done_is_refused(out: Path, weights: str, arguments: list[str], code: int, said: str) -> None:
    chosen = [] if "--backbone" in arguments else ["--backbone", weights]
    result = run(out, *chosen, *arguments, code=code)
    assert said in result.stderr
    assert result.stdout == ""
    assert not list(out.glob("features/*/store.json"))


@pytest.mark.parametrize("line", ["{", '{"video": "z", "caption": "x"}', '{"video": "a", "caption": 3}'])
def test_a_bad_caption_exits_with_file_and_line(out: Path, weights: str, line: str) -> None:
    file = captions(out, '{"video": "a", "caption": "x"}', line)
    assert f"error: {file}:2: " in run(out, "--backbone", weights, "--captions", file, code=3).stderr
    assert not (out / "features").exists()


def test_missing_weights_exit_with_4_offline(out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    from tvr_cli.backbones.openclip import weights as weights_module
    from tvr_cli.plans import FramePlan

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(weights_module, "_CLIP_CACHE", tmp_path / "clip")
    tiny_frames.simple(tmp_path / "large", {"a.mp4": 1}, plan=FramePlan(num_frames=1, size=224))
    result = run(tmp_path / "large", "--offline", code=4)
    for part in ("ViT-B-32.pt", str(tmp_path / "clip"), "--backbone ViT-B-32-quickgelu@FILE"):
        assert part in result.stderr
    small = run(out, "--offline", code=3)
    assert "are 32 px, but the backbone clip-vit-b32 takes 224 px" in small.stderr


def test_a_damaged_shard_is_repaired_by_the_command_that_the_error_names(out: Path, weights: str) -> None:
    run(out, "--backbone", weights)
    store = Workspace(out).newest_features()
    assert store is not None
    shard = next(store.root.glob("video-*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 255
    shard.write_bytes(data)
    with pytest.raises(Exception, match="is damaged") as e:
        FeatureStore.open(store.root, out).video()
    command = str(e.value).split("rebuild only it with: tvr ")[1].split()
    assert CliRunner().invoke(app, command).exit_code == 0
    again = Workspace(out).newest_features()
    assert again is not None and len(again.video()) == 2


def test_a_second_writer_waits_then_stops_with_4(out: Path, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(out, "--backbone", weights)
    store = Workspace(out).newest_features()
    assert store is not None
    before = {p.name: p.read_bytes() for p in store.root.iterdir()}
    real = files.lock
    with real(store.root):
        monkeypatch.setattr(files, "lock", lambda folder: real(folder, wait_s=0.2))
        assert "another tvr process is writing" in run(out, code=4).stderr
    assert {p.name: p.read_bytes() for p in store.root.iterdir()} == before


@pytest.mark.slow
def test_every_readable_real_video_gets_features(tmp_path: Path) -> None:
    shared = Path(__file__).resolve().parents[3] / "shared" / "videos"
    if not shared.is_dir():
        pytest.skip("the real videos are not here")
    manifest = json.loads((shared / "manifest.json").read_text())
    out = tmp_path / "out"
    extracted = CliRunner().invoke(app, ["extract-frames", str(shared), "-o", str(out), "--workers", "1", "--json"])
    assert extracted.exit_code == 5, extracted.stderr  # one of them is corrupt
    records = [{"video": v["file"], "caption": c} for v in manifest for c in v.get("captions", [])]
    file = captions(out, *map(json.dumps, records))
    made = report(out, "--backbone", "demo-tiny", "--captions", file)
    readable = json.loads(extracted.stdout)["ok"]
    assert made["captions"]["total"] + made["captions"]["set_aside"] == len(records)
    store = Workspace(out).newest_features()
    assert store is not None and len({c.file_id for c in store.clips}) == readable
    assert bool(store.video().frames.isfinite().all()) and bool(store.text().pooled.isfinite().all())


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from tvr_cli.cli import app; "
        "r = CliRunner().invoke(app, ['precompute-features', '--help']); assert r.exit_code == 0, r.output; "
        "bad = [m for m in ('torch', 'open_clip', 'av', 'decord') if m in sys.modules]; assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
