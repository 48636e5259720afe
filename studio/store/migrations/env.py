"""Alembic's entry: `Database.migrate` hands over its open transaction, and commits it."""

from alembic import context
from sqlmodel import SQLModel

import studio.store.tables  # noqa: F401  (fills the metadata)

context.configure(
    connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata, render_as_batch=True
)
context.run_migrations()
