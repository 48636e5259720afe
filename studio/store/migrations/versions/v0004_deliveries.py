"""Webhooks: where a job's end is told, and the outbox of what is still to be delivered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

WHEN = sa.DateTime(timezone=True)
UNDELIVERED = sa.text("status = 'pending'")


def upgrade() -> None:
    op.add_column("generations", sa.Column("webhook_url", sa.String(2000)))
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("delivery_id", sa.String(40), nullable=False),
        sa.Column("job_id", sa.String(40), sa.ForeignKey("generations.job_id", ondelete="CASCADE"), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", WHEN),
        sa.Column("lease_token", sa.String(64)),
        sa.Column("attempted_at", WHEN),
        sa.Column("response_status", sa.Integer()),
        sa.Column("error_message", sa.Text()),
        sa.Column("created_at", WHEN, nullable=False),
        sa.Column("ended_at", WHEN),
    )
    op.create_index("ix_deliveries_delivery_id", "deliveries", ["delivery_id"], unique=True)
    op.create_index("ix_deliveries_job", "deliveries", ["job_id", "id"])
    op.create_index(
        "ix_deliveries_due", "deliveries", ["due_at", "id"],
        sqlite_where=UNDELIVERED, postgresql_where=UNDELIVERED,
    )  # fmt: skip
