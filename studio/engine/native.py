"""The transformer's step in 8 bits or bf16 as one compiled function: what `transformer` says, on processors with VNNI.

Operators by the dozen take longer to start than to run when a step is ten milliseconds. Here a step is one call; its
threads share each phase, wait for each other at its end, and the interpreter is not asked. Weights and activations are
multiplied as bytes, or weights in bfloat16 with activations in float32. Keys and values are bytes in either case, in
two halves, of which the lower one is read only where attention looks: of a thousand positions all but a few weigh so
little that four bits say enough. A row's result is the same in any company.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from studio.engine.attention import KeysValues, Reach, rounded, zeros
from studio.engine.kernels import (
    GROUP,
    HEAD,
    KEY_LINES,
    LANES,
    LINE,
    PAIR,
    VALUE_LINES,
    F,
    any_above,
    arrive,
    arrived,
    bits_of_float,
    byte_products,
    exp,
    float_of_bits,
    float_products,
    gelu,
    halve,
    here,
    likeness,
    mixture,
    part,
    pause,
    step_aside,
    whole,
)
from studio.engine.transformer import Context, DecoderConfig, Get, Layer, Transformer

Array = npt.NDArray[Any]

PROMPT_MAX = 512  # tokens
MAGNITUDE = np.int32(0x7FFFFFFF)  # the bits of a float32 but its sign
HIGH = np.int32(-0x10000)  # the high half of them
MIDDLE = 128  # how a byte of a key or a value stores 0
LOW_MIDDLE = 7.5  # of its low half
NIBBLE = np.int32(4)  # bits
LOW_NIBBLES = np.int32(0x0F0F0F0F)  # of the four bytes of a word
NOTHING = F(-1e30)  # the score of what is not there; an infinite one less itself would be no number
GIVEN = {"int8": torch.uint8, "bf16": torch.float32}  # what projections read, by the precision of the weights
BYTES = np.dtype(np.uint8)
CLOSE = F(1 / 32)  # the share of attention from which on a position is read in full
SPINS = 2000  # looks at a barrier before a thread lets others have its core


def suits(config: DecoderConfig) -> bool:
    """Whether a decoder of this shape can be run here."""
    return config.head_dim == HEAD and config.ffn % HEAD == 0 and config.cardinality % LANES == 0 and here()


# What the compiled function reads: arrays over all layers.


class Matrix(NamedTuple):
    """A projection of each layer [layers, out, in], in the order in which its weights are read."""

    weights: Array  # int8 [layers, out / LANES, in / GROUP, LANES, GROUP]; or PAIR for GROUP: uint16, bfloat16's bits
    scale: Array  # float32 [layers, out], of int8 only; and so is
    bias: Array  # int32 [layers, out], what 128 in every activation adds


class Norms(NamedTuple):
    weight: Array  # float32 [layers, dim]
    bias: Array  # float32 [layers, dim]


class Weights(NamedTuple):
    norm_self: Norms
    qkv: Matrix
    out: Matrix
    norm_cross: Norms
    query: Matrix
    cross_out: Matrix
    norm_ffn: Norms
    up: Matrix
    down: Matrix
    norm: Norms  # one
    head: Matrix  # one


class Cells(NamedTuple):
    """Keys and values of sequences: the high halves of their bytes, and apart from them the low ones. A byte of a line
    has two groups or blocks of channels. A line of keys is a word of GROUP channels for each of LANES positions; one of
    values is [LANES, GROUP], channels and positions."""

    keys: Array  # int32 [layers, rows, heads, length / LANES, KEY_LINES + 1, LANES]; the last line has scales: the high
    # halves of two float32, the value's and below it the key's
    values: Array  # uint8 [layers, rows, heads, length / GROUP, VALUE_LINES, LINE]
    low_keys: Array  # int32 [layers, rows, heads, length / LANES, KEY_LINES, LANES]
    low_values: Array  # as values


class Room(NamedTuple):
    """Where a step works: what its threads share, and a part for each of them."""

    x: Array  # float32 [rows, dim]
    wide: Array  # float32 [rows, the widest projection]
    mixed: Array  # float32 [rows, dim]
    logits: Array  # float32 [rows, codebooks * cardinality]
    normed: Array  # float32 [threads, dim]
    given: Array  # uint8, or float32 for bfloat16, [threads, rows, the widest input]: what a projection reads
    scale: Array  # float32 [threads, rows]
    sums: Array  # int32 [threads, 4 * HEAD]
    scores: Array  # float32 [threads, length]
    weights: Array  # float32 [threads, length], what they become
    value_scale: Array  # float32 [threads, length]
    close: Array  # int32 [threads, length / LANES], the blocks that are read in full
    added: Array  # float32 [threads, LANES], to the scores of one of them
    halves: Array  # uint8 [threads, 2, length], of the weights that scores become
    query: Array  # int8 [threads, HEAD]
    numbers: Array  # uint8 [threads, HEAD], a key or a value,
    words: Array  # and the same as int32 [threads, HEAD / GROUP]
    counter: Array  # int64 [1], arrivals at barriers


# The compiled function and its parts.


@part
def _meet(counter: int, size: int, met: int) -> int:
    """Wait for the other threads; `met` counts the meetings."""
    if size > 1:
        arrive(counter)
        looks = 0
        while arrived(counter) < (met + 1) * size:
            looks += 1
            if looks < SPINS:
                pause()
            else:
                step_aside()
    return met + 1


@part
def _largest(x: Any) -> Any:
    """The largest magnitude in x, by its bits, whose order is that of numbers; not a number where there is none."""
    most = bits_of_float(F(1e-12))
    for i in range(len(x)):
        most = max(most, np.int32(bits_of_float(x[i]) & MAGNITUDE))
    return float_of_bits(most)


@part
def _highest(x: Any) -> Any:
    """The largest number in x, likewise: of negative ones the bits run backwards."""
    most = np.int32(-MAGNITUDE)
    for i in range(len(x)):
        bits = bits_of_float(x[i])
        most = max(most, np.int32(bits ^ ((bits >> np.int32(31)) & MAGNITUDE)))
    return float_of_bits(most ^ ((most >> np.int32(31)) & MAGNITUDE))


@part
def _round(x: Any, out: Any) -> Any:
    """Numbers as bytes about 128; returns their scale."""
    most = _largest(x)
    to_bytes = F(127) / most
    for i in range(len(x)):
        out[i] = np.uint8(np.int32(x[i] * to_bytes + F(128.5)))
    return most / F(127)


@part
def _norm(x: Any, weight: Any, bias: Any, eps: Any, out: Any) -> None:
    """A layer norm."""
    total, square = F(0), F(0)
    for i in range(len(x)):
        total += x[i]
    mean = total / F(len(x))
    for i in range(len(x)):
        square += (x[i] - mean) * (x[i] - mean)
    by = F(1) / np.sqrt(square / F(len(x)) + eps)
    for i in range(len(x)):
        out[i] = (x[i] - mean) * by * weight[i] + bias[i]


@part
def _prepare(x: Any, norms: Any, layer: int, eps: Any, rows: int, normed: Any, given: Any, scale: Any) -> None:
    """What a projection after a norm reads."""
    for r in range(rows):
        _norm(x[r], norms.weight[layer], norms.bias[layer], eps, normed)
        scale[r] = _give(normed, given[r])


@part
def _gather(x: Any, rows: int, width: int, given: Any, scale: Any) -> None:
    """What a projection without a norm reads."""
    for r in range(rows):
        scale[r] = _give(x[r, :width], given[r])


@part
def _give(x: Any, out: Any) -> Any:
    """Numbers as a projection reads them; returns their scale."""
    if out.dtype == BYTES:
        return _round(x, out)
    for i in range(len(x)):
        out[i] = x[i]
    return F(1)


@part
def _project(
    matrix: Any, layer: int, first: int, last: int, rows: int, given: Any, scale: Any, out: Any, add: bool
) -> None:
    """The blocks `first` to `last` of outputs, of what was given, to `out`; or added to it."""
    weights, scales, biases = matrix.weights[layer], matrix.scale[layer].ctypes.data, matrix.bias[layer].ctypes.data
    lines, stride, width = weights.shape[1], given.strides[0], out.strides[0]
    for block in range(first, last):
        w, at, r = weights.ctypes.data + block * lines * LINE, 4 * block * LANES, 0
        while r < rows:
            x, own, y = given.ctypes.data + r * stride, scale.ctypes.data + 4 * r, out.ctypes.data + r * width + at
            to = w, x, stride, lines, scales + at, biases + at, own, y, width, add
            r += byte_products(rows - r, *to) if given.dtype == BYTES else float_products(rows - r, *to)


@part
def _about_middle(x: Any, out: Any) -> Any:
    """x [HEAD] as bytes about MIDDLE; returns their scale's bits, rounded up to half of a float32."""
    scale = (bits_of_float(_largest(x) / F(MIDDLE - 1)) + np.int32(0xFFFF)) & HIGH
    by = F(1) / float_of_bits(scale)
    for i in range(HEAD):
        out[i] = np.uint8(np.int32(np.rint(x[i] * by)) + MIDDLE)
    return scale


