"""A decode step in 8 bits or bf16 as one compiled function: what `step` and `transformer` say, on x86 with AVX2.

Operators by the dozen take longer to start than to run when a step is ten milliseconds. Here a step is one call, from
the last tokens to the next ones; its threads share each phase, wait for each other at its end, and the interpreter is
not asked. Weights and activations are multiplied as bytes, or weights in bfloat16 with activations in float32. Keys and
values are bytes in either case, in parts, of which all but the first are read only where attention looks: of a thousand
positions all but a few weigh so little that four bits of a key and two of a value say enough. A row's result is the
same in any company.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from studio.engine.kernels import (
    GROUP,
    HEAD,
    KEY_LINES,
    LANES,
    LINE,
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
    likeness,
    mixture_of_2_bits,
    mixture_of_4_bits,
    part,
    pause,
    step_aside,
    whole,
)

Array = npt.NDArray[Any]

MAGNITUDE = np.int32(0x7FFFFFFF)  # the bits of a float32 but its sign
HIGH = np.int32(-0x10000)  # the high half of them
MIDDLE = 128  # how a byte of a key or a value stores 0
REST_4 = 7.5  # the middle of what its low 4 bits may add,
REST_6 = 31.5  # or its low 6
NIBBLE = np.int32(4)  # bits
LOW_NIBBLES = np.int32(0x0F0F0F0F)  # of the four bytes of a word
NOTHING = F(-1e30)  # the score of what is not there; an infinite one less itself would be no number
BYTES = np.dtype(np.uint8)
NEAR = F(1 / 128)  # the share of attention from which on 4 bits are read of a position's value,
CLOSE = F(1 / 32)  # and all 8 of it and its key
SPINS = 2000  # looks at a barrier before a thread lets others have its core

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
    embedding: Array  # float32 [K, card + 1, dim]
    positions: Array  # float32 [positions, dim]
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
    """Keys and values of sequences: of each byte the high bits, which are always read, and apart from them the others.
    A line of keys is a word of GROUP channels for each of LANES positions; one of values is [LANES, GROUP], channels
    and positions. A byte has the bits of two channels, HEAD / 2 apart in keys and LANES in close values, or of four,
    LANES apart, in other values; the first one's are the lowest."""

    keys: Array  # int32 [layers, rows, heads, length / LANES, KEY_LINES + 1, LANES], the highest 4 bits; the last line
    # has scales: the high halves of two float32, the value's and below it the key's
    values: Array  # uint8 [layers, rows, heads, length / GROUP, LINE], the highest 2,
    near_values: Array  # and the next 2; as values
    close_keys: Array  # int32 [layers, rows, heads, length / LANES, KEY_LINES, LANES], the lowest 4,
    close_values: Array  # and of values, uint8 [layers, rows, heads, length / GROUP, VALUE_LINES, LINE]


class Requests(NamedTuple):
    """What a `Step` keeps of requests, under its names."""

    codes: Array  # int64 [slots, steps, K]
    tokens: Array  # int64 [slots, K]
    step: Array  # int64 [slots]
    position: Array  # int64 [slots]
    noise: Array  # float32 [slots, steps, K]
    mass: Array  # float32 [slots, K]
    summed: Array  # float32 [slots, 2, steps or 0, dim]


class Draws(NamedTuple):
    """How the A requests in flight draw, or nobody: then nothing is drawn, and nobody moves on."""

    cfg_coef: Array  # float32 [A, K or 1]
    temperature: Array  # float32 [A]
    kept: Array  # int64 [A]
    top_p: Array  # float32 [A]; where it is 0, `kept` counts


class Room(NamedTuple):
    """Where a step works: what its threads share, and a part for each of them."""

    x: Array  # float32 [rows, dim]
    wide: Array  # float32 [rows, the widest projection]
    mixed: Array  # float32 [rows, dim]
    logits: Array  # float32 [rows, K * card]
    normed: Array  # float32 [threads, dim]
    given: Array  # uint8, or float32 for bfloat16, [threads, rows, the widest input]: what a projection reads
    scale: Array  # float32 [threads, rows]
    sums: Array  # int32 [threads, 3, 2, HEAD], of the parts of values, times the two bytes of weights
    scores: Array  # float32 [threads, length]
    weights: Array  # float32 [threads, length], what they become
    value_scale: Array  # float32 [threads, length]
    near: Array  # int32 [threads, length / LANES], the blocks of which more bits are read,
    close: Array  # and all
    added: Array  # float32 [threads, LANES], to the scores of one of them
    halves: Array  # uint8 [threads, 2, length], of the weights that scores become
    query: Array  # int8 [threads, HEAD]
    numbers: Array  # uint8 [threads, HEAD], a key or a value,
    words: Array  # and the same as int32 [threads, HEAD / GROUP]
    odds: Array  # float32 [threads, card], of the tokens of one codebook: their logits, then how likely they are
    order: Array  # int32 [threads, card], the logits' bits in the order of numbers
    shares: Array  # float32 [threads, card], what is added up over the tokens
    counter: Array  # int64 [1], arrivals at meetings


