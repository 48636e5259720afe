"""One decode step for all requests in flight, and all that it keeps of them. Knows no prompt and no audio."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from studio.engine.attention import KeysValues, Reach, hide
from studio.engine.sampling import FIRST_OF_KEPT, Sampling, SamplingRows, draw, guide, truncate
from studio.engine.transformer import Context, Transformer

UNKNOWN = -1  # a code that is still to be drawn


@dataclass
class Slot:
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

    def reset(self, at: int, slot: Slot, sequence: Tensor) -> None:
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

    def move(self, source: int, target: int, slot: Slot) -> None:
        """Copy everything of one request over another's."""
        for branch in (0, 1):
            self.own.move(2 * source + branch, 2 * target + branch, slot.prefix + slot.done)
        if self.prompts is not None:
            self.prompts.move(source, target, slot.prompt)
        kept = (self.codes, self.tokens, self.step, self.position, self.noise, self.mass, self.summed)
        for buffer in kept:
            buffer[target] = buffer[source]
