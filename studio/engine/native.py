"""What the engine sees of the compiled step: `attention`, `transformer` and `step` with its arrays."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.engine.attention import KeysValues, Reach, zeros
from studio.engine.compiled import MIDDLE, Array, Cells, Draws, Matrix, Norms, Requests, Room, Weights, decode
from studio.engine.kernels import GROUP, HEAD, KEY_LINES, LANES, LINE, PAIR, VALUE_LINES, F, here
from studio.engine.sampling import SamplingRows
from studio.engine.step import Batch, Step
from studio.engine.transformer import DecoderConfig, Get, Layer, Transformer


def suits(config: DecoderConfig) -> bool:
    """Whether a decoder of this shape can be run here."""
    return config.head_dim == HEAD and config.ffn % HEAD == 0 and config.cardinality % LANES == 0 and here()


class NativeCells(KeysValues):
    """Keys and values as the compiled function reads them."""

    keys: Tensor  # these as in `Cells`
    values: Tensor
    near_values: Tensor
    close_keys: Tensor
    close_values: Tensor
    lengths: Tensor  # [rows], what `fill` left

    def __init__(
        self, layers: int, rows: int, heads: int, length: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(layers, rows, heads, length, head_dim, device, dtype)
        shape = layers, rows, heads

        def keep(name: str, *shape: int, dtype: torch.dtype) -> None:
            self.register_buffer(name, zeros(*shape, device=device, dtype=dtype), persistent=False)

        keep("keys", *shape, length // LANES, KEY_LINES + 1, LANES, dtype=torch.int32)
        keep("values", *shape, length // GROUP, LINE, dtype=torch.uint8)
        keep("near_values", *shape, length // GROUP, LINE, dtype=torch.uint8)
        keep("close_keys", *shape, length // LANES, KEY_LINES, LANES, dtype=torch.int32)
        keep("close_values", *shape, length // GROUP, VALUE_LINES, LINE, dtype=torch.uint8)
        keep("lengths", rows, dtype=torch.int64)
        self.cells = Cells(*(getattr(self, name).numpy() for name in Cells._fields))

    @classmethod
    def position_bytes(cls, head_dim: int, dtype: torch.dtype) -> int:
        return (2 * KEY_LINES + 1) * LINE // LANES + 2 * VALUE_LINES * LINE // GROUP

    @classmethod
    def read_bytes(cls, head_dim: int, dtype: torch.dtype) -> int:
        """At least: without what is read only where attention looks."""
        return (KEY_LINES + 1) * LINE // LANES + LINE // GROUP

    def rounded(self, length: int) -> int:
        """Each row looks as far as it is long, whatever the batch says."""
        return 0

    def reach(self, rows: int, length: int) -> Reach:
        nothing = torch.zeros(0, dtype=torch.int32)
        return Reach(torch.zeros(rows, 1, 0), nothing, nothing, nothing, nothing)

    def fill(self, row: int, keys_values: Tensor) -> None:
        positions = keys_values.shape[1]
        blocks, groups = -(-positions // LANES), -(-positions // LANES) * LANES // GROUP
        keys, values = keys_values.permute(2, 0, 3, 1, 4)  # [layers, heads, P, HEAD] each, float32
        (keys, key_scale), (values, value_scale) = _about_middle(keys), _about_middle(values)
        keys, values = _whole_blocks(keys), _whole_blocks(values)
        self.keys[:, row, :, :blocks, :KEY_LINES] = _key_lines(keys >> 4)
        self.close_keys[:, row, :, :blocks] = _key_lines(keys & 15)
        self.values[:, row, :, :groups] = _value_lines(values >> 6, 2)[..., 0, :]
        self.near_values[:, row, :, :groups] = _value_lines(values >> 4 & 3, 2)[..., 0, :]
        self.close_values[:, row, :, :groups] = _value_lines(values & 15, 4)
        scales = _whole_blocks((value_scale | (key_scale >> 16))[..., None])
        self.keys[:, row, :, :blocks, KEY_LINES] = scales.view(*scales.shape[:2], blocks, LANES)
        self.lengths[row] = positions

    def move(self, source: int, target: int, length: int) -> None:
        for name in Cells._fields:
            cells, positions = getattr(self, name), LANES if "keys" in name else GROUP
            used = -(-length // positions)
            cells[:, target, :, :used] = cells[:, source, :, :used]
        self.lengths[target] = self.lengths[source]

    def clear(self, row: int) -> None:
        """Nothing is read but what was written since."""


class NativeTransformer(Transformer):
    """A `Transformer` whose layers are int8 or bf16, and whose pass is `NativeStep`'s; what enters it is float32."""

    ENTERS = torch.float32

    def __init__(self, config: DecoderConfig, lm: Mapping[str, Tensor], precision: str, positions: int) -> None:
        """`lm` has audiocraft's names; `positions` is the length of the longest sequence."""
        super().__init__(config, lm, torch.device("cpu"), precision, positions)

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
        self.weights = Weights(
            embedding=self.embedding.view(c.codebooks, -1, c.dim).numpy(),
            positions=self.positions.numpy(),
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
        w = self.weights
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


class NativeStep(Step):
    """A `Step` that is one call."""

    def __init__(
        self, transformer: NativeTransformer, own: NativeCells, prompts: NativeCells | None, steps: int
    ) -> None:
        super().__init__(transformer, own, prompts, steps)
        threads, rows, c = min(torch.get_num_threads(), transformer.config.heads), own.rows, transformer.config
        self._weights, self._eps = transformer.weights, F(c.norm_eps)
        self._own, self._prompts = own, prompts or own
        self._requests = Requests(*(getattr(self, name).numpy() for name in Requests._fields))
        longest = max(own.length, prompts.length if prompts else 0)
        given = torch.uint8 if self._weights.qkv.weights.dtype == np.int8 else torch.float32

        def room(*shape: int, dtype: torch.dtype = torch.float32) -> Array:
            return torch.zeros(shape, dtype=dtype).numpy()

        numbers = room(threads, HEAD, dtype=torch.uint8)
        self._room = Room(
            x=room(rows, c.dim), wide=room(rows, max(3 * c.dim, c.ffn)), mixed=room(rows, c.dim),
            logits=room(rows, c.codebooks * c.cardinality),
            normed=room(threads, c.dim), given=room(threads, rows, max(c.dim, c.ffn), dtype=given),
            scale=room(threads, rows), sums=room(threads, 3, 2, HEAD, dtype=torch.int32),
            scores=room(threads, longest), weights=room(threads, longest), value_scale=room(threads, longest),
            near=room(threads, longest // LANES, dtype=torch.int32),
            close=room(threads, longest // LANES, dtype=torch.int32), added=room(threads, LANES),
            halves=room(threads, 2, longest, dtype=torch.uint8),
            query=room(threads, HEAD, dtype=torch.int8), numbers=numbers, words=numbers.view(np.int32),
            odds=room(threads, c.cardinality), order=room(threads, c.cardinality, dtype=torch.int32),
            shares=room(threads, c.cardinality), counter=room(1, dtype=torch.int64),
        )  # fmt: skip
        self._helpers = [SimpleQueue[Any]() for _ in range(1, threads)]
        self._ready: tuple[Batch | None, tuple[Any, ...]] = None, self._given(0, _NOBODY)
        decode(0, 1, 0, *self._ready[1])  # compiles it
        for rank, steps_to_do in enumerate(self._helpers, 1):
            Thread(target=_help, args=(rank, steps_to_do), name=f"decode-{rank}", daemon=True).start()
            weakref.finalize(self, steps_to_do.put, None)

    def forward(self, batch: Batch) -> Tensor:
        if self._ready[0] is not batch:
            self._ready = batch, self._given(batch.size, _draws(batch.sampling))
        self._decode(self._ready[1])
        return self.tokens[: batch.size].clone()

    def logits(self, batch: Batch) -> Tensor:
        self._decode(self._given(batch.size, _NOBODY))
        c = self.transformer.config
        return torch.from_numpy(self._room.logits)[: 2 * batch.size].view(-1, 2, c.codebooks, c.cardinality).clone()

    def _given(self, count: int, draws: Draws) -> tuple[Any, ...]:
        """What `decode` is given after the threads and their meetings."""
        prompt = self._prompts.lengths[: max(count, 1) if self.prompts is not None else 0].numpy()
        return (
            count, self._weights, self._requests, self._own.cells, self._prompts.cells, prompt, draws,
            self._room, self._eps,
        )  # fmt: skip

    def _decode(self, given: tuple[Any, ...]) -> None:
        """All meet at the end, so none has to be waited for."""
        size = 1 + len(self._helpers)
        given = (size, int(self._room.counter[0]) // size, *given)
        for steps_to_do in self._helpers:
            steps_to_do.put(given)
        decode(0, *given)


def _help(rank: int, steps_to_do: SimpleQueue[Any]) -> None:
    """A thread's part of each step, until there is no more to come."""
    while given := steps_to_do.get():
        decode(rank, *given)
        del given  # the weights may be unloaded before the next one


def _draws(rows: SamplingRows) -> Draws:
    a = len(rows.kept)
    top_p = torch.zeros(a) if rows.top_p is None else rows.top_p.view(a)
    each = rows.cfg_coef.view(a, -1), rows.temperature.view(a), rows.kept.view(a), top_p
    return Draws(*(tensor.numpy() for tensor in each))


_NOBODY = Draws(
    np.zeros((0, 1), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)
)  # fmt: skip


def _matrix(weights: Sequence[Tensor], precision: str) -> Matrix:
    """Projections [out, in] of the layers in reading order; in bytes, each output has a scale."""
    layers, (out, into) = len(weights), weights[0].shape if weights else (0, 0)
    together, dtype = (GROUP, torch.int8) if precision == "int8" else (PAIR, torch.uint16)
    ordered = zeros(layers, out // LANES, into // together, LANES, together, device=torch.device("cpu"), dtype=dtype)
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


def _about_middle(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers [..., HEAD] as uint8 about MIDDLE, and the bits of their scales, int32 [...]: as `compiled` does."""
    most = numbers.abs().amax(dim=-1).clamp_(min=1e-12).div_(MIDDLE - 1)
    scale = (most.view(torch.int32) + 0xFFFF) & -0x10000
    return ((numbers / scale.view(torch.float32)[..., None]).round() + MIDDLE).to(torch.uint8), scale


def _whole_blocks(of_positions: Tensor) -> Tensor:
    """[layers, heads, positions, N] with zeros to the end of the last block."""
    return torch.nn.functional.pad(of_positions, (0, 0, 0, -of_positions.shape[2] % LANES))


def _key_lines(parts: Tensor) -> Tensor:
    """4 bits each [layers, heads, P, HEAD] to words [layers, heads, P / LANES, KEY_LINES, LANES]."""
    layers, heads, positions, _ = parts.shape
    groups = parts.view(layers, heads, positions // LANES, LANES, HEAD // GROUP, GROUP).transpose(3, 4)
    low, high = groups.reshape(layers, heads, positions // LANES, 2, KEY_LINES, LINE).unbind(3)
    return (low | high << 4).view(torch.int32)


def _value_lines(parts: Tensor, bits: int) -> Tensor:
    """So many bits each [layers, heads, P, HEAD] to [layers, heads, P / GROUP, lines, LINE]."""
    layers, heads, positions, _ = parts.shape
    blocks = parts.view(layers, heads, positions // GROUP, GROUP, HEAD // LANES, LANES).movedim(3, -1)
    lines = blocks.reshape(layers, heads, positions // GROUP, -1, 8 // bits, LINE)
    return (lines << torch.arange(0, 8, bits, dtype=torch.uint8)[:, None]).sum(-2, dtype=torch.uint8)
