"""The queue: every job is a row, and every change of a job's status is one guarded UPDATE in this file.

A worker *claims* jobs with a lease and a token; what it writes afterwards carries the token, so a worker that lost its
lease changes nothing. Every change takes the ledger's next number, which tells watchers what is new.
Knows no engine and no files; times are the database's.
"""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Update,
    and_,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    tuple_,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import Select
from sqlmodel.sql.sqltypes import UTCDateTime

from studio.errors import BatchNotFound, JobConflict, JobNotFound, LeaseLost
from studio.schemas import GenerationRequest, JobStatus, Outcome, QueueStats, Step
from studio.store.db import Database
from studio.store.tables import (
    CLAIM_ORDER,
    Attempt,
    Job,
    Ledger,
    Worker,
    claimable,
    completed,
    has_status,
    pending,
    processing,
    waiting,
)

OVERTAKE_S = 60.0  # a job for the loaded model may go before the head of the queue if it came at most so much later
DUE_AT_ONCE = 100  # retries made claimable by one claim
APART_S = 0.5  # two jobs of more nearly equal length say nothing about the slope
RECENT = 64  # finished jobs from which the pace is learned
ERROR_MAX = 2000  # characters
STACK_MAX = 20_000  # characters: its end, where the error is
WORKER_GONE_S = 24 * 3600.0  # a worker silent for so long is forgotten
INTERRUPTED = "The worker stopped while it made this job."

Jobs = list[Job]


@dataclass(frozen=True)
class Claim:
    """A worker's hold on a job."""

    job_id: str
    token: str
    request: GenerationRequest
    retry_count: int


@dataclass(frozen=True)
class Track:
    """The saved audio of a job, and what it took."""

    filename: str
    duration: float  # seconds
    sample_rate: int  # Hz
    channels: int
    file_size_bytes: int
    format: str
    generation_time_seconds: float
    device: str
    precision: str


@dataclass(frozen=True)
class Recovered:
    """What a start found."""

    pending: int  # jobs that wait
    interrupted: list[str]  # jobs whose worker had died; now failed, or waiting for the next attempt


@dataclass(frozen=True)
class Pace:
    """How long a job takes: seconds for each second of audio, and for each job."""

    per_second: float
    per_job: float

    def seconds(self, duration: float, jobs: int = 1) -> float:
        return self.per_job * jobs + self.per_second * duration


@dataclass(frozen=True)
class Place:
    """Where a job stands that waits."""

    position: int  # 1 is next
    seconds_ahead: float  # of work before it, one job after another


GUESSED_PACE = Pace(per_second=1.0, per_job=0.0)  # real time, until a first job has finished


