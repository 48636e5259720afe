"""When a job was admitted to a slot: what it has taken since then tells how busy the machine is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("generations", sa.Column("admitted_at", sa.DateTime(timezone=True)))
