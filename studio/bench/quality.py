"""What a precision costs in quality: its distributions beside fp32's, and the loss, on musicgen-mini's real weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from studio.engine import catalog, delay, loader
from studio.engine.decoder import Decoder
from studio.engine.metre import Metre, beat_frames
from studio.engine.model import Conditions, LoadedModel
from studio.engine.reader import PromptEncoder
from studio.engine.sampling import Sampling, guide
from studio.engine.step import Batch
from studio.engine.transformer import DecoderConfig
from studio.engine.weights import load
from studio.errors import ConfigurationError
from studio.settings import Settings

FRAME_RATE = 50  # frames a second, of musicgen-mini
TOGETHER = 4  # pieces


def run(codes_folder: Path, pieces: int, seconds: float, precisions: Sequence[str]) -> None:
    """How far each precision's distributions lie from fp32's on held-out music, and what it adds to the loss of
    musicgen-mini, which reads the codes of real pieces under their captions. A table and one line of JSON.

    `codes_folder` has `codes_*.npy` [N, K, F] and, beside each, a `.jsonl` with the pieces' captions.

    Raises:
        ConfigurationError: there are no codes in the folder.
    """
    codes, records = _held_out(codes_folder, pieces, round(seconds * FRAME_RATE))
    settings = Settings()
    model = load(catalog.resolve("musicgen-mini", settings), settings, torch.device("cpu"), lambda *_: None)
    loader.pick_threads(sum(tensor.numel() for tensor in model.lm.values()))
    with torch.inference_mode():
        conditions = [_known(model, record, delay.steps(codes.shape[2], model.config.delays)) for record in records]
    fp32 = _followed(model.config, model.lm, codes, conditions, "fp32")
    found: dict[str, dict[str, float]] = {"fp32": {"loss": _loss(fp32, codes)}}
    for precision in precisions:
        logits = _followed(model.config, model.lm, codes, conditions, precision)
        loss = _loss(logits, codes)
        found[precision] = {
            "loss": loss,
            "loss_change_percent": 100 * (loss / found["fp32"]["loss"] - 1),
            "kl_nats": _divergence(fp32[:, 0], logits[:, 0]),
            "kl_guided_nats": _divergence(*(guide(each, torch.tensor(3.0)) for each in (fp32, logits))),
        }
    out = Console(stderr=not sys.stdout.isatty())
    table = Table("precision", "loss, nats a code", "change, %", "KL to fp32, nats", "KL under guidance 3")
    for precision, row in found.items():
        cells = (("loss", 4), ("loss_change_percent", 3), ("kl_nats", 6), ("kl_guided_nats", 6))
        table.add_row(precision, *(f"{row[key]:.{digits}f}" if key in row else "" for key, digits in cells))
    out.print(table)
    about = {"bench": "quality", "model": "musicgen-mini", "pieces": len(codes), "seconds": seconds}
    sys.stdout.write(json.dumps({**about, "precisions": found}) + "\n")


def _known(model: LoadedModel, record: dict[str, Any], steps: int) -> Conditions:
    """A piece's conditions under its last caption, in its own metre."""
    assert isinstance(model.text, PromptEncoder)
    described = record["description"]
    return model.text.encode_at(record["captions"][-1], Metre(beat_frames(described["bpm"]), described["metre"]), steps)


def _held_out(folder: Path, pieces: int, frames: int) -> tuple[Tensor, list[dict[str, Any]]]:
    import numpy as np

    paths = sorted(folder.glob("codes_*.npy"))
    if not paths:
        raise ConfigurationError(f"There are no codes_*.npy in {folder}.")
    codes = torch.from_numpy(np.concatenate([np.load(path) for path in paths])[:pieces, :, :frames].astype(np.int64))
    lines = [line for path in paths for line in path.with_suffix(".jsonl").read_text().splitlines()]
    return codes, [json.loads(line) for line in lines[: len(codes)]]


def _followed(
    config: DecoderConfig, lm: dict[str, Tensor], codes: Tensor, conditions: Sequence[Conditions], precision: str
) -> Tensor:
    """Logits [N, 2, K, F, card] of codes [N, K, F], both branches."""
    pieces, codebooks, frames = codes.shape
    logits = torch.empty(pieces, 2, codebooks, frames, config.cardinality)
    forced = Forced(config, lm, device=torch.device("cpu"), precision=precision, slots=TOGETHER, max_frames=frames)

    def see(first: int, step: int, seen: Tensor) -> None:
        for k, lag in enumerate(config.delays):
            if 0 <= step - lag < frames:
                logits[first : first + seen.shape[0], :, k, step - lag] = seen[:, :, k]

    for first in range(0, pieces, TOGETHER):
        part = slice(first, first + TOGETHER)
        forced.follow(codes[part], conditions[part], partial(see, first))
    return logits


def _loss(logits: Tensor, codes: Tensor) -> float:
    """Nats a code of the prompted branch."""
    return torch.nn.functional.cross_entropy(logits[:, 0].flatten(0, 2), codes.flatten()).item()


def _divergence(reference: Tensor, other: Tensor) -> float:
    """The mean KL divergence between the distributions of logits [..., card], in nats."""
    p, q = reference.log_softmax(-1), other.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


class Forced(Decoder):
    """Reads given codes instead of drawing any, and shows the logits of each step."""

    def follow(self, codes: Tensor, conditions: Sequence[Conditions], see: Callable[[int, Tensor], None]) -> None:
        """Codes [A, K, F] under A conditions; `see` gets each step's number and logits [A, 2, K, card]."""
        self._given = delay.delay(codes, self.config.delays, special=self.config.cardinality)[..., 1:]  # [A, K, steps]
        self._see = see
        for at, condition in enumerate(conditions):
            self.admit(str(at), condition, codes.shape[2], Sampling(0))
        for at in range(self._given.shape[2]):
            self._at = at
            self.step()
        for at in range(len(conditions)):
            self.evict(str(at))

    def _advance(self, batch: Batch) -> None:
        self._see(self._at, self._step.logits(batch))
        given = self._given[..., self._at]
        self._step.record(batch.size, given, torch.zeros_like(given, dtype=torch.float32))