@part
def _write(cells: Any, layer: int, row: int, head: int, at: int, key: Any, value: Any, room: Any, rank: int) -> None:
    """Store a key and a value [HEAD] at a position; it shares no byte with others."""
    numbers, words = room.numbers[rank], room.words[rank]
    block, lane, group, byte = at // LANES, at % LANES, at // GROUP, at % GROUP
    keys, low_keys = cells.keys[layer, row, head, block], cells.low_keys[layer, row, head, block]
    values, low_values = cells.values[layer, row, head, group], cells.low_values[layer, row, head, group]
    key_scale = _about_middle(key, numbers)
    for line in range(KEY_LINES):
        one, other = words[line], words[KEY_LINES + line]
        keys[line, lane] = np.int32((one >> NIBBLE) & LOW_NIBBLES | other & ~LOW_NIBBLES)
        low_keys[line, lane] = np.int32(one & LOW_NIBBLES | (other & LOW_NIBBLES) << NIBBLE)
    value_scale = _about_middle(value, numbers)
    keys[KEY_LINES, lane] = np.int32(value_scale | ((key_scale >> np.int32(16)) & np.int32(0xFFFF)))
    for line in range(VALUE_LINES):
        for channel in range(LANES):
            one, other = numbers[2 * line * LANES + channel], numbers[(2 * line + 1) * LANES + channel]
            values[line, GROUP * channel + byte] = np.uint8(one >> NIBBLE | other & ~LOW_NIBBLES)
            low_values[line, GROUP * channel + byte] = np.uint8(one & LOW_NIBBLES | (other & LOW_NIBBLES) << NIBBLE)


