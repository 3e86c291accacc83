"""Where results of searches are kept: beside the state of the collection that they were made from.

    search_results  one row per search that was answered: `wire` is the answer, `collection_id`,
                    `epoch` and `set_id` the state that it was read from. A row of another state is
                    as good as none, and the next result takes its place. Unlogged: a crash empties
                    it, which costs nothing but time, and no write of it waits for the disk. No
                    foreign key: it would lock the collection's row with every result.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from aistack.migrations.statements import run

revision = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None

UP = """
CREATE UNLOGGED TABLE search_results (
    key           bytea PRIMARY KEY,
    collection_id integer NOT NULL,
    epoch         bigint NOT NULL,
    set_id        integer,
    made_at       timestamptz NOT NULL DEFAULT now(),
    wire          bytea NOT NULL
);
CREATE INDEX search_results_collection ON search_results (collection_id);
-- Compressing an answer takes longer than the rest of keeping it.
ALTER TABLE search_results ALTER COLUMN wire SET STORAGE EXTERNAL;
"""

DOWN = """
DROP TABLE search_results;
"""


def upgrade() -> None:
    run(UP)


def downgrade() -> None:
    run(DOWN)
