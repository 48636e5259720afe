"""The queue: jobs, workers, and the ledger of changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

WHEN = sa.DateTime(timezone=True)
CLAIMABLE = "status = 'pending' AND not_before IS NULL"


def upgrade() -> None:
    _generations()
    _indexes()
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.String(100), primary_key=True),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("process_started_at", sa.Float(), nullable=False),
        sa.Column("device", sa.String()),
        sa.Column("model", sa.String()),
        sa.Column("beat_at", WHEN, nullable=False),
    )
    ledger = op.create_table(
        "ledger",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(ledger, [{"id": 1, "version": 0}])


def _generations() -> None:
    op.create_table(
        "generations",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("batch_id", sa.String(40)),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("current_step", sa.String(32), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("prompt", sa.String(500), nullable=False),
        sa.Column("model", sa.String(500), nullable=False),
        sa.Column("duration", sa.Float(), nullable=False),
        sa.Column("temperature", sa.Float(), nullable=False),
        sa.Column("top_k", sa.Integer(), nullable=False),
        sa.Column("top_p", sa.Float(), nullable=False),
        sa.Column("cfg_coef", sa.Float(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("queued_at", WHEN, nullable=False),
        sa.Column("retry_count", sa.Integer(), nullable=False),
        sa.Column("not_before", WHEN),
        sa.Column("lease_token", sa.String(64)),
        sa.Column("lease_until", WHEN),
        sa.Column("worker_id", sa.String(100)),
        sa.Column("generation_time_seconds", sa.Float()),
        sa.Column("device", sa.String()),
        sa.Column("precision", sa.String()),
        sa.Column("filename", sa.String()),
        sa.Column("track_duration", sa.Float()),
        sa.Column("sample_rate", sa.Integer()),
        sa.Column("channels", sa.Integer()),
        sa.Column("file_size_bytes", sa.BigInteger()),
        sa.Column("format", sa.String()),
        sa.Column("error_message", sa.Text()),
        sa.Column("created_at", WHEN, nullable=False),
        sa.Column("started_at", WHEN),
        sa.Column("completed_at", WHEN),
        sa.Column("version", sa.BigInteger(), nullable=False),
    )


def _indexes() -> None:
    _index("job_id", "job_id", unique=True)
    _index("version", "version")
    _index("claim", "priority", "queued_at", "id", where=CLAIMABLE)
    _index("claim_model", "model", "priority", "queued_at", "id", "duration", where=CLAIMABLE)
    _index("due", "not_before", "id", where="status = 'pending' AND not_before IS NOT NULL")
    _index("oldest", "queued_at", where="status = 'pending'")
    _index("finished", "model", "id", where="status = 'completed'")
    _index("filename", "filename", where="filename IS NOT NULL")
    for status in ("pending", "processing", "completed", "failed", "cancelled"):
        _index(status, "id", where=f"status = '{status}'")


def _index(name: str, *columns: str, unique: bool = False, where: str | None = None) -> None:
    predicate = sa.text(where) if where else None
    op.create_index(
        f"ix_generations_{name}", "generations", list(columns),
        unique=unique, sqlite_where=predicate, postgresql_where=predicate,
    )  # fmt: skip
