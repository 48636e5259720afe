"""Trains musicgen-mini's language model: MusicGen's transformer over delayed codebooks, written for training.

`LanguageModel` has audiocraft's architecture and parameter names (models/lm.py, modules/transformer.py of 1.3.0), so
what is trained here is what the studio's decoder and audiocraft's LMModel load. Everything random comes from
(seed, step): a resumed run goes on as if it had not stopped. CPU or CUDA, the same command.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.engine.metre import THERE, Metre
from studio.engine.reader import (
    CLOCKED,
    LAST_CHORD_S,
    AttributeConditioner,
    Reader,
    WordPieces,
    attribute_count,
    expected,
)
from studio.engine.transformer import DecoderConfig
from studio.training import reading
from studio.training.attributes import truth
from studio.training.captions import caption
from studio.training.compose import Description

log = logging.getLogger(__name__)

FRAME_RATE = 50  # code frames a second
CHECKPOINT = "checkpoint.pt"
JOURNAL = "log.jsonl"
LONG = 256  # steps from which the fused attention pays on a CPU


@dataclass(frozen=True)
class LmTraining:
    """How to train. The learning rate follows the minutes trained, so that a run ends when it must."""

    dim: int = 256
    heads: int = 4
    layers: int = 6
    ffn: int = 1024
    minutes: float = 60.0  # of training in all, over every resume
    warmup_minutes: float = 1.0
    decay_share: float = 0.3  # of the minutes, at the end: the learning rate falls linearly to nothing
    learning_rate: float = 3e-3  # of AdamW: embeddings, heads, norms, conditioner
    muon_learning_rate: float = 4e-3  # of the layers' matrices
    weight_decay: float = 0.05
    clip: float = 1.0  # norm of the gradient
    shapes: tuple[tuple[int, int, float], ...] = (  # frames and sequences of a batch, and its share of the steps:
        (100, 48, 0.3),  # short crops teach a step many prompts,
        (400, 12, 0.5),  # the usual request,
        (1500, 3, 0.2),  # whole pieces
    )
    damaged_share: float = 0.5  # of the sequences are read with gaps, which must be filled from before and the prompt;
    damage: float = 0.3  # of their frames at most; else a model this small copies the last frame for ever
    damage_frames: int = 8  # of one gap
    null_share: float = 0.12  # of the prompts are dropped, for classifier-free guidance
    truth_share: float = 0.4  # of a piece's attributes are told as they are, the others as its caption lets expect them
    ending_share: float = 0.2  # of the crops are the ends of their pieces, else a model hears few endings
    codebook_weights: tuple[float, ...] = (1.6, 1.0, 0.7, 0.7)
    start_weight: float = 6.0  # of a sequence's first frame; a prompt says most where no music has been heard yet
    start_fade_frames: float = 30.0  # in which that falls to 1, but for 1/e of what it exceeds it by
    ending_weight: float = 1.0  # of the frames from the last chord on, where an ending is told: they are few
    # Of each codebook, in making music: fine codes say little of the prompt, and at 6 all of it leads them astray.
    guidance: tuple[float, ...] = (1.0, 1.0, 0.5, 0.5)
    strong_guidance: float = 3.0  # of what is asked for beyond it, half is taken: all of 4.5 is heeded best
    ema_decay: float = 0.995
    held_out_pieces: int = 16
    held_out_frames: int = 1500
    held_out_every_minutes: float = 5.0
    checkpoint_every_minutes: float = 3.0
    log_every: int = 20  # steps
    seed: int = 0
    device: str = "auto"
    compile: bool = False

    @property
    def decoder(self) -> DecoderConfig:
        """What the studio has to know of the shape."""
        return DecoderConfig(
            dim=self.dim, heads=self.heads, layers=self.layers, ffn=self.ffn, summed=True,
            guidance=self.guidance, strong_guidance=self.strong_guidance,
        )  # fmt: skip


class LanguageModel(nn.Module):
    """MusicGen's decoder, teacher-forced: delayed codes and a condition to the logits of the next codes."""

    def __init__(self, config: DecoderConfig, attributes: int) -> None:
        super().__init__()
        c = self.config = config
        self.emb = nn.ModuleList(nn.Embedding(c.cardinality + 1, c.dim) for _ in range(c.codebooks))
        self.transformer = Transformer(c)
        self.out_norm = nn.LayerNorm(c.dim, eps=c.norm_eps)
        self.linears = nn.ModuleList(nn.Linear(c.dim, c.cardinality, bias=False) for _ in range(c.codebooks))
        self.attributes = AttributeConditioner(attributes, c.dim)
        self._initialise()

    def forward(self, sequence: Tensor, condition: Tensor, mask: Tensor, summed: Tensor) -> Tensor:
        """Delayed codes [B, K, S], conditions [B, L, dim] with their mask [B, L] and those of each step [B, S, dim] to
        logits [B, S, K, N]."""
        assert sequence.ndim == 3, sequence.shape
        assert sequence.shape[1] == self.config.codebooks, sequence.shape
        x = torch.stack([table(codes) for table, codes in zip(self.emb, sequence.unbind(1), strict=True)]).sum(0)
        x = x + positions(sequence.shape[2], self.config.dim, self.config.max_period, x.device).to(x.dtype) + summed
        x = self.out_norm(self.transformer(x, condition, mask))
        heads = torch.cat([head.weight for head in self.linears])  # type: ignore[misc]
        return F.linear(x, heads).view(*x.shape[:2], self.config.codebooks, self.config.cardinality)

    def _initialise(self) -> None:
        """As MusicGen: gaussians cut at three deviations; outputs of residual branches are scaled down by depth."""
        for name, parameter in self.named_parameters():
            if parameter.ndim != 2 or name.startswith("attributes."):
                continue
            deviation = parameter.shape[1] ** -0.5
            if name.endswith(("out_proj.weight", "linear2.weight")):
                deviation /= math.sqrt(3 * self.config.layers)
            if name.startswith("linears."):
                deviation /= 4  # near-uniform predictions to begin with
            if name.startswith("emb."):
                deviation = 0.5  # their sum must not drown in the positions; rare codes have few steps to grow
            nn.init.trunc_normal_(parameter, std=deviation, a=-3 * deviation, b=3 * deviation)


