"""A derived index of the vectors (Qdrant), and the jobs that tell it of changes.

    index_state    one row per embedding set that an index outside PostgreSQL has: none where
                   vectors.engine is pgvector. state building|ready; `next_chunk`, `done` and
                   `total` are how far a build is, in chunks; `wanted` is what somebody asked for
                   (reconcile|rebuild) and nobody has done yet; `drift` is how many points the last
                   reconciliation found missing, outdated or left over.

While there is such a row, each statement that writes to the outbox defers one job (`aidb.index`) in
the same transaction, before the documents that wait. A line of the outbox is the truth, a job only
a wake-up.

Down leaves the outbox as it is; jobs of the kind that nobody can run any more go.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from aistack.migrations.statements import run

revision = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None

UP = """
CREATE TABLE index_state (
    set_id        integer PRIMARY KEY REFERENCES embedding_sets (id) ON DELETE CASCADE,
    state         text NOT NULL DEFAULT 'building' CHECK (state IN ('building', 'ready')),
    next_chunk    bigint NOT NULL DEFAULT 0,
    done          bigint NOT NULL DEFAULT 0 CHECK (done >= 0),
    total         bigint NOT NULL DEFAULT 0 CHECK (total >= 0),
    wanted        text CHECK (wanted IN ('reconcile', 'rebuild')),
    drift         bigint,
    points        bigint,
    error         text,
    started_at    timestamptz NOT NULL DEFAULT now(),
    claimed_at    timestamptz,
    built_at      timestamptz,
    reconciled_at timestamptz
);
CREATE INDEX outbox_open_collection ON outbox (collection_id, document_id) WHERE done_at IS NULL;

CREATE FUNCTION aidb_defer_index() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM index_state) THEN
        PERFORM procrastinate_defer_jobs_v1(ARRAY[
            ROW('aidb', 'aidb.index', 10, NULL, NULL, '{}'::jsonb, NULL)
        ]::procrastinate_job_to_defer_v1[]);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER outbox_told AFTER INSERT ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION aidb_defer_index();
"""

DOWN = """
DROP TRIGGER outbox_told ON outbox;
DROP FUNCTION aidb_defer_index();
DELETE FROM procrastinate_jobs WHERE task_name = 'aidb.index';
DROP INDEX outbox_open_collection;
DROP TABLE index_state;
"""


def upgrade() -> None:
    run(UP)


def downgrade() -> None:
    run(DOWN)