# The compiled function and its parts.


@part
def _meet(counter: int, size: int, met: int) -> int:
    """Wait for the other threads; `met` counts their meetings."""
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
def _in_order(bits: Any) -> Any:
    """The bits of a number such that their order is that of numbers, since those of negative ones run backwards; and
    back again."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & MAGNITUDE))


@part
def _highest(x: Any) -> Any:
    """The largest number in x."""
    most = np.int32(-MAGNITUDE)
    for i in range(len(x)):
        most = max(most, _in_order(bits_of_float(x[i])))
    return float_of_bits(_in_order(most))


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
    keys, close_keys = cells.keys[layer, row, head, block], cells.close_keys[layer, row, head, block]
    values, near_values = cells.values[layer, row, head, group], cells.near_values[layer, row, head, group]
    close_values = cells.close_values[layer, row, head, group]
    key_scale = _about_middle(key, numbers)
    for line in range(KEY_LINES):
        one, other = words[line], words[KEY_LINES + line]
        keys[line, lane] = np.int32((one >> NIBBLE) & LOW_NIBBLES | other & ~LOW_NIBBLES)
        close_keys[line, lane] = np.int32(one & LOW_NIBBLES | (other & LOW_NIBBLES) << NIBBLE)
    value_scale = _about_middle(value, numbers)
    keys[KEY_LINES, lane] = np.int32(value_scale | ((key_scale >> np.int32(16)) & np.int32(0xFFFF)))
    for channel in range(LANES):
        to, a, b = GROUP * channel + byte, numbers[channel], numbers[LANES + channel]
        c, d = numbers[2 * LANES + channel], numbers[3 * LANES + channel]
        values[to] = np.uint8(a >> 6 | b >> 6 << 2 | c >> 6 << 4 | d >> 6 << 6)
        near_values[to] = np.uint8(a >> 4 & 3 | (b >> 4 & 3) << 2 | (c >> 4 & 3) << 4 | (d >> 4 & 3) << 6)
        close_values[0, to] = np.uint8(a & 15 | (b & 15) << 4)
        close_values[1, to] = np.uint8(c & 15 | (d & 15) << 4)


@part
def _above(weights: Any, blocks: int, least: Any, found: Any) -> int:
    """Find the blocks of positions in which a weight is greater; returns how many there are."""
    count = 0
    for block in range(blocks):
        if any_above(weights[block * LANES :].ctypes.data, least):
            found[count] = block
            count += 1
    return count


@part
def _weigh(scores: Any, weights: Any) -> Any:
    """How much positions of these scores weigh, the highest 1; returns their sum."""
    highest, total = _highest(scores), F(0)
    for n in range(len(scores)):
        weights[n] = exp(scores[n] - highest)
        total += weights[n]
    return total


@part
def _look(cells: Any, layer: int, row: int, head: int, length: int, query: Any, room: Any, rank: int) -> Any:
    """How much a scaled query [HEAD] attends to each of a head's first `length` positions, to room.weights, next to
    nothing in the rest of the last block; returns their sum. The values are asked for."""
    keys, values = cells.keys[layer, row, head].ctypes.data, cells.values[layer, row, head].ctypes.data
    close_keys = cells.close_keys[layer, row, head].ctypes.data
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
            here, here + KEY_LINES * LINE, rounded.ctypes.data, F((MIDDLE - REST_4) / 16) * middle, F(16) * scale,
            scores[n:].ctypes.data, value_scale[n:].ctypes.data, values + n * LINE // GROUP,
        )  # fmt: skip
    scores[length:end] = NOTHING
    total = _weigh(scores[:end], weights)
    count = _above(weights, blocks, CLOSE * total, close)
    for block in close[:count]:
        n, here = block * LANES, close_keys + block * KEY_LINES * LINE
        likeness(
            here, keys + (block * (KEY_LINES + 1) + KEY_LINES) * LINE, rounded.ctypes.data, F(REST_4) * middle,
            scale, added.ctypes.data, value_scale[n:].ctypes.data, here,
        )  # fmt: skip
        added[length - n :] = F(0)  # a former request may have left no numbers
        for lane in range(LANES):
            scores[n + lane] += added[lane]
    return _weigh(scores[:end], weights) if count else total


@part
def _mix(
    cells: Any, layer: int, row: int, head: int, length: int, total: Any, out: Any, room: Any, rank: int, following: int
) -> None:
    """The values of a head's first `length` positions, as much of each as `_look` found, to `out` [HEAD]. The keys at
    `following` are asked for."""
    values, near_values = cells.values[layer, row, head].ctypes.data, cells.near_values[layer, row, head].ctypes.data
    close_values = cells.close_values[layer, row, head].ctypes.data
    weights, value_scale, sums = room.weights[rank], room.value_scale[rank], room.sums[rank]
    high, low, near, close = room.halves[rank, 0], room.halves[rank, 1], room.near[rank], room.close[rank]
    blocks, groups = (length + LANES - 1) // LANES, (length + GROUP - 1) // GROUP
    near_count, close_count = _above(weights, blocks, NEAR * total, near), _above(weights, blocks, CLOSE * total, close)
    end = blocks * LANES
    all_weights, near_weights, close_weights = F(0), F(0), F(0)
    value_scale[length:end] = F(0)  # likewise
    for n in range(end):
        weights[n] *= value_scale[n]
        all_weights += weights[n]
    by = _largest(weights[:end]) / F(0xFFFF)
    for block in range(blocks):
        n, rest = block * LANES, following + (blocks * KEY_LINES + block) * LINE
        halve(weights[n:].ctypes.data, F(1) / by, high[n:].ctypes.data, low[n:].ctypes.data, rest)
    sums[:] = np.int32(0)
    mixture_of_2_bits(values, high.ctypes.data, low.ctypes.data, groups, sums[0].ctypes.data, following)
    for block in near[:near_count]:
        n, here = block * LANES, near_values + block * LANES // GROUP * LINE
        mixture_of_2_bits(here, high[n:].ctypes.data, low[n:].ctypes.data, LANES // GROUP, sums[1].ctypes.data, here)
        for lane in range(LANES):
            near_weights += weights[n + lane]
    for block in close[:close_count]:
        n, here = block * LANES, close_values + block * LANES // GROUP * VALUE_LINES * LINE
        mixture_of_4_bits(here, high[n:].ctypes.data, low[n:].ctypes.data, LANES // GROUP, sums[2].ctypes.data, here)
        for lane in range(LANES):
            close_weights += weights[n + lane]
    too_much = F(MIDDLE - REST_6) * all_weights + F(REST_6 - REST_4) * near_weights + F(REST_4) * close_weights
    for i in range(HEAD):
        highest = F(256) * F(sums[0, 0, i]) + F(sums[0, 1, i])
        next_ones = F(256) * F(sums[1, 0, i]) + F(sums[1, 1, i])
        lowest = F(256) * F(sums[2, 0, i]) + F(sums[2, 1, i])
        out[i] = ((F(64) * highest + F(16) * next_ones + lowest) * by - too_much) / total


@part
def _attend(
    cells: Any, layer: int, row: int, head: int, length: int, query: Any, out: Any, room: Any, rank: int, following: int
) -> None:
    """Attention of a scaled query [HEAD] over a head's first `length` positions, to `out` [HEAD]."""
    total = _look(cells, layer, row, head, length, query, room, rank)
    _mix(cells, layer, row, head, length, total, out, room, rank, following)


