"""A change that a search can see waits for those who hold its collection still.

    aidb_hold         the exclusive half of an advisory lock for each of these collections that
                      nobody is about to change, and their state, read under the lock. A process
                      that answers searches from its memory has it for some milliseconds.
    collections_held  after `epoch` rises, and after a delete: the shared half, so that changes do
                      not wait for each other. Whoever commits one therefore knows that nobody
                      answers from before it.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from aistack.migrations.statements import run

revision = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None

# Any constant of our own is one half of the lock's key, the collection modulo 64 the other: a
# change of all collections must not take a lock for each, a server has room for some thousand. Each
# statement of a volatile function has its own snapshot (of READ COMMITTED): what is read is not
# older than the lock.
UP = """
CREATE FUNCTION aidb_hold(ids integer[])
RETURNS TABLE (name text, id integer, epoch bigint, set_id integer, chunks bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held integer[];
BEGIN
    SELECT array_agg(one) INTO held FROM unnest(ids) AS one
     WHERE pg_try_advisory_xact_lock(10573741, one % 64);
    RETURN QUERY SELECT c.name, c.id, c.epoch, s.id, c.chunk_count::bigint
      FROM collections c LEFT JOIN embedding_sets s ON s.state = 'active' WHERE c.id = ANY (held);
END $$;

CREATE FUNCTION aidb_wait_for_held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(10573741, OLD.id % 64);
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
DROP FUNCTION aidb_hold(integer[]);
"""


def upgrade() -> None:
    run(UP)


def downgrade() -> None:
    run(DOWN)
