"""TorchScript archives, as OpenAI's releases are: their parameters and buffers, read as data.

Such a file is a zip. `data.pkl` is a pickle of the module's attributes, `data/N` holds the bytes of its tensors,
`code/` the source of its classes. `torch.jit.load` compiles that source and runs it where a class has a `__setstate__`.
Nothing is run here: the pickle is taken apart opcode by opcode (`pickletools` decodes and calls nothing), a class is an
inert container, and of the source only the lists of parameters and buffers are read. What that cannot give is refused.

No more is read than the file has bytes, and no tensor may claim more: a small file cannot ask for a large memory.
"""

from __future__ import annotations

import math
import pickletools
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli.errors import DataError

_MOST_TEXT = 64 << 20  # bytes of data.pkl and source, which may be compressed: those of CLIP are a few hundred thousand
_MOST_LETTERS = 16 << 20  # of all names: modules that lie in themselves, or twice in each of many, would have no end
_MOST_DIMENSIONS = 64  # what torch allows
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist")
_CLASSES = "__torch__"  # what a name of the archive's own classes begins with
_NATIVE = "__torch__.torch.classes."  # classes that torch itself brings: they have no source in the archive


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read(path: Path) -> dict[str, Tensor]:
    """Return what `torch.jit.load(path, map_location="cpu").state_dict()` would, in the same order, running nothing.

    Raises DataError for a damaged archive, and for one whose tensors only its own code can give.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = _Records(archive, path.stat().st_size)
            return dict(_named(records, _unpickle(records)))
    except _Refused as e:
        raise DataError(
            f"{str(path)!r} is a TorchScript archive whose tensors cannot be read without running it ({e}); "
            "ask whoever made it for its state_dict() as safetensors"
        ) from e
    except Exception as e:
        # Whatever a forged zip or pickle makes of the decoders: the file is none that torch wrote.
        raise DataError(f"{str(path)!r} is a damaged TorchScript archive ({type(e).__name__}); get it again") from e


class _Refused(Exception):
    """Why an archive cannot be read as data, to stand in a sentence."""


@dataclass(frozen=True)
class _Global:
    """A name that the pickle refers to. It stays a name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:100]


@dataclass(eq=False)
class _Object:
    """An instance of a class of the archive: its class by name, and the state that was stored."""

    of: _Global
    state: Any = None


@dataclass(frozen=True)
class _Class:
    """What the source says of a class. own_state: it has a `__getstate__` or `__setstate__`."""

    is_module: bool
    parameters: frozenset[str]
    buffers: frozenset[str]
    own_state: bool


