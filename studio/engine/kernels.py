"""Loops that no library has, compiled by numba when first used: products of a step's rows and weights, and what stands
between them.

On a CPU a decode step waits for memory, if nothing else is in the way. These read weights in the order in which they
lie: as bytes, four pairs of which a lane multiplies at once (x86's VNNI; AVX2 takes a few instructions for it), or as
bfloat16, which are the high halves of float32. Addresses, not arrays: what is called a million times a second makes no
views. Sums of bytes are exact, and those of floats are added up in the same order for any number of rows, so a result
does not depend on who computes beside it.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic

LANES = 16  # outputs of a block, in one 512-bit register, or two of 256 bits
GROUP = 4  # bytes that a lane takes at once,
PAIR = 2  # or bfloat16
LINE = LANES * GROUP  # bytes of a register
HEAD = 64  # channels of an attention head, in all of the family
KEY_LINES = HEAD * LANES // (2 * LINE)  # of LANES positions, in 4 bits each
VALUE_LINES = HEAD * GROUP // (2 * LINE)  # of GROUP positions, the same; in 2 bits it is one

_BYTE, _INT, _LONG, _FLOAT = *map(ir.IntType, (8, 32, 64)), ir.FloatType()
_INTS, _FLOATS, _SHORTS = (ir.VectorType(kind, LANES) for kind in (_INT, _FLOAT, ir.IntType(16)))
_EIGHT_INTS, _HALF = ir.VectorType(_INT, LANES // 2), ir.VectorType(_BYTE, LINE // 2)  # half a register
_FIRST = ir.Constant(_INTS, [0] * LANES)
_HIGH = ir.Constant(_INTS, [0xFFFF0000] * LANES)
_AHEAD = 8192  # bytes before its use that a line of weights is asked for

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered and contracted, but what is not a number stays so; to divide by zero is no error.
ARITHMETIC: dict[str, Any] = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, "error_model": "numpy"}
# Of a row's last additions: a harmless flag. Numba leaves flags that are there; its own would let them be added up in
# another order among other rows.
ORDERED = ("nsz",)


def part(function: Function) -> Function:
    """Compiled into what calls it: a call would hand over, and count references to, dozens of arrays."""
    compiled: Function = njit(forceinline=True, **ARITHMETIC)(function)
    return compiled


def whole(function: Function) -> Function:
    """Compiled, and kept for the next process where there is a folder for it; runs without the interpreter lock.

    Numba compiles anew when the file changes that has the function; the folder's name sees to it when this one does.
    """
    file, folder = Path(__file__), config.CACHE_DIR
    kernels = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    config.CACHE_DIR = str(Path(folder or file.parent / "__pycache__") / f"kernels-{kernels}")
    try:
        compiled: Function = njit(nogil=True, cache=True, **ARITHMETIC)(function)
    except RuntimeError:  # numba found none
        compiled = njit(nogil=True, **ARITHMETIC)(function)
    finally:
        config.CACHE_DIR = folder
    return compiled


def instructions(function: Callable[..., Any]) -> Callable[..., Any]:
    """Written in LLVM's instructions; the caller leaves out the first argument, which is the compiler's."""
    generated: Callable[..., Any] = intrinsic(function)
    return generated


@cache
def features() -> frozenset[str]:
    """What the processor has that numba compiles for: this one, unless NUMBA_CPU_FEATURES says otherwise."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    if config.CPU_FEATURES is not None:
        return frozenset(name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+"))
    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)


def here() -> bool:
    """Whether this processor has the instructions."""
    return {"avx2", "fma"} <= features()


def _wide() -> bool:
    return {"avx512f", "avx512bw", "avx512vnni"} <= features()


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


def _parts(b: Any, line: Any, bits: int) -> list[Any]:
    """The lowest bits of each byte, the next ones, and so on to the highest."""
    return [b.and_(_moved(b, line, -least), _constant((1 << bits) - 1)) for least in range(0, 8, bits)]


def _each(b: Any, number: Any) -> Any:
    """A number in each lane."""
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    return b.shuffle_vector(b.insert_element(undefined, number, ir.Constant(_INT, 0)), undefined, _FIRST)


def _everywhere(b: Any, address: Any, by: int = 0) -> Any:
    """The four bytes at an address, in each lane."""
    return _each(b, b.load(_at(b, address, _INT, by), align=GROUP))


