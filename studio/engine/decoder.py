"""Requests in flight and one decode step for all of them: conditions to codes. Knows no prompt and no audio.

Requests take rows 0 to A - 1 of buffers that are allocated once; when one leaves, the last one moves into its place, so
that a step computes rows in flight and nothing else. What a request gets does not depend on its neighbours: it has
its own positions, noise and parameters, what it attends to is masked, and on a CPU the kernels give each row the same
bits in whatever company (up to six requests in fp32; see `studio.engine.linear`).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from studio.engine import delay
from studio.engine.attention import Bags, ByteBags, Dense, KeysValues, Reach, hide, rounded
from studio.engine.linear import activations
from studio.engine.model import Conditions
from studio.engine.recording import Plain, recorder
from studio.engine.sampling import FIRST_OF_KEPT, Sampling, SamplingRows, draw, guide, truncate
from studio.engine.transformer import Context, DecoderConfig, Transformer
from studio.errors import InvalidRequest, NotFinite

CROSS_MAX = 512  # tokens of a prompt
PREFIX_MAX = 768  # tokens before the codes, in models without cross-attention
UNKNOWN = -1  # a code that is still to be drawn


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
    frames: int
    prefix: int  # tokens before the codes
    prompt: int  # tokens that cross-attention reads
    total: int  # decode steps
    done: int  # of which as many as there are given frames are done at admission


@dataclass(frozen=True)
class Batch:
    """What a step reads besides its buffers: who is in flight, how far they look, how they draw."""

    reach: Reach
    prompts: Reach | None  # absent without cross-attention
    sampling: SamplingRows

    @property
    def size(self) -> int:
        """A."""
        return self.sampling.cfg_coef.shape[0]

    @property
    def kind(self) -> tuple[int, bool]:
        """Batches of a kind differ in their tensors only."""
        return self.sampling.candidates, self.sampling.top_p is None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All there is to it, for `holding`."""
        s = self.sampling
        own = (*self.reach, s.cfg_coef, s.temperature, s.kept)
        return (*own, *(() if s.top_p is None else (s.top_p,)), *(self.prompts or ()))

    def holding(self, tensors: tuple[Tensor, ...]) -> Batch:
        """The same with other tensors."""
        reach, (cfg_coef, temperature, kept), rest = Reach(*tensors[:5]), tensors[5:8], list(tensors[8:])
        top_p = None if self.sampling.top_p is None else rest.pop(0)
        sampling = SamplingRows(cfg_coef, temperature, kept, top_p, self.sampling.candidates)
        return Batch(reach, Reach(*rest) if rest else None, sampling)


