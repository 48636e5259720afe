"""Pieces to audio, through a General MIDI soundfont: one synth pass a track, then a small mixing desk.

Each track is brought to its level before mixing, because General MIDI programs differ by 20 dB and a lead that
cannot be heard teaches a model nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from scipy.signal import butter, fftconvolve, sosfilt

from studio.errors import StudioError
from studio.training.compose import Piece, Track
from studio.training.soundfont import read_opened

Audio = NDArray[np.float32]

SAMPLE_RATE = 32_000
SOUNDFONTS = (
    Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3"),
    Path("/usr/share/sounds/sf3/FluidR3Mono_GM.sf3"),
)
TRACK_RMS = 0.1
RMS = 10 ** (-16 / 20)
PEAK = 0.95
REVERB_S = 1.6
DRUM_BANK = 128
CHANNEL = 0


class SoundfontMissingError(StudioError):
    """There is no General MIDI soundfont to render with."""

    def __init__(self, path: Path | None) -> None:
        super().__init__(
            f"There is no soundfont{f' {path}' if path else ''}: install Debian's musescore-general-soundfont-small "
            "or fluidr3mono-gm-soundfont, or name one in the recipe, as soundfont of [music]."
        )


def find_soundfont(path: Path | None = None) -> Path:
    """The given soundfont, or the first of Debian's.

    Raises:
        SoundfontMissingError: it is not there.
    """
    for candidate in (path,) if path else SOUNDFONTS:
        if candidate.is_file():
            return candidate
    raise SoundfontMissingError(path)


class Renderer:
    """Holds one synth with its soundfont, which takes seconds to load; render with it as often as you like."""

    def __init__(self, soundfont: Path | None = None, sample_rate: int = SAMPLE_RATE) -> None:
        import tinysoundfont

        self.sample_rate = sample_rate
        self._synth: Any = tinysoundfont.Synth(samplerate=sample_rate)
        self._font: int = self._synth.sfload(read_opened(find_soundfont(soundfont)))
        self._impulse = _impulse(sample_rate)

    def render(self, piece: Piece, seconds: float | None = None) -> Audio:
        """The piece in mono: float32 [samples] in [-1, 1], cut or padded to `seconds`."""
        mono: Audio = self.render_stereo(piece, seconds).mean(axis=0)
        return master(mono, self.sample_rate)

    def render_stereo(self, piece: Piece, seconds: float | None = None) -> Audio:
        """The mix before mastering: float32 [2, samples]."""
        samples = round((piece.seconds if seconds is None else seconds) * self.sample_rate)
        mix = np.zeros((2, samples), np.float32)
        send = np.zeros(samples, np.float32)
        for track in piece.tracks:
            audio = _levelled(self.play(track, samples), 10 ** (track.level / 20))
            mix += _pan(track.pan)[:, None] * audio
            send += track.reverb * audio
        mix += fftconvolve(send, self._impulse)[:samples].astype(np.float32)
        return mix

    def play(self, track: Track, samples: int) -> Audio:
        """One track alone, as the synth gives it: float32 [samples] in mono."""
        synth, rate = self._synth, self.sample_rate
        bank = DRUM_BANK if track.is_drums else 0
        synth.program_select(CHANNEL, self._font, bank, track.program, track.is_drums)
        buffer = memoryview(bytearray(samples * 8))
        now = 0
        for at, pitch, velocity in _key_events(track, rate):
            if at >= samples:
                break
            if at > now:
                synth.generate_simple(at - now, buffer[now * 8 : at * 8])
                now = at
            if velocity:
                synth.noteon(CHANNEL, pitch, velocity)
            else:
                synth.noteoff(CHANNEL, pitch)
        synth.generate_simple(samples - now, buffer[now * 8 :])
        self._silence()
        stereo = np.frombuffer(buffer, np.float32).reshape(samples, 2)
        audio: Audio = stereo.mean(axis=1)
        return audio

    def _silence(self) -> None:
        """Let what still sounds die away unheard, or it would ring into the next track."""
        self._synth.sounds_off(CHANNEL)
        self._synth.generate_simple(self.sample_rate, memoryview(bytearray(self.sample_rate * 8)))


def _key_events(track: Track, rate: int) -> list[tuple[int, int, int]]:
    """(sample, pitch, velocity), velocity 0 for a key's release; releases come before presses of the same moment."""
    events = []
    for note in track.notes:
        start = round(note.start * rate)
        events.append((start, note.pitch, note.velocity))
        events.append((max(start + 1, round((note.start + note.duration) * rate)), note.pitch, 0))
    return sorted(events, key=lambda event: (event[0], event[2] > 0, event[1]))


def _levelled(audio: Audio, gain: float) -> Audio:
    """To TRACK_RMS times `gain`, measured where the track sounds."""
    blocks = audio[: len(audio) // 1600 * 1600].reshape(-1, 1600)
    power = (blocks.astype(np.float64) ** 2).mean(axis=1)
    sounding = power[power > power.max(initial=0.0) * 1e-3]
    if not sounding.size or power.max() < 1e-12:
        return audio
    levelled: Audio = audio * np.float32(gain * TRACK_RMS / np.sqrt(sounding.mean()))
    return levelled


def _pan(position: float) -> Audio:
    """Constant-power gains [left, right], 1 in the middle."""
    angle = (position + 1) * np.pi / 4
    return np.array([np.cos(angle), np.sin(angle)], np.float32) * np.float32(np.sqrt(2))


def _impulse(rate: int) -> Audio:
    """A room: noise that decays by 60 dB in REVERB_S, darker than it began, a few milliseconds late."""
    count = round(REVERB_S * rate)
    noise = np.random.default_rng(0).standard_normal(count) * 10 ** (-3 * np.arange(count) / count)
    noise[: round(0.012 * rate)] = 0
    dark = sosfilt(butter(2, [200, 5000], "bandpass", fs=rate, output="sos"), noise)
    return np.asarray(dark / np.sqrt((dark**2).sum()), np.float32)


def master(audio: Audio, sample_rate: int) -> Audio:
    """Bring [samples] to about -16 dBFS of RMS and hold peaks at PEAK with a look-ahead limiter."""
    rms = float(np.sqrt(np.mean(audio.astype(np.float64) ** 2)))
    if rms < 1e-9:
        return audio
    loud = audio * np.float32(RMS / rms)
    window = round(0.005 * sample_rate)
    envelope = maximum_filter1d(np.abs(loud), 2 * window + 1)
    gain = uniform_filter1d(np.minimum(1.0, PEAK / np.maximum(envelope, 1e-9)), window)
    limited: Audio = np.clip(loud * gain, -PEAK, PEAK).astype(np.float32)
    return limited