class Transformer(nn.Module):
    """The layers, under audiocraft's name."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, condition, mask)
        return x


class Layer(nn.Module):
    """Self-attention, cross-attention, feed-forward; each is normed first and added."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.self_attn = Attention(c)
        self.cross_attention = Attention(c)
        self.linear1 = nn.Linear(c.dim, c.ffn, bias=False)
        self.linear2 = nn.Linear(c.ffn, c.dim, bias=False)
        self.norm1 = nn.LayerNorm(c.dim, eps=c.norm_eps)
        self.norm_cross = nn.LayerNorm(c.dim, eps=c.norm_eps)
        self.norm2 = nn.LayerNorm(c.dim, eps=c.norm_eps)

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn.causal(self.norm1(x))
        x = x + self.cross_attention.cross(self.norm_cross(x), condition, mask)
        hidden: Tensor = x + self.linear2(F.gelu(self.linear1(self.norm2(x))))
        return hidden


class Attention(nn.Module):
    """Multi-head attention without biases; the input projection is [queries; keys; values]."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * c.dim, c.dim))
        self.out_proj = nn.Linear(c.dim, c.dim, bias=False)

    def causal(self, x: Tensor) -> Tensor:
        """[B, S, dim], each position from itself and those before."""
        q, k, v = (self._split(part) for part in F.linear(x, self.in_proj_weight).chunk(3, dim=-1))
        if q.is_cuda or q.shape[2] > LONG:
            return self._merge(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
        return self._merge(attend(q, k, v, later))

    def cross(self, x: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        """[B, S, dim] from conditions [B, L, dim] where their mask [B, L] is True."""
        query, *rest = self.in_proj_weight.chunk(3)
        q = self._split(F.linear(x, query))
        k, v = (self._split(F.linear(condition, weight)) for weight in rest)
        return self._merge(attend(q, k, v, ~mask[:, None, None, :]))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # [B, H, S, dim / H]

    def _merge(self, x: Tensor) -> Tensor:
        merged: Tensor = self.out_proj(x.transpose(1, 2).flatten(2))
        return merged


def attend(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    """Attention [B, H, S, D] in plain products: on a CPU its gradient takes a quarter of the fused kernel's time."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    attended: Tensor = scores.masked_fill(hidden, -torch.inf).softmax(-1).to(v.dtype) @ v
    return attended


