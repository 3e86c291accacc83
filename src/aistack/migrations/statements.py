"""Runs SQL text as it is written, in the transaction of the migration."""

from __future__ import annotations

from alembic import op


def run(sql: str) -> None:
    """Execute `sql`, which may hold several statements, `%` and `:name`, as it stands."""
    # SQLAlchemy would read ":name" as a parameter and psycopg "%" as a placeholder; a bare cursor
    # of the driver without parameters does neither, and may carry several statements at once.
    connection = op.get_bind().connection
    cursor = connection.cursor()
    try:
        cursor.execute(sql)
    finally:
        cursor.close()
