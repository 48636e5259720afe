"""The queue: every job is a row, and every change of a job's status is one guarded UPDATE, here or, for jobs that fail
with another, in `ends`.

A worker *claims* jobs with a lease and a token; what it writes afterwards carries the token, so a worker that lost its
lease changes nothing. Every change takes the ledger's next number, which tells watchers what is new.
Knows no engine and no files; times are the database's.
"""

from __future__ import annotations

import logging
import secrets
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Update, and_, bindparam, delete, exists, func, literal, or_, update
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import Session, col, select
from sqlmodel.sql.sqltypes import UTCDateTime

from studio.errors import BatchNotFound, JobConflict, JobNotFound, LeaseLost
from studio.schemas import PRIORITY_MAX, GenerationRequest, JobStatus, Outcome, QueueState, QueueStats, Step, describe
from studio.store.answers import IdempotencyKey, keep_answer, known_answer
from studio.store.db import NO_SYNC, Database
from studio.store.ends import UNLEASED, ended, follow_up
from studio.store.intake import insert_jobs, waits_of
from studio.store.ledger import NEXT, next_version
from studio.store.places import Place, count_waiting, forecast, places_of
from studio.store.tables import (
    CLAIM_ORDER,
    LANES,
    Attempt,
    Job,
    Ledger,
    Worker,
    claimable,
    completed,
    has_status,
    pending,
    place_at,
    processing,
    storable,
    waiting,
)

logger = logging.getLogger(__name__)

OVERTAKE_S = 60.0  # a job for the loaded model may go before the head of the queue if placed at most so far behind
NAMES_AT_ONCE = 500  # in one question; a database takes some thousands of parameters
DUE_AT_ONCE = 100  # retries made claimable by one claim
RECENT = 64  # finished jobs of which the average time is told
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
    waited_s: float | None = None  # until its first attempt of a series; None at the next ones


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
    together: float = 1.0  # requests decoded with it, itself included; the mean of its steps


@dataclass(frozen=True)
class Recovered:
    """What a start found."""

    pending: int  # jobs that wait
    interrupted: list[str]  # jobs whose worker had died; now failed, or waiting for the next attempt


