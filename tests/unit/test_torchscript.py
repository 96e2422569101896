"""TorchScript archives are read as data: the tensors that `torch.jit.load` gives, and nothing of the archive is run."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tvr_cli.backbones import torchscript
from tvr_cli.backbones.tensor_files import read_state
from tvr_cli.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


class Inner(nn.Module):
    """Attributes of every kind that TorchScript stores, beside parameters and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("unkept", torch.ones(2), persistent=False)
        self.plain = torch.zeros(3)
        self.several = [torch.ones(1), torch.zeros(2)]
        self.names = ["a", "b"]
        self.by_name = {"a": 1}
        self.mixed = (1, "x", None, 1.5, True)
        self.big, self.negative, self.phase, self.place = 2**40, -3, 1 + 2j, torch.device("cpu")

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.lin(x)) + self.unkept


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.Sequential(Inner(), nn.ReLU(), nn.Linear(2, 2, bias=False))
        self.weight = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
        self.tied = self.weight
        self.register_buffer("row", self.weight.detach()[1])
        self.register_buffer("turned", torch.arange(12.0).reshape(3, 4).t()[1:])
        self.register_buffer("wide", torch.ones(1).expand(2, 3))
        self.register_buffer("none", None)
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("scalar", torch.tensor(7))
        self.again = self.seq

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class Frozen(nn.Module):
    """What a trace of a transformer holds: nested names with numbers in them, all kinds of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn": nn.Linear(4, 4), "ln_1": nn.LayerNorm(4)}) for _ in "ab"])
        for i, kind in enumerate((torch.bool, torch.int8, torch.int16, torch.int32, torch.uint8, torch.bfloat16)):
            self.register_buffer(f"kind_{i}", torch.tensor([0, 1, 1]).to(kind))
        self.register_buffer("wide", torch.rand(2, dtype=torch.float64))
        self.register_buffer("phases", torch.rand(2, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block["attn"](block["ln_1"](x))
        return x


def scripted() -> Any:
    return torch.jit.script(Outer())


def halved() -> Any:
    return torch.jit.script(Outer().half())


def traced() -> Any:
    return torch.jit.trace(Frozen().eval(), torch.ones(1, 4))


def lstm() -> Any:
    return torch.jit.script(nn.LSTM(2, 3, bidirectional=True))


def optimised() -> Any:
    return torch.jit.freeze(torch.jit.script(Frozen().eval()))


@pytest.mark.parametrize("make", [scripted, halved, traced, lstm, optimised])
def test_the_tensors_are_those_of_torch_jit_load(tmp_path: Path, make: Callable[[], Any]) -> None:
    path = tmp_path / "archive.pt"
    make().save(str(path))
    expected = torch.jit.load(path, map_location="cpu").state_dict()
    got = torchscript.read(path)
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape
        assert got[name].stride() == tensor.stride() and got[name].storage_offset() == tensor.storage_offset()
        assert torch.equal(got[name], tensor) and not got[name].requires_grad


def test_tensors_that_share_memory_still_do(tmp_path: Path) -> None:
    scripted().save(str(tmp_path / "a.pt"))
    got = torchscript.read(tmp_path / "a.pt")
    whole = got["weight"].untyped_storage().data_ptr()
    assert got["tied"].untyped_storage().data_ptr() == whole == got["row"].untyped_storage().data_ptr()
    got["weight"][1, 0] = 5.0
    assert got["row"][0] == 5.0


class Runs(nn.Module):
    """Writes a file where it is loaded (`torch.from_file` makes one)."""

    def __init__(self, mark: str):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))
        self.mark: str = mark

    @torch.jit.export
    def __getstate__(self):
        return (self.training, self.w, self.mark)

    @torch.jit.export
    def __setstate__(self, s: tuple[bool, Tensor, str]):
        self.training = s[0]
        self.mark = s[2]
        self.w = s[1] + torch.from_file(s[2], shared=True, size=16, dtype=torch.uint8).fill_(65).sum()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w


@pytest.mark.parametrize("deep", [False, True])
def test_an_archive_with_code_in_its_state_is_refused_and_not_run(tmp_path: Path, deep: bool) -> None:
    mark, path = tmp_path / "written", tmp_path / "clip.pt"
    module = Runs(str(mark))
    torch.jit.script(nn.Sequential(nn.Linear(2, 2), module) if deep else module).save(str(path))
    with pytest.raises(DataError, match=r"clip\.pt.*without running it \(its class Runs .*__setstate__\); ask whoever"):
        read_state(path)
    assert not mark.exists()
    torch.jit.load(path)  # the archive is a whole one: loading it as 0.1.0 did runs it
    assert mark.exists()


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no engine for quantised weights")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)), {nn.Linear})
    torch.jit.script(module).save(str(tmp_path / "q.pt"))
    with pytest.raises(DataError, match="whose tensors cannot be read without running it"):
        torchscript.read(tmp_path / "q.pt")


# -------------------------------------------------------------------------------------------------- forged archives


class Forged:
    """Writes the pickle of an archive by hand: one module `M` with the parameter `w`."""

    SOURCE = 'class M(Module):\n  __parameters__ = ["w", ]\n  __buffers__ = []\n  w : Tensor\n'

    def __init__(self) -> None:
        self.data = b"\x80\x02"

    def text(self, value: str) -> Forged:
        self.data += b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        return self

    def op(self, data: bytes) -> Forged:
        self.data += data
        return self

    def name(self, module: str, name: str) -> Forged:
        return self.op(f"c{module}\n{name}\n".encode())

    def number(self, value: int) -> Forged:
        data = value.to_bytes(8, "little", signed=True)
        return self.op(b"\x8a\x08" + data)

    def module(self) -> Forged:
        return self.name("__torch__", "M").op(b")\x81}(")

    def tensor(self, size: int, stride: int = 1, offset: int = 0, key: str = "0") -> Forged:
        self.name("torch._utils", "_rebuild_tensor_v2").op(b"((")
        self.text("storage").name("torch", "FloatStorage").text(key).text("cpu").number(size).op(b"tQ")
        self.number(offset).op(b"(").number(size).op(b"t(").number(stride).op(b"t\x89")
        return self.name("collections", "OrderedDict").op(b")RtR")

    def end(self) -> bytes:
        return self.op(b"ub.").data


def write(path: Path, structure: bytes, *, source: str = Forged.SOURCE, floats: int = 4, **extra: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", structure)
        archive.writestr("m/code/__torch__.py", source, zipfile.ZIP_DEFLATED)
        archive.writestr("m/constants.pkl", b"\x80\x02).")
        archive.writestr("m/data/0", bytes(4 * floats))
        for name, data in extra.items():
            archive.writestr(f"m/{name}", data)
    return path


def test_a_forged_archive_that_is_whole_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", Forged().module().text("w").tensor(4).end())
    assert {k: v.tolist() for k, v in torchscript.read(path).items()} == {"w": [0.0] * 4}


def calls(module: str, name: str) -> bytes:
    return Forged().module().text("w").name(module, name).op(b"(").text("touch written").op(b"tR").end()


class Touch:
    def __reduce__(self) -> Any:
        return open, ("written", "w")


FORGED = [
    (calls("posix", "system"), r"it calls posix\.system"),
    (calls("builtins", "eval"), r"it calls builtins\.eval"),
    (calls("torch._utils", "_rebuild_qtensor"), r"it calls torch\._utils\._rebuild_qtensor"),
    (calls("torch", "load"), r"it calls torch\.load"),
    (pickle.dumps({"w": Touch()}, protocol=2), "it calls "),
    (pickle.dumps({"w": Touch()}, protocol=4), "the instruction"),
    (b"\x80\x02" + pickle.dumps(Touch(), protocol=0), "the instruction"),
    (Forged().name("subprocess", "Popen").op(b")\x81}(ub.").data, r"it makes a subprocess\.Popen"),
    (Forged().name("collections", "OrderedDict").op(b"}(ub.").data, "it fills a Global like a Object"),
    (Forged().module().op(b"u(").number(1).op(b"e.").data, "it fills a dict like a list"),
    (Forged().op(b"].").data, "it holds no module"),
    (Forged().module().text("w").tensor(1 << 40, stride=0).end(), "more than the file holds"),
    (Forged().module().text("w").tensor(5).end(), "more than the file holds"),
    (Forged().module().text("w").tensor(2, offset=3).end(), "more than the file holds"),
    (Forged().module().text("w").tensor(2, stride=-1).end(), "an impossible shape"),
    (Forged().module().text("w").tensor(4, key="../0").end(), "damaged TorchScript archive"),
    (Forged().module().op(b"))u").op(b"b.").data, "is the key of a dict"),
    (b"\x80\x02", "damaged TorchScript archive"),
    (b"", "damaged TorchScript archive"),
]


@pytest.mark.parametrize(("structure", "said"), FORGED, ids=[said for _, said in FORGED])
def test_a_forged_structure_is_refused_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, structure: bytes, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=said):
        read_state(write(tmp_path / "m.pt", structure))
    assert not (tmp_path / "written").exists()


def test_a_compressed_tensor_is_not_inflated(tmp_path: Path) -> None:
    structure = Forged().module().text("w").tensor(1 << 20).end()
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", structure)
        archive.writestr("m/code/__torch__.py", Forged.SOURCE)
        archive.writestr("m/constants.pkl", b"\x80\x02).")
        archive.writestr("m/data/0", bytes(4 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match=r"claim more bytes than the \d+ of the file"):
        torchscript.read(path)


def test_structure_that_inflates_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchscript, "_MOST_TEXT", 10_000)
    path = write(tmp_path / "m.pt", Forged().module().text("w").tensor(4).end(), source=Forged.SOURCE + " " * 20_000)
    with pytest.raises(DataError, match="its code and structure have more than"):
        torchscript.read(path)


def test_modules_that_lie_in_each_other_without_end_are_refused(tmp_path: Path) -> None:
    own = Forged().name("__torch__", "M").op(b")\x81q\x00}(").text("w").op(b"h\x00").end()
    with pytest.raises(DataError, match="lie in each other without end"):
        torchscript.read(write(tmp_path / "own.pt", own))
    twice = Forged().module().text("w").tensor(4).op(b"ubq\x00")
    for _ in range(60):  # 2 ** 60 names
        twice.module().text("a").op(b"h\x00").text("b").op(b"h\x00").op(b"ubq\x00")
    with pytest.raises(DataError, match="lie in each other without end"):
        torchscript.read(write(tmp_path / "twice.pt", twice.op(b".").data))
