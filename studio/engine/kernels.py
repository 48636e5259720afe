"""Loops that no library has, compiled by numba when first used: products of bytes, and what stands between them.

On a CPU a decode step waits for memory, if nothing else is in the way. These read weights in the order in which they
lie and multiply four pairs of bytes a lane at once (x86's VNNI). Addresses, not arrays: what is called a million times
a second makes no views. Sums of bytes are exact, so a result does not depend on who computes beside it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # outputs of a block, in one 512-bit register
GROUP = 4  # bytes that a lane takes at once
HEAD = 64  # channels of an attention head, in all of the family

_BYTE, _INT, _LONG, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_INTS, _FLOATS, _BYTES = (ir.VectorType(kind, LANES) for kind in (_INT, _FLOAT, _BYTE))
_UNDEFINED, _FIRST = ir.Constant(_INTS, ir.Undefined), ir.Constant(_INTS, [0] * LANES)
_AHEAD = 2048  # bytes: so far before its use a weight is asked for

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered and contracted, but what is not a number stays so; to divide by zero is no error.
ARITHMETIC: dict[str, Any] = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, "error_model": "numpy"}


def part(function: Function) -> Function:
    """Compiled as a part of what calls it."""
    compiled: Function = njit(**ARITHMETIC)(function)
    return compiled


def whole(function: Function) -> Function:
    """Compiled, and kept for the next process where there is a folder for it; runs without the interpreter lock."""
    try:
        compiled: Function = njit(nogil=True, cache=True, **ARITHMETIC)(function)
    except RuntimeError:  # numba found none
        compiled = njit(nogil=True, **ARITHMETIC)(function)
    return compiled


def instructions(function: Callable[..., Any]) -> Callable[..., Any]:
    """Written in LLVM's instructions; the caller leaves out the first argument, which is the compiler's."""
    generated: Callable[..., Any] = intrinsic(function)
    return generated


@cache
def here() -> bool:
    """Whether this processor has the instructions."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    features = binding.get_host_cpu_features()
    return bool(features.get("avx512vnni") and features.get("avx512f"))


def _at(b: Any, address: Any, kind: Any, by: int = 0) -> Any:
    """A pointer to `kind`, `by` bytes after an address."""
    return b.inttoptr(b.add(address, ir.Constant(_LONG, by)) if by else address, ir.PointerType(kind))


