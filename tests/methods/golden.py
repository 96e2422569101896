"""Golden vectors: where they are, how close a result must come, and draws replayed from a file.

A golden file holds parameters, inputs and outputs of the authors' code as safetensors. Two places are searched:
- `tests/golden/<method>/*.safetensors`: compact, committed, a subset of the tensors of a full file;
- `$TVR_GOLDEN_DIR/<method>/golden/*.safetensors` (default `../shared/methods` beside the checkout, when it is there):
  full files. Any file of that layout must pass, whatever its name, seed and sizes, so nothing here or in a test is a
  constant of one file: sizes come from tensor shapes, options from the file's metadata (`GoldenFile.config`).

A test takes `cases(method)` and skips a group that a compact file leaves out:

    @pytest.mark.parametrize(("path", "dtype"), params("gare"))
    def test_golden_gare_scores(path, dtype):
        golden = load(path, dtype)                      # floating-point tensors already in `dtype`
        close = Closeness("gare", dtype, file=golden)   # fp64 reference; reference="fp32" where the authors' is that
        close.value("eval_sq.sim", got, golden["eval_sq.sim"])
        close.grad("train.grad.logit_scale", got, golden["train.grad.logit_scale"])
        close.zero("…k_proj.bias", got)                 # analytically zero

Ids are `<method>-<file stem>-…-<dtype>`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
COMMITTED = REPOSITORY / "tests" / "golden"
DTYPES = {"fp32": torch.float32, "fp64": torch.float64}

# ------------------------------------------------------------------------------------------------------- tolerances

# Largest error over max(1, |reference|), element by element. One table; never loosened to make a test pass. In float32
# twice what the authors' own code loses counts instead, where that is more and is known (`Closeness.file`, `authors`).
VALUE_TOLERANCE: dict[tuple[str, str], float] = {
    # (precision of our run, precision of the authors' run)
    ("fp64", "fp64"): 1e-7,  # what is left is the rounding of the stored float32: 6e-8 relative
    ("fp64", "fp32"): 1e-5,  # the reference itself carries float32 rounding
    ("fp32", "fp64"): 1e-5,  # a float32 chain of a few hundred terms
    ("fp32", "fp32"): 1e-5,
}
# Where a file stores the float64 results as float64 (it says so: "outputs": "float64"), nothing is left but rounding.
EXACT_TOLERANCE = 1e-10
# GLCCL and TC-MGC in float32: softmaxes at temperature 0.01 (or times 100) amplify a score's rounding a hundredfold,
# and scores are multiplied by exp(logit_scale); an independent port reached 1.6e-5 and 2e-5.
VALUE_TOLERANCE_FP32: dict[str, float] = {"glccl": 2e-5, "tcmgc": 2e-5}

# Largest error over max(1e-3, max |reference|), one scale a tensor.
GRAD_TOLERANCE = 1e-4
# EagleNet in float32: the gradient of loss_fct.temp_prior cancels to a small difference of large sums.
GRAD_TOLERANCE_FP32: dict[str, float] = {"eaglenet": 2e-4}
GRAD_FLOOR = 1e-3

# Analytically zero gradients (a bias that a softmax cannot see) are compared absolutely.
ZERO_TOLERANCE = {"fp64": 1e-7, "fp32": 1e-5}

# TC-MGC at lambda = 100: the second softmax is saturated, so the six ISA matrices' gradients are as small as 1e-22
# and lie below the floor above; they are compared relative to their own size, and in float64 only.
RELATIVE_GRAD_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Closeness:
    """Compare results of one method in one precision by the table above.

    dtype: of our run. reference: precision in which the authors' code ran. file: where their float32 results are looked
    up beside the float64 ones (`GoldenFile.authors`); the files of dmae, eaglenet, gare, glccl and tcmgc hold one
    precision only, and the table stands for them. Failing raises AssertionError with the tensor's name, the largest
    error in units of the tolerance, and where it is.
    """

    method: str
    dtype: torch.dtype
    reference: Literal["fp64", "fp32"] = "fp64"
    file: GoldenFile | None = None

    @property
    def precision(self) -> str:
        return "fp64" if self.dtype == torch.float64 else "fp32"

    @property
    def value_tolerance(self) -> float:
        if self.precision == "fp32" and self.method in VALUE_TOLERANCE_FP32:
            return VALUE_TOLERANCE_FP32[self.method]
        stored = "" if self.file is None else self.file.config.get("outputs")
        if self.precision == self.reference == "fp64" and stored == "float64":
            return EXACT_TOLERANCE
        return VALUE_TOLERANCE[self.precision, self.reference]

    @property
    def grad_tolerance(self) -> float:
        return GRAD_TOLERANCE_FP32.get(self.method, GRAD_TOLERANCE) if self.precision == "fp32" else GRAD_TOLERANCE

    def value(self, name: str, got: Tensor, ref: Tensor, *, authors: Tensor | None = None) -> None:
        """Forward values and loss terms. authors: the same by the authors' code in float32, else as `file` has it."""
        got, ref = _pair(name, got, ref)
        scale = ref.abs().clamp_min(1.0)
        _assert_below(name, got, ref, self._allowed(name, self.value_tolerance, ref, scale, authors) * scale)

    def grad(self, name: str, got: Tensor | None, ref: Tensor, *, authors: Tensor | None = None) -> None:
        """Gradients. None stands for a gradient that nothing reached and equals zero. authors: as in `value`."""
        got, ref = _pair(name, torch.zeros_like(ref) if got is None else got, ref)
        scale = ref.abs().max().clamp_min(GRAD_FLOOR) if ref.numel() else ref.new_tensor(GRAD_FLOOR)
        scale = scale.expand_as(ref)
        _assert_below(name, got, ref, self._allowed(name, self.grad_tolerance, ref, scale, authors) * scale)

    def relative_grad(self, name: str, got: Tensor, ref: Tensor) -> None:
        """Gradients that may be far below the floor of `grad`, relative to their own largest entry."""
        got, ref = _pair(name, got, ref)
        _assert_below(name, got, ref, (RELATIVE_GRAD_TOLERANCE * ref.abs().max()).expand_as(ref))

    def zero(self, name: str, got: Tensor | None) -> None:
        """A gradient that is zero by analysis."""
        if got is None:
            return
        got, ref = _pair(name, got, torch.zeros_like(got))
        _assert_below(name, got, ref, torch.full_like(ref, ZERO_TOLERANCE[self.precision]))

    def _allowed(self, name: str, table: float, ref: Tensor, scale: Tensor, authors: Tensor | None) -> float:
        """Return the tolerance of a tensor: the table's, or twice the authors' own float32 error where that is more."""
        if authors is None and self.file is not None:
            authors = self.file.authors(name)
        if self.precision == "fp64" or self.reference == "fp32" or authors is None or not ref.numel():
            return table
        error = _pair(f"{name} (the authors' in float32)", authors, ref)[0] - ref
        return max(table, 2 * float((error.abs() / scale).max()))


