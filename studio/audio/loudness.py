"""How loud a clip is, and making it as loud as its neighbours. Plain gain: the waveform keeps its shape."""

from __future__ import annotations

import numpy as np

from studio.clip import Clip

TARGET_LUFS = -16.0  # what streaming services play music at, less a little headroom
PEAK_MAX = 10 ** (-1.0 / 20)  # -1 dBFS
RAISED_MAX = 2.0  # a stream's: a quiet beginning is not made a loud one
FADE_S = 0.02  # from one gain to the next


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


class Leveller:
    """`normalise` for audio that comes in parts: as loud as the first part lets one expect, and lower from where a peak
    asks for it."""

    def __init__(self) -> None:
        self._gain: float | None = None

    def push(self, clip: Clip) -> Clip:
        """The next part, levelled."""
        before = _expected_gain(clip) if self._gain is None else self._gain
        peak = float(np.abs(clip.samples).max(initial=0.0))
        self._gain = min(before, PEAK_MAX / peak) if peak else before
        gains = np.full(clip.samples.shape[1], self._gain)
        fade = gains[: round(FADE_S * clip.sample_rate)]
        fade[:] = np.linspace(before, self._gain, len(fade))
        return Clip((clip.samples * gains).astype(np.float32), clip.sample_rate)


def prepare() -> None:
    """Import what takes a second to import, so that the first track does not wait for it."""
    import pyloudnorm  # noqa: F401


def integrated(clip: Clip) -> float:
    """Integrated loudness in LUFS; minus infinity for silence and for clips under 0.4 s."""
    import pyloudnorm

    if clip.duration < 0.4:
        return float("-inf")
    return float(pyloudnorm.Meter(clip.sample_rate).integrated_loudness(clip.samples.T.astype(np.float64)))


def _expected_gain(beginning: Clip) -> float:
    loudness = integrated(beginning)
    return min(10 ** ((TARGET_LUFS - loudness) / 20), RAISED_MAX) if np.isfinite(loudness) else 1.0
