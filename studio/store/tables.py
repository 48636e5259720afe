"""The rows: jobs, their attempts, waits and deliveries, what was answered to requests with a key, workers, and the
ledger that numbers every change. Knows columns, indexes and the order of jobs, no rules.

Make rows with `model_validate`: a SQLModel table class accepts invalid values silently.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Dialect,
    Enum,
    Index,
    String,
    Text,
    TypeDecorator,
    literal_column,
    text,
)
from sqlmodel import Field, SQLModel, col

from studio.schemas import (
    KEY_MAX,
    PROMPT_MAX,
    URL_MAX,
    DeliveryStatus,
    GenerationRequest,
    JobStatus,
    Outcome,
    Step,
    utcnow,
)

JOB_ID_BYTES = 10  # of randomness: 20 hex digits


def new_job_id() -> str:
    """`gen_` and 20 lower-case hex digits."""
    return f"gen_{secrets.token_hex(JOB_ID_BYTES)}"


def new_delivery_id() -> str:
    """`msg_` and 24 lower-case hex digits."""
    return f"msg_{secrets.token_hex(12)}"


def storable(words: str) -> str:
    """PostgreSQL stores no NUL, neither database a lone surrogate."""
    return words.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


class Name(TypeDecorator[str]):
    """An id that the studio gave. Whatever else somebody looks for, a NUL in it say, is found nowhere: no error."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value and storable(value)


def _values(enum: type[JobStatus] | type[Step] | type[Outcome] | type[DeliveryStatus]) -> Enum:
    """Stored as its value in a plain string column, so that a new member needs no migration."""
    return Enum(enum, native_enum=False, length=32, values_callable=lambda members: [m.value for m in members])


class Job(SQLModel, table=True):
    """A request on its way to a track. `studio.store` alone changes `status`."""

    __tablename__ = "generations"

    id: int | None = Field(default=None, primary_key=True)
    job_id: str = Field(default_factory=new_job_id, sa_type=Name(40), unique=True, index=True)
    batch_id: str | None = Field(default=None, sa_type=Name(40))

    status: JobStatus = Field(default=JobStatus.PENDING, sa_type=_values(JobStatus))
    current_step: Step = Field(default=Step.QUEUED, sa_type=_values(Step))
    progress: float = 0.0  # 0..1

    prompt: str = Field(sa_type=String(PROMPT_MAX))
    model: str = Field(sa_type=String(500))
    duration: float  # seconds
    temperature: float
    top_k: int
    top_p: float
    cfg_coef: float
    seed: int = Field(sa_type=BigInteger)
    webhook_url: str | None = Field(default=None, sa_type=String(URL_MAX))
    continue_from: str | None = Field(default=None, sa_type=Name(40))  # the id of a completed job, or of a clip
    continue_seconds: float | None = None  # of it are kept

    priority: int = 0  # the highest goes first
    queued_at: datetime = Field(default_factory=utcnow)  # a retry by hand begins to wait anew
    place: int = Field(sa_type=BigInteger)  # the least goes first: `place_at`, or before all others by hand
    after: list[str] = Field(default_factory=list, sa_type=JSON)  # ids of jobs that must be completed first
    waits_for: int = 0  # how many of them are not yet: its rows in `waits`
    series: int = 1  # of attempts; a retry by hand begins the next
    retry_count: int = 0  # within the series
    not_before: datetime | None = None  # waits for its next attempt until then; null: may start

    lease_token: str | None = Field(default=None, sa_type=String(64))
    lease_until: datetime | None = None
    worker_id: str | None = Field(default=None, sa_type=String(100))

    load_seconds: float | None = None  # that its model took to load; null: it was there
    generation_time_seconds: float | None = None
    together: float | None = None  # requests decoded with it, itself included; the mean of its steps
    device: str | None = None
    precision: str | None = None
    filename: str | None = Field(default=None, sa_type=Name)
    track_duration: float | None = None  # seconds
    sample_rate: int | None = None  # Hz
    channels: int | None = None
    file_size_bytes: int | None = Field(default=None, sa_type=BigInteger)
    format: str | None = None

    error_message: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=utcnow)
    started_at: datetime | None = None
    admitted_at: datetime | None = None  # to a slot: its model is loaded
    completed_at: datetime | None = None  # when it ended, however it ended
    version: int = Field(default=0, sa_type=BigInteger)  # the ledger's number of its last change

    @property
    def request(self) -> GenerationRequest:
        """What was asked for, model and seed filled in."""
        return GenerationRequest(**{name: getattr(self, name) for name in GenerationRequest.model_fields})


