"""What each player does in each bar, as events in steps; a role's function writes all of its bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from studio.training.compose.form import Bar
from studio.training.compose.instruments import Instrument
from studio.training.compose.patterns import (
    BASS,
    BASS_OF_TWELVE,
    CHORDS,
    CHORDS_OF_TWELVE,
    DRUM_KEYS,
    LEADS,
    SOLO,
    hits,
    tile,
)
from studio.training.compose.plan import Plan
from studio.training.compose.theory import Chord, nearest, voicing


@dataclass(frozen=True)
class Event:
    """A note to be: start and length in steps from the piece's start, before swing and humanising."""

    step: float
    length: float
    pitch: int
    accent: int  # added to the velocity


# --- bass ---


def bass(plan: Plan, bars: Sequence[Bar], rng: Random) -> list[Event]:
    """Roots, fifths and octaves in the genre's rhythm; jazz walks."""
    instrument = plan.cast["bass"]
    name = rng.choice(plan.genre.bass_patterns)
    if plan.metre in BASS_OF_TWELVE and name != "walking":
        name = rng.choice(BASS_OF_TWELVE[plan.metre])
    events: list[Event] = []
    for bar, following in zip(bars, [*bars[1:], bars[-1]], strict=True):
        if "bass" not in bar.roles:
            continue
        if bar.section == "end":
            events.append(Event(bar.index * plan.bar_steps, plan.bar_steps, _bass_pitch(bar.chord.root, instrument), 6))
        elif name == "walking":
            events += _walk(plan, bar, following, instrument)
        else:
            events += _bass_bar(plan, bar, BASS.get(name, name), instrument)
    return events


def _bass_pitch(pitch_class: int, instrument: Instrument) -> int:
    return nearest(pitch_class, instrument.low + 9)


def _bass_bar(plan: Plan, bar: Bar, pattern: str, instrument: Instrument) -> Iterable[Event]:
    root = _bass_pitch(bar.chord.root, instrument)
    third, fifth = ((pitch_class - root) % 12 for pitch_class in bar.chord.pitch_classes[1:3])
    sixth = 9 if third == 4 else 8
    above = {"1": 0, "3": third, "5": fifth, "6": sixth, "7": -2, "8": 12}
    for step, length, symbol in hits(tile(pattern, plan.parts)):
        yield Event(bar.index * plan.bar_steps + step, length, root + above[symbol], 6 if step == 0 else 0)


def _walk(plan: Plan, bar: Bar, following: Bar, instrument: Instrument) -> Iterable[Event]:
    """Root, third, fifth, of five beats the third again, then a semitone below the next root."""
    root = _bass_pitch(bar.chord.root, instrument)
    target = _bass_pitch(following.chord.root, instrument)
    tones = [root + (pitch_class - root) % 12 for pitch_class in bar.chord.pitch_classes[:3]]
    line = tones if target >= root else [root, tones[2] - 12, tones[1] - 12]
    line = [*line, line[1]][: len(plan.beats) - 1]
    approach = target - 1 if target != root else root + (bar.chord.fifth - root) % 12
    ends = (*plan.beats[1:], plan.bar_steps)
    for beat, end, pitch in zip(plan.beats, ends, [*line, approach], strict=True):
        yield Event(bar.index * plan.bar_steps + beat, end - beat, pitch, 0)


# --- chords ---


def comp(plan: Plan, bars: Sequence[Bar], rng: Random) -> list[Event]:
    """The accompaniment; a soloist's lies an octave under the melody."""
    instrument = plan.cast["comp"]
    solo = plan.cast["lead"] is instrument
    choices = SOLO.get(plan.metre, SOLO["4/4"]) if solo else _comp_patterns(plan)
    first, second = rng.choice(choices), rng.choice(choices)
    centre = max(instrument.low + 7.0, min(60.0, instrument.centre) - (8 if solo else 0))
    events: list[Event] = []
    for bar in bars:
        if "comp" in bar.roles:
            pattern = tile(second if bar.section == "B" else first, plan.parts)
            if bar.section == "end":
                pattern = "x" + "-" * (plan.bar_steps - 1)
            events += _chord_bar(plan, bar, pattern, _tones(bar.chord, instrument, centre))
    return events


def _comp_patterns(plan: Plan) -> Sequence[str]:
    own = tuple(CHORDS[name] for name in plan.genre.comp_patterns)
    return CHORDS_OF_TWELVE.get(plan.metre, own)


