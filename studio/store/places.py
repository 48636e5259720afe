"""Where jobs stand in the queue, and when they will have finished.

A place is a sum over `depths`, which triggers keep, and one look at the stretch that the job itself is in; times are
those of a simulation of what comes next, and sums behind it: what they cost does not grow with the queue. All functions
read within the caller's transaction.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, func, or_, tuple_
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import Select

from studio.schemas import PROGRESS_LOADED, JobStatus, Step
from studio.store.pace import (
    GUESSED_LOAD_S,
    GUESSED_PACE,
    Capacity,
    Made,
    Pace,
    Part,
    Schedule,
    learn,
    share_left,
    simulate,
)  # fmt: skip
from studio.store.tables import (
    CLAIM_ORDER,
    LANES,
    SHIFTS,
    Depth,
    Job,
    Ledger,
    Worker,
    blocked,
    completed,
    lane_of,
    processing,
)

RECENT = 64  # finished jobs from which the pace is learned
LOADS = 3  # of a model, of which the shortest counts: one may have been a download
HEAD = 64  # waiting jobs that are simulated one by one
STALE_S = 0.2  # a job's progress is so old when it is read, on the average
SHOWN_S = 1.0  # a job that has run for less says nothing about how busy the machine is
GUESS_S = 0.5  # so much work at the guessed pace is held against what a model's first job shows
STRETCH_MAX = 10.0  # more than that is no busy machine


@dataclass(frozen=True)
class Place:
    """Where a job stands that waits or is being made."""

    position: int | None  # 1 is next; None when it is being made
    seconds_ahead: float  # until it starts
    seconds_left: float  # until it has finished; as if the queue were resumed now
    paused: bool = False  # it waits, and nothing is started


@dataclass
class _Work:
    """Jobs, and seconds of audio to make, by model."""

    jobs: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    audio_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, rows: Iterable[tuple[str, int, float]]) -> None:
        for model, jobs, audio_s in rows:
            self.jobs[model] += int(jobs)
            self.audio_s[model] += float(audio_s)

    def count(self) -> int:
        return sum(self.jobs.values())


def places_of(session: Session, jobs: Collection[Job], now: datetime, alive: timedelta) -> dict[str, Place]:
    """The places of those that wait or are being made, by job id; workers that have beaten within `alive` share the
    work."""
    waiting = [job for job in jobs if job.status is JobStatus.PENDING]
    running = [job for job in jobs if job.status is JobStatus.PROCESSING]
    if not waiting and not running:
        return {}
    estimator = _Estimator(session, now, alive)
    found = {job.job_id: Place(None, 0.0, estimator.plan.ends.get(job.job_id, 0.0)) for job in running}
    paused = bool(waiting) and session.exec(select(col(Ledger.paused_at))).one() is not None
    return found | {job.job_id: estimator.place(job, _before(session, job), paused) for job in waiting}


def forecast(session: Session, work: Collection[tuple[str, float]], now: datetime, alive: timedelta) -> float:
    """Seconds until jobs of these models and seconds of audio would have finished, put in at the back now."""
    return _Estimator(session, now, alive).forecast(work)


class _Estimator:
    """What is being made and what comes next, simulated; what lies behind that is reckoned in bulk."""

    def __init__(self, session: Session, now: datetime, alive: timedelta) -> None:
        self._session = session
        self._now = now
        self._paces: dict[str, Pace | None] = {}
        processed = session.exec(select(Job).where(processing)).all()
        workers = session.exec(select(Worker).where(col(Worker.beat_at) >= now - alive)).all()
        self._devices = {worker.device for worker in workers if worker.device}
        self._capacity = self._capacity_of(workers, processed)
        self._running = [self._left(job) for job in processed]
        self._stretch = self._busy(processed)
        self._head = [
            Part(name, model, self._alone(model, audio_s), after) for name, model, audio_s, after in _head(session)
        ]
        self.plan = self._simulate([])

    def _simulate(self, more: list[Part]) -> Schedule:
        return simulate(self._running, self._head + more, self._capacity, self.pace).stretched(self._stretch)

    def _capacity_of(self, workers: Sequence[Worker], processed: Sequence[Job]) -> Capacity:
        loading = [job for job in processed if job.current_step in (Step.QUEUED, Step.LOADING_MODEL)]
        there = [worker.model for worker in workers if worker.model] + [job.model for job in processed]
        return Capacity(
            slots=max(1, sum(worker.slots for worker in workers)),
            workers=max(1, len(workers)),
            loaded=frozenset(there),
            load_s=self._load_s if workers else lambda model: 0.0,
            busy_s=max((self._load_left(job) for job in loading if workers), default=0.0),
        )

    def _load_s(self, model: str) -> float:
        known = _loads(self._session, model)
        return min(known) if known else GUESSED_LOAD_S

    def _load_left(self, job: Job) -> float:
        """Seconds until the model is there of a job that is not in a slot yet."""
        took_s = (self._now - job.started_at).total_seconds() if job.started_at else 0.0
        if took_s < self._load_s(job.model):
            return self._load_s(job.model) - took_s
        share = job.progress / PROGRESS_LOADED  # a download tells how far it is
        return took_s * (1.0 - share) / share if 0.0 < share < 1.0 else 0.0

    def pace(self, model: str) -> Pace:
        return self._learned(model) or GUESSED_PACE

    def _learned(self, model: str) -> Pace | None:
        if model not in self._paces:
            self._paces[model] = pace_of(self._session, model, self._devices)
        return self._paces[model]

    def place(self, job: Job, before: Collection[tuple[str, int, float]], paused: bool) -> Place:
        """Of a job that waits, with so much before it."""
        ahead = _Work()
        ahead.add(before)
        if job.job_id in self.plan.ends:
            starts_s = self.plan.starts.get(job.job_id, 0.0)  # it may have started since the row was read
            ends_s = self.plan.ends[job.job_id]
        else:
            starts_s = self._starts_behind(ahead)
            ends_s = starts_s + self._alone(job.model, job.duration) * self._crowded(job.model) * self._stretch
        return Place(1 + ahead.count(), starts_s, ends_s, paused)

    def forecast(self, work: Collection[tuple[str, float]]) -> float:
        everything = _Work()
        everything.add((model, jobs, int(ms) / 1000) for model, jobs, ms in self._session.exec(_ALL))
        if everything.count() <= len(self._head):
            parts = [Part(f"#{n}", model, self._alone(model, audio_s)) for n, (model, audio_s) in enumerate(work)]
            ends = self._simulate(parts).ends
            return max((ends[part.job_id] for part in parts), default=0.0)
        everything.add((model, 1, audio_s) for model, audio_s in work)
        return self._starts_behind(everything)

    def _starts_behind(self, ahead: _Work) -> float:
        """When a slot is free for what comes after all that: its head is simulated until the last of it has started,
        and that and the rest is shared out over the slots."""
        rest_s = sum(
            self.pace(model).seconds(ahead.audio_s[model], count) * self._crowded(model)
            for model, count in ahead.jobs.items()
        )
        rest_s -= sum(part.seconds * self._crowded(part.model) for part in self._head[:-1])
        return self.plan.all_started + max(0.0, rest_s) * self._stretch / self._capacity.slots

    def _crowded(self, model: str) -> float:
        return self.pace(model).slowdown(self._capacity.slots / self._capacity.workers)

    def _alone(self, model: str, audio_s: float) -> float:
        return self.pace(model).seconds(audio_s)

    def _busy(self, jobs: Sequence[Job]) -> float:
        """How many times longer jobs take now than they used to, as those that are being made show: the more of a job
        is done, the more it has to say."""
        together = len(jobs) / self._capacity.workers
        shown = []
        for job in jobs:
            took_s = (self._now - job.admitted_at).total_seconds() - STALE_S if job.admitted_at else 0.0
            done = 1.0 - share_left(job.progress)
            expected_s = self._alone(job.model, job.duration) * self.pace(job.model).slowdown(together) * done
            if took_s >= SHOWN_S and expected_s > 0.0 and self._learned(job.model):
                trust = done**0.5
                shown.append(trust * took_s / expected_s + 1.0 - trust)
        return min(STRETCH_MAX, statistics.median(shown)) if shown else 1.0

    def _left(self, job: Job) -> Part:
        share = share_left(job.progress)
        left_s = self._alone(job.model, job.duration) * share
        if job.admitted_at and self._learned(job.model) is None:  # the first tells by itself, once it is under way
            took_s = max(0.0, (self._now - job.admitted_at).total_seconds() - SHOWN_S)
            guessed_s = self._alone(job.model, job.duration) * (1.0 - share)
            left_s *= (took_s + GUESS_S) / (guessed_s + GUESS_S)
        return Part(job.job_id, job.model, left_s)


def count_waiting(session: Session, lane: int | None = None) -> int:
    """How many jobs are pending, all of them or those of a lane."""
    jobs = select(func.sum(Depth.jobs)).where(_whole(range(len(LANES)) if lane is None else [lane]))
    return int(session.exec(jobs).one() or 0)


def _whole(lanes: Collection[int]) -> ColumnElement[bool]:
    """The largest stretches of the lanes. All lanes are named too: the index begins with them."""
    return and_(col(Depth.lane).in_(lanes), col(Depth.shift) == SHIFTS[-1])


def pace_of(session: Session, model: str, devices: Collection[str] = ()) -> Pace | None:
    """What a job of `model` takes, learned from the last ones that finished: those on the devices, if there are any.
    None before the first."""
    made = and_(completed, col(Job.model) == model, col(Job.continue_from).is_(None))  # a part of those was there
    facts = (col(Job.track_duration), col(Job.generation_time_seconds), col(Job.together), col(Job.device))
    rows = session.exec(select(*facts).where(made).order_by(col(Job.id).desc()).limit(RECENT)).all()
    rows = [row for row in rows if row[-1] in devices] or rows
    return learn(
        tuple(Made(audio_s, took_s, together or 1.0) for audio_s, took_s, together, _ in rows if audio_s and took_s)
    )


def _loads(session: Session, model: str) -> Sequence[float]:
    """How long the model took to load, the last times."""
    loaded = select(col(Job.load_seconds)).where(col(Job.load_seconds).is_not(None), col(Job.model) == model)
    return [
        seconds for seconds in session.exec(loaded.order_by(col(Job.id).desc()).limit(LOADS)) if seconds is not None
    ]


def _head(session: Session) -> list[tuple[str, str, float, frozenset[str]]]:
    """What is claimed next: job ids, models, seconds of audio, the jobs that each comes after."""
    found: list[tuple[str, str, float, frozenset[str]]] = []
    for lane in LANES:
        rows: Any = select(col(Job.job_id), col(Job.model), col(Job.duration)).where(lane).order_by(*CLAIM_ORDER)
        if lane is blocked:  # the others wait for none; reading lists costs time
            rows = rows.add_columns(col(Job.after))
        some = session.exec(rows.limit(HEAD - len(found))).all()
        found += [(name, model, audio_s, frozenset(*after)) for name, model, audio_s, *after in some]
        if len(found) == HEAD:
            break
    return found


def _before(session: Session, job: Job) -> list[tuple[str, int, float]]:
    """What waits before the job: models, jobs, seconds of audio; a model may come twice."""
    lane = lane_of(job)
    bounds = {"place": job.place, "id": job.id, "nearest": job.place >> SHIFTS[0] << SHIFTS[0]}
    for shift, above in zip(SHIFTS, (*SHIFTS[1:], 63), strict=True):
        bounds |= {f"from_{shift}": job.place >> above << above - shift, f"to_{shift}": job.place >> shift}
    stretches, near = _statements(lane)
    rows = [(model, jobs, int(ms) / 1000) for model, jobs, ms in session.exec(stretches, params=bounds)]
    return rows + list(session.exec(near, params=bounds).all())


@cache
def _statements(lane: int) -> tuple[Select[str, int, int], Select[str, int, float]]:
    """Sums over stretches that cover, without overlap, all lanes before this one, and this one up to the smallest
    stretch that the place is in: of each size, those before it in the next larger one. And over what lies nearest."""
    parts = [_whole([other]) for other in range(lane)]
    for shift in SHIFTS:
        lies = and_(col(Depth.bucket) >= bindparam(f"from_{shift}"), col(Depth.bucket) < bindparam(f"to_{shift}"))
        parts.append(and_(col(Depth.lane) == lane, col(Depth.shift) == shift, lies))
    nearest = col(Job.place) >= bindparam("nearest")
    before = tuple_(*CLAIM_ORDER) < tuple_(bindparam("place"), bindparam("id"))
    # The order is for PostgreSQL: without statistics it may take the index that begins with the model, and read it all.
    near = select(col(Job.model), col(Job.duration)).where(and_(LANES[lane], nearest, before)).order_by(*CLAIM_ORDER)
    rows = near.cte("near").prefix_with("MATERIALIZED")
    by_model = select(rows.c.model, func.count(), func.sum(rows.c.duration)).group_by(rows.c.model)
    return _sums().where(or_(*parts)), by_model


def _sums() -> Select[str, int, int]:
    """Jobs and milliseconds of audio to make, by model."""
    return select(col(Depth.model), func.sum(Depth.jobs), func.sum(Depth.milliseconds)).group_by(col(Depth.model))


_ALL = _sums().where(_whole(range(len(LANES))))
