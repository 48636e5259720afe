"""Scales, chords and voicings, as pitch classes and MIDI pitches. Knows nothing of genres or time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEYS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")

MODES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
}
BRIGHT_MODES = ("major", "mixolydian", "lydian")


@dataclass(frozen=True)
class Scale:
    """A tonic (0-11) and a mode."""

    tonic: int
    mode: str

    @property
    def name(self) -> str:
        return f"{KEYS[self.tonic]} {self.mode}"

    @property
    def pitch_classes(self) -> frozenset[int]:
        return frozenset((self.tonic + step) % 12 for step in MODES[self.mode])

    def degree(self, index: int) -> int:
        """Semitones above the tonic's lowest octave of scale degree `index` (0 is the tonic, 7 its octave)."""
        octave, step = divmod(index, 7)
        return self.tonic + 12 * octave + MODES[self.mode][step]

    def nearest_index(self, pitch: float) -> int:
        """The scale degree index whose pitch lies nearest."""
        return min(range(75), key=lambda index: abs(self.degree(index) - pitch))


@dataclass(frozen=True)
class Chord:
    """Pitch classes, root first: third, fifth and sometimes the seventh follow."""

    pitch_classes: tuple[int, ...]

    @property
    def root(self) -> int:
        return self.pitch_classes[0]

    @property
    def fifth(self) -> int:
        return self.pitch_classes[2]


def chord(token: str, scale: Scale, seventh: bool) -> Chord:
    """Read "1" to "7" as the diatonic chord on that degree; "M" raises its third, "D" makes it a dominant seventh."""
    degree = int(token[0]) - 1
    tones = [scale.degree(degree + 2 * k) % 12 for k in range(4 if seventh else 3)]
    root = tones[0]
    if token.endswith("M"):
        tones[1:3] = [(root + 4) % 12, (root + 7) % 12]
    if token.endswith("D"):
        tones = [root, (root + 4) % 12, (root + 7) % 12, (root + 10) % 12]
    return Chord(tuple(tones))


def nearest(pitch_class: int, centre: float) -> int:
    """The MIDI pitch of that class within six semitones of `centre`."""
    low = int(centre) - 6
    return low + (pitch_class - low) % 12


def voicing(pitch_classes: Sequence[int], centre: float) -> list[int]:
    """All tones within an octave about `centre`, low to high: neighbouring chords then move by small steps."""
    return sorted({nearest(pitch_class, centre) for pitch_class in pitch_classes})
