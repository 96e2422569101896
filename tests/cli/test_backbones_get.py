"""`tvr backbones get` against a hub on loopback: whole and verified, resumed, and a sentence for whatever breaks."""

from __future__ import annotations

import errno
import json
import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_stand_in import COMMIT, Hub, hub_on_loopback
from typer.testing import CliRunner

from tvr_cli.backbones import hub as hub_module
from tvr_cli.backbones import registry
from tvr_cli.cli import app
from tvr_cli.errors import DataError, EnvironmentProblem

REPOSITORY, WEIGHTS = "timm/PE-Core-B-16", "open_clip_model.safetensors"
BYTES = random.Random(0).randbytes(300_000)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_on_loopback(cache, monkeypatch) as served:
        served.files[REPOSITORY, WEIGHTS] = BYTES
        yield served


def get(*words: str) -> Any:
    return CliRunner().invoke(app, ["backbones", "get", *(words or ("pe-core-b16",))])


def sentence(done: Any) -> str:
    """The one line that a refusal is."""
    assert done.exit_code == 4 and not done.stdout
    (line,) = done.stderr.splitlines()
    return str(line)


def parts(cache: Path) -> list[str]:
    return [p.name for p in cache.rglob("*") if p.is_file() and p.name.endswith(".incomplete")]


def test_weights_are_fetched_verified_and_found(hub: Hub, cache: Path) -> None:
    assert registry.resolve("pe-core-b16").weights is None
    done = get("pe-core-b16", "--json")
    (file,) = json.loads(done.stdout)["files"]
    assert (file["fate"], file["bytes"], file["commit"], file["here_bytes"]) == ("downloaded", 300_000, COMMIT, 0)
    weights = registry.resolve("pe-core-b16").weights
    assert weights is not None and weights.read_bytes() == BYTES and str(weights) == file["path"]
    assert parts(cache) == [] and hub.bodies() == [(WEIGHTS, None)]


def test_what_is_here_is_compared_and_not_fetched_again(hub: Hub) -> None:
    get()
    done = get("pe-core-b16", "--json")
    report = json.loads(done.stdout)
    assert (report["files"][0]["fate"], report["fetched_bytes"], len(hub.bodies())) == ("kept", 0, 1)


def test_a_broken_network_is_a_sentence_and_the_next_try_goes_on(hub: Hub, cache: Path) -> None:
    hub.break_after = 100_000
    said = sentence(get())
    assert "the network failed" in said and "of 300,000 bytes are here; go on from there: tvr backbones get" in said
    assert registry.resolve("pe-core-b16").weights is None and len(parts(cache)) == 1
    kept = next(cache.rglob("*.incomplete")).stat().st_size
    assert 0 < kept <= 100_000
    hub.break_after, hub.asked = None, []
    (file,) = json.loads(get("pe-core-b16", "--json").stdout)["files"]
    assert (file["fate"], file["here_bytes"]) == ("resumed", kept) and hub.bodies() == [(WEIGHTS, f"bytes={kept}-")]
    weights = registry.resolve("pe-core-b16").weights
    assert weights is not None and weights.read_bytes() == BYTES and parts(cache) == []


def test_other_bytes_than_the_hub_names_do_not_count(hub: Hub, cache: Path) -> None:
    hub.wrong.add(WEIGHTS)
    assert "expected the hash" in sentence(get())
    assert registry.resolve("pe-core-b16").weights is None and parts(cache) == []


def test_a_file_that_was_damaged_since_is_named_and_left_alone(hub: Hub) -> None:
    get()
    weights = registry.resolve("pe-core-b16").weights
    assert weights is not None
    weights.resolve().write_bytes(bytes(300_000))
    said = sentence(get())
    assert str(weights) in said and "move it elsewhere" in said and weights.is_file()


