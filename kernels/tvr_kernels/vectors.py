"""A numba type for the compiled kernels: LANES float32 numbers, kept in vector registers.

Left to itself, LLVM turns a loop over lanes into code that writes every partial sum to memory and checks for aliases
each time; with a type of their own the sums of a whole kernel stay in registers. LANES is twice the width of the
machine's vector unit, so that two independent chains hide the latency of a multiply-add. Arithmetic is +, -, *, /
between vectors, or of a vector and a number; `contract` (fused multiply-add) is the only flag that changes rounding.
Needs the extra `fast`.
"""

from __future__ import annotations

import operator
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import lower_builtin, models, register_model
from numba.np.arrayobj import make_array

LANES = 32 if llvm.get_host_cpu_features().get("avx512f") else 16

jit: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
intrinsic: Any = extending.intrinsic


class Vector(types.Type):
    """The numba type; its values exist inside compiled functions only."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


vector = Vector()
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any):
        super().__init__(manager, numba_type, _FLOATS)


@intrinsic
def load(typing, array, index):
    """Return LANES numbers of a contiguous float32 array from `index`, a tuple of ints, on. Nothing is checked."""

    def generate(context, builder, signature, arguments):
        value = builder.load(_pointer(context, builder, signature, arguments))
        value.align = 4
        return value

    return vector(array, index), generate


@intrinsic
def store(typing, array, index, value):
    """Write a vector to a contiguous float32 array from `index`, a tuple of ints, on."""

    def generate(context, builder, signature, arguments):
        written = builder.store(arguments[2], _pointer(context, builder, signature, arguments))
        written.align = 4
        return context.get_dummy_value()

    return types.none(array, index, vector), generate


@intrinsic
def prefetch(typing, array, index):
    """Ask for LANES numbers that will be read soon; beyond the end of the array nothing happens."""

    def generate(context, builder, signature, arguments):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        pointer = builder.bitcast(_pointer(context, builder, signature, arguments), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        for line in range(0, 4 * LANES, 64):
            place = builder.gep(pointer, [ir.Constant(ir.IntType(64), line)])
            builder.call(function, [place, *(ir.Constant(number, x) for x in (0, 3, 1))])  # to read, keep, data
        return context.get_dummy_value()

    return types.none(array, index), generate


@intrinsic
def splat(typing, number):
    """Return a vector of one number."""

    def generate(context, builder, signature, arguments):
        return _splat(builder, arguments[0])

    return vector(types.float32), generate


@intrinsic
def maximum(typing, a, b):
    """Return the larger number of each lane, `b` where one is NaN."""

    def generate(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return vector(vector, vector), generate


@intrinsic
def minimum(typing, a, b):
    """Return the smaller number of each lane, `b` where one is NaN."""

    def generate(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered("<", *arguments), *arguments)

    return vector(vector, vector), generate


@intrinsic
def where_greater(typing, a, b, x, y):
    """Return x in lanes where a > b, else y."""

    def generate(context, builder, signature, arguments):
        a, b, x, y = arguments
        return builder.select(builder.fcmp_ordered(">", a, b), x, y)

    return vector(vector, vector, vector, vector), generate


@intrinsic
def sqrt(typing, x):
    """Return the square root of each lane."""
    return vector(vector), _call("sqrt")


@intrinsic
def total(typing, x):
    """Return the sum of the lanes, added as a tree."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), _FLOATS])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{LANES}f32")
        return builder.call(function, [ir.Constant(ir.FloatType(), 0.0), *arguments], fastmath=("reassoc",))

    return types.float32(vector), generate


@intrinsic
def store_totals(typing, array, index, a, b, c, d):
    """Write `total` of four vectors to a contiguous float32 array from `index`, a tuple of ints, on."""

    def generate(context, builder, signature, arguments):
        a, b, c, d = (_fold(builder, x) for x in arguments[2:])
        sums = _add_pairs(builder, _add_pairs(builder, a, b), _add_pairs(builder, c, d))
        place = _pointer(context, builder, signature, arguments)
        written = builder.store(sums, builder.bitcast(place, sums.type.as_pointer()))
        written.align = 4
        return context.get_dummy_value()

    return types.none(array, index, vector, vector, vector, vector), generate


