"""How many requests a job was decoded with: what that costs is part of a model's pace."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("generations", sa.Column("together", sa.Float()))
