"""What a clip of audio measures, without ears: level, noise, silence, pulse, key, and how much happens.

Clips are mono [T], float32, at 32 kHz.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Audio = npt.NDArray[np.float32]

SAMPLE_RATE = 32_000
SILENT_DB = -60.0
CLIPPED = 0.999
FLATNESS_WINDOW = 2048  # samples
BUZZ_HZ, BUZZ_BLOCK = 100.0, 64  # the codec's STFT frames a second; samples
HOP = 320  # samples between frames of onset strength: 10 ms
SHORTEST_BEAT, LONGEST_BEAT = 25, 150  # hops: 240 to 40 beats a minute
USUAL_BEAT, SPREAD = 120, 0.9  # beats a minute, octaves: which of a pulse's multiples people call the beat
ONSET_GAP = 6  # hops; two onsets that are closer are one
CHROMA_WINDOW = 8192  # samples: tells neighbouring semitones apart from 65 Hz on
LOWEST_HZ, HIGHEST_HZ = 65.0, 2000.0
# How well each degree of the scale fits (Krumhansl, Cognitive Foundations of Musical Pitch, 1990, table 2.1).
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


def statistics(clips: Sequence[Audio]) -> dict[str, float]:
    """The mean of each measure over clips."""
    return {name: mean([measure(clip) for clip in clips]) for name, measure in MEASURES.items()}


def mean(values: Sequence[float]) -> float:
    """Rounded as it is written down."""
    return round(float(np.mean(values)), 4)


def level(clip: Audio) -> float:
    """RMS in dBFS."""
    return float(20 * np.log10(np.sqrt(np.mean(np.square(clip))) + 1e-9))


def flatness(clip: Audio) -> float:
    """Geometric over arithmetic mean of the power spectrum, over time: 0 a tone, 1 noise."""
    power = spectrum(clip, FLATNESS_WINDOW, FLATNESS_WINDOW // 4).square() + 1e-10
    return float((power.log().mean(0).exp() / power.mean(0)).mean())


def buzz(clip: Audio) -> float:
    """How far the loudness's modulation at BUZZ_HZ, at which a codec's frames would be heard, stands out of what is
    around it; 1 not at all."""
    blocks = np.abs(clip[: len(clip) // BUZZ_BLOCK * BUZZ_BLOCK]).reshape(-1, BUZZ_BLOCK).mean(1)
    modulation = np.abs(np.fft.rfft(blocks * np.hanning(len(blocks))))
    away = np.abs(np.fft.rfftfreq(len(blocks), BUZZ_BLOCK / SAMPLE_RATE) - BUZZ_HZ)
    return float(modulation[away < 0.5].mean() / (modulation[(away > 2) & (away < 8)].mean() + 1e-9))


def silence(clip: Audio) -> float:
    """Share of tenths of a second below SILENT_DB."""
    block = SAMPLE_RATE // 10
    blocks = clip[: len(clip) // block * block].reshape(-1, block)
    return float(np.mean(np.square(blocks).mean(axis=1) < 10 ** (SILENT_DB / 10)))


def clipped(clip: Audio) -> float:
    """Share of samples at full scale."""
    return float(np.mean(np.abs(clip) >= CLIPPED))


def pulse(clip: Audio) -> float:
    """How regular the onsets are: the highest autocorrelation of their strength at the lag of a beat; 1 a metronome."""
    return float(periodicity(onset_strength(clip))[SHORTEST_BEAT:LONGEST_BEAT].max())


def tempo(clip: Audio) -> float:
    """Beats a minute: the strongest lag of the onsets' autocorrelation, usual tempi preferred (Ellis, Beat Tracking by
    Dynamic Programming, 2007)."""
    lags = torch.arange(SHORTEST_BEAT, LONGEST_BEAT)
    bpm = 60 * SAMPLE_RATE / HOP / lags
    usual = torch.exp(-0.5 * ((bpm / USUAL_BEAT).log2() / SPREAD).square())
    return float(bpm[(periodicity(onset_strength(clip))[lags] * usual).argmax()])


def onsets(clip: Audio) -> float:
    """Onsets a second."""
    return len(onset_peaks(clip)) * SAMPLE_RATE / len(clip)


def onset_peaks(clip: Audio) -> list[float]:
    """When something begins, in seconds: peaks of the onsets' strength above one deviation over the mean."""
    strength = onset_strength(clip)
    peaks = torch.nn.functional.max_pool1d(strength[None, None], 2 * ONSET_GAP + 1, 1, ONSET_GAP)[0, 0] == strength
    found = peaks & (strength > strength.mean() + strength.std())
    times: list[float] = (found.nonzero()[:, 0] * HOP / SAMPLE_RATE).tolist()
    return times