class Attempt(SQLModel, table=True):
    """An attempt at a job that has ended. One that a worker handed back has not."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_job", "job_id", "series", "number", unique=True),)

    id: int | None = Field(default=None, primary_key=True)
    job_id: str = Field(sa_type=Name(40), foreign_key="generations.job_id", ondelete="CASCADE")
    series: int
    number: int  # within the series, from 1
    outcome: Outcome = Field(sa_type=_values(Outcome))
    started_at: datetime
    ended_at: datetime
    error_message: str | None = Field(default=None, sa_type=Text)
    stack_trace: str | None = Field(default=None, sa_type=Text)
    worker_id: str | None = Field(default=None, sa_type=String(100))


class Delivery(SQLModel, table=True):
    """An ended job on its way to the job's `webhook_url`, written in the transaction that ended it."""

    __tablename__ = "deliveries"
    __table_args__ = (Index("ix_deliveries_job", "job_id", "id"),)

    id: int | None = Field(default=None, primary_key=True)
    delivery_id: str = Field(default_factory=new_delivery_id, sa_type=String(40), unique=True, index=True)
    job_id: str = Field(sa_type=Name(40), foreign_key="generations.job_id", ondelete="CASCADE")
    job: str = Field(sa_type=Text)  # its row as it ended, in JSON: it may be retried by hand before this is delivered
    status: DeliveryStatus = Field(default=DeliveryStatus.PENDING, sa_type=_values(DeliveryStatus))
    attempts: int = 0  # begun
    due_at: datetime | None = None  # of the next attempt; while one is under way, when it counts as lost
    lease_token: str | None = Field(default=None, sa_type=String(64))
    attempted_at: datetime | None = None  # the last time
    response_status: int | None = None  # of the last attempt; null when there was no answer
    error_message: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=utcnow)
    ended_at: datetime | None = None


class Wait(SQLModel, table=True):
    """A job that may not start before another is completed. The row goes when that is, or when the job ends."""

    __tablename__ = "waits"

    after_id: str = Field(primary_key=True, sa_type=Name(40), foreign_key="generations.job_id", ondelete="CASCADE")
    job_id: str = Field(
        primary_key=True, sa_type=Name(40), foreign_key="generations.job_id", ondelete="CASCADE", index=True
    )


class Depth(SQLModel, table=True):
    """How many jobs wait in a stretch of places: those with `place >> shift == bucket`, of one lane and model.

    Triggers of the database keep it (migration 0005), so no change of a job passes it by; a place in the queue is then
    a sum over a few hundred rows at most, however many jobs wait. Rows of no jobs go.
    """

    __tablename__ = "depths"

    lane: int = Field(primary_key=True)
    shift: int = Field(primary_key=True)
    bucket: int = Field(primary_key=True, sa_type=BigInteger)
    model: str = Field(primary_key=True, sa_type=String(500))
    jobs: int
    milliseconds: int = Field(sa_type=BigInteger)  # of audio to make


class Answer(SQLModel, table=True):
    """What was answered to a request that carried an idempotency key: sent again, it is answered so again."""

    __tablename__ = "answers"

    client: str = Field(primary_key=True, sa_type=String(100))
    key: str = Field(primary_key=True, sa_type=String(KEY_MAX))
    fingerprint: str = Field(sa_type=String(64))  # of what was asked
    answer: str = Field(sa_type=Text)  # in JSON
    created_at: datetime = Field(default_factory=utcnow, index=True)


class Worker(SQLModel, table=True):
    """A process that takes jobs, as it said of itself at its last beat."""

    __tablename__ = "workers"

    worker_id: str = Field(primary_key=True, sa_type=String(100))
    host: str
    pid: int = Field(sa_type=BigInteger)
    process_started_at: float  # seconds since the host's start: tells a process from a later one with the same pid
    device: str | None = None
    model: str | None = None  # the loaded one
    slots: int = 1  # requests that it decodes together, at present
    beat_at: datetime = Field(default_factory=utcnow)