def test_too_little_room_is_said_before_anything_is_fetched(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "make room, or set HF_HOME" in sentence(get())
    assert hub.bodies() == [] and parts(cache) == []


def test_a_disk_that_fills_keeps_what_was_written(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = hub_module._Counted.write

    def full(self: Any, data: bytes) -> int:
        if self.tell() > 50_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(hub_module._Counted, "write", full)
    assert "is full while" in sentence(get())
    assert registry.resolve("pe-core-b16").weights is None and len(parts(cache)) == 1


def test_a_revision_that_is_gone_is_a_sentence(hub: Hub, cache: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=f"the revision {'f' * 40} of '{REPOSITORY}' is gone from the hub"):
        hub_module.look(hub_module.Wanted(REPOSITORY, (WEIGHTS,), revision="f" * 40))
    assert not cache.exists()


def test_a_pinned_revision_is_fetched_and_linked_as_such(hub: Hub, cache: Path) -> None:
    found = hub_module.look(hub_module.Wanted(REPOSITORY, (WEIGHTS,), revision=COMMIT))
    assert found is not None and hub_module.get(found, again="") == "downloaded"
    assert found.path.read_bytes() == BYTES and not (cache / "models--timm--PE-Core-B-16" / "refs").exists()


def test_no_repository_and_no_file_are_a_sentence(hub: Hub) -> None:
    assert "the hub has no repository 'timm/PE-Core-T-16-384'" in sentence(get("pe-core-t16"))
    del hub.files[REPOSITORY, WEIGHTS]
    hub.files[REPOSITORY, "README.md"] = b"nothing else"
    assert f"the repository '{REPOSITORY}' of the hub has none of {WEIGHTS}" in sentence(get())


def test_no_network_at_all_is_a_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the hub cannot be asked for" in sentence(get())


def test_a_dry_run_says_what_there_is_and_writes_nothing(hub: Hub, cache: Path) -> None:
    done = get("pe-core-b16", "--dry-run", "--json")
    report = json.loads(done.stdout)
    assert (report["dry_run"], report["fetched_bytes"], report["files"][0]["fate"]) == (True, 300_000, "to download")
    assert "300.0 kB of 300.0 kB would be downloaded" in get("pe-core-b16", "--dry-run").stdout
    assert not cache.exists() and hub.bodies() == []


def test_a_tokenizer_comes_with_its_model(hub: Hub, cache: Path) -> None:
    repository = "timm/ViT-B-16-SigLIP2"
    hub.files |= {(repository, name): name.encode() for name in (WEIGHTS, "tokenizer.json", "tokenizer_config.json")}
    report = json.loads(get("siglip2-b16", "--json").stdout)
    assert [f["name"] for f in report["files"]] == [WEIGHTS, "tokenizer.json", "tokenizer_config.json"]
    del hub.files[repository, "tokenizer.json"]
    shutil.rmtree(cache)
    assert "has none of tokenizer.json" in sentence(get("siglip2-b16"))
    assert not cache.exists()


def fetched(name: str) -> Any:
    """What loading does first."""
    return registry.resolve(name).detail.fetched(offline=False)


def test_loading_fetches_through_the_same_door(hub: Hub, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.break_after = 100_000
    with pytest.raises(EnvironmentProblem, match="here; go on from there: tvr backbones get PE-Core-B-16/meta"):
        fetched("pe-core-b16")
    kept = next(cache.rglob("*.incomplete")).stat().st_size
    hub.break_after, hub.asked = None, []
    logging.getLogger("tvr").propagate = True
    with caplog.at_level(logging.INFO, "tvr"):
        assert fetched("pe-core-b16").weights.read_bytes() == BYTES
    assert f"downloading {WEIGHTS} of {REPOSITORY}: 0 MB" in caplog.text
    assert hub.bodies() == [(WEIGHTS, f"bytes={kept}-")] and parts(cache) == []
    hub.asked = []
    fetched("pe-core-b16")
    assert hub.asked == []


def test_loading_fetches_a_tokenizer_that_is_missing_beside_weights_that_are_here(hub: Hub) -> None:
    repository = "timm/ViT-B-16-SigLIP2"
    hub.files |= {(repository, name): name.encode() for name in (WEIGHTS, "tokenizer.json", "tokenizer_config.json")}
    fetched("siglip2-b16")
    names = [name for name, _ in hub.bodies()]
    assert names == [WEIGHTS, "tokenizer.json", "tokenizer_config.json"]
    tokenizer = next(Path(hub_module._storage(repository)).rglob("snapshots/*/tokenizer.json"))
    tokenizer.resolve().unlink()
    tokenizer.unlink()
    hub.asked = []
    fetched("siglip2-b16")
    assert [name for name, _ in hub.bodies()] == ["tokenizer.json"]


def test_a_model_of_transformers_comes_through_the_same_door(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import hf_folders

    repository = "google/videoprism-lvt-base-f16r288"
    for file in hf_folders.videoprism(tmp_path / "tiny").iterdir():
        hub.files[repository, file.name] = file.read_bytes()
    with pytest.raises(DataError, match="run the command again: it knows now"):  # it is not what is published there
        registry.load(f"hf:{repository}")
    assert ("model.safetensors", None) in hub.bodies()
    hub.asked = []
    assert registry.load(f"hf:{repository}").about.commit == COMMIT
    assert hub.bodies() == []


def test_the_commit_that_was_got_is_shown(hub: Hub) -> None:
    def show(name: str) -> str:
        return str(CliRunner().invoke(app, ["backbones", "show", name]).stdout)

    assert "revision: not pinned (the hub's newest; what was got is recorded)" in show("pe-core-b16")
    get()
    assert f"revision: not pinned; {COMMIT} is on this machine" in show("pe-core-b16")
    assert "revision: f4a64596bbcf9a2a94591b74b9dc39b2e4e77e3e, pinned" in show("chinese-clip-b16")
    assert "revision:" not in show("demo-tiny")


def test_a_licence_for_research_only_is_said_before_the_download(hub: Hub) -> None:
    hub.files["timm/MobileCLIP2-S0-OpenCLIP", WEIGHTS] = BYTES
    done = get("mobileclip2-s0")
    assert done.exit_code == 0 and "Apple AMLR (research only): not for commercial use" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["get", "demo-tiny"], "are here already"),
        (["get", "pe-core-b16", "--offline"], "get downloads, and --offline forbids it"),
        (["get"], "name the backbone: tvr backbones get clip-vit-b32"),
        (["show", "pe-core-b16", "--dry-run"], "--dry-run goes with get: tvr backbones get pe-core-b16 --dry-run"),
        (["--measure"], "--measure goes with show: tvr backbones show clip-vit-b32 --measure"),
        (["pe-core-b16"], "run: tvr backbones show pe-core-b16"),
    ],
)
def test_bad_words_are_a_sentence(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["backbones", *words])
    assert done.exit_code == 2 and said in done.stderr
