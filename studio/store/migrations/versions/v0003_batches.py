"""A batch's jobs are found by its name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NAMED = sa.text("batch_id IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        "ix_generations_batch", "generations", ["batch_id", "id"], sqlite_where=NAMED, postgresql_where=NAMED
    )