class JobQueue:
    """The jobs of a database. Thread-safe; each method is one short transaction.

    Args:
        alive_s: a worker that has beaten within so many seconds shares the work, where times are estimated.
    """

    def __init__(self, db: Database, now: Callable[[], datetime] | None = None, alive_s: float = 30.0) -> None:
        self._db = db
        self._now = now or db.now
        self._alive = timedelta(seconds=alive_s)

    # People put jobs in, and take them out

    def enqueue(self, requests: Sequence[GenerationRequest], batch_id: str | None = None) -> Jobs:
        """Store all requests or none; on return they are on disk. Their model and seed are set.

        A job that comes after one that failed or was cancelled has failed at once.

        Raises:
            InvalidRequest: `after` names a job that there is not.
        """
        with self._db.write() as session:
            return insert_jobs(session, next_version(session), requests, batch_id, self._now())

    def enqueue_once(
        self, requests: Callable[[], Sequence[GenerationRequest]], batch_id: str | None, asked: IdempotencyKey,
        charge: Callable[[int], None], answer: Callable[[Jobs, dict[str, Place]], str],
    ) -> tuple[Jobs, str]:  # fmt: skip
        """`enqueue`, and keep what `answer` makes of the jobs; or store nothing and give what was answered before.

        `requests` are asked for when there is no answer yet. `charge` is called with their number when nobody else can
        store the same any more; if it raises, nothing is stored.

        Raises:
            InvalidRequest: the key came with another request; or as `enqueue`.
        """
        now = self._now()
        with self._db.read() as session:
            known = known_answer(session, asked, now)
        if known is not None:
            return [], known
        new = requests()
        with self._db.write() as session:
            version = next_version(session)  # whoever asks the same waits here
            known = known_answer(session, asked, now)
            if known is not None:
                return [], known
            charge(len(new))
            jobs = insert_jobs(session, version, new, batch_id, now)
            text = answer(jobs, places_of(session, jobs, now, self._alive))
            keep_answer(session, asked, text, now)
        return jobs, text

    def cancel(self, job_id: str, force: bool = False) -> Job:
        """Take a job out that waits; with `force` also one that is being made, whose worker then loses its lease.

        Raises:
            JobNotFound: unknown.
            JobConflict: it is being made (without `force`), or has ended.
        """
        values = ended(JobStatus.CANCELLED, self._now())
        this = col(Job.job_id) == job_id
        with self._db.write() as session:
            version = next_version(session)
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
        values = ended(JobStatus.CANCELLED, self._now())
        this = col(Job.batch_id) == batch_id
        with self._db.write() as session:
            values["version"] = next_version(session)
            if force:
                self._keep_attempt(session, and_(this, processing), Outcome.CANCELLED)
            open_ = or_(pending, processing) if force else pending
            statement = update(Job).where(and_(this, open_)).values(**values).returning(Job)
            jobs = session.exec(statement, execution_options=NO_SYNC).scalars().all()
            if not jobs:
                raise JobConflict(_batch_refusal(_find_batch(session, batch_id)))
            for job in jobs:
                follow_up(session, job)
        return sorted(jobs, key=lambda job: job.id or 0)

    def retry(self, job_id: str, charge: Callable[[], None] = lambda: None) -> Job:
        """Let a failed or cancelled job wait again, at the back, with a new series of attempts before it.

        Jobs that failed because this one did stay as they are: whoever wants them retries them, after this one.
        `charge` is called when nothing else refuses the retry; if it raises, nothing changes.

        Raises:
            JobNotFound: unknown.
            JobConflict: it waits, is being made, or is completed; or it comes after a job that is still failed.
        """
        now = self._now()
        values = {**_WAITS, "retry_count": 0, "error_message": None, "completed_at": None, "queued_at": now}
        values["series"] = col(Job.series) + 1
        with self._db.write() as session:
            version = next_version(session)
            job = _find(session, job_id)
            if job.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
                raise JobConflict(f"The job is {job.status}: only a failed or cancelled one is retried.")
            waits = waits_of(session, job)
            charge()
            values |= {"place": place_at(now, job.priority), "waits_for": len(waits)}
            this = and_(col(Job.job_id) == job_id, has_status(job.status))
            retried = _change(session, this, version=version, **values)
            assert retried is not None  # nobody else changes jobs while this transaction holds the ledger
            session.add_all(waits)
        return retried

    def to_front(self, job_id: str) -> Job:
        """Let a job that waits go before all others, also before those that come later; one that waits for its next
        attempt need not any more. One that waits for other jobs goes first once these are completed.

        Raises:
            JobNotFound: unknown.
            JobConflict: it does not wait.
        """
        with self._db.write() as session:
            version = next_version(session)
            head = session.exec(select(col(Job.place)).where(claimable).order_by(*CLAIM_ORDER).limit(1)).one_or_none()
            best = place_at(self._now(), PRIORITY_MAX)
            place = min(best, best if head is None else head) - 1
            this = and_(col(Job.job_id) == job_id, pending)
            job = _change(session, this, version=version, place=place, not_before=None)
            if job is None:
                raise JobConflict(f"The job is {_find(session, job_id).status}: only one that waits goes to the front.")
        return job

    # The queue as a whole

    def pause(self) -> QueueState:
        """Let no job be started, by any worker, until `resume`; those that are being made are finished."""
        return self._set_paused(func.coalesce(col(Ledger.paused_at), self._now()))

    def resume(self) -> QueueState:
        """Let jobs be started again."""
        return self._set_paused(None)

    def state(self) -> QueueState:
        """Whether jobs are started."""
        with self._db.read() as session:
            paused_at = _paused_at(session)
        return QueueState(paused=paused_at is not None, paused_at=paused_at)

    def _set_paused(self, since: Any) -> QueueState:
        with self._db.write() as session:
            next_version(session)  # whoever watches sees it
            session.exec(update(Ledger).values(paused_at=since))
            paused_at = _paused_at(session)
        return QueueState(paused=paused_at is not None, paused_at=paused_at)

    # Workers take jobs and report on them

    def claim(self, worker_id: str, limit: int, lease_s: float, model: str | None = None) -> list[Claim]:
        """Take up to `limit` jobs, all for one model: the loaded `model`, or that of the queue's head.

        A queue that is paused gives none. The loaded model goes first while it has jobs placed at most `OVERTAKE_S`
        behind the head; so each job is overtaken only by jobs that came soon after it, and none starves.
        """
        assert limit >= 1
        now = self._now()
        with self._db.read() as session:
            paused_at, head, due = session.exec(_LOOK, params={"now": now}).one()
        if paused_at or (head is None and due is None):
            return []  # an idle worker takes no lock
        with self._db.write() as session:
            version, paused_at = session.exec(NEXT).one()
            if paused_at:
                return []
            if due is not None:
                session.exec(_make_due(now))
            chosen, near = _choose(session, model)
            if chosen is None:  # another worker was faster
                return []
            values = _lease(worker_id, now, lease_s) | {"version": version}
            jobs = session.exec(_take(chosen, near, limit, values), execution_options=NO_SYNC).scalars().all()
        claims = [self._as_claim(job) for job in sorted(jobs, key=lambda job: (job.place, job.id))]
        return [claim for claim in claims if claim]

    def _as_claim(self, job: Job) -> Claim | None:
        """A row may make no request any more, since bounds have changed or somebody edited it: then its job fails."""
        assert job.lease_token is not None and job.started_at is not None
        waited_s = None if job.retry_count else (job.started_at - job.queued_at).total_seconds()
        try:
            return Claim(job.job_id, job.lease_token, job.request, job.retry_count, waited_s)
        except ValidationError as error:
            wrong = "; ".join(f"{field}: {message}" for field, message in describe(error))
            values = self._failed(wrong, job.retry_count, None)
            self._report(job.job_id, job.lease_token, Outcome.FAILED, wrong, **values)
            return None

    def heartbeat(self, worker_id: str, tokens: Collection[str], lease_s: float) -> set[str]:
        """Extend the leases; return the tokens that still hold."""
        if not tokens:
            return set()
        held = and_(processing, col(Job.worker_id) == worker_id, col(Job.lease_token).in_(tokens))
        statement = update(Job).where(held).values(lease_until=self._now() + timedelta(seconds=lease_s))
        with self._db.write() as session:
            return {token for (token,) in session.exec(statement.returning(col(Job.lease_token))).all() if token}

    def advance(self, claim: Claim, step: Step, progress: float, loaded_s: float | None = None) -> None:
        """Say how far the job is; `progress` 0..1. `loaded_s`: its model has been loaded in so many seconds.
        Raises LeaseLost."""
        facts: dict[str, Any] = {} if loaded_s is None else {"load_seconds": loaded_s}
        if step is Step.ENCODING_PROMPT:
            facts["admitted_at"] = self._now()
        self._report(claim.job_id, claim.token, current_step=step, progress=progress, **facts)

    def complete(self, claim: Claim, track: Track) -> Job:
        """The job's audio is on disk. Raises LeaseLost: then the file is nobody's."""
        return self._report(
            claim.job_id,
            claim.token,
            Outcome.COMPLETED,
            **ended(JobStatus.COMPLETED, self._now()),
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
            together=track.together,
        )

    def fail(self, claim: Claim, message: str, retry_in_s: float | None, stack_trace: str | None = None) -> Job:
        """An attempt failed: the next one starts after `retry_in_s` seconds, or there is none. Raises LeaseLost."""
        values = self._failed(message, claim.retry_count, retry_in_s)
        return self._report(claim.job_id, claim.token, Outcome.FAILED, message, stack_trace, **values)

    def release(self, claim: Claim) -> Job:
        """Hand a job back as it was, to its old place; the attempt does not count. Raises LeaseLost."""
        return self._report(claim.job_id, claim.token, **_WAITS)

    def _report(
        self, job_id: str, token: str, end: Outcome | None = None, error: str | None = None, stack: str | None = None,
        **values: Any,
    ) -> Job:  # fmt: skip
        held = and_(col(Job.job_id) == job_id, processing, col(Job.lease_token) == token)
        with self._db.write() as session:
            version = next_version(session)
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
            values["error_message"] = error and storable(error)[:ERROR_MAX]
            values["stack_trace"] = stack and storable(stack)[-STACK_MAX:]
            session.add(Attempt.model_validate(values))

    def _failed(self, message: str, retry_count: int, retry_in_s: float | None) -> dict[str, Any]:
        message = storable(message)[:ERROR_MAX]
        now = self._now()
        if retry_in_s is None:
            return {**ended(JobStatus.FAILED, now), "error_message": message}
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
                return Recovered(count_waiting(session), [])
        with self._db.write() as session:
            version = next_version(session)
            # Skips rows locked by a heartbeat: that worker is alive.
            jobs = session.exec(select(Job).where(lost).order_by(col(Job.id)).with_for_update(skip_locked=True))
            interrupted = list(jobs)
            for job in interrupted:
                this = col(Job.id) == job.id
                values = self._failed(INTERRUPTED, job.retry_count, retry_in_s(job.retry_count))
                self._keep_attempt(session, this, Outcome.INTERRUPTED, INTERRUPTED)
                _change(session, this, version=version, **values)
            session.exec(delete(Worker).where(col(Worker.worker_id).in_(dead)))
            waits = count_waiting(session)
        return Recovered(waits, [job.job_id for job in interrupted])

    # Everybody looks

    def get(self, job_id: str) -> Job:
        """Raises JobNotFound."""
        with self._db.read() as session:
            return _find(session, job_id)

    def batch(self, batch_id: str) -> Jobs:
        """The jobs of a batch, in its order. Raises BatchNotFound."""
        with self._db.read() as session:
            return _find_batch(session, batch_id)

    def batches(self, batch_ids: Collection[str]) -> Jobs:
        """The jobs of those of the batches that exist, in the order in which they came."""
        rows = select(Job).where(col(Job.batch_id).in_(batch_ids)).order_by(col(Job.id))
        with self._db.read() as session:
            return list(session.exec(rows))

    def attempts(self, job_id: str) -> list[Attempt]:
        """Those at a job that have ended, the first one first. Raises JobNotFound."""
        order = (col(Attempt.series), col(Attempt.number))
        with self._db.read() as session:
            _find(session, job_id)
            return list(session.exec(select(Attempt).where(col(Attempt.job_id) == job_id).order_by(*order)))

    def stats(self) -> QueueStats:
        """The queue in six figures, exact."""
        with self._db.read() as session:
            counts = {status: _count(session, has_status(status)) for status in JobStatus if status != "pending"}
            counts[JobStatus.PENDING] = count_waiting(session)
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

    def changed(self, job_ids: Collection[str], version: int) -> Jobs:
        """Those of the given jobs that changed after `version`, as they are now."""
        where = and_(col(Job.job_id).in_(job_ids), col(Job.version) > version)
        with self._db.read() as session:
            return list(session.exec(select(Job).where(where)))

    def places(self, jobs: Collection[Job]) -> dict[str, Place]:
        """Where those of the jobs stand that wait or are being made, by job id."""
        now = self._now()
        with self._db.read() as session:
            return places_of(session, jobs, now, self._alive)

    def forecast(self, work: Collection[tuple[str, float]]) -> float:
        """Seconds until jobs of these models and seconds of audio would have finished, put in at the back now."""
        now = self._now()
        with self._db.read() as session:
            return forecast(session, work, now, self._alive)

    def is_track(self, filename: str) -> bool:
        """Whether a job has this file."""
        with self._db.read() as session:
            return session.exec(select(exists().where(col(Job.filename) == filename))).one()

    def tracks(self, job_ids: Sequence[str]) -> dict[str, str | None]:
        """The files of those of the jobs that have ended; None for one that has none."""
        ended = [has_status(status) for status in JobStatus if status.ended]
        rows = select(col(Job.job_id), col(Job.filename)).where(or_(*ended))
        found: dict[str, str | None] = {}
        with self._db.read() as session:
            for first in range(0, len(job_ids), NAMES_AT_ONCE):
                asked = job_ids[first : first + NAMES_AT_ONCE]
                found.update(session.exec(rows.where(col(Job.job_id).in_(asked))).all())
        return found

    def list(self, status: JobStatus | None, page: int, page_size: int, search: str | None = None) -> tuple[Jobs, int]:
        """A page of jobs, newest first, and how many there are; `page` counts from 1.

        `search`: only jobs with this in their prompt or id, in capitals or not.
        """
        assert page >= 1 and page_size >= 1
        where = [] if status is None else [has_status(status)]
        if search:
            where.append(_mentions(search))
        rows = select(Job).where(*where).order_by(col(Job.id).desc())
        with self._db.read() as session:
            total = _total(session, status, where)
            return list(session.exec(rows.offset((page - 1) * page_size).limit(page_size))), total

    def upcoming(self, page: int, page_size: int, search: str | None = None) -> tuple[Jobs, int]:
        """A page of the jobs that wait, the next to start first, and how many there are; otherwise as `list`."""
        skip, total = (page - 1) * page_size, 0
        jobs: Jobs = []
        with self._db.read() as session:
            for number, lane in enumerate(LANES):
                where = [lane, _mentions(search)] if search else [lane]
                rows = select(Job).where(*where).order_by(*CLAIM_ORDER)
                jobs += session.exec(rows.offset(max(0, skip - total)).limit(page_size - len(jobs)))
                total += _count(session, and_(*where)) if search else count_waiting(session, number)
        return jobs, total