class Step(nn.Module):
    """One decode step as a function of tensors, and all that it keeps: a row (of keys and values: two) a request."""

    codes: Tensor  # [slots, steps, K], in the delay pattern, without the first column; UNKNOWN until drawn
    tokens: Tensor  # [slots, K], the next step's input
    step: Tensor  # [slots]
    position: Tensor  # [slots], of the next input
    noise: Tensor  # [slots, steps, K]
    mass: Tensor  # [slots, K], the sum of what was drawn from: finite while all logits were
    rows: Tensor  # [slots], 0 to slots - 1
    columns: Tensor  # [T], 0 to T - 1
    summed: Tensor  # [slots, 2, steps or 0, dim], conditions that are added to the codes

    def __init__(self, transformer: Transformer, own: KeysValues, prompts: KeysValues | None, steps: int) -> None:
        super().__init__()
        self.transformer, self.own, self.prompts = transformer, own, prompts
        slots, config, device = own.rows // 2, transformer.config, own.device
        self.special = config.cardinality

        def keep(name: str, *shape: int, dtype: torch.dtype = torch.int64) -> None:
            self.register_buffer(name, torch.zeros(slots, *shape, dtype=dtype, device=device), persistent=False)

        keep("codes", steps, config.codebooks)
        keep("tokens", config.codebooks)
        keep("step")
        keep("position")
        keep("noise", steps, config.codebooks, dtype=torch.float32)
        keep("mass", config.codebooks, dtype=torch.float32)
        keep("summed", 2, steps if config.summed else 0, config.dim, dtype=transformer.positions.dtype)
        self.register_buffer("rows", torch.arange(slots, device=device), persistent=False)
        self.register_buffer("columns", torch.arange(own.length, device=device), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Decode one token of each codebook for the first A rows [A, K]; never waits for the device."""
        codes, mass = self.choose(batch, self.logits(batch))
        return self.record(batch.size, codes, mass)

    def logits(self, batch: Batch) -> Tensor:
        """Both branches' logits [A, 2, K, card]."""
        a = batch.size
        position = self.position[:a]
        both = position[:, None].expand(-1, 2).reshape(-1)  # [2 A]
        reach, length = batch.reach, batch.reach.mask.shape[2]
        if length:
            later = self.columns[:length] > both[:, None, None]
            reach = reach._replace(mask=hide(later, reach.mask.dtype))
        summed = self.summed[self.rows[:a], :, self.step[:a]] if self.transformer.config.summed else None
        context = Context(self.own, self.own.places(both), reach, self.prompts, batch.prompts, summed)
        logits: Tensor = self.transformer(self.tokens[:a], position, context)
        return logits

    def choose(self, batch: Batch, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [A, K] and their masses [A, K] from both branches' logits [A, 2, K, card]."""
        guided = guide(logits, batch.sampling.cfg_coef)
        noise = self.noise[self.rows[: batch.size], self.step[: batch.size]]
        return draw(truncate(guided, batch.sampling), noise)

    def record(self, a: int, codes: Tensor, mass: Tensor) -> Tensor:
        """Store what was drawn [A, K], where nothing is known, and move on."""
        step = self.step[:a]
        known = self.codes[self.rows[:a], step]
        tokens = torch.where(known == UNKNOWN, codes, known)
        self.codes.index_put_((self.rows[:a], step), tokens)
        self.tokens[:a] = tokens
        self.mass[:a] += mass
        self.position[:a] += 1
        self.step[:a] += 1
        return tokens

    def reset(self, at: int, slot: _Slot, sequence: Tensor) -> None:
        """Begin a request whose sequence [K, 1 + steps] has as many known columns as steps are done, and the first."""
        self.codes[at, : slot.total] = sequence[:, 1:].T
        self.tokens[at] = sequence[:, slot.done]
        self.step[at] = slot.done
        self.position[at] = slot.prefix + slot.done
        self.mass[at] = 0.0
        if slot.sampling.greedy:
            self.noise[at] = FIRST_OF_KEPT
        else:
            generator = torch.Generator(self.noise.device).manual_seed(slot.sampling.seed)
            self.noise[at, : slot.total].uniform_(generator=generator)

    def finite(self, at: int) -> bool:
        """Whether all logits of a request have been numbers."""
        return bool(self.mass[at].isfinite().all())

    def clear(self, at: int) -> None:
        """Forget a request's keys and values."""
        self.own.clear(2 * at)
        self.own.clear(2 * at + 1)
        if self.prompts is not None:
            self.prompts.clear(at)

    def move(self, source: int, target: int, slot: _Slot) -> None:
        """Copy everything of one request over another's."""
        for branch in (0, 1):
            self.own.move(2 * source + branch, 2 * target + branch, slot.prefix + slot.done)
        if self.prompts is not None:
            self.prompts.move(source, target, slot.prompt)
        kept = (self.codes, self.tokens, self.step, self.position, self.noise, self.mass, self.summed)
        for buffer in kept:
            buffer[target] = buffer[source]


class Decoder:
    """Decodes up to `slots` requests of up to `max_frames` frames together."""

    def __init__(
        self,
        config: DecoderConfig,
        lm: dict[str, Tensor],
        *,
        device: torch.device,
        precision: str,
        slots: int,
        max_frames: int,
    ) -> None:
        """`lm` has the parameters under audiocraft's names; they are copied in `precision`."""
        self.config = config
        self.slots = slots
        self._device = device
        self._in_flight: list[_Slot] = []
        self._batch: Batch | None = None
        with torch.inference_mode():
            steps = delay.steps(max_frames, config.delays)
            length = rounded(steps + (0 if config.cross_attention else PREFIX_MAX))
            own, prompts = _keys_values(config, slots, length, device, precision)
            if native := _native(config, precision, device):
                transformer = native.NativeTransformer(config, lm, precision, length, rows=2 * slots)
                transformer.run(own, torch.zeros(0, dtype=torch.int64), prompts)  # compiles it
            else:
                transformer = Transformer(config, lm, device, precision, length)
            self._step = Step(transformer, own, prompts, steps).eval()
        self._recorder = Plain(self._step) if native else recorder(self._step, device)

    @property
    def free_slots(self) -> int:
        """How many more requests can be admitted."""
        return self.slots - len(self._in_flight)

    def steps(self, frames: int) -> int:
        """Decode steps that `frames` frames take."""
        return delay.steps(frames, self.config.delays)

    @torch.inference_mode()
    def admit(
        self, key: str, conditions: Conditions, frames: int, sampling: Sampling, given: Tensor | None = None
    ) -> None:
        """Take a request for `frames` frames into a free slot, the first of which may be `given`: codes [K, P].

        Raises:
            InvalidRequest: the prompt is longer than the buffers.
        """
        assert self.free_slots, "no free slot"
        assert all(slot.key != key for slot in self._in_flight), key
        given = torch.zeros(self.config.codebooks, 0, dtype=torch.int64) if given is None else given
        slot = self._slot(key, conditions, frames, sampling, given.shape[1])
        at = len(self._in_flight)
        codes = torch.nn.functional.pad(given.to(self._device), (0, frames - slot.done), value=UNKNOWN)
        sequence = delay.delay(codes, self.config.delays, self._step.special)
        self._step.reset(at, slot, sequence)
        prompt = None
        if conditions.cross is not None:
            assert self._step.prompts is not None
            prompt = self._step.transformer.prompt_keys_values(conditions.cross.to(self._device))
            self._step.prompts.fill(at, prompt)
        if conditions.summed is not None:
            self._step.summed[at, :, : slot.total] = conditions.summed[:, : slot.total].to(self._step.summed)
        if slot.prefix + slot.done:
            self._prefill(at, conditions, sequence[:, : slot.done].T, prompt)
        self._in_flight.append(slot)
        self._batch = None

    @torch.inference_mode()
    def step(self) -> list[Advance]:
        """One step for all in flight, in the order of their slots. A request that is done stays until it is taken."""
        if not self._in_flight:
            return []
        assert all(slot.done < slot.total for slot in self._in_flight), "a request is done: take it"
        self._advance(self._current_batch())
        for slot in self._in_flight:
            slot.done += 1
        return [Advance(slot.key, slot.done, slot.total) for slot in self._in_flight]

    def frames_ready(self, key: str) -> int:
        """How many frames of a request have all their codes."""
        slot = self._in_flight[self._find(key)]
        return max(slot.done - max(self.config.delays), 0)

    @torch.inference_mode()
    def codes(self, key: str, first: int, last: int) -> Tensor:
        """The codes [K, last - first] of frames that are ready.

        Raises:
            NotFinite: the logits were not numbers.
        """
        at = self._find(key)
        assert 0 <= first < last <= self.frames_ready(key), (first, last)
        if not self._step.finite(at):
            raise NotFinite
        sequence = self._step.codes[at, first : last + max(self.config.delays)].T
        return delay.undelay(torch.nn.functional.pad(sequence, (1, 0)), self.config.delays)

    def take(self, key: str) -> Tensor:
        """The codes [K, F] of a request that is done; frees its slot.

        Raises:
            NotFinite: the logits were not numbers.
        """
        slot = self._in_flight[self._find(key)]
        assert slot.done == slot.total, (slot.done, slot.total)
        try:
            return self.codes(key, 0, slot.frames)
        finally:
            self.evict(key)

    @torch.inference_mode()
    def evict(self, key: str) -> None:
        """Free the slot of `key` at once; unknown keys are ignored."""
        if any(slot.key == key for slot in self._in_flight):
            self._leave(self._find(key))

    def _slot(self, key: str, conditions: Conditions, frames: int, sampling: Sampling, given: int) -> _Slot:
        total = self.steps(frames)
        prefix = 0 if conditions.prefix is None else len(conditions.prefix)
        prompt = 0 if conditions.cross is None else len(conditions.cross)
        assert 0 < total <= self._step.codes.shape[1], frames
        assert given < frames, (given, frames)
        if prompt > CROSS_MAX or prefix + total > self._step.own.length:
            raise InvalidRequest("prompt", f"is too long for this model: it has {prompt or prefix} tokens")
        return _Slot(key, sampling, frames, prefix, prompt, total, done=given)

    def _prefill(self, at: int, conditions: Conditions, tokens: Tensor, prompt: Tensor | None) -> None:
        """Write the keys and values of what precedes the codes, and of the first tokens [P, K]."""
        transformer = self._step.transformer
        known = transformer.embed(tokens).expand(2, -1, -1)  # [2, P, dim]
        if conditions.summed is not None:
            known = known + self._step.summed[at, :, : len(tokens)]
        if conditions.prefix is not None:
            assert conditions.null_prefix is not None
            prefix = torch.stack([conditions.prefix, conditions.null_prefix]).to(known)
            known = torch.cat([prefix, known], dim=1)
        for branch, keys_values in enumerate(transformer.prefill(known, prompt)):
            self._step.own.fill(2 * at + branch, keys_values)

    def _advance(self, batch: Batch) -> None:
        self._recorder.run(batch, max(slot.total - slot.done for slot in self._in_flight))

    def _current_batch(self) -> Batch:
        """Who is in flight, looking far enough for this step."""
        length = self._step.own.rounded(max(slot.prefix + slot.done for slot in self._in_flight) + 1)
        if self._batch is None:
            self._batch = self._new_batch(length)
        elif self._batch.reach.mask.shape[2] != length:
            reach = self._step.own.reach(2 * self._batch.size, length)
            self._batch = Batch(reach, self._batch.prompts, self._batch.sampling)
        return self._batch

    def _new_batch(self, length: int) -> Batch:
        slots = self._in_flight
        return Batch(
            reach=self._step.own.reach(2 * len(slots), length),
            prompts=self._prompts_reach([slot.prompt for slot in slots]) if self.config.cross_attention else None,
            sampling=SamplingRows.of(
                [slot.sampling for slot in slots], self.config.cardinality, self._device, self.config.guidance
            ),
        )

    def _prompts_reach(self, prompts: list[int]) -> Reach:
        assert self._step.prompts is not None
        reach = self._step.prompts.reach(len(prompts), rounded(max(prompts)))
        lengths = torch.tensor(prompts, device=self._device)
        missing = self._step.columns[: reach.mask.shape[2]] >= lengths[:, None, None]
        return reach._replace(mask=hide(missing, reach.mask.dtype))

    def _find(self, key: str) -> int:
        return [slot.key for slot in self._in_flight].index(key)

    def _leave(self, at: int) -> None:
        if not self._step.finite(at):
            self._step.clear(at)
        last = self._in_flight.pop()
        if at < len(self._in_flight):
            self._in_flight[at] = last
            self._step.move(len(self._in_flight), at, last)
        self._batch = None


def bytes_a_slot(config: DecoderConfig, max_frames: int, precision: str, device: torch.device) -> int:
    """Memory that a request takes: keys and values of its codes, for both branches, and of its prompt; its summed
    conditions."""
    codes = delay.steps(max_frames, config.delays) + (0 if config.cross_attention else PREFIX_MAX)
    positions = 2 * rounded(codes) + (CROSS_MAX if config.cross_attention else 0)
    kind, dtype = layout(config, precision, device)
    keys_values = config.layers * config.heads * positions * kind.position_bytes(config.head_dim, dtype)
    summed = 2 * delay.steps(max_frames, config.delays) * config.dim * dtype.itemsize
    return keys_values + (summed if config.summed else 0)


def _keys_values(
    config: DecoderConfig, slots: int, length: int, device: torch.device, precision: str
) -> tuple[KeysValues, KeysValues | None]:
    """Of the codes, two rows a request, and of the prompts, one."""
    kind, dtype = layout(config, precision, device)

    def keep(rows: int, length: int) -> KeysValues:
        return kind(config.layers, rows, config.heads, length, config.head_dim, device, dtype)

    return keep(2 * slots, length), keep(slots, CROSS_MAX) if config.cross_attention else None


def layout(config: DecoderConfig, precision: str, device: torch.device) -> tuple[type[KeysValues], torch.dtype]:
    """How keys and values are stored, and the numbers that attention computes with."""
    if native := _native(config, precision, device):
        return native.NativeCells, torch.float32
    if device.type != "cpu":
        return Dense, activations(precision, device)
    if precision == "int8":
        return ByteBags, torch.float32
    return Bags, torch.float32 if precision == "fp32" else torch.float16


def _native(config: DecoderConfig, precision: str, device: torch.device) -> ModuleType | None:
    """The module with the compiled step, where that can be run; its compiler takes half a second to import."""
    if precision not in ("int8", "bf16") or device.type != "cpu":
        return None
    from studio.engine import native

    return native if native.suits(config) else None
