"""Musical time: a beat, a bar, and where in them each frame of codes stands. Knows no model and no prompt.

A small decoder that must find the beat in what it has written so far loses it; one that is told where in the bar it
stands keeps it. So musicgen-mini reads a clock beside its codes, as it reads its position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FRAME_S = 0.02  # of the codec
BEATS = tuple(range(14, 62, 2))  # frames that a beat may have: 214 to 50 a minute; even, for eighths
# Beats in a bar, of 6/8 dotted quarters; a clock's columns are in this order.
SIGNATURES: dict[str, float] = {"4/4": 4, "3/4": 3, "6/8": 2, "5/4": 5, "7/8": 3.5}

BEAT_WAVES, BAR_WAVES, PHRASE_WAVES = 8, 6, 3  # sinusoids: down to a 16th of a beat, a 12th of a bar, a bar
PHRASE_BARS = 4
CLOCK = 2 * (BEAT_WAVES + BAR_WAVES + PHRASE_WAVES) + 1 + len(SIGNATURES) + 3  # numbers a frame
THERE = CLOCK - 2  # the column that says that the last chord is there
LETS_GO_S = 0.5  # before what rings has ended, its hand has risen to 1 / e


@dataclass(frozen=True)
class Metre:
    """How time goes by in a piece that starts on a bar line."""

    beat: int  # frames
    signature: str  # one of SIGNATURES
    end: int | None = None  # the frame of the last chord, where one is wanted,
    over: int | None = None  # and the first one after it has rung

    @property
    def bar(self) -> int:
        """Frames."""
        return round(self.beat * SIGNATURES[self.signature])

    @property
    def bpm(self) -> float:
        return 60 / (self.beat * FRAME_S)

    def ending_by(self, frames: int, seconds: float) -> Metre:
        """The same with its last chord on the last bar line that leaves it `seconds` to ring, or in the first bar on
        such a beat. Where there is none, it has no end."""
        left = frames - round(seconds / FRAME_S)
        unit = self.bar if left >= self.bar else self.beat
        return replace(self, end=left // unit * unit, over=frames) if left >= unit else self

    def after(self, frames: int) -> Metre:
        """Of what follows these frames, which are whole bars: it ends where the whole does."""
        return replace(self, end=_less(self.end, frames), over=_less(self.over, frames))

    def clock(self, frames: int) -> npt.NDArray[np.float32]:
        """What a decoder reads of time [frames, CLOCK]: the hands of the beat, the bar and the phrase, how fast they
        go, the signature, and how near the end is. A bar line cuts the beat of 7/8 in half, and begins a new one."""
        frame = np.arange(frames, dtype=np.float64)[:, None]
        lost = frame // self.bar * (-self.bar % self.beat)
        hands = [
            (frame + lost, self.beat, BEAT_WAVES),
            (frame, self.bar, BAR_WAVES),
            (frame, self.bar * PHRASE_BARS, PHRASE_WAVES),
        ]
        angles = np.concatenate(
            [2 * math.pi * time / period * np.arange(1, waves + 1) for time, period, waves in hands], axis=1
        )
        constant = [2 * math.log2(self.beat / 25), *(float(name == self.signature) for name in SIGNATURES)]
        steady = np.broadcast_to(np.array(constant), (frames, len(constant)))
        columns = [np.cos(angles), np.sin(angles), steady, self._ending(frame)]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _ending(self, frame: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """How near the last chord is, rising over the last bars, whether it is there, and how near the end of its
        ringing is [frames, 3]."""
        if self.end is None or self.over is None:
            return np.zeros((len(frame), 3))
        left, there = np.maximum(self.end - frame, 0), frame >= self.end
        ringing = np.maximum(self.over - frame, 0) * FRAME_S
        return np.concatenate([np.exp(-left / self.bar) * ~there, there, np.exp(-ringing / LETS_GO_S) * there], axis=1)


def _less(frame: int | None, frames: int) -> int | None:
    return None if frame is None else frame - frames


def beat_frames(bpm: float) -> int:
    """Frames in a beat of the nearest tempo that there is."""
    return min(BEATS, key=lambda beat: abs(beat - 60 / FRAME_S / bpm))