# Changes

_WAITS: dict[str, Any] = {
    **UNLEASED,
    "status": JobStatus.PENDING,
    "current_step": Step.QUEUED,
    "progress": 0.0,
    "started_at": None,
    "admitted_at": None,
    "not_before": None,
}


def _change(session: Session, where: ColumnElement[bool], **values: Any) -> Job | None:
    """Change the one row that passes the guard, with all that follows; None when it did not."""
    statement = update(Job).where(where).values(**values).returning(Job)
    job = session.exec(statement, execution_options=NO_SYNC).scalars().one_or_none()
    if job is not None and "status" in values:
        follow_up(session, job)
    return job


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


def _total(session: Session, status: JobStatus | None, where: Sequence[ColumnElement[bool]]) -> int:
    if status is JobStatus.PENDING and len(where) == 1:
        return count_waiting(session)
    return session.exec(select(func.count()).select_from(Job).where(*where)).one()


def _paused_at(session: Session) -> datetime | None:
    return session.exec(select(col(Ledger.paused_at))).one()


def _mentions(search: str) -> ColumnElement[bool]:
    return or_(*(_contains(column, search) for column in (col(Job.prompt), col(Job.job_id))))


def _contains(column: Any, search: str) -> ColumnElement[bool]:
    result: ColumnElement[bool] = func.lower(column).contains(storable(search).lower(), autoescape=True)
    return result


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