@part
def _enter(weights: Any, requests: Any, count: int, first: int, last: int, x: Any) -> None:
    """Channels `first` to `last` of what the first layer gets of both branches."""
    for a in range(count):
        both, position = x[2 * a : 2 * a + 2], weights.positions[requests.position[a]]
        for i in range(first, last):
            both[0, i] = position[i]
        for k in range(len(weights.embedding)):
            embedding = weights.embedding[k, requests.tokens[a, k]]
            for i in range(first, last):
                both[0, i] += embedding[i]
        for i in range(first, last):
            both[1, i] = both[0, i]
        if requests.summed.shape[2]:
            for branch in range(2):
                summed = requests.summed[a, branch, requests.step[a]]
                for i in range(first, last):
                    both[branch, i] += summed[i]


@part
def _least(order: Any, shares: Any, most: Any) -> Any:
    """The least number, by its order, of which greater ones have at most `most` of the shares."""
    low, high = np.int64(-MAGNITUDE), np.int64(MAGNITUDE)
    while low < high:
        middle = (low + high) >> 1
        number, above = np.int32(middle), F(0)
        for i in range(len(order)):
            above += shares[i] if order[i] > number else F(0)
        if above <= most:
            high = middle
        else:
            low = middle + 1
    return np.int32(low)