def brightness(clip: Audio) -> float:
    """Where the middle of the spectrum's magnitudes lies, in octaves over 440 Hz."""
    magnitudes = spectrum(clip, FLATNESS_WINDOW, FLATNESS_WINDOW // 4).sum(1)
    frequencies = torch.fft.rfftfreq(FLATNESS_WINDOW, 1 / SAMPLE_RATE)
    centroid = (frequencies * magnitudes).sum() / (magnitudes.sum() + 1e-9)
    return float((centroid / 440 + 1e-3).log2())


def key(clip: Audio) -> float:
    """Correlation of the pitch classes with the best of 24 keys; noise and clusters have little."""
    return max(_fit(chroma(clip), mode) for mode in (MAJOR, MINOR))


def major(clip: Audio) -> float:
    """How much better the best major key fits than the best minor one."""
    found = chroma(clip)
    return _fit(found, MAJOR) - _fit(found, MINOR)


def _fit(classes: npt.NDArray[np.float64], mode: Sequence[float]) -> float:
    return max(float(np.corrcoef(classes, np.roll(mode, tonic))[0, 1]) for tonic in range(12))


def chroma(clip: Audio) -> npt.NDArray[np.float64]:
    """How much of each pitch class [12], C first."""
    found = pitch_classes(spectrum(clip, CHROMA_WINDOW, CHROMA_WINDOW // 2)).sum(1)
    classes_heard: npt.NDArray[np.float64] = found.double().numpy() + 1e-9 * np.arange(12)  # silence has no deviation
    return classes_heard


def pitch_classes(magnitudes: Tensor) -> Tensor:
    """How much of each pitch class [12, L], C first, spectra of CHROMA_WINDOW [bins, L] have."""
    frequencies = torch.fft.rfftfreq(CHROMA_WINDOW, 1 / SAMPLE_RATE)
    heard = (frequencies > LOWEST_HZ) & (frequencies < HIGHEST_HZ)
    classes = (12 * (frequencies[heard] / 440).log2() + 9).round().long() % 12
    found = torch.zeros(12, magnitudes.shape[1]).index_add(0, classes, magnitudes[heard].sqrt())
    each: Tensor = found / classes.bincount(minlength=12)[:, None]
    return each


def onset_strength(clip: Audio) -> Tensor:
    """How much louder the bands become, every hundredth of a second [L]."""
    loudness = (spectrum(clip, 1024, HOP) + 1e-2).log()
    return loudness.diff(dim=1).clamp(min=0).mean(0)


def periodicity(strength: Tensor) -> Tensor:
    """Autocorrelation of an onset strength [L], 1 at lag 0."""
    centred = strength - strength.mean()
    power = torch.fft.rfft(centred, 2 * len(centred)).abs().square()
    correlation = torch.fft.irfft(power)[: len(strength)]
    scaled: Tensor = correlation / (correlation[0] + 1e-9)
    return scaled


def spectrum(clip: Audio, window: int, hop: int) -> Tensor:
    """Magnitudes [window / 2 + 1, L]."""
    samples = torch.from_numpy(np.ascontiguousarray(clip))
    return torch.stft(samples, window, hop, window=torch.hann_window(window), return_complex=True).abs()


MEASURES: dict[str, Callable[[Audio], float]] = {
    "level_db": level,
    "flatness": flatness,
    "silent": silence,
    "clipped": clipped,
    "pulse": pulse,
    "onsets": onsets,
    "key": key,
}
