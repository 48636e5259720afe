"""How long a job's model took to load: whoever comes first after a start waits as long again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

LOADED = "load_seconds IS NOT NULL"


def upgrade() -> None:
    op.add_column("generations", sa.Column("load_seconds", sa.Float()))
    op.create_index(
        "ix_generations_loaded", "generations", ["model", "id"],
        sqlite_where=sa.text(LOADED), postgresql_where=sa.text(LOADED),
    )  # fmt: skip
