"""What a job goes on from, and how much of that is kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("generations", sa.Column("continue_from", sa.String(40)))
    op.add_column("generations", sa.Column("continue_seconds", sa.Float()))
