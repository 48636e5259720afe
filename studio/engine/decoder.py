"""Requests in flight and one decode step for all of them: conditions to codes. Knows no prompt and no audio.

Requests take rows 0 to A - 1 of buffers that are allocated once; when one leaves, the last one moves into its place, so
that a step computes rows in flight and nothing else. What a request gets does not depend on its neighbours: it has
its own positions, noise and parameters, what it attends to is masked, and on a CPU the kernels give each row the same
bits in whatever company (up to six requests in fp32; see `studio.engine.linear`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from studio.engine import delay
from studio.engine.model import Conditions
from studio.engine.sampling import FIRST_OF_KEPT, Sampling, SamplingRows, draw, guide, truncate
from studio.engine.transformer import DecoderConfig, Transformer, Window
from studio.errors import InvalidRequest, NotFinite

BUCKET = 64  # lengths of attention are rounded up to it
CROSS_MAX = 512  # tokens of a prompt
PREFIX_MAX = 768  # tokens before the codes, in models without cross-attention


class Advance(NamedTuple):
    """A request moved on: `done` of `total` decode steps."""

    key: str
    done: int
    total: int


@dataclass
class _Slot:
    """What the host knows about a request in flight."""

    key: str
    sampling: Sampling
    noise: torch.Generator
    frames: int
    prefix: int  # tokens before the codes
    prompt: int  # tokens that cross-attention reads
    total: int  # decode steps
    done: int = 0


@dataclass
class _State:
    """What the device knows: a row (keys and values: a pair of rows) for each request. Allocated once."""

    keys_values: Tensor  # [layers, 2 slots, 2, heads, T, head_dim]
    cross: Tensor  # [layers, slots + 1, 2, heads, S, head_dim]; one more, as a lone row is computed as two
    codes: Tensor  # [slots, steps, K], in the delay pattern, without the first column
    tokens: Tensor  # [slots, K], the next step's input
    step: Tensor  # [slots]
    position: Tensor  # [slots], of the next input
    frames: Tensor  # [slots]
    noise: Tensor  # [slots, K]
    mass: Tensor  # [slots, K], the sum of what was drawn from: finite while all logits were

    @classmethod
    def allocate(
        cls, config: DecoderConfig, slots: int, steps: int, device: torch.device, dtype: torch.dtype
    ) -> _State:
        c, k = config, config.codebooks
        prefix, cross = (0, CROSS_MAX) if c.cross_attention else (PREFIX_MAX, 0)

        def rows(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(slots, *shape, dtype=dtype, device=device)

        return cls(
            keys_values=_zeros((c.layers, 2 * slots, 2, c.heads, _bucket(prefix + steps), c.head_dim), device, dtype),
            cross=_zeros((c.layers, slots + 1, 2, c.heads, cross, c.head_dim), device, dtype),
            codes=rows(steps, k),
            tokens=rows(k),
            step=rows(),
            position=rows(),
            frames=rows(),
            noise=rows(k, dtype=torch.float32),
            mass=rows(k, dtype=torch.float32),
        )

    def finite(self, at: int) -> bool:
        """Whether all logits of a request have been numbers."""
        return bool(self.mass[at].isfinite().all())

    def clear(self, at: int) -> None:
        """Forget a request's keys and values: masked zeros add nothing to the next one's sums, masked NaNs do."""
        self.keys_values[:, 2 * at : 2 * at + 2] = 0
        self.cross[:, at] = 0

    def move(self, source: int, target: int, length: int, prompt: int) -> None:
        """Copy everything of one request over another's: keys and values up to `length` and `prompt`."""
        kv = self.keys_values
        kv[:, 2 * target : 2 * target + 2, ..., :length, :] = kv[:, 2 * source : 2 * source + 2, ..., :length, :]
        self.cross[:, target, ..., :prompt, :] = self.cross[:, source, ..., :prompt, :]
        for buffer in (self.codes, self.tokens, self.step, self.position, self.frames, self.noise, self.mass):
            buffer[target] = buffer[source]


@dataclass(frozen=True)
class _Rows:
    """Views of what adjacent requests read and write, a tuple entry for each layer."""

    entries: tuple[Tensor, ...]  # [2 A * 2 * heads, T, head_dim]
    entry: Tensor  # [2 A * 2 * heads, 1], their indices
    keys: Tensor  # [layers, 2 A, heads, T, head_dim]
    values: Tensor
    cross_keys: tuple[Tensor, ...]  # [max(A, 2), heads, S, head_dim]
    cross_values: tuple[Tensor, ...]
    cross_mask: Tensor  # [max(A, 2), 1, 1, S]
    cross_stride: int

    def window(self, position: Tensor, columns: Tensor) -> Window:
        """Tokens at positions [A, T] attend to the columns [L] up to their own."""
        length, per_row = len(columns), len(self.entry) // (2 * len(position))
        later = columns > position.repeat_interleave(2, dim=0)[:, None, :, None]  # [2 A, 1, T, L]
        return Window(
            entries=self.entries,
            write=(self.entry, position.repeat_interleave(2 * per_row, dim=0)),
            keys=self.keys[..., :length, :].unbind(),
            values=self.values[..., :length, :].unbind(),
            mask=_mask(later, self.keys.dtype),
            cross_keys=self.cross_keys,
            cross_values=self.cross_values,
            cross_mask=self.cross_mask,
            cross_stride=self.cross_stride,
        )