@part
def _look(
    cells: Any, layer: int, row: int, head: int, length: int, query: Any, room: Any, rank: int
) -> tuple[Any, int]:
    """How much a scaled query [HEAD] attends to each of a head's first `length` positions, to room.weights, next to
    nothing in the rest of the last block; their sum, and how many blocks, named in room.close, are looked at closely.
    The values are asked for."""
    keys, values = cells.keys[layer, row, head].ctypes.data, cells.values[layer, row, head].ctypes.data
    low_keys = cells.low_keys[layer, row, head].ctypes.data
    scores, value_scale, weights = room.scores[rank], room.value_scale[rank], room.weights[rank]
    rounded, added, close = room.query[rank], room.added[rank], room.close[rank]
    scale, middle = _largest(query) / F(127), F(0)
    for i in range(HEAD):
        rounded[i] = np.int8(np.rint(query[i] / scale))
        middle += F(rounded[i])
    blocks = (length + LANES - 1) // LANES
    end = blocks * LANES
    for block in range(blocks):
        n, here = block * LANES, keys + block * (KEY_LINES + 1) * LINE
        likeness(
            here, here + KEY_LINES * LINE, rounded.ctypes.data, F((MIDDLE - LOW_MIDDLE) / 16) * middle, F(16) * scale,
            scores[n:].ctypes.data, value_scale[n:].ctypes.data, values + block * KEY_LINES * LINE,
        )  # fmt: skip
    scores[length:end] = NOTHING
    highest, total = _highest(scores[:end]), F(0)
    for n in range(end):
        weights[n] = exp(scores[n] - highest)
        total += weights[n]
    count, least = 0, CLOSE * total
    for block in range(blocks):
        if any_above(weights[block * LANES :].ctypes.data, least):
            close[count] = block
            count += 1
    for block in close[:count]:
        n, here = block * LANES, low_keys + block * KEY_LINES * LINE
        likeness(
            here, keys + (block * (KEY_LINES + 1) + KEY_LINES) * LINE, rounded.ctypes.data, F(LOW_MIDDLE) * middle,
            scale, added.ctypes.data, value_scale[n:].ctypes.data, here,
        )  # fmt: skip
        added[length - n :] = F(0)  # a former request may have left no numbers
        for lane in range(LANES):
            weight = exp(scores[n + lane] + added[lane] - highest)
            total += weight - weights[n + lane]
            weights[n + lane] = weight
    return total, count


