"""Whether music is what its prompt asks for: shares of clips, each beside what chance would give.

Clips are mono [T], float32, at 32 kHz; what they sound like is said by a `judge.Listener` or by `measures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from studio.training.judge import FIELDS, Truth
from studio.training.measures import Audio, brightness, major, mean, onsets, tempo

TEMPO_TOLERANCE = 0.06
MEANINGS: dict[str, Callable[[Audio], float]] = {  # in which a word may move music
    "tempo": tempo,
    "major": major,
    "brightness": brightness,
    "density": onsets,
}


def adherence(heard: Sequence[Truth], wanted: Sequence[Truth]) -> dict[str, dict[str, Any]]:
    """For each thing a prompt may ask for: how often it is heard, and how often it is in clips of any prompts."""
    found = {}
    for name in FIELDS:
        asked = [(clip[name], truth[name]) for clip, truth in zip(heard, wanted, strict=True) if truth.get(name)]
        if asked:
            everywhere = [clip[name] for clip in heard]
            found[name] = {
                "asked": len(asked),
                "heard": mean([sound == wish for sound, wish in asked]),
                "by_chance": mean([everywhere.count(wish) / len(everywhere) for _, wish in asked]),
                "of_each": {
                    each: mean([sound == wish for sound, wish in asked if wish == each])
                    for each in sorted({wish for _, wish in asked if wish})
                },
            }
    return found


def overall(found: Mapping[str, Mapping[str, Any]]) -> float:
    """Of all things that prompts asked for, the share that is heard."""
    asked = float(sum(row["asked"] for row in found.values()))
    heard = float(sum(row["asked"] * row["heard"] for row in found.values()))
    return round(heard / asked, 3)


def tempo_kept(clips: Sequence[Audio], wanted: Sequence[float]) -> dict[str, float]:
    """Share of clips whose measured tempo is the wanted one, and of those where it may be twice or half of it."""
    pairs = [(tempo(clip), bpm) for clip, bpm in zip(clips, wanted, strict=True)]
    return {
        "kept": mean([_near(found, bpm) for found, bpm in pairs]),
        "kept_or_octave": mean([any(_near(found, bpm * by) for by in (0.5, 1, 2)) for found, bpm in pairs]),
    }


def _near(found: float, wanted: float) -> bool:
    return abs(found / wanted - 1) <= TEMPO_TOLERANCE


def moved_alike(clips: Mapping[str, Sequence[Audio]], neighbours: Mapping[str, str]) -> dict[str, Any]:
    """Whether a word moves music as its neighbour in meaning does: up or down in that measure in which the neighbour
    moves it most. Moves are from the mean of all clips, in deviations of all clips."""
    measured = {word: np.array([[measure(clip) for measure in MEANINGS.values()] for clip in each])
                for word, each in clips.items()}  # fmt: skip
    everything = np.concatenate(list(measured.values()))
    centre, deviation = everything.mean(0), everything.std(0) + 1e-9
    moves = {word: (each.mean(0) - centre) / deviation for word, each in measured.items()}
    pairs = [(moves[word], moves[neighbour]) for word, neighbour in neighbours.items()]
    return {
        "alike": mean([_alike(move, near) for move, near in pairs]),
        "by_chance": mean([_alike(move, near) for move, own in pairs for _, near in pairs if near is not own]),
        "measures": list(MEANINGS),
        "mean": centre.round(3).tolist(),
        "deviation": deviation.round(3).tolist(),
        "words": {
            word: {
                "neighbour": neighbour,
                "alike": _alike(moves[word], moves[neighbour]),
                "move": moves[word].round(2).tolist(),
                "neighbours_move": moves[neighbour].round(2).tolist(),
            }
            for word, neighbour in neighbours.items()
        },
    }


def _alike(move: npt.NDArray[np.float64], neighbours: npt.NDArray[np.float64]) -> bool:
    strongest = int(np.abs(neighbours).argmax())
    return bool(move[strongest] * neighbours[strongest] > 0)