def _loop(b: Any, count: Any, step: int, initial: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """for n in range(0, count, step): carried = body(n, carried); count is at least 1."""
    before, inside, after = b.block, b.append_basic_block(), b.append_basic_block()
    b.branch(inside)
    b.position_at_end(inside)
    n = b.phi(_LONG)
    n.add_incoming(ir.Constant(_LONG, 0), before)
    carried = [b.phi(value.type) for value in initial]
    for phi, value in zip(carried, initial, strict=True):
        phi.add_incoming(value, before)
    results = body(n, carried)
    following = b.add(n, ir.Constant(_LONG, step))
    n.add_incoming(following, b.block)
    for phi, value in zip(carried, results, strict=True):
        phi.add_incoming(value, b.block)
    b.cbranch(b.icmp_signed("<", following, count), inside, after)
    b.position_at_end(after)
    return results


def _products(rows: int, unrolled: int) -> Any:
    """block(weights, x, stride, groups, out): out[r, lane] = the sum of x[r, k] · weights[k, lane].

    weights: int8 [groups, LANES, GROUP], one after the other in memory; x: uint8 rows of groups · GROUP, `stride` bytes
    apart; out: int32 [rows, LANES]. `groups` is a multiple of `unrolled`.
    """

    @instructions
    def block(_context: Any, weights: Any, x: Any, stride: Any, groups: Any, out: Any) -> Any:
        def generate(context: Any, b: Any, _signature: Any, args: Any) -> Any:
            weights, x, stride, groups, out = args
            multiply = cgutils.get_or_insert_function(
                b.module, ir.FunctionType(_INTS, [_INTS] * 3), "llvm.x86.avx512.vpdpbusd.512"
            )
            prefetch = cgutils.get_or_insert_function(
                b.module, ir.FunctionType(ir.VoidType(), [ir.PointerType(_BYTE), *[_INT] * 3]), "llvm.prefetch.p0"
            )

            def body(group: Any, sums: list[Any]) -> list[Any]:
                here = b.add(weights, b.mul(group, ir.Constant(_LONG, LANES * GROUP)))
                found = []
                for u in range(unrolled):
                    loaded = b.load(_at(b, here, _INTS, LANES * GROUP * u), align=LANES * GROUP)
                    hint = (0, 3, 1)  # to read, soon again, data
                    ahead = _at(b, here, _BYTE, LANES * GROUP * u + _AHEAD)
                    b.call(prefetch, [ahead, *(ir.Constant(_INT, number) for number in hint)])
                    for r in range(rows):
                        place = b.add(b.mul(stride, ir.Constant(_LONG, r)), b.mul(group, ir.Constant(_LONG, GROUP)))
                        four = b.load(_at(b, b.add(x, place), _INT, GROUP * u), align=GROUP)
                        everywhere = b.shuffle_vector(
                            b.insert_element(_UNDEFINED, four, ir.Constant(_INT, 0)), _UNDEFINED, _FIRST
                        )
                        found.append(b.call(multiply, [sums[u * rows + r], everywhere, loaded]))
                return found

            sums = _loop(b, groups, unrolled, [ir.Constant(_INTS, [0] * LANES)] * (rows * unrolled), body)
            for r in range(rows):
                total = sums[r]
                for u in range(1, unrolled):
                    total = b.add(total, sums[u * rows + r])
                b.store(total, _at(b, out, _INTS, 4 * LANES * r), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return block


two_rows = _products(2, 2)  # the rows of a request: weights come from memory once for both
four_rows = _products(4, 2)  # of two requests
one_row = _products(1, 4)  # keys of one sequence


@instructions
def mixture(_context: Any, values: Any, weights: Any, count: Any, out: Any) -> Any:
    """out[HEAD] = the sum of weights[n] · values[n, HEAD], of int8 values and float32 weights, over `count` of them."""

    def generate(context: Any, b: Any, _signature: Any, args: Any) -> Any:
        values, weights, count, out = args
        parts = range(HEAD // LANES)

        def body(n: Any, sums: list[Any]) -> list[Any]:
            weight = b.load(_at(b, b.add(weights, b.mul(n, ir.Constant(_LONG, 4))), _FLOAT), align=4)
            first = b.insert_element(ir.Constant(_FLOATS, ir.Undefined), weight, ir.Constant(_INT, 0))
            everywhere = b.shuffle_vector(first, ir.Constant(_FLOATS, ir.Undefined), _FIRST)
            here = b.add(values, b.mul(n, ir.Constant(_LONG, HEAD)))
            bytes_ = [b.load(_at(b, here, _BYTES, LANES * part), align=LANES) for part in parts]
            numbers = [b.sitofp(b.sext(each, _INTS), _FLOATS) for each in bytes_]
            flags = ("reassoc", "contract")
            return [
                b.fadd(total, b.fmul(everywhere, each, flags=flags), flags=flags)
                for total, each in zip(sums, numbers, strict=True)
            ]

        sums = _loop(b, count, 1, [ir.Constant(_FLOATS, [0.0] * LANES) for _ in parts], body)
        for part, total in enumerate(sums):
            b.store(total, _at(b, out, _FLOATS, 4 * LANES * part), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@instructions
def float_of_bits(_context: Any, bits: Any) -> Any:
    """The float32 that an int32 is the bits of."""

    def generate(_context: Any, b: Any, _signature: Any, args: Any) -> Any:
        return b.bitcast(args[0], _FLOAT)

    return types.float32(types.int32), generate


@instructions
def arrive(_context: Any, counter: Any) -> Any:
    """Add 1 to the int64 at an address, for all threads to see."""

    def generate(context: Any, b: Any, _signature: Any, args: Any) -> Any:
        b.atomic_rmw("add", _at(b, args[0], _LONG), ir.Constant(_LONG, 1), "acq_rel")
        return context.get_dummy_value()

    return types.void(types.int64), generate


@instructions
def arrived(_context: Any, counter: Any) -> Any:
    """The int64 at an address, as other threads have left it."""

    def generate(_context: Any, b: Any, _signature: Any, args: Any) -> Any:
        return b.load_atomic(_at(b, args[0], _LONG), "acquire", 8)

    return types.int64(types.int64), generate


@instructions
def pause(_context: Any) -> Any:
    """A moment's rest of a thread that waits for another."""

    def generate(context: Any, b: Any, _signature: Any, _args: Any) -> Any:
        b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@instructions
def step_aside(_context: Any) -> Any:
    """Let another thread have this core (POSIX's sched_yield)."""

    def generate(context: Any, b: Any, _signature: Any, _args: Any) -> Any:
        b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(_INT, []), "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


F = np.float32


@part
def exp(x: Any) -> Any:
    """e^x of a float32 that is not positive, to 4e-6, in arithmetic that becomes vectors (Cephes' exp2f)."""
    scaled = max(x, F(-87.0)) * F(1.44269504)
    whole = np.int32(scaled - F(0.5))
    p = scaled - F(whole)
    y = ((F(1.535336188e-4) * p + F(1.339887440e-3)) * p + F(9.618437357e-3)) * p + F(5.550332471e-2)
    y = ((y * p + F(2.402264791e-1)) * p + F(6.931472028e-1)) * p + F(1.0)
    return y * float_of_bits((whole + np.int32(127)) << np.int32(23))


@part
def gelu(x: Any) -> Any:
    """x · Φ(x) of a float32, with the error function as a quotient of polynomials (Eigen's, to 1e-6)."""
    z = min(max(x * F(0.70710678), F(-4.0)), F(4.0))
    q = z * z
    over = (F(-2.72614225801306e-10) * q + F(2.77068142495902e-08)) * q + F(-2.10102402082508e-06)
    over = ((over * q + F(-5.69250639462346e-05)) * q + F(-7.34990630326855e-04)) * q + F(-2.95459980854025e-03)
    over = (over * q + F(-1.60960333262415e-02)) * z
    under = (F(-1.45660718464996e-05) * q + F(-2.13374055278905e-04)) * q + F(-1.68282697438203e-03)
    under = (under * q + F(-7.37332916720468e-03)) * q + F(-1.42647390514189e-02)
    return F(0.5) * x * (F(1.0) + over / under)
