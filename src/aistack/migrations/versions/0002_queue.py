"""The tables of the job queue library, procrastinate 3.10.0.

The library can create its own schema; here Alembic is the only owner of every table, so its SQL
text is kept beside this file (`sql/procrastinate-3.10.0.sql`, with its licence) and applied as a
migration. A later version of the library that changes its schema gets a migration made from its own
`sql/migrations`.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from pathlib import Path

from aistack.migrations.statements import run

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = Path(__file__).parent.parent / "sql" / "procrastinate-3.10.0.sql"

DOWN = """
DO $$
DECLARE
    routine text;
BEGIN
    -- It returns a row of the jobs table, so it goes before the table; the others are used by its
    -- triggers.
    DROP FUNCTION procrastinate_fetch_job_v2(character varying[], bigint);
    DROP TABLE procrastinate_events, procrastinate_periodic_defers, procrastinate_jobs,
               procrastinate_workers;
    FOR routine IN
        SELECT oid::regprocedure::text FROM pg_proc
         WHERE proname LIKE 'procrastinate\\_%' AND pronamespace = current_schema()::regnamespace
    LOOP
        EXECUTE 'DROP FUNCTION ' || routine;
    END LOOP;
    DROP TYPE procrastinate_job_to_defer_v1;
    DROP TYPE procrastinate_job_status;
    DROP TYPE procrastinate_job_event_type;
END $$;
"""


def upgrade() -> None:
    run(SCHEMA.read_text(encoding="utf-8"))


def downgrade() -> None:
    run(DOWN)