# Whether the queue is paused, the first that may start, and the first whose next attempt is due: three ways for a claim
# to end before it takes the lock.
_HEAD = select(col(Job.id)).where(claimable).order_by(*CLAIM_ORDER).limit(1)
_IS_DUE = and_(waiting, col(Job.not_before) <= bindparam("now", type_=UTCDateTime()))
_DUE = select(col(Job.id)).where(_IS_DUE).order_by(col(Job.not_before)).limit(1)
_LOOK = select(col(Ledger.paused_at), _HEAD.scalar_subquery(), _DUE.scalar_subquery())


def _make_due(now: datetime) -> Update:
    """Jobs that wait for a retry are not in the claim's index (100k of them cut claims fivefold) until they are due."""
    due = (
        select(col(Job.id)).where(waiting, col(Job.not_before) <= now).order_by(col(Job.not_before)).limit(DUE_AT_ONCE)
    )
    return update(Job).where(col(Job.id).in_(due)).values(not_before=None).execution_options(synchronize_session=False)


def _choose(session: Session, loaded: str | None) -> tuple[str | None, int | None]:
    """The model to claim for, and up to which place (None: any)."""
    order = select(col(Job.model), col(Job.place)).where(claimable).order_by(*CLAIM_ORDER)
    head = session.exec(order.limit(1)).one_or_none()
    if head is None:
        return None, None
    model, place = head
    near = place + round(OVERTAKE_S * 1e6)
    may = and_(claimable, col(Job.model) == loaded, col(Job.place) <= near)
    if loaded in (None, model) or not session.exec(select(exists().where(may))).one():
        return model, None
    return loaded, near


def _take(model: str, near: int | None, limit: int, values: dict[str, Any]) -> ReturningUpdate[Job]:
    """One statement on both databases: pick the first rows that nobody has locked, take them, return them."""
    may = and_(claimable, col(Job.model) == model, *([] if near is None else [col(Job.place) <= near]))
    picked = select(col(Job.id)).where(may).order_by(*CLAIM_ORDER).limit(limit).with_for_update(skip_locked=True)
    ids = select(picked.cte("picked").c.id)
    return update(Job).where(col(Job.id).in_(ids), pending).values(**values).returning(Job)