def assert_close(name: str, got: Tensor, ref: Tensor, kind: str = "value", *, method: str, dtype: torch.dtype) -> None:
    """Compare one tensor; kind: value, grad, relative_grad, or value-fp32 where the reference ran in float32."""
    what, _, reference = kind.partition("-")
    close = Closeness(method, dtype, "fp32" if reference == "fp32" else "fp64")
    {"value": close.value, "grad": close.grad, "relative_grad": close.relative_grad}[what](name, got, ref)


def _pair(name: str, got: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    assert got.shape == ref.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(ref.shape)}"
    return got.detach().double().cpu(), ref.detach().double().cpu()


def _assert_below(name: str, got: Tensor, ref: Tensor, allowed: Tensor) -> None:
    error = (got - ref).abs()
    worst = (error / allowed).nan_to_num(nan=float("inf")).flatten()
    if not worst.numel() or worst.max() <= 1:
        return
    at = tuple(int(i) for i in torch.unravel_index(worst.argmax(), got.shape)) if got.dim() else ()
    raise AssertionError(
        f"{name}: {worst.max():.3g} times the tolerance at {at}: got {got[at]:.9g}, expected {ref[at]:.9g}, "
        f"allowed error {allowed[at]:.3g}; {int((worst > 1).sum())} of {worst.numel()} entries are off"
    )


# -------------------------------------------------------------------------------------------------------- discovery


def cases(method: str) -> list[tuple[str, Path]]:
    """Return (id, path) of every golden file of a method, committed ones first. The id is `<method>-<file stem>`."""
    folders = [COMMITTED / method]
    if (outside := golden_dir()) is not None:
        folders.append(outside / method / "golden")
    return [(f"{method}-{p.stem}", p) for folder in folders for p in sorted(folder.glob("*.safetensors"))]


def golden_dir() -> Path | None:
    """Return the folder of full golden files: TVR_GOLDEN_DIR, else `../shared/methods`, or None where there is none."""
    named = os.environ.get("TVR_GOLDEN_DIR")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "methods"
    return folder if folder.is_dir() else None


