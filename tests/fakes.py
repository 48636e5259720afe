"""A small real engine: sine waves instead of music, no torch, the same slots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studio.clip import Clip, Piece
from studio.engine.base import Chunk, Event, Failed, Finished, LoadProgress, Progress
from studio.errors import ModelNotFound
from studio.schemas import GenerationRequest

SAMPLE_RATE = 8000
STEPS_PER_SECOND = 10


@dataclass
class _Slot:
    request: GenerationRequest
    opening: Piece | None
    done: int = 0

    @property
    def total(self) -> int:
        return max(1, round(self.request.duration * STEPS_PER_SECOND))


class SineEngine:
    """Decodes ten steps a second of audio, each a chunk; the seed is the pitch. A prompt with "explode" fails at its
    second step."""

    device = "cpu"
    precision = "fp32"

    def __init__(self, model: str = "musicgen-mini", slots: int = 2, step_s: float = 0.0) -> None:
        self.model = model
        self.slots = slots
        self.closed = False
        self._step_s = step_s
        self._in_flight: dict[str, _Slot] = {}

    @property
    def free_slots(self) -> int:
        return self.slots - len(self._in_flight)

    def admit(self, key: str, request: GenerationRequest, opening: Piece | None = None) -> None:
        assert self.free_slots and key not in self._in_flight
        assert request.seed is not None
        self._in_flight[key] = _Slot(request, opening)

    def step(self) -> list[Event]:
        if self._in_flight and self._step_s:
            import time

            time.sleep(self._step_s)
        return [event for key in list(self._in_flight) for event in self._advance(key)]

    def _advance(self, key: str) -> list[Event]:
        slot = self._in_flight[key]
        slot.done += 1
        if "explode" in slot.request.prompt and slot.done == 2:
            del self._in_flight[key]
            return [Failed(key, RuntimeError("the engine exploded"))]
        clip = sine(slot.request, slot.opening)
        events: list[Event] = [Progress(key, slot.done, slot.total), Chunk(key, part(clip, slot.done, slot.total))]
        if slot.done == slot.total:
            del self._in_flight[key]
            events.append(Finished(key, clip, np.arange(8).reshape(2, 4), {"bpm": 120.0}))
        return events

    def evict(self, key: str) -> None:
        self._in_flight.pop(key, None)

    def close(self) -> None:
        self.closed = True


def sine(request: GenerationRequest, opening: Piece | None = None) -> Clip:
    """A mono sine of the request's duration; the seed gives the pitch. It begins with what is kept of the opening."""
    assert request.seed is not None
    time = np.arange(round(request.duration * SAMPLE_RATE)) / SAMPLE_RATE
    wave = 0.5 * np.sin(2 * np.pi * (220 + request.seed % 220) * time)
    if opening:
        kept = opening.clip.samples[0, : round((request.continue_seconds or 0.0) * SAMPLE_RATE)]
        wave[: len(kept)] = kept
    return Clip(wave.astype(np.float32)[None], SAMPLE_RATE)


def part(clip: Clip, number: int, of: int) -> Clip:
    """One of so many parts of a clip; numbers count from 1."""
    length = clip.samples.shape[1]
    return Clip(clip.samples[:, length * (number - 1) // of : length * number // of], clip.sample_rate)


def load_sine(model: str, progress: LoadProgress) -> SineEngine:
    """An `EngineLoader`: knows the bundled model's name and one more."""
    if model not in ("musicgen-mini", "musicgen-small"):
        raise ModelNotFound(f"There is no model {model!r}.")
    progress(1.0, "ready")
    return SineEngine(model)
