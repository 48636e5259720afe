"""The form of a piece: how many bars, which sections, which chord and which parts in each bar."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from studio.training.compose.plan import Plan
from studio.training.compose.theory import BRIGHT_MODES, Chord, chord

LAST_CHORD_S = 1.6  # at least this much remains for the last chord to ring
LONGEST_INTRO_S = 3.2  # lead and drums must be heard early: people generate eight seconds


@dataclass(frozen=True)
class Bar:
    """One bar: its section's letter, its place in the phrase, its chord and its duties."""

    index: int
    section: str  # "intro", "A", "A2", "B" or "end"
    place: int  # bar of the phrase
    phrase_bars: int
    chord: Chord
    fill: bool  # drums lead into the next section
    roles: frozenset[str]  # who plays


def lay_out(plan: Plan, seconds: float, rng: Random) -> list[Bar]:
    """Bars that fill `seconds`, the last of them the final chord."""
    count = max(1, int((seconds - LAST_CHORD_S) / plan.bar_s))
    phrase = 4 if plan.bar_s < 2.6 else 2
    chords = {label: _progression(plan, rng) for label in "AB"}
    intro = _intro_bars(plan, rng)
    bars = [_intro_bar(plan, index, chords["A"], rng) for index in range(intro)]
    labels = rng.choice(
        (("A", "A2", "B", "A2"), ("A", "B", "A2", "B"), ("A", "A2", "B", "B", "A2"), ("A", "A2", "A", "A2"))
    )
    while len(bars) < count:
        at = len(bars) - intro
        label = labels[(at // phrase) % len(labels)]
        bars.append(_bar(plan, len(bars), label, at, phrase, chords[label[0]], last=len(bars) == count - 1))
    if len(bars) > 1:
        bars[-1] = replace(bars[-1], chord=_dominant(plan))
    home = chord("1D" if plan.genre.name == "blues" else "1", plan.scale, plan.genre.sevenths)
    return [*bars, Bar(count, "end", 0, 1, home, False, _everyone(plan))]


def _everyone(plan: Plan) -> frozenset[str]:
    return frozenset(plan.cast) | ({"drums"} if plan.drums else set())


def _progression(plan: Plan, rng: Random) -> list[Chord]:
    bright = plan.scale.mode in BRIGHT_MODES
    choices = plan.genre.progressions if bright else plan.genre.minor_progressions
    tokens = rng.choice(choices).split()
    return [chord(token, plan.scale, plan.genre.sevenths) for token in tokens]


def _dominant(plan: Plan) -> Chord:
    """What leads home: the fifth degree, or in minor the seventh where the genre does not sharpen it."""
    sharpened = any("5M" in tokens for tokens in plan.genre.minor_progressions)
    token = "5" if plan.scale.mode in BRIGHT_MODES else "5M" if sharpened else "7"
    return chord("5D" if plan.genre.name == "blues" else token, plan.scale, plan.genre.sevenths)


def _intro_bars(plan: Plan, rng: Random) -> int:
    longest = min(2, int(LONGEST_INTRO_S / plan.bar_s))
    return rng.choice((0, longest)) if len(plan.cast) > 1 else 0


def _intro_bar(plan: Plan, index: int, chords: list[Chord], rng: Random) -> Bar:
    """The band without its lead."""
    return Bar(index, "intro", index, 2, chords[0], False, _everyone(plan) - {"lead"})


def _bar(plan: Plan, index: int, label: str, at: int, phrase: int, chords: list[Chord], last: bool) -> Bar:
    roles = _everyone(plan)
    if label == "A" and at < phrase and len(roles) > 3:
        roles -= {"pad", "counter"}
    ends = at % phrase == phrase - 1
    return Bar(index, label, at % phrase, phrase, chords[at % len(chords)], ends or last, roles)
