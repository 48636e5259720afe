"""What is true of a piece, as numbers: what the reader learns to expect and the language model to heed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from studio.engine.metre import BEATS, SIGNATURES
from studio.training.compose import INSTRUMENTS, Description
from studio.training.compose.genres import ENERGIES, GENRES, MOODS
from studio.training.compose.theory import KEYS, MODES

PLAYERS = ("one", "two", "three", "more")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "genre": tuple(GENRES),
    "mood": tuple(MOODS),
    "energy": tuple(ENERGIES),
    "players": PLAYERS,
    "lead": (*INSTRUMENTS, "drums"),
    "drums": ("none", "drums"),
    "instruments": tuple(INSTRUMENTS),
    "tonic": KEYS,
    "mode": tuple(MODES),
    "metre": tuple(SIGNATURES),
    "beat": tuple(map(str, BEATS)),
}


def values(description: Description) -> dict[str, frozenset[str]]:
    """The values that each attribute has in a piece; one, but for its instruments."""
    tonic, mode = description.key.split()
    players = len(description.instruments) + description.has_drums
    single = {
        "genre": description.genre,
        "mood": description.mood,
        "energy": description.energy,
        "players": PLAYERS[min(players, len(PLAYERS)) - 1],
        "lead": description.lead,
        "drums": "drums" if description.has_drums else "none",
        "tonic": tonic,
        "mode": mode,
        "metre": description.metre,
        "beat": str(description.time.beat),
    }
    several = {"instruments": frozenset(description.instruments)}
    return several | {name: frozenset({value}) for name, value in single.items()}


def truth(descriptions: Iterable[Description]) -> dict[str, Tensor]:
    """1 for each value that is true of a piece, else 0: [P, values] of each attribute."""
    found = [values(description) for description in descriptions]
    return {
        name: torch.tensor([[float(value in piece[name]) for value in known] for piece in found])
        for name, known in ATTRIBUTES.items()
    }