def _tones(chord: Chord, instrument: Instrument, centre: float) -> list[int]:
    """A power chord for the loud guitars, else a close voicing."""
    if instrument.name in ("distorted guitar", "overdriven guitar"):
        root = nearest(chord.root, 45)
        return [root, root + 7, root + 12]
    if instrument.name in ("acoustic guitar", "classical guitar"):
        return sorted({nearest(chord.root, 46), *voicing(chord.pitch_classes, 57)})
    return voicing(chord.pitch_classes, centre)


def _chord_bar(plan: Plan, bar: Bar, pattern: str, tones: list[int]) -> Iterable[Event]:
    for step, length, symbol in hits(pattern):
        at = bar.index * plan.bar_steps + step
        accent = 4 if plan.place(step) % (2 * plan.beat_steps) == 0 else -2
        if symbol == "x":
            for order, pitch in enumerate(tones):
                yield Event(at + 0.04 * order, length, pitch, accent)
        else:
            yield Event(at, length, _tone(symbol, bar.chord, tones), accent)


def _tone(symbol: str, chord: Chord, tones: list[int]) -> int:
    if symbol == "r":
        return nearest(chord.root, tones[0] - 9)
    octave, tone = divmod(int(symbol), len(tones))
    return tones[tone] + 12 * octave


def pad(plan: Plan, bars: Sequence[Bar], rng: Random) -> list[Event]:
    """Held chords."""
    instrument = plan.cast["pad"]
    centre = min(64.0, instrument.centre) + rng.choice((-3, 0, 3))
    return [
        Event(bar.index * plan.bar_steps, plan.bar_steps, pitch, -8)
        for bar in bars
        if "pad" in bar.roles
        for pitch in voicing(bar.chord.pitch_classes, centre)
    ]


# --- melody ---


@dataclass(frozen=True)
class Motif:
    """A bar of melody without its harmony: rhythm, and scale steps from the anchor."""

    rhythm: tuple[tuple[int, int], ...]  # (step, length)
    contour: tuple[int, ...]


def lead(plan: Plan, bars: Sequence[Bar], rng: Random) -> list[Event]:
    """A phrase is a question and an answer: motif, reply, motif, cadence; it returns varied, and B has its own."""
    density = _density(plan, rng)
    themes = {label: _theme(plan, density, rng) for label in "AB"}
    instrument = plan.cast["lead"]
    lift = {"A": 0.0, "B": rng.choice((0.0, 2.0, 4.0))}
    events: list[Event] = []
    for bar in bars:
        if "lead" not in bar.roles:
            continue
        if bar.section == "end":
            before = events[-1].pitch if events else instrument.centre
            pitch = _fold(nearest(bar.chord.root, before), instrument)
            events.append(Event(bar.index * plan.bar_steps, plan.bar_steps, pitch, 4))
            continue
        label = bar.section[0]
        motif = themes[label][_theme_place(bar)]
        if bar.section == "A2" and bar.place % 2 == 1:
            motif = _vary(motif, rng)
        events += _melody_bar(plan, bar, motif, instrument.centre + lift[label], instrument)
    return events


def _density(plan: Plan, rng: Random) -> str:
    density = rng.choice(plan.genre.lead_density)
    if plan.bpm >= 140 and density == "busy":
        return "medium"
    return density


def _theme(plan: Plan, density: str, rng: Random) -> tuple[Motif, Motif, Motif]:
    """Motif, reply and cadence."""
    rhythms = LEADS.get(plan.metre, LEADS["4/4"])
    first, second = rng.choice(rhythms[density]), rng.choice(rhythms[density])
    cadence = rhythms["sparse"][0]
    first, second, cadence = (tile(rhythm, plan.parts) for rhythm in (first, second, cadence))
    return _motif(first, rng), _motif(second, rng), _motif(cadence, rng)


def _theme_place(bar: Bar) -> int:
    if bar.place == bar.phrase_bars - 1:
        return 2 if bar.phrase_bars == 4 else 1
    return bar.place % 2


def _motif(rhythm: str, rng: Random) -> Motif:
    notes = tuple((step, length) for step, length, _ in hits(rhythm))
    contour = [0]
    direction = rng.choice((-1, 1))
    for _ in notes[1:]:
        if rng.random() < 0.3 or abs(contour[-1]) >= 4:
            direction = -1 if contour[-1] > 0 else 1
        contour.append(contour[-1] + direction * rng.choice((1, 1, 1, 2, 0)))
    return Motif(notes, tuple(contour))


def _vary(motif: Motif, rng: Random) -> Motif:
    """The same rhythm with another ending."""
    change = rng.choice((-2, -1, 1, 2))
    half = len(motif.contour) // 2 or 1
    return Motif(motif.rhythm, (*motif.contour[:half], *(step + change for step in motif.contour[half:])))


