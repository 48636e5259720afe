"""Teaches the conditioner to read before the language model learns to listen to it.

What a caption says shows in the music's codes only faintly at first, and a short training never gets to it. So the
conditioner first learns, from captions alone, to say what they describe: the mean of its conditions must tell genre,
mood, tempo, instruments, drums and energy to linear heads, which are then thrown away. It takes a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.engine.text import WordPieceConditioner, WordPieces
from studio.training.captions import caption
from studio.training.compose import INSTRUMENTS, Description

log = logging.getLogger(__name__)

BATCH = 128
LEARNING_RATE = 3e-3
SPREAD_WEIGHT = 0.1  # of keeping each dimension of the mean condition at unit variance, where attention can use it


def teach(
    conditioner: WordPieceConditioner,
    pieces: WordPieces,
    descriptions: Sequence[Description],
    steps: int,
    seed: int = 0,
) -> dict[str, float]:
    """Train in place; how often the heads are right about the last tenth of the captions, by thing described."""
    things = _things(descriptions)
    device = conditioner.output_proj.weight.device
    heads = nn.ModuleDict({name: nn.Linear(conditioner.output_proj.out_features, n) for name, (n, _) in things.items()})
    heads.to(device)
    optimiser = torch.optim.AdamW([*conditioner.parameters(), *heads.parameters()], LEARNING_RATE, weight_decay=0.01)
    right: dict[str, list[float]] = {name: [] for name in things}
    for step in range(steps):
        rng = Random(f"reading/{seed}/{step}")
        rows = [rng.randrange(len(descriptions)) for _ in range(BATCH)]
        embeddings, mask = (t.to(device) for t in pieces.embed([caption(descriptions[row], rng) for row in rows]))
        mean = conditioner(embeddings, mask).sum(1) / mask.sum(1, keepdim=True)  # [B, dim]
        loss = SPREAD_WEIGHT * (mean.std(0) - 1).square().mean()
        for name, (_, truths) in things.items():
            truth = truths[rows].to(device)
            scores = heads[name](mean)
            loss = loss + _loss(scores, truth)
            if step >= 0.9 * steps:
                right[name].append(_right(scores, truth))
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - step / steps))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = {name: round(sum(shares) / max(1, len(shares)), 3) for name, shares in right.items()}
    log.info("the conditioner reads: %s", found)
    return found


def _things(descriptions: Sequence[Description]) -> dict[str, tuple[int, Tensor]]:
    """What captions describe: the number of outputs and the truth of each piece ([P], or [P, N] of 0 and 1)."""
    instruments = sorted(INSTRUMENTS)
    played = torch.tensor([[float(name in d.instruments) for name in instruments] for d in descriptions])
    said = {
        "genre": [d.genre for d in descriptions],
        "mood": [d.mood for d in descriptions],
        "tempo": [d.tempo for d in descriptions],
        "lead": [d.lead for d in descriptions],
        "drums": [str(d.has_drums) for d in descriptions],
        "energy": [d.energy for d in descriptions],
    }
    things = {name: (len(set(values)), _numbered(values)) for name, values in said.items()}
    return things | {"instruments": (len(instruments), played)}


def _numbered(values: Sequence[str]) -> Tensor:
    known = sorted(set(values))
    return torch.tensor([known.index(value) for value in values])


def _loss(scores: Tensor, truth: Tensor) -> Tensor:
    if truth.ndim == 2:
        return 10 * F.binary_cross_entropy_with_logits(scores, truth)
    return F.cross_entropy(scores, truth)


def _right(scores: Tensor, truth: Tensor) -> float:
    guess = (scores > 0) == (truth > 0.5) if truth.ndim == 2 else scores.argmax(1) == truth
    return float(guess.float().mean())
