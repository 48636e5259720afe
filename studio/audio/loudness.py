"""How loud a clip is, and making it as loud as its neighbours. Plain gain: the waveform keeps its shape."""

from __future__ import annotations

import numpy as np

from studio.clip import Clip

TARGET_LUFS = -16.0  # what streaming services play music at, less a little headroom
PEAK_MAX = 10 ** (-1.0 / 20)  # -1 dBFS


def normalise(clip: Clip) -> Clip:
    """The clip at `TARGET_LUFS`, or as near as its peaks allow; silence stays silent.

    Loudness as ITU-R BS.1770-4 defines it.
    """
    peak = float(np.abs(clip.samples).max(initial=0.0))
    loudness = integrated(clip)
    if peak == 0.0 or not np.isfinite(loudness):
        return clip
    gain = min(10 ** ((TARGET_LUFS - loudness) / 20), PEAK_MAX / peak)
    return Clip((clip.samples * gain).astype(np.float32), clip.sample_rate)


def prepare() -> None:
    """Import what takes a second to import, so that the first track does not wait for it."""
    import pyloudnorm  # noqa: F401


def integrated(clip: Clip) -> float:
    """Integrated loudness in LUFS; minus infinity for silence and for clips under 0.4 s."""
    import pyloudnorm

    if clip.duration < 0.4:
        return float("-inf")
    return float(pyloudnorm.Meter(clip.sample_rate).integrated_loudness(clip.samples.T.astype(np.float64)))