def params(
    method: str, *variants: Iterable[str] | Callable[[Path], Iterable[str]], needs: str | None = None
) -> list[Any]:
    """Return pytest params (path, *variant, dtype) with ids `<method>-<file stem>-<variant>…-<dtype>`.

    variants: strings, or a function of the path such as `cases_with(".out.sim")`. needs: a tensor name (or its
    beginning) without which a file is left out; compact files hold only some groups.
    """
    out = []
    for name, path in cases(method):
        if needs is not None and not any(k.startswith(needs) for k in _names(path)):
            continue
        combos: list[tuple[str, ...]] = [()]
        for variant in variants:
            choices = list(variant(path) if callable(variant) else variant)
            combos = [(*c, v) for c in combos for v in choices]
        for combo in combos:
            for label, dtype in DTYPES.items():
                out.append(pytest.param(path, *combo, dtype, id="-".join((name, *combo, label))))
    return out


def cases_with(ending: str) -> Callable[[Path], list[str]]:
    """Return a function path -> cases, those that have a tensor `<case><ending>`."""
    return lambda path: sorted(name.removesuffix(ending) for name in _names(path) if name.endswith(ending))


def _names(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class GoldenFile:
    """Tensors of one file, floating-point ones cast to the precision of the run, and its metadata.

    config: every metadata value that is JSON, parsed, with the objects under `config` and `arch` merged in.
    """

    path: Path
    dtype: torch.dtype
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def has(self, beginning: str) -> bool:
        """Whether any tensor's name starts so."""
        return any(k.startswith(beginning) for k in self.tensors)

    def authors(self, name: str) -> Tensor | None:
        """Return what the authors' code gives for a float64 result in float32, None where the file has that one only.

        `<case>.fp32.sim` lies beside `<case>.out.sim`, `<case>.fp32.grad.in.x` beside `<case>.grad.in.x`.
        """
        twin = re.sub(r"\.(out\.|(?=grad\.))", ".fp32.", name, count=1)
        return self.tensors.get(twin) if twin != name else None

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below a prefix (`param.`, `train.grad.`), the prefix removed."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def load(path: Path, dtype: torch.dtype) -> GoldenFile:
    """Read a golden file; floating-point tensors come in `dtype`, integers and masks as stored.

    The metadata key `with` names another file, relative to this one, whose tensors are added (its own win).
    """
    with safe_open(path, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = file.metadata() or {}
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    if "with" in metadata:
        tensors = {**load(path.parent / metadata["with"], dtype).tensors, **tensors}
    return GoldenFile(path, dtype, tensors, _parse(metadata))


def _parse(metadata: Mapping[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, text in metadata.items():
        try:
            out[key] = json.loads(text)
        except json.JSONDecodeError:
            out[key] = text
    for key in ("config", "arch"):
        if isinstance(out.get(key), dict):
            out = {**out, **out[key]}
    return out


def require_grad(*tensors: Tensor) -> list[Tensor]:
    """Return leaves with the same values whose gradients are recorded."""
    return [t.detach().clone().requires_grad_() for t in tensors]


# ------------------------------------------------------------------------------------------------------------ draws


class RecordedDraws:
    """Draws replayed from a file: a name of the loss -> the recorded tensor. Knows nothing else, invents nothing.

    recorded: for `keep` a bool or 0/1 tensor (a multiplier such as 1/0.7 counts as kept), for `permutation` integers.
    Asking for an unknown name or another shape is an error; `assert_all_used` catches draws that a loss forgot. Asking
    twice gives the same numbers: a loss that recomputes its forward pass does so.
    """

    def __init__(self, recorded: Mapping[str, Tensor] | None = None) -> None:
        self.recorded = dict(recorded or {})
        self.used: set[str] = set()

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        return self._take(name, shape)

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        return self._take(name, shape)

    def keep(self, name: str, shape: Sequence[int], drop: float) -> Tensor:
        return self._take(name, shape) != 0

    def permutation(self, name: str, n: int) -> Tensor:
        return self._take(name, (n,)).long()

    def assert_all_used(self) -> None:
        assert self.used == set(self.recorded), f"draws never asked for: {sorted(set(self.recorded) - self.used)}"

    def _take(self, name: str, shape: Sequence[int]) -> Tensor:
        assert name in self.recorded, f"the loss draws {name!r}; recorded are {sorted(self.recorded)}"
        value = self.recorded[name]
        assert tuple(value.shape) == tuple(shape), f"{name}: asked for {tuple(shape)}, recorded {tuple(value.shape)}"
        self.used.add(name)
        return value