@part
def _draw(requests: Any, draws: Any, a: int, k: int, logits: Any, odds: Any, order: Any, shares: Any) -> None:
    """The next token of one codebook, of both branches' logits [2, card], as `sampling` says."""
    prompted, null, step = logits[0], logits[1], requests.step[a]
    cfg_coef, by = draws.cfg_coef[a, min(k, draws.cfg_coef.shape[1] - 1)], F(1) / draws.temperature[a]
    for i in range(len(odds)):
        odds[i] = (null[i] + (prompted[i] - null[i]) * cfg_coef) * by
    requests.mass[a, k] += F(1) + F(0) * _largest(odds)  # not a number where one is none
    highest, total, top_p = _highest(odds), F(0), draws.top_p[a]
    for i in range(len(odds)):
        order[i] = _in_order(bits_of_float(odds[i]))
        odds[i] = exp(odds[i] - highest)
        shares[i] = odds[i] if top_p > 0 else F(1)
        total += odds[i]
    least = _least(order, shares, top_p * total if top_p > 0 else F(draws.kept[a] - 1))
    total = F(0)
    for i in range(len(odds)):
        total += odds[i] if order[i] >= least else F(0)
        shares[i] = total
    sought, token = (F(1) - requests.noise[a, step, k]) * total, 0
    while shares[token] < sought:
        token += 1
    known = requests.codes[a, step, k]
    token = token if known < 0 else known  # `step.UNKNOWN` is
    requests.codes[a, step, k] = token
    requests.tokens[a, k] = token


@whole
def decode(
    rank: int, size: int, met: int, count: int, weights: Any, requests: Any, own: Any, prompts: Any, prompt: Any,
    draws: Any, room: Any, eps: Any,
) -> None:  # fmt: skip
    """A step of the first `count` requests, by thread `rank` of `size`, which have met `met` times before; `prompt`
    [count] says how long prompts are, and is empty where there is no cross-attention."""
    layers, heads, dim, rows = own.keys.shape[0], own.keys.shape[2], room.x.shape[1], 2 * count
    x, wide, mixed, counter = room.x, room.wide, room.mixed, room.counter.ctypes.data
    normed, given, scale = room.normed[rank], room.given[rank], room.scale[rank]
    mine, others = heads * rank // size, heads * (rank + 1) // size
    first, last = mine * HEAD // LANES, others * HEAD // LANES  # the blocks of these heads
    third, ffn = dim // LANES, weights.up.weights.shape[1]
    _enter(weights, requests, count, mine * HEAD, others * HEAD, x)
    met = _meet(counter, size, met)
    for layer in range(layers):
        _prepare(x, weights.norm_self, layer, eps, rows, normed, given, scale)
        for begin in range(0, 3 * third, third):
            a, z = begin + first, begin + last
            _project(weights.qkv, layer, a, z, rows, given, scale, wide, False)
        for r in range(rows):
            at = requests.position[r // 2]
            for head in range(mine, others):
                c, h = head * HEAD, (head + 1) * HEAD
                key, value = wide[r, dim + c : dim + h], wide[r, 2 * dim + c : 2 * dim + h]
                _write(own, layer, r, head, at, key, value, room, rank)
                then, there = (r, head + 1) if head + 1 < others else (min(r + 1, rows - 1), mine)
                following = own.keys[layer, then, there].ctypes.data
                _attend(own, layer, r, head, at + 1, wide[r, c:h], mixed[r, c:h], room, rank, following)
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
    met = _meet(counter, size, met)
    if len(draws.temperature) == 0:
        return
    codebooks, card = requests.tokens.shape[1], room.odds.shape[1]
    for each in range(count * codebooks * rank // size, count * codebooks * (rank + 1) // size):
        a, k = each // codebooks, each % codebooks
        logits = room.logits[2 * a : 2 * a + 2, k * card : (k + 1) * card]
        _draw(requests, draws, a, k, logits, room.odds[rank], room.order[rank], room.shares[rank])
    _meet(counter, size, met)
    if rank == 0:
        for a in range(count):
            requests.position[a] += 1
            requests.step[a] += 1