class JobQueue:
    """The jobs of a database. Thread-safe; each method is one short transaction."""

    def __init__(self, db: Database, now: Callable[[], datetime] | None = None) -> None:
        self._db = db
        self._now = now or db.now

    # People put jobs in, and take them out

    def enqueue(self, requests: Sequence[GenerationRequest], batch_id: str | None = None) -> Jobs:
        """Store all requests or none; on return they are on disk. Their model and seed are set."""
        now = self._now()
        assert all(request.model is not None and request.seed is not None for request in requests)
        with self._db.write() as session:
            extra = {"batch_id": batch_id, "created_at": now, "queued_at": now, "version": _next_version(session)}
            jobs = [Job.model_validate({**request.model_dump(), **extra}) for request in requests]
            session.add_all(jobs)
        return jobs

    def cancel(self, job_id: str, force: bool = False) -> Job:
        """Take a job out that waits; with `force` also one that is being made, whose worker then loses its lease.

        Raises:
            JobNotFound: unknown.
            JobConflict: it is being made (without `force`), or has ended.
        """
        values = {**_ended(JobStatus.CANCELLED, self._now()), "not_before": None}
        this = col(Job.job_id) == job_id
        with self._db.write() as session:
            version = _next_version(session)
            if force:
                self._keep_attempt(session, and_(this, processing), Outcome.CANCELLED)
            open_ = or_(pending, processing) if force else pending
            job = _change(session, and_(this, open_), version=version, **values)
            if job is None:
                raise JobConflict(_refusal(_find(session, job_id)))
        return job

    def cancel_batch(self, batch_id: str, force: bool = False) -> Jobs:
        """Take all jobs of a batch out that wait; with `force` also those that are being made. Returns them.

        Raises:
            BatchNotFound: unknown.
            JobConflict: none of its jobs waits.
        """
        values = {**_ended(JobStatus.CANCELLED, self._now()), "not_before": None}
        this = col(Job.batch_id) == batch_id
        with self._db.write() as session:
            values["version"] = _next_version(session)
            if force:
                self._keep_attempt(session, and_(this, processing), Outcome.CANCELLED)
            open_ = or_(pending, processing) if force else pending
            statement = update(Job).where(and_(this, open_)).values(**values).returning(Job)
            jobs = session.exec(statement, execution_options=_NO_SYNC).scalars().all()
            if not jobs:
                raise JobConflict(_batch_refusal(_find_batch(session, batch_id)))
        return sorted(jobs, key=lambda job: job.id or 0)

    def retry(self, job_id: str) -> Job:
        """Let a failed or cancelled job wait again, at the back, with a new series of attempts before it.

        Raises:
            JobNotFound: unknown.
            JobConflict: it waits, is being made, or is completed.
        """
        values = {**_WAITS, "retry_count": 0, "error_message": None, "completed_at": None, "queued_at": self._now()}
        values["series"] = col(Job.series) + 1
        ended = or_(has_status(JobStatus.FAILED), has_status(JobStatus.CANCELLED))
        with self._db.write() as session:
            version = _next_version(session)
            job = _change(session, and_(col(Job.job_id) == job_id, ended), version=version, **values)
            if job is None:
                raise JobConflict(
                    f"The job is {_find(session, job_id).status}: only a failed or cancelled one is retried."
                )
        return job

    # Workers take jobs and report on them

    def claim(self, worker_id: str, limit: int, lease_s: float, model: str | None = None) -> list[Claim]:
        """Take up to `limit` jobs, all for one model: the loaded `model`, or that of the queue's head.

        The loaded model goes first while it has jobs that came at most `OVERTAKE_S` after the head; so each job is
        overtaken only by jobs that came soon after it, and none starves.
        """
        assert limit >= 1
        now = self._now()
        if not self._any_due(now):
            return []  # an idle worker takes no lock
        with self._db.write() as session:
            version = _next_version(session)
            session.exec(_make_due(now))
            chosen, near = _choose(session, model)
            if chosen is None:  # another worker was faster
                return []
            values = _lease(worker_id, now, lease_s) | {"version": version}
            jobs = session.exec(_take(chosen, near, limit, values), execution_options=_NO_SYNC).scalars().all()
        return [_as_claim(job) for job in sorted(jobs, key=lambda job: (job.priority, job.queued_at, job.id))]

    def _any_due(self, now: datetime) -> bool:
        head = select(col(Job.id)).where(claimable).order_by(*CLAIM_ORDER).limit(1)
        due = select(col(Job.id)).where(waiting, col(Job.not_before) <= now).order_by(col(Job.not_before)).limit(1)
        with self._db.read() as session:
            return any(session.exec(statement).one_or_none() is not None for statement in (head, due))

    def heartbeat(self, worker_id: str, tokens: Collection[str], lease_s: float) -> set[str]:
        """Extend the leases; return the tokens that still hold."""
        if not tokens:
            return set()
        held = and_(processing, col(Job.worker_id) == worker_id, col(Job.lease_token).in_(tokens))
        statement = update(Job).where(held).values(lease_until=self._now() + timedelta(seconds=lease_s))
        with self._db.write() as session:
            return {token for (token,) in session.exec(statement.returning(col(Job.lease_token))).all() if token}

    def advance(self, claim: Claim, step: Step, progress: float) -> None:
        """Say how far the job is; `progress` 0..1. Raises LeaseLost."""
        self._report(claim, current_step=step, progress=progress)

    def complete(self, claim: Claim, track: Track) -> Job:
        """The job's audio is on disk. Raises LeaseLost: then the file is nobody's."""
        return self._report(
            claim,
            Outcome.COMPLETED,
            **_ended(JobStatus.COMPLETED, self._now()),
            progress=1.0,
            error_message=None,
            filename=track.filename,
            track_duration=track.duration,
            sample_rate=track.sample_rate,
            channels=track.channels,
            file_size_bytes=track.file_size_bytes,
            format=track.format,
            generation_time_seconds=track.generation_time_seconds,
            device=track.device,
            precision=track.precision,
        )

    def fail(self, claim: Claim, message: str, retry_in_s: float | None, stack_trace: str | None = None) -> Job:
        """An attempt failed: the next one starts after `retry_in_s` seconds, or there is none. Raises LeaseLost."""
        values = self._failed(message, claim.retry_count, retry_in_s)
        return self._report(claim, Outcome.FAILED, message, stack_trace, **values)

    def release(self, claim: Claim) -> Job:
        """Hand a job back as it was, to its old place; the attempt does not count. Raises LeaseLost."""
        return self._report(claim, **_WAITS)

    def _report(
        self, claim: Claim, end: Outcome | None = None, error: str | None = None, stack: str | None = None,
        **values: Any,
    ) -> Job:  # fmt: skip
        held = and_(col(Job.job_id) == claim.job_id, processing, col(Job.lease_token) == claim.token)
        with self._db.write() as session:
            version = _next_version(session)
            if end:
                self._keep_attempt(session, held, end, error, stack)
            job = _change(session, held, version=version, **values)
            if job is None:
                raise LeaseLost()
        return job

    def _keep_attempt(
        self, session: Session, where: ColumnElement[bool], end: Outcome, error: str | None = None,
        stack: str | None = None,
    ) -> None:  # fmt: skip
        """Write down the attempt that is about to end; `where` finds its job, which is still being processed."""
        for job in session.exec(select(Job).where(where)):
            values = job.model_dump(include={"job_id", "series", "started_at", "worker_id"})
            values |= {"number": job.retry_count + 1, "outcome": end, "ended_at": self._now()}
            values["error_message"] = error and _storable(error)[:ERROR_MAX]
            values["stack_trace"] = stack and _storable(stack)[-STACK_MAX:]
            session.add(Attempt.model_validate(values))

    def _failed(self, message: str, retry_count: int, retry_in_s: float | None) -> dict[str, Any]:
        message = _storable(message)[:ERROR_MAX]
        now = self._now()
        if retry_in_s is None:
            return {**_ended(JobStatus.FAILED, now), "error_message": message}
        due = now + timedelta(seconds=retry_in_s)
        return {**_WAITS, "not_before": due, "retry_count": retry_count + 1, "error_message": message}

    # Workers come and go

    def beat(self, worker: Worker) -> None:
        """The worker lives: store what it says of itself, and the time."""
        with self._db.write() as session:
            session.merge(Worker.model_validate({**worker.model_dump(), "beat_at": self._now()}))

    def forget_worker(self, worker_id: str) -> None:
        """The worker has gone, in good order."""
        with self._db.write() as session:
            session.exec(delete(Worker).where(col(Worker.worker_id) == worker_id))

    def workers(self) -> list[Worker]:
        """Those that have beaten and not gone, the last to beat first."""
        with self._db.read() as session:
            return list(session.exec(select(Worker).order_by(col(Worker.beat_at).desc())))

    def recover(self, retry_in_s: Callable[[int], float | None], is_alive: Callable[[Worker], bool]) -> Recovered:
        """Look after jobs whose lease ran out or whose worker is dead: their attempt has failed.

        Run it at a start and now and then. `retry_in_s` tells from the retries that a job has had the seconds until
        its next attempt, or that it fails; `is_alive` answers True for a worker of which it knows nothing.
        """
        now = self._now()
        long_ago = now - timedelta(seconds=WORKER_GONE_S)
        dead = [worker.worker_id for worker in self.workers() if worker.beat_at < long_ago or not is_alive(worker)]
        lost = and_(processing, or_(col(Job.lease_until) < now, col(Job.worker_id).in_(dead)))
        with self._db.read() as session:
            if not dead and session.exec(select(col(Job.id)).where(lost).limit(1)).one_or_none() is None:
                return Recovered(_count(session, pending), [])
        with self._db.write() as session:
            version = _next_version(session)
            # Skips rows locked by a heartbeat: that worker is alive.
            jobs = session.exec(select(Job).where(lost).order_by(col(Job.id)).with_for_update(skip_locked=True))
            interrupted = list(jobs)
            for job in interrupted:
                this = col(Job.id) == job.id
                values = self._failed(INTERRUPTED, job.retry_count, retry_in_s(job.retry_count))
                self._keep_attempt(session, this, Outcome.INTERRUPTED, INTERRUPTED)
                _change(session, this, version=version, **values)
            session.exec(delete(Worker).where(col(Worker.worker_id).in_(dead)))
        return Recovered(self._pending(), [job.job_id for job in interrupted])

    # Everybody looks

    def get(self, job_id: str) -> Job:
        """Raises JobNotFound."""
        with self._db.read() as session:
            return _find(session, job_id)

    def batch(self, batch_id: str) -> Jobs:
        """The jobs of a batch, in its order. Raises BatchNotFound."""
        with self._db.read() as session:
            return _find_batch(session, batch_id)

    def attempts(self, job_id: str) -> list[Attempt]:
        """Those at a job that have ended, the first one first. Raises JobNotFound."""
        order = (col(Attempt.series), col(Attempt.number))
        with self._db.read() as session:
            _find(session, job_id)
            return list(session.exec(select(Attempt).where(col(Attempt.job_id) == job_id).order_by(*order)))

    def position(self, job: Job) -> int | None:
        """1 is next; None when the job does not wait. Jobs that wait for a retry come after those that may start."""
        if job.status is not JobStatus.PENDING:
            return None
        with self._db.read() as session:
            return 1 + sum(_count(session, part) for part in _ahead(job))

    def stats(self) -> QueueStats:
        """The queue in six figures, exact."""
        with self._db.read() as session:
            counts = {status: _count(session, has_status(status)) for status in JobStatus}
            oldest = session.exec(
                select(col(Job.queued_at)).where(pending).order_by(col(Job.queued_at)).limit(1)
            ).one_or_none()
            recent = (
                select(col(Job.generation_time_seconds)).where(completed).order_by(col(Job.id).desc()).limit(RECENT)
            )
            times = [time for time in session.exec(recent) if time is not None]
        return QueueStats(
            pending_jobs=counts[JobStatus.PENDING],
            processing_jobs=counts[JobStatus.PROCESSING],
            completed_jobs=counts[JobStatus.COMPLETED],
            failed_jobs=counts[JobStatus.FAILED],
            oldest_pending_job_age_seconds=max(0.0, (self._now() - oldest).total_seconds()) if oldest else None,
            average_processing_time_seconds=statistics.fmean(times) if times else None,
        )

    def version(self) -> int:
        """A number that grows with every change of any job."""
        with self._db.read() as session:
            return session.exec(select(col(Ledger.version))).one()

    def changed_since(self, version: int, limit: int) -> tuple[int, Jobs]:
        """The jobs that changed after `version`, as they are now, the first change first; and the version to ask next.

        About `limit` of them: jobs that changed in one transaction share a version and come together.
        """
        newer = col(Job.version) > version
        with self._db.read() as session:
            last = select(col(Job.version)).where(newer).order_by(col(Job.version)).offset(limit - 1).limit(1)
            until = session.exec(last).one_or_none()
            some = newer if until is None else and_(newer, col(Job.version) <= until)
            order = (col(Job.version), col(Job.id))
            jobs = list(session.exec(select(Job).where(some).order_by(*order)))
        return (jobs[-1].version if jobs else version), jobs

    def changed(self, job_ids: Collection[str], version: int) -> Jobs:
        """Those of the given jobs that changed after `version`, as they are now."""
        where = and_(col(Job.job_id).in_(job_ids), col(Job.version) > version)
        with self._db.read() as session:
            return list(session.exec(select(Job).where(where)))

    def pace(self, model: str, device: str | None = None) -> Pace | None:
        """What a job of `model` takes, learned from the last ones that finished; None before the first."""
        where = [completed, col(Job.model) == model] + ([col(Job.device) == device] if device else [])
        recent = select(col(Job.track_duration), col(Job.generation_time_seconds)).where(*where)
        with self._db.read() as session:
            rows = session.exec(recent.order_by(col(Job.id).desc()).limit(RECENT)).all()
        return _fit([(duration, seconds) for duration, seconds in rows if duration and seconds is not None])

    def predict(self, model: str, duration: float) -> float:
        """Seconds that a job will take once it has started."""
        return (self.pace(model) or GUESSED_PACE).seconds(duration)

    def seconds_ahead(self, job: Job) -> float:
        """Seconds of work before a job that waits: what runs and what waits before it, one after another."""
        if job.status is not JobStatus.PENDING:
            return 0.0
        rest = 1.0 - col(Job.progress)
        with self._db.read() as session:
            rows = [row for part in _ahead(job) for row in session.exec(_load(part, 1.0)).all()]
            rows += session.exec(_load(processing, rest)).all()
        paces = {model: self.pace(model) or GUESSED_PACE for model, _, _ in rows}
        return sum(paces[model].seconds(duration, jobs) for model, jobs, duration in rows)

    def places(self, jobs: Collection[Job]) -> dict[str, Place]:
        """`position` and `seconds_ahead` of those that wait, by job id: one pass over the queue for all of them."""
        wanted = [job.job_id for job in jobs if job.status is JobStatus.PENDING]
        if not wanted:
            return {}
        with self._db.read() as session:
            running = session.exec(_load(processing, 1.0 - col(Job.progress))).all()
            models = {row[0] for row in running}
            for part in (claimable, waiting):
                models.update(session.exec(select(col(Job.model)).where(part).distinct()))
        paces = {model: self.pace(model) or GUESSED_PACE for model in models}
        first_s = sum(paces[model].seconds(duration, count) for model, count, duration in running)
        with self._db.read() as session:
            rows = session.connection().execute(_ranked(paces, wanted)).all()
        return {job_id: Place(position, first_s + (before or 0.0)) for job_id, position, before in rows}

    def filenames(self, among: Collection[str] | None = None) -> set[str]:
        """The files of all tracks, or those of them that are `among` the given ones."""
        where = col(Job.filename).is_not(None) if among is None else col(Job.filename).in_(among)
        with self._db.read() as session:
            return {name for name in session.exec(select(col(Job.filename)).where(where)) if name}

    def list(self, status: JobStatus | None, page: int, page_size: int) -> tuple[Jobs, int]:
        """A page of jobs, newest first, and how many there are; `page` counts from 1."""
        assert page >= 1 and page_size >= 1
        where = [] if status is None else [has_status(status)]
        rows = select(Job).where(*where).order_by(col(Job.id).desc())
        with self._db.read() as session:
            total = session.exec(select(func.count()).select_from(Job).where(*where)).one()
            return list(session.exec(rows.offset((page - 1) * page_size).limit(page_size))), total

    def _pending(self) -> int:
        with self._db.read() as session:
            return _count(session, pending)


