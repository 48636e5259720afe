"""The outbox: a row for each job that ended and names a webhook, until somebody has taken it there.

The row is written by `announce` in the transaction that ends the job, so that no end is forgotten and none is made up.
A dispatcher *claims* rows with a token; one that dies leaves them due again. Knows no HTTP; times are the database's.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, update
from sqlmodel import Session, col, select

from studio.errors import JobNotFound
from studio.schemas import DeliveryStatus, JobStatus
from studio.store.db import NO_SYNC, Database
from studio.store.ledger import next_version
from studio.store.tables import Delivery, Job, undelivered

ERROR_MAX = 500  # characters


@dataclass(frozen=True)
class DeliveryClaim:
    """A dispatcher's hold on a delivery."""

    delivery_id: str
    token: str
    attempt: int  # from 1
    job: Job  # as it ended


def announce(session: Session, job: Job) -> None:
    """The job has changed: if it has ended, and somebody wants to hear of it, that is now in the outbox."""
    if job.webhook_url is None or not JobStatus(job.status).ended:
        return
    fields = {"job_id": job.job_id, "job": job.model_dump_json(), "created_at": job.completed_at}
    session.add(Delivery.model_validate({**fields, "due_at": job.completed_at}))


def job_of(delivery: Delivery) -> Job:
    """The job as it ended."""
    return Job.model_validate(json.loads(delivery.job))  # a table class's model_validate_json does not validate


class Outbox:
    """The deliveries of a database. Thread-safe; each method is one short transaction."""

    def __init__(self, db: Database, now: Callable[[], datetime] | None = None) -> None:
        self._db = db
        self._now = now or db.now

    def claim(self, limit: int, lease_s: float) -> list[DeliveryClaim]:
        """Take up to `limit` deliveries that are due, the longest due first. After `lease_s` they are due again."""
        assert limit >= 1
        now = self._now()
        due = and_(undelivered, col(Delivery.due_at) <= now)
        first = select(col(Delivery.id)).where(due).order_by(col(Delivery.due_at), col(Delivery.id)).limit(limit)
        if not self._any(first):
            return []  # an idle dispatcher takes no lock
        token = secrets.token_hex(12)
        values = {
            "lease_token": token, "attempts": col(Delivery.attempts) + 1, "attempted_at": now,
            "due_at": now + timedelta(seconds=lease_s),
        }  # fmt: skip
        ids = select(first.with_for_update(skip_locked=True).cte("picked").c.id)
        take = update(Delivery).where(col(Delivery.id).in_(ids), due).values(**values).returning(Delivery)
        with self._db.write() as session:
            rows = session.exec(take, execution_options=NO_SYNC).scalars().all()
        return [
            DeliveryClaim(row.delivery_id, token, row.attempts, job_of(row))
            for row in sorted(rows, key=lambda row: row.id or 0)
        ]

    def _any(self, statement: Any) -> bool:
        with self._db.read() as session:
            return session.exec(statement.limit(1)).first() is not None

    def delivered(self, claim: DeliveryClaim, status: int) -> bool:
        """The receiver said `status`, and is content. False: another dispatcher has taken over."""
        return self._report(claim, response_status=status, error_message=None, **self._end(DeliveryStatus.DELIVERED))

    def failed(self, claim: DeliveryClaim, error: str, status: int | None, retry_in_s: float | None) -> bool:
        """An attempt failed: the next one starts after `retry_in_s` seconds, or there is none. False: as above."""
        error = error.replace("\0", "\ufffd").encode("utf-8", "replace").decode()[:ERROR_MAX]
        values = (
            self._end(DeliveryStatus.ABANDONED)
            if retry_in_s is None
            else {"due_at": self._now() + timedelta(seconds=retry_in_s)}
        )
        return self._report(claim, response_status=status, error_message=error, **values)

    def _end(self, status: DeliveryStatus) -> dict[str, Any]:
        return {"status": status, "due_at": None, "ended_at": self._now()}

    def _report(self, claim: DeliveryClaim, **values: Any) -> bool:
        held = and_(
            col(Delivery.delivery_id) == claim.delivery_id, undelivered, col(Delivery.lease_token) == claim.token
        )
        with self._db.write() as session:
            next_version(session)  # whoever watches the job sees it
            report = update(Delivery).where(held).values(**values, lease_token=None)
            return session.exec(report, execution_options=NO_SYNC).rowcount == 1

    def of_job(self, job_id: str) -> list[Delivery]:
        """A job's deliveries, the first one first. Raises JobNotFound."""
        rows = select(Delivery).where(col(Delivery.job_id) == job_id).order_by(col(Delivery.id))
        with self._db.read() as session:
            if session.exec(select(col(Job.id)).where(col(Job.job_id) == job_id)).one_or_none() is None:
                raise JobNotFound(job_id)
            return list(session.exec(rows))

    def depth(self) -> int:
        """How many deliveries wait."""
        with self._db.read() as session:
            return session.exec(select(func.count()).select_from(Delivery).where(undelivered)).one()