@dataclass
class _Records:
    """The files of an archive below its one folder. left: bytes of tensors that may still be read."""

    archive: zipfile.ZipFile
    size: int
    left: int = field(init=False)
    text_left: int = field(init=False)
    sources: dict[str, dict[str, _Class]] = field(default_factory=dict)
    storages: dict[str, torch.UntypedStorage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left, self.text_left = self.size, _MOST_TEXT
        self.folder = self.archive.namelist()[0].partition("/")[0]
        if "byteorder" in self and (order := self.text("byteorder").decode()) != sys.byteorder:
            raise _Refused(f"it was written on a {order}-endian machine")

    def __contains__(self, name: str) -> bool:
        return f"{self.folder}/{name}" in self.archive.NameToInfo

    def text(self, name: str) -> bytes:
        """Read a pickle or source, which may be compressed."""
        with self.archive.open(f"{self.folder}/{name}") as f:
            data = f.read(self.text_left + 1)
        self.text_left -= len(data)
        if self.text_left < 0:
            raise _Refused(f"its code and structure have more than {_MOST_TEXT >> 20} MiB")
        return data

    def storage(self, key: str) -> torch.UntypedStorage:
        """Read the bytes of `data/KEY`, once."""
        if key not in self.storages:
            info = self.archive.getinfo(f"{self.folder}/data/{key}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > self.left:
                raise _Refused(f"its tensors claim more bytes than the {self.size} of the file")
            self.left -= info.file_size
            data = bytearray(self.archive.read(info))
            self.storages[key] = torch.frombuffer(data, dtype=torch.uint8).untyped_storage() if data else _empty()
        return self.storages[key]

    def declared(self, of: _Global) -> _Class:
        """Return what the source says of a class of the archive."""
        if of.module not in self.sources:
            source = self.text(f"code/{of.module.replace('.', '/')}.py").decode()
            self.sources[of.module] = dict(_classes(source))
        return self.sources[of.module][of.name]


def _empty() -> torch.UntypedStorage:
    return torch.empty(0, dtype=torch.uint8).untyped_storage()


# ------------------------------------------------------------------------------------------------------- the pickle


def _unpickle(records: _Records) -> Any:
    """Return the object in `data.pkl`. Only opcodes that torch's serializer writes are known."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def items() -> list[Any]:
        """Take what stands above the last mark off the stack."""
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    def top(kind: type) -> Any:
        if not isinstance(stack[-1], kind):
            raise _Refused(f"it fills a {type(stack[-1]).__name__.strip('_')} like a {kind.__name__.strip('_')}")
        return stack[-1]

    arg: Any
    for opcode, arg, _ in pickletools.genops(records.text("data.pkl")):
        match opcode.name:
            case "PROTO":
                pass
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(arg)
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(opcode.name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "TUPLE":
                stack.append(tuple(items()))
            case "APPEND":
                value = stack.pop()
                top(list).append(value)
            case "APPENDS":
                values = items()
                top(list).extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                top(dict)[_key(key)] = value
            case "SETITEMS":
                values = items()
                top(dict).update(zip(map(_key, values[::2]), values[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "GLOBAL":
                module, _, name = arg.partition(" ")
                stack.append(_Global(module, name))
            case "NEWOBJ":
                _, cls = stack.pop(), stack.pop()
                stack.append(_Object(_own_class(cls)))
            case "BUILD":
                state = stack.pop()
                top(_Object).state = state
            case "REDUCE":
                args, function = stack.pop(), stack.pop()
                stack.append(_reduce(records, function, args))
            case "BINPERSID":
                stack.append(_storage(records, stack.pop()))
            case "STOP":
                return stack.pop()
            case other:
                raise _Refused(f"its structure holds the instruction {other}, which torch does not write")
    raise _Refused("its structure has no end")


def _key(key: Any) -> Any:
    # Hashing a tuple of tuples can take for ever; a dict of TorchScript has no such keys.
    if not isinstance(key, str | int | float | complex | Tensor):
        raise _Refused(f"a {type(key).__name__} is the key of a dict")
    return key


def _own_class(cls: Any) -> _Global:
    if not isinstance(cls, _Global) or cls.module.partition(".")[0] != _CLASSES:
        raise _Refused(f"it makes a {_said(cls)}, which is no class of the archive")
    return cls


def _said(value: Any) -> str:
    return str(value) if isinstance(value, _Global) else type(value).__name__


def _reduce(records: _Records, function: Any, args: Any) -> Any:
    """Do what one of the known functions would do with data; every other one is refused by name."""
    if not isinstance(function, _Global):
        raise _Refused(f"it calls a {type(function).__name__}")
    match function.module, function.name:
        case ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor(records, *args[:4])
        case ("torch._utils", "_rebuild_parameter"):
            return args[0]
        case ("collections", "OrderedDict") if args == ():
            return {}
        case ("torch.jit._pickle", "restore_type_tag"):
            return args[0]
        case ("torch.jit._pickle", name) if name in _LISTS:
            return args[0]
        case ("torch", "device"):
            return args[0]
        case ("builtins", "complex"):
            return complex(*args)
        case (str(module), _) if module.partition(".")[0] == _CLASSES:
            return _Object(function)  # a value of an Enum
    raise _Refused(f"it calls {function}")


def _storage(records: _Records, ref: Any) -> tuple[torch.UntypedStorage, torch.dtype]:
    """Return the bytes that a persistent id means, and the type of their numbers."""
    what, kind, key, _device, _numel = ref
    if what != "storage" or kind.module != "torch" or kind.name not in _DTYPES:
        raise _Refused(f"it holds a {_said(kind)}, not a plain tensor")
    return records.storage(key), _DTYPES[kind.name]


def _tensor(records: _Records, storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    data, dtype = storage
    if len(size) > _MOST_DIMENSIONS or len(size) != len(stride) or min(offset, *size, *stride, 0) < 0:
        raise _Refused("a tensor has an impossible shape")
    numel, width = math.prod(size), dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if numel * width > records.size or (numel and (last + 1) * width > len(data)):
        raise _Refused(f"a tensor claims {list(size)} numbers, more than the file holds")
    if not numel:
        return torch.empty(size, dtype=dtype)
    return torch.empty(0, dtype=dtype).set_(data, offset, size, stride)


# ------------------------------------------------------------------------------------------------------ the modules


def _named(records: _Records, root: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield a module's tensors by name: parameters, buffers, then those of its parts, as `state_dict` does."""
    if not isinstance(root, _Object) or (cls := _module_class(records, root)) is None:
        raise _Refused("it holds no module")
    todo, letters = [("", root, cls)], 0
    while todo:
        prefix, module, cls = todo.pop()
        state: Mapping[str, Any] = module.state
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        for kind in (cls.parameters, cls.buffers):
            yield from ((prefix + name, value) for name, value in tensors.items() if name in kind)
        parts = [
            (f"{prefix}{name}.", value, found)
            for name, value in state.items()
            if isinstance(value, _Object) and (found := _module_class(records, value)) is not None
        ]
        todo += reversed(parts)
        letters += sum(len(prefix) + len(name) + 1 for name in state)
        if letters > _MOST_LETTERS:
            raise _Refused("its modules lie in each other without end")


def _module_class(records: _Records, found: _Object) -> _Class | None:
    """Return the class of a module, None of any other object. Raises _Refused when it makes its state by code."""
    if f"{found.of}".startswith(_NATIVE):
        return None
    cls = records.declared(found.of)
    if not cls.is_module:
        return None
    if cls.own_state:
        raise _Refused(f"its class {found.of.name} makes its state by code of its own, __setstate__")
    if not isinstance(found.state, dict) or not all(isinstance(name, str) for name in found.state):
        raise _Refused(f"the state of its class {found.of.name} is not attributes by name")
    return cls


def _classes(source: str) -> Iterator[tuple[str, _Class]]:
    """Yield the classes that a source file declares. torch prints a list on one line, members with two blanks."""
    for block in re.split(r"^(?=class )", source, flags=re.MULTILINE):
        if head := re.match(r"class (\w+)(?:\((\w+)\))?:", block):
            yield (
                head[1],
                _Class(
                    is_module=head[2] == "Module",
                    parameters=_listed(block, "__parameters__"),
                    buffers=_listed(block, "__buffers__"),
                    own_state=re.search(r"^  def __[gs]etstate__\(", block, flags=re.MULTILINE) is not None,
                ),
            )


def _listed(block: str, what: str) -> frozenset[str]:
    found = re.search(rf"^  {what} = \[(.*)\]$", block, flags=re.MULTILINE)
    return frozenset(re.findall(r'"([^"]*)"', found[1])) if found else frozenset()
