"""The rows: jobs, their attempts, workers, and the ledger that numbers every change. Knows columns and indexes, no
rules.

Make rows with `model_validate`: a SQLModel table class accepts invalid values silently.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Enum, Index, String, Text, literal_column, text
from sqlmodel import Field, SQLModel, col

from studio.schemas import PROMPT_MAX, GenerationRequest, JobStatus, Outcome, Step, utcnow

JOB_ID_BYTES = 10  # of randomness: 20 hex digits


def new_job_id() -> str:
    """`gen_` and 20 lower-case hex digits."""
    return f"gen_{secrets.token_hex(JOB_ID_BYTES)}"


def _values(enum: type[JobStatus] | type[Step] | type[Outcome]) -> Enum:
    """Stored as its value in a plain string column, so that a new member needs no migration."""
    return Enum(enum, native_enum=False, length=32, values_callable=lambda members: [m.value for m in members])


class Job(SQLModel, table=True):
    """A request on its way to a track. `studio.store.queue` alone changes `status`."""

    __tablename__ = "generations"

    id: int | None = Field(default=None, primary_key=True)
    job_id: str = Field(default_factory=new_job_id, sa_type=String(40), unique=True, index=True)
    batch_id: str | None = Field(default=None, sa_type=String(40))

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

    priority: int = 0  # the least goes first
    queued_at: datetime = Field(default_factory=utcnow)  # the place among equals; a retry by hand goes to the back
    series: int = 1  # of attempts; a retry by hand begins the next
    retry_count: int = 0  # within the series
    not_before: datetime | None = None  # waits for its next attempt until then; null: may start

    lease_token: str | None = Field(default=None, sa_type=String(64))
    lease_until: datetime | None = None
    worker_id: str | None = Field(default=None, sa_type=String(100))

    generation_time_seconds: float | None = None
    device: str | None = None
    precision: str | None = None
    filename: str | None = None
    track_duration: float | None = None  # seconds
    sample_rate: int | None = None  # Hz
    channels: int | None = None
    file_size_bytes: int | None = Field(default=None, sa_type=BigInteger)
    format: str | None = None

    error_message: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=utcnow)
    started_at: datetime | None = None
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
    job_id: str = Field(sa_type=String(40), foreign_key="generations.job_id", ondelete="CASCADE")
    series: int
    number: int  # within the series, from 1
    outcome: Outcome = Field(sa_type=_values(Outcome))
    started_at: datetime
    ended_at: datetime
    error_message: str | None = Field(default=None, sa_type=Text)
    stack_trace: str | None = Field(default=None, sa_type=Text)
    worker_id: str | None = Field(default=None, sa_type=String(100))


class Worker(SQLModel, table=True):
    """A process that takes jobs, as it said of itself at its last beat."""

    __tablename__ = "workers"

    worker_id: str = Field(primary_key=True, sa_type=String(100))
    host: str
    pid: int = Field(sa_type=BigInteger)
    process_started_at: float  # seconds since the epoch: tells a process from a later one with the same pid
    device: str | None = None
    model: str | None = None  # the loaded one
    beat_at: datetime = Field(default_factory=utcnow)


class Ledger(SQLModel, table=True):
    """One row. Every transaction that changes jobs takes the next number here first, and so waits for the one before:
    numbers become visible in their order, and a reader that has seen N has missed nothing up to N."""

    __tablename__ = "ledger"

    id: int = Field(default=1, primary_key=True)
    version: int = Field(default=0, sa_type=BigInteger)


# Statuses are literals in predicates and queries: PostgreSQL's generic plans miss a partial index otherwise.
def has_status(status: JobStatus) -> ColumnElement[bool]:
    return col(Job.status) == literal_column(f"'{status.value}'")


pending = has_status(JobStatus.PENDING)
processing = has_status(JobStatus.PROCESSING)
completed = has_status(JobStatus.COMPLETED)
claimable = pending & col(Job.not_before).is_(None)
waiting = pending & col(Job.not_before).is_not(None)


def _partial(name: str, where: str, *columns: Any) -> Index:
    return Index(f"ix_generations_{name}", *columns, sqlite_where=text(where), postgresql_where=text(where))


CLAIM_ORDER = (col(Job.priority), col(Job.queued_at), col(Job.id))

_partial("claim", "status = 'pending' AND not_before IS NULL", *CLAIM_ORDER)
_partial("claim_model", "status = 'pending' AND not_before IS NULL", col(Job.model), *CLAIM_ORDER, col(Job.duration))
_partial("due", "status = 'pending' AND not_before IS NOT NULL", col(Job.not_before), col(Job.id))
_partial("oldest", "status = 'pending'", col(Job.queued_at))
_partial("finished", "status = 'completed'", col(Job.model), col(Job.id))
_partial("batch", "batch_id IS NOT NULL", col(Job.batch_id), col(Job.id))
_partial("filename", "filename IS NOT NULL", col(Job.filename))
# One for each status: before one for all of them, (status, id), SQLite's planner passes by the claim's.
_partial("pending", "status = 'pending'", col(Job.id))
_partial("processing", "status = 'processing'", col(Job.id))
_partial("completed", "status = 'completed'", col(Job.id))
_partial("failed", "status = 'failed'", col(Job.id))
_partial("cancelled", "status = 'cancelled'", col(Job.id))
Index("ix_generations_version", col(Job.version))
