"""What a whole piece measures, without ears: whether its tempo stays, it has sections, it ends, and it stays alive.

Clips are mono [T], float32, at 32 kHz.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from studio.training.measures import (
    CHROMA_WINDOW,
    HOP,
    SAMPLE_RATE,
    Audio,
    flatness,
    key,
    mean,
    onset_peaks,
    onset_strength,
    onsets,
    periodicity,
    pitch_classes,
    silence,
    spectrum,
    tempo,
)

BEATS_COMPARED = 8  # multiples of a beat whose lags must all fit
WIDEST_DRIFT, FINEST_DRIFT = 0.08, 0.001  # shares of the tempo that are looked at
BLOCK_S = 0.25  # s, of which a piece is seen to consist
SHORTEST_REPEAT_S, KERNEL_S = 3.0, 8.0  # s: between music and its return; that a boundary is seen in
BANDS = 24  # of the spectrum of a block
LAST_CHORD_S = 1.0  # s, at least, without another onset
RELEASED_S = 0.25  # s at the end when all keys are up
FALL_DB = 6.0
ONSET_S, AUDIBLE_DB = 0.1, 30.0  # from an onset on, and how far below the clip's level the music there is still heard
LOST = 1 / 3  # of the onsets


STEADY = 0.02  # drift of the tempo


def figures(clips: Sequence[Audio]) -> dict[str, Any]:
    """Of long clips, or pieces."""
    drifts = [tempo_drift(clip) for clip in clips]
    parts = zip(*map(thirds, clips), strict=True)
    return {
        "clips": len(clips),
        "steady": mean([drift < STEADY for drift in drifts]),
        "median_drift": round(float(np.median(drifts)), 4),
        "key": mean([key(clip) for clip in clips]),
        "repeats": mean([repeats(clip) for clip in clips]),
        "repeats_shuffled": mean([repeats(shuffled(clip)) for clip in clips]),
        "sections": mean([sections(clip) for clip in clips]),
        "sections_shuffled": mean([sections(shuffled(clip)) for clip in clips]),
        "collapsed": mean([collapsed(clip) for clip in clips]),
        "thirds": {
            name: {measure.__name__: mean([measure(clip) for clip in third]) for measure in (silence, flatness, onsets)}
            for name, third in zip(("first", "last"), parts, strict=True)
        },
    }


def thirds(clip: Audio) -> tuple[Audio, Audio]:
    """The first and the last."""
    length = len(clip) // 3
    return clip[:length], clip[-length:]


def tempo_drift(clip: Audio) -> float:
    """How far the last third's tempo is from the first's, as a share of it; at most about twice WIDEST_DRIFT."""
    beat = 60 * SAMPLE_RATE / HOP / tempo(clip)  # hops
    first, last = (_beat_near(beat, third) for third in thirds(clip))
    return abs(first / last - 1)


def _beat_near(beat: float, clip: Audio) -> float:
    """The length of a beat in hops: of those near to `beat` the one at whose multiples the onsets return most."""
    steps = round(WIDEST_DRIFT / FINEST_DRIFT)
    beats = beat * (1 + FINEST_DRIFT * torch.arange(-steps, steps + 1))
    returns = periodicity(onset_strength(clip))
    lags = beats[:, None] * torch.arange(1, BEATS_COMPARED + 1)  # [beats, multiples]
    below = lags.long()
    within = (below < len(returns) - 1).all(0)
    below, part = below[:, within], (lags - below)[:, within]
    return float(beats[((1 - part) * returns[below] + part * returns[below + 1]).sum(1).argmax()])


def repeats(clip: Audio) -> float:
    """How much more alike blocks are at the distance at which the piece returns most than any two are."""
    alike = self_similarity(clip)
    shortest = round(SHORTEST_REPEAT_S / BLOCK_S)
    returns = [alike.diagonal(lag).mean() for lag in range(shortest, len(alike) // 2)]
    return float(torch.stack(returns).max() - alike.mean())


def sections(clip: Audio) -> float:
    """How much a boundary parts: Foote's novelty (Automatic Audio Segmentation Using a Measure of Audio Novelty, 2000)
    where it is highest: similarity within both sides less that across, over KERNEL_S."""
    alike = self_similarity(clip)
    half = round(KERNEL_S / BLOCK_S / 2)
    time = torch.arange(-half, half) + 0.5
    taper = torch.exp(-2 * (time / half).square())
    kernel = taper[:, None] * taper * time.sign()[:, None] * time.sign()
    windows = alike.unfold(0, 2 * half, 1).unfold(1, 2 * half, 1)  # [L, L, 2 * half, 2 * half]
    novelty = (windows.diagonal().permute(2, 0, 1) * kernel).sum((1, 2)) / kernel.abs().sum()
    return float(novelty.max())


def self_similarity(clip: Audio) -> Tensor:
    """Of all pairs of blocks [L, L]: the cosine of their pitch classes and bands, beside the piece's mean."""
    block = round(BLOCK_S * SAMPLE_RATE)
    magnitudes = spectrum(clip, CHROMA_WINDOW, block)
    bands = F.adaptive_avg_pool1d((magnitudes.T + 1e-2).log(), BANDS).T
    parts = [F.normalize(part - part.mean(1, keepdim=True), dim=0) for part in (pitch_classes(magnitudes), bands)]
    blocks = torch.cat(parts)
    similar: Tensor = blocks.T @ blocks / len(parts)
    return similar


def shuffled(clip: Audio, seed: int = 0) -> Audio:
    """The same seconds in any order."""
    seconds = clip[: len(clip) // SAMPLE_RATE * SAMPLE_RATE].reshape(-1, SAMPLE_RATE)
    return np.random.default_rng(seed).permutation(seconds).reshape(-1)


def ends(clip: Audio) -> bool:
    """Whether a last chord rings, alone, and falls away; where all has fallen silent, a codec's noise is no onset."""
    audible = _db(clip) - AUDIBLE_DB
    last = max((onset for onset in onset_peaks(clip) if _db(_from(clip, onset, ONSET_S)) > audible), default=0.0)
    chord = _from(clip, last, LAST_CHORD_S / 2)
    released = clip[-round(RELEASED_S * SAMPLE_RATE) :]
    return len(clip) / SAMPLE_RATE - last >= LAST_CHORD_S and _db(chord) - _db(released) >= FALL_DB


def collapsed(clip: Audio) -> bool:
    """Whether the last third is mostly silent, or noise, or has lost most onsets, where the first is and has not."""
    first, last = thirds(clip)
    return (
        silence(last) > max(0.5, silence(first))
        or flatness(last) > max(0.2, 2 * flatness(first))
        or onsets(last) < LOST * onsets(first)
    )


def _from(clip: Audio, begin: float, seconds: float) -> Audio:
    return clip[round(begin * SAMPLE_RATE) :][: round(seconds * SAMPLE_RATE)]


def _db(clip: Audio) -> float:
    return float(10 * np.log10(np.mean(np.square(clip)) + 1e-9))