class Ledger(SQLModel, table=True):
    """One row. Every transaction that changes jobs takes the next number here first, and so waits for the one before:
    numbers become visible in their order, and a reader that has seen N has missed nothing up to N. And whether the
    queue is paused: who takes a number knows."""

    __tablename__ = "ledger"

    id: int = Field(default=1, primary_key=True)
    version: int = Field(default=0, sa_type=BigInteger)
    paused_at: datetime | None = None  # null: jobs are started


# Statuses are literals in predicates and queries: PostgreSQL's generic plans miss a partial index otherwise.
def has_status(status: JobStatus) -> ColumnElement[bool]:
    return col(Job.status) == literal_column(f"'{status.value}'")


pending = has_status(JobStatus.PENDING)
processing = has_status(JobStatus.PROCESSING)
completed = has_status(JobStatus.COMPLETED)
_nothing: ColumnElement[int] = literal_column("0")
claimable = pending & col(Job.not_before).is_(None) & (col(Job.waits_for) == _nothing)
waiting = pending & col(Job.not_before).is_not(None)  # for the next attempt
blocked = pending & (col(Job.waits_for) > _nothing)  # by jobs that must be completed first
LANES = (claimable, waiting, blocked)  # disjoint, and all that is pending; a job's lane is a number here


def lane_of(job: Job) -> int:
    """Which of `LANES` a pending job is in."""
    return 2 if job.waits_for else 1 if job.not_before else 0


def _partial(name: str, where: str, *columns: Any) -> Index:
    return Index(f"ix_generations_{name}", *columns, sqlite_where=text(where), postgresql_where=text(where))


PRIORITY_STEP_S = 300.0  # a job of one priority less goes first if it has waited so much longer
SHIFTS = (20, 26, 32, 38)  # stretches of places, in powers of two of microseconds: 1 s, 67 s, 72 min, 3 days
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def place_at(queued_at: datetime, priority: int) -> int:
    """Microseconds since 1970: when it was queued, earlier by a step for each priority. No job starves: none that
    comes more than twenty steps later goes before it."""
    return (queued_at - timedelta(seconds=PRIORITY_STEP_S * priority) - _EPOCH) // timedelta(microseconds=1)


CLAIM_ORDER = (col(Job.place), col(Job.id))
_CLAIMABLE = "status = 'pending' AND not_before IS NULL AND waits_for = 0"

_partial("claim", _CLAIMABLE, *CLAIM_ORDER, col(Job.model), col(Job.duration))
_partial("claim_model", _CLAIMABLE, col(Job.model), *CLAIM_ORDER)
_partial("waiting", "status = 'pending' AND not_before IS NOT NULL", *CLAIM_ORDER)
_partial("blocked", "status = 'pending' AND waits_for > 0", *CLAIM_ORDER)
_partial("due", "status = 'pending' AND not_before IS NOT NULL", col(Job.not_before), col(Job.id))
_partial("oldest", "status = 'pending'", col(Job.queued_at))
_partial("finished", "status = 'completed'", col(Job.model), col(Job.id))
_partial("loaded", "load_seconds IS NOT NULL", col(Job.model), col(Job.id))
_partial("batch", "batch_id IS NOT NULL", col(Job.batch_id), col(Job.id))
_partial("filename", "filename IS NOT NULL", col(Job.filename))
# One for each status: before one for all of them, (status, id), SQLite's planner passes by the claim's.
_partial("pending", "status = 'pending'", col(Job.id))
_partial("processing", "status = 'processing'", col(Job.id))
_partial("completed", "status = 'completed'", col(Job.id))
_partial("failed", "status = 'failed'", col(Job.id))
_partial("cancelled", "status = 'cancelled'", col(Job.id))

undelivered = col(Delivery.status) == literal_column(f"'{DeliveryStatus.PENDING.value}'")
_undelivered = text("status = 'pending'")
Index(
    "ix_deliveries_due", col(Delivery.due_at), col(Delivery.id),
    sqlite_where=_undelivered, postgresql_where=_undelivered,
)  # fmt: skip
