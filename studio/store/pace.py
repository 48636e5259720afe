"""How long jobs take: a pace learned from finished ones, and a simulation of what is still to be made.

A model's slots are decoded together, and each request slows the others down: by how much is part of the pace. Knows no
tables.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from studio.schemas import PROGRESS_DECODED, PROGRESS_LOADED

CROWDING = 0.5  # until jobs that were made together have shown it: a CPU has about 1, a GPU next to none
CROWDING_WEIGHT, PER_JOB_WEIGHT = 0.05, 0.5  # of what is supposed, against one finished job
FADE = 0.96  # a job counts so much less than the one that finished after it: machines are not always equally busy
ROUNDS = 10  # of reweighting
EXACT = 0.01  # relative errors below this count alike
DONE_S = 1e-9

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pace:
    """How long a job takes that is made alone, and how much longer in company."""

    per_second: float  # seconds for each second of audio
    per_job: float  # seconds
    crowding: float = CROWDING  # the share by which each further request slows all of them down

    def seconds(self, duration: float, jobs: int = 1) -> float:
        """Of work: what the jobs would take one by one, each alone."""
        return self.per_job * jobs + self.per_second * duration

    def slowdown(self, together: float) -> float:
        """How many times longer jobs take when so many are decoded together."""
        return 1.0 + self.crowding * (max(1.0, together) - 1.0)


@dataclass(frozen=True)
class Made:
    """A finished job."""

    duration: float  # seconds of audio
    seconds: float  # that it took
    together: float  # requests decoded with it, itself included; the mean of its steps


@dataclass(frozen=True)
class Part:
    """What is left of a job."""

    job_id: str
    model: str
    seconds: float  # of work
    after: frozenset[str] = frozenset()  # jobs that must have ended before it starts


GUESSED_PACE = Pace(per_second=1.0, per_job=0.0)  # real time, until a first job has finished
GUESSED_LOAD_S = 5.0  # until a model has been loaded for the first time


def share_left(progress: float) -> float:
    """How much of a job's work is still to do: it is done while it generates."""
    return min(1.0, max(0.0, (PROGRESS_DECODED - progress) / (PROGRESS_DECODED - PROGRESS_LOADED)))


@lru_cache(maxsize=64)
def learn(made: tuple[Made, ...]) -> Pace | None:
    """The pace that fits jobs, the newest first:
    seconds = per_job + per_second · duration · (1 + crowding · (together − 1)).

    The sum of absolute relative errors is least, so that one slow job changes little; by iteratively reweighted least
    squares. What the jobs do not tell (they were all of one length, or all alone) is supposed.
    """
    if not made:
        return None
    usual_s = statistics.median(job.seconds / job.duration for job in made)
    solution = np.array([usual_s, CROWDING * usual_s, 0.0])
    for _ in range(ROUNDS):
        solution = _reweighted(made, solution)
    per_second, crowding_s, per_job = map(float, solution)
    return Pace(per_second, per_job, crowding_s / per_second if per_second > 0 else CROWDING)


def _reweighted(made: Sequence[Made], last: Array) -> Array:
    """One round: the better solution, from the errors of the last one."""
    duration, seconds, together = np.array([(job.duration, job.seconds, job.together) for job in made]).T  # [jobs]
    factors = np.stack([duration, duration * (together - 1.0), np.ones_like(duration)], axis=1)  # [jobs, unknowns]
    error = np.maximum(np.abs(factors @ last - seconds), EXACT * seconds)
    typical, typical_s = float(np.median(duration)), float(np.median(seconds))
    supposed = [[-CROWDING * typical, typical, 0.0], [0.0, 0.0, 1.0]]  # = 0
    return _least_squares(
        np.concatenate([factors, supposed]),
        np.concatenate([seconds, [0.0, 0.0]]),
        np.concatenate(
            [
                FADE ** np.arange(len(made)) / (seconds * error),
                np.array([CROWDING_WEIGHT, PER_JOB_WEIGHT]) / typical_s**2,
            ]
        ),
    )


def _least_squares(factors: Array, results: Array, weights: Array) -> Array:
    """The unknowns, none below zero: the one that would be is zero, as long as there is one."""
    unknowns = list(range(factors.shape[1]))
    while True:
        some = factors[:, unknowns]
        found = np.linalg.solve((some.T * weights) @ some, (some.T * weights) @ results)
        if (found >= 0.0).all() or len(unknowns) == 1:
            break
        del unknowns[int(np.argmin(found))]
    solution = np.zeros(factors.shape[1])
    solution[unknowns] = np.maximum(found, 0.0)
    return solution


@dataclass(frozen=True)
class Schedule:
    """When jobs start and end, in seconds from now."""

    starts: dict[str, float]
    ends: dict[str, float]

    def stretched(self, factor: float) -> Schedule:
        """The same, so many times slower."""
        starts = {job_id: seconds * factor for job_id, seconds in self.starts.items()}
        return Schedule(starts, {job_id: seconds * factor for job_id, seconds in self.ends.items()})

    @property
    def all_started(self) -> float:
        return max(self.starts.values(), default=0.0)


@dataclass(frozen=True)
class Capacity:
    """Who makes the jobs."""

    slots: int  # jobs made at once, by all workers together
    workers: int
    loaded: frozenset[str]  # models that are there
    load_s: Callable[[str], float]  # seconds that one takes which is not
    busy_s: float = 0.0  # until the model is there that is being loaded


def simulate(
    running: Collection[Part], waiting: Collection[Part], capacity: Capacity, pace: Callable[[str], Pace]
) -> Schedule:
    """Make the jobs in thought: those that run, then the waiting ones in their order as slots become free.

    One worker makes jobs of one model at a time: those of another start when all before them have ended, and take the
    time to load it. A job that comes after others lets those behind it go first.
    """
    starts, ends = {}, {}
    left = {part.job_id: (part.model, part.seconds) for part in running}
    queue = list(waiting)
    unfinished = {part.job_id for part in (*running, *waiting)}
    loaded, now = set(capacity.loaded), capacity.busy_s
    while left or queue:
        while len(left) < capacity.slots and (part := _next(queue, left, unfinished, capacity.workers)):
            queue.remove(part)
            starts[part.job_id] = now
            if part.model not in loaded:
                now += 0.0 if left else capacity.load_s(part.model)
                loaded = {part.model} if capacity.workers == 1 else loaded | {part.model}
            left[part.job_id] = (part.model, part.seconds)
        together = len(left) / capacity.workers
        slower = {model: pace(model).slowdown(together) for model, _ in left.values()}
        passed = min(work * slower[model] for model, work in left.values())
        now += passed
        left = {job_id: (model, work - passed / slower[model]) for job_id, (model, work) in left.items()}
        for job_id in [job_id for job_id, (_, work) in left.items() if work <= DONE_S]:
            ends[job_id] = now
            unfinished.remove(job_id)
            del left[job_id]
    return Schedule(starts, ends)


def _next(queue: Sequence[Part], left: dict[str, tuple[str, float]], unfinished: set[str], workers: int) -> Part | None:
    """The first that waits for no other, if its model may be used now."""
    if not queue:
        return None
    part = next((part for part in queue if unfinished.isdisjoint(part.after)), None if left else queue[0])
    may_start = part and (workers > 1 or all(model == part.model for model, _ in left.values()))
    return part if may_start else None