# Changes

_UNLEASED: dict[str, Any] = {"lease_token": None, "lease_until": None, "worker_id": None}
_WAITS: dict[str, Any] = {
    **_UNLEASED,
    "status": JobStatus.PENDING,
    "current_step": Step.QUEUED,
    "progress": 0.0,
    "started_at": None,
    "not_before": None,
}


def _ended(status: JobStatus, now: datetime) -> dict[str, Any]:
    return {**_UNLEASED, "status": status, "current_step": Step(status.value), "completed_at": now}


def _next_version(session: Session) -> int:
    """The first statement of every change: it also makes writers wait for each other, on PostgreSQL too."""
    statement = update(Ledger).values(version=Ledger.version + 1).returning(col(Ledger.version))
    return int(session.exec(statement).scalar_one())


def _change(session: Session, where: ColumnElement[bool], **values: Any) -> Job | None:
    """Change the one row that passes the guard; None when it did not."""
    statement = update(Job).where(where).values(**values).returning(Job)
    return session.exec(statement, execution_options=_NO_SYNC).scalars().one_or_none()


_NO_SYNC = {"synchronize_session": False, "populate_existing": True}


def _find(session: Session, job_id: str) -> Job:
    job = session.exec(select(Job).where(col(Job.job_id) == job_id)).one_or_none()
    if job is None:
        raise JobNotFound(job_id)
    return job


