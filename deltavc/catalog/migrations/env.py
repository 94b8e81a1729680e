"""Alembic's environment: the connection is the caller's, and so is the transaction."""

from __future__ import annotations

from alembic import context

from deltavc.catalog.models import Record

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Record.metadata,
)
with context.begin_transaction():
    context.run_migrations()
