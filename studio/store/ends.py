"""How a job ends, and what follows in the same transaction: who hears of it, who starts, who fails with it."""

from __future__ import annotations

import logging
from collections import deque
from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, update
from sqlmodel import Session, col, select

from studio.schemas import JobStatus, Step
from studio.store.db import NO_SYNC
from studio.store.outbox import announce
from studio.store.tables import Job, Wait, pending

logger = logging.getLogger(__name__)

UNLEASED: dict[str, Any] = {"lease_token": None, "lease_until": None, "worker_id": None}


def ended(status: JobStatus, now: datetime) -> dict[str, Any]:
    """The columns of a job that ends now."""
    return {
        **UNLEASED,
        "not_before": None,
        "waits_for": 0,
        "status": status,
        "current_step": Step(status.value),
        "completed_at": now,
    }


def follow_up(session: Session, job: Job) -> None:
    """The job has changed. If it has ended: whoever wants to hear of it will, and jobs that waited for it may start,
    or fail with it, and so on down the chain; all in the transaction that ended it."""
    ends = deque([job] if JobStatus(job.status).ended else [])
    while ends:
        job = ends.popleft()
        announce(session, job)
        if job.status is JobStatus.COMPLETED:
            _let_start(session, job)
        else:
            session.exec(delete(Wait).where(col(Wait.job_id) == job.job_id))
            ends.extend(_fail_with(session, job))


def _let_start(session: Session, job: Job) -> None:
    this = col(Wait.after_id) == job.job_id
    if session.exec(select(col(Wait.job_id)).where(this).limit(1)).one_or_none() is None:
        return
    waiters = and_(pending, col(Job.job_id).in_(select(col(Wait.job_id)).where(this)))
    values = {"waits_for": col(Job.waits_for) - 1, "version": job.version}
    session.exec(update(Job).where(waiters).values(**values), execution_options=NO_SYNC)
    session.exec(delete(Wait).where(this))


def _fail_with(session: Session, job: Job) -> list[Job]:
    this = select(col(Wait.job_id)).where(col(Wait.after_id) == job.job_id)
    assert job.completed_at is not None
    values = {**ended(JobStatus.FAILED, job.completed_at), "version": job.version}
    values["error_message"] = dependency_failed(job.job_id, job.status)
    statement = update(Job).where(and_(pending, col(Job.job_id).in_(this))).values(**values).returning(Job)
    failed = list(session.exec(statement, execution_options=NO_SYNC).scalars().all())
    for other in failed:
        logger.warning("Job failed with the one before it: %s", other.job_id, extra={"job_id": other.job_id})
    return failed


def dependency_failed(job_id: str, status: JobStatus) -> str:
    """Why a job that comes after this one fails."""
    end = "was cancelled" if status is JobStatus.CANCELLED else "has failed"
    return f"The job {job_id}, which had to be completed before this one, {end}."