def _find_batch(session: Session, batch_id: str) -> Jobs:
    jobs = list(session.exec(select(Job).where(col(Job.batch_id) == batch_id).order_by(col(Job.id))))
    if not jobs:
        raise BatchNotFound(batch_id)
    return jobs


def _count(session: Session, where: ColumnElement[bool]) -> int:
    return session.exec(select(func.count()).where(where)).one()


def _refusal(job: Job) -> str:
    if job.status is JobStatus.PROCESSING:
        return "The job is being made; force stops it."
    return f"The job has ended: it is {job.status}."


def _batch_refusal(jobs: Jobs) -> str:
    if any(job.status is JobStatus.PROCESSING for job in jobs):
        return "No job of the batch waits; force stops those that are being made."
    return "All jobs of the batch have ended."


def _storable(message: str) -> str:
    """PostgreSQL stores no NUL, neither database a lone surrogate; an error must not fail for how it is worded."""
    return message.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


# The claim


def _lease(worker_id: str, now: datetime, lease_s: float) -> dict[str, Any]:
    token = literal(secrets.token_hex(12) + "-") + col(Job.job_id)  # one statement, yet a token for each job
    return {
        "status": JobStatus.PROCESSING,
        "lease_token": token,
        "lease_until": now + timedelta(seconds=lease_s),
        "worker_id": worker_id,
        "started_at": now,
    }


