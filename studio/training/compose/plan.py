"""What a piece will be before a note is written: genre, mood, key, tempo, metre and who plays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from studio.engine.metre import FRAME_S, Metre, beat_frames
from studio.training.compose.genres import ENERGIES, GENRES, MOODS, Genre
from studio.training.compose.instruments import INSTRUMENTS, Instrument
from studio.training.compose.patterns import DRUMS, DRUMS_OF_TWELVE
from studio.training.compose.theory import BRIGHT_MODES, Scale

ANY_LEAD_SHARE = 0.4  # of the leads are drawn from the whole orchestra, so that a model can tell genre from instrument
DRUMS_ONLY_SHARE = 0.05
ANY_COMP_SHARE = 0.15
COUNTER_SHARE = 0.18
DRUM_SHARE = 0.94  # of what the genres say: more music without drums teaches the difference
SOLOISTS_SHARE = 0.3  # of the solos are any polyphonic instrument's, not one of the genre's


@dataclass(frozen=True)
class Count:
    """How a bar is counted, in steps of a sixteenth."""

    beat: int
    parts: tuple[int, ...]  # a pattern begins anew in each


# A beat of 6/8 is its dotted quarter. What follows the signature tells the ways to count it apart.
METRES = {
    "4/4": Count(4, (16,)),
    "3/4": Count(4, (12,)),
    "6/8": Count(6, (12,)),
    "5/4": Count(4, (12, 8)),
    "7/8 2+2+3": Count(4, (8, 6)),
    "7/8 3+2+2": Count(4, (6, 8)),
}


@dataclass(frozen=True)
class Plan:
    """The choices that all parts share."""

    genre: Genre
    mood: str
    scale: Scale
    bpm: int
    metre: str  # one of METRES
    energy: int
    swing: float
    cast: dict[str, Instrument]  # by role
    drums: str  # a pattern's name, empty for none
    kit: str

    @property
    def signature(self) -> str:
        return self.metre.split()[0]

    @property
    def parts(self) -> tuple[int, ...]:
        """Steps of each part of the bar."""
        return METRES[self.metre].parts

    @property
    def bar_steps(self) -> int:
        return sum(self.parts)

    @property
    def beat_steps(self) -> int:
        return METRES[self.metre].beat

    @property
    def beats(self) -> tuple[int, ...]:
        """The steps on which a beat begins."""
        return tuple(step for step in range(self.bar_steps) if self.place(step) % self.beat_steps == 0)

    @property
    def middle(self) -> int:
        """The step on which the second half begins."""
        return self.parts[0] if len(self.parts) > 1 else self.bar_steps // 2

    def place(self, step: int) -> int:
        """A step's place in its part of the bar."""
        return step if step < self.parts[0] else step - self.parts[0]

    @property
    def step_s(self) -> float:
        return beat_frames(self.bpm) * FRAME_S / self.beat_steps

    @property
    def bar_frames(self) -> int:
        return Metre(beat_frames(self.bpm), self.signature).bar

    @property
    def bar_s(self) -> float:
        return self.step_s * self.bar_steps

    @property
    def drum_lanes(self) -> dict[str, str]:
        return DRUMS_OF_TWELVE.get(self.metre, DRUMS)[self.drums]

    @property
    def velocity(self) -> int:
        return 72 + 12 * self.energy + MOODS[self.mood].velocity


def make_plan(rng: Random) -> Plan:
    """Draw a plan; every choice is weighted so that the result suits the genre."""
    genre = rng.choice(list(GENRES.values()))
    mood = rng.choice(genre.moods)
    metre = rng.choice(genre.metres)
    energy = min(2, max(0, genre.energy + MOODS[mood].energy))
    cast, drummed = _cast(genre, rng)
    kit = rng.choice(genre.kits)
    patterns = tuple(DRUMS_OF_TWELVE.get(metre, genre.drums))
    return Plan(
        genre=genre,
        mood=mood,
        scale=Scale(rng.randrange(12), _mode(genre, mood, rng)),
        bpm=_bpm(genre, mood, metre, rng),
        metre=metre,
        energy=energy,
        swing=rng.uniform(*genre.swing),
        cast=cast,
        drums=rng.choice(patterns) if drummed else "",
        kit=kit if drummed else "",
    )


def energy_name(plan: Plan) -> str:
    return ENERGIES[plan.energy]


def _mode(genre: Genre, mood: str, rng: Random) -> str:
    bright = rng.random() < MOODS[mood].major
    modes = genre.modes or ("major", "minor")
    suited = [mode for mode in modes if (mode in BRIGHT_MODES) == bright]
    return rng.choice(suited or modes)


def _bpm(genre: Genre, mood: str, metre: str, rng: Random) -> int:
    """Triangular over the genre's range, its peak where the mood pulls; 6/8 counts dotted quarters, so fewer.

    A beat is a whole number of the codec's frames: what music repeats, its codes repeat, and a small model can learn a
    beat. The tempi that this allows are 3 to 12 % apart.
    """
    low, high = genre.bpm
    bpm = rng.triangular(low, high, low + MOODS[mood].tempo * (high - low))
    wanted = max(55.0, bpm * 0.8) if metre == "6/8" else bpm
    return round(60 / FRAME_S / beat_frames(wanted))


def _cast(genre: Genre, rng: Random) -> tuple[dict[str, Instrument], bool]:
    """Who plays which role, and whether there are drums."""
    shape = rng.random()
    if genre.drums and genre.drum_share > 0.5 and shape < DRUMS_ONLY_SHARE:
        return {}, True
    if shape > 1 - genre.solo_share:
        return _solo(genre, rng), False
    return _band(genre, rng), bool(genre.drums) and rng.random() < genre.drum_share * DRUM_SHARE


def _solo(genre: Genre, rng: Random) -> dict[str, Instrument]:
    own = [INSTRUMENTS[name] for name in genre.leads + genre.comps if INSTRUMENTS[name].polyphonic]
    pick = _weighted(_polyphonic(), rng) if rng.random() < SOLOISTS_SHARE or not own else rng.choice(own)
    return {"lead": pick, "comp": pick}


def _band(genre: Genre, rng: Random) -> dict[str, Instrument]:
    anyone = rng.random() < ANY_LEAD_SHARE
    lead = _weighted(list(INSTRUMENTS.values()), rng) if anyone else _named(genre.leads, rng)
    cast = {"lead": lead}
    if rng.random() < 0.88:
        anyone = rng.random() < ANY_COMP_SHARE
        cast["comp"] = _weighted(_polyphonic(), rng) if anyone else _other(genre.comps, lead, rng)
    if rng.random() < 0.8 or len(cast) == 1:
        cast["bass"] = _other(genre.basses, lead, rng)
    if rng.random() < genre.pad_share:
        cast["pad"] = _other(genre.pads, lead, rng)
    elif rng.random() < COUNTER_SHARE:
        cast["counter"] = _other(genre.leads, lead, rng)
    return cast


def _polyphonic() -> list[Instrument]:
    return [instrument for instrument in INSTRUMENTS.values() if instrument.polyphonic and instrument.weight >= 1]


def _weighted(instruments: list[Instrument], rng: Random) -> Instrument:
    return rng.choices(instruments, [i.weight for i in instruments])[0]


def _named(names: Sequence[str], rng: Random) -> Instrument:
    return INSTRUMENTS[rng.choice(names)]


def _other(names: Sequence[str], lead: Instrument, rng: Random) -> Instrument:
    """One of the names, rather not the lead's own."""
    return _named([name for name in names if name != lead.name] or names, rng)
