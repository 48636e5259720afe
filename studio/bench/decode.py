"""What a decode step costs, beside audiocraft's and transformers' with the same shape on the same machine.

Every contestant makes `seconds` of music with guidance, one after the other, round after round; a figure is the median
of the rounds. Random weights cost as much as trained ones; musicgen-mini runs with its own.
"""

from __future__ import annotations

import gc
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from studio.engine import catalog, delay, loader
from studio.engine.decoder import Decoder, layout
from studio.engine.model import Conditions
from studio.engine.quiet import quiet
from studio.engine.sampling import Sampling
from studio.engine.transformer import DecoderConfig, decoder_shapes
from studio.engine.weights import load
from studio.errors import ConfigurationError
from studio.settings import Settings

WARM_UP = 200  # frames, that a decoder has room for at least
FRAME_RATE = 50  # frames a second, of the whole family
PROMPT = 12  # tokens
EDGE = 20  # steps at the beginning and the end whose medians are given
SHAPES = {
    "small": DecoderConfig(dim=1024, heads=16, layers=24, ffn=4096, cardinality=2048),
    "medium": DecoderConfig(dim=1536, heads=24, layers=48, ffn=6144, cardinality=2048),
    "large": DecoderConfig(dim=2048, heads=32, layers=48, ffn=8192, cardinality=2048),
}
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
PRECISIONS = "auto", *WEIGHT_BYTES


@dataclass
class Contestant:
    """Who makes music, and what it took."""

    name: str
    requests: int
    generate: Callable[[int], list[float]]  # frames -> seconds of each step, or one figure, the mean of all
    memory_mb: float
    rounds: list[list[float]] = field(default_factory=list)  # ms

    @property
    def ms(self) -> float:
        """A step's, the median of the rounds' means."""
        return statistics.median(statistics.fmean(steps) for steps in self.rounds)

    def edge(self, first: bool) -> float | None:
        """The median of the first or the last steps, where each was timed."""
        steps = [ms for each in self.rounds for ms in (each[1 : 1 + EDGE] if first else each[-EDGE:])]
        return statistics.median(steps) if len(self.rounds[0]) > 1 else None


def run(model: str, precisions: Sequence[str], slots: int, seconds: float, against: Sequence[str], rounds: int) -> None:
    """Measure, print a table and, last, one line of JSON; all others are held against the first precision.

    Raises:
        ConfigurationError: there is no such model, precision or rival.
    """
    for what, wanted, known in (("precision", precisions, PRECISIONS), ("rival", against, RIVALS)):
        if unknown := set(wanted) - set(known):
            raise ConfigurationError(f"There is no {what} {unknown.pop()!r}; there are {', '.join(known)}.")
    device = loader.pick_device("auto")
    frames = round(seconds * FRAME_RATE)
    config, lm, conditions = _model(model, frames)
    precisions = [loader.pick_precision(each, device, config) for each in precisions]
    assert conditions.cross is not None, f"{model} reads its prompt by cross-attention"
    loader.pick_threads(sum(tensor.numel() for tensor in lm.values()))
    ours = [
        _grown(f"studio {each}", slots, partial(_studio, config, lm, conditions, device, each, slots, frames))
        for each in precisions
    ]
    rivals = [_grown(name, 1, partial(RIVALS[name], config, conditions.cross, device)) for name in against]
    contestants = [*ours, *rivals]
    for _ in range(rounds):
        for each in contestants:
            each.rounds.append([1000 * s for s in each.generate(frames)])
    bandwidth = _bandwidth(device)
    figures = {each.name: _figures(each, ours[0]) for each in contestants}
    for each, precision in zip(ours, precisions, strict=True):
        speed = _bytes_a_step(config, precision, slots, frames, device) / each.ms / 1e6
        figures[each.name] |= {"gb_s": speed, "bandwidth_share": speed / bandwidth}
    about = {
        "model": model, "precision": ",".join(precisions), "slots": slots, "seconds": seconds, "rounds": rounds,
        "device": _device_name(device), "threads": torch.get_num_threads(), "bandwidth_gb_s": bandwidth,
        "versions": {name: version(name) for name in ("torch", "audiocraft", "transformers")},
    }  # fmt: skip
    _print(about, figures)
    sys.stdout.write(json.dumps({"bench": "decode", **about, "figures": _rounded(figures)}) + "\n")