@dataclass(frozen=True)
class _Batch:
    """What follows from which requests are in flight; made anew when one joins or leaves."""

    size: int  # A
    row: Tensor  # [A], 0 to A - 1
    rows: _Rows
    sampling: SamplingRows


class Decoder:
    """Decodes up to `slots` requests of up to `max_frames` frames together."""

    def __init__(
        self,
        config: DecoderConfig,
        lm: dict[str, Tensor],
        *,
        device: torch.device,
        dtype: torch.dtype,
        slots: int,
        max_frames: int,
    ) -> None:
        """`lm` has the parameters under audiocraft's names; they are copied in `dtype`."""
        self.config = config
        self.slots = slots
        self._device = device
        self._in_flight: list[_Slot] = []
        self._batch: _Batch | None = None
        steps = delay.steps(max_frames, config.delays)
        with torch.inference_mode():
            # A CPU's attention is several times faster in fp32 than in half precision.
            cache = torch.float32 if device.type == "cpu" else dtype
            self._state = _State.allocate(config, slots, steps, device, cache)
            self._transformer = Transformer(config, lm, device, dtype, positions=self._state.keys_values.shape[4])
            self._delays = torch.tensor(config.delays, device=device)
            self._columns = torch.arange(self._state.keys_values.shape[4], device=device)

    @property
    def free_slots(self) -> int:
        """How many more requests can be admitted."""
        return self.slots - len(self._in_flight)

    @torch.inference_mode()
    def admit(self, key: str, conditions: Conditions, frames: int, sampling: Sampling) -> None:
        """Take a request for `frames` frames into a free slot.

        Raises:
            InvalidRequest: the prompt is longer than the buffers.
        """
        assert self.free_slots, "no free slot"
        assert all(slot.key != key for slot in self._in_flight), key
        slot = self._slot(key, conditions, frames, sampling)
        at = len(self._in_flight)
        self._reset(at, slot)
        if conditions.cross is not None:
            self._state.cross[:, at, :, :, : slot.prompt] = self._transformer.cross_keys_values(conditions.cross)
        if conditions.prefix is not None:
            self._prefill(at, conditions)
        self._in_flight.append(slot)
        self._regroup()

    @torch.inference_mode()
    def step(self) -> list[Advance]:
        """One step for all in flight, in the order of their slots. A request that is done stays until it is taken."""
        if not self._in_flight:
            return []
        assert self._batch is not None
        for at, slot in enumerate(self._in_flight):
            assert slot.done < slot.total, f"{slot.key} is done: take it"
            if not slot.sampling.greedy:
                self._state.noise[at].uniform_(generator=slot.noise)
        length = _bucket(max(slot.prefix + slot.done for slot in self._in_flight) + 1)
        self._advance(self._batch, length)
        for slot in self._in_flight:
            slot.done += 1
        return [Advance(slot.key, slot.done, slot.total) for slot in self._in_flight]

    @torch.inference_mode()
    def take(self, key: str) -> Tensor:
        """The codes [K, F] of a request that is done; frees its slot.

        Raises:
            NotFinite: the logits were not numbers.
        """
        at = self._find(key)
        slot = self._in_flight[at]
        assert slot.done == slot.total, (slot.done, slot.total)
        finite = self._state.finite(at)
        sequence = torch.nn.functional.pad(self._state.codes[at, : slot.total].T, (1, 0))
        codes = delay.undelay(sequence, self.config.delays)
        self._leave(at)
        if not finite:
            raise NotFinite
        return codes

    @torch.inference_mode()
    def evict(self, key: str) -> None:
        """Free the slot of `key` at once; unknown keys are ignored."""
        if any(slot.key == key for slot in self._in_flight):
            self._leave(self._find(key))

    def _slot(self, key: str, conditions: Conditions, frames: int, sampling: Sampling) -> _Slot:
        total = delay.steps(frames, self.config.delays)
        prefix = 0 if conditions.prefix is None else len(conditions.prefix)
        prompt = 0 if conditions.cross is None else len(conditions.cross)
        assert 0 < total <= self._state.codes.shape[1], frames
        if prompt > self._state.cross.shape[4] or prefix + total > len(self._columns):
            raise InvalidRequest("prompt", f"is too long for this model: it has {prompt or prefix} tokens")
        noise = torch.Generator(self._device).manual_seed(sampling.seed)
        return _Slot(key, sampling, noise, frames, prefix, prompt, total)

    def _reset(self, at: int, slot: _Slot) -> None:
        state = self._state
        state.tokens[at] = self.config.cardinality
        state.step[at] = 0
        state.position[at] = slot.prefix
        state.frames[at] = slot.frames
        state.noise[at] = FIRST_OF_KEPT
        state.mass[at] = 0.0

    def _prefill(self, at: int, conditions: Conditions) -> None:
        """Write the keys and values of what precedes the codes."""
        assert conditions.prefix is not None
        assert conditions.null_prefix is not None
        prefix = torch.stack([conditions.prefix, conditions.null_prefix]).to(self._device)  # [2, P, dim]
        position = self._columns[: prefix.shape[1]]
        window = self._rows(at, [0]).window(position[None], position)
        self._transformer.run(self._transformer.embed_prefix(prefix), window)

    def _advance(self, batch: _Batch, length: int) -> None:
        """The step itself: reads and writes the state's first rows, and never waits for the device."""
        state, a = self._state, batch.size
        window = batch.rows.window(state.position[:a, None], self._columns[:length])
        x = self._transformer.run(self._transformer.embed(state.tokens[:a], state.position[:a]), window)
        self._record(batch, *self._choose(batch, self._transformer.logits(x)))

    def _choose(self, batch: _Batch, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [A, K] and their masses [A, K] from both branches' logits [A, 2, K, card]."""
        guided = guide(logits, batch.sampling.cfg_coef)
        return draw(truncate(guided, batch.sampling), self._state.noise[: batch.size])

    def _record(self, batch: _Batch, codes: Tensor, mass: Tensor) -> None:
        """Store what was drawn [A, K], as far as the delay pattern has a place for it, and move on."""
        state, a = self._state, batch.size
        step = state.step[:a]
        carries = delay.carries_code(step, state.frames[:a], self._delays)
        tokens = torch.where(carries, codes, self.config.cardinality)
        state.codes.index_put_((batch.row, step), tokens)
        state.tokens[:a] = tokens
        state.mass[:a] += mass
        state.step[:a] += 1
        state.position[:a] += 1

    def _find(self, key: str) -> int:
        return [slot.key for slot in self._in_flight].index(key)

    def _leave(self, at: int) -> None:
        if not self._state.finite(at):
            self._state.clear(at)
        last = self._in_flight.pop()
        if at < len(self._in_flight):
            self._in_flight[at] = last
            self._state.move(len(self._in_flight), at, last.prefix + last.done, last.prompt)
        self._regroup()

    def _regroup(self) -> None:
        if not self._in_flight:
            self._batch = None
            return
        samplings = [slot.sampling for slot in self._in_flight]
        self._batch = _Batch(
            size=len(samplings),
            row=torch.arange(len(samplings), device=self._device),
            rows=self._rows(0, [slot.prompt for slot in self._in_flight]),
            sampling=SamplingRows.of(samplings, self.config.cardinality, self._device),
        )

    def _rows(self, first: int, prompts: list[int]) -> _Rows:
        """The rows of the requests from `first` on, whose prompts have these lengths."""
        size = len(prompts)
        kv = self._state.keys_values[:, 2 * first : 2 * (first + size)]  # [layers, 2 A, 2, heads, T, head_dim]
        cross_rows = prompts * 2 if size == 1 else prompts  # one row alone would have other bits than among others
        cross = self._state.cross[:, first : first + len(cross_rows), ..., : _bucket(max(prompts)), :]
        entries = kv.flatten(1, 3)
        missing = self._columns[: cross.shape[4]] >= torch.tensor(cross_rows, device=self._device)[:, None, None, None]
        return _Rows(
            entries=entries.unbind(),
            entry=torch.arange(entries.shape[1], device=self._device)[:, None],
            keys=kv[:, :, 0],
            values=kv[:, :, 1],
            cross_keys=cross[:, :, 0].unbind(),
            cross_values=cross[:, :, 1].unbind(),
            cross_mask=_mask(missing, cross.dtype),
            cross_stride=1 if size == 1 else 2,
        )


def _mask(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: -inf where hidden, else 0."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)


def _bucket(length: int) -> int:
    return -(-length // BUCKET) * BUCKET


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros. On a CPU numpy's, which take memory as they are written to, where torch's take all of it at once."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    assert dtype is torch.float32, dtype
    return torch.from_numpy(np.zeros(shape, np.float32))
