"""What was answered to requests that carry an idempotency key, so that one that is sent twice is one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlmodel import Session, col

from studio.errors import InvalidRequest
from studio.store.tables import Answer

ANSWERS_KEPT = timedelta(hours=24)  # an idempotency key is known for so long


@dataclass(frozen=True)
class IdempotencyKey:
    """What makes requests that are sent twice one: the same key from the same client, and the same asked for."""

    client: str
    key: str
    fingerprint: str  # of what is asked for


def known_answer(session: Session, asked: IdempotencyKey, now: datetime) -> str | None:
    """What was answered to the same request before. Raises InvalidRequest."""
    row = session.get(Answer, (asked.client, asked.key))
    if row is None or row.created_at <= now - ANSWERS_KEPT:
        return None
    if row.fingerprint != asked.fingerprint:
        raise InvalidRequest("Idempotency-Key", "This key has come with another request before.")
    return row.answer


def keep_answer(session: Session, asked: IdempotencyKey, text: str, now: datetime) -> None:
    """Keep an answer, and forget those that are too old."""
    session.exec(delete(Answer).where(col(Answer.created_at) <= now - ANSWERS_KEPT))
    values = {"client": asked.client, "key": asked.key, "fingerprint": asked.fingerprint}
    session.add(Answer.model_validate({**values, "answer": text, "created_at": now}))
