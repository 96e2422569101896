"""Weights, tokenizers and checkpoints that are given to tvr are read, nothing in them is run, nor advised to be."""

from __future__ import annotations

import ast
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clip
import torch
from open_clip.factory import load_checkpoint
from torch import nn

from tvr_cli.backbones import load
from tvr_cli.backbones.openclip import build
from tvr_cli.backbones.openclip.source import resolve
from tvr_cli.backbones.openclip.weights import no_remote_code
from tvr_cli.data import registry
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.whole import importer
from tvr_cli.errors import DataError, reason
from tvr_cli.workspace import Workspace

PACKAGE = Path(__file__).resolve().parents[2] / "tvr_cli"
ADVICE = ("weights_only", "allow_pickle", "trust_remote_code", "safe_globals", "trusted source")


class Evil:
    """Makes the folder `owned` where a pickle of it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


# Files and calls that may import by name or unpickle: each states what keeps it from running what a file says.
MAY = {
    "__init__.py: importlib.import_module": "a table of our own names",
    "cli/lazy.py: importlib.import_module": "a table of our own names",
    "backbones/tensor_files.py: torch.load": "weights_only, asserted below",
    "backbones/torchscript.py: pickletools.genops": "decodes, calls nothing",
    "data/annotation_files.py: pickle.Unpickler": "find_class refuses every name",
    "plugins.py: importlib.import_module": "shipped files, entry points, and dotted names that no file alone may give",
    "engine/whole/mteb.py: importlib.import_module": "MTEB itself, and classes of tasks that the command line names",
    "data/vatex.py: np.load": "allow_pickle=False",
    "engine/evaluation/score_file.py: np.load": "allow_pickle=False",
    "engine/features/foreign.py: np.load": "allow_pickle=False",
    "stores/foreign/sample.py: np.load": "allow_pickle=False",
    "verify/assets.py: np.load": "allow_pickle=False",
    "verify/offline.py: importlib.import_module": "a table of our own names",
    "yaml_text.py: yaml.compose": "SafeLoader",
    "yaml_text.py: yaml.SafeLoader": "",
}
LOADERS = (
    "torch.load",
    "torch.jit",
    "np.load",
    "numpy.load",
    "pickle.",
    "pickletools.",
    "yaml.",
    "importlib.import_module",
)


def test_what_can_run_a_file_is_called_where_the_list_says() -> None:
    found: dict[str, ast.Call] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec", "__import__", "open_clip.load_checkpoint", "load_checkpoint"), where
                if name.startswith(LOADERS) and ")" not in name:
                    found[f"{where}: {name}"] = node
            if isinstance(node, ast.ClassDef):
                found |= {f"{where}: {ast.unparse(b)}": None for b in node.bases if "Unpickler" in ast.unparse(b)}  # type: ignore[misc]
    assert found.keys() <= MAY.keys(), sorted(found.keys() - MAY.keys())
    for where, flag in (
        ("backbones/tensor_files.py: torch.load", "weights_only=True"),
        ("data/vatex.py: np.load", "allow_pickle=False"),
        ("engine/evaluation/score_file.py: np.load", "allow_pickle=False"),
        ("engine/features/foreign.py: np.load", "allow_pickle=False"),
        ("stores/foreign/sample.py: np.load", "allow_pickle=False"),
        ("verify/assets.py: np.load", "allow_pickle=False"),
    ):
        assert flag in ast.unparse(found[where])


@pytest.mark.parametrize("way", ["ARCH@FILE", "local:FILE", "local:FOLDER", "import-checkpoint"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_pickled_checkpoint_is_refused_in_our_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, whole: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # torch's switch, for calls that do not say which
    folder = tiny_clip.folder(tmp_path / "f")
    (folder / "open_clip_model.safetensors").unlink()
    path = folder / "open_clip_pytorch_model.bin"
    torch.save(nn.Linear(2, 2) if whole else {"text_projection": Evil()}, path)
    with pytest.raises(DataError) as e:
        match way:
            case "ARCH@FILE":
                load(f"ViT-B-32@{path}")
            case "local:FILE":
                load(f"local:{path}")
            case "local:FOLDER":
                load(f"local:{folder}")
            case _:
                importer.import_checkpoint(path, "gare", Workspace(tmp_path))
    asked = "torch.nn.modules.linear.Linear" if whole else "posix.mkdir"
    assert f"it holds more than tensors, and reading it would run {asked}; expected model.state_dict()" in str(e.value)
    assert not [word for word in ADVICE if word in str(e.value)] and "\n" not in str(e.value)
    assert not (tmp_path / "owned").exists()


def test_advice_to_trust_a_file_is_never_passed_on(tmp_path: Path) -> None:
    scores = tmp_path / "scores.npz"
    np.savez(scores, scores=np.array([Evil()], dtype=object))
    with pytest.raises(DataError) as e:
        referee.judge_file(scores, referee.JudgeOptions(), allow_missing=False)
    assert "is not a readable npz file" in str(e.value) and not [word for word in ADVICE if word in str(e.value)]
    assert reason(ValueError("set `trust_remote_code=True`")) == "ValueError"
    assert reason(ValueError("first\nsecond")) == "first" and reason(ValueError()) == "ValueError"


def test_our_own_messages_do_not_tell_to_unpickle(tmp_path: Path) -> None:
    (tmp_path / "ref_captions.json").write_text("{}")
    for name in ("trn", "val", "tst"):
        np.save(tmp_path / f"{name}_names.npy", np.array(["a", 1], dtype=object))
    with pytest.raises(DataError, match=r"pickled objects.*train_list\.txt.*--data vatex:.*:lists") as e:
        registry.load(f"vatex:{tmp_path}:hgr")
    assert not [word for word in ADVICE if word in str(e.value)]


def test_big_visions_weights_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "w.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"w\.npy' do not fit the architecture") as e:
        load(f"ViT-B-32@{tmp_path / 'w.npy'}")
    assert not (tmp_path / "owned").exists() and not [word for word in ADVICE if word in str(e.value)]


def old_names(state: dict[str, Any]) -> dict[str, Any]:
    """Take the prefix `text.` off, as checkpoints before `CustomTextCLIP` are."""
    return {k.removeprefix("text."): v for k, v in state.items()}


def larger(state: dict[str, Any]) -> dict[str, Any]:
    """Give the positions of a finer grid and a longer context."""
    grid = torch.rand(1 + 36, 64, generator=torch.Generator().manual_seed(1))
    words = torch.rand(20, 64, generator=torch.Generator().manual_seed(2))
    return {**state, "visual.positional_embedding": grid, "positional_embedding": words}


@pytest.mark.parametrize(
    ("custom", "change"),
    [
        (False, lambda state: state),
        (False, lambda state: {f"module.{k}": v for k, v in state.items()}),
        (False, lambda state: {"state_dict": state, "epoch": 3}),
        (False, lambda state: {**state, "logit_scale": state["logit_scale"].reshape(1)}),
        (False, larger),
        (True, old_names),
        (True, lambda state: state),
    ],
)
def test_weights_are_fitted_as_open_clip_fits_them(
    tmp_path: Path, custom: bool, change: Callable[[dict[str, Any]], Any]
) -> None:
    config = tiny_clip.config(**({"pool_type": "argmax"} if custom else {}))
    folder = tiny_clip.folder(tmp_path / "f", config)
    (folder / "open_clip_model.safetensors").unlink()
    path = folder / "open_clip_pytorch_model.bin"
    torch.save(change(dict(tiny_clip.model(config, seed=3).state_dict())), path)
    expected = build(config)
    load_checkpoint(expected, str(path))
    got = load(f"local:{folder}").model.state_dict()
    names = {k.replace("visual.conv1.conv.", "visual.conv1."): v for k, v in got.items()}
    for name, tensor in expected.state_dict().items():
        assert torch.equal(names.get(name, tensor if name.startswith("visual.conv1") else torch.empty(0)), tensor), name


# ------------------------------------------------------------------------------------- code beside a tokenizer or model


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand in for transformers: it runs `tokenizer.py` of a folder where it is told to trust it, or asks."""
    fake, remote = types.ModuleType("transformers"), types.ModuleType("transformers.dynamic_module_utils")
    remote.TIME_OUT_REMOTE_CODE = 15  # type: ignore[attr-defined]

    class AutoTokenizer:
        pad_token_id = 0

        @classmethod
        def from_pretrained(cls, folder: Any, *, cache_dir: Any, trust_remote_code: bool | None = None) -> Any:
            own = Path(folder) / "tokenizer.py"
            asked = trust_remote_code is None and remote.TIME_OUT_REMOTE_CODE > 0  # type: ignore[attr-defined]
            if own.exists() and (trust_remote_code or asked):
                exec(own.read_text())
            elif own.exists():
                raise ValueError("Please pass the argument `trust_remote_code=True` to allow custom code to be run.")
            return cls()

        def __len__(self) -> int:
            return 814

    fake.AutoTokenizer, fake.dynamic_module_utils = AutoTokenizer, remote  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", fake)
    monkeypatch.setitem(sys.modules, "transformers.dynamic_module_utils", remote)
    return remote


