"""Whether a request's codes depend on who is decoded beside it: many requests, each alone and in company.

musicgen-mini's own weights; every request has a prompt, a length, a seed and sampling controls of its own, and in
company they join and leave at any step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from studio.engine import catalog, loader
from studio.engine.decoder import Decoder
from studio.engine.model import Conditions, LoadedModel
from studio.engine.sampling import Sampling
from studio.engine.weights import load
from studio.settings import Settings

FRAME_RATE = 50  # frames a second, of musicgen-mini
SHORTEST = 20  # frames
JOINS = 0.1  # probability that a free slot is taken at a step
MOODS = ("sad", "happy", "calm", "driving", "dreamy", "dark")
MUSIC = ("piano", "jazz trio", "techno, 130 bpm", "folk guitar", "orchestra", "drum and bass", "flute solo, no drums")


@dataclass(frozen=True)
class Request:
    """One request's own."""

    key: str
    conditions: Conditions
    frames: int
    sampling: Sampling


def run(requests: int, slots: int, seconds: float, precisions: Sequence[str]) -> None:
    """Print the share of requests whose codes are the same alone and in company: a table and one line of JSON."""
    settings, device = Settings(), torch.device("cpu")
    model = load(catalog.resolve("musicgen-mini", settings), settings, device, lambda *_: None)
    loader.pick_threads(sum(tensor.numel() for tensor in model.lm.values()))
    longest = round(seconds * FRAME_RATE)
    found = {}
    for precision in precisions:
        decoder = Decoder(model.config, model.lm, device=device, precision=precision, slots=slots, max_frames=longest)
        drawn = [_drawn(number, model, decoder, longest) for number in range(requests)]
        together = _together(decoder, drawn)
        equal = [torch.equal(_together(decoder, [each])[each.key], together[each.key]) for each in drawn]
        found[precision] = sum(equal) / requests
    table = Table("precision", f"equal alone and among up to {slots}, of {requests}")
    for precision, share in found.items():
        table.add_row(precision, f"{share:.1%}")
    Console(stderr=not sys.stdout.isatty()).print(table)
    about = {"bench": "company", "model": "musicgen-mini", "requests": requests, "slots": slots, "seconds": seconds}
    sys.stdout.write(json.dumps({**about, "equal": found}) + "\n")


def _drawn(number: int, model: LoadedModel, decoder: Decoder, longest: int) -> Request:
    """A request like nobody else's; the same for the same number."""
    rng = Random(number)
    frames = rng.randint(min(SHORTEST, longest), longest)
    prompt = f"{rng.choice(MOODS)} {rng.choice(MUSIC)}"
    sampling = Sampling(
        seed=number,
        temperature=rng.uniform(0.5, 1.5),
        top_k=rng.choice((0, 1, 50, 250)),
        top_p=rng.choice((0.0, 0.0, 0.9)),
        cfg_coef=rng.uniform(1.0, 6.0),
    )
    conditions = model.text.encode(prompt, decoder.steps(frames), number)
    return Request(str(number), conditions, frames, sampling)


def _together(decoder: Decoder, requests: Sequence[Request]) -> dict[str, Tensor]:
    """Codes [K, F] of each; who waits is let in now and then, as slots become free."""
    rng, waiting, codes = Random(0), list(requests), dict[str, Tensor]()
    while len(codes) < len(requests):
        alone = decoder.free_slots == decoder.slots
        if waiting and decoder.free_slots and (alone or rng.random() < JOINS):
            each = waiting.pop(0)
            decoder.admit(each.key, each.conditions, each.frames, each.sampling)
        codes |= {key: decoder.take(key) for key, done, total in decoder.step() if done == total}
    return codes