@intrinsic
def largest(typing, x):
    """Return the largest lane; undefined with NaN among them."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.FloatType(), [_FLOATS])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fmax.v{LANES}f32")
        return builder.call(function, arguments, fastmath=("nnan",))

    return types.float32(vector), generate


LOG2_E = np.float32(1.4426950216293335)
_LOG2_E_REST = np.float32(1.925963033500e-8)
_LOWEST, _LOWEST2 = np.float32(-87.0), np.float32(-126.0)
_ONE = np.float32(1.0)
# Added to a number and subtracted again it leaves the nearest whole number, which its low bits hold meanwhile.
_ROUNDER = np.float32(3 * 2**22)
# 2^r = 1 + r p(r) on |r| <= 1/2, fitted to 2e-9 of its value; with the rounding of float32, 8e-8
_P0, _P1, _P2 = np.float32(0.6931472055771), np.float32(0.24022648462281), np.float32(0.05550329035154)
_P3, _P4, _P5 = np.float32(0.00961837325135), np.float32(0.00133998482907), np.float32(0.00015370704816)


@jit
def exp(x):
    """Return exp of each lane, for lanes below 88; below -87 it is exp(-87), 1.6e-38."""
    x = maximum(x, splat(_LOWEST))
    shifted = multiply_add(x, splat(LOG2_E), splat(_ROUNDER))
    k = shifted - _ROUNDER
    r = multiply_add(x, splat(_LOG2_E_REST), multiply_add(x, splat(LOG2_E), splat(-_ONE) * k))
    return _scaled(_near_one(r), shifted)


@jit
def exp2(x):
    """Return 2 to the power of each lane, for lanes below 127; below -126 it is 2^-126, 1.2e-38.

    It costs three operations less than `exp`. In a softmax of x, 2^(x log2 e - max) will do: what rounding the product
    moves, 6e-8 of the exponent, is most where the weight is least.
    """
    x = maximum(x, splat(_LOWEST2))
    shifted = x + _ROUNDER
    return _scaled(_near_one(x - (shifted - _ROUNDER)), shifted)


@jit
def _near_one(r):
    """Return 2^r for |r| <= 1/2."""
    p = ((((_P5 * r + _P4) * r + _P3) * r + _P2) * r + _P1) * r + _P0
    return p * r + _ONE


@intrinsic
def multiply_add(typing, a, b, c):
    """Return a * b + c, rounded once where the machine can."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        return builder.call(function, arguments)

    return vector(vector, vector, vector), generate


@intrinsic
def _scaled(typing, x, shifted):
    """Return x * 2^k for shifted = _ROUNDER + k: k is added to the exponent's bits."""

    def generate(context, builder, signature, arguments):
        bits, k = (builder.bitcast(argument, _INTS) for argument in arguments)
        return builder.bitcast(builder.add(bits, builder.shl(k, ir.Constant(_INTS, [23] * LANES))), _FLOATS)

    return vector(vector, vector), generate


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array, index = signature.args[:2]
    if array.dtype != types.float32 or array.layout != "C" or array.ndim != len(index):
        raise TypeError(f"load and store take contiguous float32 arrays and a full index, found {array}, {index}")
    items = cgutils.unpack_tuple(builder, arguments[1], len(index))
    items = [context.cast(builder, i, kind, types.intp) for i, kind in zip(items, index.types, strict=True)]
    memory = make_array(array)(context, builder, arguments[0])
    pointer = cgutils.get_item_pointer(context, builder, array, memory, items, wraparound=False)
    return builder.bitcast(pointer, _FLOATS.as_pointer())


def _splat(builder: Any, number: Any) -> Any:
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _fold(builder: Any, x: Any) -> Any:
    """Add the upper half of a vector to the lower one until four lanes are left."""
    lanes = LANES
    while lanes > 4:
        lanes //= 2
        low, high = (_shuffle(builder, x, x, range(first, first + lanes)) for first in (0, lanes))
        x = builder.fadd(low, high)
    return x


def _add_pairs(builder: Any, a: Any, b: Any) -> Any:
    """Return [a0 + a1, a2 + a3, b0 + b1, b2 + b3]."""
    return builder.fadd(_shuffle(builder, a, b, range(0, 8, 2)), _shuffle(builder, a, b, range(1, 8, 2)))


def _shuffle(builder: Any, a: Any, b: Any, lanes: range) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


def _call(name: str) -> Any:
    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_FLOATS, [_FLOATS])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), arguments)

    return generate


def _arithmetic(symbol: Any, instruction: str) -> None:
    @infer_global(symbol)
    class Operator(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and vector in args and all(x == vector or isinstance(x, types.Float) for x in args):
                return signature(vector, *(x if x == vector else types.float32 for x in args))
            return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pairs = zip(arguments, signature.args, strict=True)
        operands = [x if kind == vector else _splat(builder, x) for x, kind in pairs]
        return getattr(builder, instruction)(*operands, flags=("contract",))

    for kinds in ((vector, vector), (vector, types.float32), (types.float32, vector)):
        lower_builtin(symbol, *kinds)(generate)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_symbol, _instruction)
