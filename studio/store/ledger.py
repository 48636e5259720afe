"""The ledger numbers every change that somebody may watch: whoever changes something takes the next number first."""

from __future__ import annotations

from sqlalchemy import update
from sqlmodel import Session, col

from studio.store.tables import Ledger

NEXT = update(Ledger).values(version=Ledger.version + 1).returning(col(Ledger.version), col(Ledger.paused_at))


def next_version(session: Session) -> int:
    """The first statement of every change: it also makes writers wait for each other, on PostgreSQL too."""
    version, _ = session.exec(NEXT).one()
    return int(version)
