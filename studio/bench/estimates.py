"""How true the times are that people are told: what a job's estimate says, at each moment, against what came.

Jobs of several lengths come one by one, then many at once. Somebody looks at all of them a few times a second, as the
page does; when a job has ended it is known what each look should have said.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from studio.clip import Clip, Piece
from studio.engine.base import EngineLoader, Event, Finished, LoadProgress, Progress
from studio.runtime import Studio
from studio.schemas import GenerationRequest, JobStatus, JobView, utcnow
from studio.settings import Settings

ALONE_S = (8.0, 3.0, 16.0, 5.0, 12.0)  # seconds of audio, one after the other; the first is nobody's guess
CROWDS = 2  # times that many come at once
CROWD = 8  # jobs at once: more than there are slots
LOOK_S = 0.2  # between two looks
NEAR_S = 1.0  # a time left that is shorter than this is now: its relative error says nothing
PROMPTS = ("slow sad piano", "fast techno with drums", "calm strings", "funky bass and drums", "lo-fi hip hop beat")


@dataclass(frozen=True)
class Look:
    """What a job's estimate said."""

    kind: str  # "first", "alone" or "crowd"
    job_id: str
    at: datetime
    waits: bool
    said_s: float
    submitted: bool = False  # the answer to the request itself


@dataclass(frozen=True)
class Error:
    """How far off a look was."""

    look: Look
    left_s: float

    @property
    def relative(self) -> float:
        return abs(self.look.said_s - self.left_s) / self.left_s


def measure(
    data_dir: Path, load: EngineLoader | None = None, alone_s: Sequence[float] = ALONE_S, crowds: int = CROWDS
) -> dict[str, Any]:
    """Make the jobs in a studio of its own; the errors of all looks, relative to the time that was left.

    Args:
        load: makes the engine; the bundled model when absent.
        alone_s, crowds: seconds of audio made one after the other, and how many times many come at once.
    """
    with Studio(Settings(data_dir=data_dir, rate_limit_enabled=False), load) as studio:
        seen = _Looks(studio)
        for number, duration in enumerate(alone_s):
            seen.follow("alone" if number else "first", [_request(duration, number)])
        draw = random.Random(7)
        for _ in range(crowds):
            _all_at_once(studio, seen, draw)
        ends = {job_id: studio.job(job_id).completed_at for job_id in {look.job_id for look in seen.looks}}
    return _figures(_errors(seen.looks, ends))


def _all_at_once(studio: Studio, seen: _Looks, draw: random.Random) -> None:
    seen.follow("crowd", [_request(draw.uniform(2.0, 14.0), number) for number in range(CROWD)])


def _request(duration: float, number: int) -> GenerationRequest:
    return GenerationRequest(prompt=PROMPTS[number % len(PROMPTS)], duration=duration, seed=number)


class _Looks:
    """Looks at jobs until they have ended, and writes down what was said."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.looks: list[Look] = []

    def follow(self, kind: str, requests: list[GenerationRequest]) -> None:
        """Put the requests in, and look until the last one has ended."""
        open_ = [self._submit(kind, request) for request in requests]
        while open_:
            time.sleep(LOOK_S)
            now = utcnow()
            jobs = [change.job for change in self._studio.changes(open_)]
            self.looks += [look for job in jobs if (look := _look(kind, job, now))]
            failed = [job for job in jobs if job.status in (JobStatus.FAILED, JobStatus.CANCELLED)]
            assert not failed, failed[0].error_message
            open_ = [job.job_id for job in jobs if not job.status.ended]

    def _submit(self, kind: str, request: GenerationRequest) -> str:
        now = utcnow()
        said = self._studio.submit(request)
        self.looks.append(Look(kind, said.job_id, now, True, said.estimated_time_seconds or 0.0, submitted=True))
        return said.job_id


def _look(kind: str, job: JobView, now: datetime) -> Look | None:
    if job.estimated_time_seconds is None:
        return None
    return Look(kind, job.job_id, now, job.status is JobStatus.PENDING, job.estimated_time_seconds)


def _errors(looks: Iterable[Look], ends: dict[str, datetime | None]) -> list[Error]:
    found = []
    for look in looks:
        end = ends[look.job_id]
        assert end is not None
        left_s = (end - look.at).total_seconds()
        if left_s >= NEAR_S:
            found.append(Error(look, left_s))
    return found


def _figures(errors: list[Error]) -> dict[str, Any]:
    parts = {
        "first job": [error for error in errors if error.look.kind == "first"],
        "at submission": [error for error in errors if error.look.submitted and error.look.kind != "first"],
        "while it waits": [error for error in errors if error.look.waits and not error.look.submitted],
        "while it is made": [error for error in errors if not error.look.waits and error.look.kind != "first"],
        "all but the first job": [error for error in errors if error.look.kind != "first"],
    }
    return {name: _percentiles(part) for name, part in parts.items() if part}


def _percentiles(errors: list[Error]) -> dict[str, float]:
    relative = sorted(error.relative for error in errors)
    seconds = statistics.median(abs(error.look.said_s - error.left_s) for error in errors)
    return {
        "looks": len(relative),
        "p50": round(statistics.median(relative), 3),
        "p90": round(relative[min(len(relative) - 1, int(0.9 * len(relative)))], 3),
        "p50_s": round(seconds, 2),
        "bias": round(statistics.median(error.look.said_s / error.left_s for error in errors), 3),
    }


# An engine whose time is known


class PacedEngine:
    """Sleeps instead of decoding: 50 steps a second of audio, each longer by so much for each request in flight."""

    device = "cpu"
    precision = "fp32"
    slots = 4
    steps_per_second = 50
    step_s, request_s = 0.002, 0.001

    def __init__(self, model: str) -> None:
        self.model = model
        self._left: dict[str, tuple[int, GenerationRequest]] = {}

    @property
    def free_slots(self) -> int:
        return self.slots - len(self._left)

    def admit(self, key: str, request: GenerationRequest, opening: Piece | None = None) -> None:
        self._left[key] = (round(request.duration * self.steps_per_second), request)

    def step(self) -> list[Event]:
        time.sleep(self.step_s + self.request_s * len(self._left))
        return [event for key in list(self._left) for event in self._advance(key)]

    def _advance(self, key: str) -> list[Event]:
        left, request = self._left[key]
        self._left[key] = (left - 1, request)
        total = round(request.duration * self.steps_per_second)
        events: list[Event] = [Progress(key, total - left + 1, total)]
        if left == 1:
            del self._left[key]
            events.append(Finished(key, Clip(np.zeros((1, round(8000 * request.duration)), np.float32), 8000)))
        return events

    def evict(self, key: str) -> None:
        self._left.pop(key, None)

    def close(self) -> None:
        self._left.clear()


def load_paced(model: str, progress: LoadProgress) -> PacedEngine:
    """An `EngineLoader`."""
    time.sleep(1.0)
    return PacedEngine(model)
