"""Alembic's environment: runs the migrations on the connection that the runner hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

#: Any constant of our own: two migrations of one database wait for each other.
ADVISORY_LOCK = 0x_A15_7AC_0001

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=None, transaction_per_migration=False)
with context.begin_transaction():
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    context.run_migrations()