def positions(length: int, dim: int, max_period: float, device: torch.device) -> Tensor:
    """Sinusoidal positions [length, dim] (audiocraft/modules/transformer.py, create_sin_embedding)."""
    half = torch.arange(dim // 2, device=device, dtype=torch.float32)
    phase = torch.arange(length, device=device, dtype=torch.float32)[:, None] / max_period ** (half / (dim // 2 - 1))
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def delayed(codes: Tensor, config: DecoderConfig) -> tuple[Tensor, Tensor]:
    """Codes [B, K, T] to (what is read, what is to be predicted), both [B, K, T] in the delay pattern.

    Step s reads codebook k's frame s - 1 - delay and predicts frame s - delay; before a codebook's first frame stands
    the special token in what is read, and -100, which counts for nothing, in what is predicted.
    """
    read = torch.full_like(codes, config.cardinality)
    predicted = torch.full_like(codes, -100)
    length = codes.shape[2]
    for k, delay in enumerate(config.delays):
        read[:, k, delay + 1 :] = codes[:, k, : length - delay - 1]
        predicted[:, k, delay:] = codes[:, k, : length - delay]
    return read, predicted


def codebook_losses(logits: Tensor, predicted: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of each codebook in nats [K], from logits [B, S, K, N] and codes [B, K, S].

    `weights` [B, S] say how much each frame counts; absent, all count alike.
    """
    counts = (predicted != -100).float()  # [B, K, S]
    if weights is not None:
        counts = counts * weights[:, None]
    targets = predicted.permute(0, 2, 1)  # [B, S, K]
    losses = F.cross_entropy(
        logits.float().flatten(0, 2), targets.flatten(), ignore_index=-100, reduction="none"
    ).view_as(targets)
    return (losses.permute(0, 2, 1) * counts).sum((0, 2)) / counts.sum((0, 2))


def frame_weights(clock: Tensor, config: LmTraining) -> Tensor:
    """How much each frame of clocks [B, T, CLOCK] counts [B, T]: the first ones more, and an ending's."""
    fade = torch.exp(-torch.arange(clock.shape[1], device=clock.device) / config.start_fade_frames)
    return (1.0 + (config.start_weight - 1.0) * fade) * (1.0 + (config.ending_weight - 1.0) * clock[..., THERE])


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    codes: Tensor  # [B, K, T], int64: what is to be predicted
    heard: Tensor  # [B, K, T], int64: what is read, with gaps
    condition: Tensor  # [B, L, dim]: the captions as the reader has read them,
    mask: Tensor  # [B, L]
    attributes: Tensor  # [B, A]: and what they let expect
    clock: Tensor  # [B, T, CLOCK]

    def to(self, device: torch.device) -> Batch:
        return Batch(*(part.to(device) for part in self._parts()))

    def rows(self, rows: slice) -> Batch:
        return Batch(*(part[rows] for part in self._parts()))

    def without_prompts(self, dropped: Tensor | None = None) -> Batch:
        """The null condition, which guidance starts from; for the rows [B] that are `dropped`, or for all."""
        kept = torch.zeros(len(self.codes), dtype=torch.bool) if dropped is None else ~dropped
        kept = kept.to(self.mask.device)[:, None]
        return replace(
            self, condition=self.condition * kept[..., None], mask=self.mask & kept, attributes=self.attributes * kept
        )

    def _parts(self) -> tuple[Tensor, ...]:
        return self.codes, self.heard, self.condition, self.mask, self.attributes, self.clock


class CodedMusic:
    """The pieces in a directory of codes, looked for again while files arrive, and random crops with captions."""

    def __init__(self, codes_dir: Path, pieces: WordPieces, reader: Reader) -> None:
        self.codes_dir, self.word_pieces, self.reader = codes_dir, pieces, reader
        self.codes: list[npt.NDArray[np.uint16]] = []  # [K, T] each
        self.descriptions: list[Description] = []
        self.truth: dict[str, Tensor] = {}  # of all pieces
        self._read: set[Path] = set()
        self.rescan()

    def __len__(self) -> int:
        return len(self.codes)

    def rescan(self) -> None:
        """Read the files that are new."""
        known = len(self)
        for path in sorted(self.codes_dir.glob("codes_[0-9]*.npy")):
            if path in self._read or path.name.endswith(".partial.npy"):
                continue
            self._read.add(path)
            records = [json.loads(line) for line in path.with_suffix(".jsonl").read_text("utf-8").splitlines()]
            self.codes.extend(np.load(path))
            self.descriptions.extend(_description(record["description"]) for record in records)
        assert len(self.codes) == len(self.descriptions), "each piece has its record"
        if len(self) > known:
            self.truth = truth(self.descriptions)

    def batch(self, step: int, frames: int, size: int, config: LmTraining) -> Batch:
        """Random crops of `frames` with fresh captions, of which some are dropped."""
        rng = Random(f"{config.seed}/{step}")
        rows = [rng.randrange(len(self)) for _ in range(size)]
        ends = [rng.random() < config.ending_share for _ in rows]
        starts = [self._start(row, frames, end, rng) for row, end in zip(rows, ends, strict=True)]
        crops = [_crop(self.codes[row], start, frames) for row, start in zip(rows, starts, strict=True)]
        codes = torch.from_numpy(np.stack(crops).astype(np.int64))
        told = [end or rng.random() < 0.5 for end in ends]
        times = [self._time(*each) for each in zip(rows, starts, told, strict=True)]
        said = self._said(rows, [caption(self.descriptions[row], rng) for row in rows], config.truth_share, rng)
        dropped = torch.tensor([rng.random() < config.null_share for _ in rows])
        return Batch(codes, damaged(codes, step, config), *said, _clocks(times, frames)).without_prompts(dropped)

    def first(self, size: int, frames: int) -> Batch:
        """The beginnings of the first pieces, each with one caption; the same every time."""
        rng = Random(0)
        rows = range(min(size, len(self)))
        codes = torch.from_numpy(np.stack([self.codes[row][:, :frames] for row in rows]).astype(np.int64))
        said = self._said(rows, [caption(self.descriptions[row], rng) for row in rows], 0.0, rng)
        return Batch(codes, codes, *said, _clocks([self.descriptions[row].time for row in rows], frames))

    @torch.no_grad()
    def _said(
        self, rows: Sequence[int], captions: Sequence[str], truth_share: float, rng: Random
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the captions say [B, L, dim], its mask [B, L], and the attributes [B, A]: some true, others expected."""
        embeddings, mask = self.word_pieces.embed(captions)
        condition, scores = self.reader(embeddings, mask)
        attributes = []
        for name, score in scores.items():
            if name not in CLOCKED:
                is_true = torch.tensor([[rng.random() < truth_share] for _ in rows])
                attributes.append(torch.where(is_true, self.truth[name][list(rows)], expected({name: score})))
        return condition, mask, torch.cat(attributes, dim=1)

    def _start(self, row: int, frames: int, end: bool, rng: Random) -> int:
        """A bar line, since music that is made begins with one; any from which the crop is whole, or for an ending the
        last of them or the next, which cuts nothing of it."""
        length, time = self.codes[row].shape[1], self.descriptions[row].time
        last = (length - frames) // time.bar
        if not end:
            return time.bar * rng.randrange(last + 1)
        chord = time.ending_by(length, LAST_CHORD_S).end or 0
        return int(min(time.bar * (last + rng.randrange(2)), chord if chord < length else 0))

    def _time(self, row: int, start: int, told: bool) -> Metre:
        """The piece's from `start` on, and where it ends if that is told."""
        time = self.descriptions[row].time
        return time.ending_by(self.codes[row].shape[1], LAST_CHORD_S).after(start) if told else time


def _crop(codes: npt.NDArray[np.uint16], start: int, frames: int) -> npt.NDArray[np.uint16]:
    """`frames` of codes [K, T]; a piece that is over stays in its last frame, which is silent."""
    crop = codes[:, start : start + frames]
    return np.pad(crop, ((0, 0), (0, frames - crop.shape[1])), mode="edge")


def _clocks(times: Sequence[Metre], frames: int) -> Tensor:
    """[B, T, CLOCK]."""
    return torch.from_numpy(np.stack([time.clock(frames) for time in times]))


def damaged(codes: Tensor, step: int, config: LmTraining) -> Tensor:
    """Codes [B, K, T] of which some sequences have gaps: filled with special tokens or a neighbour's music."""
    random = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    size, _, frames = codes.shape
    share = config.damage * torch.rand(size, 1, generator=random)
    share *= torch.rand(size, 1, generator=random) < config.damaged_share
    begins = (torch.rand(size, frames, generator=random) < share / config.damage_frames).float()
    ended = F.pad(begins, (config.damage_frames - 1, 0))  # a gap covers the frames after its beginning
    gaps = F.max_pool1d(ended[:, None], config.damage_frames, stride=1) > 0  # [B, 1, T]
    silent = torch.rand(size, 1, 1, generator=random) < 0.5
    filling = torch.where(silent, torch.full_like(codes, config.decoder.cardinality), codes.roll(1, dims=0))
    return torch.where(gaps, filling, codes)


def _description(record: dict[str, Any]) -> Description:
    known = {name: record[name] for name in Description.__dataclass_fields__}
    return Description(**{**known, "instruments": tuple(known["instruments"])})


def predict(model: nn.Module, batch: Batch, config: DecoderConfig, weights: Tensor | None = None) -> Tensor:
    """Losses of the codebooks [K] for a batch; a dropped prompt reads zeros that are attended, as at run time."""
    read, _ = delayed(batch.heard, config)
    _, predicted = delayed(batch.codes, config)
    attended = batch.mask | ~batch.mask.any(dim=1, keepdim=True)
    summed = model.get_submodule("attributes")(batch.attributes, batch.clock)
    return codebook_losses(model(read, batch.condition, attended, summed), predicted, weights)


@dataclass
class State:
    """Everything a checkpoint holds."""

    model: LanguageModel
    average: LanguageModel  # moving average of the weights, which is what is exported
    optimisers: tuple[torch.optim.Optimizer, ...]
    step: int = 0
    seconds: float = 0.0  # trained

    def to_checkpoint(self, config: LmTraining) -> dict[str, Any]:
        return {
            "config": asdict(config),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "seconds": self.seconds,
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint["model"])
        self.average.load_state_dict(checkpoint["average"])
        for optimiser, state in zip(self.optimisers, checkpoint["optimisers"], strict=True):
            peak = optimiser.param_groups[0]["peak"]
            optimiser.load_state_dict(state)
            optimiser.param_groups[0]["peak"] = peak  # the recipe's, which may have changed
        self.step, self.seconds = checkpoint["step"], checkpoint["seconds"]


def new_state(config: LmTraining, attributes: int, device: torch.device) -> State:
    torch.manual_seed(config.seed)
    model = LanguageModel(config.decoder, attributes).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    return State(model, average, optimisers(model, config))


def optimisers(model: LanguageModel, config: LmTraining) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the layers' matrices (its steps are orthogonal), AdamW for all else."""
    matrices = [p for p in model.transformer.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in known]
    muon = torch.optim.Muon(
        matrices, config.muon_learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return muon, adam


def train(config: LmTraining, codes_dir: Path, text_dir: Path, out_dir: Path) -> Path:
    """Train for `config.minutes`, going on from the checkpoint in `out_dir` if there is one; return the checkpoint.

    Args:
        codes_dir: has `train/` and `heldout/` with `codes_*.npy` [N, K, T] and their records.
        text_dir: the distilled word pieces and their reader.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    device = torch.device(pick_device(config.device))
    pieces, reader = WordPieces.load(text_dir), reading.load(text_dir / reading.READER)
    state = resume(config, attribute_count(reader.attributes), out_dir, device)
    music, held_out = (CodedMusic(codes_dir / part, pieces, reader) for part in ("train", "heldout"))
    assert len(music), f"no codes in {codes_dir / 'train'}"
    judged = held_out.first(config.held_out_pieces, config.held_out_frames) if len(held_out) else None
    with Journal(out_dir / JOURNAL, config) as journal:
        _run(state, config, music, judged, journal, out_dir)
    return save(state, config, out_dir)


def _run(
    state: State, config: LmTraining, music: CodedMusic, judged: Batch | None, journal: Journal, out_dir: Path
) -> None:
    """The loop: learn, note, and now and then save and look at the held-out pieces."""
    device = next(state.model.parameters()).device
    model = torch.compile(state.model, dynamic=False) if config.compile else state.model
    save_due, judge_due = (Every(60 * m) for m in (config.checkpoint_every_minutes, config.held_out_every_minutes))
    while state.seconds < 60 * config.minutes:
        started = time.monotonic()
        frames, size = shape_of_step(state, config)
        batch = music.batch(state.step, frames, size, config).to(device)
        losses = advance(state, model, config, batch)
        state.step += 1
        state.seconds += time.monotonic() - started
        journal.note(state, losses, frames * size, len(music))
        if save_due():
            music.rescan()
            save(state, config, out_dir)
        if judged is not None and judge_due():
            journal.write(state, judge(state.average, judged.to(device)))
    if judged is not None:
        journal.write(state, judge(state.average, judged.to(device)))


def shape_of_step(state: State, config: LmTraining) -> tuple[int, int]:
    """Frames and sequences of the next batch."""
    [shape] = Random(f"shape/{config.seed}/{state.step}").choices(config.shapes, [share for *_, share in config.shapes])
    return shape[0], shape[1]


def advance(state: State, model: Any, config: LmTraining, batch: Batch) -> Tensor:
    """One step; the losses of the codebooks [K], the frames weighted."""
    with autocast(batch.codes.device):
        losses = predict(model, batch, config.decoder, frame_weights(batch.clock, config))
    weights = losses.new_tensor(config.codebook_weights)
    ((losses * weights).sum() / weights.sum()).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.model.parameters(), config.clip)
    rate = schedule(state.seconds / 60, config)
    for optimiser in state.optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    _average(state, config)
    return losses.detach()


def schedule(minutes: float, config: LmTraining) -> float:
    """Share of the peak learning rate: up, level, and linearly down at the end."""
    left = (config.minutes - minutes) / max(1e-9, config.decay_share * config.minutes)
    return min(1.0, (minutes + 0.02) / max(1e-9, config.warmup_minutes), max(0.0, left))


@torch.no_grad()
def _average(state: State, config: LmTraining) -> None:
    decay = min(config.ema_decay, (1 + state.step) / (10 + state.step))
    pairs = zip(state.average.parameters(), state.model.parameters(), strict=True)
    for average, parameter in pairs:
        average.lerp_(parameter, 1 - decay)


@torch.inference_mode()
def judge(model: LanguageModel, batch: Batch, size: int = 8) -> dict[str, Any]:
    """Loss of held-out pieces in nats a code, with their prompts and without; per codebook, and for the first 8 s."""
    found: dict[str, Any] = {}
    for name, variant in (("prompt", batch), ("null", batch.without_prompts())):
        losses = [_judge(model, part) for part in _parts(variant, size)]
        each = torch.stack(losses).mean(0)
        found[f"held_out_{name}"] = round(each.mean().item(), 4)
        found[f"held_out_{name}_codebooks"] = [round(value, 4) for value in each.tolist()]
    found["gap"] = round(found["held_out_null"] - found["held_out_prompt"], 4)
    return found


def _judge(model: LanguageModel, batch: Batch) -> Tensor:
    with autocast(batch.codes.device):
        return predict(model, batch, model.config)


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(batch.codes), size):
        yield batch.rows(slice(start, start + size))


class Every:
    """True once in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def __call__(self) -> bool:
        due = time.monotonic() - self.last >= self.seconds
        if due:
            self.last = time.monotonic()
        return due


class Journal:
    """A line of JSON each `log_every` steps and for each look at the held-out pieces; the same for people."""

    def __init__(self, path: Path, config: LmTraining) -> None:
        self.path, self.config = path, config
        self.losses: list[Tensor] = []
        self.frames, self.since = 0, time.monotonic()

    def __enter__(self) -> Journal:
        self.file = self.path.open("a")
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def note(self, state: State, losses: Tensor, frames: int, pieces: int) -> None:
        self.losses.append(losses)
        self.frames += frames
        if state.step % self.config.log_every:
            return
        speed = self.frames / FRAME_RATE / (time.monotonic() - self.since)  # seconds of music a second
        means = torch.stack(self.losses).mean(0).tolist()
        self.write(
            state,
            {
                "loss": round(sum(means) / len(means), 4),
                "codebooks": [round(value, 4) for value in means],
                "rate": round(schedule(state.seconds / 60, self.config), 4),
                "speed": round(speed, 1),
                "pieces": pieces,
            },
        )
        self.losses, self.frames, self.since = [], 0, time.monotonic()

    def write(self, state: State, found: dict[str, Any]) -> None:
        line = {"step": state.step, "minutes": round(state.seconds / 60, 2), **found}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        log.info("%s", ", ".join(f"{name} {value}" for name, value in line.items()))


def resume(config: LmTraining, attributes: int, out_dir: Path, device: torch.device) -> State:
    """The state of the checkpoint in `out_dir`, or a new one."""
    state = new_state(config, attributes, device)
    path = out_dir / CHECKPOINT
    if path.exists():
        state.restore(torch.load(path, map_location=device, weights_only=True))
        log.info("going on from %s: step %d, %.1f minutes", path, state.step, state.seconds / 60)
    return state


def save(state: State, config: LmTraining, out_dir: Path) -> Path:
    """The checkpoint, whole or not at all."""
    path = out_dir / CHECKPOINT
    partial = path.with_suffix(".partial")
    torch.save(state.to_checkpoint(config), partial)
    os.replace(partial, path)
    return path


def trained(checkpoint: Path) -> LanguageModel:
    """The averaged model of a checkpoint."""
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = LanguageModel(LmTraining(**stored["config"]).decoder, stored["average"]["attributes.told.weight"].shape[1])
    model.load_state_dict(stored["average"])
    return model.eval().requires_grad_(False)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 halves the time of a step, on GPUs and on CPUs that multiply bf16."""
    return torch.autocast(device.type, torch.bfloat16)


def pick_device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