def _make_due(now: datetime) -> Update:
    """Jobs that wait for a retry are not in the claim's index (100k of them cut claims fivefold) until they are due."""
    due = (
        select(col(Job.id)).where(waiting, col(Job.not_before) <= now).order_by(col(Job.not_before)).limit(DUE_AT_ONCE)
    )
    return update(Job).where(col(Job.id).in_(due)).values(not_before=None).execution_options(synchronize_session=False)


def _choose(session: Session, loaded: str | None) -> tuple[str | None, datetime | None]:
    """The model to claim for, and until when its jobs must have come (None: whenever)."""
    order = select(col(Job.model), col(Job.priority), col(Job.queued_at)).where(claimable).order_by(*CLAIM_ORDER)
    head = session.exec(order.limit(1)).one_or_none()
    if head is None:
        return None, None
    model, priority, queued_at = head
    near = queued_at + timedelta(seconds=OVERTAKE_S)
    may = and_(claimable, col(Job.model) == loaded, col(Job.priority) == priority, col(Job.queued_at) <= near)
    if loaded in (None, model) or not session.exec(select(exists().where(may))).one():
        return model, None
    return loaded, near


def _take(model: str, near: datetime | None, limit: int, values: dict[str, Any]) -> ReturningUpdate[Job]:
    """One statement on both databases: pick the first rows that nobody has locked, take them, return them."""
    may = and_(claimable, col(Job.model) == model, *([col(Job.queued_at) <= near] if near else []))
    picked = select(col(Job.id)).where(may).order_by(*CLAIM_ORDER).limit(limit).with_for_update(skip_locked=True)
    ids = select(picked.cte("picked").c.id)
    return update(Job).where(col(Job.id).in_(ids), pending).values(**values).returning(Job)


