"""A change that a search can see waits for those who hold its collection still.

    collections_held  after `epoch` rises, and after a delete: the exclusive half of an advisory
                      lock of which a process that answers searches from its memory has the shared
                      one, for some milliseconds. Whoever commits such a change therefore knows that
                      nobody answers from before it.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from aistack.migrations.statements import run

revision = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None

# The number is that of `aidb.search_memory`.
UP = """
CREATE FUNCTION aidb_wait_for_held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(10573741, OLD.id);
    RETURN NULL;
END $$;
CREATE TRIGGER collections_held AFTER UPDATE OF epoch ON collections FOR EACH ROW
    WHEN (OLD.epoch IS DISTINCT FROM NEW.epoch) EXECUTE FUNCTION aidb_wait_for_held();
CREATE TRIGGER collections_held_deleted AFTER DELETE ON collections FOR EACH ROW
    EXECUTE FUNCTION aidb_wait_for_held();
"""

DOWN = """
DROP TRIGGER collections_held_deleted ON collections;
DROP TRIGGER collections_held ON collections;
DROP FUNCTION aidb_wait_for_held();
"""


def upgrade() -> None:
    run(UP)


def downgrade() -> None:
    run(DOWN)
