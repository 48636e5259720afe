"""Nobody looks for jobs by the number of their change alone: an index that each progress report had to keep."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.drop_index("ix_generations_version", "generations")
