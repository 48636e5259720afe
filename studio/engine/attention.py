"""Keys and values of requests in flight, and attention over them by one token of each row. Knows no weights.

Two layouts, the same function. `Dense` is what a textbook has and what a GPU likes. `Bags` is for CPUs, where the
kernels for attention wait for their own arithmetic, and read half precision slower than single: it stores keys and
values as tables of short rows, so that scores and mixtures become weighted sums of rows, "embedding bags", whose
kernels read half precision nearly as fast as memory gives it: 21 GB/s a core, where attention over fp32 gets 12.
`ByteBags` does the same in 8 bits, whose kernels are made for tables of quantised embeddings: half the memory to read.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 64  # positions side by side in a row of keys
LINE = 64  # bytes that memory gives at once


class Reach(NamedTuple):
    """Which cells R rows read: all positions before some length L, a multiple of BLOCK. The same in all layers."""

    mask: Tensor  # [R, 1, L]: 0 where a row attends, else -inf
    keys: Tensor  # [R * heads, L / BLOCK, head_dim], rows of the keys' table; what follows is empty for `Dense`
    key_bags: Tensor  # [R * heads * L / BLOCK], where each bag begins
    values: Tensor  # [R * heads * L]
    value_bags: Tensor  # [R * heads]


class KeysValues(nn.Module):
    """The keys and values of up to `rows` sequences of up to `length` positions in each layer."""

    GRAIN: int  # a multiple of BLOCK, which lengths of attention are rounded up to

    def __init__(
        self, layers: int, rows: int, heads: int, length: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        assert length % BLOCK == 0, length
        self.layers, self.rows, self.heads, self.length, self.head_dim = layers, rows, heads, length, head_dim
        self.device, self.dtype = device, dtype

    @classmethod
    def position_bytes(cls, head_dim: int, dtype: torch.dtype) -> int:
        """What a head's key and value at one position take."""
        return 2 * head_dim * dtype.itemsize

    @classmethod
    def read_bytes(cls, head_dim: int, dtype: torch.dtype) -> int:
        """What of it a step reads."""
        return cls.position_bytes(head_dim, dtype)

    def rounded(self, length: int) -> int:
        """How far to read where `length` positions count."""
        return min(-(-length // self.GRAIN) * self.GRAIN, self.length)

    def places(self, position: Tensor) -> Tensor:
        """Where the keys and values of the first R rows at positions [R] go, for `write`."""
        raise NotImplementedError

    def write(self, layer: int, places: Tensor, keys_values: Tensor) -> None:
        """Store keys and values [R, 2 * heads * head_dim]."""
        raise NotImplementedError

    def read(self, layer: int, query: Tensor, reach: Reach) -> Tensor:
        """Attention of scaled queries [R, heads * head_dim] over what they reach [R, heads * head_dim]."""
        raise NotImplementedError

    def reach(self, rows: int, length: int) -> Reach:
        """The first `rows` rows, up to `length`; nothing is hidden yet."""
        raise NotImplementedError

    def fill(self, row: int, keys_values: Tensor) -> None:
        """Store what stands at the first positions of a row: [layers, P, 2, heads, head_dim]."""
        raise NotImplementedError

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first positions over another's."""
        raise NotImplementedError

    def clear(self, row: int) -> None:
        """Forget a row: masked zeros add nothing to the next one's sums, masked NaNs do."""
        raise NotImplementedError


class Bags(KeysValues):
    """A table of keys [rows * heads * blocks * head_dim, BLOCK] and one of values [rows * heads * length, head_dim]."""

    GRAIN = BLOCK

    cells: Tensor  # [layers, both tables]
    base: Tensor  # [rows, 2, heads, head_dim], where the keys and values at position 0 lie

    def __init__(
        self, layers: int, rows: int, heads: int, length: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(layers, rows, heads, length, head_dim, device, dtype)
        self._half = rows * heads * length * head_dim  # cells of either table
        self.register_buffer("cells", zeros(layers, 2 * self._half, device=device, dtype=dtype), persistent=False)
        first = torch.arange(rows * heads, device=device).view(rows, 1, heads, 1) * (length * head_dim)
        within = torch.arange(head_dim, device=device)
        base = torch.cat([first + within * BLOCK, first + within + self._half], dim=1)
        self.register_buffer("base", base, persistent=False)

    def places(self, position: Tensor) -> Tensor:
        key = (position // BLOCK) * (BLOCK * self.head_dim) + position % BLOCK
        offset = torch.stack([key, position * self.head_dim], dim=1)  # [R, 2]
        return (self.base[: position.shape[0]] + offset[:, :, None, None]).view(-1)

    def write(self, layer: int, places: Tensor, keys_values: Tensor) -> None:
        self.cells[layer].index_copy_(0, places, keys_values.to(self.dtype).reshape(-1))

    def read(self, layer: int, query: Tensor, reach: Reach) -> Tensor:
        keys = self.cells[layer, : self._half].view(-1, BLOCK)
        values = self.cells[layer, self._half :].view(-1, self.head_dim)
        rows, _, length = reach.mask.shape
        weights = query.to(self.dtype).reshape(-1, 1, self.head_dim).expand_as(reach.keys)
        scores = _bags(keys, reach.keys, reach.key_bags, weights).view(rows, self.heads, length)
        weights = (scores + reach.mask).softmax(dim=-1)
        return _bags(values, reach.values, reach.value_bags, weights).view(query.shape).to(query.dtype)

    def reach(self, rows: int, length: int) -> Reach:
        bags, blocks, last = rows * self.heads, length // BLOCK, self.length // BLOCK

        def count(stop: int, step: int = 1) -> Tensor:
            return torch.arange(0, stop, step, dtype=torch.int32, device=self.device)

        block = count(bags)[:, None] * last + count(blocks)  # [bags, blocks]
        return Reach(
            mask=torch.zeros(rows, 1, length, dtype=self.dtype, device=self.device),
            keys=block[:, :, None] * self.head_dim + count(self.head_dim),
            key_bags=count(bags * blocks * self.head_dim, self.head_dim),
            values=(count(bags)[:, None] * self.length + count(length)).view(-1),
            value_bags=count(bags * length, length),
        )

    def fill(self, row: int, keys_values: Tensor) -> None:
        layers, positions, *_ = keys_values.shape
        blocks = -(-positions // BLOCK)
        keys, values = keys_values.to(self.dtype).permute(2, 0, 3, 1, 4)  # [layers, heads, P, head_dim] each
        keys = F.pad(keys, (0, 0, 0, blocks * BLOCK - positions)).view(layers, self.heads, blocks, BLOCK, self.head_dim)
        own_keys, own_values = self._row(row)
        own_keys[:, :, :blocks] = keys.mT
        own_values[:, :, :positions] = values

    def move(self, source: int, target: int, length: int) -> None:
        blocks = -(-length // BLOCK)
        (from_keys, from_values), (to_keys, to_values) = self._row(source), self._row(target)
        to_keys[:, :, :blocks] = from_keys[:, :, :blocks]
        to_values[:, :, :length] = from_values[:, :, :length]

    def clear(self, row: int) -> None:
        for own in self._row(row):
            own.zero_()

    def _row(self, row: int) -> tuple[Tensor, Tensor]:
        """A row's keys [layers, heads, blocks, head_dim, BLOCK] and values [layers, heads, length, head_dim]."""
        keys, values = self.cells.view(self.layers, 2, self.rows, self.heads, -1)[:, :, row].unbind(1)
        shape = self.layers, self.heads
        return keys.view(*shape, -1, self.head_dim, BLOCK), values.view(*shape, self.length, self.head_dim)


class ByteBags(Bags):
    """In 8 bits. The kernels want quantised embeddings: rows that end in a scale and a bias.

    A value is such a row. A row of keys holds one channel of BLOCK positions, which do not share a scale; so these rows
    end in 1 and -128, bytes are about 128, and the scale of each head's key at a position stands apart.
    """

    TAIL = 8  # bytes of a row's scale and bias

    keys: Tensor  # [layers, rows * heads * blocks * head_dim, BLOCK + TAIL], bytes
    values: Tensor  # [layers, rows * heads * length, head_dim + TAIL], bytes
    scales: Tensor  # [layers, rows * heads * length], of the keys
    base: Tensor  # [rows, heads, head_dim], where the keys at position 0 lie
    first: Tensor  # [rows, heads], where their scales and the values do

    def __init__(
        self, layers: int, rows: int, heads: int, length: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        """`dtype`: of the arithmetic, fp32."""
        KeysValues.__init__(self, layers, rows, heads, length, head_dim, device, dtype)
        each = rows * heads * length

        def keep(name: str, *shape: int, dtype: torch.dtype = torch.uint8) -> None:
            self.register_buffer(name, zeros(layers, *shape, device=device, dtype=dtype), persistent=False)

        keep("keys", each // BLOCK * head_dim, BLOCK + self.TAIL)
        keep("values", each, head_dim + self.TAIL)
        keep("scales", each, dtype=dtype)
        first = torch.arange(rows * heads, device=device).view(rows, heads) * length
        channel = torch.arange(head_dim, device=device)
        base = (first[..., None] // BLOCK * head_dim + channel) * (BLOCK + self.TAIL)
        self.register_buffer("base", base, persistent=False)
        self.register_buffer("first", first, persistent=False)

    @classmethod
    def position_bytes(cls, head_dim: int, dtype: torch.dtype) -> int:
        return head_dim * (BLOCK + cls.TAIL) // BLOCK + head_dim + cls.TAIL + dtype.itemsize

    def places(self, position: Tensor) -> Tensor:
        """Of the keys' bytes [R * heads * head_dim], then of their scales and of the values [R * heads]."""
        key = position // BLOCK * (self.head_dim * (BLOCK + self.TAIL)) + position % BLOCK
        rows = position.shape[0]
        bytes_, entries = self.base[:rows] + key[:, None, None], self.first[:rows] + position[:, None]
        return torch.cat([bytes_.flatten(), entries.flatten()])

    def write(self, layer: int, places: Tensor, keys_values: Tensor) -> None:
        keys, values = (each.reshape(-1, self.head_dim) for each in keys_values.chunk(2, dim=1))
        rounded, scale = _in_bytes(keys)
        entries = places[keys.numel() :]
        self.keys[layer].view(-1).scatter_(0, places[: keys.numel()], rounded.view(-1))
        self.scales[layer].scatter_(0, entries, scale.view(-1))
        self.values[layer].index_copy_(0, entries, _embeddings(values))

    def read(self, layer: int, query: Tensor, reach: Reach) -> Tensor:
        rows, _, length = reach.mask.shape
        scales = self.scales[layer].view(self.rows, self.heads, self.length)[:rows, :, :length]
        weights = query.reshape(-1, 1, self.head_dim).expand_as(reach.keys)
        scores = _byte_bags(self.keys[layer], reach.keys, reach.key_bags, weights).view(rows, self.heads, length)
        weights = torch.addcmul(reach.mask, scores, scales).softmax(dim=-1)
        return _byte_bags(self.values[layer], reach.values, reach.value_bags, weights).view(query.shape)

    def reach(self, rows: int, length: int) -> Reach:
        """Ends the rows that are reached as the kernels want it; memory is taken as it is written to."""
        tail = torch.tensor([1.0, -128.0], device=self.device).view(torch.uint8)
        keys, *_ = self._tables()
        keys[:, :rows, :, : length // BLOCK, :, BLOCK:] = tail
        return super().reach(rows, length)

    def fill(self, row: int, keys_values: Tensor) -> None:
        layers, positions, *_ = keys_values.shape
        blocks = -(-positions // BLOCK)
        keys, values = keys_values.float().permute(2, 0, 3, 1, 4)  # [layers, heads, P, head_dim] each
        rounded, scale = _in_bytes(keys)
        rounded = F.pad(rounded, (0, 0, 0, blocks * BLOCK - positions))
        rounded = rounded.view(layers, self.heads, blocks, BLOCK, self.head_dim)
        own_keys, own_values, own_scales = self._tables()
        own_keys[:, row, :, :blocks, :, :BLOCK] = rounded.mT
        embeddings = _embeddings(values.reshape(-1, self.head_dim))
        own_values[:, row, :, :positions] = embeddings.view(layers, self.heads, positions, -1)
        own_scales[:, row, :, :positions] = scale[..., 0]

    def move(self, source: int, target: int, length: int) -> None:
        keys, values, scales = self._tables()
        blocks = -(-length // BLOCK)
        keys[:, target, :, :blocks] = keys[:, source, :, :blocks]
        values[:, target, :, :length] = values[:, source, :, :length]
        scales[:, target, :, :length] = scales[:, source, :, :length]

    def clear(self, row: int) -> None:
        _, values, scales = self._tables()
        values[:, row] = 0
        scales[:, row] = 0

    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys [layers, rows, heads, blocks, head_dim, BLOCK + TAIL], values [layers, rows, heads, length, head_dim +
        TAIL] and scales [layers, rows, heads, length]."""
        shape = self.layers, self.rows, self.heads
        return (
            self.keys.view(*shape, -1, self.head_dim, BLOCK + self.TAIL),
            self.values.view(*shape, self.length, self.head_dim + self.TAIL),
            self.scales.view(*shape, self.length),
        )


class Dense(KeysValues):
    """Keys and values side by side, [layers, rows, 2, heads, length, head_dim], read by torch's attention."""

    GRAIN = 4 * BLOCK  # each length is a recording of its own

    cells: Tensor
    entry: Tensor  # [rows * 2 * heads, 1], the numbers of the sequences in `cells`

    def __init__(
        self, layers: int, rows: int, heads: int, length: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(layers, rows, heads, length, head_dim, device, dtype)
        self.register_buffer(
            "cells", zeros(layers, rows, 2, heads, length, head_dim, device=device, dtype=dtype), persistent=False
        )
        self.register_buffer("entry", torch.arange(rows * 2 * heads, device=device)[:, None], persistent=False)

    def places(self, position: Tensor) -> Tensor:
        return position.repeat_interleave(2 * self.heads)[:, None]

    def write(self, layer: int, places: Tensor, keys_values: Tensor) -> None:
        entries = keys_values.to(self.dtype).reshape(len(places), 1, self.head_dim)
        self.cells[layer].flatten(0, 2).index_put_((self.entry[: len(places)], places), entries)

    def read(self, layer: int, query: Tensor, reach: Reach) -> Tensor:
        rows, _, length = reach.mask.shape
        keys, values = self.cells[layer, :rows, :, :, :length].unbind(1)
        heads = query.to(self.dtype).view(rows, self.heads, 1, self.head_dim)
        mixed = F.scaled_dot_product_attention(heads, keys, values, attn_mask=reach.mask[:, None], scale=1.0)
        return mixed.reshape(query.shape).to(query.dtype)

    def reach(self, rows: int, length: int) -> Reach:
        nothing = torch.zeros(0, dtype=torch.int32, device=self.device)
        mask = torch.zeros(rows, 1, length, dtype=self.dtype, device=self.device)
        return Reach(mask, nothing, nothing, nothing, nothing)

    def fill(self, row: int, keys_values: Tensor) -> None:
        self.cells[:, row, :, :, : keys_values.shape[1]] = keys_values.permute(0, 2, 3, 1, 4)

    def move(self, source: int, target: int, length: int) -> None:
        self.cells[:, target, ..., :length, :] = self.cells[:, source, ..., :length, :]

    def clear(self, row: int) -> None:
        self.cells[:, row] = 0


def rounded(length: int) -> int:
    """The next multiple of BLOCK."""
    return -(-length // BLOCK) * BLOCK


def hide(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: -inf where hidden, else 0."""
    return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, -torch.inf)


def _bags(table: Tensor, rows: Tensor, bags: Tensor, weights: Tensor) -> Tensor:
    """For each bag the sum of its rows of the table [N, W], each with its weight: [bags, W]."""
    summed, *_ = torch.embedding_bag(table, rows.view(-1), bags, False, 0, False, weights.reshape(-1))
    return summed


def _byte_bags(table: Tensor, rows: Tensor, bags: Tensor, weights: Tensor) -> Tensor:
    """The same of a quantised table [N, W + TAIL]: [bags, W] in fp32."""
    summed: Tensor = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        table, rows.view(-1), bags, False, 0, False, weights.reshape(-1), None, False
    )
    return summed


def _embeddings(numbers: Tensor) -> Tensor:
    """Numbers [N, W] as quantised embeddings [N, W + TAIL]: bytes, a scale, a bias."""
    packed: Tensor = torch.ops.quantized.embedding_bag_byte_prepack(numbers)
    return packed


def _in_bytes(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers [..., N] as bytes [..., N] about 128, and their scales [..., 1]."""
    scale = numbers.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-12).div_(127)
    return (numbers / scale).add_(128.5).to(torch.uint8), scale


def zeros(*shape: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros. On a CPU numpy's, which take memory as they are written to, where torch's take all of it at once."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + LINE, np.uint8)
    begin = -room.ctypes.data % LINE
    return torch.from_numpy(room[begin : begin + size]).view(dtype).view(shape)