def _call(b: Any, name: str, result: Any, *given: Any) -> Any:
    """An instruction by its name."""
    kind = ir.FunctionType(result, [each.type for each in given])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), given)


def _add_product(b: Any, sums: Any, one: Any, other: Any) -> Any:
    """sums + one · other, of floats."""
    return _call(b, "llvm.fma.v16f32", _FLOATS, one, other, sums)


def _add_products(b: Any, sums: Any, unsigned: Any, signed: Any, small: bool = False) -> Any:
    """sums + the products of four unsigned bytes in each lane with four signed ones; `small` are those of which two
    add up to no more than 16 bits."""
    if _wide():
        return _call(b, "llvm.x86.avx512.vpdpbusd.512", _INTS, sums, unsigned, signed)
    lanes, halves = list(range(LANES)), []
    for half in (lanes[: LANES // 2], lanes[LANES // 2 :]):
        given = [b.shuffle_vector(each, each, ir.Constant(_EIGHT_INTS, half)) for each in (sums, unsigned, signed)]
        halves.append(_add_half(b, given, small))
    return b.shuffle_vector(*halves, ir.Constant(_INTS, lanes))


def _add_half(b: Any, given: Sequence[Any], small: bool) -> Any:
    """The same of half a register."""
    sums, unsigned, signed = given
    if "avxvnni" in features():
        return _call(b, "llvm.x86.avx512.vpdpbusd.256", _EIGHT_INTS, sums, unsigned, signed)

    def added_up(one: Any, other: Any) -> Any:
        """The sums of two products each, of 16 bits."""
        return _call(b, "llvm.x86.avx2.pmadd.wd", _EIGHT_INTS, one, other)

    if small:
        two = _call(b, "llvm.x86.avx2.pmadd.ub.sw", _SHORTS, *(b.bitcast(each, _HALF) for each in (unsigned, signed)))
        return b.add(sums, added_up(two, ir.Constant(_SHORTS, [1] * LANES)))
    unsigned, signed = (b.bitcast(each, _SHORTS) for each in (unsigned, signed))
    byte = ir.Constant(_SHORTS, [8] * LANES)
    even = added_up(b.and_(unsigned, ir.Constant(_SHORTS, [0xFF] * LANES)), b.ashr(b.shl(signed, byte), byte))
    return b.add(b.add(sums, even), added_up(b.lshr(unsigned, byte), b.ashr(signed, byte)))


def _floats(b: Any, line: Any) -> tuple[Any, Any]:
    """The bfloat16 in the low halves of a register as float32, and those in the high ones."""
    return b.bitcast(_moved(b, line, 16), _FLOATS), b.bitcast(b.and_(line, _HIGH), _FLOATS)


def _lines(b: Any, address: Any, count: int, ahead: Any, asked: int) -> Iterator[Any]:
    """Registers that lie one after the other; meanwhile `asked` lines from `ahead` are asked for."""
    for line in range(count):
        loaded = b.load(_at(b, address, _INTS, LINE * line), align=LINE)
        for one in range(asked * line // count, asked * (line + 1) // count):
            _ask(b, b.add(ahead, ir.Constant(_LONG, LINE * one)))
        yield loaded


def _ask(b: Any, address: Any) -> None:
    """Have a line brought from memory into the second cache."""
    to_read, second_cache, data = (ir.Constant(_INT, hint) for hint in (0, 2, 1))
    _call(b, "llvm.prefetch.p0", ir.VoidType(), _at(b, address, _BYTE), to_read, second_cache, data)


def _products(rows: int, unrolled: int, floats: bool) -> Any:
    """block(weights, x, stride, lines, scales, biases, own_scales, out, width, add): LANES outputs of a projection.

    out[r, lane] = the sum of x[r, k] · weights[k, lane], or is added to where `add` says so. Of int8 the sum is less
    biases[lane], an int32, and times scales[lane] and own_scales[r], both float32; bfloat16 has none of them.
    weights: `lines` registers, one after the other in memory, int8 [LANES, GROUP] or bfloat16 [LANES, PAIR]; x: rows of
    as many uint8 or float32, `stride` bytes apart; out: float32 rows, `width` bytes apart. `lines` is a multiple of
    `unrolled`.
    """
    kind, read = (_FLOATS, 4 * PAIR) if floats else (_INTS, GROUP)  # bytes of a row that a line is multiplied with
    add_product = _add_product if floats else _add_products

    @instructions
    def block(
        _context: Any, weights: Any, x: Any, stride: Any, lines: Any, scales: Any, biases: Any, own_scales: Any,
        out: Any, width: Any, add: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, b: Any, _signature: Any, args: Any) -> Any:
            weights, x, stride, lines, scales, biases, own_scales, out, width, add = args

            def body(line: Any, sums: list[Any]) -> list[Any]:
                found: list[Any] = []
                here = b.add(weights, b.mul(line, ir.Constant(_LONG, LINE)))
                begin = b.add(x, b.mul(line, ir.Constant(_LONG, read)))
                of_rows = [b.add(begin, b.mul(stride, ir.Constant(_LONG, r))) for r in range(rows)]
                loaded = _lines(b, here, unrolled, b.add(here, ir.Constant(_LONG, _AHEAD)), unrolled)
                for u, register in enumerate(loaded):
                    for at, numbers in enumerate(_floats(b, register) if floats else (register,)):
                        for place in of_rows:
                            given = b.bitcast(_everywhere(b, place, read * u + 4 * at), kind)
                            found.append(add_product(b, sums[len(found)], given, numbers))
                return found

            sums = _loop(b, lines, unrolled, [ir.Constant(kind, [0] * LANES)] * (rows * unrolled * read // 4), body)
            if not floats:
                bias, scale = b.load(_at(b, biases, _INTS), align=4), b.load(_at(b, scales, _FLOATS), align=4)
            for r in range(rows):
                total, *others = sums[r::rows]
                for other in others:
                    total = b.fadd(total, other, flags=ORDERED) if floats else b.add(total, other)
                if not floats:
                    own = b.fmul(scale, _each(b, b.load(_at(b, own_scales, _FLOAT, 4 * r), align=4)), flags=ORDERED)
                    total = b.fmul(b.sitofp(b.sub(total, bias), _FLOATS), own, flags=ORDERED)
                place = _at(b, b.add(out, b.mul(width, ir.Constant(_LONG, r))), _FLOATS)
                added = b.fadd(b.load(place, align=4), total, flags=ORDERED)
                b.store(b.select(add, added, total), place, align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9, types.boolean), generate

    return block


WIDE = _wide()  # there are registers for eight rows
_two_rows = _products(2, 2, floats=False)  # a request has two: weights come from memory once for both
_four_rows = _products(4, 2, floats=False)
_eight_rows = _products(8, 2, floats=False)
_two_float_rows = _products(2, 2, floats=True)
_four_float_rows = _products(4, 2, floats=True)


@part
def byte_products(rows: int, *given: Any) -> int:
    """`_products` of int8 for as many of the first rows as registers hold; `rows` is even. Returns how many."""
    if WIDE and rows >= 8:
        _eight_rows(*given)
        return 8
    if rows >= 4:
        _four_rows(*given)
        return 4
    _two_rows(*given)
    return 2


@part
def float_products(rows: int, *given: Any) -> int:
    """The same of bfloat16."""
    if rows >= 4:
        _four_float_rows(*given)
        return 4
    _two_float_rows(*given)
    return 2


@instructions
def likeness(
    _context: Any, keys: Any, scales: Any, query: Any, middle: Any, by: Any, scores: Any, others: Any, ahead: Any
) -> Any:
    """scores[LANES] = (the products of a query, int8 [HEAD], with LANES keys [KEY_LINES, LINE] - middle) · by · scale.

    scales: two to a lane; the low half is the key's, the high half goes to others[LANES]. As much as as many values
    take in 2 bits is asked for from `ahead`.
    """

    def generate(context: Any, b: Any, _signature: Any, args: Any) -> Any:
        keys, scales, query, middle, by, scores, others, ahead = args
        sums = [ir.Constant(_INTS, [0] * LANES)] * 2
        for n, line in enumerate(_lines(b, keys, KEY_LINES, ahead, LANES // GROUP)):
            for half, numbers in enumerate(_parts(b, line, 4)):
                four = _everywhere(b, query, HEAD // 2 * half + GROUP * n)
                sums[half] = _add_products(b, sums[half], numbers, four, small=True)
        whole = b.fsub(b.sitofp(b.add(*sums), _FLOATS), _each(b, middle))
        both = b.load(_at(b, scales, _INTS), align=LINE)
        each = b.fmul(b.bitcast(_moved(b, both, 16), _FLOATS), _each(b, by))
        b.store(b.fmul(whole, each), _at(b, scores, _FLOATS), align=4)
        b.store(b.and_(both, _HIGH), _at(b, others, _INTS), align=4)
        return context.get_dummy_value()

    long, number = types.int64, types.float32
    return types.void(long, long, long, number, number, long, long, long), generate


@instructions
def any_above(_context: Any, numbers: Any, least: Any) -> Any:
    """Whether one of numbers[LANES] is greater."""

    def generate(_context: Any, b: Any, _signature: Any, args: Any) -> Any:
        loaded = b.load(_at(b, args[0], _FLOATS), align=4)
        lanes = ir.IntType(LANES)
        return b.icmp_unsigned(
            "!=", b.bitcast(b.fcmp_ordered(">", loaded, _each(b, args[1])), lanes), ir.Constant(lanes, 0)
        )

    return types.boolean(types.int64, types.float32), generate


@instructions
def halve(_context: Any, weights: Any, by: Any, high: Any, low: Any, ahead: Any) -> Any:
    """weights[LANES] · by, rounded: the high bytes and the low ones. The line at `ahead` is asked for."""

    def generate(context: Any, b: Any, _signature: Any, args: Any) -> Any:
        weights, by, high, low, ahead = args
        _ask(b, ahead)
        loaded = b.load(_at(b, weights, _FLOATS), align=4)
        exact = b.fadd(b.fmul(loaded, _each(b, by)), ir.Constant(_FLOATS, [0.5] * LANES))
        whole, bytes_ = b.fptosi(exact, _INTS), ir.VectorType(_BYTE, LANES)
        b.store(b.trunc(_moved(b, whole, -8), bytes_), _at(b, high, bytes_), align=GROUP)
        b.store(b.trunc(whole, bytes_), _at(b, low, bytes_), align=GROUP)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, *[types.int64] * 3), generate


def _mixture(bits: int) -> Any:
    """mix(values, high, low, groups, out, ahead): out[2, HEAD] += the sums of weights times values of so many bits: of
    the weights' high bytes, and of their low ones.

    values: [groups, a line of 2 bits or VALUE_LINES of 4, LINE], GROUP positions each; high, low: uint8 [groups,
    GROUP]. As much as as many keys take is asked for from `ahead`.
    """
    count, asked = HEAD * GROUP * bits // (8 * LINE), KEY_LINES * GROUP // LANES

    @instructions
    def mix(_context: Any, values: Any, high: Any, low: Any, groups: Any, out: Any, ahead: Any) -> Any:
        def generate(context: Any, b: Any, _signature: Any, args: Any) -> Any:
            values, high, low, groups, out, ahead = args
            places = [_at(b, out, _INTS, 4 * (n * HEAD + at)) for at in range(0, HEAD, LANES) for n in range(2)]

            def body(group: Any, sums: list[Any]) -> list[Any]:
                place = b.mul(group, ir.Constant(_LONG, GROUP))
                weights = [_everywhere(b, b.add(bytes_, place)) for bytes_ in (high, low)]
                place = b.add(values, b.mul(group, ir.Constant(_LONG, count * LINE)))
                then = b.add(ahead, b.mul(group, ir.Constant(_LONG, asked * LINE)))
                parts = [part for line in _lines(b, place, count, then, asked) for part in _parts(b, line, bits)]
                return [
                    _add_products(b, sums[2 * n + half], weight, part, small=True)
                    for n, part in enumerate(parts)
                    for half, weight in enumerate(weights)
                ]

            sums = _loop(b, groups, 1, [b.load(place, align=4) for place in places], body)
            for place, total in zip(places, sums, strict=True):
                b.store(total, place, align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return mix


mixture_of_2_bits, mixture_of_4_bits = _mixture(2), _mixture(4)


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
        _call(b, "llvm.x86.sse2.pause", ir.VoidType())
        return context.get_dummy_value()

    return types.void(), generate


@instructions
def step_aside(_context: Any) -> Any:
    """Let another thread have this core (POSIX's sched_yield)."""

    def generate(context: Any, b: Any, _signature: Any, _args: Any) -> Any:
        _call(b, "sched_yield", _INT)
        return context.get_dummy_value()

    return types.void(), generate


F = np.float32


@part
def exp(x: Any) -> Any:
    """e^x of a float32 below 88, to 4e-6, in arithmetic that becomes vectors (Cephes' exp2f)."""
    scaled = max(x, F(-87.0)) * F(1.44269504)
    nearest = np.floor(scaled + F(0.5))
    whole, p = np.int32(nearest), scaled - nearest
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