@pytest.mark.parametrize("trust", [True, None])
def test_a_tokenizer_in_a_folder_brings_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transformers: Any, trust: bool | None
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tiny_clip.folder(tmp_path / "f")
    written = json.loads((folder / "open_clip_config.json").read_text())
    written["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "somebody/tokenizer"
    if trust is not None:
        written["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": trust}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    source = resolve(f"local:{folder}")
    assert source.tokenizer(offline=True) is not None  # it needs no code of its own
    (folder / "tokenizer.py").write_text("import os; os.mkdir('owned')")
    with pytest.raises(DataError, match="'somebody/tokenizer' brings code of its own, and tvr runs none") as e:
        source.tokenizer(offline=True)
    assert not (tmp_path / "owned").exists() and not [word for word in ADVICE if word in str(e.value)]


def test_nobody_is_asked_to_run_the_code_of_a_model(transformers: Any) -> None:
    text = {"text_cfg": {"hf_model_name": "somebody/text"}}
    with pytest.raises(DataError, match="'somebody/text' brings code"), no_remote_code(text):
        assert transformers.TIME_OUT_REMOTE_CODE == 0  # transformers asks no question then
        raise ValueError("Please pass the argument `trust_remote_code=True` to allow custom code to be run.")
    assert transformers.TIME_OUT_REMOTE_CODE == 15
    with pytest.raises(ValueError, match="another"), no_remote_code({"text_cfg": {"hf_model_name": "a"}}):
        raise ValueError("another")
