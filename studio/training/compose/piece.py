"""What a piece is: notes on tracks, in seconds, and a description that is true of them."""

from __future__ import annotations

from dataclasses import dataclass

from studio.engine.metre import Metre, beat_frames

SLOW_BELOW_BPM = 84
FAST_FROM_BPM = 122


@dataclass(frozen=True)
class Note:
    """One key pressed: seconds from the start of the piece, MIDI pitch and velocity."""

    start: float
    duration: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Track:
    """One instrument's notes and how it sits in the mix."""

    role: str  # lead, comp, bass, pad, counter or drums
    instrument: str  # a name in INSTRUMENTS, or a drum kit's
    program: int  # General MIDI, 0-127; for drums the kit's number
    is_drums: bool
    level: float  # dB beside the lead
    pan: float  # -1 left to 1 right
    reverb: float  # send, 0 to 1
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Description:
    """What is true of a piece, in the project's own words; captions say it in many others."""

    genre: str
    mood: str
    bpm: int
    key: str  # "A minor", "Eb dorian"
    metre: str  # one of SIGNATURES
    instruments: tuple[str, ...]  # lead first; drums are not among them
    has_drums: bool
    energy: str  # low, medium or high

    @property
    def tempo(self) -> str:
        return tempo_class(self.bpm)

    @property
    def time(self) -> Metre:
        return Metre(beat_frames(self.bpm), self.metre)

    @property
    def lead(self) -> str:
        return self.instruments[0] if self.instruments else "drums"

    @property
    def is_solo(self) -> bool:
        return len(self.instruments) + self.has_drums == 1


@dataclass(frozen=True)
class Piece:
    """A whole composition. The same seed and length give the same piece."""

    seed: int
    seconds: float
    description: Description
    tracks: tuple[Track, ...]


def tempo_class(bpm: float) -> str:
    """slow, medium or fast."""
    if bpm < SLOW_BELOW_BPM:
        return "slow"
    return "fast" if bpm >= FAST_FROM_BPM else "medium"