def _melody_bar(plan: Plan, bar: Bar, motif: Motif, centre: float, instrument: Instrument) -> Iterable[Event]:
    """Anchor the motif on the chord tone nearest the centre; strong beats and long notes take chord tones."""
    anchor = min((nearest(tone, centre) for tone in bar.chord.pitch_classes[:3]), key=lambda p: abs(p - centre))
    index = plan.scale.nearest_index(anchor)
    for (step, length), offset in zip(motif.rhythm, motif.contour, strict=True):
        pitch = plan.scale.degree(index + offset)
        if plan.place(step) % (2 * plan.beat_steps) == 0 or length >= plan.beat_steps:
            pitch = min((nearest(tone, pitch) for tone in bar.chord.pitch_classes), key=lambda p: abs(p - pitch))
        accent = 6 if step in plan.beats else 0
        yield Event(bar.index * plan.bar_steps + step, length, _fold(pitch, instrument), accent)


def _fold(pitch: int, instrument: Instrument) -> int:
    """Into the instrument's range by octaves."""
    while pitch > instrument.high:
        pitch -= 12
    while pitch < instrument.low:
        pitch += 12
    return pitch


def counter(plan: Plan, bars: Sequence[Bar], rng: Random) -> list[Event]:
    """A second voice under the melody: one or two long chord tones a bar, moving as little as it can."""
    instrument = plan.cast["counter"]
    pitch = _fold(round(min(instrument.centre, plan.cast["lead"].centre - 5)), instrument)
    starts = rng.choice(((0,), (0, plan.middle)))
    events: list[Event] = []
    for bar in bars:
        if "counter" not in bar.roles:
            continue
        for start, end in pairwise((0, plan.bar_steps) if bar.section == "end" else (*starts, plan.bar_steps)):
            tones = bar.chord.pitch_classes[1:] if start == 0 else bar.chord.pitch_classes[:2]
            pitch = _fold(min((nearest(tone, pitch) for tone in tones), key=lambda p: abs(p - pitch)), instrument)
            events.append(Event(bar.index * plan.bar_steps + start, end - start, pitch, -4))
    return events


# --- drums ---

_ACCENTS = {"X": 14, "x": 2, "o": -26}


def drums(plan: Plan, bars: Sequence[Bar], rng: Random) -> list[Event]:
    """The groove, a crash where a section begins, a fill where it ends."""
    lanes = plan.drum_lanes
    other = {"hat": "ride"} if rng.random() < 0.4 else {}  # what section B plays instead
    fill = rng.choice(("snare", "toms", "toms", "none"))
    crashes = plan.energy > 0 and "snare" in lanes
    events: list[Event] = []
    for bar in bars:
        if bar.section == "end":
            events += _last_hit(plan, bar, lanes)
            continue
        until = plan.bar_steps - plan.beat_steps if bar.fill and fill != "none" else plan.bar_steps
        played = {other.get(lane, lane) if bar.section == "B" else lane: pattern for lane, pattern in lanes.items()}
        events += _groove_bar(plan, bar, played, until)
        if until < plan.bar_steps:
            events += _fill(plan, bar, fill, until)
        if crashes and bar.place == 0 and bar.section != "intro":
            events.append(Event(bar.index * plan.bar_steps, 8, DRUM_KEYS["crash"], -6))
    return events


def _groove_bar(plan: Plan, bar: Bar, lanes: dict[str, str], until: int) -> Iterable[Event]:
    for lane, pattern in lanes.items():
        for step, symbol in enumerate(tile(pattern, plan.parts)[:until]):
            if symbol in _ACCENTS:
                yield Event(bar.index * plan.bar_steps + step, 1, DRUM_KEYS[lane], _ACCENTS[symbol])


def _fill(plan: Plan, bar: Bar, kind: str, start: int) -> Iterable[Event]:
    toms = ("snare", "tom high", "tom", "tom low")
    stride = 1 if plan.bpm < 110 else 2
    steps = list(range(start, plan.bar_steps, stride))
    for order, step in enumerate(steps):
        lane = "snare" if kind == "snare" else toms[order * len(toms) // len(steps)]
        yield Event(bar.index * plan.bar_steps + step, 1, DRUM_KEYS[lane], 4 * order - 8)


def _last_hit(plan: Plan, bar: Bar, lanes: dict[str, str]) -> Iterable[Event]:
    for lane in ("kick", "crash") if plan.energy > 0 else (next(iter(lanes)),):
        yield Event(bar.index * plan.bar_steps, 8, DRUM_KEYS[lane], 4)
