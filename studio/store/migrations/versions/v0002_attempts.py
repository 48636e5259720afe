"""Attempts: a row for each that ended; and a job's series, which a retry by hand begins anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

WHEN = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("generations", sa.Column("series", sa.Integer(), nullable=False, server_default="1"))
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_id", sa.String(40), sa.ForeignKey("generations.job_id", ondelete="CASCADE"), nullable=False),
        sa.Column("series", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("started_at", WHEN, nullable=False),
        sa.Column("ended_at", WHEN, nullable=False),
        sa.Column("error_message", sa.Text()),
        sa.Column("stack_trace", sa.Text()),
        sa.Column("worker_id", sa.String(100)),
    )
    op.create_index("ix_attempts_job", "attempts", ["job_id", "series", "number"], unique=True)