def _as_claim(job: Job) -> Claim:
    assert job.lease_token is not None
    return Claim(job.job_id, job.lease_token, job.request, job.retry_count)


# Places and paces


def _ahead(job: Job) -> list[ColumnElement[bool]]:
    """What goes before a job that waits, in disjoint parts."""
    if job.not_before is None:
        return [and_(claimable, tuple_(*CLAIM_ORDER) < _tuple(job.priority, job.queued_at, job.id))]
    due = tuple_(col(Job.not_before), col(Job.id)) < _tuple(job.not_before, job.id)
    return [claimable, and_(waiting, due)]


def _ranked(paces: dict[str, Pace], wanted: Collection[str]) -> Any:
    """Of the wanted jobs: id, position, and the seconds of the jobs before it that wait (null for the first)."""
    seconds = case(
        *(
            (col(Job.model) == model, pace.per_job + pace.per_second * col(Job.duration))
            for model, pace in paces.items()
        ),
        else_=0.0,
    )
    order = (case((col(Job.not_before).is_(None), 0), else_=1), col(Job.not_before), *CLAIM_ORDER)
    place = func.row_number().over(order_by=order).label("place")
    before = func.sum(seconds).over(order_by=order, rows=(None, -1)).label("before")
    all_ = select(col(Job.job_id), place, before).where(pending).subquery()
    return select(all_.c.job_id, all_.c.place, all_.c.before).where(all_.c.job_id.in_(wanted))


def _tuple(*values: Any) -> Any:
    return tuple_(*(literal(value, UTCDateTime() if isinstance(value, datetime) else None) for value in values))


def _load(where: ColumnElement[bool], share: ColumnElement[float] | float) -> Select[str, int, float]:
    """Jobs and seconds of audio to make, by model."""
    return (
        select(col(Job.model), func.count(), func.sum(col(Job.duration) * share)).where(where).group_by(col(Job.model))
    )


def _fit(points: list[tuple[float, float]]) -> Pace | None:
    """Theil–Sen over (seconds of audio, seconds it took): medians, so that one slow job changes nothing."""
    if not points:
        return None
    slopes = [(t2 - t1) / (d2 - d1) for (d1, t1), (d2, t2) in combinations(points, 2) if abs(d2 - d1) >= APART_S]
    if not slopes:
        return Pace(statistics.median(seconds / duration for duration, seconds in points), 0.0)
    slope = max(0.0, statistics.median(slopes))
    return Pace(slope, max(0.0, statistics.median(seconds - slope * duration for duration, seconds in points)))
