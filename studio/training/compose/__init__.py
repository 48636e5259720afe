"""A procedural composer: a seed becomes a piece of music with a form, and a true description of it.

    piece = compose(seed=7)

Plans come from `plan`, bars from `form`, notes from `parts`; here steps become seconds, and players human.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from studio.engine.metre import FRAME_S
from studio.training.compose.form import Bar, lay_out
from studio.training.compose.instruments import INSTRUMENTS, KITS
from studio.training.compose.parts import Event, bass, comp, counter, drums, lead, pad
from studio.training.compose.piece import Description, Note, Piece, Track, tempo_class
from studio.training.compose.plan import Plan, energy_name, make_plan

__all__ = ["INSTRUMENTS", "KITS", "Description", "Note", "Piece", "Track", "compose", "describe", "tempo_class"]

PIECE_S = 30.0
RELEASE_S = 0.25  # before the end of the piece all keys are up

PARTS: dict[str, Callable[[Plan, Sequence[Bar], Random], list[Event]]] = {
    "lead": lead, "comp": comp, "bass": bass, "pad": pad, "counter": counter, "drums": drums,
}  # fmt: skip
LEVELS_DB = {"lead": 0.0, "comp": -5.0, "bass": -4.5, "pad": -9.0, "counter": -6.0, "drums": -1.0}
PANS = {"lead": 0.0, "comp": -0.3, "bass": 0.0, "pad": 0.35, "counter": 0.25, "drums": 0.0}
REVERBS = {"lead": 1.0, "comp": 0.8, "bass": 0.15, "pad": 1.0, "counter": 1.0, "drums": 0.4}


def compose(seed: int, seconds: float = PIECE_S) -> Piece:
    """The piece of this seed, `seconds` long, its last chord included."""
    rng = Random(seed)
    plan = make_plan(rng)
    bars = lay_out(plan, seconds, rng)
    roles = [*plan.cast, *(["drums"] if plan.drums else [])]
    tracks = tuple(_track(plan, bars, role, seconds, rng) for role in roles)
    return Piece(seed, seconds, _describe(plan), tracks)


def describe(seed: int) -> Description:
    """What `compose` would write, in a hundredth of the time."""
    return _describe(make_plan(Random(seed)))


def _describe(plan: Plan) -> Description:
    order = [plan.cast[role].name for role in ("lead", "comp", "counter", "pad", "bass") if role in plan.cast]
    return Description(
        genre=plan.genre.name,
        mood=plan.mood,
        bpm=plan.bpm,
        key=plan.scale.name,
        metre=plan.signature,
        instruments=tuple(dict.fromkeys(order)),
        has_drums=bool(plan.drums),
        energy=energy_name(plan),
    )


def _track(plan: Plan, bars: Sequence[Bar], role: str, seconds: float, rng: Random) -> Track:
    events = PARTS[role](plan, bars, rng)
    is_drums = role == "drums"
    return Track(
        role=role,
        instrument=plan.kit if is_drums else plan.cast[role].name,
        program=KITS[plan.kit] if is_drums else plan.cast[role].program,
        is_drums=is_drums,
        level=LEVELS_DB[role] + rng.uniform(-1.5, 1.5),
        pan=PANS[role],
        reverb=REVERBS[role] * plan.genre.reverb,
        notes=_perform(plan, events, seconds, rng),
    )


@dataclass(frozen=True)
class Feel:
    """How a player departs from the score at one place of the bar, and again there in every bar."""

    late: int  # frames
    velocity: float


def _perform(plan: Plan, events: Sequence[Event], seconds: float, rng: Random) -> tuple[Note, ...]:
    """Steps to seconds, with swing, a player's feel, and dynamics that rise through each phrase."""
    places = sorted({event.step % plan.bar_steps for event in events})
    feel = {place: _feel(plan, rng) for place in places}
    notes = [_note(plan, event, feel[event.step % plan.bar_steps], seconds) for event in events]
    return tuple(sorted((note for note in notes if note.duration > 0), key=lambda note: (note.start, note.pitch)))


def _feel(plan: Plan, rng: Random) -> Feel:
    late = rng.gauss(0.0, plan.genre.jitter_s) / FRAME_S
    return Feel(max(-1, min(1, round(late))), rng.gauss(0.0, 2.5))


def _note(plan: Plan, event: Event, feel: Feel, seconds: float) -> Note:
    bar, step = divmod(event.step, plan.bar_steps)
    frame = int(bar) * plan.bar_frames + round(_swung(plan, step) * plan.step_s / FRAME_S) + feel.late
    start = max(0, frame) * FRAME_S
    last = seconds - RELEASE_S
    held = event.length * plan.step_s * 0.94
    end = min(start + held, last)
    phrase = 4 * plan.bar_steps
    swell = 5.0 * (event.step % phrase) / phrase - 2.5
    velocity = round(plan.velocity + event.accent + swell + feel.velocity)
    return Note(start, end - start, event.pitch, max(20, min(124, velocity)))


def _swung(plan: Plan, step: float) -> float:
    """Move the middle of each pair of eighths (or sixteenths) to where the swing has it."""
    pair = 2 * plan.genre.swing_steps
    whole, within = divmod(step, pair)
    half = pair / 2
    warped = within * plan.swing * 2 if within < half else pair * plan.swing + (within - half) * (1 - plan.swing) * 2
    return whole * pair + warped