def _model(name: str, frames: int) -> tuple[DecoderConfig, dict[str, Tensor], Conditions]:
    """A shape, its weights, and a prompt's conditions."""
    if name in ("mini", "musicgen-mini"):
        settings = Settings()
        loaded = load(catalog.resolve("musicgen-mini", settings), settings, torch.device("cpu"), lambda *_: None)
        with torch.inference_mode():
            return (
                loaded.config,
                loaded.lm,
                loaded.text.encode("sad piano", delay.steps(max(frames, WARM_UP), loaded.config.delays), 0),
            )
    if name not in SHAPES:
        raise ConfigurationError(f"There is no shape {name!r}; there are mini, {', '.join(SHAPES)}.")
    config, noise = SHAPES[name], torch.randn(2**22, generator=torch.Generator().manual_seed(0)).half()
    lm = {key: _filled(shape, noise) for key, shape in decoder_shapes(config).items()}
    return config, lm, Conditions(cross=noise[: PROMPT * config.dim].view(PROMPT, -1).float())


def _filled(shape: tuple[int, ...], noise: Tensor) -> Tensor:
    """A weight of this shape, from the same noise again and again, since drawing so many numbers takes long."""
    count = torch.Size(shape).numel()
    return (noise.repeat(-(-count // len(noise)))[:count] / math.sqrt(shape[-1])).view(shape)


def _grown(name: str, requests: int, build: Callable[[], Callable[[int], list[float]]]) -> Contestant:
    """Build a contestant and note what it adds to the process's memory."""
    gc.collect()
    before = psutil.Process().memory_info().rss
    generate = build()
    generate(5)  # kernels, caches, recordings
    gc.collect()
    return Contestant(name, requests, generate, (psutil.Process().memory_info().rss - before) / 2**20)


def _studio(
    config: DecoderConfig, lm: dict[str, Tensor], conditions: Conditions, device: torch.device, precision: str,
    slots: int, frames: int,
) -> Callable[[int], list[float]]:  # fmt: skip
    decoder = Decoder(config, lm, device=device, precision=precision, slots=slots, max_frames=max(frames, WARM_UP))

    def generate(frames: int) -> list[float]:
        for slot in range(slots):
            decoder.admit(str(slot), conditions, frames, Sampling(seed=slot))
        taken = []
        while decoder.free_slots < slots:
            started = time.perf_counter()
            advances = decoder.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
            for key, done, total in advances:
                if done == total:
                    decoder.evict(key)
        return taken

    generate(200)  # long enough to be recorded
    return generate


def _audiocraft(config: DecoderConfig, conditions: Tensor, device: torch.device) -> Callable[[int], list[float]]:
    with quiet():
        from audiocraft.models.lm import LMModel
        from audiocraft.modules.codebooks_patterns import DelayedPatternProvider
        from audiocraft.modules.conditioners import (
            ConditionFuser,
            ConditioningAttributes,
            ConditioningProvider,
            TextConditioner,
        )

    class Given(TextConditioner):  # type: ignore[misc]
        """Any prompt is these conditions, none is zeros."""

        def __init__(self) -> None:
            super().__init__(config.dim, config.dim)

        def tokenize(self, prompts: list[str | None]) -> Tensor:
            return torch.tensor([float(prompt is not None) for prompt in prompts], device=device)

        def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
            rows = given[:, None, None] * conditions.to(device)
            return rows, given[:, None].expand(-1, len(conditions)).int()

    fuse: dict[str, list[str]] = {"sum": [], "prepend": [], "cross": ["description"], "input_interpolate": []}
    with torch.device(device):
        lm = LMModel(
            DelayedPatternProvider(config.codebooks, list(config.delays)),
            ConditioningProvider({"description": Given()}),
            ConditionFuser(fuse),
            n_q=config.codebooks, card=config.cardinality, dim=config.dim, num_heads=config.heads,
            hidden_scale=config.ffn // config.dim, num_layers=config.layers, cross_attention=True, norm_first=True,
            bias_proj=False, bias_ff=False, bias_attn=False, activation="gelu", causal=True, memory_efficient=True,
            custom=False, dropout=0.0,
        ).eval()  # fmt: skip
    if device.type == "cuda":
        lm = lm.half()
    attributes = [ConditioningAttributes(text={"description": "sad piano"})]

    def generate(frames: int) -> list[float]:
        started = time.perf_counter()
        with torch.no_grad():
            codes = lm.generate(conditions=attributes, max_gen_len=frames, use_sampling=True, top_k=250, cfg_coef=3.0)
        codes.cpu()
        return [(time.perf_counter() - started) / delay.steps(frames, config.delays)]

    return generate


def _transformers(config: DecoderConfig, conditions: Tensor, device: torch.device) -> Callable[[int], list[float]]:
    """In bf16 with its caches, which is its fastest."""
    with quiet():
        from transformers import DynamicCache, EncoderDecoderCache, MusicgenDecoderConfig, MusicgenForCausalLM

    shape = MusicgenDecoderConfig(
        vocab_size=config.cardinality, hidden_size=config.dim, num_hidden_layers=config.layers, ffn_dim=config.ffn,
        num_attention_heads=config.heads, num_codebooks=config.codebooks, max_position_embeddings=2048,
        pad_token_id=config.cardinality, bos_token_id=config.cardinality, activation_function="gelu",
    )  # fmt: skip
    dtype = torch.bfloat16
    with quiet(), torch.device(device):
        lm = MusicgenForCausalLM(shape).to(dtype).eval()
    lm.generation_config.update(
        bos_token_id=config.cardinality, pad_token_id=config.cardinality, decoder_start_token_id=config.cardinality
    )
    prompt = torch.stack([conditions, torch.zeros_like(conditions)]).to(device, dtype)
    mask = torch.ones(prompt.shape[:2], dtype=torch.int64, device=device)
    begin = torch.full((config.codebooks, 1), config.cardinality, device=device)

    def generate(frames: int) -> list[float]:
        steps, started = delay.steps(frames, config.delays), time.perf_counter()
        # Left to itself, the bare decoder caches the prompt's keys again at each step, behind its own.
        caches = EncoderDecoderCache(DynamicCache(config=shape), DynamicCache(config=shape))
        with quiet(), torch.no_grad():
            codes = lm.generate(
                begin, encoder_hidden_states=prompt, encoder_attention_mask=mask, max_new_tokens=steps,
                do_sample=True, top_k=250, guidance_scale=3.0, num_return_sequences=1, past_key_values=caches,
            )  # fmt: skip
        codes.cpu()
        return [(time.perf_counter() - started) / steps]

    return generate


RIVALS: dict[str, Callable[[DecoderConfig, Tensor, torch.device], Callable[[int], list[float]]]] = {
    "audiocraft": _audiocraft,
    "transformers": _transformers,
}


def _bandwidth(device: torch.device) -> float:
    """GB/s at which memory is read, the best of a few sums over a quarter of a gigabyte."""
    block = torch.ones(2**26, device=device)
    best = float("inf")
    for _ in range(12):
        started = time.perf_counter()
        block.sum().item()
        best = min(best, time.perf_counter() - started)
    return block.nbytes / best / 1e9


def _bytes_a_step(config: DecoderConfig, precision: str, slots: int, frames: int, device: torch.device) -> float:
    """Weights, once, and the keys and values of all rows at the middle of the piece."""
    weights = sum(
        torch.Size(shape).numel() / (3 if "cross_attention.in_proj" in name else 1)  # keys and values were made
        for name, shape in decoder_shapes(config).items()
        if len(shape) == 2 and not name.startswith("emb.")
    )
    kind, dtype = layout(config, precision, device)
    attended = 2 * slots * config.layers * config.heads * kind.read_bytes(config.head_dim, dtype) * frames / 2
    return weights * WEIGHT_BYTES[precision] + attended


def _figures(each: Contestant, ours: Contestant) -> dict[str, Any]:
    real_time = 1000 / each.ms / FRAME_RATE * each.requests
    figures: dict[str, Any] = {"ms_step": each.ms, "real_time": real_time, "memory_mb": each.memory_mb}
    if each is not ours:
        ours_real_time = 1000 / ours.ms / FRAME_RATE * ours.requests
        figures["ratio"] = ours_real_time / real_time
    return figures | {"ms_first": each.edge(first=True), "ms_last": each.edge(first=False)}


def _print(about: dict[str, Any], figures: dict[str, dict[str, Any]]) -> None:
    out = Console(stderr=not sys.stdout.isatty())
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    out.print(
        f"{about['model']}, {about['slots']} at once, {about['seconds']:g} s, guidance on; {about['device']}, "
        f"{about['threads']} threads, memory read at {about['bandwidth_gb_s']:.0f} GB/s; {versions}"
    )
    columns = (
        "",
        "ms a step",
        "× real time",
        "the first is faster",
        "GB/s",
        "of the bandwidth",
        "memory MB",
        "first",
        "last",
    )
    table = Table(*columns)
    for name, row in figures.items():
        cells = ("ms_step", "real_time", "ratio", "gb_s", "bandwidth_share", "memory_mb", "ms_first", "ms_last")
        table.add_row(name, *("" if row.get(cell) is None else f"{row[cell]:.2f}" for cell in cells))
    out.print(table)


def _rounded(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: value if value is None else round(value, 3) for key, value in row.items()}
        for name, row in figures.items()
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
