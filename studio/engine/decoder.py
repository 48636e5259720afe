"""Requests in flight, which one decode step moves on together: conditions to codes. Knows no prompt and no audio.

Requests take rows 0 to A - 1 of buffers that are allocated once; when one leaves, the last one moves into its place, so
that a step computes rows in flight and nothing else. What a request gets does not depend on its neighbours: it has
its own positions, noise and parameters, what it attends to is masked, and on a CPU the kernels give each row the same
bits in whatever company (up to six requests in fp32; see `studio.engine.linear`).
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from studio.engine import delay
from studio.engine.attention import Bags, ByteBags, Dense, KeysValues, Reach, hide, rounded
from studio.engine.linear import activations
from studio.engine.model import Conditions
from studio.engine.recording import Plain, recorder
from studio.engine.sampling import Sampling, SamplingRows
from studio.engine.step import UNKNOWN, Batch, Slot, Step
from studio.engine.transformer import DecoderConfig, Transformer
from studio.errors import InvalidRequest, NotFinite

CROSS_MAX = 512  # tokens of a prompt
PREFIX_MAX = 768  # tokens before the codes, in models without cross-attention


class Advance(NamedTuple):
    """A request moved on: `done` of `total` decode steps."""

    key: str
    done: int
    total: int


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
        self._in_flight: list[Slot] = []
        self._batch: Batch | None = None
        with torch.inference_mode():
            steps = delay.steps(max_frames, config.delays)
            length = rounded(steps + (0 if config.cross_attention else PREFIX_MAX))
            own, prompts = _keys_values(config, slots, length, device, precision)
            if native := _native(config, precision, device):
                transformer = native.NativeTransformer(config, lm, precision, length)
                self._step: Step = native.NativeStep(transformer, own, prompts, steps)
            else:
                self._step = Step(Transformer(config, lm, device, precision, length), own, prompts, steps)
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

    def _slot(self, key: str, conditions: Conditions, frames: int, sampling: Sampling, given: int) -> Slot:
        total = self.steps(frames)
        prefix = 0 if conditions.prefix is None else len(conditions.prefix)
        prompt = 0 if conditions.cross is None else len(conditions.cross)
        assert 0 < total <= self._step.codes.shape[1], frames
        assert given < frames, (given, frames)
        if prompt > CROSS_MAX or prefix + total > self._step.own.length:
            raise InvalidRequest("prompt", f"is too long for this model: it has {prompt or prefix} tokens")
        return Slot(key, sampling, frames, prefix, prompt, total, done=given)

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
                [slot.sampling for slot in slots],
                self.config.cardinality,
                self._device,
                self.config.guidance,
                self.config.strong_guidance,
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
