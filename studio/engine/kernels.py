"""Loops that no library has, compiled by numba when first used: products of bytes, and what stands between them.

On a CPU a decode step waits for memory, if nothing else is in the way. These read weights in the order in which they
lie and multiply four pairs of bytes a lane at once (x86's VNNI). Addresses, not arrays: what is called a million times
a second makes no views. Sums of bytes are exact, so a result does not depend on who computes beside it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # outputs of a block, in one 512-bit register
GROUP = 4  # bytes that a lane takes at once
LINE = LANES * GROUP  # bytes of a register
HEAD = 64  # channels of an attention head, in all of the family
KEY_BITS, VALUE_BITS = 5, 6  # of a channel: a long sequence's keys and values are as much to read as weights are
KEY_MIDDLE, VALUE_MIDDLE = 2 ** (KEY_BITS - 1), 2 ** (VALUE_BITS - 1)  # how 0 is stored
KEY_LINES = HEAD * LANES * KEY_BITS // (8 * LINE) + 1  # of LANES positions, and one for the scales
VALUE_LINES = HEAD * GROUP * VALUE_BITS // (8 * LINE)  # of GROUP positions

_BYTE, _INT, _LONG, _FLOAT = *map(ir.IntType, (8, 32, 64)), ir.FloatType()
_INTS, _FLOATS, _BYTES = ir.VectorType(_INT, LANES), ir.VectorType(_FLOAT, LANES), ir.VectorType(_BYTE, LINE)
_FIRST = ir.Constant(_INTS, [0] * LANES)
_AHEAD = 2048  # bytes before its use that a line of weights is asked for
_FIRST_CACHE, _SECOND_CACHE = 3, 2

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


def _constant(byte: int) -> Any:
    """Each byte of a register."""
    return ir.Constant(_INTS, [int.from_bytes(bytes([byte] * 4), "little")] * LANES)


def _moved(b: Any, line: Any, by: int) -> Any:
    """Bits towards the high end, or the low one where `by` is negative."""
    if by == 0:
        return line
    amount = ir.Constant(_INTS, [abs(by)] * LANES)
    return b.shl(line, amount) if by > 0 else b.lshr(line, amount)


def _unpacked(b: Any, low: Any, at_low: int, high: Any, at_high: int, mask: int) -> Any:
    """Bytes of four bits that begin at bit `at_low` of the bytes of `low`, below those at bit `at_high` of `high`."""
    four = b.and_(_moved(b, low, -at_low), _constant(0x0F))
    return b.or_(four, b.and_(_moved(b, high, 4 - at_high), _constant(mask << 4)))


def _each(b: Any, number: Any) -> Any:
    """A number in each lane."""
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    return b.shuffle_vector(b.insert_element(undefined, number, ir.Constant(_INT, 0)), undefined, _FIRST)


def _everywhere(b: Any, address: Any, by: int = 0) -> Any:
    """The four bytes at an address, in each lane."""
    return _each(b, b.load(_at(b, address, _INT, by), align=GROUP))


def _multiply(b: Any) -> Any:
    """sums + the sums of four products of an unsigned byte and a signed one."""
    return cgutils.get_or_insert_function(b.module, ir.FunctionType(_INTS, [_INTS] * 3), "llvm.x86.avx512.vpdpbusd.512")


def _lines(b: Any, address: Any, count: int, ahead: Any, cache: int) -> Iterator[Any]:
    """Registers that lie one after the other; as many lines from `ahead` are asked for."""
    for line in range(count):
        loaded = b.load(_at(b, address, _INTS, LINE * line), align=LINE)
        _ask(b, b.add(ahead, ir.Constant(_LONG, LINE * line)), cache)
        yield loaded


def _ask(b: Any, address: Any, cache: int) -> None:
    """Have a line brought from memory into the first cache or the second."""
    prefetch = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(ir.VoidType(), [ir.PointerType(_BYTE), *[_INT] * 3]), "llvm.prefetch.p0"
    )
    to_read, data = 0, 1
    b.call(prefetch, [_at(b, address, _BYTE), *(ir.Constant(_INT, hint) for hint in (to_read, cache, data))])


def _products(rows: int, unrolled: int) -> Any:
    """block(weights, x, stride, groups, out): out[r, lane] = the sum of x[r, k] · weights[k, lane].

    weights: int8 [groups, LANES, GROUP], one after the other in memory; x: uint8 rows of groups · GROUP, `stride` bytes
    apart; out: int32 [rows, LANES]. `groups` is a multiple of `unrolled`.
    """

    @instructions
    def block(_context: Any, weights: Any, x: Any, stride: Any, groups: Any, out: Any) -> Any:
        def generate(context: Any, b: Any, _signature: Any, args: Any) -> Any:
            weights, x, stride, groups, out = args
            multiply = _multiply(b)

            def body(group: Any, sums: list[Any]) -> list[Any]:
                found = []
                here = b.add(weights, b.mul(group, ir.Constant(_LONG, LINE)))
                ahead = b.add(here, ir.Constant(_LONG, _AHEAD))
                for u, loaded in enumerate(_lines(b, here, unrolled, ahead, _FIRST_CACHE)):
                    for r in range(rows):
                        place = b.add(b.mul(stride, ir.Constant(_LONG, r)), b.mul(group, ir.Constant(_LONG, GROUP)))
                        four = _everywhere(b, b.add(x, place), GROUP * u)
                        found.append(b.call(multiply, [sums[u * rows + r], four, loaded]))
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


@instructions
def likeness(
    _context: Any, keys: Any, query: Any, middle: Any, scale: Any, scores: Any, others: Any, ahead: Any
) -> Any:
    """scores[LANES] = the products of a query, `scale` times int8 [HEAD], with LANES keys [KEY_LINES, LINE].

    `middle` is what the query makes of the numbers that stand for 0. The last line has two scales a lane: the low half
    is the key's, the high half goes to others[LANES]. As much as the keys take is asked for from `ahead`.
    """

    def generate(context: Any, b: Any, _signature: Any, args: Any) -> Any:
        keys, query, middle, scale, scores, others, ahead = args
        *lines, scales = _lines(b, keys, KEY_LINES, ahead, _SECOND_CACHE)
        multiply, groups = _multiply(b), HEAD // GROUP
        sums = [ir.Constant(_INTS, [0] * LANES)] * 2
        for group in range(groups):
            half, line = divmod(group, groups // 2)
            four = _unpacked(b, lines[line], 4 * half, lines[groups // 2 + half], line, 1)
            sums = [sums[1], b.call(multiply, [sums[0], four, _everywhere(b, query, GROUP * group)])]
        whole = b.sitofp(b.sub(b.add(*sums), _each(b, middle)), _FLOATS)
        each = b.fmul(b.bitcast(_moved(b, scales, 16), _FLOATS), _each(b, scale))
        b.store(b.fmul(whole, each), _at(b, scores, _FLOATS), align=4)
        b.store(b.and_(scales, ir.Constant(_INTS, [0xFFFF0000] * LANES)), _at(b, others, _INTS), align=4)
        return context.get_dummy_value()

    long, whole, number = types.int64, types.int32, types.float32
    return types.void(long, long, whole, number, long, long, long), generate


@instructions
def halve(_context: Any, weights: Any, by: Any, high: Any, low: Any, ahead: Any) -> Any:
    """weights[LANES] · by, rounded: the high bytes and the low ones. The line at `ahead` is asked for."""

    def generate(context: Any, b: Any, _signature: Any, args: Any) -> Any:
        weights, by, high, low, ahead = args
        _ask(b, ahead, _SECOND_CACHE)
        loaded = b.load(_at(b, weights, _FLOATS), align=4)
        exact = b.fadd(b.fmul(loaded, _each(b, by)), ir.Constant(_FLOATS, [0.5] * LANES))
        whole, bytes_ = b.fptosi(exact, _INTS), ir.VectorType(_BYTE, LANES)
        b.store(b.trunc(_moved(b, whole, -8), bytes_), _at(b, high, bytes_), align=GROUP)
        b.store(b.trunc(whole, bytes_), _at(b, low, bytes_), align=GROUP)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, *[types.int64] * 3), generate


@instructions
def mixture(_context: Any, values: Any, high: Any, low: Any, groups: Any, out: Any, ahead: Any) -> Any:
    """out[2, HEAD] = the sums of weights times values: of their high bytes, and of their low ones.

    values: [groups, VALUE_LINES, LINE] of VALUE_BITS, 0 being VALUE_MIDDLE, GROUP positions each; high, low: uint8
    [groups, GROUP]. As much is asked for from `ahead`.
    """

    def generate(context: Any, b: Any, _signature: Any, args: Any) -> Any:
        values, high, low, groups, out, ahead = args
        multiply, parts = _multiply(b), HEAD // LANES

        def body(group: Any, sums: list[Any]) -> list[Any]:
            place = b.mul(group, ir.Constant(_LONG, VALUE_LINES * LINE))
            *fours, twos = _lines(b, b.add(values, place), VALUE_LINES, b.add(ahead, place), _SECOND_CACHE)
            place = b.mul(group, ir.Constant(_LONG, GROUP))
            weights = [_everywhere(b, b.add(bytes_, place)) for bytes_ in (high, low)]
            found = []
            for part in range(parts):
                number = _unpacked(b, fours[part // 2], 4 * (part % 2), twos, 2 * part, 3)
                found += [b.call(multiply, [sums[2 * part + n], weights[n], number]) for n in range(2)]
            return found

        sums = _loop(b, groups, 1, [ir.Constant(_INTS, [0] * LANES)] * (2 * parts), body)
        for part in range(parts):
            for n in range(2):
                b.store(sums[2 * part + n], _at(b, out, _INTS, 4 * (n * HEAD + part * LANES)), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@instructions
def bits_of_float(_context: Any, number: Any) -> Any:
    """The bits of a float32, as an int32."""

    def generate(_context: Any, b: Any, _signature: Any, args: Any) -> Any:
        return b.bitcast(args[0], _INT)

    return types.int32(types.float32), generate


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