@part
def _mix(
    cells: Any, layer: int, row: int, head: int, length: int, total: Any, count: int, out: Any, room: Any, rank: int,
    following: int,
) -> None:  # fmt: skip
    """The values of a head's first `length` positions, as much of each as `_look` found, to `out` [HEAD]. The keys at
    `following` are asked for."""
    values, low_values = cells.values[layer, row, head].ctypes.data, cells.low_values[layer, row, head].ctypes.data
    weights, value_scale, sums = room.weights[rank], room.value_scale[rank], room.sums[rank]
    high, low, close = room.halves[rank, 0], room.halves[rank, 1], room.close[rank]
    blocks, groups = (length + LANES - 1) // LANES, (length + GROUP - 1) // GROUP
    all_weights, close_weights, end = F(0), F(0), blocks * LANES
    value_scale[length:end] = F(0)  # likewise
    for n in range(end):
        weights[n] *= value_scale[n]
        all_weights += weights[n]
    by = _largest(weights[:end]) / F(0xFFFF)
    for block in range(blocks):
        n, rest = block * LANES, following + (blocks * KEY_LINES + block) * LINE
        halve(weights[n:].ctypes.data, F(1) / by, high[n:].ctypes.data, low[n:].ctypes.data, rest)
    sums[:] = np.int32(0)
    mixture(values, high.ctypes.data, low.ctypes.data, groups, sums.ctypes.data, following)
    for block in close[:count]:
        n, here = block * LANES, low_values + block * LANES // GROUP * VALUE_LINES * LINE
        mixture(here, high[n:].ctypes.data, low[n:].ctypes.data, LANES // GROUP, sums[2 * HEAD :].ctypes.data, here)
        for lane in range(LANES):
            close_weights += weights[n + lane]
    too_much = F(MIDDLE - LOW_MIDDLE) * all_weights + F(LOW_MIDDLE) * close_weights
    for i in range(HEAD):
        of_high = F(256) * F(sums[i]) + F(sums[HEAD + i])
        of_low = F(256) * F(sums[2 * HEAD + i]) + F(sums[3 * HEAD + i])
        out[i] = ((F(16) * of_high + of_low) * by - too_much) / total


@part
def _attend(
    cells: Any, layer: int, row: int, head: int, length: int, query: Any, out: Any, room: Any, rank: int, following: int
) -> None:
    """Attention of a scaled query [HEAD] over a head's first `length` positions, to `out` [HEAD]."""
    total, count = _look(cells, layer, row, head, length, query, room, rank)
    _mix(cells, layer, row, head, length, total, count, out, room, rank, following)


@whole
def _step(
    rank: int, size: int, rows: int, weights: Any, own: Any, at: Any, prompts: Any, prompt: Any, room: Any, eps: Any
) -> None:
    """One pass of x for `rows` rows at positions `at` [rows], by thread `rank` of `size`; `prompt` [rows / 2] says how
    long the prompts are."""
    layers, heads, dim = own.keys.shape[0], own.keys.shape[2], room.x.shape[1]
    x, wide, mixed, counter, met = room.x, room.wide, room.mixed, room.counter.ctypes.data, 0
    normed, given, scale = room.normed[rank], room.given[rank], room.scale[rank]
    mine, others = heads * rank // size, heads * (rank + 1) // size
    first, last = mine * HEAD // LANES, others * HEAD // LANES  # the blocks of these heads
    third, ffn = dim // LANES, weights.up.weights.shape[1]
    for layer in range(layers):
        _prepare(x, weights.norm_self, layer, eps, rows, normed, given, scale)
        for begin in range(0, 3 * third, third):
            a, z = begin + first, begin + last
            _project(weights.qkv, layer, a, z, rows, given, scale, wide, False)
        for r in range(rows):
            for head in range(mine, others):
                c, h = head * HEAD, (head + 1) * HEAD
                key, value = wide[r, dim + c : dim + h], wide[r, 2 * dim + c : 2 * dim + h]
                _write(own, layer, r, head, at[r], key, value, room, rank)
                then, there = (r, head + 1) if head + 1 < others else (min(r + 1, rows - 1), mine)
                following = own.keys[layer, then, there].ctypes.data
                _attend(own, layer, r, head, at[r] + 1, wide[r, c:h], mixed[r, c:h], room, rank, following)
        met = _meet(counter, size, met)
        _gather(mixed, rows, dim, given, scale)
        _project(weights.out, layer, first, last, rows, given, scale, x, True)
        met = _meet(counter, size, met)
        if len(prompt):
            _prepare(x, weights.norm_cross, layer, eps, rows, normed, given, scale)
            _project(weights.query, layer, first, last, rows, given, scale, wide, False)
            for r in range(0, rows, 2):
                for head in range(mine, others):
                    c, h = head * HEAD, (head + 1) * HEAD
                    following = prompts.keys[layer, r // 2, min(head + 1, others - 1)].ctypes.data
                    _attend(
                        prompts, layer, r // 2, head, prompt[r // 2], wide[r, c:h], mixed[r, c:h], room, rank, following
                    )
                    mixed[r + 1, c:h] = F(0)
            met = _meet(counter, size, met)
            _gather(mixed, rows, dim, given, scale)
            _project(weights.cross_out, layer, first, last, rows, given, scale, x, True)
            met = _meet(counter, size, met)
        a, z = ffn * rank // size, ffn * (rank + 1) // size
        _prepare(x, weights.norm_ffn, layer, eps, rows, normed, given, scale)
        _project(weights.up, layer, a, z, rows, given, scale, wide, False)
        for r in range(rows):
            for i in range(a * LANES, z * LANES):
                wide[r, i] = gelu(wide[r, i])
        met = _meet(counter, size, met)
        _gather(wide, rows, ffn * LANES, given, scale)
        _project(weights.down, layer, first, last, rows, given, scale, x, True)
        met = _meet(counter, size, met)
    codes = weights.head.weights.shape[1]
    a, z = codes * rank // size, codes * (rank + 1) // size
    _prepare(x, weights.norm, 0, eps, rows, normed, given, scale)
    _project(weights.head, 0, a, z, rows, given, scale, room.logits, False)


# What the engine sees of it.


class NativeCells(KeysValues):
    """Keys and values as the compiled function reads them."""

    keys: Tensor  # these as in `Cells`
    values: Tensor
    low_keys: Tensor
    low_values: Tensor
    lengths: Tensor  # [rows], what `fill` left

    def __init__(
        self, layers: int, rows: int, heads: int, length: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(layers, rows, heads, length, head_dim, device, dtype)
        shape = layers, rows, heads

        def keep(name: str, *shape: int, dtype: torch.dtype) -> None:
            self.register_buffer(name, zeros(*shape, device=device, dtype=dtype), persistent=False)

        keep("keys", *shape, length // LANES, KEY_LINES + 1, LANES, dtype=torch.int32)
        keep("values", *shape, length // GROUP, VALUE_LINES, LINE, dtype=torch.uint8)
        keep("low_keys", *shape, length // LANES, KEY_LINES, LANES, dtype=torch.int32)
        keep("low_values", *shape, length // GROUP, VALUE_LINES, LINE, dtype=torch.uint8)
        keep("lengths", rows, dtype=torch.int64)
        parts = self.keys, self.values, self.low_keys, self.low_values
        self.cells = Cells(*(tensor.numpy() for tensor in parts))

    @classmethod
    def position_bytes(cls, head_dim: int, dtype: torch.dtype) -> int:
        return (2 * KEY_LINES + 1) * LINE // LANES + 2 * VALUE_LINES * LINE // GROUP

    @classmethod
    def read_bytes(cls, head_dim: int, dtype: torch.dtype) -> int:
        """At least: without the low halves, which are read where attention looks."""
        return (KEY_LINES + 1) * LINE // LANES + VALUE_LINES * LINE // GROUP

    def rounded(self, length: int) -> int:
        """Each row looks as far as it is long, whatever the batch says."""
        return 0

    def places(self, position: Tensor) -> Tensor:
        return position

    def reach(self, rows: int, length: int) -> Reach:
        nothing = torch.zeros(0, dtype=torch.int32)
        return Reach(torch.zeros(rows, 1, 0), nothing, nothing, nothing, nothing)

    def fill(self, row: int, keys_values: Tensor) -> None:
        positions = keys_values.shape[1]
        blocks, groups = -(-positions // LANES), -(-positions // LANES) * LANES // GROUP
        keys, values = keys_values.permute(2, 0, 3, 1, 4)  # [layers, heads, P, HEAD] each, float32
        keys, key_scale = _in_halves(keys)
        values, value_scale = _in_halves(values)
        for name, bytes_ in (("keys", keys >> 4), ("low_keys", keys & 15)):
            getattr(self, name)[:, row, :, :blocks, :KEY_LINES] = _key_lines(_whole_blocks(bytes_))
        for name, bytes_ in (("values", values >> 4), ("low_values", values & 15)):
            getattr(self, name)[:, row, :, :groups] = _value_lines(_whole_blocks(bytes_))
        scales = _whole_blocks((value_scale | (key_scale >> 16))[..., None])
        self.keys[:, row, :, :blocks, KEY_LINES] = scales.view(*scales.shape[:2], blocks, LANES)
        self.lengths[row] = positions

    def move(self, source: int, target: int, length: int) -> None:
        for name, positions in (("keys", LANES), ("values", GROUP), ("low_keys", LANES), ("low_values", GROUP)):
            cells: Tensor = getattr(self, name)
            used = -(-length // positions)
            cells[:, target, :, :used] = cells[:, source, :, :used]
        self.lengths[target] = self.lengths[source]

    def clear(self, row: int) -> None:
        """Nothing is read but what was written since."""


class NativeTransformer(Transformer):
    """A `Transformer` whose layers are int8 or bf16; what enters them is float32."""

    ENTERS = torch.float32

    def __init__(
        self, config: DecoderConfig, lm: Mapping[str, Tensor], precision: str, positions: int, rows: int
    ) -> None:
        """`lm` has audiocraft's names; `positions` is the length of the longest sequence, `rows` of a step at most."""
        super().__init__(config, lm, torch.device("cpu"), precision, positions)
        threads, c = min(torch.get_num_threads(), config.heads), config
        widest, heads = max(3 * c.dim, c.ffn), c.codebooks * c.cardinality
        longest = rounded(max(positions, PROMPT_MAX))

        def room(*shape: int, dtype: torch.dtype = torch.float32) -> Array:
            return torch.zeros(shape, dtype=dtype).numpy()

        numbers = room(threads, HEAD, dtype=torch.uint8)
        self._room = Room(
            x=room(rows, c.dim), wide=room(rows, widest), mixed=room(rows, c.dim), logits=room(rows, heads),
            normed=room(threads, c.dim), given=room(threads, rows, max(c.dim, c.ffn), dtype=GIVEN[precision]),
            scale=room(threads, rows), sums=room(threads, 4 * HEAD, dtype=torch.int32),
            scores=room(threads, longest), weights=room(threads, longest), value_scale=room(threads, longest),
            close=room(threads, longest // LANES, dtype=torch.int32), added=room(threads, LANES),
            halves=room(threads, 2, longest, dtype=torch.uint8),
            query=room(threads, HEAD, dtype=torch.int8), numbers=numbers, words=numbers.view(np.int32),
            counter=room(1, dtype=torch.int64),
        )  # fmt: skip
        self._threads = threads
        self._others = ThreadPoolExecutor(threads - 1, "decode") if threads > 1 else None

    def _build(self, get: Get, precision: str) -> None:
        c = self.config

        def matrix(weights: Sequence[Tensor]) -> Matrix:
            return _matrix(weights, precision)

        def of_layers(name: str, weight: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Matrix:
            return matrix([weight(get(f"transformer.layers.{at}.{name}")) for at in range(c.layers)])

        def norms(names: Sequence[str]) -> Norms:
            return Norms(*(torch.stack([get(f"{n}.{part}").float() for n in names]).numpy() for part in Norms._fields))

        def of_each(name: str) -> list[str]:
            return [f"transformer.layers.{at}.{name}" for at in range(c.layers)]

        crossed = c.cross_attention
        self._weights = Weights(
            norm_self=norms(of_each("norm1")),
            qkv=of_layers("self_attn.in_proj_weight", self._with_scaled_query),
            out=of_layers("self_attn.out_proj.weight"),
            norm_cross=norms(of_each("norm_cross" if crossed else "norm1")),
            query=of_layers("cross_attention.in_proj_weight", lambda w: self._with_scaled_query(w)[: c.dim])
            if crossed else matrix([]),
            cross_out=of_layers("cross_attention.out_proj.weight") if crossed else matrix([]),
            norm_ffn=norms(of_each("norm2")),
            up=of_layers("linear1.weight"),
            down=of_layers("linear2.weight"),
            norm=norms(["out_norm"]),
            head=matrix([torch.cat([get(f"linears.{k}.weight") for k in range(c.codebooks)])]),
        )  # fmt: skip

    def _with_scaled_query(self, weight: Tensor) -> Tensor:
        dim = self.config.dim
        return torch.cat([weight[:dim] / math.sqrt(HEAD), weight[dim:]])

    def layer(self, at: int) -> Layer:
        """In fp32 again, for many tokens at once."""
        w = self._weights
        tensors = {"self_attn.in_proj_weight": _unpacked(w.qkv, at), "self_attn.out_proj.weight": _unpacked(w.out, at)}
        tensors |= {"linear1.weight": _unpacked(w.up, at), "linear2.weight": _unpacked(w.down, at)}
        norms = {"norm1": w.norm_self, "norm2": w.norm_ffn}
        if self.config.cross_attention:
            tensors["cross_attention.in_proj_weight"] = _unpacked(w.query, at)
            tensors["cross_attention.out_proj.weight"] = _unpacked(w.cross_out, at)
            norms["norm_cross"] = w.norm_cross
        for name in [name for name in tensors if name.endswith("in_proj_weight")]:
            tensors[name][: self.config.dim] *= math.sqrt(HEAD)  # `Layer` divides
        for name, norm in norms.items():
            for field, numbers in norm._asdict().items():
                tensors[f"{name}.{field}"] = torch.from_numpy(numbers[at])
        return Layer(self.config, tensors.__getitem__, "", "fp32")

    def prompt_keys_values(self, conditions: Tensor) -> Tensor:
        return super().prompt_keys_values(conditions).float()

    def forward(self, tokens: Tensor, position: Tensor, context: Context) -> Tensor:
        assert isinstance(context.own, NativeCells)
        room, rows, c = self._room, 2 * len(tokens), self.config
        torch.from_numpy(room.x)[:rows] = self.entered(tokens, position, context)
        prompts = context.prompts if isinstance(context.prompts, NativeCells) else None
        self.run(context.own, position.repeat_interleave(2), prompts)
        return torch.from_numpy(room.logits)[:rows].view(-1, 2, c.codebooks, c.cardinality).clone()

    def run(self, own: NativeCells, position: Tensor, prompts: NativeCells | None) -> None:
        """x to logits for the rows at these positions [R]; of none, it is only compiled."""
        assert len(position) % 2 == 0, "a request has two rows"
        assert len(position) <= len(self._room.x), (len(position), len(self._room.x))
        self._room.counter[0] = 0
        lengths = position[:0] if prompts is None else prompts.lengths[: max(len(position) // 2, 1)]
        given = (
            self._threads, len(position), self._weights, own.cells, position.numpy(), (prompts or own).cells,
            lengths.numpy(), self._room, F(self.config.norm_eps),
        )  # fmt: skip
        others = [self._others.submit(_step, rank, *given) for rank in range(1, self._threads)] if self._others else []
        _step(0, *given)
        for other in others:
            other.result()


def _matrix(weights: Sequence[Tensor], precision: str) -> Matrix:
    """Projections [out, in] of the layers in reading order; in bytes, each output has a scale."""
    layers, (out, into) = len(weights), weights[0].shape if weights else (0, 0)
    together, dtype = (GROUP, torch.int8) if precision == "int8" else (PAIR, torch.uint16)
    ordered = torch.empty(layers, out // LANES, into // together, LANES, together, dtype=dtype)
    assert ordered.data_ptr() % LINE == 0, "torch begins tensors on a line of memory"
    scale, bias = torch.zeros(layers, out), torch.zeros(layers, out, dtype=torch.int32)
    for at, weight in enumerate(weights):
        if precision == "int8":
            numbers, scale[at] = _in_bytes(weight.float())
            bias[at] = 128 * numbers.sum(-1)
        else:
            numbers = weight.to(torch.bfloat16).view(torch.uint16)
        ordered[at] = numbers.view(out // LANES, LANES, into // together, together).transpose(1, 2)
    return Matrix(ordered.numpy(), scale.numpy(), bias.numpy())


def _unpacked(matrix: Matrix, at: int) -> Tensor:
    """A layer's projection [out, in] in fp32."""
    blocks = torch.from_numpy(matrix.weights[at])
    rows = blocks.transpose(1, 2).reshape(blocks.shape[0] * LANES, -1)
    if rows.dtype is torch.uint16:
        return rows.view(torch.bfloat16).float()
    return rows.float() * torch.from_numpy(matrix.scale[at])[:, None]


def _in_bytes(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers [..., N] as int8 [..., N], and their scales [...]."""
    scale = numbers.abs().amax(dim=-1).clamp_(min=1e-12).div_(127)
    return (numbers / scale[..., None]).round().to(torch.int8), scale


def _in_halves(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers [..., HEAD] as uint8 about MIDDLE, and the bits of their scales, int32 [...]: as `_about_middle` does."""
    most = numbers.abs().amax(dim=-1).clamp_(min=1e-12).div_(MIDDLE - 1)
    scale = (most.view(torch.int32) + 0xFFFF) & -0x10000
    return ((numbers / scale.view(torch.float32)[..., None]).round() + MIDDLE).to(torch.uint8), scale


def _whole_blocks(of_positions: Tensor) -> Tensor:
    """[layers, heads, positions, N] with zeros to the end of the last block."""
    return torch.nn.functional.pad(of_positions, (0, 0, 0, -of_positions.shape[2] % LANES))


def _key_lines(halves: Tensor) -> Tensor:
    """4 bits each [layers, heads, P, HEAD] to words [layers, heads, P / LANES, KEY_LINES, LANES]."""
    layers, heads, positions, _ = halves.shape
    groups = halves.view(layers, heads, positions // LANES, LANES, HEAD // GROUP, GROUP).transpose(3, 4)
    low, high = groups.reshape(layers, heads, positions // LANES, 2, KEY_LINES, LINE).unbind(3)
    return (low | high << 4).view(torch.int32)


def _value_lines(halves: Tensor) -> Tensor:
    """4 bits each [layers, heads, P, HEAD] to [layers, heads, P / GROUP, VALUE_LINES, LINE]."""
    layers, heads, positions, _ = halves.shape
    blocks = halves.view(layers, heads, positions // GROUP, GROUP, HEAD // LANES, LANES).movedim(3, -1)
    low, high = blocks.reshape(layers, heads, positions // GROUP, VALUE_LINES, 2, LINE).unbind(4)
    return low | high << 4
